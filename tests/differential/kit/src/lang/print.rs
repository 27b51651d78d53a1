//! Writes scenarios as they are read.

use super::{Action, Arg, Call, Scenario, Step};
use std::fmt;

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Arg::Int(n) => write!(f, "{n}"),
            Arg::Word(word) => f.write_str(word),
            Arg::Text(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                let text = text.replace('\\', "\\\\").replace('"', "\\\"");
                let text = text.replace('\n', "\\n").replace('\0', "\\0");
                write!(f, "\"{text}\"")
            }
            Arg::List(all) => write!(f, "{{{}}}", join(all)),
            Arg::Entry(name, value) => write!(f, "{name}: {value}"),
            Arg::Call(name, args) => write!(f, "{name}({})", join(args)),
        }
    }
}

fn join(args: &[Arg]) -> String {
    let all: Vec<String> = args.iter().map(Arg::to_string).collect();
    all.join(", ")
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let ("until", [name, events]) = (self.verb.as_str(), self.args.as_slice()) {
            return write!(f, "until {events} {name}");
        }
        if !self.binds.is_empty() {
            write!(f, "{} = ", self.binds.join(", "))?;
        }
        let loose = if self.loose { "loose " } else { "" };
        write!(f, "{loose}{}({})", self.verb, join(&self.args))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: ", self.actor)?;
        match &self.action {
            Action::Call(call) => write!(f, "{call}"),
            Action::Start(call) => write!(f, "start {call}"),
            Action::Join => f.write_str("join"),
            Action::Pending => f.write_str("pending"),
            Action::Settle(0) => f.write_str("settle"),
            Action::Settle(ms) => write!(f, "settle {ms}"),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "## {}", self.name)?;
        for line in &self.header {
            writeln!(f, "{line}")?;
        }
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        Ok(())
    }
}
