//! What is told when all is over.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::calls::Call;

/// See the module.
#[derive(Default)]
pub struct Report {
    /// How often each site was come to.
    pub sites: BTreeMap<(&'static str, u64), u64>,
    /// Calls of the library's that are not in the table, by number.
    pub unknown: BTreeMap<i64, u64>,
    /// How many calls were made to fail.
    pub failed: u64,
    /// Processes that have ended: what each was and held, and how it ended.
    pub ended: Vec<(Held, String)>,
    /// What still ran when the time was over.
    pub hung: Vec<String>,
}

/// What a process holds at its end.
#[derive(Clone, Default, Debug)]
pub struct Held {
    /// Its command line.
    pub command: String,
    /// Its descriptors, by kind.
    descriptors: BTreeMap<String, u64>,
    /// Its threads.
    threads: usize,
    /// Mappings of the library's shared memory.
    mappings: usize,
}

impl Held {
    /// As /proc tells it.
    pub fn of(process: i32) -> Held {
        let mut held = Held {
            command: command(process),
            ..Held::default()
        };
        let list = fs::read_dir(format!("/proc/{process}/fd"));
        for entry in list.into_iter().flatten().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            let kind = match target.as_ref() {
                t if t.starts_with("/memfd:netacc") => "memfd",
                t if t.starts_with("anon_inode:") => &t["anon_inode:".len()..],
                t if t.starts_with("socket:") => "socket",
                t if t.starts_with("pipe:") => "pipe",
                t if t.starts_with("/dev/shm/") => "shm file",
                _ => "file",
            };
            *held.descriptors.entry(kind.to_string()).or_default() += 1;
        }
        let tasks = fs::read_dir(format!("/proc/{process}/task"));
        held.threads = tasks.map_or(0, Iterator::count);
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
        held.mappings = maps.matches("memfd:netacc").count();
        held
    }
}

/// The command line of a process.
pub fn command(process: i32) -> String {
    let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words);
    words.trim_end_matches('\0').replace('\0', " ")
}

impl Report {
    /// Counts one call at a site: how often it was come to.
    pub fn count(&mut self, call: &Call, site: u64) -> u64 {
        let count = self.sites.entry((call.name, site)).or_default();
        *count += 1;
        *count
    }

    /// For whoever reads it.
    pub fn to_json(&self) -> Value {
        let sites = self.sites.iter().map(|((name, site), count)| {
            let call = crate::calls::named(name);
            json!({"call": name, "site": format!("{site:#x}"), "count": count,
                   "errors": call.map_or(&[][..], |call| call.errors)})
        });
        let ended = self.ended.iter().map(|(held, how)| {
            json!({"command": held.command, "how": how, "descriptors": held.descriptors,
                   "threads": held.threads, "mappings": held.mappings})
        });
        json!({
            "sites": sites.collect::<Vec<_>>(),
            "unknown": self.unknown.iter().map(|(n, count)| json!([n, count])).collect::<Vec<_>>(),
            "failed": self.failed,
            "ended": ended.collect::<Vec<_>>(),
            "hung": self.hung,
        })
    }
}
