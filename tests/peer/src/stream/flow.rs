//! The two halves of a connection: writing a pattern in random pieces, and reading and checking one.

use crate::pattern::Pattern;
use crate::stream::plan::OPEN;
use crate::sys::{self, Errno, Res};
use crate::verdict;
use std::time::Duration;

/// What one step of a half did.
pub enum Step {
    /// Moved bytes; more can be tried.
    Progress,
    /// The socket gave EAGAIN.
    Blocked,
    /// This half is done.
    Done,
}

const PIECE: usize = 65536;

/// The writing half.
pub struct Tx {
    pattern: Pattern,
    rng: fastrand::Rng,
    piece: Vec<u8>,
    at: usize,
    /// Bytes the socket took.
    pub sent: u64,
    total: u64,
    /// Of the bytes the socket took.
    pub crc: crc32fast::Hasher,
}

impl Tx {
    /// Will write `total` bytes of `pattern`.
    pub fn new(pattern: Pattern, total: u64, seed: u64) -> Tx {
        let rng = fastrand::Rng::with_seed(seed);
        Tx {
            pattern,
            rng,
            piece: Vec::new(),
            at: 0,
            sent: 0,
            total,
            crc: crc32fast::Hasher::new(),
        }
    }

    /// One write; after the last byte, the half-close.
    pub fn step(&mut self, fd: i32) -> Result<Step, String> {
        if self.sent == self.total || self.total == OPEN && verdict::is_released() {
            return match sys::shutdown(fd, libc::SHUT_WR) {
                Ok(_) => Ok(Step::Done),
                // The other side has closed, and has read everything: its verdict says whether it has.
                Err(Errno(libc::ENOTCONN)) => Ok(Step::Done),
                Err(e) => Err(format!("shutdown: {e}")),
            };
        }
        if self.at == self.piece.len() {
            // Many small pieces, some large ones: the size's magnitude is what is random.
            let magnitude = 1usize << self.rng.u32(0..17);
            let n = (self.rng.usize(1..=magnitude.min(PIECE)) as u64).min(self.total - self.sent);
            self.piece.resize(n as usize, 0);
            self.pattern.fill(self.sent, &mut self.piece);
            self.at = 0;
        }
        match write_some(fd, &mut self.piece[self.at..], &mut self.rng) {
            Ok(0) => Err(format!(
                "a write of {} bytes returned 0",
                self.piece.len() - self.at
            )),
            Ok(n) => {
                self.crc.update(&self.piece[self.at..self.at + n]);
                self.at += n;
                self.sent += n as u64;
                Ok(Step::Progress)
            }
            Err(Errno(libc::EAGAIN)) => Ok(Step::Blocked),
            Err(e) => Err(format!(
                "write after {} of {} bytes: {e}",
                self.sent, self.total
            )),
        }
    }
}

/// The reading half.
pub struct Rx {
    pattern: Pattern,
    rng: fastrand::Rng,
    buf: Vec<u8>,
    /// Bytes read and found right.
    pub received: u64,
    total: u64,
    /// Of the bytes read.
    pub crc: crc32fast::Hasher,
    /// The end of the stream came, where it was due.
    pub ended: bool,
    pauses: u32,
}

impl Rx {
    /// Expects `total` bytes of `pattern`, then the end.
    pub fn new(pattern: Pattern, total: u64, seed: u64, slow: bool) -> Rx {
        let rng = fastrand::Rng::with_seed(seed);
        let pauses = if slow { 100 } else { 0 };
        Rx {
            pattern,
            rng,
            buf: vec![0; PIECE],
            received: 0,
            total,
            crc: crc32fast::Hasher::new(),
            ended: false,
            pauses,
        }
    }

    /// How long a slow reader looks away before its next read, if it does.
    pub fn pause(&mut self) -> Option<Duration> {
        self.pauses = self.pauses.checked_sub(1)?;
        Some(Duration::from_micros(self.rng.u64(..4000)))
    }

    /// One read, checked byte by byte.
    pub fn step(&mut self, fd: i32) -> Result<Step, String> {
        let slow = self.pauses > 0;
        let n = if slow {
            self.rng.usize(1..512)
        } else {
            1 << self.rng.usize(4..17)
        };
        match read_some(fd, &mut self.buf[..n], &mut self.rng) {
            Ok(0) if self.received == self.total || self.total == OPEN => {
                self.ended = true;
                Ok(Step::Done)
            }
            Ok(0) => Err(format!(
                "end of stream after {} of {} bytes",
                self.received, self.total
            )),
            Ok(n) => {
                let got = &self.buf[..n];
                self.pattern
                    .check(self.received, got)
                    .map_err(|at| format!("wrong byte at offset {at}"))?;
                self.crc.update(got);
                self.received += n as u64;
                if self.received > self.total {
                    return Err(format!(
                        "{} bytes, {} more than were sent",
                        self.received,
                        self.received - self.total
                    ));
                }
                Ok(Step::Progress)
            }
            Err(Errno(libc::EAGAIN)) => Ok(Step::Blocked),
            Err(e) => Err(format!(
                "read after {} of {} bytes: {e}",
                self.received, self.total
            )),
        }
    }
}

/// A write by one of the calls that write.
fn write_some(fd: i32, buf: &mut [u8], rng: &mut fastrand::Rng) -> Res<usize> {
    match rng.u8(..4) {
        0 => sys::write(fd, buf),
        1 => sys::send(fd, buf, libc::MSG_NOSIGNAL),
        2 => {
            let cut = rng.usize(..=buf.len());
            let sizes = [cut, buf.len() - cut];
            sys::writev(fd, &sys::iovecs(buf, &sizes))
        }
        _ => {
            let cut = rng.usize(..=buf.len());
            let sizes = [cut, 0, buf.len() - cut];
            let mut iov = sys::iovecs(buf, &sizes);
            sys::sendmsg(fd, &sys::msghdr(&mut iov), libc::MSG_NOSIGNAL)
        }
    }
}

/// A read by one of the calls that read.
fn read_some(fd: i32, buf: &mut [u8], rng: &mut fastrand::Rng) -> Res<usize> {
    match rng.u8(..4) {
        0 => sys::read(fd, buf),
        1 => sys::recv(fd, buf, 0),
        2 => {
            let cut = rng.usize(..=buf.len());
            let sizes = [cut, buf.len() - cut];
            sys::readv(fd, &sys::iovecs(buf, &sizes))
        }
        _ => {
            let cut = rng.usize(..=buf.len());
            let sizes = [cut, 0, buf.len() - cut];
            let mut iov = sys::iovecs(buf, &sizes);
            sys::recvmsg(fd, &mut sys::msghdr(&mut iov), 0)
        }
    }
}
