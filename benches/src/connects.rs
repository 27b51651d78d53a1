//! Connections that carry one byte: how many a client opens, uses and closes in a second, and a server takes in.

use std::collections::VecDeque;
use std::io::{Error, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The byte.
const SAID: u8 = b'!';
/// Connections before the clock starts: peers find each other meanwhile.
const FIRST: u64 = 16;

/// Connections that the client has open at a time: fewer than a backlog holds, or the kernel would drop some, and wait
/// for a second.
const UNDER_WAY: usize = 32;

/// Takes connections in for ever, one byte of each, and closes them.
///
/// # Errors
/// The kernel's, or another byte.
pub fn serve(at: SocketAddr) -> Result<Value> {
    let listener = TcpListener::bind(at)?;
    let mut taken = 0u64;
    loop {
        let (mut stream, from) = listener.accept()?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        if byte[0] != SAID {
            return Ok(json!({"ok": false, "from": from.to_string(), "taken": taken}));
        }
        taken += 1;
    }
}

/// Opens connections for so long, and closes each when the server has: how many in a second.
///
/// # Errors
/// The kernel's, or bytes that nobody sent.
pub fn measure(server: SocketAddr, time: Duration) -> Result<Value> {
    for _ in 0..FIRST {
        end(begin(server)?)?;
    }
    let mut open = VecDeque::new();
    let begun = Instant::now();
    let mut made = 0u64;
    while begun.elapsed() < time {
        open.push_back(begin(server)?);
        if open.len() == UNDER_WAY {
            open.pop_front().map_or(Ok(()), end)?;
            made += 1;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    open.into_iter().try_for_each(end)?;
    Ok(json!({"per_second": made as f64 / took}))
}

fn begin(server: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(&[SAID])?;
    Ok(stream)
}

fn end(mut stream: TcpStream) -> Result<()> {
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(Error::other("a byte came that nobody has sent")),
    }
}
