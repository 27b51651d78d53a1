//! Upgrades while programs run: libraries of two protocol versions talk, also where connections leave their process; a
//! peer with no version in common is left to the kernel; the library's file is replaced under programs that use it.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::counters::{Counters, assert_left_to_kernel};
use common::echo::programs;
use common::proc::Proc;
use common::{
    PATIENCE, With, bare, command, command_with, peer, peer_command, ports, script, special,
};
use netacc::control::wire::{Answer, Frame, Hello, Host, MAX_FRAME, Parsed, Verdict};
use netacc::fabric::FabricKind;

/// Whose library a program has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Is {
    /// That of this tree.
    New,
    /// The same with version 1 of the protocol only.
    Old,
    /// Nobody's.
    Bare,
}

impl Is {
    fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match self {
            Is::New => command(program, With::Library),
            Is::Old => command_with(program, special::older()),
            Is::Bare => command(program, With::Kernel),
        }
    }

    /// Runs a program of tests/programs.
    fn runs(self, name: &str, words: &[&str]) -> Proc {
        let mut command = self.command("python3");
        command.arg(script(name)).args(words);
        Proc::start(command)
    }
}

/// The pairs of server and client in which one or both are old.
const PAIRS: [[Is; 2]; 3] = [[Is::New, Is::Old], [Is::Old, Is::New], [Is::Old, Is::Old]];

/// What `netacc_ss` says of a process in one line.
fn told(pid: u32) -> String {
    let mut command = Command::new(common::netacc_ss());
    command.args(["-s", "proc", "-p", &pid.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = common::proc::spawn(&mut command).expect("netacc_ss");
    let out = child.wait_with_output().expect("netacc_ss");
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
}

#[test]
fn streams_between_versions() {
    const CONNECTIONS: u64 = 20;
    for pair in PAIRS {
        let at = format!("127.0.0.1:{}", ports::pair());
        let start = |is: Is, role: &str, way: &str| {
            let mut command = is.command(peer());
            command.args([role, way, &at, "--conns", &CONNECTIONS.to_string()]);
            command.args(["--total", "10000000", "--hold"]);
            Proc::start(command)
        };
        let mut server = start(pair[0], "stream-server", "--listen");
        server.wait_listening();
        let mut client = start(pair[1], "stream-client", "--connect");
        let (from_client, from_server) = (client.verdict(), server.verdict());
        for verdict in [&from_client, &from_server] {
            assert_eq!(verdict["ok"], true, "{pair:?}: {verdict:#}");
            assert_eq!(verdict["connections"], CONNECTIONS, "{pair:?}");
        }
        for (sent, received) in [("sent", "received"), ("sent_crc", "received_crc")] {
            assert_eq!(from_client[sent], from_server[received], "{pair:?}");
            assert_eq!(from_server[sent], from_client[received], "{pair:?}");
        }
        for (is, proc) in pair.into_iter().zip([&server, &client]) {
            if let Some(counters) = Counters::of(proc.pid()) {
                let shm = counters.get("connected_shm") + counters.get("accepted_shm");
                assert_eq!(shm, CONNECTIONS, "{pair:?}: {counters:#?}");
                let oldest_and_newest = match is {
                    Is::Old => (1, 1),
                    _ => (1, 2),
                };
                let said = (
                    counters.get("protocol_oldest"),
                    counters.get("protocol_newest"),
                );
                assert_eq!(said, oldest_and_newest, "{is:?}");
            }
        }
        assert!(client.finish().success());
        assert!(server.finish().success());
    }
}

/// A server with `workers` processes that share its listener, and a client with many connections. How many connections of
/// the workers were accelerated, of 44.
fn talks_to_workers(pair: [Is; 2], how: &str, workers: usize) -> u64 {
    let port = ports::pair().to_string();
    let server = pair[0].runs("workers_server.py", &[&port, how, &workers.to_string()]);
    let mut pids = Vec::new();
    while let Some(line) = server.line().filter(|line| line != "listening") {
        let pid = line.strip_prefix("worker ").expect("a worker");
        pids.push(pid.parse::<u32>().expect("a process id"));
    }
    let mut client = pair[1].runs("workers_client.py", &[&port]);
    for (words, connections) in [
        ("open 24", 24),
        ("talk 200000", 0),
        ("pass 20", 20),
        ("survivors", 24),
    ] {
        assert_eq!(counted(&mut client, words), connections, "{pair:?} {how}");
    }
    pids.into_iter()
        .filter_map(Counters::of)
        .map(|counters| counters.get("accepted_shm"))
        .sum()
}

/// Has tests/programs/workers_client.py do something: how many connections were concerned.
fn counted(client: &mut Proc, words: &str) -> usize {
    client.tell(words);
    sum_of(&client.line().unwrap_or_else(|| panic!("'{words}' failed")))
}

/// The sum of what it says of each worker.
fn sum_of(said: &str) -> usize {
    let pairs = said.split_whitespace().skip(1);
    pairs
        .map(|pair| {
            pair.split_once(':')
                .expect("WORKER:COUNT")
                .1
                .parse::<usize>()
                .expect("a count")
        })
        .sum()
}

#[test]
fn workers_that_share_a_listener() {
    for pair in PAIRS {
        for how in ["accept", "epoll"] {
            // Who does not understand that another process has taken it goes by the kernel.
            talks_to_workers(pair, how, 4);
            let shm = talks_to_workers(pair, how, 1);
            assert!(bare() || shm >= 40, "{pair:?} {how}: {shm} of 44");
        }
    }
}

/// One end's connection leaves its process. All is there, whatever the other end's version is.
fn leaves(case: &str, pair: [Is; 2]) -> String {
    let port = ports::pair();
    let at = port.to_string();
    let [fixed, free] = programs()
        .each_ref()
        .map(|path| path.to_str().expect("a name"));
    let mut server = pair[0].runs("leaving.py", &[case, "dynamic", &at, fixed, free]);
    server.wait_for_port(port);
    let mut client = pair[1].runs("leaving.py", &["client", &at]);
    let mut said = client.line().unwrap_or_default();
    said.push('\n');
    client.tell("");
    assert!(client.finish().success());
    said.push_str(&server.rest());
    server.finish();
    said
}

#[test]
fn connections_leave_their_process() {
    // To programs that have the library: a peer of version 1 cannot send again what was sent before.
    for case in ["replaced", "inetd", "popen", "commands"] {
        let kernel = leaves(case, [Is::Bare, Is::Bare]);
        assert!(
            kernel.starts_with("client: all of it\n"),
            "{case}: {kernel}"
        );
        for pair in PAIRS {
            assert_eq!(leaves(case, pair), kernel, "{case} {pair:?}");
        }
    }
}

fn forks(case: &str, pair: [Is; 2]) -> String {
    let port = ports::pair();
    let at = port.to_string();
    let mut server = pair[0].runs("forking.py", &[case, &at]);
    server.wait_for_port(port);
    let mut client = pair[1].runs("forking.py", &[case, &at, "client"]);
    assert!(client.finish().success());
    let mut said = client.rest();
    server.release();
    said.push_str(&server.rest());
    assert!(server.finish().success());
    said
}

#[test]
fn children_use_connections() {
    for case in ["child_serves", "grandchild", "untouched", "left_in_a_will"] {
        let kernel = forks(case, [Is::Bare, Is::Bare]);
        assert!(
            kernel.ends_with('\n') && !kernel.contains("wrong"),
            "{case}: {kernel}"
        );
        for pair in PAIRS {
            assert_eq!(forks(case, pair), kernel, "{case} {pair:?}");
        }
    }
}

/// What came from `stream`, which is to be one frame.
fn frame_from(stream: &mut TcpStream) -> Option<Frame> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut bytes = [0; MAX_FRAME];
    let mut got = 0;
    loop {
        match stream.read(&mut bytes[got..]) {
            Ok(n @ 1..) => got += n,
            _ => return None,
        }
        match Frame::parse(&bytes[..got]).expect("a frame") {
            Parsed::Frame(frame, _) => return Some(frame),
            Parsed::Incomplete => {}
        }
    }
}

/// Behind a side port there is somebody of a far later version, who answers so. The application's connections go by the
/// kernel, with the reason.
fn a_later_server(verdict: Verdict) {
    let port = ports::pair();
    let side = TcpListener::bind(("127.0.0.1", port + ports::SIDE)).expect("the side port");
    std::thread::spawn(move || {
        for mut stream in side.incoming().map_while(Result::ok) {
            let Some(Frame::Hello(hello)) = frame_from(&mut stream) else {
                continue;
            };
            assert_eq!((hello.oldest, hello.newest), (1, 2));
            let answer = Answer {
                version: 3,
                verdict,
                fabric: FabricKind::Shm as u8,
                capabilities: u64::MAX,
                window: hello.window,
                pid: 1,
                token: [7; 16],
                rendezvous: [7; 32],
                doors: Vec::new(),
            };
            let _ = stream.write_all(&Frame::Answer(answer).encode());
            // Until the other end has seen enough.
            let _ = stream.read(&mut [0]);
        }
    });
    let at = format!("127.0.0.1:{port}");
    let start = |role: &str, way: &str, with: With| {
        let mut command = peer_command(role, with);
        command.args([way, &at, "--conns", "10", "--total", "1000000", "--hold"]);
        Proc::start(command)
    };
    let server = start("stream-server", "--listen", With::Kernel);
    server.wait_listening();
    let client = start("stream-client", "--connect", With::Library);
    for proc in [&client, &server] {
        let verdict = proc.verdict();
        assert_eq!(verdict["ok"], true, "{verdict:#}");
    }
    assert_left_to_kernel(client.pid(), &["version_mismatch"]);
}

#[test]
fn a_server_that_speaks_later_versions_only() {
    a_later_server(Verdict::Version);
}

#[test]
fn a_server_that_answers_in_a_later_version() {
    a_later_server(Verdict::Yes);
}

/// Says hello at a side port with a range of versions: the answer.
fn greet(port: u16, oldest: u16, newest: u16) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port + ports::SIDE)).expect("the side port");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the boot's name");
    let digits: Vec<u8> = boot.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).expect("digits"), 16);
    let boot: Vec<u8> = digits
        .chunks(2)
        .map(|two| byte(two).expect("a byte"))
        .collect();
    let hello = Hello {
        oldest,
        newest,
        capabilities: u64::MAX,
        host: Host {
            boot_id: boot.try_into().expect("16 bytes"),
            net_ns: std::fs::metadata("/proc/self/ns/net")
                .expect("a namespace")
                .ino(),
        },
        process: [9; 16],
        pid: std::process::id(),
        window: 1 << 20,
        fabrics: vec![FabricKind::Shm as u8],
        wanted: None,
    };
    stream
        .write_all(&Frame::Hello(hello).encode())
        .expect("sent");
    match frame_from(&mut stream) {
        Some(Frame::Answer(answer)) => answer,
        other => panic!("{other:?} is no answer"),
    }
}

#[test]
fn clients_of_other_versions() {
    if bare() {
        return;
    }
    for (server, newest) in [(Is::New, 2), (Is::Old, 1)] {
        let port = ports::pair();
        let proc = server.runs("workers_server.py", &[&port.to_string(), "accept", "1"]);
        while proc.line().expect("it to listen") != "listening" {}
        for (range, verdict, version) in [
            ((3, 3), Verdict::Version, newest),
            ((3, u16::MAX), Verdict::Version, newest),
            ((0, 0), Verdict::Version, 0),
            ((1, 3), Verdict::Yes, newest),
            ((1, 1), Verdict::Yes, 1),
            ((0, u16::MAX), Verdict::Yes, newest),
        ] {
            let answer = greet(port, range.0, range.1);
            assert_eq!(
                (answer.verdict, answer.version),
                (verdict, version),
                "{server:?}: {range:?}"
            );
        }
        // Whoever was not understood is in nobody's way.
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        let mut number = [0; 2];
        stream.read_exact(&mut number).expect("the worker's number");
        assert_eq!(&number, b"0\n");
    }
}

/// Puts another library in the place of the one that runs, as an installation does: the new file is complete when it
/// gets the name.
fn install(library: &Path, at: &Path) {
    let new = at.with_extension("new");
    std::fs::copy(library, &new).expect("a copy");
    std::fs::rename(&new, at).expect("renamed");
}

fn replaced_under_traffic(before: &Path, after: &Path, protocols: [&str; 2]) {
    let directory = tempfile::tempdir().expect("a directory");
    let installed = directory.path().join("libnetacc-preload.so");
    install(before, &installed);
    let start = |name: &str, words: &[&str]| {
        let mut command = command_with("python3", &installed);
        command.arg(script(name)).args(words);
        Proc::start(command)
    };
    let server = |port: u16| {
        let server = start("workers_server.py", &[&port.to_string(), "accept", "1"]);
        let line = server.line().expect("a worker");
        assert_eq!(server.line().as_deref(), Some("listening"));
        let worker = line.strip_prefix("worker ").expect("a worker");
        (worker.parse::<u32>().expect("a process id"), server)
    };
    let client = |port: u16| start("workers_client.py", &[&port.to_string()]);
    let (here, there) = (ports::pair(), ports::pair());
    let (old_worker, _old_server) = server(here);
    let mut old = client(here);
    // It runs already, and connects later.
    let mut waiting = client(there);
    assert_eq!(counted(&mut waiting, "survivors"), 0);
    assert_eq!(counted(&mut old, "open 8"), 8);

    old.tell("talk 3000000");
    install(after, &installed);
    let (new_worker, _new_server) = server(there);
    let mut new = client(here);
    assert_eq!(counted(&mut new, "open 8"), 8);
    assert_eq!(counted(&mut waiting, "open 8"), 8);
    for client in [&mut new, &mut waiting] {
        client.tell("talk 1000000");
    }
    for client in [&mut old, &mut new, &mut waiting] {
        let said = client.line().expect("all of it");
        assert!(said.starts_with("talk"), "{said}");
    }
    for client in [&mut old, &mut new] {
        assert_eq!(counted(client, "open 4"), 4);
        assert_eq!(counted(client, "talk 100000"), 0);
        assert_eq!(counted(client, "survivors"), 12);
    }
    if bare() {
        return;
    }
    for (worker, connections) in [(old_worker, 24), (new_worker, 8)] {
        let shm = Counters::of(worker).map_or(0, |counters| counters.get("accepted_shm"));
        assert!(shm * 10 >= connections * 9, "{shm} of {connections}");
    }
    let version = env!("CARGO_PKG_VERSION");
    let [before, after] = protocols;
    for pid in [old_worker, old.pid(), waiting.pid()] {
        let line = told(pid);
        let end = format!("NetACC {version} (replaced on disk), protocol {before}");
        assert!(line.ends_with(&end), "{line}");
    }
    for pid in [new_worker, new.pid()] {
        let line = told(pid);
        assert!(
            line.ends_with(&format!("NetACC {version}, protocol {after}")),
            "{line}"
        );
    }
    let replaced = |pid| Counters::of(pid).map(|counters| counters.get("library_replaced"));
    assert_eq!([old_worker, new_worker].map(replaced), [Some(1), Some(0)]);
}

#[test]
fn the_library_is_upgraded() {
    replaced_under_traffic(special::older(), &common::library(), ["1", "1-2"]);
}

/// Back to the older one.
#[test]
fn the_library_is_downgraded() {
    replaced_under_traffic(&common::library(), special::older(), ["1-2", "1"]);
}
