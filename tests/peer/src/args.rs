//! `--name value` and `--flag` arguments.

use std::collections::HashMap;
use std::net::SocketAddr;

/// The arguments after the role's name.
pub struct Args(HashMap<String, String>);

impl Args {
    /// Reads `--name value` pairs; a name followed by another name (or nothing) is a flag.
    pub fn parse(words: impl Iterator<Item = String>) -> Args {
        let mut map = HashMap::new();
        let mut words = words.peekable();
        while let Some(word) = words.next() {
            let name = word
                .strip_prefix("--")
                .unwrap_or_else(|| panic!("'{word}': arguments start with --"));
            let value = words
                .next_if(|next| !next.starts_with("--"))
                .unwrap_or_default();
            map.insert(name.to_string(), value);
        }
        Args(map)
    }

    /// Is `--name` there?
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The value of `--name`, if given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The number given as `--name`, or `default`.
    pub fn number(&self, name: &str, default: u64) -> u64 {
        match self.0.get(name) {
            Some(text) => text
                .parse()
                .unwrap_or_else(|_| panic!("--{name} {text}: not a number")),
            None => default,
        }
    }

    /// The address given as `--name`.
    pub fn addr(&self, name: &str) -> SocketAddr {
        let text = self
            .0
            .get(name)
            .unwrap_or_else(|| panic!("--{name} ADDRESS:PORT is missing"));
        text.parse()
            .unwrap_or_else(|_| panic!("--{name} {text}: not an address with a port"))
    }
}
