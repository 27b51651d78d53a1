//! Crash containment: a defect of the library's own, which shows as a panic, ends the connections that it may have touched and
//! not the application.
//!
//! * A panic in a call of the application's ends in the export through which the call came ([`frame`]), and the call fails as
//!   one of the kernel's can ([`failed`]).
//! * A panic in the library's own threads ends in the turn in which it happened ([`catch`]).
//! * Whatever held a half of a link then has condemned the link before anybody else got in ([`crate::link::Link::condemn`]):
//!   its connections are reset, and its peer hears that it is over.
//!
//! Each is counted (`internal_faults`), and told in the log if there is one. After [`MOST`] of them the process is left to the
//! kernel: what is new is kernel TCP, with that reason.

#[cfg(target_arch = "x86_64")]
pub mod frame;
#[cfg(feature = "faults")]
mod provoke;

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, Ordering};
use std::panic::{AssertUnwindSafe, PanicHookInfo};

use parking_lot::Mutex;
use rustix::fd::RawFd;

use crate::fdtable::{self, Entry};
use crate::log::ErrnoGuard;
use crate::real::sys::{self, Errno};
use crate::real::{Failing, orig};
use crate::{runtime, stats};

/// So many faults, and the process is left to the kernel.
const MOST: u32 = 16;

/// How many there were in this process, and in those that it was forked from.
static FAULTS: AtomicU32 = AtomicU32::new(0);

/// What the last one said of itself, until it is told.
static SAID: Mutex<String> = Mutex::new(String::new());

/// From now on a panic of the library's prints nothing. For the preload library, in which the Rust runtime is the library's
/// own; elsewhere it is the program's.
pub fn begin() {
    std::panic::set_hook(Box::new(note));
}

/// Keeps what is to be told of a panic: it happens anywhere, with any lock held.
#[cold]
fn note(info: &PanicHookInfo<'_>) {
    if let Some(mut said) = SAID.try_lock() {
        let message = info.payload_as_str().unwrap_or("no message");
        *said = match info.location() {
            Some(at) => format!("{}:{}: {message}", at.file(), at.line()),
            None => message.to_string(),
        };
    }
}

/// Whether there were so many that nothing new is accelerated.
#[inline]
pub fn has_given_up() -> bool {
    FAULTS.load(Ordering::Relaxed) >= MOST
}

/// Does `work` in a thread of the library's own, or where the C library calls it; `None`: it panicked, which is counted and
/// told. Never for what may be a cancellation point of a thread of the application's: cancelling unwinds, and cannot be caught.
pub fn catch<T>(place: &'static str, work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .inspect_err(|_| tell(place))
        .ok()
}

/// Counts a fault, and tells it.
#[cold]
fn tell(place: &str) {
    let before = FAULTS.fetch_add(1, Ordering::Relaxed);
    // (What panics here would have nobody to catch it.)
    let _ = std::panic::catch_unwind(|| {
        show();
        let said = SAID.try_lock().map(|mut said| core::mem::take(&mut *said));
        tracing::error!(target: "netacc::contain", "internal fault in {place}: {}", said.unwrap_or_default());
        if before + 1 == MOST {
            tracing::error!(target: "netacc::contain", "{MOST} internal faults: this process is left to the kernel's TCP");
            if let Some(runtime) = runtime::started() {
                runtime.condemn_all();
            }
        }
    });
}

/// Shows on the page how many there were, also those before there was one.
pub fn show() {
    let faults = FAULTS.load(Ordering::Relaxed).into();
    let counter = &stats::global().internal_faults;
    counter.store(faults, Ordering::Relaxed);
}

/// What a call fails with that panicked: as the kernel's may.
fn error_of(call: &str) -> Errno {
    match call {
        // These are tried again at once: not for ever.
        "accept" | "accept4" if !has_given_up() => Errno::CONNABORTED,
        "connect" => Errno::TIMEDOUT,
        "poll" | "ppoll" | "__poll_chk" | "__ppoll_chk" | "select" | "pselect" | "epoll_wait"
        | "epoll_pwait" | "epoll_pwait2"
            if !has_given_up() =>
        {
            Errno::INTR
        }
        call if is_of_data(call) => Errno::CONNRESET,
        _ => Errno::NOMEM,
    }
}

/// Whether the call moves a connection's data; its first argument is the descriptor.
fn is_of_data(call: &str) -> bool {
    const STEMS: [&str; 10] = [
        "read", "recv", "write", "send", "splice", "shutdown", "__read", "__recv", "dprintf",
        "vdprintf",
    ];
    STEMS.iter().any(|stem| call.starts_with(stem))
}

/// Calls that return the error itself.
fn returns_error(call: &str) -> bool {
    call.starts_with("posix_spawn")
}

/// A call of the application's panicked with `exception`; `first` was its first argument. Returns what it returns.
///
/// # Safety
/// The exception is one of the Rust runtime's that this library is built with, and nobody else's.
#[cold]
pub unsafe fn failed<T: Failing>(call: &'static str, exception: *mut c_void, first: usize) -> T {
    let errno = ErrnoGuard::new();
    // Thrown anew where it can be caught: what the runtime keeps of it is in order again.
    // SAFETY: by the contract.
    let _ = std::panic::catch_unwind(|| unsafe { throw(exception) });
    tell(call);
    if matches!(call, "_exit" | "_Exit") {
        // SAFETY: no pointers.
        unsafe { orig::syscall(libc::SYS_exit_group, first, 0, 0, 0, 0, 0) };
    }
    if call == "close" {
        catch("the end of a link", || close(first as RawFd));
        drop(errno);
        return T::told(0);
    }
    let mut error = error_of(call);
    if is_of_data(call) && catch("the end of a link", || break_off(first as RawFd)) != Some(true) {
        error = Errno::IO;
    }
    drop(errno);
    let error = error.raw_os_error();
    match returns_error(call) {
        true => T::told(error),
        false => T::failing(error),
    }
}

/// The connection of `fd`, and all others on its link, are reset. False: it is none of the library's.
fn break_off(fd: RawFd) -> bool {
    let Some(Entry::Socket(socket)) = fdtable::get(fd) else {
        return false;
    };
    let link = socket.lock().link();
    if let Some(link) = link {
        link.condemn();
    }
    true
}

/// Closes `fd`: the original is the last thing that close(2) comes to.
fn close(fd: RawFd) {
    break_off(fd);
    fdtable::take(fd);
    sys::close(fd);
}

#[cfg(target_arch = "x86_64")]
unsafe fn throw(exception: *mut c_void) {
    // SAFETY: by the contract.
    unsafe { frame::throw(exception) }
}

/// There is no frame that would catch any.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn throw(_: *mut c_void) {}

/// A place at which tests have the library panic, with the cargo feature `faults`; otherwise nothing.
#[inline(always)]
pub fn provoked(_place: &str) {
    #[cfg(feature = "faults")]
    provoke::at(_place);
}
