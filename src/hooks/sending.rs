//! write, writev, send, sendto, sendmsg, sendmmsg, sendfile, splice.

use libc::{c_int, c_uint, c_void, iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t};

use super::{Found, fail, find};
use crate::conn::user_buf::{UserBuf, single};
use crate::real::orig;
use crate::real::sys::{self, Errno};
use crate::socket::recv::Outcome;
use crate::socket::{Role, Socket};

#[inline]
unsafe fn transmit(fd: c_int, iov: *const iovec, count: usize, flags: c_int) -> Option<ssize_t> {
    match find(fd) {
        Found::Kernel => None,
        Found::Refused(error) => Some(fail::<ssize_t>(error)),
        Found::Socket(socket, inner) => {
            // SAFETY: by the hook's contract.
            let mut buf = unsafe { UserBuf::new(iov, count) };
            match socket.transmit(inner, &mut buf, flags) {
                Ok(Outcome::Done(n)) => Some(n as ssize_t),
                Ok(Outcome::Kernel) => None,
                Err(error) => Some(fail::<ssize_t>(error)),
            }
        }
    }
}

pub unsafe fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
    let iov = single(buf, len);
    // SAFETY: one buffer by the caller's contract, which is that of the original.
    unsafe { transmit(fd, &iov, 1, 0).unwrap_or_else(|| orig::write(fd, buf, len)) }
}

pub unsafe fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    if !(0..=libc::UIO_MAXIOV).contains(&count) {
        // SAFETY: as in `write`.
        return unsafe { orig::writev(fd, iov, count) };
    }
    // SAFETY: as in `write`.
    unsafe { transmit(fd, iov, count as usize, 0).unwrap_or_else(|| orig::writev(fd, iov, count)) }
}

pub unsafe fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t {
    let iov = single(buf, len);
    // SAFETY: as in `write`.
    unsafe { transmit(fd, &iov, 1, flags).unwrap_or_else(|| orig::send(fd, buf, len, flags)) }
}

pub unsafe fn sendto(
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
    addr: *const sockaddr,
    addr_len: socklen_t,
) -> ssize_t {
    let iov = single(buf, len);
    // SAFETY: as in `write`.
    unsafe { transmit(fd, &iov, 1, flags).unwrap_or_else(|| orig::sendto(fd, buf, len, flags, addr, addr_len)) }
}

pub unsafe fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
    // SAFETY: a valid message by the caller's contract, or one that the kernel will refuse.
    unsafe {
        if msg.is_null() || (*msg).msg_iovlen as usize > libc::UIO_MAXIOV as usize {
            return orig::sendmsg(fd, msg, flags);
        }
        transmit(fd, (*msg).msg_iov, (*msg).msg_iovlen as usize, flags).unwrap_or_else(|| orig::sendmsg(fd, msg, flags))
    }
}

pub unsafe fn sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
    if !matches!(find(fd), Found::Socket(..)) {
        // SAFETY: as in `write`.
        return unsafe { orig::sendmmsg(fd, msgs, count, flags) };
    }
    let mut done = 0;
    while done < count {
        // SAFETY: `count` valid messages by the caller's contract.
        let n = unsafe {
            let message = msgs.add(done as usize);
            let n = sendmsg(fd, &(*message).msg_hdr, flags);
            if n >= 0 {
                (*message).msg_len = n as c_uint;
            }
            n
        };
        if n < 0 {
            break;
        }
        done += 1;
    }
    if done == 0 && count > 0 { -1 } else { done as c_int }
}

/// Whether sendfile to `fd` is ours to do.
fn is_accelerated(fd: c_int) -> Option<&'static Socket> {
    match find(fd) {
        Found::Socket(socket, inner) if matches!(inner.role, Role::Connected(_)) => Some(socket),
        _ => None,
    }
}

pub unsafe fn sendfile(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
    if is_accelerated(out).is_none() {
        // SAFETY: as in `write`.
        return unsafe { orig::sendfile(out, input, offset, count) };
    }
    // SAFETY: `offset` is null or valid by the caller's contract.
    match unsafe { copy_file(out, input, offset, count) } {
        Ok(n) => n,
        Err(error) => fail::<ssize_t>(error),
    }
}

pub unsafe fn sendfile64(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
    // SAFETY: off_t has 64 bits here; the same function.
    unsafe { sendfile(out, input, offset, count) }
}

/// sendfile(2) onto a link: the file's pages go through a buffer of ours. With `offset`, the file's
/// own position stays; without, it moves by what was sent.
unsafe fn copy_file(out: c_int, input: c_int, offset: *mut off_t, count: usize) -> Result<ssize_t, Errno> {
    const PIECE: usize = 64 << 10;
    let file = sys::borrow(input);
    let start = if offset.is_null() {
        rustix::fs::seek(file, rustix::fs::SeekFrom::Current(0)).map_err(|_| Errno::INVAL)?
    } else {
        // SAFETY: by the caller's contract.
        u64::try_from(unsafe { *offset }).map_err(|_| Errno::INVAL)?
    };
    let mut buf = vec![0u8; PIECE.min(count)];
    let mut done = 0;
    let mut failed = None;
    while done < count {
        let want = buf.len().min(count - done);
        let got = match rustix::io::pread(file, &mut buf[..want], start + done as u64) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) => {
                failed = Some(error);
                break;
            }
        };
        // SAFETY: `got` bytes of our own buffer.
        let sent = unsafe { send(out, buf.as_ptr().cast(), got, 0) };
        if sent < 0 {
            failed = Some(sys::last_error());
            break;
        }
        done += sent as usize;
        if (sent as usize) < got {
            break;
        }
    }
    if done == 0
        && let Some(error) = failed
    {
        return Err(error);
    }
    if offset.is_null() {
        let _ = rustix::fs::seek(file, rustix::fs::SeekFrom::Start(start + done as u64));
    } else {
        // SAFETY: by the caller's contract.
        unsafe { *offset += done as off_t };
    }
    Ok(done as ssize_t)
}

pub unsafe fn splice(
    input: c_int,
    off_in: *mut i64,
    out: c_int,
    off_out: *mut i64,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    if is_accelerated(input).is_some() || is_accelerated(out).is_some() {
        // What the kernel answers where a file cannot splice; programs then read and write.
        return fail::<ssize_t>(Errno::INVAL);
    }
    // SAFETY: as in `write`.
    unsafe { orig::splice(input, off_in, out, off_out, len, flags) }
}
