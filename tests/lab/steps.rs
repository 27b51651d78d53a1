//! Connections of the peer program's role `steps`, one step after the other, and what has come of them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use crate::common::{PATIENCE, With, bare, command, library, peer};
use crate::guest::{Guest, Remote, port};

/// What is set for every program, and what comes before the program on its command line.
#[derive(Clone, Default)]
pub struct Way {
    /// In front of the program: `ip netns exec NAME`, for instance.
    pub before: &'static str,
    /// Settings `NAME=VALUE`, with spaces between them.
    pub settings: &'static str,
    /// Preloaded after the library.
    pub also: Option<String>,
}

/// With nothing else but these settings.
pub fn with(settings: &'static str) -> Way {
    Way {
        settings,
        ..Way::default()
    }
}

/// Started behind these words.
pub fn behind(before: &'static str) -> Way {
    Way {
        before,
        ..Way::default()
    }
}

fn start(guest: Guest, way: &Way, words: &[&str]) -> Remote {
    let peer = peer();
    let peer = peer.to_str().expect("UTF-8");
    let mut all = way.before.split_whitespace().chain([peer]);
    let mut program = command(all.next().expect("a program"), With::Library);
    program.args(all).args(words).env("NACC_LOG", "warn");
    program.envs(way.settings.split_whitespace().map(|setting| {
        let pair = setting.split_once('=');
        pair.unwrap_or_else(|| panic!("'{setting}' is not NAME=VALUE"))
    }));
    if let (Some(also), false) = (&way.also, bare()) {
        program.env("LD_PRELOAD", format!("{}:{also}", library().display()));
    }
    guest.spawn(&program)
}

/// An echo server at every address of a guest.
pub struct Server {
    /// Itself.
    pub program: Remote,
    port: u16,
}

impl Server {
    /// Starts it.
    pub fn start(guest: Guest, way: &Way) -> Server {
        Server::start_with(guest, way, &[])
    }

    /// Starts it with more words.
    pub fn start_with(guest: Guest, way: &Way, more: &[&str]) -> Server {
        let port = port();
        let text = port.to_string();
        let words = [&["steps-server", "--port", &text], more].concat();
        let program = start(guest, way, &words);
        program.wait_for(|line| line == "listening");
        Server { program, port }
    }

    /// How both ends name a connection from one address to another.
    pub fn pair(&self, from: &str, to: &str) -> String {
        format!("{from} {to}:{}", self.port)
    }

    /// What it has accepted.
    pub fn accepted(&self) -> Vec<String> {
        lines(&self.program, "accepted ")
    }

    /// A client of it that goes through `words`, then pauses. Returns when it does.
    pub fn client(&self, guest: Guest, way: &Way, words: &str) -> Client {
        let (port, steps) = (self.port.to_string(), format!("{words} pause"));
        let words = ["steps-client", "--port", &port, "--steps", &steps];
        let program = start(guest, way, &words);
        let client = Client {
            program,
            pauses: Cell::new(0),
        };
        client.pauses();
        client
    }
}

/// A client.
pub struct Client {
    /// Itself.
    pub program: Remote,
    pauses: Cell<u32>,
}

impl Client {
    /// Waits until it pauses once more.
    fn pauses(&self) {
        self.pauses.set(self.pauses.get() + 1);
        let wanted = format!("pause {}", self.pauses.get());
        self.program.wait_for(|line| line == wanted);
    }

    /// Lets it go on, to the next pause.
    pub fn go_on(&self) {
        self.program.kill(libc::SIGUSR1);
        self.pauses();
    }

    /// Lets it go on, to its end: every byte came back.
    pub fn finish(self) {
        self.program.kill(libc::SIGUSR1);
        self.program.success();
    }

    /// What it has opened.
    pub fn opened(&self) -> Vec<String> {
        lines(&self.program, "open ")
    }
}

fn lines(program: &Remote, start: &str) -> Vec<String> {
    let output = program.output();
    let found = output.lines().filter_map(|line| line.strip_prefix(start));
    found.map(str::to_string).collect()
}

/// Asserts the values of counters.
pub fn counted(program: &Remote, wanted: &[(&str, u64)]) {
    if let Some(counters) = program.counters() {
        for (name, value) in wanted {
            assert_eq!(
                counters.get(name),
                *value,
                "{name}: {program}: {counters:#?}"
            );
        }
    }
}

/// Waits until counters have these values.
pub fn counts(program: &Remote, wanted: &[(&str, u64)]) {
    let deadline = Instant::now() + PATIENCE;
    while let Some(counters) = program.counters() {
        if wanted
            .iter()
            .all(|(name, value)| counters.get(name) == *value)
        {
            return;
        }
        assert!(Instant::now() < deadline, "no {wanted:?}: {counters:#?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The queue pairs of a program that stand, by device, as the kernel tells.
pub fn queue_pairs(program: &Remote) -> BTreeMap<String, usize> {
    let (guest, pid) = (program.guest(), program.pid());
    // The kernel names the thread that made it.
    let shown = guest.must(&format!(
        "ls -m /proc/{pid}/task && rdma -j resource show qp"
    ));
    let (threads, shown) = shown.split_once("\n[").expect("two lines");
    let threads: Vec<&str> = threads.split([',', ' ', '\n']).collect();
    let shown: Value = serde_json::from_str(&format!("[{shown}")).expect("JSON of rdma");
    let mut found = BTreeMap::new();
    for pair in shown.as_array().expect("an array of queue pairs") {
        let of_it = threads.contains(&pair["pid"].to_string().as_str());
        if of_it && pair["state"] == "RTS" {
            let device = pair["ifname"].as_str().expect("a device").to_string();
            *found.entry(device).or_default() += 1;
        }
    }
    found
}
