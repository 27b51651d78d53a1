//! `syscall(2)`: the calls that programs make by number (Node's libuv closes that way, Java and Go
//! libraries do more) take the same road as their named forms.

use libc::{c_int, c_long, c_uint, sigset_t, socklen_t, timespec};

use crate::real::orig;
use crate::real::sys::now_ns;

/// The kernel's size of a signal set, which the named forms do not pass.
const KERNEL_SIGSET: usize = 8;

pub unsafe fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let fd = a as c_int;
    // SAFETY: each form has the contract of the system call of its number, which the caller keeps.
    unsafe {
        match number {
            libc::SYS_read => super::read(fd, b as _, c) as c_long,
            libc::SYS_readv => super::readv(fd, b as _, c as c_int) as c_long,
            libc::SYS_recvfrom => {
                super::recvfrom(fd, b as _, c, d as c_int, e as _, f as _) as c_long
            }
            libc::SYS_recvmsg => super::recvmsg(fd, b as _, c as c_int) as c_long,
            libc::SYS_recvmmsg => {
                super::recvmmsg(fd, b as _, c as c_uint, d as c_int, e as _).into()
            }
            libc::SYS_write => super::write(fd, b as _, c) as c_long,
            libc::SYS_writev => super::writev(fd, b as _, c as c_int) as c_long,
            libc::SYS_sendto => {
                super::sendto(fd, b as _, c, d as c_int, e as _, f as socklen_t) as c_long
            }
            libc::SYS_sendmsg => super::sendmsg(fd, b as _, c as c_int) as c_long,
            libc::SYS_sendmmsg => super::sendmmsg(fd, b as _, c as c_uint, d as c_int).into(),
            libc::SYS_sendfile => super::sendfile(fd, b as c_int, c as _, d) as c_long,
            libc::SYS_splice => {
                super::splice(fd, b as _, c as c_int, d as _, e, f as c_uint) as c_long
            }
            libc::SYS_socket => super::socket(fd, b as c_int, c as c_int).into(),
            libc::SYS_listen => super::listen(fd, b as c_int).into(),
            libc::SYS_accept => super::accept(fd, b as _, c as _).into(),
            libc::SYS_accept4 => super::accept4(fd, b as _, c as _, d as c_int).into(),
            libc::SYS_connect => super::connect(fd, b as _, c as socklen_t).into(),
            libc::SYS_shutdown => super::shutdown(fd, b as c_int).into(),
            libc::SYS_getsockname => super::getsockname(fd, b as _, c as _).into(),
            libc::SYS_getpeername => super::getpeername(fd, b as _, c as _).into(),
            libc::SYS_getsockopt => {
                super::getsockopt(fd, b as c_int, c as c_int, d as _, e as _).into()
            }
            libc::SYS_setsockopt => {
                super::setsockopt(fd, b as c_int, c as c_int, d as _, e as socklen_t).into()
            }
            libc::SYS_exit_group => {
                super::_exit(fd);
                0
            }
            libc::SYS_execve => super::execve(a as _, b as _, c as _).into(),
            libc::SYS_execveat => super::execveat(fd, b as _, c as _, d as _, e as c_int).into(),
            libc::SYS_close => super::close(fd).into(),
            libc::SYS_close_range => {
                super::close_range(a as c_uint, b as c_uint, c as c_int).into()
            }
            libc::SYS_pidfd_getfd => super::pidfd_getfd(fd, b as c_int, c as c_uint).into(),
            libc::SYS_dup => super::dup(fd).into(),
            libc::SYS_dup3 => super::dup3(fd, b as c_int, c as c_int).into(),
            libc::SYS_fcntl => super::fcntl(fd, b as c_int, c).into(),
            libc::SYS_ioctl => super::ioctl(fd, b as _, c).into(),
            libc::SYS_epoll_create1 => super::epoll_create1(fd).into(),
            libc::SYS_epoll_ctl => super::epoll_ctl(fd, b as c_int, c as c_int, d as _).into(),
            libc::SYS_epoll_pwait if e == 0 || f == KERNEL_SIGSET => {
                super::epoll_pwait(fd, b as _, c as c_int, d as c_int, e as _).into()
            }
            libc::SYS_epoll_pwait2 if e == 0 || f == KERNEL_SIGSET => {
                super::epoll_pwait2(fd, b as _, c as c_int, d as _, e as _).into()
            }
            libc::SYS_ppoll if d == 0 || e == KERNEL_SIGSET => timed(c as _, |left| {
                super::ppoll(a as _, b as _, left, d as _).into()
            }),
            libc::SYS_pselect6 if mask_of(f).is_ok() => {
                let mask = mask_of(f).unwrap_or(core::ptr::null());
                timed(e as _, |left| {
                    super::pselect(fd, b as _, c as _, d as _, left, mask).into()
                })
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_dup2 => super::dup2(fd, b as c_int).into(),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_create => super::epoll_create(fd).into(),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait => super::epoll_wait(fd, b as _, c as c_int, d as c_int).into(),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => super::poll(a as _, b as _, c as c_int).into(),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_select => super::select(fd, b as _, c as _, d as _, e as _).into(),
            _ => orig::syscall(number, a, b, c, d, e, f),
        }
    }
}

/// The signal set behind pselect6's last argument, a pointer to its address and size.
///
/// # Errors
/// It has not the kernel's size, which the kernel is to refuse.
///
/// # Safety
/// The contract of pselect6(2).
unsafe fn mask_of(both: usize) -> Result<*const sigset_t, ()> {
    // SAFETY: null or two words, by the contract.
    match unsafe { (both as *const [usize; 2]).as_ref() } {
        None | Some([0, _]) => Ok(core::ptr::null()),
        Some(&[mask, KERNEL_SIGSET]) => Ok(mask as *const sigset_t),
        Some(_) => Err(()),
    }
}

/// Makes a call that waits for `time` at most. Unlike the C library's functions the system calls leave there what is
/// left of it.
///
/// # Safety
/// The contract of ppoll(2) for `time`.
unsafe fn timed(time: *mut timespec, call: impl FnOnce(*const timespec) -> c_long) -> c_long {
    let start = now_ns();
    let result = call(time);
    // SAFETY: null or valid by the contract.
    if let Some(time) = unsafe { time.as_mut() }
        && time.tv_sec >= 0
        && (0..1_000_000_000).contains(&time.tv_nsec)
    {
        let limit = (time.tv_sec as u64)
            .saturating_mul(1_000_000_000)
            .saturating_add(time.tv_nsec as u64);
        let left = limit.saturating_sub(now_ns() - start);
        time.tv_sec = (left / 1_000_000_000) as libc::time_t;
        time.tv_nsec = (left % 1_000_000_000) as libc::c_long;
    }
    result
}
