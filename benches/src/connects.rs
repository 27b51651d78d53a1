//! Connections that carry one byte: how many a client opens, uses and closes in a second, and a server takes in.

use std::io::{Error, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The byte.
const SAID: u8 = b'!';
/// Connections before the clock starts: peers find each other meanwhile.
const FIRST: u64 = 16;

/// Connections that the client opens before it waits for their ends: fewer than a backlog holds, or the kernel would drop
/// some, and wait for a second.
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
    let begun = Instant::now();
    let mut made = 0;
    while begun.elapsed() < time {
        let open: Result<Vec<_>> = (0..UNDER_WAY).map(|_| begin(server)).collect();
        // The server takes them in one after the other: when the last has ended, all have.
        open?.into_iter().rev().try_for_each(end)?;
        made += UNDER_WAY;
    }
    Ok(json!({"per_second": made as f64 / begun.elapsed().as_secs_f64()}))
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
