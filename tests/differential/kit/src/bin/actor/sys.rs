//! Calls at which a thread can be cancelled (the libc crate says that they do not unwind; cancelling does), by
//! their names or, after `raw(1)`, by their numbers.

use libc::{
    c_int, c_void, epoll_event, fd_set, iovec, mmsghdr, msghdr, off_t, pollfd, sigset_t, size_t,
};
use libc::{sockaddr, socklen_t, ssize_t, timespec, timeval};
use std::cell::Cell;
use std::ptr::null;

thread_local! {
    static RAW: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread makes its calls with syscall(2), or does not.
pub fn be_raw(raw: bool) {
    RAW.set(raw);
}

/// The kernel's signal sets have this size.
const SIGSET: usize = 8;

/// `name(arguments) -> result = the system call and its arguments`
macro_rules! calls {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty = $number:ident($($word:expr),*);)*) => {
        mod named {
            use super::*;
            unsafe extern "C-unwind" {
                $(pub fn $name($($arg: $ty),*) -> $ret;)*
            }
        }
        $(pub unsafe fn $name($($arg: $ty),*) -> $ret {
            if RAW.get() {
                // SAFETY: the contract of the named call, which the caller keeps.
                return unsafe { libc::syscall(libc::$number, $($word),*) } as $ret;
            }
            // SAFETY: as the caller promises.
            unsafe { named::$name($($arg),*) }
        })*
    };
}

/// pselect6(2) takes the mask and its size behind one pointer.
fn mask_and_size(mask: *const sigset_t) -> [usize; 2] {
    [mask as usize, SIGSET]
}

calls! {
    fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = SYS_connect(fd, addr, len);
    fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = SYS_accept(fd, addr, len);
    fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int = SYS_accept4(fd, addr, len, flags);
    fn close(fd: c_int) -> c_int = SYS_close(fd);
    fn read(fd: c_int, buf: *mut c_void, n: size_t) -> ssize_t = SYS_read(fd, buf, n);
    fn write(fd: c_int, buf: *const c_void, n: size_t) -> ssize_t = SYS_write(fd, buf, n);
    fn readv(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t = SYS_readv(fd, iov, n);
    fn writev(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t = SYS_writev(fd, iov, n);
    fn recv(fd: c_int, buf: *mut c_void, n: size_t, flags: c_int) -> ssize_t = SYS_recvfrom(fd, buf, n, flags, null::<u8>(), null::<u8>());
    fn send(fd: c_int, buf: *const c_void, n: size_t, flags: c_int) -> ssize_t = SYS_sendto(fd, buf, n, flags, null::<u8>(), 0);
    fn recvfrom(fd: c_int, buf: *mut c_void, n: size_t, flags: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> ssize_t = SYS_recvfrom(fd, buf, n, flags, addr, len);
    fn sendto(fd: c_int, buf: *const c_void, n: size_t, flags: c_int, addr: *const sockaddr, len: socklen_t) -> ssize_t = SYS_sendto(fd, buf, n, flags, addr, len);
    fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t = SYS_recvmsg(fd, msg, flags);
    fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t = SYS_sendmsg(fd, msg, flags);
    fn recvmmsg(fd: c_int, v: *mut mmsghdr, n: u32, flags: c_int, t: *mut timespec) -> c_int = SYS_recvmmsg(fd, v, n, flags, t);
    fn sendmmsg(fd: c_int, v: *mut mmsghdr, n: u32, flags: c_int) -> c_int = SYS_sendmmsg(fd, v, n, flags);
    fn sendfile(out: c_int, from: c_int, offset: *mut off_t, n: size_t) -> ssize_t = SYS_sendfile(out, from, offset, n);
    fn splice(from: c_int, off_in: *mut i64, to: c_int, off_out: *mut i64, n: size_t, flags: u32) -> ssize_t = SYS_splice(from, off_in, to, off_out, n, flags);
    fn poll(fds: *mut pollfd, n: libc::nfds_t, timeout: c_int) -> c_int = SYS_poll(fds, n, timeout);
    fn ppoll(fds: *mut pollfd, n: libc::nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int = SYS_ppoll(fds, n, timeout, mask, SIGSET);
    fn select(n: c_int, r: *mut fd_set, w: *mut fd_set, e: *mut fd_set, timeout: *mut timeval) -> c_int = SYS_select(n, r, w, e, timeout);
    fn pselect(n: c_int, r: *mut fd_set, w: *mut fd_set, e: *mut fd_set, timeout: *const timespec, mask: *const sigset_t) -> c_int = SYS_pselect6(n, r, w, e, timeout, mask_and_size(mask).as_ptr());
    fn epoll_wait(e: c_int, events: *mut epoll_event, max: c_int, timeout: c_int) -> c_int = SYS_epoll_wait(e, events, max, timeout);
    fn epoll_pwait(e: c_int, events: *mut epoll_event, max: c_int, timeout: c_int, mask: *const sigset_t) -> c_int = SYS_epoll_pwait(e, events, max, timeout, mask, SIGSET);
    fn epoll_pwait2(e: c_int, events: *mut epoll_event, max: c_int, timeout: *const timespec, mask: *const sigset_t) -> c_int = SYS_epoll_pwait2(e, events, max, timeout, mask, SIGSET);
    fn epoll_ctl(e: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int = SYS_epoll_ctl(e, op, fd, event);
    fn epoll_create1(flags: c_int) -> c_int = SYS_epoll_create1(flags);
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int = SYS_socket(domain, kind, protocol);
    fn bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = SYS_bind(fd, addr, len);
    fn listen(fd: c_int, backlog: c_int) -> c_int = SYS_listen(fd, backlog);
    fn shutdown(fd: c_int, how: c_int) -> c_int = SYS_shutdown(fd, how);
    fn getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = SYS_getsockname(fd, addr, len);
    fn getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = SYS_getpeername(fd, addr, len);
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int = SYS_getsockopt(fd, level, name, value, len);
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int = SYS_setsockopt(fd, level, name, value, len);
    fn dup(fd: c_int) -> c_int = SYS_dup(fd);
    fn dup2(fd: c_int, to: c_int) -> c_int = SYS_dup2(fd, to);
    fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int = SYS_dup3(fd, to, flags);
    fn close_range(first: u32, last: u32, flags: c_int) -> c_int = SYS_close_range(first, last, flags);
}
