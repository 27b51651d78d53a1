//! Real verbs between the guests, by other people's programs: what NetACC's own stand on.

use std::process::Command;

use crate::guest::{Guest, port};
use crate::net::{self, Kind};

const BOTH_WAYS: [(Guest, Guest); 2] = [(Guest::A, Guest::B), (Guest::B, Guest::A)];

fn program(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words);
    command
}

/// Connections made by librdmacm; SEND, RDMA WRITE and RDMA READ with the bytes checked.
///
/// Soft iWARP leaves a first message lying, now and then, that comes as the queue pair is being connected; rping waits
/// for ever then. (NetACC speaks to a mute peer again.) So it has several tries.
#[test]
fn rping_both_ways() {
    for (client, server) in BOTH_WAYS {
        assert!(
            (0..TRIES).any(|_| rping(client, server)),
            "rping from {client:?} came to its end in none of {TRIES} tries"
        );
    }
}

const TRIES: u32 = 8;

/// Whether all of its messages came.
fn rping(client: Guest, server: Guest) -> bool {
    let (port, at) = (port(), server.address(0));
    let before = net::wire_counters(client, 0);
    // Line by line, so that its word that it listens is not kept back.
    let words = format!("-v -V -C 50 -S 1000 -a {at} -p {port}");
    let listening = server.spawn(&program(&format!("stdbuf -oL rping -s -d {words}")));
    listening.wait_for(|line| line.contains("rdma_listen"));
    // Its exit code is 0 whatever happens: only its lines tell.
    let out = client
        .run(&format!("timeout 10 stdbuf -oL rping -c {words}"))
        .out;
    let after = net::wire_counters(client, 0);
    // Each turn is a SEND each way, a READ and a WRITE.
    out.matches("ping data: ").count() == 50 && net::grown(&before, &after, "tx_packets") > 150
}

/// Without librdmacm, waiting for events. iWARP has no way to connect but librdmacm.
#[test]
fn pingpong_both_ways() {
    if Kind::of_this_run() == Kind::Siw {
        let refused = Guest::local().run("timeout 20 ibv_rc_pingpong -d siw0 -g 0 10.7.0.2");
        assert_ne!(
            refused.code, 0,
            "siw connects without librdmacm: test it too"
        );
        return;
    }
    for (client, server) in BOTH_WAYS {
        let port = port();
        let line = format!("ibv_rc_pingpong -d rxe0 -g 1 -e -n 500 -p {port}");
        let before = net::hw_counters(client, "rxe0");
        let listening = server.spawn(&program(&line));
        server.wait_listening(port);
        let out = client.must(&format!("{line} {}", server.address(2)));
        assert!(out.contains("500 iters"), "{out}");
        listening.success();
        let after = net::hw_counters(client, "rxe0");
        assert!(net::grown(&before, &after, "sent_pkts") >= 500);
    }
}
