//! What can go wrong, in words for a person.

use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::real::sys::{self, Errno};

/// Why something of this layer did not work. The text is the message for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A library is not there, or does not load.
    #[error(
        "RDMA is not available: {library} cannot be loaded ({detail}). Install it (on Debian and \
         Ubuntu: apt-get install {package})."
    )]
    Library {
        /// Its file name.
        library: &'static str,
        /// What the dynamic linker says.
        detail: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A library lacks a function.
    #[error(
        "RDMA is not available: {library} has no function {symbol}, so it is too old. Install \
         rdma-core 28 or newer."
    )]
    TooOld {
        /// Its file name.
        library: &'static str,
        /// The function.
        symbol: &'static str,
    },
    /// The RDMA libraries' state belongs to the process that this one was forked from.
    #[error(
        "RDMA is not available in this process: it was forked from one that uses RDMA already, and \
         the RDMA libraries cannot start anew."
    )]
    Forked,
    /// A call failed.
    #[error("{call} failed: {}.", text(*.errno))]
    Call {
        /// The function of libibverbs or librdmacm, or the system call.
        call: &'static str,
        /// Why.
        errno: Errno,
    },
    /// Too little memory may be locked.
    #[error(
        "{what} needs {wanted} KiB of locked memory, but the process may lock {limit} KiB in all \
         (RLIMIT_MEMLOCK). Raise the limit: `ulimit -l unlimited` before the program starts, or \
         LimitMEMLOCK=infinity in its systemd unit; netacc_run raises it where it may."
    )]
    LockedMemory {
        /// What was to be made.
        what: &'static str,
        /// How much it needs, in KiB.
        wanted: usize,
        /// The limit, in KiB.
        limit: u64,
    },
    /// Private data does not fit.
    #[error("{0} bytes of private data do not fit: a connection request carries at most {max}.", max = super::cm::PRIVATE_DATA)]
    PrivateData(usize),
    /// The identifier has no device (yet), or another one.
    #[error("the connection is not bound to that RDMA device.")]
    OtherDevice,
}

impl Error {
    /// The error of a call that reported it by `errno`.
    pub(super) fn last(call: &'static str) -> Error {
        let errno = last_errno();
        Error::Call { call, errno }
    }

    /// Tells it to a person: the first of its kind as a warning, and what follows for debugging only, for it says
    /// the same.
    pub fn tell(&self) {
        static MEMORY: AtomicBool = AtomicBool::new(false);
        static OTHER: AtomicBool = AtomicBool::new(false);
        let told = match self {
            Error::LockedMemory { .. } => &MEMORY,
            _ => &OTHER,
        };
        if !told.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: "netacc::rdma", "{self}");
        } else {
            tracing::debug!(target: "netacc::rdma", "{self}");
        }
    }

    /// Whether memory has run out, locked or other.
    pub fn is_of_memory(&self) -> bool {
        self.errno() == Some(Errno::NOMEM)
    }

    /// The system's error code, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Call { errno, .. } => Some(*errno),
            Error::LockedMemory { .. } => Some(Errno::NOMEM),
            _ => None,
        }
    }
}

/// The system's text for an error code.
pub(super) fn text(errno: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.raw_os_error())
}

/// An error code in any sign. What is none (a library that forgot to set it, a reason of a transport's
/// own) becomes `EIO`.
pub(super) fn errno(raw: c_int) -> Errno {
    match raw.saturating_abs() {
        code @ 1..4096 => Errno::from_raw_os_error(code),
        _ => Errno::IO,
    }
}

/// The error that the last failed call left behind.
pub(super) fn last_errno() -> Errno {
    errno(sys::errno())
}

/// What a verb's return value says: 0 is success, else it is the error code (some providers negate
/// it), or -1 with the code in `errno`.
pub(super) fn code(result: c_int) -> Result<(), Errno> {
    match result {
        0 => Ok(()),
        -1 => Err(last_errno()),
        code => Err(errno(code)),
    }
}

/// As [`code`], with the call's name.
pub(super) fn check(call: &'static str, result: c_int) -> Result<(), Error> {
    code(result).map_err(|errno| Error::Call { call, errno })
}

/// A pointer that is null when the call failed, with the reason in `errno`.
pub(super) fn made<T>(call: &'static str, pointer: *mut T) -> Result<core::ptr::NonNull<T>, Error> {
    core::ptr::NonNull::new(pointer).ok_or_else(|| Error::last(call))
}

/// Turns the `ENOMEM` of a call that pins memory into a sentence about the limit that causes it,
/// where it does. `bytes` is what the call pins.
pub(super) fn pinning(what: &'static str, bytes: usize, error: Error) -> Error {
    let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Memlock).current else {
        return error;
    };
    if error.errno() != Some(Errno::NOMEM) {
        return error;
    }
    Error::LockedMemory {
        what,
        wanted: bytes.div_ceil(1024),
        limit: limit / 1024,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_report_errors_in_three_ways() {
        assert_eq!(code(0), Ok(()));
        assert_eq!(code(libc::ENOMEM), Err(Errno::NOMEM));
        assert_eq!(code(-libc::EINVAL), Err(Errno::INVAL));
        sys::set_errno(libc::EAGAIN);
        assert_eq!(code(-1), Err(Errno::AGAIN));
        assert_eq!(code(c_int::MIN), Err(Errno::IO));
        sys::set_errno(0);
        assert_eq!(code(-1), Err(Errno::IO), "no reason given");
    }

    #[test]
    fn a_low_limit_on_locked_memory_is_named() {
        let full = Error::Call {
            call: "ibv_reg_mr",
            errno: Errno::NOMEM,
        };
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        let told = pinning("a memory region", 5000, full.clone());
        match limit {
            None => assert_eq!(told, full, "there is no limit to blame"),
            Some(limit) => {
                let text = told.to_string();
                assert!(text.contains("needs 5 KiB"), "{text}");
                assert!(
                    text.contains(&format!("may lock {} KiB", limit / 1024)),
                    "{text}"
                );
            }
        }
        let other = Error::Call {
            call: "ibv_reg_mr",
            errno: Errno::INVAL,
        };
        assert_eq!(pinning("a memory region", 1, other.clone()), other);
    }
}
