//! The connection over which one thread is told what to do: raw system calls, which nothing can interpose.

use rustix::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use std::net::SocketAddr;
use std::sync::Mutex;

/// Descriptors of the scenario stay below this, so that they have the numbers they would have anyway.
const HIGH: RawFd = 900;

/// All of this process, for a child to close.
static OPEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Where the kernel tells in which system call a thread is: the thread's number, that file, and its connection.
static CALLS: Mutex<Vec<(i32, RawFd, RawFd)>> = Mutex::new(Vec::new());

/// One thread's connection to the runner.
pub struct Control {
    fd: OwnedFd,
    unread: Vec<u8>,
}

impl Control {
    /// Connects to the runner at `to` and says who this is.
    pub fn new(to: SocketAddr, name: &str) -> rustix::io::Result<Control> {
        let family = match to {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let low = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let fd = rustix::io::fcntl_dupfd_cloexec(&low, HIGH)?;
        drop(low);
        connect(&fd, &to)?;
        set_tcp_nodelay(&fd, true)?;
        OPEN.lock().expect("control").push(fd.as_raw_fd());
        let control = Control {
            fd,
            unread: Vec::new(),
        };
        let pid = rustix::process::getpid().as_raw_nonzero();
        let tid = rustix::thread::gettid().as_raw_nonzero();
        // Not every kernel tells.
        if let Ok(call) = calls_of_this_thread() {
            let own = control.fd.as_raw_fd();
            let mut calls = CALLS.lock().expect("calls");
            calls.push((tid.get(), call.into_raw_fd(), own));
        }
        control.write(&format!("{name} {pid} {tid}"))?;
        Ok(control)
    }

    /// The next line; `None` when the runner is gone.
    pub fn read(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return String::from_utf8(line)
                    .ok()
                    .map(|l| l.trim_end().to_string());
            }
            let mut buf = [0; 4096];
            match rustix::io::read(&self.fd, &mut buf) {
                Ok(0) => return None,
                Ok(n) => self.unread.extend(&buf[..n]),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Writes one line.
    pub fn write(&self, line: &str) -> rustix::io::Result<()> {
        let line = format!("{line}\n");
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match rustix::io::write(&self.fd, rest) {
                Ok(n) => rest = &rest[n..],
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Opened now, so that no low number is in use at a time when the scenario would get it.
fn calls_of_this_thread() -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let low = openat(CWD, "/proc/thread-self/syscall", flags, Mode::empty())?;
    rustix::io::fcntl_dupfd_cloexec(&low, HIGH)
}

/// Does the thread sleep in a system call, other than to wait for what to do next? `None` if nobody knows.
pub fn sleeps(tid: i32) -> Option<bool> {
    let calls = CALLS.lock().expect("calls");
    let &(_, fd, own) = calls.iter().find(|(other, ..)| *other == tid)?;
    // SAFETY: it is never closed but in a child, before anything else.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut buf = [0; 64];
    let n = rustix::io::pread(fd, &mut buf, 0).ok()?;
    let text = String::from_utf8_lossy(&buf[..n]);
    let mut words = text.split_whitespace();
    let (call, first) = (words.next()?, words.next().unwrap_or_default());
    let first = u64::from_str_radix(first.trim_start_matches("0x"), 16).unwrap_or(0);
    let waits = call.parse() == Ok(libc::SYS_read) && first == own as u64;
    Some(call != "running" && !waits)
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Ok(mut open) = OPEN.lock() {
            let number = self.fd.as_raw_fd();
            open.retain(|&fd| fd != number);
        }
    }
}

/// In a new child: the connections are its parent's.
pub fn leave_all() {
    let controls = std::mem::take(&mut *OPEN.lock().expect("control"));
    let calls = std::mem::take(&mut *CALLS.lock().expect("calls"));
    for fd in controls
        .into_iter()
        .chain(calls.into_iter().map(|(_, fd, _)| fd))
    {
        // SAFETY: the number is one of the parent's control connections, which nothing here uses any more.
        unsafe { rustix::io::close(fd) };
    }
}
