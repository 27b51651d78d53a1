//! Socket activation: a process that is started with listeners is told of them in its environment, as sd_listen_fds(3)
//! reads it.

use core::ffi::CStr;

use crate::fork;
use crate::socket::foreign;

/// Looks whether this process is named listeners. Called when the library is loaded; costs no system call in a process
/// that is not.
#[unsafe(link_section = ".text.netacc_hooks")]
pub fn begin() {
    let Some(count) = variable(c"LISTEN_FDS").filter(|count| (1..=MOST).contains(count)) else {
        return;
    };
    // It may be meant for a process that has started this one.
    if variable(c"LISTEN_PID") == i32::try_from(fork::pid()).ok() {
        foreign::named(count);
    }
}

/// More than anybody is named.
const MOST: i32 = 1024;

#[unsafe(link_section = ".text.netacc_hooks")]
fn variable(name: &CStr) -> Option<i32> {
    // SAFETY: a name with its NUL; before `main` nobody changes the environment.
    let value = unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))?
    };
    value.to_str().ok()?.parse().ok()
}
