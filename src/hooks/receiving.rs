//! read, readv, recv, recvfrom, recvmsg, recvmmsg and their checked forms.

use libc::{
    c_int, c_uint, c_void, iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec,
};

use super::{Found, fail, find, find_for};
use crate::conn::user_buf::{UserBuf, single};
use crate::real::orig;
use crate::real::sys::{self, Errno, now_ns};
use crate::socket::recv::Outcome;

/// Receives into `count` buffers. `None`: the kernel's affair.
#[inline]
#[unsafe(link_section = ".text.netacc_hooks")]
unsafe fn receive(fd: c_int, iov: *const iovec, count: usize, flags: c_int) -> Option<ssize_t> {
    match find_for(fd, flags) {
        Found::Kernel => None,
        Found::Refused(error) => Some(fail::<ssize_t>(error)),
        Found::Socket(socket, inner) => {
            // SAFETY: by the hook's contract.
            let mut buf = unsafe { UserBuf::new(iov, count) };
            match socket.receive(inner, &mut buf, flags) {
                Ok(Outcome::Done(n)) => Some(n as ssize_t),
                // SAFETY: what is left of the caller's buffers.
                Ok(Outcome::Partly(n)) => Some(n as ssize_t + unsafe { go_on(fd, &buf, flags, n) }),
                Ok(Outcome::Kernel) => None,
                Err(error) => Some(fail::<ssize_t>(error)),
            }
        }
    }
}

/// The kernel fills what is left of `buf` after the first `done` bytes. Returns how much; why it was not more the next
/// call tells.
#[cold]
unsafe fn go_on(fd: c_int, buf: &UserBuf, flags: c_int, done: usize) -> ssize_t {
    // As the kernel: a read that has something ends before an urgent byte, and does not skip it.
    let mut at_mark: c_int = 0;
    let mark = &raw mut at_mark;
    // SAFETY: SIOCATMARK writes an int.
    if unsafe { orig::ioctl(fd, super::descriptors::SIOCATMARK, mark as usize) } == 0
        && at_mark != 0
    {
        return 0;
    }
    let mut rest = buf.rest();
    // SAFETY: all zeros is a message without parts.
    let mut message: msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = rest.as_mut_ptr();
    message.msg_iovlen = rest.len().min(libc::UIO_MAXIOV as usize);
    // Only who wants all, or so much at least, waits for more than there is.
    let waits = flags & libc::MSG_WAITALL != 0 || done < low_water(fd);
    let flags = match waits {
        false => flags | libc::MSG_DONTWAIT,
        true => flags,
    };
    // SAFETY: a valid message, by the caller's contract.
    unsafe { orig::recvmsg(fd, &mut message, flags) }.max(0)
}

/// SO_RCVLOWAT of a socket of the kernel's.
fn low_water(fd: c_int) -> usize {
    let bytes = sys::int_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT).unwrap_or(1);
    bytes.max(0) as usize
}

fn bad_count(count: c_int) -> bool {
    !(0..=libc::UIO_MAXIOV).contains(&count)
}

/// Whether the buffers have no room at all: such a readv, too, never waits.
unsafe fn is_empty(iov: *const iovec, count: usize) -> bool {
    // SAFETY: `count` valid iovecs by the hook's contract.
    (0..count).all(|i| unsafe { (*iov.add(i)).iov_len } == 0)
}

pub unsafe fn read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t {
    let iov = single(buf, len);
    let served = match len {
        // A read of nothing never waits; a recv of nothing does.
        0 => None,
        // SAFETY: one buffer, by the caller's contract.
        _ => unsafe { receive(fd, &iov, 1, 0) },
    };
    // SAFETY: the caller's contract is that of the original.
    served.unwrap_or_else(|| unsafe { orig::read(fd, buf, len) })
}

pub unsafe fn readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: as in `read`; the count is checked first.
    let served = match bad_count(count) || iov.is_null() || unsafe { is_empty(iov, count as usize) }
    {
        true => None,
        // SAFETY: as in `read`.
        false => unsafe { receive(fd, iov, count as usize, 0) },
    };
    // SAFETY: as in `read`.
    served.unwrap_or_else(|| unsafe { orig::readv(fd, iov, count) })
}

pub unsafe fn recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
    let iov = single(buf, len);
    // SAFETY: as in `read`.
    unsafe { receive(fd, &iov, 1, flags).unwrap_or_else(|| orig::recv(fd, buf, len, flags)) }
}

pub unsafe fn recvfrom(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    let iov = single(buf, len);
    // SAFETY: as in `read`.
    match unsafe { receive(fd, &iov, 1, flags) } {
        Some(n) => {
            if n >= 0 && !addr.is_null() && !addr_len.is_null() {
                // As the kernel's TCP: a stream has no source address to tell.
                // SAFETY: valid by the caller's contract.
                unsafe { *addr_len = 0 };
            }
            n
        }
        // SAFETY: as in `read`.
        None => unsafe { orig::recvfrom(fd, buf, len, flags, addr, addr_len) },
    }
}

pub unsafe fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
    if msg.is_null() {
        // SAFETY: as in `read`.
        return unsafe { orig::recvmsg(fd, msg, flags) };
    }
    // SAFETY: a valid message by the caller's contract.
    unsafe {
        let count = (*msg).msg_iovlen;
        if count > libc::UIO_MAXIOV as usize || (*msg).msg_iov.is_null() && count > 0 {
            return orig::recvmsg(fd, msg, flags);
        }
        match receive(fd, (*msg).msg_iov, count, flags) {
            Some(n) => {
                if n >= 0 {
                    (*msg).msg_namelen = 0;
                    (*msg).msg_controllen = 0;
                    (*msg).msg_flags = flags & libc::MSG_CMSG_CLOEXEC;
                }
                n
            }
            None => {
                let n = orig::recvmsg(fd, msg, flags);
                if n >= 0 {
                    super::passing::let_in(msg);
                }
                n
            }
        }
    }
}

pub unsafe fn recvmmsg(
    fd: c_int,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    let end = match Deadline::of(timeout) {
        Ok(end) => end,
        Err(error) => return fail::<c_int>(error),
    };
    match find_for(fd, flags) {
        Found::Socket(socket, inner) => {
            // As the kernel: an error that is pending comes before what there is to read.
            if flags & libc::MSG_ERRQUEUE == 0
                && let Some(mut inner) = socket.refreshed(inner)
                && let Some(error) = inner.conn().and_then(|conn| conn.error.take())
            {
                return fail::<c_int>(error);
            }
        }
        Found::Refused(error) => return fail::<c_int>(error),
        Found::Kernel => {
            // SAFETY: as in `read`; so many messages have come.
            unsafe {
                let came = orig::recvmmsg(fd, msgs, count, flags, timeout);
                for at in 0..came.max(0) as usize {
                    super::passing::let_in(&(*msgs.add(at)).msg_hdr);
                }
                return came;
            }
        }
    }
    let mut done = 0;
    while done < count {
        // After the first message, MSG_WAITFORONE takes only what is there.
        let mut this = flags & !libc::MSG_WAITFORONE;
        if done > 0 && flags & libc::MSG_WAITFORONE != 0 {
            this |= libc::MSG_DONTWAIT;
        }
        // SAFETY: `count` valid messages by the caller's contract.
        let n = unsafe {
            let message = msgs.add(done as usize);
            let n = recvmsg(fd, &mut (*message).msg_hdr, this);
            if n >= 0 {
                (*message).msg_len = n as c_uint;
            }
            n
        };
        if n < 0 {
            if done > 0 {
                keep_error(fd, sys::last_error());
            }
            break;
        }
        done += 1;
        // SAFETY: by the caller's contract.
        if end.as_ref().is_some_and(|end| unsafe { end.tell(timeout) }) {
            break;
        }
    }
    match done {
        0 if count > 0 => -1,
        done => done as c_int,
    }
}

/// As the kernel: an error behind messages that were received is for the next call.
fn keep_error(fd: c_int, error: Errno) {
    if ![Errno::AGAIN, Errno::INTR].contains(&error)
        && let Found::Socket(_, mut inner) = find(fd)
        && let Some(conn) = inner.conn()
    {
        conn.error.get_or_insert(error);
    }
}

/// Until when recvmmsg asks for another message. As the kernel: looked at after each, never waited for.
struct Deadline(u64);

impl Deadline {
    fn of(timeout: *const timespec) -> Result<Option<Deadline>, Errno> {
        if timeout.is_null() {
            return Ok(None);
        }
        // SAFETY: valid by the hook's contract.
        let time = unsafe { timeout.read_unaligned() };
        if time.tv_sec < 0 || !(0..1_000_000_000).contains(&time.tv_nsec) {
            return Err(Errno::INVAL);
        }
        let wait = (time.tv_sec as u64).saturating_mul(1_000_000_000);
        let wait = wait.saturating_add(time.tv_nsec as u64);
        Ok(Some(Deadline(now_ns().saturating_add(wait))))
    }

    /// Writes what is left to `timeout`; whether that is nothing.
    unsafe fn tell(&self, timeout: *mut timespec) -> bool {
        let left = self.0.saturating_sub(now_ns());
        let time = timespec {
            tv_sec: (left / 1_000_000_000) as libc::time_t,
            tv_nsec: (left % 1_000_000_000) as libc::c_long,
        };
        // SAFETY: valid by the hook's contract.
        unsafe { timeout.write_unaligned(time) };
        left == 0
    }
}

unsafe extern "C" {
    /// The C library's end of a program that overruns a buffer (`-D_FORTIFY_SOURCE`).
    fn __chk_fail() -> !;
}

pub unsafe fn __read_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t) -> ssize_t {
    if len > room {
        // SAFETY: as the original does.
        unsafe { __chk_fail() }
    }
    // SAFETY: as in `read`.
    unsafe { read(fd, buf, len) }
}

pub unsafe fn __recv_chk(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
) -> ssize_t {
    if len > room {
        // SAFETY: as the original does.
        unsafe { __chk_fail() }
    }
    // SAFETY: as in `read`.
    unsafe { recv(fd, buf, len, flags) }
}

pub unsafe fn __recvfrom_chk(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    if len > room {
        // SAFETY: as the original does.
        unsafe { __chk_fail() }
    }
    // SAFETY: as in `read`.
    unsafe { recvfrom(fd, buf, len, flags, addr, addr_len) }
}
