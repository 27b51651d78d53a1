//! How fast one connection is: messages there and back, or a stream one way. Blocking calls of the plainest
//! kind only, so that any library that stands in for the kernel's TCP can run it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::args::Args;
use crate::{sys, verdict};

/// Round trips that are made before the measured ones.
const WARM_UP: u32 = 100;
/// Looks at the clock of a stream: one in so many bytes.
const CLOCK_EVERY: usize = 64 << 10;

/// Without SOCK_CLOEXEC and accept4, which not every such library knows.
fn socket(addr: SocketAddr) -> sys::Res<i32> {
    let fd = sys::socket(addr, 0)?;
    sys::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1i32)?;
    Ok(fd)
}

fn send_all(fd: i32, mut bytes: &[u8]) -> sys::Res<()> {
    while !bytes.is_empty() {
        let n = sys::send(fd, bytes, libc::MSG_NOSIGNAL)?;
        bytes = &bytes[n..];
    }
    Ok(())
}

/// Fills `buf`; false at the end of the stream.
fn receive_all(fd: i32, buf: &mut [u8]) -> sys::Res<bool> {
    let mut have = 0;
    while have < buf.len() {
        match sys::recv(fd, &mut buf[have..], 0)? {
            0 => return Ok(false),
            n => have += n,
        }
    }
    Ok(true)
}

/// Serves one connection at `--listen`: sends messages of `--size` back, or, with `--sink`, takes everything
/// and answers with the number of bytes.
pub fn server(args: &Args) -> ! {
    let serve = || -> sys::Res<u64> {
        let addr = args.addr("listen");
        let listener = socket(addr)?;
        sys::setsockopt(listener, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1i32)?;
        sys::bind(listener, addr)?;
        sys::listen(listener, 16)?;
        verdict::listening();
        let (fd, _) = sys::accept(listener)?;
        let served = match args.has("sink") {
            true => sink(fd),
            false => echo(fd, args.number("size", 64) as usize),
        }?;
        sys::close(fd)?;
        Ok(served)
    };
    let report = match serve() {
        Ok(bytes) => json!({"ok": true, "bytes": bytes}),
        Err(error) => json!({"ok": false, "error": error.to_string()}),
    };
    verdict::finish(report, args.has("hold"))
}

fn echo(fd: i32, size: usize) -> sys::Res<u64> {
    let mut message = vec![0; size];
    let mut bytes = 0;
    while receive_all(fd, &mut message)? {
        send_all(fd, &message)?;
        bytes += size as u64;
    }
    Ok(bytes)
}

fn sink(fd: i32) -> sys::Res<u64> {
    let mut buf = vec![0; 64 << 10];
    let mut bytes = 0;
    loop {
        match sys::recv(fd, &mut buf, 0)? {
            0 => break,
            n => bytes += n as u64,
        }
    }
    send_all(fd, &bytes.to_le_bytes())?;
    Ok(bytes)
}

/// Measures for `--ms` milliseconds against the server at `--connect`, with messages of `--size` bytes.
pub fn client(args: &Args) -> ! {
    let measure = || -> sys::Res<serde_json::Value> {
        let addr = args.addr("connect");
        let (size, time) = (args.number("size", 64) as usize, args.number("ms", 1000));
        let fd = socket(addr)?;
        sys::connect(fd, addr)?;
        let time = Duration::from_millis(time).as_nanos() as u64;
        // The connection ends with the process, so that it can be looked at while the process holds.
        match args.has("sink") {
            true => stream(fd, size, time),
            false => ping_pong(fd, size, time),
        }
    };
    let report = measure().unwrap_or_else(|e| json!({"ok": false, "error": e.to_string()}));
    verdict::finish(report, args.has("hold"))
}

fn ping_pong(fd: i32, size: usize, time: u64) -> sys::Res<serde_json::Value> {
    let (message, mut answer) = (vec![7; size], vec![0; size]);
    let mut trip = || -> sys::Res<()> {
        send_all(fd, &message)?;
        match receive_all(fd, &mut answer)? && answer == message {
            true => Ok(()),
            false => Err(sys::Errno(libc::EPROTO)),
        }
    };
    for _ in 0..WARM_UP {
        trip()?;
    }
    let mut trips = Vec::new();
    let start = sys::now_ns();
    let mut last = start;
    while last - start < time {
        trip()?;
        let now = sys::now_ns();
        trips.push(now - last);
        last = now;
    }
    trips.sort_unstable();
    let microseconds = |permille: usize| {
        let at = trips.len() * permille / 1000;
        trips.get(at).map_or(0.0, |ns| *ns as f64 / 1e3)
    };
    Ok(json!({
        "ok": true, "messages": trips.len(),
        "per_second": trips.len() as f64 * 1e9 / (last - start) as f64,
        "p50_us": microseconds(500), "p99_us": microseconds(990), "p999_us": microseconds(999),
    }))
}

fn stream(fd: i32, size: usize, time: u64) -> sys::Res<serde_json::Value> {
    let message = vec![7; size];
    let (mut messages, mut count) = (0u64, [0; 8]);
    let start = sys::now_ns();
    while sys::now_ns() - start < time {
        for _ in 0..CLOCK_EVERY.div_ceil(size) {
            send_all(fd, &message)?;
            messages += 1;
        }
    }
    sys::shutdown(fd, libc::SHUT_WR)?;
    let answered = receive_all(fd, &mut count)?;
    let seconds = (sys::now_ns() - start) as f64 / 1e9;
    let bytes = messages * size as u64;
    Ok(json!({
        "ok": answered && u64::from_le_bytes(count) == bytes, "messages": messages,
        "per_second": messages as f64 / seconds, "mb_per_second": bytes as f64 / seconds / 1e6,
    }))
}
