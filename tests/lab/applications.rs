//! What programs bring along and do that RDMA libraries in the same process do not reckon with.

use crate::carried::{assert_carried, redis_client, redis_server};
use crate::common::{With, bare, command};
use crate::guest::{Guest, port};

/// Debian's redis has an allocator of its own, so that what the C library allocates for the RDMA libraries
/// comes from there, and must go back there.
#[test]
fn programs_with_an_allocator_of_their_own() {
    let (here, there, port) = (Guest::local(), Guest::peer(), port());
    let server = redis_server(there, port, With::Library);
    // It connects, then waits for commands until its input ends.
    let client = here.spawn(&redis_client("redis-cli", there, port, With::Library));
    for (guest, program) in [(here, &client), (there, &server)] {
        let maps = format!("/proc/{}/maps", program.pid());
        // A program that has ended has nothing mapped.
        let mapped = |library| {
            format!(
                "until grep -q /{library} {maps}; do grep -q . {maps} || exit 1; sleep 0.02; done"
            )
        };
        guest.must(&mapped("libjemalloc"));
        if !bare() {
            guest.must(&mapped("librdmacm"));
        }
    }
    let value = "0123456789".repeat(10_000);
    for (words, answer) in [
        (&["set", "key", &value][..], "OK"),
        (&["get", "key"], &value),
    ] {
        let mut cli = redis_client("redis-cli", there, port, With::Library);
        cli.args(words);
        assert_eq!(here.spawn(&cli).success().trim(), answer);
    }
    assert_carried(&client, "connected", 1);
    client.release();
    client.success();
    assert_carried(&server, "accepted", 3);
}

/// Python programs that touch and close whatever descriptors they find, fork, and go on talking.
#[test]
fn programs_that_are_careless_with_descriptors() {
    let (here, there, port) = (Guest::local(), Guest::peer(), port().to_string());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/careless.py");
    let at = there.address(0).to_string();
    // The connection manager's, the device's two, and those of the completion queues.
    let devices = if bare() { "0" } else { "4" };
    let start = |guest: Guest, role| {
        let mut python = command("python3", With::Library);
        python.args([script, role, &at, &port, devices]);
        guest.spawn(&python)
    };
    let server = start(there, "serve");
    there.wait_listening(port.parse().unwrap());
    let client = start(here, "talk");
    client.wait_for(|line| line == "fine");
    server.wait_for(|line| line.starts_with("careless"));
    assert_carried(&client, "connected", 2);
    assert_carried(&server, "accepted", 2);
    client.release();
    client.success();
}

/// What a thread has said goes to its peers although it never waits for anything again.
#[test]
fn programs_that_answer_and_do_not_come_back() {
    let (here, there, port) = (Guest::local(), Guest::peer(), port().to_string());
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/programs/answers_and_leaves.py"
    );
    let at = there.address(0).to_string();
    let start = |guest: Guest, role| {
        let mut python = command("python3", With::Library);
        python.args([script, role, &at, &port]);
        guest.spawn(&python)
    };
    let server = start(there, "serve");
    there.wait_listening(port.parse().unwrap());
    let client = start(here, "ask");
    client.wait_for(|line| line == "heard");
    server.wait_for(|line| line == "served");
    assert_carried(&client, "connected", 2);
    assert_carried(&server, "accepted", 2);
    for program in [client, server] {
        program.release();
        program.success();
    }
}
