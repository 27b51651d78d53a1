//! Writes the example file and the manual's list of keys from the table of keys.

use super::keys::{KEYS, Key, Kind, Unit};
use super::value::show_number;

/// The text of `netacc.conf.example`: every key with its meaning and, commented out, its default.
pub fn example() -> String {
    let mut text = String::from(
        "\
# NetACC's configuration. Copy it to /etc/netacc.conf, or name it with netacc_run -f or NACC_CONF.
#
# A line is KEY=VALUE (TOML). Every value below is the default: remove the # before a line to change it.
# A size may carry a unit when it stands in quotes: \"16K\", \"8M\", \"1G\" (multiples of 1024).
# Environment variables of the same names override this file; netacc_run's options override both.

[netacc]
",
    );
    for key in KEYS {
        text.push('\n');
        for line in wrap(key.doc, 98).into_iter().chain(wrap(&range(key), 98)) {
            text += &format!("# {line}\n");
        }
        text += &match key.kind {
            Kind::Number { default, .. } => format!("#{}={default}\n", key.name),
            Kind::Text { default, .. } => format!("#{}=\"{default}\"\n", key.name),
        };
    }
    text
}

/// The list of keys of `netacc.conf(5)`, as roff.
pub fn manual() -> String {
    let mut text = String::new();
    for key in KEYS {
        text += &format!(".TP\n.B {}\n", key.name);
        let words = format!("{} {}", key.doc, range(key));
        for line in wrap(&words, 98) {
            // A line that starts with a dot or a quote would be a request.
            let line = line.replace('\\', "\\e").replace('-', "\\-");
            text += &if line.starts_with(['.', '\'']) {
                format!("\\&{line}\n")
            } else {
                format!("{line}\n")
            };
        }
    }
    text
}

/// The range and the default of a key, and the option that sets it, in words.
fn range(key: &Key) -> String {
    let values = match key.kind {
        Kind::Number {
            unit,
            default,
            min,
            max,
            ..
        } => {
            let words = match unit {
                Unit::Count => "A number".to_owned(),
                unit => {
                    let words = unit.words();
                    format!("{}{}", words[..1].to_uppercase(), &words[1..])
                }
            };
            let show = |v| show_number(v, unit);
            format!(
                "{words}, from {} to {}; default {}.",
                show(min),
                show(max),
                show(default)
            )
        }
        Kind::Text {
            default: "",
            allowed,
            ..
        } => format!("Takes {allowed}; default empty."),
        Kind::Text {
            default, allowed, ..
        } => format!("Takes {allowed}; default {default}."),
    };
    match key.flag {
        Some(letter) => format!("{values} Option -{letter} of netacc_run."),
        None => values,
    }
}

/// Breaks `text` at spaces into lines of at most `width` bytes where its words allow it.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if lines[last].is_empty() {
            lines[last].push_str(word);
        } else if lines[last].len() + 1 + word.len() <= width {
            lines[last] += &format!(" {word}");
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
