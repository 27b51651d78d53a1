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
    server: Proc,
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
        let server = start(&["serve", &port, how]);
        server.wait_listening();
        let mut client = start(&[&port]);
        // It has counters from its first connection on.
        client.tell("keep 1");
        assert_eq!(client.line().as_deref(), Some("keep 1"));
        Pair { client, server }
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
    // A server that gives each to a child closes its side port after a few.
    let refused = grown(&short, "fallback_side_port_refused");
    assert_eq!(grown(&short, "fallback_short_lived") + refused, tcp);
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

/// Connections of the server that are the kernel's because its children serve them.
fn served_by_children(pair: &Pair) -> u64 {
    let counters = Counters::of(pair.server.pid()).expect("not bare");
    counters.get("fallback_served_by_children")
}

#[test]
fn a_server_that_gives_all_to_children_is_left_to_the_kernel() {
    if bare() {
        return;
    }
    let mut pair = Pair::start("fork", "0");
    let short = pair.tell("short 100");
    let (shm, refused) = (
        grown(&short, "connected_shm"),
        grown(&short, "fallback_side_port_refused"),
    );
    assert_eq!(shm + refused, 100, "{short:#?}");
    assert!(refused > 80, "{short:#?}");
    assert!(served_by_children(&pair) > 80);
    // Those that came before go on.
    let kept = pair.tell("keep 3");
    assert_eq!(grown(&kept, "connected_tcp"), 3, "{kept:#?}");
}

#[test]
fn a_server_that_serves_some_itself_is_not() {
    if bare() {
        return;
    }
    let mut pair = Pair::start("some", "0");
    let short = pair.tell("short 100");
    assert_eq!(grown(&short, "connected_shm"), 100, "{short:#?}");
    assert_eq!(served_by_children(&pair), 0);
}

#[test]
fn all_are_accelerated_where_that_is_asked_for() {
    if bare() {
        return;
    }
    let short = Pair::start("thread", "0").tell(&format!("short {MANY}"));
    assert_eq!(grown(&short, "connected_shm"), MANY, "{short:#?}");
}
