//! Hand-back: connections leave their link for the kernel's connection behind them, at an exact byte in each
//! direction, whichever end begins it and whatever is under way.

mod common;

use common::counters::Counters;
use common::proc::Proc;
use common::{With, command, ports};

/// Of its 24 connections tests/programs/hand_back.py has so many handed back.
const HANDED_BACK: u64 = 18;

fn floods(side: &str, port: u16) -> Proc {
    let script = format!("{}/tests/programs/hand_back.py", env!("CARGO_MANIFEST_DIR"));
    let mut command = command("python3", With::Library);
    command.args([&script, side, &port.to_string()]);
    Proc::start(command)
}

/// Its connections were whole, and `handed_back` of them went to the kernel.
fn check(mut program: Proc, connections: usize, handed_back: u64) {
    for number in 0..connections {
        assert_eq!(program.line(), Some(format!("{number} whole")));
    }
    assert_eq!(program.line().as_deref(), Some("over"));
    if let Some(counters) = Counters::of(program.pid()) {
        assert_eq!(counters.get("handed_back"), handed_back, "{counters:#?}");
        // One that is handed back before it is accepted is accepted as the kernel's.
        let early = counters.get("accepted_tcp");
        assert_eq!(
            counters.accelerated() + early,
            connections as u64,
            "{counters:#?}"
        );
    }
    program.tell("");
    assert!(program.finish().success());
}

#[test]
fn streams_between_processes() {
    let port = ports::pair();
    let server = floods("serve", port);
    assert_eq!(server.line().as_deref(), Some("ready"));
    let client = floods("connect", port);
    check(client, 24, HANDED_BACK);
    check(server, 24, HANDED_BACK);
}

#[test]
fn streams_of_a_process_with_itself() {
    let both = floods("self", ports::pair());
    assert_eq!(both.line().as_deref(), Some("ready"));
    check(both, 48, 2 * HANDED_BACK);
}

/// A server that forks, and its client; what they say. `handed_back` counts at the server.
fn forks(case: &str, with: With) -> (String, Option<u64>) {
    let port = ports::pair();
    let script = format!("{}/tests/programs/forking.py", env!("CARGO_MANIFEST_DIR"));
    let words = [script.as_str(), case, &port.to_string()];
    let mut server = command("python3", with);
    server.args(words);
    let mut server = Proc::start(server);
    server.wait_for_port(port);
    let mut client = command("python3", with);
    client.args(words).arg("client");
    let mut client = Proc::start(client);
    assert!(client.finish().success());
    let mut said = client.rest();
    server.tell("");
    let mut handed_back = None;
    while let Some(line) = server.line() {
        if line == "over" {
            let library = (with == With::Library).then(|| Counters::of(server.pid()));
            handed_back = library
                .flatten()
                .map(|counters| counters.get("handed_back"));
            break;
        }
        said.push_str(&line);
        said.push('\n');
    }
    assert!(server.finish().success());
    (said, handed_back)
}

#[test]
fn connections_across_fork() {
    for (case, handed_back) in [
        ("child_serves", 1),
        ("each_half", 1),
        ("back_to_parent", 1),
        ("child_waits", 1),
        ("grandchild", 1),
        ("orphaned_grandchild", 1),
        ("untouched", 0),
        ("child_closes", 1),
        ("shut_before", 1),
        ("client_is_gone", 1),
        ("parent_exits", 1),
        ("left_in_a_will", 1),
        ("left_to_a_later_child", 1),
    ] {
        let (kernel, _) = forks(case, With::Kernel);
        assert!(
            kernel.ends_with('\n') && !kernel.contains("wrong"),
            "{case}: {kernel}"
        );
        let (library, counted) = forks(case, With::Library);
        assert_eq!(kernel, library, "{case}");
        assert_eq!(counted.unwrap_or(handed_back), handed_back, "{case}");
    }
}
