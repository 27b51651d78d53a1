//! Fast connect (NACC_FAST_CONNECT): connections that are opened by a record on a live link, without the kernel, are like
//! any others to the programs that have them; and whatever needs a kernel's connection behind one gets it.
//!
//! Each case is one of tests/programs/fast.py, which holds over kernel TCP, too.

mod common;

use std::path::Path;

use common::counters::Counters;
use common::proc::Proc;
use common::{With, bare, command, command_with, library, ports, script, special};

const FAST: &str = "NACC_FAST_CONNECT";

/// The server of a case and its client, until both are through with it; and their counters then.
fn run_with(case: &str, libraries: [&Path; 2], fast: [&str; 2]) -> Option<[Counters; 2]> {
    let port = ports::pair().to_string();
    let start = |side: usize| {
        let mut command = command_with("python3", libraries[side]);
        let words = [script("fast.py"), case.to_owned(), port.clone()];
        command.args(words).args((side == 1).then_some("client"));
        command.env(FAST, fast[side]);
        Proc::start(command)
    };
    let mut server = start(0);
    assert_eq!(server.line().as_deref(), Some("ready"));
    let mut client = start(1);
    for side in [&server, &client] {
        assert_eq!(side.line().as_deref(), Some("over"), "{case}");
    }
    let counters = (!bare())
        .then(|| [&server, &client].map(|side| Counters::of(side.pid()).expect("not bare")));
    for side in [&mut server, &mut client] {
        side.tell("");
        assert!(side.finish().success());
    }
    counters
}

/// Runs a case with the mode on at both ends. At least so many connections are opened fast, and so many of these come to
/// stand, as the server sees it.
fn run(case: &str, least_fast: u64, least_stood: u64) -> Option<[Counters; 2]> {
    let counters = run_with(case, [&library(), &library()], ["1", "1"]);
    if let Some([server, client]) = &counters {
        let [fast, stood] = ["accepted_fast", "fast_stood"].map(|name| server.get(name));
        assert!(fast >= least_fast, "{server:#?}");
        assert!(stood >= least_stood, "{server:#?}");
        assert!(client.get("connected_fast") >= least_fast, "{client:#?}");
    }
    counters
}

/// Declares one test for each case, with how many of its connections are opened fast at least, and how many come to stand.
macro_rules! cases {
    ($($case:ident $fast:literal $stood:literal;)+) => {
        $(#[test]
        fn $case() {
            run(stringify!($case), $fast, $stood);
        })+
    };
}

cases! {
    at_once 1000 0;
    few 150 0;
    gone 1 0;
    epoll 1000 0;
    poll 200 0;
    full 1 0;
    closed 2 0;
    half 3 0;
    killed 1 0;
    asked 2 0;
    kernel 20 20;
    fork 5 5;
    forked_client 4 4;
    exec 2 1;
    spawn 2 2;
    shell 2 2;
    passed 2 1;
}

/// 100,000 of them, one after the other: each is from where it says, and carries what was sent.
#[test]
fn many() {
    if let Some([server, client]) = run("many", 90_000, 0) {
        for counters in [&server, &client] {
            assert_eq!(counters.accelerated() + counters.kernel(), 100_003);
            assert_eq!(counters.get("fast_stood"), 0, "{counters:#?}");
        }
        assert_eq!(server.get("accepted_fast"), client.get("connected_fast"));
    }
}

#[test]
fn nothing_is_opened_fast_unless_both_ends_want_it() {
    for fast in [["0", "1"], ["1", "0"], ["0", "0"]] {
        let ours = library();
        let Some(both) = run_with("half", [&ours, &ours], fast) else {
            return;
        };
        for counters in both {
            assert_eq!(counters.get("accepted_fast"), 0, "{fast:?}");
            assert_eq!(counters.get("connected_fast"), 0, "{fast:?}");
            assert_eq!(counters.accelerated(), 6, "{fast:?} {counters:#?}");
        }
    }
}

#[test]
fn a_peer_of_an_older_version_is_connected_the_safe_way() {
    if bare() {
        return;
    }
    let (ours, older) = (library(), special::older());
    for libraries in [[ours.as_path(), older], [older, ours.as_path()]] {
        for counters in run_with("half", libraries, ["1", "1"]).expect("not bare") {
            assert_eq!(
                counters.get("accepted_fast") + counters.get("connected_fast"),
                0
            );
            assert_eq!(counters.accelerated(), 6, "{counters:#?}");
        }
    }
}

/// The cases themselves hold over kernel TCP.
#[test]
fn kernel_tcp_does_the_same() {
    for case in ["half", "closed", "kernel", "shell", "passed"] {
        let port = ports::pair().to_string();
        let start = |side: Option<&str>| {
            let mut command = command("python3", With::Kernel);
            command
                .args([&script("fast.py"), case, port.as_str()])
                .args(side);
            Proc::start(command)
        };
        let mut server = start(None);
        assert_eq!(server.line().as_deref(), Some("ready"));
        let mut client = start(Some("client"));
        for side in [&mut server, &mut client] {
            assert_eq!(side.line().as_deref(), Some("over"), "{case}");
            side.tell("");
        }
        assert!(server.finish().success() && client.finish().success());
    }
}
