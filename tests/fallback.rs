//! Whatever stands in the way of a link: the connection works over kernel TCP, and the reason is kept.

mod common;

use common::counters::{Counters, assert_accelerated, assert_left_to_kernel};
use common::proc::{Proc, output};
use common::services::{Manner, Service, Silent};
use common::{ANSWER_LIMIT, With, bare, command, peer_command, ports};
use serde_json::Value;
use std::net::TcpListener;
use std::process::Command;

const CONNECTIONS: u64 = 10;
/// More than any hello; less than anything an application sends here.
const HELLO_AT_MOST: usize = 128;

/// Why a peer's side port was of no use, in whatever way the client found out.
const NO_PEER: &[&str] = &[
    "side_port_refused",
    "side_port_foreign",
    "side_port_timeout",
    "handshake_timeout",
    "not_netacc",
];

fn server_command(at: &str, with: With) -> Command {
    let mut command = peer_command("stream-server", with);
    command.args([
        "--listen", at, "--conns", "10", "--total", "1000000", "--hold",
    ]);
    command
}

fn server(at: &str, with: With) -> Proc {
    let proc = Proc::start(server_command(at, with));
    proc.wait_listening();
    proc
}

fn client_command(at: &str, with: With) -> Command {
    let mut command = peer_command("stream-client", with);
    command.args([
        "--connect",
        at,
        "--conns",
        "10",
        "--total",
        "1000000",
        "--hold",
    ]);
    command
}

fn client(at: &str, with: With) -> Proc {
    Proc::start(client_command(at, with))
}

/// A server at `port`, and a client that does not wait too long for an answer at the side port.
fn run_with_foreign_side_port(port: u16, server_with: With) -> (Proc, Proc) {
    let at = local(port);
    let server = server(&at, server_with);
    let mut command = client_command(&at, With::Library);
    command.env(ANSWER_LIMIT, "3000");
    let client = Proc::start(command);
    assert_works(&server, &client);
    (server, client)
}

/// The application's own view: all connections carried everything.
fn assert_works(server: &Proc, client: &Proc) {
    for proc in [server, client] {
        let verdict: Value = proc.verdict();
        assert_eq!(verdict["ok"], true, "{verdict:#}");
        assert_eq!(verdict["connections"], CONNECTIONS, "{verdict:#}");
    }
}

/// Server and client at `at`; both have finished their work and are still there.
fn run(at: &str, server_with: With, client_with: With) -> (Proc, Proc) {
    let server = server(at, server_with);
    let client = client(at, client_with);
    assert_works(&server, &client);
    (server, client)
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[test]
fn server_without_netacc() {
    let (_server, client) = run(&local(ports::pair()), With::Kernel, With::Library);
    assert_left_to_kernel(client.pid(), NO_PEER);
}

#[test]
fn server_without_netacc_ipv6() {
    let at = format!("[::1]:{}", ports::pair());
    let (_server, client) = run(&at, With::Kernel, With::Library);
    assert_left_to_kernel(client.pid(), NO_PEER);
}

#[test]
fn client_without_netacc() {
    let (server, _client) = run(&local(ports::pair()), With::Library, With::Kernel);
    if let Some(counters) = Counters::of(server.pid()) {
        assert_eq!(counters.accelerated(), 0, "{counters:#?}");
        assert_eq!(counters.get("accepted_tcp"), CONNECTIONS, "{counters:#?}");
    }
}

#[test]
fn side_port_taken() {
    let port = ports::pair();
    let _taken = TcpListener::bind(("0.0.0.0", port + ports::SIDE)).expect("the side port");
    let (server, client) = run_with_foreign_side_port(port, With::Library);
    assert_left_to_kernel(server.pid(), &["side_port_taken"]);
    assert_left_to_kernel(client.pid(), NO_PEER);
}

#[test]
fn side_port_out_of_range() {
    let (server, client) = run(&local(ports::without_side()), With::Library, With::Library);
    for proc in [&server, &client] {
        assert_left_to_kernel(proc.pid(), &["side_port_out_of_range"]);
    }
}

#[test]
fn switched_off() {
    let port = ports::pair();
    let at = local(port);
    let off = |mut command: Command| {
        command.env("NACC_FABRICS", "none");
        Proc::start(command)
    };
    let server = off(server_command(&at, With::Library));
    server.wait_listening();
    // Nobody stands in the way of another program there.
    let _free = TcpListener::bind(("127.0.0.1", port + ports::SIDE)).expect("the side port");
    let client = off(client_command(&at, With::Library));
    assert_works(&server, &client);
    for proc in [&server, &client] {
        assert_left_to_kernel(proc.pid(), &["disabled"]);
    }
}

fn foreign(manner: Manner) {
    let port = ports::pair();
    let service = Service::start(port + ports::SIDE, manner);
    let (_server, client) = run_with_foreign_side_port(port, With::Kernel);
    assert_left_to_kernel(client.pid(), NO_PEER);
    let looks = Counters::of(client.pid()).map_or(0, |counters| counters.get("hellos_sent"));
    let heard = service.wait_for_connections(looks as usize);
    // One look for all connections (another if these took more than a second), and no application's byte in it.
    assert!(
        bare() || (1..CONNECTIONS / 2).contains(&looks),
        "{looks} looks"
    );
    assert_eq!(heard.len() as u64, looks, "connections to it: {heard:?}");
    assert!(
        heard.iter().all(|sent| sent.len() <= HELLO_AT_MOST),
        "{heard:?}"
    );
}

#[test]
fn foreign_redis_like() {
    foreign(Manner::Redis);
}

#[test]
fn foreign_http_like() {
    foreign(Manner::Http);
}

#[test]
fn foreign_mute() {
    foreign(Manner::Mute);
}

#[test]
fn foreign_closer() {
    foreign(Manner::Closer);
}

#[test]
fn foreign_garbage() {
    foreign(Manner::Garbage);
}

fn redis(port: u16) -> Proc {
    let mut command = command("redis-server", With::Kernel);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    command.args(["--save", "", "--appendonly", "no", "--logfile", "/dev/null"]);
    let mut proc = Proc::start(command);
    proc.wait_for_port(port);
    proc
}

fn redis_cli(port: u16, with: With, words: &[&str]) -> String {
    let mut command = command("redis-cli", with);
    command.args(["-p", &port.to_string()]).args(words);
    // Redis says nothing to a hello, in which it waits for the end of a line.
    command.env_remove(ANSWER_LIMIT);
    output(command).trim_end().to_string()
}

/// A real Redis on the side port of a real Redis, as a Sentinel on 26379 is.
#[test]
fn foreign_real_redis() {
    let port = ports::pair();
    let (_server, _other) = (redis(port), redis(port + ports::SIDE));
    let clean = redis_cli(port + ports::SIDE, With::Kernel, &["info", "errorstats"]);
    for n in 0..5 {
        let (key, value) = (format!("key{n}"), format!("value{n}"));
        assert_eq!(redis_cli(port, With::Library, &["set", &key, &value]), "OK");
        assert_eq!(redis_cli(port, With::Library, &["get", &key]), value);
    }
    // The application's commands went to the right one, and nothing but commands reached it.
    assert_eq!(redis_cli(port, With::Kernel, &["dbsize"]), "5");
    assert_eq!(
        redis_cli(port + ports::SIDE, With::Kernel, &["dbsize"]),
        "0"
    );
    assert_eq!(
        redis_cli(port, With::Kernel, &["info", "errorstats"]),
        clean
    );
}

/// Nobody answers on the side port, not even with a refusal.
#[test]
fn side_port_drops_syn() {
    let port = ports::pair();
    let _silent = Silent::start(port + ports::SIDE);
    let (_server, client) = run_with_foreign_side_port(port, With::Kernel);
    assert_left_to_kernel(client.pid(), &["side_port_timeout", "not_netacc"]);
}

/// While it turns out that nobody there speaks NetACC, the connection is one that is being made: not one that
/// is hung up, as epoll tells of a socket that nobody has connected.
#[test]
fn connecting_looks_like_connecting() {
    const PORTS: u16 = 128;
    let first = ports::pairs(PORTS);
    let _listeners: Vec<TcpListener> = (first..first + PORTS)
        .map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a listener"))
        .collect();
    let mut client = command("python3", With::Library);
    client.arg("tests/programs/connecting.py");
    client.args([first.to_string(), PORTS.to_string()]);
    assert_eq!(output(client).trim_end(), "128 of 128");
}

/// A server that was preloaded and comes back without: what a client has learnt is out of date.
#[test]
fn server_comes_back_without_netacc() {
    let at = local(ports::pair());
    let (mut first, _client) = run(&at, With::Library, With::Library);
    assert_accelerated(first.pid(), CONNECTIONS);
    first.kill();
    first.finish();
    let (_second, client) = run(&at, With::Kernel, With::Library);
    assert_left_to_kernel(client.pid(), NO_PEER);
}

#[test]
fn ipv6_is_accelerated() {
    let (server, client) = run(
        &format!("[::1]:{}", ports::pair()),
        With::Library,
        With::Library,
    );
    assert_accelerated(server.pid(), CONNECTIONS);
    assert_accelerated(client.pid(), CONNECTIONS);
}

/// A listener on :: and clients that come by IPv4, in either notation.
#[test]
fn mapped_addresses() {
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "[::1]"] {
        let port = ports::pair();
        let server = server(&format!("[::]:{port}"), With::Library);
        let client = client(&format!("{host}:{port}"), With::Library);
        assert_works(&server, &client);
        assert_accelerated(server.pid(), CONNECTIONS);
        assert_accelerated(client.pid(), CONNECTIONS);
    }
}

#[test]
fn any_address() {
    let port = ports::pair();
    let server = server(&format!("0.0.0.0:{port}"), With::Library);
    let client = client(&local(port), With::Library);
    assert_works(&server, &client);
    assert_accelerated(server.pid(), CONNECTIONS);
}
