//! Two processes that take turns, so that the library in them does the same work in every run: what one sends is there
//! before the other asks for it. For counting instructions (`scripts/instructions.py`), not for times.
//!
//! Whose turn it is stands in memory that both share: to hand it over is no call that a library could see.

use std::io::{Error, Read, Result, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::epoll::Epoll;

/// What the two do.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// A message there and one back, by blocking calls.
    PingPong,
    /// The same with a receiver that sleeps before anything is sent.
    Asleep,
    /// Messages one way, 16 KiB of them a turn.
    Stream,
    /// A message on each of the active connections there and back, by epoll.
    Epoll,
}

/// How much of it.
#[derive(Clone, Copy)]
pub struct Load {
    /// Where the server listens, on 127.0.0.1.
    pub port: u16,
    /// What the two do.
    pub work: Work,
    /// Bytes of a message.
    pub size: usize,
    /// Messages there, all connections together.
    pub messages: usize,
    /// Connections with messages.
    pub active: usize,
    /// Connections without.
    pub idle: usize,
}

/// Bytes of a stream that are sent in one turn.
const TURN: usize = 16 << 10;
/// The turn in which the client connects.
const LISTENS: u64 = 1;
/// The turn with which messages begin.
const FIRST: u64 = 2;
/// The turn of nobody: one of the two has failed.
const OVER: u64 = u64::MAX;
/// By then a receiver sleeps that has nothing to do, under callgrind too. (To look whether it does would be calls that a library
/// sees; should it not sleep yet, the message takes fewer instructions.)
const FALLS_ASLEEP: Duration = Duration::from_millis(3);
/// A child's own status when it has failed.
const FAILED: i32 = 1;

/// Even: the client's turn. Odd: the server's.
#[derive(Clone, Copy)]
struct Turns(*const AtomicU64);

impl Turns {
    fn number(self) -> &'static AtomicU64 {
        // SAFETY: mapped for as long as the process runs, and only ever used as an atomic.
        unsafe { &*self.0 }
    }

    /// Waits until there have been so many.
    fn wait(self, wanted: u64) -> Result<()> {
        loop {
            match self.number().load(Ordering::Acquire) {
                OVER => return Err(Error::other("the other process has failed")),
                now if now >= wanted => return Ok(()),
                // SAFETY: no pointers.
                _ => unsafe { libc::sched_yield() },
            };
        }
    }

    fn over(self, number: u64) {
        self.number().store(number, Ordering::Release);
    }
}

/// Runs the load: the parent is the client, its child the server.
///
/// # Errors
/// The kernel's, or bytes that nobody has sent.
pub fn run(load: Load) -> Result<Value> {
    // SAFETY: a fresh mapping, which is all zeros.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<AtomicU64>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    let turns = Turns(page.cast());
    // SAFETY: there is one thread.
    match unsafe { libc::fork() } {
        -1 => Err(Error::last_os_error()),
        0 => {
            let status = match serve(load, turns) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("netacc-bench: the server: {error}");
                    turns.over(OVER);
                    FAILED
                }
            };
            std::process::exit(status)
        }
        child => {
            let asked = ask(load, turns);
            if asked.is_err() {
                turns.over(OVER);
            }
            let mut status = 0;
            // SAFETY: our own child; a pointer to a variable.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            asked?;
            match status {
                0 => Ok(json!({"messages": load.messages})),
                _ => Err(Error::other("the server has failed")),
            }
        }
    }
}

fn serve(load: Load, turns: Turns) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, load.port))?;
    turns.over(LISTENS);
    let mut epoll = Epoll::new()?;
    let mut streams = Vec::new();
    for number in 0..load.active + load.idle {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        if load.work == Work::Epoll {
            epoll.watch(&stream, number)?;
        }
        streams.push(stream);
    }
    let mut buffer = vec![0; TURN.max(load.size)];
    let mut turn = FIRST + 1;
    for messages in rounds(load) {
        match load.work {
            Work::Asleep => {
                streams[0].read_exact(&mut buffer[..load.size])?;
                streams[0].write_all(&buffer[..load.size])?;
            }
            Work::PingPong => {
                turns.wait(turn)?;
                streams[0].read_exact(&mut buffer[..load.size])?;
                streams[0].write_all(&buffer[..load.size])?;
            }
            Work::Stream => {
                turns.wait(turn)?;
                streams[0].read_exact(&mut buffer[..messages * load.size])?;
            }
            Work::Epoll => {
                turns.wait(turn)?;
                answer(
                    &mut epoll,
                    &mut streams,
                    &mut buffer[..load.size],
                    messages,
                    true,
                )?;
            }
        }
        turns.over(turn + 1);
        turn += 2;
    }
    Ok(())
}

fn ask(load: Load, turns: Turns) -> Result<()> {
    turns.wait(LISTENS)?;
    let mut epoll = Epoll::new()?;
    let mut streams = Vec::new();
    for number in 0..load.active + load.idle {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, load.port))?;
        stream.set_nodelay(true)?;
        if load.work == Work::Epoll {
            epoll.watch(&stream, number)?;
        }
        streams.push(stream);
    }
    let message = vec![7; load.size];
    let mut buffer = vec![0; load.size];
    let mut turn = FIRST;
    turns.over(turn);
    for messages in rounds(load) {
        turns.wait(turn)?;
        match load.work {
            Work::PingPong => {
                streams[0].write_all(&message)?;
                turns.over(turn + 1);
                turns.wait(turn + 2)?;
                streams[0].read_exact(&mut buffer)?;
            }
            Work::Asleep => {
                std::thread::sleep(FALLS_ASLEEP);
                streams[0].write_all(&message)?;
                turns.wait(turn + 2)?;
                streams[0].read_exact(&mut buffer)?;
            }
            Work::Stream => {
                for _ in 0..messages {
                    streams[0].write_all(&message)?;
                }
                turns.over(turn + 1);
            }
            Work::Epoll => {
                for stream in &mut streams[..messages] {
                    stream.write_all(&message)?;
                }
                turns.over(turn + 1);
                turns.wait(turn + 2)?;
                answer(&mut epoll, &mut streams, &mut buffer, messages, false)?;
            }
        }
        turn += 2;
    }
    turns.wait(turn)
}

/// How many messages each turn has.
fn rounds(load: Load) -> impl Iterator<Item = usize> {
    let of_one = match load.work {
        Work::PingPong | Work::Asleep => 1,
        Work::Stream => (TURN / load.size).max(1),
        Work::Epoll => load.active,
    };
    std::iter::repeat_n(of_one, load.messages / of_one)
}

/// Reads a message of each of so many connections as epoll tells of them, and sends it back if asked to.
fn answer(
    epoll: &mut Epoll,
    streams: &mut [TcpStream],
    buffer: &mut [u8],
    messages: usize,
    send_back: bool,
) -> Result<()> {
    let mut left = messages;
    while left > 0 {
        for number in epoll.wait(-1)? {
            streams[number].read_exact(buffer)?;
            if send_back {
                streams[number].write_all(buffer)?;
            }
            left -= 1;
        }
    }
    Ok(())
}
