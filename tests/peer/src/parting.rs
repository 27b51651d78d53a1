//! A process that ends right after its last write: what it has written arrives, and then the end.

use crate::args::Args;
use crate::pattern::{Direction, Pattern};
use crate::{sys, verdict};
use serde_json::json;
use std::thread;

/// Bytes of one write.
const PIECE: usize = 50_000;

fn numbers(args: &Args) -> (u64, u64, u64) {
    let number = |name, default| args.number(name, default);
    (
        number("seed", 1),
        number("conns", 1),
        number("total", 1_000_000),
    )
}

/// `parting-sender --connect ADDR --end exit|_exit`: writes `--total` bytes on each connection and closes none.
pub fn sender(args: &Args) -> ! {
    let (seed, conns, total) = numbers(args);
    let addr = args.addr("connect");
    let open = |index: u64| {
        let fd = sys::connected(addr).unwrap_or_else(|e| panic!("connection {index}: {e}"));
        assert_eq!(sys::send(fd, &index.to_le_bytes(), 0), Ok(8));
        fd
    };
    let fds: Vec<i32> = (0..conns).map(open).collect();
    let mut bytes = vec![0; PIECE];
    for at in (0..total).step_by(PIECE) {
        let piece = &mut bytes[..PIECE.min((total - at) as usize)];
        for (index, &fd) in fds.iter().enumerate() {
            Pattern::new(seed, index as u64, Direction::ToServer).fill(at, piece);
            let mut sent = 0;
            while sent < piece.len() {
                sent += sys::send(fd, &piece[sent..], 0).expect("send");
            }
        }
    }
    match args.text("end") {
        // SAFETY: ends the process, as a program does that wants no exit handlers to run.
        Some("_exit") => unsafe { libc::_exit(0) },
        _ => std::process::exit(0),
    }
}

/// Reads a connection to its end: its number, its length, whether it carried the right bytes, and how it ended.
fn drain(fd: i32, seed: u64) -> (u64, u64, String) {
    let mut index = [0; 8];
    assert_eq!(sys::recv(fd, &mut index, libc::MSG_WAITALL), Ok(8));
    let index = u64::from_le_bytes(index);
    let pattern = Pattern::new(seed, index, Direction::ToServer);
    let mut buf = vec![0; 65_536];
    let mut received = 0;
    let end = loop {
        match sys::recv(fd, &mut buf, 0) {
            Ok(0) => break "eof".to_string(),
            Ok(n) => match pattern.check(received, &buf[..n]) {
                Ok(()) => received += n as u64,
                Err(at) => break format!("wrong byte at offset {at}"),
            },
            Err(error) => break error.to_string(),
        }
    };
    (index, received, end)
}

/// `parting-receiver --listen ADDR`: takes `--conns` connections in.
pub fn receiver(args: &Args) -> ! {
    let (seed, conns, total) = numbers(args);
    let listener = sys::listener(args.addr("listen"), 128).expect("listen");
    verdict::listening();
    let accept = |_| {
        let fd = sys::accept4(listener, libc::SOCK_CLOEXEC).expect("accept4");
        thread::spawn(move || drain(fd, seed))
    };
    let threads: Vec<_> = (0..conns).map(accept).collect();
    let drained = threads.into_iter().map(|t| t.join().expect("a reader"));
    let failed: Vec<String> = drained
        .filter(|(_, received, end)| *received != total || end != "eof")
        .map(|(index, received, end)| format!("connection {index}: {received} bytes, then {end}"))
        .collect();
    let verdict = json!({"ok": failed.is_empty(), "errors": failed});
    verdict::finish(verdict, args.has("hold"))
}
