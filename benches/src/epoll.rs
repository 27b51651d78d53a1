//! An epoll set of the C library's: what is preloaded sees its calls.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Events that one wait may bring.
const MOST: usize = 256;

/// Descriptors that are watched for something to read, each under a number of the caller's.
pub struct Epoll {
    set: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> Result<Epoll> {
        // SAFETY: no pointers.
        let set = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if set < 0 {
            return Err(Error::last_os_error());
        }
        Ok(Epoll {
            // SAFETY: fresh, and nobody else's.
            set: unsafe { OwnedFd::from_raw_fd(set) },
            events: vec![libc::epoll_event { events: 0, u64: 0 }; MOST],
        })
    }

    /// Watches a descriptor under a number.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(&self, descriptor: &impl AsRawFd, number: usize) -> Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: number as u64,
        };
        let (set, fd) = (self.set.as_raw_fd(), descriptor.as_raw_fd());
        // SAFETY: a pointer to a variable.
        match unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }

    /// The numbers of those that can be read, once there is one; none after `timeout` milliseconds (-1: never).
    ///
    /// # Errors
    /// The kernel's, but for a signal: then there is none.
    pub fn wait(&mut self, timeout: i32) -> Result<impl Iterator<Item = usize> + use<'_>> {
        let (set, room) = (self.set.as_raw_fd(), self.events.len() as i32);
        // SAFETY: as many places as are named.
        let found = unsafe { libc::epoll_wait(set, self.events.as_mut_ptr(), room, timeout) };
        let found = match usize::try_from(found) {
            Ok(found) => found,
            Err(_) => match Error::last_os_error() {
                error if error.kind() == ErrorKind::Interrupted => 0,
                error => return Err(error),
            },
        };
        Ok(self.events[..found].iter().map(|event| event.u64 as usize))
    }
}
