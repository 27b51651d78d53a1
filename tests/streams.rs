//! 200 connections over one link, both directions at once, random pieces, slow readers: every byte
//! arrives, in order, once.

mod common;

use common::counters::Counters;
use common::proc::Proc;
use common::{With, peer_command, ports};
use serde_json::Value;

const CONNECTIONS: u64 = 200;

fn start(role: &str, seed: u64, more: &[String]) -> Proc {
    let mut command = peer_command(role, With::Library);
    // All of them on one link: that is what is tested.
    command.env("NACC_SOR_CONN_PER_QP", "1000");
    command
        .args(["--seed", &seed.to_string(), "--hold"])
        .args(more);
    command.args(["--conns", &CONNECTIONS.to_string(), "--deadline", "100"]);
    Proc::start(command)
}

fn assert_clean(verdict: &Value, seed: u64) {
    assert_eq!(verdict["ok"], true, "seed {seed}: {verdict:#}");
    assert_eq!(verdict["connections"], CONNECTIONS, "seed {seed}");
}

fn one_run(host: &str, seed: u64, bytes: &[&str]) {
    let at = format!("{host}:{}", ports::pair());
    let more = |way: &str| {
        let mut words = vec![way.to_string(), at.clone()];
        words.extend(bytes.iter().map(|word| word.to_string()));
        words
    };
    let mut server = start("stream-server", seed, &more("--listen"));
    server.wait_listening();
    let mut client = start("stream-client", seed, &more("--connect"));
    let (from_client, from_server) = (client.verdict(), server.verdict());
    assert_clean(&from_client, seed);
    assert_clean(&from_server, seed);
    for (sent, received) in [("sent", "received"), ("sent_crc", "received_crc")] {
        assert_eq!(from_client[sent], from_server[received], "seed {seed}");
        assert_eq!(from_server[sent], from_client[received], "seed {seed}");
    }
    for (proc, opened) in [(&client, "connected_shm"), (&server, "accepted_shm")] {
        if let Some(counters) = Counters::of(proc.pid()) {
            assert_eq!(counters.get(opened), CONNECTIONS, "{counters:#?}");
            assert_eq!(counters.get("links_opened"), 1, "{counters:#?}");
            let moved = counters.get("tx_bytes") + counters.get("rx_bytes");
            let sum =
                |v: &Value| v["sent"].as_u64().unwrap_or(0) + v["received"].as_u64().unwrap_or(0);
            assert!(moved >= sum(&from_client), "{counters:#?}");
        }
    }
    assert!(client.finish().success());
    assert!(server.finish().success());
}

/// 50 MB over 200 connections, 20 times.
#[test]
fn many_connections_on_one_link() {
    for seed in 1..=20 {
        one_run("127.0.0.1", seed, &["--total", "50000000"]);
    }
}

/// One of the 200 carries 50 MB in each direction by itself.
#[test]
fn one_large_stream_among_many() {
    for seed in 101..=103 {
        one_run(
            "127.0.0.1",
            seed,
            &["--total", "5000000", "--big", "50000000"],
        );
    }
}

#[test]
fn over_ipv6() {
    one_run("[::1]", 201, &["--total", "20000000"]);
}
