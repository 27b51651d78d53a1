//! Crash containment: a library that panics wherever it is told to, in calls of the application's and in its own threads. The
//! application goes on, sees nothing but errors that the kernel could give, and reads no byte twice; and nothing is printed.

mod common;

use std::fs::File;
use std::process::{Command, Stdio};

use common::counters::Counters;
use common::proc::Proc;
use common::{ANSWER_LIMIT, With, bare, command, ports, script, special};

/// Errors with which a connection of the kernel's can end.
const KERNEL_LIKE: [&str; 5] = ["ECONNRESET", "ETIMEDOUT", "TIMED OUT", "EPIPE", "ENOMEM"];

/// What came of a client's connections, and what the two processes counted.
struct Outcome {
    connections: Vec<String>,
    server: Counters,
    client: Counters,
}

impl Outcome {
    fn whole(&self) -> usize {
        self.connections.iter().filter(|c| *c == "whole").count()
    }
}

fn side(library_fails: Option<&str>) -> Command {
    let mut command = command("python3", With::Library);
    command.env("LD_PRELOAD", special::faulty());
    // What is lost with a fault is not waited for as long as a slow machine may be.
    command.env(ANSWER_LIMIT, "4000");
    if let Some(place) = library_fails {
        command.env("NACC_PROVOKE", place);
    }
    command.arg(script("steady.py"));
    command
}

/// `count` connections, one after the other, where the library of one of the two sides fails.
fn run(server_fails: Option<&str>, client_fails: Option<&str>, count: usize) -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("stderr");
    let stderr = File::create(&path).expect("a file");
    let port = ports::pair();
    let started = |mut command: Command, role: &str| {
        command.args([role, &port.to_string()]);
        if role == "connect" {
            command.arg(count.to_string());
        }
        command.stderr(Stdio::from(stderr.try_clone().expect("a descriptor")));
        Proc::start(command)
    };
    let mut server = started(side(server_fails), "serve");
    server.wait_for_port(port);
    let mut client = started(side(client_fails), "connect");
    let lines = core::iter::from_fn(|| client.line()).take_while(|line| line != "done");
    let connections: Vec<String> = lines.collect();
    let place = server_fails.or(client_fails).unwrap_or_default();
    assert_eq!(connections.len(), count, "{place}: {connections:?}");
    for how in &connections {
        let is_known = how == "whole" || KERNEL_LIKE.contains(&how.as_str());
        assert!(is_known, "{place}: {how}: {connections:?}");
    }
    let outcome = Outcome {
        connections: connections.clone(),
        server: Counters::of(server.pid()).expect("counters"),
        client: Counters::of(client.pid()).expect("counters"),
    };
    eprintln!("{place}: {connections:?}");
    client.tell("");
    assert!(client.finish().success(), "{place}");
    server.tell("");
    assert!(server.finish().success(), "{place}");
    let printed = std::fs::read_to_string(&path).expect("a file");
    assert_eq!(printed, "", "{place}");
    outcome
}

/// One fault: one connection is lost at most, and all that come after it are served.
fn check_once(server_fails: Option<&str>, client_fails: Option<&str>) {
    let outcome = run(server_fails, client_fails, 6);
    let place = server_fails.or(client_fails).unwrap_or_default();
    let failing = match server_fails {
        Some(_) => &outcome.server,
        None => &outcome.client,
    };
    assert_eq!(failing.get("internal_faults"), 1, "{place}");
    assert!(outcome.whole() >= 5, "{place}: {:?}", outcome.connections);
    let last = outcome.connections.last().map(String::as_str);
    assert_eq!(last, Some("whole"), "{place}");
}

#[test]
fn a_fault_in_a_server_costs_one_connection() {
    if bare() {
        return;
    }
    for place in [
        "recv:2",
        "send:2",
        "accept4:2",
        "epoll_wait:2",
        "getsockname:3",
        "close:4",
        "rx.run",
        "rx.run:3",
        "rx.run:9",
        "tx.data",
        "tx.data:3",
        "stranger",
        "stranger:3",
        "peer",
        "obey",
    ] {
        check_once(Some(place), None);
    }
}

#[test]
fn a_fault_in_a_client_costs_one_connection() {
    if bare() {
        return;
    }
    for place in [
        "socket:2",
        "connect",
        "connect:2",
        "send",
        "send:3",
        "recv:4",
        "poll:3",
        "close:5",
        "rx.run",
        "rx.run:4",
        "tx.data:2",
        "contact",
        "contact:2",
        "opening",
        "opening:3",
        "peer",
        "obey",
    ] {
        check_once(None, Some(place));
    }
}

#[test]
fn what_fails_again_and_again_is_left_to_the_kernel() {
    if bare() {
        return;
    }
    for (place, at_server) in [
        ("rx.run:1+", true),
        ("tx.data:2+", true),
        ("rx.run:1+", false),
    ] {
        let (server, client) = match at_server {
            true => (Some(place), None),
            false => (None, Some(place)),
        };
        let outcome = run(server, client, 120);
        let failing = match at_server {
            true => &outcome.server,
            false => &outcome.client,
        };
        assert!(failing.get("internal_faults") >= 16, "{place}");
        let tail = &outcome.connections[110..];
        assert!(tail.iter().all(|how| how == "whole"), "{place}: {tail:?}");
    }
}

#[test]
fn a_program_without_sockets_hears_of_an_error() {
    if bare() {
        return;
    }
    let mut command = command("cat", With::Library);
    command.env("LD_PRELOAD", special::faulty());
    command.env("NACC_PROVOKE", "read");
    command.env("LC_ALL", "C");
    let output = command.stdin(Stdio::null()).output().expect("cat runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "cat: -: Input/output error\n");
    assert_eq!(output.status.code(), Some(1));
}
