//! Connections that end after a few messages go over TCP where one follows the other, and those that live do not.

mod common;

use std::time::Instant;

use common::counters::Counters;
use common::proc::Proc;
use common::{PATIENCE, SHORT_LIMIT, With, bare, command, ports};

/// So few, that a busy machine makes them within a second.
const LIMIT: &str = "8";
const MANY: u64 = 400;

struct Pair {
    client: Proc,
    _server: Proc,
}

impl Pair {
    /// A server that answers in a thread, or a child process, for each connection; and a client of it.
    fn start(how: &str, limit: &str) -> Pair {
        let script = format!("{}/tests/programs/short.py", env!("CARGO_MANIFEST_DIR"));
        let port = ports::pair().to_string();
        let start = |words: &[&str]| {
            let mut command = command("python3", With::Library);
            command.arg(&script).args(words).env(SHORT_LIMIT, limit);
            Proc::start(command)
        };
        let _server = start(&["serve", &port, how]);
        _server.wait_listening();
        let mut client = start(&[&port]);
        // It has counters from its first connection on.
        client.tell("keep 1");
        assert_eq!(client.line().as_deref(), Some("keep 1"));
        Pair { client, _server }
    }

    /// Has the client do something; its counters before and after it.
    fn tell(&mut self, words: &str) -> (Counters, Counters) {
        let before = self.counters();
        self.client.tell(words);
        assert_eq!(self.client.line().as_deref(), Some(words));
        (before, self.counters())
    }

    fn counters(&self) -> Counters {
        Counters::of(self.client.pid()).expect("not bare")
    }
}

fn grown((before, after): &(Counters, Counters), name: &str) -> u64 {
    after.get(name) - before.get(name)
}

/// Short ones are left to TCP, all of them but some.
fn leaves_short_ones(pair: &mut Pair) {
    let short = pair.tell(&format!("short {MANY}"));
    let (tcp, shm) = (
        grown(&short, "connected_tcp"),
        grown(&short, "connected_shm"),
    );
    assert_eq!(tcp + shm, MANY);
    assert!(tcp > 0, "{short:#?}");
    assert_eq!(grown(&short, "fallback_short_lived"), tcp);
}

#[test]
fn a_request_each() {
    if bare() {
        return;
    }
    let mut pair = Pair::start("thread", LIMIT);
    leaves_short_ones(&mut pair);
    // Later some are tried again, and one that lives is taken for what it is.
    let until = Instant::now() + PATIENCE;
    while grown(&pair.tell("long 50"), "connected_shm") == 0 {
        assert!(Instant::now() < until, "none is tried again");
    }
    let kept = pair.tell("keep 40");
    assert_eq!(grown(&kept, "connected_shm"), 40, "{kept:#?}");
}

#[test]
fn a_child_process_each() {
    if bare() {
        return;
    }
    leaves_short_ones(&mut Pair::start("fork", LIMIT));
}

#[test]
fn all_are_accelerated_where_that_is_asked_for() {
    if bare() {
        return;
    }
    let short = Pair::start("thread", "0").tell(&format!("short {MANY}"));
    assert_eq!(grown(&short, "connected_shm"), MANY, "{short:#?}");
}
