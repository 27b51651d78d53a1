//! Which calls are to fail, and with what.

use std::str::FromStr;

use nix::errno::Errno;

use crate::calls::{self, Call};

/// One `--fail`.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which call.
    pub call: &'static Call,
    /// At which site only.
    pub site: Option<u64>,
    /// The first one that fails, from 1.
    first: u64,
    /// The last one.
    last: u64,
    /// With what.
    pub error: Errno,
}

impl Fault {
    /// Whether the `nth` call of that kind at that site is to fail; counted over all sites if none is named.
    pub fn hits(&self, nth: u64) -> bool {
        (self.first..=self.last).contains(&nth)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split(':').collect();
        let [call, site, nth, error] = words[..] else {
            return Err("not CALL:SITE:NTH:ERROR".into());
        };
        let site = match site {
            "*" => None,
            site => {
                let digits = site.strip_prefix("0x").unwrap_or(site);
                Some(u64::from_str_radix(digits, 16).map_err(|e| format!("site: {e}"))?)
            }
        };
        let number = |text: &str| text.parse::<u64>().map_err(|e| format!("nth: {e}"));
        let (first, last) = match (nth, nth.split_once('-')) {
            ("*", _) => (1, u64::MAX),
            (_, Some((first, last))) => (number(first)?, number(last)?),
            (only, None) => (number(only)?, number(only)?),
        };
        Ok(Fault {
            call: calls::named(call).ok_or_else(|| format!("no such call here: {call}"))?,
            site,
            first,
            last,
            error: named_error(error).ok_or_else(|| format!("no such error here: {error}"))?,
        })
    }
}

/// `ENOMEM` for "ENOMEM".
fn named_error(name: &str) -> Option<Errno> {
    // The names are those of the enumeration.
    (1..=133)
        .map(Errno::from_raw)
        .find(|error| format!("{error:?}") == name)
}
