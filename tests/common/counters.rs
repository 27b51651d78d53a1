//! The library's counters of a running process, as `netacc_ss` tells them.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use super::{bare, netacc_ss, proc};

/// The counters of one process at one moment.
#[derive(Debug)]
pub struct Counters {
    pid: u32,
    values: BTreeMap<String, u64>,
}

impl Counters {
    /// Reads the counters of `pid`; `None` when everything runs bare.
    pub fn of(pid: u32) -> Option<Counters> {
        if bare() {
            return None;
        }
        let mut command = Command::new(netacc_ss());
        command.args(["--counters", "-p", &pid.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(Stdio::piped());
        let child = proc::spawn(&mut command).expect("netacc_ss");
        let out = child.wait_with_output().expect("netacc_ss");
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success(),
            "netacc_ss --counters -p {pid}: {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
        Some(Counters::parse(pid, &text))
    }

    /// Takes the counters of `pid` from what `netacc_ss --counters` printed.
    pub fn parse(pid: u32, text: &str) -> Counters {
        let values = text.lines().filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_string(), value.trim().parse().ok()?))
        });
        let values = values.collect();
        Counters { pid, values }
    }

    /// One counter.
    pub fn get(&self, name: &str) -> u64 {
        let value = self.values.get(name);
        *value.unwrap_or_else(|| panic!("no counter '{name}' for process {}: {self:?}", self.pid))
    }

    /// Connections that the library carried.
    pub fn accelerated(&self) -> u64 {
        [
            "connected_shm",
            "connected_loop",
            "connected_rdma",
            "accepted_shm",
            "accepted_loop",
            "accepted_rdma",
        ]
        .iter()
        .map(|name| self.get(name))
        .sum()
    }

    /// Connections that stayed with the kernel.
    pub fn kernel(&self) -> u64 {
        self.get("connected_tcp") + self.get("accepted_tcp")
    }

    /// How many were left to the kernel for one of `reasons` (names without `fallback_`).
    pub fn fallbacks(&self, reasons: &[&str]) -> u64 {
        reasons
            .iter()
            .map(|reason| self.get(&format!("fallback_{reason}")))
            .sum()
    }
}

/// Asserts that process `pid` had at least `connections` carried by the library.
pub fn assert_accelerated(pid: u32, connections: u64) {
    if let Some(counters) = Counters::of(pid) {
        assert!(
            counters.accelerated() >= connections,
            "fewer than {connections} connections were accelerated: {counters:#?}"
        );
    }
}

/// Asserts that process `pid` had none accelerated, and a reason for it that is one of `reasons`.
pub fn assert_left_to_kernel(pid: u32, reasons: &[&str]) {
    if let Some(counters) = Counters::of(pid) {
        assert_eq!(counters.accelerated(), 0, "{counters:#?}");
        assert!(
            counters.fallbacks(reasons) > 0,
            "none of the reasons {reasons:?} is recorded: {counters:#?}"
        );
    }
}
