//! What an application's number stands for in the kernel as long as a connection that was opened fast has nothing there: a
//! socket that is as new. To make one, and to end it, takes more than all the rest of such a connection; so those that nobody
//! has changed are used again, by `accept`. (Not by `socket`: the kernel remembers in whose name, and in which network namespace,
//! one was made.)

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::fd::{AsFd, RawFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{Inner, Role};
use crate::control::standing;
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
/// How many there are in all, each with a number of the library's own.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// A forked child has none.
pub fn reset_after_fork() {
    // SAFETY: fork leaves the child with this thread only; the parent's descriptors are closed by others.
    unsafe { sync::renew(&IDLE, Vec::new()) };
    ALIVE.store(0, Ordering::Relaxed);
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
                Blank::of(InternalFd::adopt(fd), domain, false)
            }
        };
        blank.made_to_wait(!nonblocking)
    }

    fn of(fd: InternalFd, domain: i32, nonblocking: bool) -> Blank {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Blank {
            fd,
            domain,
            nonblocking,
        }
    }

    /// It stays with its connection, to be used again at its end; nothing if there are enough of them: each takes a number that
    /// the application may want.
    pub fn kept(self) -> Option<Blank> {
        (ALIVE.load(Ordering::Relaxed) <= MOST).then_some(self)
    }

    /// One that was used before, if there is any. (A child may have them, too.)
    fn idle(domain: i32) -> Option<Blank> {
        if standing::has_left() {
            return None;
        }
        let mut idle = IDLE.lock();
        let at = idle.iter().rposition(|blank| blank.domain == domain)?;
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
        if idle.len() < MOST && !standing::has_left() {
            idle.push(self);
        }
    }
}

impl Drop for Blank {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
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
        self.is_spoiled = true;
        self.blank = None;
    }

    /// Its last number `fd` is about to be closed: what that stands for is kept, if it is as new.
    pub(super) fn keep_blank(&mut self, fd: RawFd) {
        let afloat = matches!(&self.role, Role::Connected(conn) if conn.afloat.is_some());
        if afloat
            && self.blank.is_none()
            && !self.is_spoiled
            && ALIVE.load(Ordering::Relaxed) < MOST
        {
            let fd = InternalFd::duplicate(sys::borrow(fd)).ok();
            self.blank = fd.map(|fd| Blank::of(fd, self.domain, self.nonblocking));
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
