//! The list of differences that are known and not mended yet: `CARRIER | FILE/SCENARIO | REASON`, a line each.

use crate::host::Carrier;

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
                    if !reason.is_empty() && !Carrier::named(carrier).is_empty() =>
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
        let listed = |(over, other): &(String, String)| {
            other == name && Carrier::named(over).contains(&carrier)
        };
        self.0.iter().any(listed)
    }

    /// Entries for scenarios that are not there.
    pub fn strangers(&self, names: &[String]) -> Vec<String> {
        let listed = self.0.iter().map(|(_, name)| name.clone());
        listed.filter(|name| !names.contains(name)).collect()
    }
}
