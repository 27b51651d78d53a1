//! What settings do in running programs: rules, TCP first, the processors of the I/O threads, sections of the file, and
//! what the log tells of fallbacks.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use common::counters::{Counters, assert_accelerated, assert_left_to_kernel};
use common::proc::Proc;
use common::{PATIENCE, With, bare, command, ports, script};

type Settings<'a> = &'a [(&'a str, &'a str)];

fn start(words: &[&str], with: With, settings: Settings<'_>) -> Proc {
    let mut command = command("python3", with);
    command.arg(script("asking.py")).args(words);
    command.envs(settings.iter().copied());
    Proc::start(command)
}

fn server_at(host: &str, port: u16, with: With, settings: Settings<'_>) -> Proc {
    let server = start(&["serve", host, &port.to_string()], with, settings);
    server.wait_listening();
    server
}

fn server(port: u16, settings: Settings<'_>) -> Proc {
    server_at("127.0.0.1", port, With::Library, settings)
}

fn client(settings: Settings<'_>) -> Proc {
    start(&["ask"], With::Library, settings)
}

/// Has `client` connect, and talk over the connection.
fn ask_at(client: &mut Proc, host: &str, port: u16) {
    client.tell(&format!("{host} {port}"));
    assert_eq!(client.line().as_deref(), Some("answered"));
}

fn ask(client: &mut Proc, port: u16) {
    ask_at(client, "127.0.0.1", port);
}

/// So many connections of `process` were accelerated, and so many left to the kernel for this reason.
fn assert_counts(process: &Proc, accelerated: u64, reason: &str, left: u64) {
    if let Some(counters) = Counters::of(process.pid()) {
        assert_eq!(counters.accelerated(), accelerated, "{counters:#?}");
        assert_eq!(counters.fallbacks(&[reason]), left, "{counters:#?}");
    }
}

#[test]
fn tcp_first_lets_nobody_wait_and_accelerates_later_connections() {
    let port = ports::pair();
    let server = server(port, &[]);
    let mut client = client(&[("NACC_TCP_FIRST", "1")]);
    ask(&mut client, port);
    assert_counts(&client, 0, "tcp_first", 1);
    let deadline = Instant::now() + PATIENCE;
    while Counters::of(client.pid()).is_some_and(|counters| counters.accelerated() == 0) {
        assert!(Instant::now() < deadline, "no link is made");
        ask(&mut client, port);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_accelerated(server.pid(), 1);
}

#[test]
fn tcp_first_learns_that_a_peer_does_not_run_netacc() {
    let port = ports::pair();
    let _server = server_at("127.0.0.1", port, With::Kernel, &[]);
    let mut client = client(&[("NACC_TCP_FIRST", "on")]);
    let deadline = Instant::now() + PATIENCE;
    let knows = |pid| Counters::of(pid).is_none_or(|c| c.fallbacks(&["side_port_refused"]) > 0);
    ask(&mut client, port);
    assert_counts(&client, 0, "tcp_first", 1);
    while !knows(client.pid()) {
        assert!(Instant::now() < deadline, "nothing is found out");
        ask(&mut client, port);
    }
}

#[test]
fn a_client_leaves_ports_and_networks_alone() {
    let first = ports::pairs(2);
    let (one, other) = (server(first, &[]), server(first + 1, &[]));
    let except = format!("10.0.0.0/8, 127.0.0.0/8:{first}");
    let mut client_except = client(&[("NACC_PEERS_EXCEPT", except.as_str())]);
    ask(&mut client_except, first);
    assert_counts(&client_except, 0, "left_alone", 1);
    ask(&mut client_except, first + 1);
    assert_counts(&client_except, 1, "left_alone", 1);

    let mut client_only = client(&[("NACC_PEERS", "10.0.0.0/8, ::1")]);
    ask(&mut client_only, first + 1);
    assert_counts(&client_only, 0, "left_alone", 1);
    assert_counts(&one, 0, "client_without_netacc", 1);
    assert_counts(&other, 1, "client_without_netacc", 1);
}

#[test]
fn a_server_leaves_a_port_alone() {
    let port = ports::pair();
    let rule = format!(":{port}");
    let server = server(port, &[("NACC_PEERS_EXCEPT", rule.as_str())]);
    assert!(
        !ports::is_listening(port + ports::SIDE),
        "nobody knocks there"
    );
    let mut client = client(&[]);
    ask(&mut client, port);
    assert_counts(&client, 0, "side_port_refused", 1);
    assert_left_to_kernel(server.pid(), &["left_alone"]);
}

#[test]
fn a_server_leaves_a_network_alone() {
    let port = ports::pair();
    let rule = ("NACC_PEERS_EXCEPT", "127.0.0.0/8");
    let server = server_at("::", port, With::Library, &[rule]);
    let mut client = client(&[]);
    ask_at(&mut client, "127.0.0.1", port);
    assert_counts(&client, 0, "peer_refused", 1);
    assert_counts(&server, 0, "left_alone", 1);
    ask_at(&mut client, "::1", port);
    assert_counts(&client, 1, "peer_refused", 1);
    assert_counts(&server, 1, "left_alone", 1);
}

#[test]
fn programs_are_left_alone() {
    let port = ports::pair();
    let _server = server(port, &[("NACC_PROGRAMS", "redis-server, python3*")]);
    for (settings, accelerated) in [
        (("NACC_PROGRAMS", "redis-server"), 0),
        (("NACC_PROGRAMS_EXCEPT", "python3"), 0),
        (("NACC_PROGRAMS", "python*"), 1),
        (("NACC_PROGRAMS_EXCEPT", "python"), 1),
    ] {
        let mut client = client(&[settings]);
        ask(&mut client, port);
        assert_counts(&client, accelerated, "left_alone", 1 - accelerated);
    }
}

#[test]
fn a_section_is_for_its_program_alone() {
    let port = ports::pair();
    let _server = server(port, &[]);
    for (name, accelerated) in [("python3", 0), ("another", 1)] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "[program.{name}]\nNACC_FABRICS=\"none\"").unwrap();
        let mut client = client(&[("NACC_CONF", file.path().to_str().unwrap())]);
        ask(&mut client, port);
        assert_counts(&client, accelerated, "disabled", 1 - accelerated);
    }
}

/// Which processors each thread of `process` may run on, by its number: the I/O threads, and the others.
fn processors(process: &Proc) -> [Threads; 2] {
    let mut found = [BTreeMap::new(), BTreeMap::new()];
    for task in fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap() {
        let task = task.unwrap();
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().to_owned()
        };
        let ours = value("Name:") == "netacc-io";
        let number = task.file_name().into_string().unwrap();
        found[usize::from(!ours)].insert(number, value("Cpus_allowed_list:"));
    }
    found
}

#[test]
fn io_threads_run_where_they_are_told_to() {
    if bare() {
        return;
    }
    let port = ports::pairs(3);
    let set = rustix::thread::sched_getaffinity(None).unwrap();
    let last = (0..rustix::thread::CpuSet::MAX_CPU)
        .rfind(|n| set.is_set(*n))
        .unwrap();
    let threads = ("NACC_SOR_IO_THREADS", "2");

    let bound = server(port, &[threads, ("NACC_AFFINITY", &format!("cpu:{last}"))]);
    let free = server(port + 1, &[threads]);
    let each = server(port + 2, &[threads, ("NACC_AFFINITY", "1")]);
    let last = last.to_string();
    // Each thread names and binds itself when it begins to run.
    let (io, others) = settled(&bound, |io| io.values().all(|list| *list == last));
    assert_eq!(io.values().collect::<Vec<_>>(), [&last, &last]);
    let (io, all) = settled(&free, |_| true);
    let all = all.values().next().unwrap();
    assert!(io.values().chain(others.values()).all(|list| list == all));
    let (io, _) = settled(&each, |io| {
        io.values().all(|list| list.parse::<u32>().is_ok())
    });
    if set.count() > 1 {
        let different: std::collections::BTreeSet<_> = io.values().collect();
        assert_eq!(different.len(), 2, "{io:?}");
    }
}

type Threads = BTreeMap<String, String>;

/// What [`processors`] tells of `process` once it has two I/O threads and they are as they should be.
fn settled(process: &Proc, as_should_be: impl Fn(&Threads) -> bool) -> (Threads, Threads) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let [io, others] = processors(process);
        if io.len() == 2 && as_should_be(&io) {
            return (io, others);
        }
        assert!(Instant::now() < deadline, "{io:?}, {others:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_fallback_is_told_once_for_each_cause_and_nothing_unless_asked() {
    let first = ports::pairs(2);
    let _servers = [0, 1].map(|n| server_at("127.0.0.1", first + n, With::Kernel, &[]));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (log, errors) = (path("log"), path("errors"));
    for level in ["off", "info"] {
        let mut command = command("python3", With::Library);
        command.args([&script("asking.py"), "ask"]);
        command.envs([("NACC_LOG", level), ("NACC_LOG_FILE", log.as_str())]);
        command.stderr(File::create(&errors).unwrap());
        let mut client = Proc::start(command);
        for n in 0..20 {
            ask(&mut client, first + n % 2);
        }
        assert!(client.finish().success());
        assert_eq!(fs::read_to_string(&errors).unwrap(), "");
        if level == "off" {
            assert!(!fs::exists(&log).unwrap());
        }
    }
    if bare() {
        return;
    }
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains("netacc::fallback"))
        .collect();
    for port in [first, first + 1] {
        let of_port = lines
            .iter()
            .filter(|line| line.contains(&format!("127.0.0.1:{port}:")));
        let of_port: Vec<_> = of_port.collect();
        assert_eq!(of_port.len(), 1, "{text}");
        assert!(
            of_port[0].contains("kernel TCP for connections to"),
            "{text}"
        );
        assert!(of_port[0].ends_with("reason=side_port_refused"), "{text}");
    }
    assert_eq!(lines.len(), 2, "{text}");
}

/// A server's connections have many peers and one cause.
#[test]
fn hand_backs_are_told_once_at_both_ends() {
    let port = ports::pair();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let logs = [path("server"), path("client")];
    let settings = |n: usize| [("NACC_LOG", "info"), ("NACC_LOG_FILE", logs[n].as_str())];
    let server = server(port, &settings(0));
    let mut client = client(&settings(1));
    for _ in 0..5 {
        client.tell(&format!("127.0.0.1 {port} back"));
        assert_eq!(client.line().as_deref(), Some("answered"));
    }
    if bare() {
        return;
    }
    for process in [&server, &client] {
        let counters = Counters::of(process.pid()).unwrap();
        assert_eq!(counters.get("handed_back"), 5, "{counters:#?}");
    }
    for (log, words) in logs.iter().zip(["connections at", "connections to"]) {
        let text = fs::read_to_string(log).unwrap();
        let line = format!("kernel TCP for {words} 127.0.0.1:{port}: ");
        assert_eq!(text.matches(&line).count(), 1, "{text}");
        assert_eq!(text.matches("reason=handed_back").count(), 1, "{text}");
    }
}

/// Without a file the log goes to standard error.
#[test]
fn who_asks_for_a_log_gets_it() {
    let port = ports::without_side();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("errors");
    let mut command = command("python3", With::Library);
    command.args([
        &script("asking.py"),
        "serve",
        "127.0.0.1",
        &port.to_string(),
    ]);
    command
        .env("NACC_LOG", "info")
        .stderr(File::create(&path).unwrap());
    let server = Proc::start(command);
    server.wait_listening();
    if !bare() {
        let text = fs::read_to_string(&path).unwrap();
        let expected = format!("kernel TCP for the listener at 127.0.0.1:{port}: ");
        assert_eq!(text.matches(&expected).count(), 1, "{text}");
        assert!(text.contains("reason=side_port_out_of_range"), "{text}");
    }
}
