//! Calls at which a thread can be cancelled. The libc crate says that they do not unwind; cancelling does.

use libc::{
    c_int, c_void, epoll_event, fd_set, iovec, mmsghdr, msghdr, off_t, pollfd, sigset_t, size_t,
};
use libc::{sockaddr, socklen_t, ssize_t, timespec, timeval};

unsafe extern "C-unwind" {
    pub fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
    pub fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int;
    pub fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int;
    pub fn close(fd: c_int) -> c_int;
    pub fn read(fd: c_int, buf: *mut c_void, n: size_t) -> ssize_t;
    pub fn write(fd: c_int, buf: *const c_void, n: size_t) -> ssize_t;
    pub fn readv(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t;
    pub fn writev(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t;
    pub fn recv(fd: c_int, buf: *mut c_void, n: size_t, flags: c_int) -> ssize_t;
    pub fn send(fd: c_int, buf: *const c_void, n: size_t, flags: c_int) -> ssize_t;
    pub fn recvfrom(
        fd: c_int,
        buf: *mut c_void,
        n: size_t,
        flags: c_int,
        addr: *mut sockaddr,
        len: *mut socklen_t,
    ) -> ssize_t;
    pub fn sendto(
        fd: c_int,
        buf: *const c_void,
        n: size_t,
        flags: c_int,
        addr: *const sockaddr,
        len: socklen_t,
    ) -> ssize_t;
    pub fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t;
    pub fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t;
    pub fn recvmmsg(fd: c_int, v: *mut mmsghdr, n: u32, flags: c_int, t: *mut timespec) -> c_int;
    pub fn sendmmsg(fd: c_int, v: *mut mmsghdr, n: u32, flags: c_int) -> c_int;
    pub fn sendfile(out: c_int, from: c_int, offset: *mut off_t, n: size_t) -> ssize_t;
    pub fn splice(
        from: c_int,
        off_in: *mut i64,
        to: c_int,
        off_out: *mut i64,
        n: size_t,
        flags: u32,
    ) -> ssize_t;
    pub fn poll(fds: *mut pollfd, n: libc::nfds_t, timeout: c_int) -> c_int;
    pub fn ppoll(
        fds: *mut pollfd,
        n: libc::nfds_t,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int;
    pub fn select(
        n: c_int,
        r: *mut fd_set,
        w: *mut fd_set,
        e: *mut fd_set,
        timeout: *mut timeval,
    ) -> c_int;
    pub fn pselect(
        n: c_int,
        r: *mut fd_set,
        w: *mut fd_set,
        e: *mut fd_set,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int;
    pub fn epoll_wait(e: c_int, events: *mut epoll_event, max: c_int, timeout: c_int) -> c_int;
    pub fn epoll_pwait(
        e: c_int,
        events: *mut epoll_event,
        max: c_int,
        timeout: c_int,
        mask: *const sigset_t,
    ) -> c_int;
    pub fn epoll_pwait2(
        e: c_int,
        events: *mut epoll_event,
        max: c_int,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int;
}
