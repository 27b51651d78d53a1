//! close, dup, fcntl, ioctl and their kin.

use libc::{c_int, c_uint, c_ulong};

use super::{Found, fail, find, find_as_it_is};
use crate::fdtable::{self, Entry};
use crate::fork;
use crate::real::orig;
use crate::real::sys::Errno;
use crate::socket::{Role, lifecycle};
use crate::verbs;

/// Whether an urgent byte comes next; the libc crate does not have it.
pub(super) const SIOCATMARK: c_ulong = 0x8905;

/// Which signal tells of input, and who gets it; the libc crate does not have them.
const F_SETSIG: c_int = 10;
/// See [`F_SETSIG`].
const F_SETOWN_EX: c_int = 15;

/// The largest descriptor number there can be.
const LAST: c_uint = c_int::MAX as c_uint;

#[unsafe(link_section = ".text.netacc_hooks")]
pub unsafe fn close(fd: c_int) -> c_int {
    if let Some(entry) = fdtable::get(fd)
        && !fork::is_stranger()
    {
        if matches!(entry, Entry::Internal) && !verbs::is_inside() {
            return fail::<c_int>(Errno::BADF);
        }
        forget(fd);
    }
    // SAFETY: no pointers.
    unsafe { orig::close(fd) }
}

/// The application gives `fd` up.
fn forget(fd: c_int) {
    lifecycle::closes(fd);
    if let Some(entry) = fdtable::take(fd) {
        lifecycle::release(fd, entry);
    }
}

/// The application gives all numbers from `first` to `last` up.
fn forget_all(first: c_uint, last: c_uint) {
    fdtable::for_each(first as usize, last as usize, |fd, entry| {
        if !matches!(entry, Entry::Internal) {
            forget(fd);
        }
    });
}

pub unsafe fn fclose(stream: *mut libc::FILE) -> c_int {
    let fd = if stream.is_null() {
        -1
    } else {
        // SAFETY: the caller's stream.
        unsafe { libc::fileno(stream) }
    };
    if fd >= 0 && !matches!(fdtable::get(fd), None | Some(Entry::Internal)) && !fork::is_stranger()
    {
        // The C library closes it inside, unseen; what it still holds in its buffer comes first.
        // SAFETY: the caller's stream.
        unsafe { libc::fflush(stream) };
        forget(fd);
    }
    // SAFETY: the caller's contract is that of the original.
    unsafe { orig::fclose(stream) }
}

pub unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if flags & libc::CLOSE_RANGE_CLOEXEC as c_int != 0 || first > last || fork::is_stranger() {
        // SAFETY: no pointers.
        return unsafe { orig::close_range(first, last, flags) };
    }
    // That may take new numbers of the library's own.
    forget_all(first, last);
    let mut kept = Vec::new();
    fdtable::for_each(first as usize, last as usize, |fd, entry| {
        if let Entry::Internal = entry {
            kept.push(fd as c_uint);
        }
    });
    // Around the library's own, which the application does not know of.
    let mut from = first;
    let mut result = 0;
    for fd in kept {
        if fd > from {
            // SAFETY: no pointers.
            result = unsafe { orig::close_range(from, fd - 1, flags) };
        }
        from = fd + 1;
    }
    if from <= last {
        // SAFETY: no pointers.
        result = unsafe { orig::close_range(from, last, flags) };
    }
    result
}

pub unsafe fn closefrom(first: c_int) {
    if fork::is_stranger() {
        // SAFETY: no pointers.
        return unsafe { orig::closefrom(first) };
    }
    // SAFETY: no pointers.
    if unsafe { close_range(first.max(0) as c_uint, LAST, 0) } < 0 {
        // Before Linux 5.9: one by one.
        forget_all(first.max(0) as c_uint, LAST);
    }
}

/// Books a duplicate.
fn note(from: c_int, to: c_int) -> c_int {
    if to >= 0 && to != from && !fork::is_stranger() {
        lifecycle::duplicated(from, to);
        // The C library's own streams read and write these inside, unseen.
        if to <= libc::STDERR_FILENO
            && let Found::Socket(socket, inner) = find(to)
        {
            // (A peer that does not answer keeps what it has.)
            let _ = socket.hand_back(inner, false);
        }
    } else if to >= 0 && fork::is_stranger() {
        crate::exec::stranger::duplicated(from, to);
    }
    to
}

/// `to` is about to stand for what `from` does, and what it stands for now is closed by that. (Onto a number that is open
/// the kernel makes every duplicate of one that is.)
fn make_way(from: c_int, to: c_int) {
    if from >= 0
        && from != to
        && matches!(fdtable::get(to), Some(Entry::Socket(_)))
        && !fork::is_stranger()
        && rustix::io::fcntl_getfd(crate::real::sys::borrow(from)).is_ok()
    {
        forget(to);
    }
}

pub unsafe fn dup(fd: c_int) -> c_int {
    if is_internal(fd) {
        return fail::<c_int>(Errno::BADF);
    }
    // SAFETY: no pointers.
    note(fd, unsafe { orig::dup(fd) })
}

pub unsafe fn dup2(fd: c_int, to: c_int) -> c_int {
    if is_internal(fd) || is_internal(to) {
        return refuse_dup(fd, to);
    }
    make_way(fd, to);
    // SAFETY: no pointers.
    note(fd, unsafe { orig::dup2(fd, to) })
}

pub unsafe fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    if is_internal(fd) || is_internal(to) {
        return refuse_dup(fd, to);
    }
    if flags & !libc::O_CLOEXEC == 0 {
        make_way(fd, to);
    }
    // SAFETY: no pointers.
    note(fd, unsafe { orig::dup3(fd, to, flags) })
}

/// As the kernel: a number that a blocked accept has taken already is busy.
fn refuse_dup(fd: c_int, to: c_int) -> c_int {
    match !is_internal(fd) && fdtable::is_reserved(to) {
        true => fail::<c_int>(Errno::BUSY),
        false => fail::<c_int>(Errno::BADF),
    }
}

/// Whether the application may not know of `fd`.
fn is_internal(fd: c_int) -> bool {
    matches!(fdtable::get(fd), Some(Entry::Internal)) && !fork::is_stranger() && !verbs::is_inside()
}

pub unsafe fn fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe { control(fd, cmd, arg, orig::fcntl) }
}

pub unsafe fn fcntl64(fd: c_int, cmd: c_int, arg: usize) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe { control(fd, cmd, arg, orig::fcntl64) }
}

unsafe fn control(
    fd: c_int,
    cmd: c_int,
    arg: usize,
    original: unsafe fn(c_int, c_int, usize) -> c_int,
) -> c_int {
    if is_internal(fd) {
        return fail::<c_int>(Errno::BADF);
    }
    match cmd {
        // SAFETY: an integer argument.
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => note(fd, unsafe { original(fd, cmd, arg) }),
        libc::F_SETFL => {
            let Found::Socket(_, mut inner) = find_as_it_is(fd) else {
                // SAFETY: an integer argument.
                return unsafe { original(fd, cmd, arg) };
            };
            // A listener with a side port is always non-blocking for the kernel.
            let forced = match inner.never_waits() {
                true => libc::O_NONBLOCK as usize,
                false => 0,
            };
            // SAFETY: an integer argument; F_SETFL never waits.
            let result = unsafe { original(fd, cmd, arg | forced) };
            if result == 0 {
                inner.nonblocking = arg as c_int & libc::O_NONBLOCK != 0;
                if arg as c_int & (libc::O_ASYNC | libc::O_DIRECT) != 0 {
                    inner.spoil();
                }
            }
            result
        }
        libc::F_GETFL => {
            // SAFETY: no argument.
            let flags = unsafe { original(fd, cmd, arg) };
            match find_as_it_is(fd) {
                Found::Socket(_, inner) if flags >= 0 && inner.never_waits() => {
                    let wanted = if inner.nonblocking {
                        libc::O_NONBLOCK
                    } else {
                        0
                    };
                    flags & !libc::O_NONBLOCK | wanted
                }
                _ => flags,
            }
        }
        libc::F_SETOWN | F_SETSIG | F_SETOWN_EX => {
            if let Found::Socket(_, mut inner) = find_as_it_is(fd) {
                inner.spoil();
            }
            // SAFETY: the caller's contract is that of the original.
            unsafe { original(fd, cmd, arg) }
        }
        // SAFETY: the caller's contract is that of the original.
        _ => unsafe { original(fd, cmd, arg) },
    }
}

pub unsafe fn ioctl(fd: c_int, request: c_ulong, arg: usize) -> c_int {
    let found = match request {
        libc::FIONREAD | libc::TIOCOUTQ | SIOCATMARK => find(fd),
        _ => find_as_it_is(fd),
    };
    let mut inner = match found {
        Found::Socket(_, inner) => inner,
        Found::Refused(Errno::BADF) => return fail::<c_int>(Errno::BADF),
        // SAFETY: the caller's contract is that of the original.
        _ => return unsafe { orig::ioctl(fd, request, arg) },
    };
    let number = arg as *mut c_int;
    if number.is_null() {
        drop(inner);
        // SAFETY: as above; the kernel answers EFAULT where it matters.
        return unsafe { orig::ioctl(fd, request, arg) };
    }
    match request {
        libc::FIONBIO => {
            // SAFETY: FIONBIO's argument is an int.
            let on = unsafe { number.read_unaligned() } != 0;
            if !inner.never_waits() {
                // SAFETY: as above; FIONBIO never waits.
                let result = unsafe { orig::ioctl(fd, request, arg) };
                if result != 0 {
                    return result;
                }
            }
            inner.nonblocking = on;
            return 0;
        }
        libc::FIONREAD => {
            if let Role::Leftover(left) = &inner.role {
                let left = left.len();
                drop(inner);
                // SAFETY: as above.
                let result = unsafe { orig::ioctl(fd, request, arg) };
                if result == 0 {
                    // SAFETY: FIONREAD's argument is an int, aligned or not, that the kernel has just written.
                    unsafe { number.write_unaligned(number.read_unaligned() + left as c_int) };
                }
                return result;
            }
            if let Some(link) = inner.link() {
                drop(inner);
                link.source().poll(None);
                if let Found::Socket(_, inner) = find(fd)
                    && let Some(bytes) = inner.readable_bytes()
                {
                    // SAFETY: FIONREAD's argument is an int to write to.
                    unsafe { number.write_unaligned(bytes.min(c_int::MAX as usize) as c_int) };
                    return 0;
                }
            }
        }
        libc::TIOCOUTQ => {
            if let Some(bytes) = inner.unsent_bytes() {
                // SAFETY: as for FIONREAD.
                unsafe { number.write_unaligned(bytes as c_int) };
                return 0;
            }
        }
        SIOCATMARK if matches!(inner.role, Role::Connected(_)) => {
            // SAFETY: as for FIONREAD. There is never an urgent byte on a link.
            unsafe { number.write_unaligned(0) };
            return 0;
        }
        _ => {
            inner.spoil();
            drop(inner);
        }
    }
    // SAFETY: the caller's contract is that of the original.
    unsafe { orig::ioctl(fd, request, arg) }
}
