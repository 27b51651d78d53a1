//! Connections that are opened fast, between the guests: the cases of tests/programs/fast.py.

use crate::common::{With, command, script};
use crate::guest::{Guest, port};

/// Runs a case over verbs. At least so many connections are opened fast, and so many of these come to stand.
fn pass(case: &str, fast: u64, stood: u64) {
    let (here, there) = (Guest::local(), Guest::peer());
    let port = port().to_string();
    let start = |guest: Guest, side: Option<&str>| {
        let mut program = command("python3", With::Library);
        program.args([&script("fast.py"), case, port.as_str()]);
        program.args(side).env("NACC_FABRICS", "verbs");
        program.env("NACC_FAST_CONNECT", "1");
        program.env("FAST_HOST", there.address(0).to_string());
        guest.spawn(&program)
    };
    let server = start(there, None);
    server.wait_for(|line| line == "ready");
    let client = start(here, Some("client"));
    for side in [&server, &client] {
        side.wait_for(|line| line == "over");
    }
    if let Some(counters) = server.counters() {
        let opened = counters.get("accepted_fast");
        assert!(opened >= fast, "{counters:#?}");
        assert!(counters.get("fast_stood") >= stood, "{counters:#?}");
    }
    for side in [&server, &client] {
        side.release();
        side.success();
    }
}

#[test]
fn fast_connections_between_hosts() {
    pass("half", 3, 0);
    pass("epoll", 100, 0);
}

#[test]
fn fast_connections_between_hosts_come_to_stand() {
    pass("kernel", 20, 20);
    pass("fork", 5, 5);
}
