//! Waiting in the kernel.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use libc::{epoll_event, sigset_t};
use rustix::fd::RawFd;

use crate::real::orig;
use crate::real::sys::{self, Errno};

/// The kernel's epoll_pwait, in the coarsest form that can express the timeout.
///
/// # Safety
/// The contract of epoll_pwait(2) for `mask`.
///
/// # Errors
/// As epoll_pwait(2).
pub unsafe fn wait(
    epfd: RawFd,
    events: &mut [epoll_event],
    timeout: Option<u64>,
    mask: *const sigset_t,
) -> Result<usize, Errno> {
    let max = events.len() as i32;
    let n = match timeout {
        Some(ns) if ns % 1_000_000 != 0 => {
            let time = libc::timespec {
                tv_sec: (ns / 1_000_000_000) as libc::time_t,
                tv_nsec: (ns % 1_000_000_000) as libc::c_long,
            };
            // SAFETY: a valid buffer and timespec; `mask` by the caller's contract.
            let n = unsafe { orig::epoll_pwait2(epfd, events.as_mut_ptr(), max, &time, mask) };
            if n < 0 && [Errno::NOSYS, Errno::PERM].contains(&sys::last_error()) {
                // SAFETY: as above. Kernels before 5.11, and filters that do not know it: rounded up to a millisecond.
                unsafe {
                    orig::epoll_pwait(
                        epfd,
                        events.as_mut_ptr(),
                        max,
                        (ns / 1_000_000 + 1) as i32,
                        mask,
                    )
                }
            } else {
                n
            }
        }
        _ => {
            let ms = timeout.map_or(-1, |ns| (ns / 1_000_000).min(i32::MAX as u64) as i32);
            // SAFETY: as above.
            unsafe { orig::epoll_pwait(epfd, events.as_mut_ptr(), max, ms, mask) }
        }
    };
    if n < 0 {
        Err(sys::last_error())
    } else {
        Ok(n as usize)
    }
}

/// What the process's signal handlers want of a call that they interrupt: whether there is one that wants it to go on
/// (SA_RESTART), and whether there is one that does not. (What a program does about its own faults, and about pipes that
/// it broke, does not count: no sleep is interrupted by these.)
fn handlers() -> (bool, bool) {
    const OWN: [i32; 6] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
        libc::SIGPIPE,
    ];
    let _errno = crate::log::ErrnoGuard::new();
    let mut found = (false, false);
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| !OWN.contains(signal)) {
        let mut action = core::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: only asks; room for the answer.
        let asked = unsafe { orig::sigaction(signal, core::ptr::null(), action.as_mut_ptr()) };
        // SAFETY: zeroed, or written by the kernel.
        let action = unsafe { action.assume_init() };
        if asked == 0 && ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction) {
            match action.sa_flags & libc::SA_RESTART {
                0 => found.1 = true,
                _ => found.0 = true,
            }
        }
    }
    found
}

/// Whether a call that a signal handler interrupted goes on afterwards: it does if all handlers of the process
/// want that. Which of them ran nobody tells us: where there are both kinds, see [`handlers_differ`].
pub fn interrupted_calls_go_on() -> bool {
    // With no handler at all it was a stop and a continuation, or the C library's own affair.
    !handlers().1
}

/// Handlers are looked at anew after so long, in nanoseconds: some programs change them without the C library.
const HANDLERS_LAST_NS: u64 = 250_000_000;

/// Counts changes of handlers.
static CHANGES: AtomicU64 = AtomicU64::new(1);

/// A handler may have changed.
pub fn handlers_change() {
    CHANGES.fetch_add(1, Ordering::Release);
}

/// Whether some of the process's handlers want calls to go on and others do not. Only the kernel can tell which of them
/// ran, and it does so by beginning a read(2) anew, never a wait in poll or epoll.
pub fn handlers_differ() -> bool {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    static LOOKED: AtomicU64 = AtomicU64::new(0);
    static DIFFER: AtomicBool = AtomicBool::new(false);
    let changes = CHANGES.load(Ordering::Acquire);
    let now = sys::now_ns();
    let long_ago = now.saturating_sub(LOOKED.load(Ordering::Relaxed)) > HANDLERS_LAST_NS;
    if long_ago || SEEN.load(Ordering::Relaxed) != changes {
        LOOKED.store(now, Ordering::Relaxed);
        DIFFER.store(handlers() == (true, true), Ordering::Relaxed);
        SEEN.store(changes, Ordering::Relaxed);
    }
    DIFFER.load(Ordering::Relaxed)
}
