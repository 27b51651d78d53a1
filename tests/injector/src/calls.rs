//! What system calls can fail with, as the kernel, a resource limit or a seccomp filter has it.

use libc::c_long;

/// Whether a call that is made to fail has been carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// It has not.
    Refused,
    /// It has, as a `close` has that gives an error.
    Done,
}

/// One system call.
#[derive(Debug)]
pub struct Call {
    /// Its number.
    pub number: c_long,
    /// Its name.
    pub name: &'static str,
    /// What it is made to fail with, the likeliest first.
    pub errors: &'static [&'static str],
    /// How.
    pub manner: Manner,
}

macro_rules! calls {
    ($($name:ident $number:ident $manner:ident [$($error:ident)*])*) => {
        /// All that the library is known to make for itself.
        pub const CALLS: &[Call] = &[
            $(Call {
                number: libc::$number,
                name: stringify!($name),
                errors: &[$(stringify!($error)),*],
                manner: Manner::$manner,
            }),*
        ];
    };
}

calls! {
    socket SYS_socket Refused [EMFILE ENOBUFS]
    socketpair SYS_socketpair Refused [EMFILE ENOBUFS]
    accept SYS_accept Refused [EMFILE ECONNABORTED]
    accept4 SYS_accept4 Refused [EMFILE ECONNABORTED]
    bind SYS_bind Refused [EADDRINUSE EACCES]
    listen SYS_listen Refused [EADDRINUSE]
    connect SYS_connect Refused [ECONNREFUSED EADDRNOTAVAIL]
    shutdown SYS_shutdown Refused [ENOTCONN]
    getsockname SYS_getsockname Refused [ENOBUFS]
    getpeername SYS_getpeername Refused [ENOTCONN]
    getsockopt SYS_getsockopt Refused [ENOBUFS]
    setsockopt SYS_setsockopt Refused [ENOMEM]
    sendto SYS_sendto Refused [ENOBUFS ECONNRESET]
    sendmsg SYS_sendmsg Refused [ENOBUFS EPIPE]
    recvfrom SYS_recvfrom Refused [ECONNRESET ENOMEM]
    recvmsg SYS_recvmsg Refused [ECONNRESET ENOMEM]
    read SYS_read Refused [EINTR EIO]
    readv SYS_readv Refused [EINTR EIO]
    pread64 SYS_pread64 Refused [EIO]
    write SYS_write Refused [ENOSPC EPIPE]
    writev SYS_writev Refused [ENOSPC EPIPE]
    pwrite64 SYS_pwrite64 Refused [ENOSPC]
    splice SYS_splice Refused [ENOMEM]
    close SYS_close Done [EINTR EIO]
    close_range SYS_close_range Refused [ENOSYS EPERM]
    fcntl SYS_fcntl Refused [EMFILE]
    ioctl SYS_ioctl Refused [ENOTTY]
    dup SYS_dup Refused [EMFILE]
    dup2 SYS_dup2 Refused [EMFILE]
    dup3 SYS_dup3 Refused [EMFILE]
    pipe2 SYS_pipe2 Refused [EMFILE]
    eventfd2 SYS_eventfd2 Refused [EMFILE EPERM]
    epoll_create1 SYS_epoll_create1 Refused [EMFILE ENOMEM]
    epoll_ctl SYS_epoll_ctl Refused [ENOSPC ENOMEM]
    epoll_wait SYS_epoll_wait Refused [EINTR]
    epoll_pwait SYS_epoll_pwait Refused [EINTR]
    epoll_pwait2 SYS_epoll_pwait2 Refused [EINTR ENOSYS]
    poll SYS_poll Refused [EINTR ENOMEM]
    ppoll SYS_ppoll Refused [EINTR ENOMEM]
    memfd_create SYS_memfd_create Refused [ENOMEM EPERM]
    ftruncate SYS_ftruncate Refused [ENOSPC EINTR]
    fallocate SYS_fallocate Refused [ENOSPC]
    mmap SYS_mmap Refused [ENOMEM]
    mremap SYS_mremap Refused [ENOMEM]
    munmap SYS_munmap Done [ENOMEM]
    mprotect SYS_mprotect Refused [ENOMEM]
    madvise SYS_madvise Refused [ENOMEM]
    open SYS_open Refused [EMFILE EACCES]
    openat SYS_openat Refused [EMFILE EACCES]
    fstat SYS_fstat Refused [ENOMEM]
    newfstatat SYS_newfstatat Refused [EACCES]
    statx SYS_statx Refused [ENOSYS]
    fgetxattr SYS_fgetxattr Refused [EIO]
    mkdir SYS_mkdir Refused [EROFS]
    mkdirat SYS_mkdirat Refused [EROFS ENOSPC]
    unlink SYS_unlink Refused [EROFS]
    unlinkat SYS_unlinkat Refused [EROFS]
    renameat2 SYS_renameat2 Refused [EROFS]
    getdents64 SYS_getdents64 Refused [EIO]
    readlink SYS_readlink Refused [EACCES]
    readlinkat SYS_readlinkat Refused [EACCES]
    access SYS_access Refused [EACCES]
    faccessat2 SYS_faccessat2 Refused [ENOSYS]
    clone SYS_clone Refused [EAGAIN]
    clone3 SYS_clone3 Refused [EAGAIN]
    getrandom SYS_getrandom Refused [ENOSYS]
    pidfd_open SYS_pidfd_open Refused [EPERM EMFILE]
    pidfd_getfd SYS_pidfd_getfd Refused [EPERM]
    prlimit64 SYS_prlimit64 Refused [EPERM]
    getrlimit SYS_getrlimit Refused [EPERM]
    sched_getaffinity SYS_sched_getaffinity Refused [EPERM]
    sched_setaffinity SYS_sched_setaffinity Refused [EPERM]
    rt_sigaction SYS_rt_sigaction Refused [EINVAL]
    prctl SYS_prctl Refused [EPERM]
    kcmp SYS_kcmp Refused [EPERM]
    clock_nanosleep SYS_clock_nanosleep Refused [EINTR]
}

/// The call with this number.
pub fn numbered(number: c_long) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.number == number)
}

/// The call of this name.
pub fn named(name: &str) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.name == name)
}
