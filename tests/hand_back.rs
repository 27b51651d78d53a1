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
