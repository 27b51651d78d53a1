//! Values: from what was written to a checked value in [`Config`].

use super::Config;
use super::keys::{Key, Kind, Unit};

/// A value as it was written, before it is known whether its key takes such a one.
#[derive(Debug)]
pub(super) enum Raw<'a> {
    /// A quoted string of the file, or a value of the environment or a flag.
    Text(&'a str),
    /// A whole number of the file.
    Integer(i128),
    /// `true` or `false` of the file.
    Boolean(bool),
    /// A list of strings of the file.
    List(Vec<&'a str>),
    /// Something else of the file, with its name ("a floating-point number").
    Other(&'static str),
}

impl Raw<'_> {
    /// What sort of value it is, in words.
    fn what(&self) -> &'static str {
        match self {
            Raw::Text(_) => "a string",
            Raw::Integer(_) => "a number",
            Raw::Boolean(_) => "a boolean",
            Raw::List(_) => "a list",
            Raw::Other(what) => what,
        }
    }
}

/// Why a value was refused: a sentence on what is wrong, and one on what to do.
pub(super) type Refusal = (String, String);

/// Stores `raw` as the value of `key`, or says why it can't be.
pub(super) fn store(config: &mut Config, key: &Key, raw: &Raw) -> Result<(), Refusal> {
    let refuse = |what: String| Err((format!("{} {what}.", key.name), remedy(key)));
    match key.kind {
        Kind::Number {
            unit,
            min,
            max,
            set,
            ..
        } => {
            let value = match raw {
                Raw::Integer(value) => *value,
                Raw::Text(text) => match parse_number(text, unit) {
                    Some(value) => value,
                    None => return refuse(format!("is \"{text}\", which is no whole number")),
                },
                raw => return refuse(format!("is {}, not a whole number", raw.what())),
            };
            if value < i128::from(min) {
                return refuse(format!("is {value}, below the smallest allowed value"));
            }
            if value > i128::from(max) {
                return refuse(format!("is {value}, above the largest allowed value"));
            }
            let value = value as u64;
            if unit == Unit::PowerOfTwoBytes && !value.is_power_of_two() {
                return refuse(format!("is {value}, which is not a power of two"));
            }
            set(config, value);
            Ok(())
        }
        Kind::Switch { set, .. } => {
            let on = match raw {
                Raw::Boolean(on) => Some(*on),
                Raw::Integer(number) => switch(&number.to_string()),
                Raw::Text(text) => switch(text.trim()),
                raw => return refuse(format!("is {}, not 1 or 0", raw.what())),
            };
            match on {
                Some(on) => set(config, on),
                None => return refuse("is neither on nor off".to_owned()),
            }
            Ok(())
        }
        Kind::Text { set, .. } => match raw {
            Raw::Text(text) => set(config, text).or_else(refuse),
            // Of some keys a number is a value like others.
            Raw::Integer(number) => set(config, &number.to_string())
                .or_else(|_| refuse("is a number, not a string".to_owned())),
            raw => refuse(format!("is {}, not a string", raw.what())),
        },
        Kind::List { set, .. } => match raw {
            Raw::Text(text) => set(config, &items(text).collect::<Vec<_>>()).or_else(refuse),
            Raw::List(items) => {
                let items: Vec<&str> = items.iter().map(|item| item.trim()).collect();
                set(config, &items).or_else(refuse)
            }
            raw => refuse(format!(
                "is {}, not a string or a list of strings",
                raw.what()
            )),
        },
    }
}

/// The items of a list that is written with commas; none if it is empty.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    let is_empty = text.trim().is_empty();
    text.split(',').map(str::trim).filter(move |_| !is_empty)
}

/// What a word says of a switch.
fn switch(word: &str) -> Option<bool> {
    match word {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

/// Sets `key` to its default.
pub(super) fn store_default(config: &mut Config, key: &Key) {
    match key.kind {
        Kind::Number { default, set, .. } => set(config, default),
        // A default that its own check refuses leaves the field empty; a test keeps that from happening.
        Kind::Text { default, set, .. } => drop(set(config, default)),
        Kind::List { default, set, .. } => {
            drop(set(config, &items(default).collect::<Vec<_>>()));
        }
        Kind::Switch { default, set, .. } => set(config, default),
    }
}

/// The value of `key` as the environment has it.
pub(super) fn shown(config: &Config, key: &Key) -> String {
    match key.kind {
        Kind::Number { get, .. } => get(config).to_string(),
        Kind::Switch { get, .. } => u8::from(get(config)).to_string(),
        Kind::Text { get, .. } | Kind::List { get, .. } => get(config),
    }
}

/// The value of `key` as a line of the file has it.
pub(super) fn written(config: &Config, key: &Key) -> String {
    let value = shown(config, key);
    match key.kind {
        Kind::Number { .. } | Kind::Switch { .. } => value,
        Kind::Text { .. } | Kind::List { .. } => quoted(&value),
    }
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            c if c.is_control() => quoted += &format!("\\u{:04X}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// What to write instead, for a value that `key` refused.
pub(super) fn remedy(key: &Key) -> String {
    match key.kind {
        Kind::Number {
            unit,
            default,
            min,
            max,
            ..
        } => {
            let show = |v| show_number(v, unit);
            let words = match unit.words() {
                "" => String::new(),
                words => format!(" ({words})"),
            };
            let (min, max, default) = (show(min), show(max), show(default));
            format!("Give a number from {min} to {max}{words}; the default is {default}.")
        }
        Kind::Switch { default, .. } => {
            format!(
                "Give 1 for on or 0 for off; the default is {}.",
                u8::from(default)
            )
        }
        Kind::Text {
            allowed, default, ..
        }
        | Kind::List {
            allowed, default, ..
        } => {
            format!("Give {allowed}, in double quotes in the file; the default is \"{default}\".")
        }
    }
}

/// `value` as a person would write it: bytes with K, M or G where that is exact.
pub(super) fn show_number(value: u64, unit: Unit) -> String {
    if unit.is_bytes() && value != 0 {
        for (shift, letter) in [(30, 'G'), (20, 'M'), (10, 'K')] {
            if value.trailing_zeros() >= shift {
                return format!("{}{letter}", value >> shift);
            }
        }
    }
    value.to_string()
}

/// Reads a number as TOML writes it (decimal or 0x, 0o, 0b; single underscores between digits), and for bytes also
/// with K, M or G behind it (multiples of 1024, either case).
fn parse_number(text: &str, unit: Unit) -> Option<i128> {
    let text = text.trim();
    let (text, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') if unit.is_bytes() => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') if unit.is_bytes() => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') if unit.is_bytes() => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let text = text.trim_end();
    let value = match text.get(..2) {
        Some("0x") => parse_digits(&text[2..], 16),
        Some("0o") => parse_digits(&text[2..], 8),
        Some("0b") => parse_digits(&text[2..], 2),
        _ => match text.strip_prefix('-') {
            Some(digits) => parse_digits(digits, 10).map(|v| -v),
            None => parse_digits(text.strip_prefix('+').unwrap_or(text), 10),
        },
    }?;
    Some(value << shift)
}

/// Digits with single underscores between them. A number that does not fit is as good as the
/// largest one that does: both are out of every range.
pub(super) fn parse_digits(text: &str, radix: u32) -> Option<i128> {
    const LARGEST: i128 = i64::MAX as i128;
    let mut value: i128 = 0;
    let mut after_digit = false;
    for byte in text.bytes() {
        if byte == b'_' && after_digit {
            after_digit = false;
            continue;
        }
        let digit = char::from(byte).to_digit(radix)?;
        value = (value * i128::from(radix) + i128::from(digit)).min(LARGEST);
        after_digit = true;
    }
    after_digit.then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        let bytes = |text| parse_number(text, Unit::Bytes);
        assert_eq!(bytes("16384"), Some(16384));
        assert_eq!(bytes("16K"), Some(16384));
        assert_eq!(bytes(" 8 m "), Some(8 << 20));
        assert_eq!(bytes("1G"), Some(1 << 30));
        assert_eq!(bytes("0x40_00"), Some(0x4000));
        assert_eq!(bytes("16_384"), Some(16384));
        assert_eq!(bytes("-1"), Some(-1));
        assert_eq!(
            bytes("99999999999999999999999999999999999999999G"),
            Some(i128::from(i64::MAX) << 30)
        );
        for bad in [
            "", "K", "16KB", "1.5M", "_1", "1_", "1__0", "0x", "--1", "é", "16 384",
        ] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
        assert_eq!(parse_number("16K", Unit::Count), None);
    }

    #[test]
    fn an_empty_list_has_no_items() {
        let all = |text| items(text).collect::<Vec<_>>();
        assert_eq!(all("a, b ,c"), ["a", "b", "c"]);
        assert_eq!(all(" "), [""; 0]);
        assert_eq!(all("a,,b"), ["a", "", "b"]);
    }

    #[test]
    fn what_is_written_is_toml() {
        assert_eq!(quoted("/var/log/a b"), "\"/var/log/a b\"");
        assert_eq!(quoted("a\"b\\c\td"), "\"a\\\"b\\\\c\\u0009d\"");
    }

    #[test]
    fn numbers_are_shown_in_the_largest_exact_unit() {
        assert_eq!(show_number(16384, Unit::Bytes), "16K");
        assert_eq!(show_number(8 << 20, Unit::Bytes), "8M");
        assert_eq!(show_number(1 << 30, Unit::Bytes), "1G");
        assert_eq!(show_number(1025, Unit::Bytes), "1025");
        assert_eq!(show_number(1024, Unit::Count), "1024");
    }
}
