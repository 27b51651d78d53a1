//! Processes of two users of one host (`NACC_SHM_PEERS`), and of two user namespaces.

use std::process::Command;

use crate::common::counters::Counters;
use crate::common::proc::Proc;
use crate::common::{With, bare, command, library, ports, script};

/// A user that owns nothing.
const OTHER: &str = "54321";

/// steady.py by these words before it, with that setting.
fn steady(by: &[&str], peers: &str, arguments: &[&str]) -> Proc {
    let mut command = command("env", With::Library);
    command.args(by).arg("/usr/bin/python3");
    command.arg("-B").arg(script("steady.py")).args(arguments);
    command.env("NACC_SHM_PEERS", peers);
    Proc::start(command)
}

/// How many connections of the other user's process to one of ours share memory, as these settings have it. The client is told
/// why, if none does and it is to know.
fn tries(by: &[&str], server_allows: &str, client_allows: &str, reason: Option<&str>) -> u64 {
    let port = ports::pair();
    let mut server = steady(&[], server_allows, &["serve", &port.to_string()]);
    server.wait_for_port(port);
    let mut client = steady(by, client_allows, &["connect", &port.to_string(), "1"]);
    assert_eq!(client.line().as_deref(), Some("whole"));
    assert_eq!(client.line().as_deref(), Some("done"));
    let counters = Counters::of(server.pid()).expect("counters");
    if let Some(reason) = reason {
        let counters = Counters::of(client.pid()).expect("counters");
        assert_eq!(counters.fallbacks(&[reason]), 1);
    }
    client.tell("");
    client.finish();
    server.tell("");
    server.finish();
    counters.get("accepted_shm")
}

fn can(words: &[&str]) -> bool {
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .args(["test", "-r"])
        .arg(library());
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn memory_is_shared_with_whom_both_sides_name() {
    let other = ["setpriv", "--reuid", OTHER, "--clear-groups"];
    if bare() || !can(&other) {
        eprintln!("not tried: only root can be two users");
        return;
    }
    let refused = Some("peer_other_user");
    assert_eq!(tries(&[], "same-uid", "same-uid", None), 1);
    assert_eq!(tries(&other, "same-uid", "same-uid", refused), 0);
    assert_eq!(tries(&other, "same-user-ns", "same-uid", refused), 0);
    // The client would; the server does not hand anything over.
    assert_eq!(
        tries(&other, "same-uid", "same-user-ns", Some("peer_refused")),
        0
    );
    assert_eq!(tries(&other, "same-user-ns", "same-user-ns", None), 1);
    assert_eq!(tries(&other, "any", "any", None), 1);
    let apart = [&other[..], &["unshare", "--user"]].concat();
    if can(&apart) {
        assert_eq!(tries(&apart, "same-user-ns", "same-user-ns", None), 0);
        assert_eq!(tries(&apart, "same-user-ns", "any", None), 0);
        assert_eq!(tries(&apart, "any", "any", None), 1);
    }
}
