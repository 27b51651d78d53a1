//! What is wrong with a configuration, told so that a person can mend it.

use std::fmt;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A configuration file.
    File {
        /// Its path as it was given.
        path: String,
        /// The line, counted from 1; 0 for the file as a whole.
        line: u32,
    },
    /// The environment variable of that name.
    Environment(&'static str),
    /// A command-line option, as it was spelled.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line: 0 } => f.write_str(path),
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Flag(spelling) => write!(f, "option {spelling}"),
        }
    }
}

/// How grave a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gravity {
    /// Whoever wrote it means something else than what would happen: the tools start nothing.
    Mistake,
    /// A setting that is another product's, and can be passed over.
    Foreign,
}

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How grave it is.
    pub gravity: Gravity,
    /// Where it is.
    pub origin: Origin,
    /// What is wrong, in a sentence.
    pub sentence: String,
    /// What to do about it, in a sentence.
    pub remedy: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.origin, self.sentence, self.remedy)
    }
}
