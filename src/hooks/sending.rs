//! write, writev, send, sendto, sendmsg, sendmmsg.

use libc::{c_int, c_uint, c_void, iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t};

use super::{Found, fail, find_for};
use crate::conn::user_buf::{UserBuf, single};
use crate::real::orig;
use crate::socket::recv::Outcome;

#[inline]
#[unsafe(link_section = ".text.netacc_hooks")]
unsafe fn transmit(fd: c_int, iov: *const iovec, count: usize, flags: c_int) -> Option<ssize_t> {
    match find_for(fd, flags) {
        Found::Kernel => None,
        Found::Refused(error) => Some(fail::<ssize_t>(error)),
        Found::Socket(socket, inner) => {
            // SAFETY: by the hook's contract.
            let mut buf = unsafe { UserBuf::new(iov, count) };
            match socket.transmit(inner, &mut buf, flags) {
                Ok(Outcome::Done(n)) => Some(n as ssize_t),
                // SAFETY: what is left of the caller's buffers.
                Ok(Outcome::Partly(n)) => Some(n as ssize_t + unsafe { go_on(fd, &buf, flags) }),
                Ok(Outcome::Kernel) => None,
                Err(error) => Some(fail::<ssize_t>(error)),
            }
        }
    }
}

/// The kernel sends what is left of `buf`. Returns how much; why it was not more the next call tells.
#[cold]
unsafe fn go_on(fd: c_int, buf: &UserBuf, flags: c_int) -> ssize_t {
    let mut rest = buf.rest();
    // SAFETY: all zeros is a message without parts.
    let mut message: msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = rest.as_mut_ptr();
    message.msg_iovlen = rest.len();
    // SAFETY: a valid message, by the caller's contract.
    unsafe { orig::sendmsg(fd, &message, flags | libc::MSG_NOSIGNAL) }.max(0)
}

pub unsafe fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
    let iov = single(buf, len);
    // SAFETY: one buffer by the caller's contract, which is that of the original.
    unsafe { transmit(fd, &iov, 1, 0).unwrap_or_else(|| orig::write(fd, buf, len)) }
}

pub unsafe fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    if !(0..=libc::UIO_MAXIOV).contains(&count) || iov.is_null() && count > 0 {
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
    unsafe {
        transmit(fd, &iov, 1, flags)
            .unwrap_or_else(|| orig::sendto(fd, buf, len, flags, addr, addr_len))
    }
}

pub unsafe fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
    // SAFETY: a valid message by the caller's contract, or one that the kernel will refuse.
    unsafe {
        if msg.is_null()
            || (*msg).msg_iovlen > libc::UIO_MAXIOV as usize
            || (*msg).msg_iov.is_null() && (*msg).msg_iovlen > 0
        {
            return orig::sendmsg(fd, msg, flags);
        }
        if (*msg).msg_controllen > 0
            && let Found::Socket(socket, inner) = find_for(fd, flags)
        {
            // What goes beside the bytes is between the application and the kernel.
            let nonblocking = inner.nonblocking || flags & libc::MSG_DONTWAIT != 0;
            if let Err(error) = socket.hand_back(inner, nonblocking) {
                return fail::<ssize_t>(error);
            }
        }
        super::passing::let_out(msg);
        transmit(fd, (*msg).msg_iov, (*msg).msg_iovlen, flags)
            .unwrap_or_else(|| orig::sendmsg(fd, msg, flags))
    }
}

/// How many bytes a message has.
///
/// # Safety
/// A valid message.
unsafe fn length(message: &msghdr) -> usize {
    let parts = 0..message.msg_iovlen;
    // SAFETY: so many parts by the contract.
    parts.fold(0, |sum: usize, i| unsafe {
        sum.saturating_add((*message.msg_iov.add(i)).iov_len)
    })
}

pub unsafe fn sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
    match find_for(fd, flags) {
        Found::Socket(..) => {}
        Found::Refused(error) => return fail::<c_int>(error),
        Found::Kernel => {
            // SAFETY: as in `write`: `count` messages.
            unsafe {
                for at in 0..if msgs.is_null() { 0 } else { count as usize } {
                    super::passing::let_out(&(*msgs.add(at)).msg_hdr);
                }
                return orig::sendmmsg(fd, msgs, count, flags);
            }
        }
    }
    // As the kernel: so many at most in one call.
    let count = count.min(libc::UIO_MAXIOV as c_uint);
    let mut done = 0;
    while done < count {
        // SAFETY: `count` valid messages by the caller's contract.
        let (n, whole) = unsafe {
            let message = msgs.add(done as usize);
            let n = sendmsg(fd, &(*message).msg_hdr, flags);
            if n >= 0 {
                (*message).msg_len = n as c_uint;
            }
            (n, n < 0 || n as usize >= length(&(*message).msg_hdr))
        };
        if n < 0 {
            break;
        }
        done += 1;
        // As the kernel: what follows must not go before the rest of this one.
        if !whole {
            break;
        }
    }
    if done == 0 && count > 0 {
        -1
    } else {
        done as c_int
    }
}
