//! SIGKILL of either side at a random moment during traffic: the survivor gets what TCP gives.

mod common;

use common::proc::{Proc, output};
use common::{With, command, peer_command, ports, script};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

const SEEDS: u64 = 12;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Server,
    Client,
}

/// The file in which both processes note what their sockets have taken.
struct Ledger(PathBuf);

impl Ledger {
    fn new(port: u16) -> Ledger {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("ledger-{port}"));
        std::fs::write(&path, []).expect("the ledger's file");
        Ledger(path)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn word<'a>(connection: &'a Value, name: &str) -> &'a str {
    connection[name].as_str().unwrap_or_default()
}

/// Is this what kernel TCP gives the survivor of `victim`?
fn check(connection: &Value, victim: Victim) {
    let (read, write) = (word(connection, "read_end"), word(connection, "write_end"));
    let (received, promised) = (&connection["received"], &connection["promised"]);
    let reset = ["ECONNRESET", "EPIPE"];
    let survivor_reads_only = match word(connection, "kind") {
        "Up" => victim == Victim::Client,
        _ => victim == Victim::Server,
    };
    let fine = match word(connection, "kind") {
        // The server had perhaps not read the connection's number: unread data makes a reset.
        _ if victim == Victim::Server && connection["begun"] == false => {
            ["eof", "ECONNRESET"].contains(&read) || (read.is_empty() && reset.contains(&write))
        }
        // The victim had nothing unread: a clean end, after all that it had written.
        "Up" | "Down" if survivor_reads_only => {
            read == "eof" && received.as_u64() >= promised.as_u64()
        }
        "Up" | "Down" => reset.contains(&write),
        "IdleRecv" | "IdlePoll" => {
            let after = &connection["after_end"];
            read == "eof" && received == 0 && after[1] == "4" && after[2] == "EPIPE"
        }
        "Pingpong" | "PingpongEpoll" => {
            ["eof", "ECONNRESET"].contains(&read) || (read.is_empty() && reset.contains(&write))
        }
        "Duplex" => ["eof", "ECONNRESET"].contains(&read) && reset.contains(&write),
        // Killed while connections were still being made.
        "unheard" => ["eof", "ECONNRESET"].contains(&read),
        "unaccepted" => ["ECONNABORTED", "EAGAIN"].contains(&read),
        "unconnected" => ["ECONNREFUSED", "ECONNRESET", "EPIPE"].contains(&read),
        _ => false,
    };
    assert!(
        fine,
        "not what TCP gives when the {victim:?} is killed: {connection:#}"
    );
}

fn one_kill(victim: Victim, seed: u64) {
    let port = ports::pair();
    let at = format!("127.0.0.1:{port}");
    let ledger = Ledger::new(port);
    let start = |role: &str, way: &str| {
        let mut command = peer_command(role, With::Library);
        command.args([way, &at, "--seed", &seed.to_string(), "--conns", "14"]);
        command.arg("--ledger").arg(&ledger.0);
        Proc::start(command)
    };
    let mut server = start("kill-server", "--listen");
    server.wait_listening();
    let mut client = start("kill-client", "--connect");
    // Early in most runs, while connections are made; later in others, in the midst of the traffic.
    let mut rng = fastrand::Rng::with_seed(seed);
    let range = if seed.is_multiple_of(3) {
        1..20
    } else {
        20..250
    };
    std::thread::sleep(Duration::from_millis(rng.u64(range)));
    let (dead, survivor) = match victim {
        Victim::Server => (&mut server, &mut client),
        Victim::Client => (&mut client, &mut server),
    };
    dead.kill();
    dead.finish();
    survivor.tell("killed");
    let verdict = survivor.verdict();
    assert_eq!(verdict["ok"], true, "seed {seed}: {verdict:#}");
    for connection in verdict["connections"].as_array().into_iter().flatten() {
        check(connection, victim);
    }
    let moved: u64 = verdict["connections"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| c["received"].as_u64())
        .sum();
    println!("{victim:?} killed, seed {seed}: the survivor had received {moved} bytes");
}

/// Its child goes on with the connection, or sees an error; what nobody had read is not left out.
#[test]
fn parent_killed_while_it_leaves_its_child_a_connection() {
    for with in [With::Kernel, With::Library] {
        for _ in 0..5 {
            let mut server = command("python3", with);
            server.args([script("killed_parent.py"), ports::pair().to_string()]);
            assert_eq!(output(server).trim(), "all of it or an error");
        }
    }
}

#[test]
fn server_killed() {
    for seed in 1..=SEEDS {
        one_kill(Victim::Server, seed);
    }
}

#[test]
fn client_killed() {
    for seed in 101..=100 + SEEDS {
        one_kill(Victim::Client, seed);
    }
}
