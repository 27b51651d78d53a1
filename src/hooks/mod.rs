//! What each exported symbol does: look the descriptor up, then [`crate::socket`], [`crate::poll`],
//! or the original. One function a symbol, with the libc function's contract; the preload library
//! exports them under their own names.

#![allow(clippy::missing_safety_doc, missing_docs, non_snake_case)]

pub mod activation;
mod descriptors;
mod exec;
mod files;
mod numbered;
mod passing;
mod process;
mod receiving;
mod sending;
mod signals;
mod sockets;
mod stdio;
mod waiting;

pub use descriptors::*;
pub use exec::*;
pub use files::*;
pub use numbered::*;
pub use passing::pidfd_getfd;
pub use process::*;
pub use receiving::*;
pub use sending::*;
pub use signals::*;
pub use sockets::*;
pub use stdio::*;
pub use waiting::*;

use std::time::Duration;

use parking_lot::MutexGuard;
use rustix::fd::RawFd;

use crate::fdtable::{self, Entry};
use crate::real::sys::{self, Errno};
use crate::socket::{Inner, Role, Socket};
use crate::verbs;

/// A descriptor as a data call finds it.
enum Found {
    /// Ours, locked.
    Socket(&'static Socket, MutexGuard<'static, Inner>),
    /// The kernel's.
    Kernel,
    /// Nobody's that the application may use.
    Refused(Errno),
}

/// Whether a call needs what the process has inherited.
enum Claim {
    No,
    /// It is to wait for so long at most.
    Within(Duration),
    Waits,
}

/// Looks `fd` up for a call on a socket's state.
#[inline]
#[unsafe(link_section = ".text.netacc_hooks")]
fn find(fd: RawFd) -> Found {
    look_up(fd, |_| Claim::Waits)
}

/// The same for a call that asks nothing of the connection itself: one that was inherited is left where it is.
#[inline]
#[unsafe(link_section = ".text.netacc_hooks")]
fn find_as_it_is(fd: RawFd) -> Found {
    look_up(fd, |_| Claim::No)
}

/// The same for a call on its data, with these flags.
#[inline]
#[unsafe(link_section = ".text.netacc_hooks")]
fn find_for(fd: RawFd, flags: i32) -> Found {
    look_up(fd, |inner| {
        if inner.nonblocking || flags & libc::MSG_DONTWAIT != 0 {
            return Claim::Within(Duration::ZERO);
        }
        let limits = [inner.receive_timeout, inner.send_timeout];
        let limit = limits.into_iter().flatten().min();
        limit.map_or(Claim::Waits, Claim::Within)
    })
}

#[inline]
fn look_up(fd: RawFd, claim: impl Fn(&Inner) -> Claim) -> Found {
    loop {
        match fdtable::get(fd) {
            None | Some(Entry::Plain(_) | Entry::Epoll(_)) => return Found::Kernel,
            Some(Entry::Socket(socket)) => {
                let inner = socket.lock();
                // Between the look-up and the lock it may have been closed, and be another's by now.
                if !fdtable::is(fd, Entry::Socket(socket)) {
                    continue;
                }
                if !matches!(inner.role, Role::Orphan(_)) {
                    return Found::Socket(socket, inner);
                }
                match claim(&inner) {
                    Claim::No => return Found::Socket(socket, inner),
                    Claim::Within(time) => {
                        drop(inner);
                        if !socket.adopt_soon(time) {
                            return Found::Refused(Errno::AGAIN);
                        }
                    }
                    Claim::Waits => {
                        drop(inner);
                        if let Err(error) = socket.adopt_for_call() {
                            return Found::Refused(error);
                        }
                    }
                }
            }
            Some(Entry::Lost) => return Found::Refused(Errno::CONNRESET),
            Some(Entry::Internal) => return internal(),
        }
    }
}

/// A descriptor of the library's own, for a call on it: the RDMA libraries may make theirs.
#[cold]
fn internal() -> Found {
    if verbs::is_inside() {
        Found::Kernel
    } else {
        Found::Refused(Errno::BADF)
    }
}

/// A failure in the C library's manner.
fn fail<T: From<i8>>(error: Errno) -> T {
    sys::set_errno(error.raw_os_error());
    T::from(-1)
}

/// A result in the C library's manner.
fn give<T: From<i8>>(result: Result<T, Errno>) -> T {
    result.unwrap_or_else(|error| fail(error))
}
