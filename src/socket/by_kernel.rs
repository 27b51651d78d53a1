//! Connections that come by the kernel's own queue, and stay the kernel's.

use rustix::fd::RawFd;

use super::addr::Address;
use super::connect::Side;
use super::number::Number;
use super::{Role, Socket, lifecycle};
use crate::control::refused::REFUSED;
use crate::fdtable::{self, Entry};
use crate::real::sys::{self, Errno, now_ns};
use crate::stats::{self, Mode, Reason};
use crate::{fork, runtime};

/// Takes a connection from the kernel's queue. Under a lock only if the listener is non-blocking. `listens` is where, if that
/// is known.
pub(super) fn accept(
    fd: RawFd,
    flags: i32,
    reserved: &mut Option<Number>,
    listens: Option<Address>,
) -> Result<(RawFd, Address), Errno> {
    let (mut got, remote) = match Address::accept(fd, flags) {
        // The last number is the one that was kept for it.
        Err(Errno::MFILE) if reserved.take().is_some() => Address::accept(fd, flags)?,
        other => other?,
    };
    if let Some(number) = reserved.take()
        && let Ok(number) = number.give(sys::borrow(got), flags)
    {
        sys::close(core::mem::replace(&mut got, number));
    }
    let Some(remote) = remote else {
        lifecycle::close(got);
        return Err(Errno::CONNABORTED);
    };
    // (It is shown only. Who asks where a connection came in is answered by the kernel.)
    let local = match listens.filter(|at| !at.to_std().ip().is_unspecified()) {
        Some(local) => local,
        None => Address::local_of(got).unwrap_or(remote),
    };
    let (ip, port) = (remote.to_std().ip(), local.port());
    let accelerates = runtime::started().is_none_or(|runtime| runtime.config.accelerates(ip, port));
    let reason = match accelerates {
        true => REFUSED
            .why(ip, now_ns)
            .unwrap_or(Reason::ClientWithoutNetacc),
        false => Reason::LeftAlone,
    };
    show(got, local, remote, flags, reason);
    Ok((got, remote))
}

/// The kernel has accepted `got` from a listener that has no side port, for this reason, which its connections share.
pub fn accepted(got: RawFd, flags: i32, reason: Reason) {
    let remote = match reason {
        // Switched off, or it does not say why: nothing is to be slower than without the library.
        Reason::None | Reason::Disabled | Reason::ServedByChildren => None,
        _ if fork::is_stranger() || !fdtable::fits(got) => None,
        _ => Address::peer_of(got),
    };
    match remote {
        Some(remote) => {
            let local = Address::local_of(got).unwrap_or(remote);
            show(got, local, remote, flags, reason);
        }
        None => {
            stats::add(stats::global().accepted(Mode::Tcp), 1);
            stats::add(stats::global().fallback(reason), 1);
        }
    }
}

/// A connection of the kernel's was accepted as `got`: it is counted and shown, with why it is the kernel's.
fn show(got: RawFd, local: Address, remote: Address, flags: i32, reason: Reason) {
    let socket = Socket::new(remote.family(), flags & libc::SOCK_NONBLOCK != 0);
    {
        let mut inner = socket.lock();
        inner.role = Role::Plain;
        inner.fds.push(got);
        let side = Side::Accepting(local, remote);
        socket.describe(&mut inner, Mode::Tcp, reason, side);
    }
    stats::add(stats::global().fallback(reason), 1);
    lifecycle::install(got, Entry::Plain(socket));
}
