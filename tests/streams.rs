//! 200 connections over one link, both directions at once, random pieces, slow readers: every byte
//! arrives, in order, once.

mod common;

use common::counters::Counters;
use common::proc::Proc;
use common::{With, peer_command, ports};
use serde_json::Value;

const CONNECTIONS: u64 = 200;

/// What links are made of, and how its connections are counted.
type Fabric = (&'static str, &'static str);

const SHM: Fabric = ("shm", "shm");
/// What carries links to other hosts while they have no queue pair. (Counted as what it stands in for.)
const TCP: Fabric = ("tcp", "rdma");

fn start(role: &str, seed: u64, fabric: Fabric, more: &[String]) -> Proc {
    let mut command = peer_command(role, With::Library);
    command.env("NACC_FABRICS", fabric.0);
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

fn one_run(host: &str, seed: u64, fabric: Fabric, bytes: &[&str]) {
    let at = format!("{host}:{}", ports::pair());
    let more = |way: &str| {
        let mut words = vec![way.to_string(), at.clone()];
        words.extend(bytes.iter().map(|word| word.to_string()));
        words
    };
    let mut server = start("stream-server", seed, fabric, &more("--listen"));
    server.wait_listening();
    let mut client = start("stream-client", seed, fabric, &more("--connect"));
    let (from_client, from_server) = (client.verdict(), server.verdict());
    assert_clean(&from_client, seed);
    assert_clean(&from_server, seed);
    for (sent, received) in [("sent", "received"), ("sent_crc", "received_crc")] {
        assert_eq!(from_client[sent], from_server[received], "seed {seed}");
        assert_eq!(from_server[sent], from_client[received], "seed {seed}");
    }
    for (proc, opened) in [(&client, "connected"), (&server, "accepted")] {
        if let Some(counters) = Counters::of(proc.pid()) {
            let opened = counters.get(&format!("{opened}_{}", fabric.1));
            assert_eq!(opened, CONNECTIONS, "{counters:#?}");
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
        one_run("127.0.0.1", seed, SHM, &["--total", "50000000"]);
    }
}

#[test]
fn many_connections_on_one_kernel_stream() {
    for seed in 301..=305 {
        one_run("127.0.0.1", seed, TCP, &["--total", "50000000"]);
    }
}

/// One of the 200 carries 50 MB in each direction by itself.
#[test]
fn one_large_stream_among_many() {
    for seed in 101..=103 {
        one_run(
            "127.0.0.1",
            seed,
            SHM,
            &["--total", "5000000", "--big", "50000000"],
        );
    }
}

#[test]
fn one_large_stream_on_one_kernel_stream() {
    let bytes = ["--total", "5000000", "--big", "50000000"];
    one_run("127.0.0.1", 401, TCP, &bytes);
}

#[test]
fn over_ipv6() {
    one_run("[::1]", 201, SHM, &["--total", "20000000"]);
}
