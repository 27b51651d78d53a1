//! The configuration file: TOML, read line by line.
//!
//! Every setting is one line, so each line is parsed as a TOML document of its own: a mistake costs
//! its own line only, and every problem has a line number. What TOML can spread over lines
//! (`"""` strings, arrays) no key needs.

use toml::de::{DeTable, DeValue};

use super::Config;
use super::keys::{self, Key};
use super::value::{self, Raw, Refusal};

/// The one section a file may have; a key may stand in it or before any section.
const SECTION: &str = "netacc";

/// What a line of the file turned out to be.
pub(super) enum Finding<'a> {
    /// A value for a key, with the key's place in the table.
    Setting(usize, &'static Key, &'a Raw<'a>),
    /// A mistake.
    Problem(Refusal),
}

/// Parses the bytes of a file and hands each finding with its line number to `found`.
pub(super) fn parse(bytes: &[u8], found: &mut dyn FnMut(u32, Finding<'_>)) {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut in_foreign_section = false;
    for (number, line) in (1u32..).zip(bytes.split(|&byte| byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let problem = |sentence: &str, remedy: &str| {
            Finding::Problem((sentence.to_owned(), remedy.to_owned()))
        };
        let Ok(line) = std::str::from_utf8(line) else {
            let sentence = "this line is not UTF-8 text.";
            found(
                number,
                problem(sentence, "Save the file as UTF-8, or remove the line."),
            );
            continue;
        };
        let table = match DeTable::parse(line) {
            Ok(table) => table.into_inner(),
            Err(_) if in_foreign_section => continue,
            Err(error) => {
                found(
                    number,
                    Finding::Problem(syntax_problem(line, error.message())),
                );
                continue;
            }
        };
        if line.trim_start().starts_with('[') {
            let ours = matches!(
                table.get(SECTION).map(|section| section.get_ref()),
                Some(DeValue::Table(section)) if section.is_empty()
            );
            in_foreign_section = !ours;
            if !ours {
                let sentence = format!(
                    "the section {} is not known, and what is in it is ignored.",
                    line.trim()
                );
                found(
                    number,
                    problem(&sentence, "Use [netacc], or no section at all."),
                );
            }
        } else if !in_foreign_section {
            parse_table(&table, found, number);
        }
    }
}

/// Hands on the settings of one line: usually one, more in an inline table.
fn parse_table(table: &DeTable<'_>, found: &mut dyn FnMut(u32, Finding<'_>), number: u32) {
    for (name, value) in table.iter() {
        let name: &str = name.get_ref();
        if name == SECTION
            && let DeValue::Table(section) = value.get_ref()
        {
            // `netacc.NACC_LOG="info"`: TOML's other way to write a section.
            parse_table(section, found, number);
            continue;
        }
        let Some((index, key)) = keys::find(name) else {
            found(number, Finding::Problem(unknown_key(name)));
            continue;
        };
        let raw = match value.get_ref() {
            DeValue::String(text) => Raw::Text(text),
            DeValue::Integer(integer) => {
                Raw::Integer(integer_value(integer.as_str(), integer.radix()))
            }
            DeValue::Float(_) => Raw::Other("a number with a fraction or an exponent"),
            DeValue::Boolean(_) => Raw::Other("a boolean"),
            DeValue::Datetime(_) => Raw::Other("a date or time"),
            DeValue::Array(_) => Raw::Other("a list"),
            DeValue::Table(_) => Raw::Other("a table"),
        };
        found(number, Finding::Setting(index, key, &raw));
    }
}

/// What to say of a name that is no key.
pub(super) fn unknown_key(name: &str) -> Refusal {
    let remedy = match keys::nearest(name) {
        Some(known) => format!("Did you mean {known}?"),
        None => "Remove the line; netacc.conf(5) lists every key.".to_owned(),
    };
    (format!("{name} is not a key that NetACC knows."), remedy)
}

fn integer_value(text: &str, radix: u32) -> i128 {
    let digits = text.trim_start_matches(['+', '-']);
    // The TOML parser has checked the digits; whatever it might let pass is out of every range.
    let value = value::parse_digits(digits, radix).unwrap_or(i128::from(i64::MAX));
    if text.starts_with('-') { -value } else { value }
}

/// Guesses what the writer of a line meant that TOML does not understand. TOML's own words serve
/// where there is no guess.
fn syntax_problem(line: &str, toml_says: &str) -> Refusal {
    let line = line.trim();
    let not_understood = format!("this line is not understood: {toml_says}.");
    let shape = || "Write KEY=VALUE, one on a line, and # before a comment.".to_owned();
    if line.starts_with([';', '!']) || line.starts_with("//") {
        return (
            "this line is no comment and no setting.".to_owned(),
            "Start a comment with #.".to_owned(),
        );
    }
    if let Some(rest) = line
        .strip_prefix("export ")
        .or_else(|| line.strip_prefix("set "))
    {
        let sentence = "this line is a shell command, not a setting.".to_owned();
        return (sentence, format!("Write {}.", rest.trim()));
    }
    let Some((name, text)) = line.split_once('=') else {
        return (
            "this line has no \"=\", so it is no setting.".to_owned(),
            shape(),
        );
    };
    let name = name.trim();
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return (not_understood, shape());
    }
    let Some((_, key)) = keys::find(name) else {
        return unknown_key(name);
    };
    if text.trim_start().starts_with(['"', '\'']) {
        let remedy =
            format!("Write {name}=\"value\" on one line, with nothing but a # comment behind it.");
        return (not_understood, remedy);
    }
    let text = text.split(['#', ';']).next().unwrap_or(text).trim();
    if text.is_empty() {
        let sentence = format!("{name} has no value.");
        return (
            sentence,
            "Give one, or put # before the line for the default.".to_owned(),
        );
    }
    if text.len() > 1 && text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()) {
        let digits = match text.trim_start_matches('0') {
            "" => "0",
            digits => digits,
        };
        let sentence = format!("{name} is {text}, and a number has no leading zeros.");
        return (sentence, format!("Write {name}={digits}."));
    }
    // Where the same text would do in quotes, that is what is missing.
    match value::store(&mut Config::default(), key, &Raw::Text(text)) {
        Ok(()) if !text.contains(['"', '\\']) => (
            format!("{name} is {text} without quotes, but only plain numbers go without."),
            format!("Write {name}=\"{text}\"."),
        ),
        Ok(()) => (not_understood, shape()),
        Err(refusal) => refusal,
    }
}
