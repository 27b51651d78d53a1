//! What containers have and hosts have not: peers in another PID namespace, which have no number here.

mod common;

use common::counters::assert_accelerated;
use common::proc::Proc;
use common::{With, bare, peer_command, ports};
use std::process::Command;

const CONNECTIONS: &str = "10";

/// Puts what follows into PID and mount namespaces of its own, with a /dev/shm of its own, as a container has it: pages
/// of counters are named by the process's number. Who is not root has a user namespace beside.
fn container() -> Command {
    let mut command = Command::new("unshare");
    // SAFETY: it only tells.
    if unsafe { libc::geteuid() } != 0 {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]);
    command.args([
        "sh",
        "-c",
        "mount -t tmpfs none /dev/shm && exec \"$@\"",
        "sh",
    ]);
    command
}

/// `inner`, with its environment, in a container.
fn contained(inner: &Command) -> Command {
    let mut command = container();
    // The library is for the program alone, not for what makes the container.
    command.arg("env");
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => {
                let mut setting = name.to_owned();
                setting.push("=");
                setting.push(value);
                command.arg(setting);
            }
            None => {
                command.env_remove(name);
            }
        }
    }
    command.arg(inner.get_program()).args(inner.get_args());
    command
}

fn client(at: &str) -> Command {
    let mut command = peer_command("stream-client", With::Library);
    command.args(["--connect", at, "--conns", CONNECTIONS, "--total", "100000"]);
    command
}

#[test]
fn clients_in_other_containers_of_this_network_share_memory() {
    let tried = container().arg("true").output();
    if !tried
        .as_ref()
        .is_ok_and(|container| container.status.success())
    {
        println!("not tested: namespaces cannot be made here: {tried:?}");
        return;
    }
    let at = format!("127.0.0.1:{}", ports::pair());
    let mut server = peer_command("stream-server", With::Library);
    server.args([
        "--listen",
        &at,
        "--conns",
        CONNECTIONS,
        "--total",
        "100000",
        "--hold",
    ]);
    let server = Proc::start(server);
    server.wait_listening();
    let mut client = Proc::start(contained(&client(&at)));
    assert_eq!(client.verdict()["ok"], true);
    assert_eq!(server.verdict()["ok"], true);
    assert!(client.finish().success());
    if !bare() {
        assert_accelerated(server.pid(), 10);
    }
}
