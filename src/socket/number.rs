//! Numbers that are taken before there is a connection for them, as a blocked accept of the kernel takes one.

use rustix::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};

use super::lifecycle;
use crate::fdtable;
use crate::real::orig;
use crate::real::sys::{self, Errno};

/// The number of a connection that has not come yet.
pub(super) struct Number(RawFd);

impl Number {
    /// The lowest that is free.
    pub(super) fn reserve(listener: RawFd) -> Result<Number, Errno> {
        let number = rustix::io::fcntl_dupfd_cloexec(sys::borrow(listener), 0)?.into_raw_fd();
        if let Some(stale) = fdtable::reserve(number) {
            lifecycle::release(number, stale);
        }
        Ok(Number(number))
    }

    /// Gives it to `connection`, as a further number.
    pub(super) fn give(self, connection: BorrowedFd<'_>, flags: i32) -> Result<RawFd, Errno> {
        let closed_by_exec = match flags & libc::SOCK_CLOEXEC {
            0 => 0,
            _ => libc::O_CLOEXEC,
        };
        let _errno = crate::log::ErrnoGuard::new();
        // SAFETY: no pointers.
        match unsafe { orig::dup3(connection.as_raw_fd(), self.0, closed_by_exec) } {
            number if number < 0 => Err(sys::last_error()),
            number => {
                core::mem::forget(self);
                Ok(number)
            }
        }
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        fdtable::clear_reserved(self.0);
        sys::close(self.0);
    }
}
