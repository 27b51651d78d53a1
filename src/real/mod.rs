//! The originals of every hooked symbol (`dlsym(RTLD_NEXT)`) and raw system calls.
//!
//! [`for_each_symbol`](crate::for_each_symbol) is the one table of symbols: the originals here, the exports of the
//! preload library and the allow-list that the tests compare with `nm -D` all come from it.

pub mod sys;
pub mod thread;

use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

/// Calls the macro `$with` with the table of hooked symbols.
///
/// Each row is a C prototype. Variadic functions (`fcntl`, `ioctl`) are declared with the fixed
/// arguments that the x86-64 and aarch64 calling conventions pass in registers either way.
#[macro_export]
macro_rules! for_each_symbol {
    ($with:ident) => {
        $with! {
            fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
            fn bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
            fn listen(fd: c_int, backlog: c_int) -> c_int;
            fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int;
            fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int;
            fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
            fn shutdown(fd: c_int, how: c_int) -> c_int;
            fn getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int;
            fn getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int;
            fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int;
            fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int;

            fn read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t;
            fn readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t;
            fn recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t;
            fn recvfrom(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, addr: *mut sockaddr, addr_len: *mut socklen_t) -> ssize_t;
            fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t;
            fn recvmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int;
            fn __read_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t) -> ssize_t;
            fn __recv_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t, flags: c_int) -> ssize_t;
            fn __recvfrom_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t, flags: c_int, addr: *mut sockaddr, addr_len: *mut socklen_t) -> ssize_t;

            fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t;
            fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t;
            fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t;
            fn sendto(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, addr: *const sockaddr, addr_len: socklen_t) -> ssize_t;
            fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t;
            fn sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int;
            fn sendfile(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t;
            fn sendfile64(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t;
            fn splice(input: c_int, off_in: *mut i64, out: c_int, off_out: *mut i64, len: size_t, flags: c_uint) -> ssize_t;

            fn close(fd: c_int) -> c_int;
            fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
            fn closefrom(first: c_int) -> ();
            fn dup(fd: c_int) -> c_int;
            fn dup2(fd: c_int, to: c_int) -> c_int;
            fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int;
            fn pidfd_getfd(pidfd: c_int, fd: c_int, flags: c_uint) -> c_int;
            fn fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int;
            fn fcntl64(fd: c_int, cmd: c_int, arg: usize) -> c_int;
            fn ioctl(fd: c_int, request: c_ulong, arg: usize) -> c_int;

            fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE;
            fn fclose(stream: *mut FILE) -> c_int;
            fn vdprintf(fd: c_int, format: *const c_char, args: *mut c_void) -> c_int;
            fn __vdprintf_chk(fd: c_int, flag: c_int, format: *const c_char, args: *mut c_void) -> c_int;
            fn _exit(status: c_int) -> ();
            fn _Exit(status: c_int) -> ();
            fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
            fn execv(path: *const c_char, argv: *const *const c_char) -> c_int;
            fn execvp(file: *const c_char, argv: *const *const c_char) -> c_int;
            fn execvpe(file: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
            fn fexecve(fd: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
            fn execveat(directory: c_int, path: *const c_char, argv: *const *const c_char, envp: *const *const c_char, flags: c_int) -> c_int;
            fn posix_spawn(pid: *mut pid_t, path: *const c_char, actions: *const posix_spawn_file_actions_t, attributes: *const posix_spawnattr_t, argv: *const *mut c_char, envp: *const *mut c_char) -> c_int;
            fn posix_spawnp(pid: *mut pid_t, file: *const c_char, actions: *const posix_spawn_file_actions_t, attributes: *const posix_spawnattr_t, argv: *const *mut c_char, envp: *const *mut c_char) -> c_int;
            fn posix_spawn_file_actions_adddup2(actions: *mut posix_spawn_file_actions_t, fd: c_int, to: c_int) -> c_int;
            fn posix_spawn_file_actions_init(actions: *mut posix_spawn_file_actions_t) -> c_int;
            fn posix_spawn_file_actions_addclose(actions: *mut posix_spawn_file_actions_t, fd: c_int) -> c_int;
            fn posix_spawn_file_actions_addclosefrom_np(actions: *mut posix_spawn_file_actions_t, from: c_int) -> c_int;
            fn posix_spawn_file_actions_destroy(actions: *mut posix_spawn_file_actions_t) -> c_int;
            fn system(command: *const c_char) -> c_int;
            fn popen(command: *const c_char, mode: *const c_char) -> *mut FILE;
            fn daemon(keep_directory: c_int, keep_streams: c_int) -> c_int;
            fn syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long;

            fn sigaction(signal: c_int, new: *const sigaction, old: *mut sigaction) -> c_int;
            fn signal(signal: c_int, handler: sighandler_t) -> sighandler_t;
            fn __sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t;
            fn sigset(signal: c_int, handler: sighandler_t) -> sighandler_t;
            fn siginterrupt(signal: c_int, interrupts: c_int) -> c_int;

            fn epoll_create(size: c_int) -> c_int;
            fn epoll_create1(flags: c_int) -> c_int;
            fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int;
            fn epoll_wait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int) -> c_int;
            fn epoll_pwait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int, mask: *const sigset_t) -> c_int;
            fn epoll_pwait2(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: *const timespec, mask: *const sigset_t) -> c_int;
            fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int;
            fn ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int;
            fn __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, room: size_t) -> c_int;
            fn __ppoll_chk(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t, room: size_t) -> c_int;
            fn select(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *mut timeval) -> c_int;
            fn pselect(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec, mask: *const sigset_t) -> c_int;
        }
    };
}

/// Finds the next definition of `name` and remembers it in `slot`.
#[cold]
fn resolve(name: &CStr, slot: &AtomicPtr<c_void>) -> *mut c_void {
    // SAFETY: dlsym with RTLD_NEXT and a NUL-terminated name has no other precondition.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    slot.store(found, Ordering::Release);
    found
}

/// What the preload library exports besides: variadic functions, in its own file.
#[cfg(target_arch = "x86_64")]
pub const VARIADIC: &[&str] = &["dprintf", "__dprintf_chk", "execl", "execlp", "execle"];
/// None: such functions are written for one kind of processor each.
#[cfg(not(target_arch = "x86_64"))]
pub const VARIADIC: &[&str] = &[];

macro_rules! originals {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        /// Every symbol that the preload library exports.
        pub const SYMBOLS: &[&str] = &[$(stringify!($name)),*];

        /// The originals. Each has the contract of the libc function of its name.
        #[allow(missing_docs, clippy::missing_safety_doc, non_snake_case)]
        pub mod orig {
            use super::*;
            #[allow(clippy::wildcard_imports)]
            use libc::*;

            mod slots {
                use super::*;
                $(#[allow(non_upper_case_globals)]
                pub static $name: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());)*
            }

            $(pub unsafe fn $name($($arg: $ty),*) -> $ret {
                let mut target = slots::$name.load(Ordering::Acquire);
                if target.is_null() {
                    const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => unreachable!(),
                    };
                    target = resolve(NAME, &slots::$name);
                    if target.is_null() {
                        return super::Failing::failing(libc::ENOSYS);
                    }
                }
                // SAFETY: the address is that of the libc function with this prototype; the caller
                // keeps its contract.
                unsafe {
                    core::mem::transmute::<*mut c_void, unsafe extern "C-unwind" fn($($ty),*) -> $ret>(target)($($arg),*)
                }
            })*

            /// Resolves every original now, so that a signal handler or a vfork child never has to.
            pub fn resolve_all() {
                $(if slots::$name.load(Ordering::Relaxed).is_null() {
                    const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => unreachable!(),
                    };
                    resolve(NAME, &slots::$name);
                })*
            }
        }
    };
}

/// What a call returns that fails: also where this libc does not have its original (`ENOSYS`).
pub trait Failing: Sized {
    /// With that `errno`.
    fn failing(errno: i32) -> Self;

    /// The error itself, where it is that which the call returns.
    fn told(errno: i32) -> Self {
        Self::failing(errno)
    }
}

macro_rules! failing {
    ($($ty:ty),*) => {$(impl Failing for $ty {
        fn failing(errno: i32) -> Self {
            sys::set_errno(errno);
            -1
        }

        fn told(errno: i32) -> Self {
            errno as Self
        }
    })*};
}
failing!(i32, i64, isize);

impl<T> Failing for *mut T {
    fn failing(errno: i32) -> Self {
        sys::set_errno(errno);
        core::ptr::null_mut()
    }
}

impl Failing for () {
    fn failing(_: i32) {}
}

impl Failing for libc::sighandler_t {
    fn failing(errno: i32) -> Self {
        sys::set_errno(errno);
        libc::SIG_ERR
    }
}

for_each_symbol!(originals);
