//! What a configuration key is, and how one is found by its name.
//!
//! Parsing, range checks, the options of `netacc_run`, `--print-config`, `netacc.conf.example` and the manual
//! pages all come from the one table [`KEYS`]: a new key is one entry there and one field in [`Config`].

use super::Config;
pub use super::table::KEYS;

/// One configuration key.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file and in the environment.
    pub name: &'static str,
    /// What it means, in whole sentences.
    pub doc: &'static str,
    /// The `netacc_run` option that sets it.
    pub option: Option<Choice>,
    /// What values it takes, and where they go.
    pub kind: Kind,
}

/// An option of `netacc_run` that sets a key.
#[derive(Debug)]
pub struct Choice {
    /// Its letter.
    pub letter: char,
    /// What stands behind it.
    pub takes: Takes,
    /// What it means, in a few words.
    pub help: &'static str,
}

/// What stands behind an option.
#[derive(Debug, Clone, Copy)]
pub enum Takes {
    /// The key's value, called so in a summary.
    Value(&'static str),
    /// Milliseconds, perhaps with a fraction and so many at most, for a key that has microseconds.
    Milliseconds(&'static str, u32),
    /// Nothing: the key gets this value.
    Nothing(&'static str),
}

impl Takes {
    /// How its value is called in a summary, if it takes one.
    pub fn value_name(&self) -> Option<&'static str> {
        match *self {
            Takes::Value(name) | Takes::Milliseconds(name, _) => Some(name),
            Takes::Nothing(_) => None,
        }
    }

    /// The key's value for what was `given` behind the option.
    ///
    /// # Errors
    /// What is wrong with it; continues a sentence that starts with the option.
    pub fn value(&self, given: &str) -> Result<String, String> {
        match *self {
            Takes::Value(_) => Ok(given.to_owned()),
            Takes::Nothing(value) => Ok(value.to_owned()),
            Takes::Milliseconds(_, most) => match given.trim().parse::<f64>() {
                Ok(time) if (0.0..=f64::from(most)).contains(&time) => {
                    Ok(format!("{:.0}", time * 1000.0))
                }
                _ => Err(format!(
                    "takes 0 to {most} milliseconds, and \"{given}\" is not that"
                )),
            },
        }
    }
}

/// What values a key takes.
#[derive(Debug)]
pub enum Kind {
    /// A whole number.
    Number {
        /// What is counted.
        unit: Unit,
        /// The value of a key that nobody sets.
        default: u64,
        /// The smallest allowed value.
        min: u64,
        /// The largest allowed value.
        max: u64,
        /// Stores a checked value.
        set: fn(&mut Config, u64),
        /// What is stored.
        get: fn(&Config) -> u64,
    },
    /// On or off.
    Switch {
        /// The value of a key that nobody sets.
        default: bool,
        /// Stores a value.
        set: fn(&mut Config, bool),
        /// What is stored.
        get: fn(&Config) -> bool,
    },
    /// A string.
    Text {
        /// The value of a key that nobody sets.
        default: &'static str,
        /// The allowed values, in words.
        allowed: &'static str,
        /// Checks and stores a value; the error continues a sentence that starts with the key's name.
        set: fn(&mut Config, &str) -> Result<(), String>,
        /// What is stored, in the same words.
        get: fn(&Config) -> String,
    },
    /// Strings: in one with commas between them, or in a TOML list.
    List {
        /// The value of a key that nobody sets, with commas.
        default: &'static str,
        /// The allowed values, in words.
        allowed: &'static str,
        /// Checks and stores the items; the error as that of a text.
        set: fn(&mut Config, &[&str]) -> Result<(), String>,
        /// What is stored, with commas.
        get: fn(&Config) -> String,
    },
}

/// The unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes; a string may carry K, M or G.
    Bytes,
    /// Bytes, a power of two; a string may carry K, M or G.
    PowerOfTwoBytes,
    /// Things that are counted.
    Count,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
}

impl Unit {
    /// Whether values are bytes, which may be written as "16K".
    pub fn is_bytes(self) -> bool {
        matches!(self, Unit::Bytes | Unit::PowerOfTwoBytes)
    }

    /// The unit in words, to stand behind a number; empty for a plain count.
    pub fn words(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::PowerOfTwoBytes => "bytes, a power of two",
            Unit::Count => "",
            Unit::Microseconds => "microseconds",
            Unit::Milliseconds => "milliseconds",
            Unit::Seconds => "seconds",
        }
    }
}

/// The key of that name, with its place in [`KEYS`].
pub fn find(name: &str) -> Option<(usize, &'static Key)> {
    KEYS.iter().enumerate().find(|(_, key)| key.name == name)
}

/// The key whose name is a few letters off `name`.
pub fn nearest(name: &str) -> Option<&'static str> {
    let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    nearest_of(&names, &name.to_ascii_uppercase())
}

/// The one of `known` that is a few letters off `name`.
pub(super) fn nearest_of<'a>(known: &[&'a str], name: &str) -> Option<&'a str> {
    known
        .iter()
        .map(|known| (edit_distance(name, known), *known))
        .filter(|(distance, known)| *distance <= known.len() / 4)
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein's distance, in bytes. Longer names than any key's are not worth measuring.
fn edit_distance(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_suggested_and_others_are_not() {
        assert_eq!(nearest("NACC_SOR_MSG_SIZ"), Some("NACC_SOR_MSG_SIZE"));
        assert_eq!(nearest("nacc_log"), Some("NACC_LOG"));
        assert_eq!(nearest("NACC_IO_THREADS"), Some("NACC_SOR_IO_THREADS"));
        assert_eq!(nearest("PATH"), None);
        assert_eq!(nearest(&"N".repeat(1000)), None);
    }

    #[test]
    fn edit_distance_counts_letters() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("same", "same"), 0);
    }

    #[test]
    fn every_default_is_within_its_range() {
        for key in KEYS {
            match key.kind {
                Kind::Number {
                    default,
                    min,
                    max,
                    unit,
                    ..
                } => {
                    assert!((min..=max).contains(&default), "{}", key.name);
                    if unit == Unit::PowerOfTwoBytes {
                        assert!([default, min, max].iter().all(|v| v.is_power_of_two()));
                    }
                }
                Kind::Switch { .. } => {}
                Kind::Text { default, set, .. } => {
                    assert_eq!(set(&mut Config::default(), default), Ok(()), "{}", key.name);
                }
                Kind::List { default, set, .. } => {
                    let items: Vec<&str> = super::super::value::items(default).collect();
                    assert_eq!(set(&mut Config::default(), &items), Ok(()), "{}", key.name);
                }
            }
        }
    }

    #[test]
    fn no_two_keys_have_the_same_option() {
        let mut letters: Vec<char> = KEYS
            .iter()
            .filter_map(|key| key.option.as_ref())
            .map(|option| option.letter)
            .collect();
        // netacc_run's own.
        letters.extend(['f', 'h', 'v']);
        let all = letters.len();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), all);
    }

    #[test]
    fn milliseconds_become_microseconds() {
        let takes = Takes::Milliseconds("MS", 10);
        assert_eq!(takes.value("2").as_deref(), Ok("2000"));
        assert_eq!(takes.value("0.05").as_deref(), Ok("50"));
        assert_eq!(takes.value("0").as_deref(), Ok("0"));
        for bad in ["", "-1", "10.1", "1ms", "NaN", "inf", "1e300"] {
            assert!(takes.value(bad).is_err(), "{bad}");
        }
    }
}
