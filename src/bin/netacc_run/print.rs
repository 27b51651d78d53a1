//! `--print-config`: the settings, as a configuration file that could be used in place of all their sources.

use std::io::Write;

use netacc::config::{Report, Request};

/// Prints each setting and where it comes from.
pub fn settings(request: &Request<'_>, report: &Report) {
    let mut text = String::from("[netacc]\n");
    for (key, value, origin) in report.settings() {
        let line = format!("{}={value}", key.name);
        text += &match origin {
            Some(origin) => format!("{line:<40} # {origin}\n"),
            None => format!("{line:<40} # default\n"),
        };
    }
    if report.config.leaves_alone(&request.program) {
        text += "# The lists of programs leave this one to kernel TCP.\n";
    }
    // Whoever reads it may have seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
