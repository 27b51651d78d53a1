//! The values of keys that are words: what each word means, and which word a setting has.

use std::time::Duration;

use super::{Affinity, Config, FabricName, LogLevel, ShmPeers};

const FABRICS: [(&str, FabricName); 4] = [
    ("loop", FabricName::Loop),
    ("shm", FabricName::Shm),
    ("verbs", FabricName::Verbs),
    ("tcp", FabricName::Tcp),
];

const LEVELS: [(&str, LogLevel); 6] = [
    ("off", LogLevel::Off),
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

const SHM_PEERS: [(&str, ShmPeers); 3] = [
    ("same-uid", ShmPeers::SameUser),
    ("same-user-ns", ShmPeers::SameUserNamespace),
    ("any", ShmPeers::Any),
];

/// What `word` means in a table of words.
fn meaning<T: Copy>(table: &[(&str, T)], word: &str) -> Option<T> {
    table
        .iter()
        .find(|(w, _)| *w == word)
        .map(|(_, value)| *value)
}

/// The word for `value` in a table of words that has one for each.
fn word<T: PartialEq>(table: &[(&'static str, T)], value: &T) -> &'static str {
    table
        .iter()
        .find(|(_, v)| v == value)
        .map_or("", |(word, _)| word)
}

pub(super) fn set_fabrics(config: &mut Config, names: &[&str]) -> Result<(), String> {
    let mut fabrics = Vec::new();
    match names {
        [] => return Err("names no fabric".to_owned()),
        ["none"] => {}
        names => {
            for &name in names {
                if name == "none" {
                    return Err("names none beside others".to_owned());
                }
                let Some(fabric) = meaning(&FABRICS, name) else {
                    return Err(format!(
                        "names \"{name}\", which is no fabric that NetACC knows"
                    ));
                };
                if fabrics.contains(&fabric) {
                    return Err(format!("names {name} twice"));
                }
                fabrics.push(fabric);
            }
        }
    }
    config.fabrics = fabrics;
    Ok(())
}

pub(super) fn fabrics(config: &Config) -> String {
    match config.fabrics.as_slice() {
        [] => "none".to_owned(),
        fabrics => {
            let words: Vec<_> = fabrics
                .iter()
                .map(|fabric| word(&FABRICS, fabric))
                .collect();
            words.join(",")
        }
    }
}

pub(super) fn set_idle(config: &mut Config, text: &str) -> Result<(), String> {
    config.qp_idle = match text.trim().parse::<i64>() {
        Ok(-1) => None,
        Ok(seconds @ 0..=1_000_000) => Some(Duration::from_secs(seconds.unsigned_abs())),
        _ => return Err(format!("is \"{text}\", which is no such number")),
    };
    Ok(())
}

pub(super) fn idle(config: &Config) -> String {
    match config.qp_idle {
        None => "-1".to_owned(),
        Some(time) => time.as_secs().to_string(),
    }
}

pub(super) fn set_log(config: &mut Config, text: &str) -> Result<(), String> {
    config.log =
        meaning(&LEVELS, text).ok_or_else(|| format!("is \"{text}\", which is no log level"))?;
    Ok(())
}

pub(super) fn log(config: &Config) -> String {
    word(&LEVELS, &config.log).to_owned()
}

pub(super) fn set_shm_peers(config: &mut Config, text: &str) -> Result<(), String> {
    config.shm_peers = meaning(&SHM_PEERS, text)
        .ok_or_else(|| format!("is \"{text}\", which says nothing of peers"))?;
    Ok(())
}

pub(super) fn shm_peers(config: &Config) -> String {
    word(&SHM_PEERS, &config.shm_peers).to_owned()
}

pub(super) fn set_log_file(config: &mut Config, text: &str) -> Result<(), String> {
    if text.contains('\0') {
        return Err("contains a NUL character, which no path can".to_owned());
    }
    config.log_file = text.to_owned();
    Ok(())
}

pub(super) fn set_affinity(config: &mut Config, text: &str) -> Result<(), String> {
    config.affinity = match text.trim() {
        "0" | "off" => Affinity::Anywhere,
        "1" | "on" => Affinity::Each,
        "2" | "auto" => Affinity::EachIfRoom,
        text => match text.strip_prefix("cpu:") {
            Some(list) => Affinity::On(processors(list)?),
            None => return Err(format!("is \"{text}\", which is none of its values")),
        },
    };
    Ok(())
}

pub(super) fn affinity(config: &Config) -> String {
    match &config.affinity {
        Affinity::Anywhere => "0".to_owned(),
        Affinity::Each => "1".to_owned(),
        Affinity::EachIfRoom => "2".to_owned(),
        Affinity::On(list) => {
            let numbers: Vec<_> = list.iter().map(u16::to_string).collect();
            format!("cpu:{}", numbers.join(","))
        }
    }
}

/// Processors have smaller numbers than this.
const MOST_PROCESSORS: u16 = 1024;

/// The processors of a list such as `0-3,8`, in ascending order, none twice.
fn processors(list: &str) -> Result<Vec<u16>, String> {
    let number = |text: &str| {
        let number = text.trim().parse::<u16>().ok();
        number
            .filter(|n| *n < MOST_PROCESSORS)
            .ok_or_else(|| format!("names \"{}\", which is no processor's number", text.trim()))
    };
    let mut found = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!(
                "names \"{}\", which begins behind its end",
                part.trim()
            ));
        }
        found.extend(first..=last);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Checks names of programs.
pub(super) fn programs(names: &[&str]) -> Result<Vec<String>, String> {
    let bad = |name: &&&str| name.is_empty() || name.contains('/');
    if let Some(name) = names.iter().find(bad) {
        return Err(format!(
            "names \"{name}\", which is no program's name (without its folder)"
        ));
    }
    Ok(names.iter().map(|name| (*name).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(processors("0"), Ok(vec![0]));
        assert_eq!(processors("8, 2-4,3"), Ok(vec![2, 3, 4, 8]));
        for bad in ["", "x", "1-", "-1", "4-2", "1024", "1,,2", "0-65536"] {
            assert!(processors(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn programs_have_names_without_folders() {
        assert_eq!(programs(&["redis-server", "python3*"]).unwrap().len(), 2);
        assert!(programs(&["/usr/bin/redis-server"]).is_err());
        assert!(programs(&["a", ""]).is_err());
    }
}
