//! What surrounds calls into the RDMA libraries, and who may make them.

use core::ffi::c_int;

use rustix::fd::{FromRawFd, OwnedFd, RawFd};

use crate::log::ErrnoGuard;
use crate::real::sys::InternalFd;

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

/// glibc's value, which the libc crate does not have.
const PTHREAD_CANCEL_DISABLE: c_int = 1;

/// While it lives this thread cannot be cancelled, and its `errno` comes back at the end.
///
/// The libraries take locks and then call write(2), which is a cancellation point (a doorbell of the
/// software devices is one, for example): a thread that were cancelled there would leave them locked.
pub(super) struct Inside {
    cancel_state: c_int,
    _errno: ErrnoGuard,
}

impl Inside {
    #[inline]
    pub(super) fn enter() -> Inside {
        let _errno = ErrnoGuard::new();
        let mut cancel_state = 0;
        // SAFETY: changes the calling thread only; the old state goes to a local variable.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut cancel_state) };
        Inside {
            cancel_state,
            _errno,
        }
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: as in `enter`; the state is the one that was found there.
        unsafe { pthread_setcancelstate(self.cancel_state, core::ptr::null_mut()) };
    }
}

/// The process that an object of the libraries belongs to. A forked child has a copy of the object but
/// not the device's side of it, and its descriptors are closed or another's: it must leave it alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner(i32);

impl Owner {
    pub(super) fn this_process() -> Owner {
        Owner(rustix::process::getpid().as_raw_nonzero().get())
    }

    /// Whether the caller is the process that made the object.
    pub(super) fn is_here(self) -> bool {
        self.0 == Self::this_process().0
    }
}

/// Moves a descriptor that a library made out of the low numbers, which are the application's, and
/// makes it non-blocking; returns its new number, which goes where the library keeps it.
///
/// If `hidden`, the application can neither use nor close it. That is only for libraries whose own
/// calls do not pass through the hooks (see [`super::api::Api::hides`]); [`expose`] comes before the
/// library closes it.
pub(super) fn raise(fd: RawFd, hidden: bool) -> RawFd {
    // SAFETY: the caller has the number from the library that owns it, and puts the new one there.
    let raised = InternalFd::adopt(unsafe { OwnedFd::from_raw_fd(fd) });
    if let Ok(flags) = rustix::fs::fcntl_getfl(&raised) {
        let _ = rustix::fs::fcntl_setfl(&raised, flags | rustix::fs::OFlags::NONBLOCK);
    }
    let raw = raised.release();
    if hidden {
        crate::fdtable::set_internal(raw);
    }
    raw
}

/// The library that has the descriptor is about to close it.
pub(super) fn expose(fd: RawFd) {
    crate::fdtable::clear_internal(fd);
}
