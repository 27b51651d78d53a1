//! The connection over which one thread is told what to do: raw system calls, which nothing can interpose.

use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use std::net::SocketAddr;
use std::sync::Mutex;

/// Descriptors of the scenario stay below this, so that they have the numbers they would have anyway.
const HIGH: RawFd = 900;

/// All of this process, for a child to close.
static OPEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

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
    let all = std::mem::take(&mut *OPEN.lock().expect("control"));
    for fd in all {
        // SAFETY: the number is one of the parent's control connections, which nothing here uses any more.
        unsafe { rustix::io::close(fd) };
    }
}
