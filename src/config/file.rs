//! The configuration file: TOML, read line by line.
//!
//! Every setting is one line, so each line is parsed as a TOML document of its own: a mistake costs
//! its own line only, and every problem has a line number. What TOML can spread over lines
//! (`"""` strings, long arrays) no key needs.

use toml::de::{DeTable, DeValue};

use super::keys::{self, Key};
use super::value::{self, Raw, Refusal};
use super::{Config, words};

/// The section of settings for all programs; they may stand before any section as well.
const SECTION: &str = "netacc";
/// The sections of settings for one program begin with this: `[program.NAME]`.
const PROGRAM: &str = "program";

/// What a line of the file turned out to be.
pub(super) enum Finding<'a> {
    /// A value for a key.
    Setting(Setting<'a>),
    /// A mistake.
    Problem(Refusal),
    /// A key that files of the original may have, and that is none of ours.
    Foreign(Refusal),
}

/// A value for a key.
pub(super) struct Setting<'a> {
    /// The program that it is for; `None`: all.
    pub(super) program: Option<&'a str>,
    /// The key's place in the table.
    pub(super) index: usize,
    /// The key.
    pub(super) key: &'static Key,
    /// Its value.
    pub(super) raw: &'a Raw<'a>,
}

/// Where in a file a line stands.
enum Place {
    All,
    Program(String),
    /// In a section that is not known, of which there is nothing more to tell.
    Foreign,
}

type Found<'f> = &'f mut dyn FnMut(u32, Finding<'_>);

/// Parses the bytes of a file and hands each finding with its line number to `found`.
pub(super) fn parse(bytes: &[u8], found: Found<'_>) {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut place = Place::All;
    for (number, line) in (1u32..).zip(bytes.split(|&byte| byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Ok(line) = std::str::from_utf8(line) else {
            let sentence = "this line is not UTF-8 text.".to_owned();
            let remedy = "Save the file as UTF-8, or remove the line.".to_owned();
            found(number, Finding::Problem((sentence, remedy)));
            continue;
        };
        let table = match DeTable::parse(line) {
            Ok(table) => table.into_inner(),
            Err(_) if matches!(place, Place::Foreign) && !is_header(line) => continue,
            Err(error) => {
                if is_header(line) {
                    place = Place::Foreign;
                }
                let name = line.split('=').next().unwrap_or_default().trim();
                found(
                    number,
                    match foreign_key(name) {
                        Some(refusal) => Finding::Foreign(refusal),
                        None => Finding::Problem(syntax_problem(line, error.message())),
                    },
                );
                continue;
            }
        };
        if is_header(line) {
            place = section(&table).unwrap_or_else(|remedy| {
                let sentence = format!(
                    "the section {} is not known, and what is in it is ignored.",
                    line.trim()
                );
                found(number, Finding::Problem((sentence, remedy)));
                Place::Foreign
            });
            continue;
        }
        match &place {
            Place::All => settings(&table, None, found, number),
            Place::Program(name) => settings(&table, Some(name), found, number),
            Place::Foreign => {}
        }
    }
}

fn is_header(line: &str) -> bool {
    line.trim_start().starts_with('[')
}

/// The section that a header begins, or what to write instead.
fn section(table: &DeTable<'_>) -> Result<Place, String> {
    let Some((name, value)) = table.iter().next() else {
        return Err(sections());
    };
    let name: &str = name.get_ref();
    let DeValue::Table(inner) = value.get_ref() else {
        return Err(sections());
    };
    match name {
        SECTION if inner.is_empty() => Ok(Place::All),
        PROGRAM => program(inner),
        name => Err(match keys::nearest_of(&[SECTION, PROGRAM], name) {
            Some(SECTION) => format!("Did you mean [{SECTION}]?"),
            Some(_) => format!("Did you mean [{PROGRAM}.NAME]?"),
            None => sections(),
        }),
    }
}

/// The program whose section is begun by these names, of which there may be one.
fn program(names: &DeTable<'_>) -> Result<Place, String> {
    let Some((name, value)) = names.iter().next() else {
        return Err(format!(
            "Name a program: [{PROGRAM}.NAME], such as [{PROGRAM}.redis-server]."
        ));
    };
    let mut whole = name.get_ref().to_string();
    let mut rest = value.get_ref();
    let mut is_one = true;
    while let DeValue::Table(inner) = rest {
        let Some((name, value)) = inner.iter().next() else {
            break;
        };
        is_one = false;
        whole = format!("{whole}.{}", name.get_ref());
        rest = value.get_ref();
    }
    match is_one && matches!(rest, DeValue::Table(_)) {
        true => match words::programs(&[&whole]) {
            Ok(_) => Ok(Place::Program(whole)),
            Err(_) => Err(format!(
                "Name the program without its folder, such as [{PROGRAM}.redis-server]."
            )),
        },
        // TOML takes a dot for the beginning of a section within the section.
        false => Err(format!("Write [{PROGRAM}.{}].", value::quoted(&whole))),
    }
}

/// The sections that there are.
fn sections() -> String {
    format!("Use [{SECTION}], [{PROGRAM}.NAME], or no section at all.")
}

/// Hands on the settings of one line: usually one, more in an inline table.
fn settings(table: &DeTable<'_>, program: Option<&str>, found: Found<'_>, number: u32) {
    for (name, value) in table.iter() {
        let name: &str = name.get_ref();
        if name == SECTION
            && program.is_none()
            && let DeValue::Table(section) = value.get_ref()
        {
            // `netacc.NACC_LOG="info"`: TOML's other way to write a section.
            settings(section, None, found, number);
            continue;
        }
        if name == PROGRAM {
            let sentence = "the settings of one program stand in a section.".to_owned();
            let remedy = format!("Begin it with [{PROGRAM}.NAME] on a line of its own.");
            found(number, Finding::Problem((sentence, remedy)));
            continue;
        }
        let Some((index, key)) = keys::find(name) else {
            found(
                number,
                match foreign_key(name) {
                    Some(refusal) => Finding::Foreign(refusal),
                    None => Finding::Problem(unknown_key(name)),
                },
            );
            continue;
        };
        let raw = match value.get_ref() {
            DeValue::String(text) => Raw::Text(text),
            DeValue::Integer(integer) => {
                Raw::Integer(integer_value(integer.as_str(), integer.radix()))
            }
            DeValue::Boolean(on) => Raw::Boolean(*on),
            DeValue::Array(items) => {
                let texts = items.iter().map(|item| item.get_ref().as_str());
                match texts.collect() {
                    Some(texts) => Raw::List(texts),
                    None => Raw::Other("a list of other things than strings"),
                }
            }
            DeValue::Float(_) => Raw::Other("a number with a fraction or an exponent"),
            DeValue::Datetime(_) => Raw::Other("a date or time"),
            DeValue::Table(_) => Raw::Other("a table"),
        };
        let setting = Setting {
            program,
            index,
            key,
            raw: &raw,
        };
        found(number, Finding::Setting(setting));
    }
}

/// What to say of a name that is no key of ours, but begins as those of Alibaba Cloud's NetACC do: files that were written
/// for it serve here, too. A few letters off one of ours, it is a mistake.
fn foreign_key(name: &str) -> Option<Refusal> {
    /// The original has such a time as well, by another name and in another unit.
    const IDLE: &str = "NACC_SOR_QP_IDLE_S";
    let is_theirs = ["NACC_SOR_", "NACC_RDMA_"]
        .iter()
        .any(|start| name.starts_with(start));
    if !is_theirs || keys::find(name).is_some() {
        return None;
    }
    let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match keys::nearest(name) {
        None | Some(IDLE) if word => Some((
            format!("{name} is not a key that this NetACC knows, and is left out."),
            format!(
                "Remove the line. If it says how long an empty queue pair is kept, in milliseconds: here that is {IDLE}, \
                 in seconds."
            ),
        )),
        _ => None,
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
    if is_header(line) {
        return (not_understood, sections());
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
