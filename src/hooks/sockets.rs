//! socket, bind, listen, accept, connect, shutdown, addresses and options.

use libc::{c_int, c_void, sockaddr, socklen_t};

use super::{Found, fail, find, give};
use crate::fdtable::{self, Entry};
use crate::real::orig;
use crate::real::sys::Errno;
use crate::socket::addr::Address;
use crate::socket::connect::Outcome;
use crate::socket::{Inner, Role, by_kernel, foreign, lifecycle, options};
use crate::{fork, memory, verbs};

pub unsafe fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let tcp = matches!(domain, libc::AF_INET | libc::AF_INET6)
        && kind & 0xf == libc::SOCK_STREAM
        && matches!(protocol, 0 | libc::IPPROTO_TCP);
    // SAFETY: no pointers.
    let fd = unsafe { orig::socket(domain, kind, protocol) };
    if fd < 0 || fork::is_stranger() {
        return fd;
    }
    // A connection that librdmacm makes itself (to a daemon that resolves routes) is the kernel's.
    // So is one that is made while memory is short.
    if tcp && !verbs::is_inside() && !memory::is_short() {
        fork::claim();
        lifecycle::created(fd, domain, kind & libc::SOCK_NONBLOCK != 0);
    } else if let Some(stale) = fdtable::take(fd) {
        lifecycle::release(fd, stale);
    }
    fd
}

pub unsafe fn bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    // (A child that shares its parent's memory only says what its own numbers are to be.)
    let known = match fork::is_stranger() {
        true => None,
        false => fdtable::get(fd),
    };
    if let Some(Entry::Socket(socket)) = known
        && socket.is_afloat()
    {
        return fail::<c_int>(Errno::INVAL);
    }
    // SAFETY: the caller's contract is that of the original.
    let result = unsafe { orig::bind(fd, addr, len) };
    if result == 0
        && let Some(Entry::Socket(socket)) = known
    {
        let mut inner = socket.lock();
        inner.is_bound = true;
        inner.spoil();
    }
    result
}

pub unsafe fn listen(fd: c_int, backlog: c_int) -> c_int {
    match find(fd) {
        Found::Socket(socket, inner) => give(socket.listen(fd, inner, backlog).map(|()| 0)),
        // SAFETY: no pointers.
        _ => unsafe { orig::listen(fd, backlog) },
    }
}

pub unsafe fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    // SAFETY: the caller's contract.
    unsafe { take(fd, addr, len, 0, || orig::accept(fd, addr, len)) }
}

pub unsafe fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
    // SAFETY: the caller's contract.
    unsafe { take(fd, addr, len, flags, || orig::accept4(fd, addr, len, flags)) }
}

unsafe fn take(
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
    original: impl FnOnce() -> c_int,
) -> c_int {
    foreign::meet(fd);
    if let Found::Socket(socket, inner) = find(fd)
        && matches!(inner.role, Role::Listening(_))
    {
        // SAFETY: the caller's contract.
        let accepted = unsafe { socket.accept(fd, inner, addr, len, flags) };
        // It may have become the kernel's meanwhile.
        if accepted != Err(Errno::INVAL) || !matches!(fdtable::get(fd), Some(Entry::Plain(_))) {
            return give(accepted);
        }
    }
    let accepted = original();
    if accepted >= 0
        && let Some(Entry::Plain(listener)) = fdtable::get(fd)
    {
        let reason = listener.lock().reason();
        by_kernel::accepted(accepted, flags, reason);
    }
    accepted
}

pub unsafe fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    // (Without an address the kernel changes nothing.)
    if !addr.is_null()
        && let Found::Socket(socket, inner) = find(fd)
    {
        // SAFETY: the caller's contract.
        let dest = unsafe { Address::read(addr, len) }.filter(|a| usable(a, &inner));
        match socket.connect(fd, inner, dest) {
            Outcome::Done(result) => return give(result.map(|()| 0)),
            Outcome::Kernel => {}
        }
    }
    // SAFETY: the caller's contract is that of the original.
    unsafe { orig::connect(fd, addr, len) }
}

/// Whether the kernel would take `address` on this socket; if not, it shall say so itself.
fn usable(address: &Address, inner: &Inner) -> bool {
    address.port() != 0 && (address.family() == inner.domain)
}

#[unsafe(link_section = ".text.netacc_hooks")]
pub unsafe fn shutdown(fd: c_int, how: c_int) -> c_int {
    match find(fd) {
        Found::Socket(socket, inner) => match socket.shutdown(inner, how) {
            Some(result) => give(result.map(|()| 0)),
            // SAFETY: no pointers.
            None => unsafe { orig::shutdown(fd, how) },
        },
        Found::Refused(error) => fail::<c_int>(error),
        // SAFETY: no pointers.
        Found::Kernel => unsafe { orig::shutdown(fd, how) },
    }
}

/// What we know of a descriptor: its socket, locked, whether ours or plain, with what has come for it taken in.
fn known<T>(fd: c_int, look: impl FnOnce(&mut Inner) -> Option<T>) -> Option<T> {
    match fdtable::get(fd) {
        Some(Entry::Socket(socket) | Entry::Plain(socket)) => {
            let mut inner = socket.refreshed(socket.lock())?;
            look(&mut inner)
        }
        _ => None,
    }
}

pub unsafe fn getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    match known(fd, |inner| inner.local) {
        // SAFETY: the caller's contract.
        Some(address) => give(unsafe { address.write(addr, len) }.map(|()| 0)),
        // SAFETY: the caller's contract is that of the original.
        None => unsafe { orig::getsockname(fd, addr, len) },
    }
}

pub unsafe fn getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    let found = known(fd, |inner| match &inner.role {
        Role::Connecting(_) => Some(Err(Errno::NOTCONN)),
        Role::Connected(conn) if conn.is_over() => Some(Err(Errno::NOTCONN)),
        _ => inner.remote.map(Ok),
    });
    match found {
        Some(Ok(address)) => {
            // The kernel's own check comes first: a plain connection may be over.
            if matches!(fdtable::get(fd), Some(Entry::Plain(_))) && Address::peer_of(fd).is_none() {
                return fail::<c_int>(Errno::NOTCONN);
            }
            // SAFETY: the caller's contract.
            give(unsafe { address.write(addr, len) }.map(|()| 0))
        }
        Some(Err(error)) => fail::<c_int>(error),
        // SAFETY: the caller's contract is that of the original.
        None => unsafe { orig::getpeername(fd, addr, len) },
    }
}

pub unsafe fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    let result = unsafe { orig::getsockopt(fd, level, name, value, len) };
    if result != 0 {
        return result;
    }
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ERROR) => {
            if let Some(error) = known(fd, Inner::take_error) {
                let number = error.map_or(0, Errno::raw_os_error).to_ne_bytes();
                // SAFETY: the kernel has just written an int of up to `*len` bytes there.
                unsafe { overwrite(value, len, &number) };
            }
        }
        (libc::SOL_SOCKET, libc::SO_REUSEADDR) => {
            let carried = |inner: &mut Inner| match inner.role {
                Role::Connected(_) => inner.reuses_address,
                _ => None,
            };
            if let Some(on) = known(fd, carried) {
                // SAFETY: as above.
                unsafe { overwrite(value, len, &c_int::from(on).to_ne_bytes()) };
            }
        }
        (libc::SOL_SOCKET, libc::SO_RCVLOWAT) => {
            let shared = |inner: &mut Inner| match inner.role {
                Role::Leftover(_) => Some(inner.low_water as c_int),
                _ => None,
            };
            if let Some(bytes) = known(fd, shared) {
                // SAFETY: as above.
                unsafe { overwrite(value, len, &bytes.to_ne_bytes()) };
            }
        }
        (libc::IPPROTO_TCP, libc::TCP_INFO) => {
            if let Some(state) = known(fd, |inner| inner.tcp_state()) {
                // SAFETY: the kernel has just written up to `*len` bytes there, the state first.
                unsafe { overwrite(value, len, &[state]) };
            }
        }
        _ => {}
    }
    result
}

/// Puts `ours` in place of what the kernel has answered, as far as there is room.
///
/// # Safety
/// `value` must be valid for `*len` bytes.
unsafe fn overwrite(value: *mut c_void, len: *const socklen_t, ours: &[u8]) {
    // SAFETY: by the contract.
    unsafe {
        let n = (*len as usize).min(ours.len());
        core::ptr::copy_nonoverlapping(ours.as_ptr(), value.cast::<u8>(), n);
    }
}

pub unsafe fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    if options::is_kernels(level, name)
        && let Found::Socket(socket, inner) = find(fd)
    {
        let nonblocking = inner.nonblocking;
        if let Err(error) = socket.hand_back(inner, nonblocking) {
            return fail::<c_int>(error);
        }
    }
    // SAFETY: the caller's contract is that of the original.
    let result = unsafe { orig::setsockopt(fd, level, name, value, len) };
    if result == 0
        && let Found::Socket(_, mut inner) = find(fd)
    {
        // SAFETY: the kernel has just read it.
        unsafe { inner.option_set(level, name, value, len) };
    }
    result
}
