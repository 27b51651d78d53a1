//! Writes the example file and the manual's list of keys from the table of keys.

use super::Config;
use super::keys::{KEYS, Key, Kind, Takes, Unit};
use super::value::{show_number, written};

/// How settings of one program are written.
const SECTION: &str = "
# Settings of one program, by the name of its process or the base name by which it is started; a * at the
# end of a name stands for anything. They override those above in that program.
#[program.redis-server]
#NACC_SOR_IO_THREADS=2
";

/// The text of `netacc.conf.example`: every key with its meaning and, commented out, its default.
pub fn example() -> String {
    let mut text = String::from(
        "\
# NetACC's configuration. Copy it to /etc/netacc.conf, or name it with netacc_run -f or NACC_CONF.
#
# A line is KEY=VALUE (TOML). Every value below is the default: remove the # before a line to change it.
# A size may carry a unit when it stands in quotes: \"16K\", \"8M\", \"1G\" (multiples of 1024).
# A list stands in quotes with commas, or in brackets: \"10.0.0.0/8, :6379\", [\"10.0.0.0/8\", \":6379\"].
# Environment variables of the same names override this file; netacc_run's options override both.

[netacc]
",
    );
    for key in KEYS {
        text.push('\n');
        for line in wrap(key.doc, 98).into_iter().chain(wrap(&range(key), 98)) {
            text += &format!("# {line}\n");
        }
        text += &format!("#{}={}\n", key.name, written(&Config::default(), key));
    }
    text += SECTION;
    text
}

/// The list of keys of `netacc.conf(5)`, as roff.
pub fn manual() -> String {
    let mut text = String::new();
    for key in KEYS {
        text += &format!(".TP\n.B {}\n", key.name);
        let words = format!("{} {}", key.doc, range(key));
        for line in wrap(&words, 98) {
            text += &roff(&line);
        }
    }
    text
}

/// The options of `netacc_run(1)` that set keys, as roff.
pub fn options() -> String {
    let mut text = String::new();
    for (key, option) in KEYS
        .iter()
        .filter_map(|key| Some((key, key.option.as_ref()?)))
    {
        text += &match option.takes.value_name() {
            Some(name) => format!(".TP\n.BI \\-{} \" {name}\"\n", option.letter),
            None => format!(".TP\n.B \\-{}\n", option.letter),
        };
        let sets = match option.takes {
            Takes::Value(_) => format!("sets {}", key.name),
            Takes::Milliseconds(..) => format!("sets {} to a thousand times that", key.name),
            Takes::Nothing(value) => format!("sets {} to {value}", key.name),
        };
        for line in wrap(&format!("{}; {sets}.", option.help), 98) {
            text += &roff(&line);
        }
    }
    text
}

/// A line of text as roff.
fn roff(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    // A line that starts with a dot or a quote would be a request.
    match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}\n"),
        false => format!("{line}\n"),
    }
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
        Kind::Switch { default, .. } => {
            let words = |on| if on { "1 (on)" } else { "0 (off)" };
            format!(
                "Takes {} or {}; default {}.",
                words(true),
                words(false),
                u8::from(default)
            )
        }
        Kind::Text {
            default: "",
            allowed,
            ..
        }
        | Kind::List {
            default: "",
            allowed,
            ..
        } => format!("Takes {allowed}; default empty."),
        Kind::Text {
            default, allowed, ..
        }
        | Kind::List {
            default, allowed, ..
        } => format!("Takes {allowed}; default {default}."),
    };
    match &key.option {
        Some(option) => {
            let unit = match option.takes {
                Takes::Milliseconds(..) => ", which takes milliseconds",
                Takes::Value(_) | Takes::Nothing(_) => "",
            };
            format!("{values} Option -{} of netacc_run{unit}.", option.letter)
        }
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
