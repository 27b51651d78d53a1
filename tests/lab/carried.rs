//! TCP programs between the guests, bare and with the library.

use std::process::Command;

use serde_json::Value;

use crate::common::{With, command, peer_command};
use crate::guest::{Guest, Remote, port};
use crate::net;

/// What carries a preloaded program's connections to another machine, as its counters call it.
const CARRIER: &str = "rdma";

/// Asserts that the library counted at least `count` connections of `kind` with the expected carrier.
pub fn assert_carried(program: &Remote, kind: &str, count: u64) {
    if let Some(counters) = program.counters() {
        let carried = counters.get(&format!("{kind}_{CARRIER}"));
        assert!(
            carried >= count,
            "{carried} of {count} by {CARRIER}: {counters:#?}"
        );
    }
}

/// Asserts that all links of `program` are shown on queue pairs of a device that is named, and its memory with them.
fn assert_shown_on_queue_pairs(program: &Remote) {
    let Some(shown) = program.shown() else { return };
    let devices = shown["memory"]["devices"].as_array().expect("devices");
    let device = devices.first().expect("a device");
    for count in ["registered_bytes", "used_bytes", "regions", "qps"] {
        assert!(device[count].as_u64() > Some(0), "{count}: {shown:#}");
    }
    let links = shown["links"].as_array().expect("links");
    assert!(!links.is_empty(), "{shown:#}");
    for link in links {
        assert_eq!(link["fabric"], "verbs", "{shown:#}");
        assert_eq!(link["device"], device["name"], "{shown:#}");
        let count = |name: &str| link[name].as_u64().expect("a number");
        assert!(count("qp") > 0 && count("carriers") > 0, "{shown:#}");
        let (work, doorbells) = (count("work_requests"), count("doorbells"));
        assert!(0 < doorbells && doorbells <= work, "{shown:#}");
    }
}

/// A redis-server, listening.
pub fn redis_server(guest: Guest, port: u16, with: With) -> Remote {
    let mut server = command("redis-server", with);
    let at = guest.address(0).to_string();
    server.args([
        "--port",
        &port.to_string(),
        "--bind",
        &at,
        "--save",
        "",
        "--protected-mode",
        "no",
    ]);
    let server = guest.spawn(&server);
    guest.wait_listening(port);
    server
}

/// One of redis' clients, with where the server is.
pub fn redis_client(program: &str, guest: Guest, port: u16, with: With) -> Command {
    let mut client = command(program, with);
    client.args(["-h", &guest.address(0).to_string(), "-p", &port.to_string()]);
    client
}

/// A value of 100,000 bytes set in one guest is read back, and redis-benchmark's 20 clients are served.
fn redis(with: With) -> Remote {
    let (here, there, port) = (Guest::local(), Guest::peer(), port());
    let server = redis_server(there, port, with);
    let cli = |words: &[&str]| {
        let mut cli = redis_client("redis-cli", there, port, with);
        cli.args(words);
        here.spawn(&cli).success()
    };
    let value = "0123456789".repeat(10_000);
    assert_eq!(cli(&["set", "key", &value]).trim(), "OK");
    assert_eq!(cli(&["get", "key"]).trim(), value);
    let mut benchmark = redis_client("redis-benchmark", there, port, with);
    let words = "-c 20 -n 2000 -d 512 -r 1000 --csv -t set,get";
    benchmark.args(words.split_whitespace());
    let table = here.spawn(&benchmark).success();
    for name in ["\"SET\"", "\"GET\""] {
        assert!(table.contains(name), "{table}");
    }
    // What redis itself counted: every request of both came.
    let stats = cli(&["info", "commandstats"]);
    for name in ["cmdstat_set:calls=2001,", "cmdstat_get:calls=2001,"] {
        assert!(stats.contains(name), "{stats}");
    }
    server
}

#[test]
fn redis_over_kernel_tcp() {
    let before = net::protocol_counters(Guest::local());
    redis(With::Kernel);
    let after = net::protocol_counters(Guest::local());
    assert!(net::grown(&before, &after, "TcpExtTCPOrigDataSent") >= 4_000);
}

#[test]
fn redis_with_the_library_at_both_ends() {
    let server = redis(With::Library);
    // Each SET and GET run of redis-benchmark makes its 20 connections.
    assert_carried(&server, "accepted", 40);
}

/// 20 connections, random pieces both ways: every byte arrives, in order, once.
#[test]
fn streams_with_the_library_at_both_ends() {
    const CONNECTIONS: u64 = 20;
    let (here, there) = (Guest::local(), Guest::peer());
    let at = format!("{}:{}", there.address(0), port());
    let start = |guest: Guest, role: &str, way: &str| {
        let mut program = peer_command(role, With::Library);
        program.args([way, &at, "--seed", "7", "--hold", "--deadline", "100"]);
        program.args(["--conns", &CONNECTIONS.to_string(), "--total", "4000000"]);
        guest.spawn(&program)
    };
    let server = start(there, "stream-server", "--listen");
    server.wait_for(|line| line == "listening");
    let client = start(here, "stream-client", "--connect");
    let verdicts: [Value; 2] = [client.verdict(), server.verdict()];
    for verdict in &verdicts {
        assert_eq!(verdict["ok"], true, "{verdict:#}");
        assert_eq!(verdict["connections"], CONNECTIONS, "{verdict:#}");
    }
    for (sent, received) in [("sent", "received"), ("sent_crc", "received_crc")] {
        assert_eq!(verdicts[0][sent], verdicts[1][received]);
        assert_eq!(verdicts[1][sent], verdicts[0][received]);
    }
    assert_carried(&client, "connected", CONNECTIONS);
    assert_carried(&server, "accepted", CONNECTIONS);
    for program in [&client, &server] {
        assert_shown_on_queue_pairs(program);
    }
    for program in [client, server] {
        program.release();
        program.success();
    }
}
