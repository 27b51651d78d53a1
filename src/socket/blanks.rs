//! What an application's number stands for in the kernel as long as a connection that was opened fast has nothing there: a
//! socket that is as new. To make one, and to end it, takes more than all the rest of such a connection; so those that nobody
//! has changed are used again, by `accept` and by `socket`.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::fd::{AsFd, IntoRawFd, RawFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{Inner, Role};
use crate::real::sys::{self, Errno, InternalFd};
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
/// How many these are, for whoever only looks whether there are any.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A forked child has none.
pub fn reset_after_fork() {
    // SAFETY: fork leaves the child with this thread only; the parent's descriptors are closed by others.
    unsafe { sync::renew(&IDLE, Vec::new()) };
    COUNT.store(0, Ordering::Relaxed);
}

impl Blank {
    /// One of this kind.
    ///
    /// # Errors
    /// The kernel's, of socket(2).
    pub fn take(domain: i32, nonblocking: bool) -> Result<Blank, Errno> {
        let blank = match Blank::idle(domain) {
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
        blank.made_to_wait(!nonblocking)
    }

    /// One that was used before, if there is any.
    fn idle(domain: i32) -> Option<Blank> {
        let mut idle = IDLE.lock();
        let at = idle.iter().rposition(|blank| blank.domain == domain)?;
        COUNT.store(idle.len() - 1, Ordering::Relaxed);
        Some(idle.swap_remove(at))
    }

    fn made_to_wait(mut self, waits: bool) -> Result<Blank, Errno> {
        if self.nonblocking == waits {
            rustix::io::ioctl_fionbio(&self.fd, !waits)?;
            self.nonblocking = !waits;
        }
        Ok(self)
    }

    fn put(self) {
        let mut idle = IDLE.lock();
        if idle.len() < MOST {
            idle.push(self);
            COUNT.store(idle.len(), Ordering::Relaxed);
        }
    }

    /// A number for it, closed by exec or not.
    ///
    /// # Errors
    /// The kernel's.
    pub fn number(&self, closed_by_exec: bool) -> Result<RawFd, Errno> {
        let number = match closed_by_exec {
            false => rustix::io::dup(&self.fd),
            true => rustix::io::fcntl_dupfd_cloexec(&self.fd, 0),
        };
        number.map(IntoRawFd::into_raw_fd)
    }
}

/// Whether any was used before, and may be again.
#[inline]
pub fn are_there() -> bool {
    COUNT.load(Ordering::Relaxed) > 0
}

/// socket(2) of TCP, of this `kind`: a number for one that was used before, if there is any.
pub fn socket(domain: i32, kind: i32) -> Option<(RawFd, Blank)> {
    let blank = Blank::idle(domain)?;
    let blank = blank.made_to_wait(kind & libc::SOCK_NONBLOCK == 0).ok()?;
    let number = blank.number(kind & libc::SOCK_CLOEXEC != 0).ok()?;
    Some((number, blank))
}

impl AsFd for Blank {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Inner {
    /// The application changes more than whether it waits of what its numbers stand for: nobody else is to have that.
    pub fn spoil(&mut self) {
        self.is_spoiled = true;
        self.blank = None;
    }

    /// Its last number `fd` is about to be closed: what that stands for is kept, if it is as new.
    pub(super) fn keep_blank(&mut self, fd: RawFd) {
        let afloat = matches!(&self.role, Role::Connected(conn) if conn.afloat.is_some());
        if afloat
            && self.blank.is_none()
            && !self.is_spoiled
            && COUNT.load(Ordering::Relaxed) < MOST
        {
            self.blank = InternalFd::duplicate(sys::borrow(fd)).ok().map(|fd| Blank {
                fd,
                domain: self.domain,
                nonblocking: self.nonblocking,
            });
        }
    }

    /// It ends, and had nothing in the kernel.
    pub(super) fn give_blank_back(&mut self) {
        if let Some(mut blank) = self.blank.take() {
            blank.nonblocking = self.nonblocking;
            blank.put();
        }
    }
}
