//! What an application's number stands for in the kernel as long as a connection that was accepted fast has nothing there: a
//! socket that is as new. To make one takes more than all the rest of an accept, so those that nobody has changed are used
//! again.

use parking_lot::Mutex;
use rustix::fd::AsFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Inner;
use crate::real::sys::{Errno, InternalFd};
use crate::sync;

/// Kept for the next connections, at most.
const MOST: usize = 64;

/// One of them.
pub struct Blank {
    fd: InternalFd,
    domain: i32,
    nonblocking: bool,
}

static IDLE: Mutex<Vec<Blank>> = Mutex::new(Vec::new());

/// A forked child has none.
pub fn reset_after_fork() {
    // SAFETY: fork leaves the child with this thread only; the parent's descriptors are closed by others.
    unsafe { sync::renew(&IDLE, Vec::new()) };
}

impl Blank {
    /// One of this kind.
    ///
    /// # Errors
    /// The kernel's, of socket(2).
    pub fn take(domain: i32, nonblocking: bool) -> Result<Blank, Errno> {
        let found = {
            let mut idle = IDLE.lock();
            let at = idle.iter().rposition(|blank| blank.domain == domain);
            at.map(|at| idle.swap_remove(at))
        };
        let mut blank = match found {
            Some(blank) => blank,
            None => {
                let family = AddressFamily::from_raw(domain as u16);
                let flags = SocketFlags::CLOEXEC;
                let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
                Blank {
                    fd: InternalFd::adopt(fd),
                    domain,
                    nonblocking: false,
                }
            }
        };
        if blank.nonblocking != nonblocking {
            rustix::io::ioctl_fionbio(&blank.fd, nonblocking)?;
            blank.nonblocking = nonblocking;
        }
        Ok(blank)
    }

    fn put(self) {
        let mut idle = IDLE.lock();
        if idle.len() < MOST {
            idle.push(self);
        }
    }
}

impl AsFd for Blank {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Inner {
    /// The application changes more than whether it waits of what its numbers stand for: nobody else is to have that.
    pub fn spoil(&mut self) {
        self.blank = None;
    }

    /// It ends, and had nothing in the kernel.
    pub(super) fn give_blank_back(&mut self) {
        if let Some(mut blank) = self.blank.take() {
            blank.nonblocking = self.nonblocking;
            blank.put();
        }
    }
}
