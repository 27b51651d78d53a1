//! Connections that leave their process for programs that may not have the library: by exec, by SCM_RIGHTS, with a child.
//! The kernel's connection alone must have all, byte for byte, whatever is under way.

mod common;

use common::counters::Counters;
use common::echo::programs;
use common::proc::Proc;
use common::{With, command, ports, script};

/// A server that gives its connection to `who`, and its client; what they say, and what was handed back at the client.
fn leaves(case: &str, who: &str, with: With) -> (String, Option<u64>) {
    let port = ports::pair();
    let script = script("leaving.py");
    let mut server = command("python3", with);
    server.args([&script, case, who, &port.to_string()]);
    server.args(programs());
    let mut server = Proc::start(server);
    server.wait_for_port(port);
    if case.starts_with("accepted") {
        assert_eq!(server.line().as_deref(), Some("accepting"), "{case} {who}");
    }
    let mut client = command("python3", with);
    let how = match case.starts_with("fleeting") {
        true => "fleeting",
        false => "client",
    };
    client.args([&script, how, &port.to_string()]);
    let mut client = Proc::start(client);
    let mut said = client.line().unwrap_or_default();
    said.push('\n');
    let counters = (with == With::Library).then(|| Counters::of(client.pid()));
    let handed_back = counters
        .flatten()
        .map(|counters| counters.get("handed_back"));
    client.tell("");
    assert!(client.finish().success());
    said.push_str(&server.rest());
    server.finish();
    (said, handed_back)
}

/// Runs a case over the kernel and with the library: all must say the same, and `handed_back` tells where the connection was
/// in the end.
fn check(case: &str, who: &str, handed_back: u64) {
    let (kernel, _) = leaves(case, who, With::Kernel);
    let whole = kernel.starts_with("client: all of it\n") || kernel.contains("40000 bytes, ");
    assert!(whole, "{case} {who}: {kernel}");
    let (library, counted) = leaves(case, who, With::Library);
    assert_eq!(kernel, library, "{case} {who}");
    assert_eq!(counted.unwrap_or(handed_back), handed_back, "{case} {who}");
}

/// How long the connections of [`connections_change_hands`] do so, in seconds. (`make chaos` goes on for longer.)
const CHAOS: &str = "8";

#[test]
fn connections_change_hands() {
    let (port, script) = (ports::pair(), script("chaos.py"));
    let chaos = |side: &str| {
        let mut command = command("python3", With::Library);
        command.args([&script, side, &port.to_string(), CHAOS, "1"]);
        command
    };
    let mut server = chaos("serve");
    server.arg(&programs()[0]);
    let mut server = Proc::start(server);
    server.wait_for_port(port);
    let mut client = Proc::start(chaos("connect"));
    let said = client.line().unwrap_or_default();
    let whole = said.split_once(" whole, ").map(|(count, _)| count.parse());
    assert!(matches!(whole, Some(Ok(1_u64..))), "{said}");
    assert_eq!(
        server.line().as_deref(),
        Some("no child and 0 descriptors left")
    );
    if let Some(counters) = Counters::of(client.pid()) {
        assert!(counters.accelerated() > 0, "{counters:#?}");
        assert!(counters.get("handed_back") > 0, "{counters:#?}");
    }
    client.tell("");
    // One line for each way in which a stream was not whole.
    assert_eq!(client.rest(), "");
    server.tell("");
    client.finish();
    server.finish();
}

const EVERYBODY: [&str; 3] = ["static", "dynamic", "without"];

#[test]
fn a_program_replaces_the_server() {
    for who in EVERYBODY {
        check("replaced", who, 1);
    }
    check("replaced_by_execl", "dynamic", 1);
    check("cannot_be_replaced", "dynamic", 1);
}

#[test]
fn a_child_runs_a_program() {
    for who in EVERYBODY {
        for case in ["inetd", "sshd", "grandchild"] {
            check(case, who, 1);
        }
    }
}

#[test]
fn a_program_is_started_without_fork() {
    for who in EVERYBODY {
        for case in ["popen", "pass_fds", "spawn", "spawn_closing", "system"] {
            check(case, who, 1);
        }
    }
}

#[test]
fn commands_leave_connections_alone() {
    check("commands", "dynamic", 0);
}

#[test]
fn a_connection_is_passed() {
    for who in EVERYBODY {
        for case in ["passed", "passed_by_child"] {
            check(case, who, 1);
        }
    }
    check("passed_within", "dynamic", 1);
    check("passed_by_library", "dynamic", 1);
}

#[test]
fn a_connection_is_taken() {
    for case in ["taken", "taken_from_child"] {
        check(case, "dynamic", 1);
    }
    check("fleeting_taken", "dynamic", 0);
}

#[test]
fn who_has_no_descriptor_has_no_claim() {
    check("claimed_by_nobody", "dynamic", 0);
}

/// A client that is stopped cannot hold its server up for each of its connections.
#[test]
fn the_client_is_stopped() {
    for case in [
        "passed",
        "replaced",
        "child",
        "popen",
        "must_not_wait",
        "waits",
    ] {
        let run = |with| {
            let port = ports::pair();
            let mut server = command("python3", with);
            server.args([script("stopped.py"), case.to_string(), port.to_string()]);
            server.arg(&programs()[0]);
            let server = Proc::start(server);
            server.rest()
        };
        let kernel = run(With::Kernel);
        assert!(!kernel.is_empty(), "{case}");
        assert_eq!(kernel, run(With::Library), "{case}");
    }
}

#[test]
fn the_client_is_gone_before_anything_is_read() {
    for who in EVERYBODY {
        for case in ["replaced", "inetd", "popen", "passed"] {
            check(&format!("fleeting_{case}"), who, 0);
        }
    }
}

#[test]
fn a_parent_ends() {
    check("becomes_a_daemon", "dynamic", 1);
    check("is_killed", "dynamic", 1);
}

#[test]
fn listeners_are_given_away() {
    for who in EVERYBODY {
        for case in ["accepted_by_program", "accepted_by_child"] {
            check(case, who, 0);
        }
    }
    check("accepted_by_receiver", "dynamic", 0);
}
