//! Ends of the process that run no exit handlers.

use libc::c_int;

use crate::real::orig;

pub unsafe fn _exit(status: c_int) {
    crate::exit::finish();
    // SAFETY: the caller's contract is the original's.
    unsafe { orig::_exit(status) }
}

pub unsafe fn _Exit(status: c_int) {
    // SAFETY: the same function by another name.
    unsafe { _exit(status) }
}
