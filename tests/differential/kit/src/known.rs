//! The list of differences that are known and not mended yet: `CARRIER | FILE/SCENARIO | REASON`, a line each.
//! `CARRIER?`: it differs sometimes.

use crate::host::Carrier;

/// Does a name of the list mean the carrier?
fn means(name: &str, carrier: Carrier) -> bool {
    Carrier::named(name.trim_end_matches('?')).contains(&carrier)
}

/// The known differences.
pub struct Known(Vec<(String, String)>);

impl Known {
    /// Reads the list.
    ///
    /// # Errors
    /// A line that is none: which.
    pub fn parse(text: &str) -> Result<Known, String> {
        let lines = text.lines().map(str::trim);
        let entries = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entry = |line: &str| {
            let words: Vec<&str> = line.split('|').map(str::trim).collect();
            match words[..] {
                [carrier, name, reason]
                    if !reason.is_empty()
                        && !Carrier::named(carrier.trim_end_matches('?')).is_empty() =>
                {
                    Ok((carrier.to_string(), name.to_string()))
                }
                _ => Err(format!(
                    "'{line}' is not 'CARRIER | FILE/SCENARIO | REASON'"
                )),
            }
        };
        entries.map(entry).collect::<Result<_, _>>().map(Known)
    }

    /// Is it in the list?
    pub fn has(&self, carrier: Carrier, name: &str) -> bool {
        self.0
            .iter()
            .any(|(over, other)| other == name && means(over, carrier))
    }

    /// Is it in the list as one that differs whenever it is run?
    pub fn always(&self, carrier: Carrier, name: &str) -> bool {
        let listed = |(over, other): &(String, String)| {
            other == name && means(over, carrier) && !over.ends_with('?')
        };
        self.0.iter().any(listed)
    }

    /// Entries for scenarios that are not there.
    pub fn strangers(&self, names: &[String]) -> Vec<String> {
        let listed = self.0.iter().map(|(_, name)| name.clone());
        listed.filter(|name| !names.contains(name)).collect()
    }
}
