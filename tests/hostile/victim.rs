//! Who is attacked: an application with the library, an honest client of it whose stream goes on meanwhile, and what they may
//! not lose by it.

use std::time::{Duration, Instant};

use crate::common::counters::Counters;
use crate::common::proc::Proc;
use crate::common::{ANSWER_LIMIT, PATIENCE, With, command, ports, script};

/// Descriptors that the victim may have: few, as programs have them that nobody has raised the limit for.
pub const DESCRIPTORS: u64 = 256;

/// So many more descriptors or threads are none that were lost: each thread that has waited has had a bell, and bells are kept for
/// the next ones (as many as ever waited at a time).
const SLACK: usize = 12;

/// See the module.
pub struct Victim {
    server: Proc,
    honest: Proc,
    /// Where it listens.
    pub port: u16,
    at_rest: Holdings,
}

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    /// Memory of its own, in kilobytes.
    memory: u64,
}

impl Holdings {
    fn of(pid: u32) -> Holdings {
        let entries = |of: &str| {
            let path = format!("/proc/{pid}/{of}");
            std::fs::read_dir(path).expect("a process").count()
        };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let memory = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Holdings {
            descriptors: entries("fd"),
            threads: entries("task"),
            memory: memory.expect("RssAnon"),
        }
    }
}

/// A program with a role of `steady.py`, with the library. Peers that do not answer are not waited for as long as in other tests.
pub fn steady(arguments: &[&str]) -> std::process::Command {
    let mut command = command("bash", With::Library);
    let limited = format!("ulimit -n {DESCRIPTORS}; exec python3 \"$@\"");
    command.args(["-c", &limited, "bash", &script("steady.py")]);
    command.args(arguments).env(ANSWER_LIMIT, "2000");
    command
}

impl Victim {
    /// With an honest client that is being served.
    pub fn new() -> Victim {
        let port = ports::pair();
        let mut server = Proc::start(steady(&["serve", &port.to_string()]));
        server.wait_for_port(port);
        // What a first connection leaves behind is there before anything is counted.
        let first = serve(port, 2);
        assert_eq!(first, ["whole"; 2]);
        let honest = Proc::start(steady(&["stream", &port.to_string()]));
        assert_eq!(honest.line().as_deref(), Some("connected"));
        let at_rest = Holdings::of(server.pid());
        Victim {
            server,
            honest,
            port,
            at_rest,
        }
    }

    /// Where processes with NetACC find it.
    pub fn side_port(&self) -> u16 {
        self.port + ports::SIDE
    }

    /// One of its counters.
    pub fn count(&self, name: &str) -> u64 {
        Counters::of(self.server.pid()).map_or(0, |counters| counters.get(name))
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        Holdings::of(self.server.pid()).descriptors
    }

    /// It serves whoever is honest, has noticed no fault of its own, and holds no more than it did at the beginning; and the
    /// stream that went on all the time is whole.
    pub fn comes_through(mut self) {
        let after = serve(self.port, 3);
        assert_eq!(after, ["whole"; 3]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Holdings::of(self.server.pid());
            let flat = now.descriptors <= self.at_rest.descriptors + SLACK
                && now.threads <= self.at_rest.threads + SLACK
                && now.memory <= self.at_rest.memory + (16 << 10);
            if flat {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{now:?}, and before {:?}",
                self.at_rest
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.count("internal_faults"), 0);
        self.honest.tell("");
        let how = self.honest.line().unwrap_or_default();
        let times = how
            .strip_prefix("whole ")
            .and_then(|times| times.parse::<u64>().ok());
        assert!(times.is_some_and(|times| times > 0), "{how}");
        if let Some(counters) = Counters::of(self.honest.pid()) {
            assert_eq!(counters.get("connected_shm"), 1, "{counters:#?}");
            assert_eq!(counters.get("internal_faults"), 0);
        }
        self.honest.tell("");
        assert!(self.honest.finish().success());
        self.server.tell("");
        assert!(self.server.finish().success());
    }
}

/// What becomes of so many connections of a new honest client, one after the other.
pub fn serve(port: u16, count: usize) -> Vec<String> {
    let mut client = Proc::start(steady(&["connect", &port.to_string(), &count.to_string()]));
    let lines = core::iter::from_fn(|| client.line());
    let said: Vec<String> = lines.take_while(|line| line != "done").collect();
    client.tell("");
    assert!(client.finish().success());
    said
}
