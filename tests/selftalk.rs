//! One process that talks to itself.

mod common;

use common::counters::Counters;
use common::proc::Proc;
use common::{With, peer_command, ports};

fn selftalk(host: &str, seed: u64) {
    let mut command = peer_command("selftalk", With::Library);
    command.args(["--listen", &format!("{host}:{}", ports::pair())]);
    command.args([
        "--seed",
        &seed.to_string(),
        "--conns",
        "50",
        "--total",
        "20000000",
        "--hold",
    ]);
    let mut proc = Proc::start(command);
    let verdict = proc.verdict();
    assert_eq!(verdict["ok"], true, "{verdict:#}");
    assert_eq!(
        verdict["client"]["sent_crc"],
        verdict["server"]["received_crc"]
    );
    assert_eq!(
        verdict["server"]["sent_crc"],
        verdict["client"]["received_crc"]
    );
    if let Some(counters) = Counters::of(proc.pid()) {
        assert_eq!(counters.get("connected_loop"), 50, "{counters:#?}");
        assert_eq!(counters.get("accepted_loop"), 50, "{counters:#?}");
    }
    assert!(proc.finish().success());
}

#[test]
fn over_127_0_0_1() {
    for seed in 1..=5 {
        selftalk("127.0.0.1", seed);
    }
}

#[test]
fn over_ipv6() {
    for seed in 11..=13 {
        selftalk("[::1]", seed);
    }
}
