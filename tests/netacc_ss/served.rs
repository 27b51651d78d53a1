//! `--listen`: the same text over HTTP, asked for in good order and in bad.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{self, PATIENCE, proc};
use crate::formats::samples;
use crate::page_process::{PageProcess, page_path};
use crate::serve;

/// `netacc_ss --listen`, ended when dropped.
struct Server {
    child: Child,
    at: SocketAddr,
}

impl Server {
    fn start(mut command: Command, address: &str) -> Server {
        command.args(["--listen", address]);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = proc::spawn(&mut command).expect("netacc_ss");
        let mut line = String::new();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        said.read_line(&mut line).unwrap();
        let at = line
            .strip_prefix("netacc_ss: serving http://")
            .and_then(|rest| rest.trim_end().strip_suffix("/metrics"))
            .unwrap_or_else(|| panic!("it said {line:?}"));
        let at = at.parse().unwrap();
        Server { child, at }
    }

    fn tool() -> Server {
        Server::start(Command::new(env!("CARGO_BIN_EXE_netacc_ss")), "0")
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends `request` and returns the status line's number and the body.
    fn ask(&self, request: &[u8]) -> (u16, String) {
        let mut stream = self.connect();
        // A server that has answered may not take the rest.
        let _ = stream.write_all(request);
        answer(&mut stream)
    }
}

fn answer(stream: &mut TcpStream) -> (u16, String) {
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    let (head, body) = all
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{all:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    if !body.is_empty() {
        assert_eq!(length, Some(&*body.len().to_string()), "{head}");
    }
    (status, body.to_owned())
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_served_is_what_is_printed() {
    let process = PageProcess::after(&[serve]);
    let server = Server::tool();
    assert!(server.at.ip().is_loopback(), "{}", server.at);
    let (status, body) = server.ask(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
    assert_eq!(status, 200);
    let pid = process.pid.to_string();
    let all = samples(&body);
    let one = all.iter().find(|(name, labels, _)| {
        name == "netacc_rx_bytes_total" && labels.get("pid") == Some(&pid)
    });
    assert_eq!(one.map(|(_, _, value)| *value), Some(4321.0), "{body}");
}

#[test]
fn bad_requests_are_answered_and_do_no_harm() {
    let server = Server::tool();
    let head = |line: &str| format!("{line}\r\n\r\n").into_bytes();
    assert_eq!(server.ask(&head("GET / HTTP/1.1")).0, 404);
    assert_eq!(server.ask(&head("DELETE /metrics HTTP/1.1")).0, 405);
    assert_eq!(server.ask(&head("\u{7f}\0nonsense")).0, 400);
    let endless = vec![b'a'; 20_000];
    assert_eq!(server.ask(&endless).0, 431);
    let (status, body) = server.ask(&head("HEAD /metrics HTTP/1.1"));
    assert_eq!((status, body.as_str()), (200, ""));
    // Gone before it asked, or in the middle.
    drop(server.connect());
    let mut half = server.connect();
    half.write_all(b"GET /met").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    drop(half);
    assert_eq!(server.ask(&head("GET /metrics HTTP/1.1")).0, 200);
}

#[test]
fn clients_that_say_nothing_do_not_stop_the_others_for_ever() {
    let server = Server::tool();
    // More than are served at a time: some are turned away at once, the rest when their time is over.
    let mut silent: Vec<_> = (0..20).map(|_| server.connect()).collect();
    let statuses: Vec<_> = silent.iter_mut().map(|stream| answer(stream).0).collect();
    let count = |status| statuses.iter().filter(|&&s| s == status).count();
    assert!(count(503) >= 1 && count(408) >= 1, "{statuses:?}");
    assert_eq!(count(503) + count(408), 20, "{statuses:?}");
    // Their places are free as soon as they have hung up.
    drop(silent);
    let deadline = Instant::now() + PATIENCE;
    while server.ask(b"GET /metrics HTTP/1.0\r\n\r\n").0 != 200 {
        assert!(Instant::now() < deadline, "nobody is served any more");
    }
}

#[test]
fn an_address_that_is_taken() {
    let server = Server::tool();
    let at = server.at.to_string();
    let said = crate::complaint(&mut crate::netacc_ss(&["--listen", &at]), 1);
    assert!(
        said.contains(&format!("cannot listen on {at}: Address already in use")),
        "{said}"
    );
}

#[test]
fn with_the_library_it_is_neither_accelerated_nor_shown() {
    let command = common::command(env!("CARGO_BIN_EXE_netacc_ss"), common::With::Library);
    let server = Server::start(command, "[::1]:0");
    let (status, body) = server.ask(b"GET /metrics HTTP/1.1\r\n\r\n");
    assert_eq!(status, 200);
    let own = format!("pid=\"{}\"", server.child.id());
    assert!(!body.contains(&own), "{body}");
    assert!(!std::path::Path::new(&page_path(server.child.id())).exists());
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", server.child.id())).unwrap();
    assert!(
        common::bare() || maps.contains("netacc"),
        "the library is not there"
    );
    // Nobody waits at the side port either.
    let side = SocketAddr::new(server.at.ip(), server.at.port().wrapping_add(20_000));
    assert!(TcpStream::connect_timeout(&side, Duration::from_secs(5)).is_err());
}
