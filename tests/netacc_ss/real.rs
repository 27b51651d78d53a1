//! What real programs with the library show: each end its own view of one connection.

use serde_json::Value;

use crate::common::proc::Proc;
use crate::common::{self, With, bare, ports};
use crate::formats::report;
use crate::output;

fn held(role: &str, port: u16, with: With, settings: &[(&str, &str)]) -> Proc {
    held_at("127.0.0.1", role, port, with, settings)
}

fn held_at(address: &str, role: &str, port: u16, with: With, settings: &[(&str, &str)]) -> Proc {
    let mut command = common::command("python3", with);
    command.args([
        "-B",
        &common::script("held.py"),
        role,
        &port.to_string(),
        address,
    ]);
    command.envs(settings.iter().copied());
    Proc::start(command)
}

/// A server and a client that have done their work and hold their connection.
fn pair(port: u16, server: With, client: With, settings: &[(&str, &str)]) -> (Proc, Proc) {
    let server = held("serve", port, server, settings);
    with_client(server, || held("connect", port, client, settings))
}

/// The same, both with the library.
fn of_different_settings(
    port: u16,
    server: &[(&str, &str)],
    client: &[(&str, &str)],
) -> (Proc, Proc) {
    let server = held("serve", port, With::Library, server);
    with_client(server, || held("connect", port, With::Library, client))
}

fn with_client(server: Proc, client: impl FnOnce() -> Proc) -> (Proc, Proc) {
    server.wait_listening();
    let client = client();
    for end in [&client, &server] {
        assert_eq!(end.line().as_deref(), Some("done"));
    }
    (server, client)
}

/// The connection (no listener) that a process shows.
fn connection(process: &Proc) -> Value {
    let report = report(&["-j", "-p", &process.pid().to_string()]);
    let all = report["processes"][0]["connections"].as_array().unwrap();
    let mut streams = all.iter().filter(|conn| conn["state"] != "listen");
    let one = streams.next().unwrap_or_else(|| panic!("{report:#}"));
    assert!(streams.next().is_none(), "{report:#}");
    one.clone()
}

fn reason(process: &Proc) -> String {
    let conn = connection(process);
    assert_eq!(conn["mode"], "tcp", "{conn:#}");
    // The kernel knows it, too.
    assert_eq!(conn["kernel_state"], "estab", "{conn:#}");
    let name = conn["reason"]["name"].as_str().unwrap().to_owned();
    let text = output(&["-s", "sock", "-p", &process.pid().to_string()]);
    let sentence = conn["reason"]["sentence"].as_str().unwrap();
    assert!(text.contains(sentence), "{text}");
    name
}

#[test]
fn an_accelerated_connection_at_both_ends() {
    if bare() {
        return;
    }
    let port = ports::pair();
    let (server, client) = pair(port, With::Library, With::Library, &[]);
    let (here, there) = (connection(&client), connection(&server));
    for (end, conn) in [("client", &here), ("server", &there)] {
        assert_eq!(conn["mode"], "shm", "{end}: {conn:#}");
        assert_eq!(conn["state"], "estab", "{end}: {conn:#}");
        assert_eq!(conn["reason"], Value::Null, "{end}: {conn:#}");
    }
    assert_eq!(here["local"], there["peer"]);
    assert_eq!(here["peer"], there["local"]);
    assert_eq!(there["local"]["port"], port);
    assert_eq!(
        (&here["tx_bytes"], &here["tx_messages"]),
        (&60.into(), &3.into())
    );
    // Less than a quarter of a window was read: the client does not hear of it.
    assert_eq!(here["tx_queue"], 60);
    assert_eq!(
        (&there["rx_bytes"], &there["rx_messages"]),
        (&10.into(), &2.into())
    );
    assert_eq!(there["rx_queue"], 50);
}

#[test]
fn both_ends_show_the_configuration_in_force() {
    if bare() {
        return;
    }
    let settings = [("NACC_SPIN_US", "7")];
    let (server, _client) = pair(ports::pair(), With::Library, With::Library, &settings);
    let text = output(&["-s", "cfg", "-p", &server.pid().to_string()]);
    let line = text
        .lines()
        .find(|line| line.contains("NACC_SPIN_US"))
        .unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..2], ["NACC_SPIN_US", "7"], "{text}");
    let key = |name: &str| {
        text.lines()
            .any(|line| line.split_whitespace().next() == Some(name))
    };
    for known in netacc::config::keys::KEYS {
        assert!(key(known.name), "{} in\n{text}", known.name);
    }
}

#[test]
fn a_client_without_netacc_is_explained_where_it_was_accepted() {
    if bare() {
        return;
    }
    let (server, _client) = pair(ports::pair(), With::Library, With::Kernel, &[]);
    assert_eq!(reason(&server), "client_without_netacc");
}

#[test]
fn a_server_without_netacc_is_explained_where_it_was_connected_to() {
    if bare() {
        return;
    }
    let port = ports::pair();
    let (_server, client) = pair(port, With::Kernel, With::Library, &[]);
    assert_eq!(reason(&client), "side_port_refused");
    let conn = connection(&client);
    assert_ne!(conn["local"]["port"], 0, "{conn:#}");
    assert_eq!(conn["peer"]["port"], port, "{conn:#}");
}

#[test]
fn a_listener_without_a_side_port_gives_its_reason_to_both_ends() {
    if bare() {
        return;
    }
    let (server, client) = pair(ports::without_side(), With::Library, With::Library, &[]);
    assert_eq!(reason(&server), "side_port_out_of_range");
    assert_eq!(reason(&client), "side_port_out_of_range");
}

/// What process `end` tells of the reason that the process at the other end has.
fn reason_there(end: &Proc) -> (Value, String) {
    let text = output(&["-s", "sock", "-p", &end.pid().to_string()]);
    (connection(end)["other_end"].clone(), text)
}

#[test]
fn the_accepting_end_tells_why_its_client_left_the_connection_to_the_kernel() {
    if bare() {
        return;
    }
    let port = ports::pair();
    let except = format!(":{port}");
    let settings = [("NACC_PEERS_EXCEPT", except.as_str())];
    let (server, client) = of_different_settings(port, &[], &settings);
    assert_eq!(reason(&client), "left_alone");
    assert_eq!(reason(&server), "client_without_netacc");
    let (there, text) = reason_there(&server);
    assert_eq!(there["pid"], client.pid(), "{there:#}");
    assert_eq!(there["reason"]["name"], "left_alone", "{there:#}");
    let told = there["reason"]["sentence"].as_str().unwrap();
    for part in ["client_without_netacc (there: left_alone)", told] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    // The end that decided has nothing to ask.
    assert_eq!(reason_there(&client).0, Value::Null);
}

#[test]
fn a_client_without_netacc_has_no_reason_to_tell() {
    if bare() {
        return;
    }
    let (server, _client) = pair(ports::pair(), With::Library, With::Kernel, &[]);
    let (there, text) = reason_there(&server);
    assert_eq!(there, Value::Null);
    assert!(!text.contains("(there:"), "{text}");
}

#[test]
fn a_server_that_refuses_tells_its_client_why() {
    if bare() {
        return;
    }
    let port = ports::pair();
    let (_server, client) = of_different_settings(port, &[("NACC_PEERS", "192.0.2.1")], &[]);
    let (there, text) = reason_there(&client);
    assert_eq!(reason(&client), "peer_refused");
    assert_eq!(there["reason"]["name"], "left_alone", "{text}");
}

#[test]
fn a_server_that_has_refused_a_hello_knows_why_its_client_comes_as_any_other() {
    if bare() {
        return;
    }
    // The kernel gives who connects to 127.0.0.2 another address: as if from another host.
    let (address, port) = ("127.0.0.2", ports::pair());
    let shares = |name| [("NACC_FABRICS", name)];
    let server = held_at(address, "serve", port, With::Library, &shares("loop"));
    let client = || held_at(address, "connect", port, With::Library, &shares("shm"));
    let (server, client) = with_client(server, client);
    assert_eq!(reason(&client), "no_common_fabric");
    assert_eq!(reason(&server), "no_common_fabric");
}
