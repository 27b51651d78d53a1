//! Descriptors that are passed to other processes and come from them (SCM_RIGHTS), or are taken out of them (pidfd_getfd).

use libc::{c_int, c_uint, msghdr};

use crate::control::possession;
use crate::fdtable::{self, Entry};
use crate::fork;
use crate::real::orig;
use crate::socket::{leaving, lifecycle};

/// Calls `f` for each descriptor that goes, or came, with a message.
///
/// # Safety
/// A message that is valid for sendmsg(2), or that recvmsg(2) has filled in.
unsafe fn each(msg: *const msghdr, mut f: impl FnMut(c_int)) {
    // SAFETY: by the contract; `f` sees only what lies within the control buffer.
    unsafe {
        if msg.is_null() || (*msg).msg_control.is_null() {
            return;
        }
        let end = (*msg).msg_control as usize + (*msg).msg_controllen;
        let mut at = libc::CMSG_FIRSTHDR(msg);
        while !at.is_null() && at as usize + size_of::<libc::cmsghdr>() <= end {
            let first = libc::CMSG_DATA(at) as usize;
            let last = (at as usize + (*at).cmsg_len).min(end);
            if ((*at).cmsg_level, (*at).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let mut fd = first;
                while fd + size_of::<c_int>() <= last {
                    f((fd as *const c_int).read_unaligned());
                    fd += size_of::<c_int>();
                }
            }
            at = libc::CMSG_NXTHDR(msg, at);
        }
    }
}

/// Whoever gets what is passed with `msg` may do without this library.
///
/// # Safety
/// As for sendmsg(2).
pub(super) unsafe fn let_out(msg: *const msghdr) {
    if fork::is_stranger() {
        return;
    }
    let mut passed = Vec::new();
    // SAFETY: by the contract.
    unsafe {
        each(msg, |fd| {
            if let Some(Entry::Socket(socket)) = fdtable::get(fd) {
                passed.push(socket);
            }
        });
    }
    if passed.is_empty() {
        return;
    }
    let _errno = crate::log::ErrnoGuard::new();
    leaving::let_out(passed);
}

pub unsafe fn pidfd_getfd(pidfd: c_int, fd: c_int, flags: c_uint) -> c_int {
    let (process, number) = (pidfd as usize, fd as usize);
    // SAFETY: no pointers. (By its number, for older C libraries do not have it.)
    let got = unsafe {
        orig::syscall(
            libc::SYS_pidfd_getfd,
            process,
            number,
            flags as usize,
            0,
            0,
            0,
        )
    } as c_int;
    if got < 0 || fork::is_stranger() {
        return got;
    }
    let _errno = crate::log::ErrnoGuard::new();
    forget_stale(got);
    match possession::process_of(pidfd) {
        Some(pid) if pid as u32 == fork::pid() => lifecycle::duplicated(fd, got),
        Some(pid) => possession::taken(got, pid),
        None => {}
    }
    got
}

/// `fd` has just been given out by the kernel: what it stood for before was closed unseen.
fn forget_stale(fd: c_int) {
    if let Some(stale) = fdtable::take(fd) {
        lifecycle::lost(fd, stale);
    }
}

/// Numbers that came with `msg` stand for what came: what they stood for before was closed unseen.
///
/// # Safety
/// As recvmsg(2) has filled it in.
pub(super) unsafe fn let_in(msg: *const msghdr) {
    // SAFETY: by the contract.
    unsafe {
        each(msg, |fd| {
            if !fork::is_stranger() {
                forget_stale(fd);
            }
        });
    }
}
