//! What becomes of calls that a signal interrupts is its handler's affair: that handlers change is noted here, for to ask
//! about each of them before each sleep would cost more than the sleep.

use libc::{c_int, sighandler_t};

use crate::poll::kernel::handlers_change;
use crate::real::orig;

pub unsafe fn sigaction(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: the caller's contract is the original's.
    let result = unsafe { orig::sigaction(signal, new, old) };
    if !new.is_null() {
        handlers_change();
    }
    result
}

pub unsafe fn signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's contract is the original's.
    let result = unsafe { orig::signal(signal, handler) };
    handlers_change();
    result
}

pub unsafe fn __sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's contract is the original's.
    let result = unsafe { orig::__sysv_signal(signal, handler) };
    handlers_change();
    result
}

pub unsafe fn sigset(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's contract is the original's.
    let result = unsafe { orig::sigset(signal, handler) };
    handlers_change();
    result
}

pub unsafe fn siginterrupt(signal: c_int, interrupts: c_int) -> c_int {
    // SAFETY: the caller's contract is the original's.
    let result = unsafe { orig::siginterrupt(signal, interrupts) };
    handlers_change();
    result
}
