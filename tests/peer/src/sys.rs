//! The libc calls under test, one thin function each, with errno as the error.

use libc::{c_int, c_void};
use std::fmt;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An errno value; displays as its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

/// The result of a call: its value, or errno.
pub type Res<T> = Result<T, Errno>;

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = match self.0 {
            0 => "none",
            libc::EAGAIN => "EAGAIN",
            libc::EINTR => "EINTR",
            libc::EPIPE => "EPIPE",
            libc::ECONNRESET => "ECONNRESET",
            libc::ECONNREFUSED => "ECONNREFUSED",
            libc::ECONNABORTED => "ECONNABORTED",
            libc::EINPROGRESS => "EINPROGRESS",
            libc::EALREADY => "EALREADY",
            libc::EISCONN => "EISCONN",
            libc::ENOTCONN => "ENOTCONN",
            libc::EBADF => "EBADF",
            libc::EINVAL => "EINVAL",
            libc::ENOTSOCK => "ENOTSOCK",
            libc::ENOPROTOOPT => "ENOPROTOOPT",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::EAFNOSUPPORT => "EAFNOSUPPORT",
            libc::EADDRINUSE => "EADDRINUSE",
            libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
            libc::EDESTADDRREQ => "EDESTADDRREQ",
            libc::ETIMEDOUT => "ETIMEDOUT",
            libc::EEXIST => "EEXIST",
            libc::ENOENT => "ENOENT",
            libc::EPERM => "EPERM",
            libc::ESPIPE => "ESPIPE",
            libc::ENOTTY => "ENOTTY",
            libc::EMSGSIZE => "EMSGSIZE",
            libc::EFAULT => "EFAULT",
            other => return write!(f, "errno {other}"),
        };
        f.write_str(name)
    }
}

/// The calling thread's errno.
pub fn errno() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// A call's return value as a result: -1 becomes errno.
pub fn check(r: isize) -> Res<usize> {
    if r < 0 { Err(errno()) } else { Ok(r as usize) }
}

fn check_fd(r: c_int) -> Res<c_int> {
    if r < 0 { Err(errno()) } else { Ok(r) }
}

/// A result as one word of a trace: the number, or the errno's name.
pub fn word<T: fmt::Display>(r: Res<T>) -> String {
    match r {
        Ok(v) => v.to_string(),
        Err(e) => e.to_string(),
    }
}

/// A socket address in the kernel's form.
#[derive(Clone, Copy)]
pub struct Raw {
    /// Room for any family.
    pub storage: libc::sockaddr_storage,
    /// How much of it counts.
    pub len: libc::socklen_t,
}

impl Raw {
    /// Empty, with room for any address.
    pub fn empty() -> Raw {
        Raw {
            // SAFETY: all zeroes is a valid sockaddr_storage.
            storage: unsafe { zeroed() },
            len: size_of::<libc::sockaddr_storage>() as u32,
        }
    }

    /// The kernel's form of `addr`.
    pub fn from(addr: SocketAddr) -> Raw {
        let mut raw = Raw::empty();
        let at = (&raw mut raw.storage).cast::<c_void>();
        match addr {
            SocketAddr::V4(v4) => {
                let sin = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is larger than and aligned for sockaddr_in.
                unsafe { at.cast::<libc::sockaddr_in>().write(sin) };
                raw.len = size_of::<libc::sockaddr_in>() as u32;
            }
            SocketAddr::V6(v6) => {
                let sin6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above, for sockaddr_in6.
                unsafe { at.cast::<libc::sockaddr_in6>().write(sin6) };
                raw.len = size_of::<libc::sockaddr_in6>() as u32;
            }
        }
        raw
    }

    /// The address, if it is an internet one.
    pub fn to_std(self) -> Option<SocketAddr> {
        let at = (&raw const self.storage).cast::<c_void>();
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says what it is, and the storage has room for it.
                let sin = unsafe { at.cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(sin.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(sin.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let sin6 = unsafe { at.cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
                Some(SocketAddr::new(
                    IpAddr::V6(ip),
                    u16::from_be(sin6.sin6_port),
                ))
            }
            _ => None,
        }
    }

    /// The address as the calls want it.
    pub fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }
}

/// A TCP socket of the family of `addr`; `flags` as SOCK_NONBLOCK, SOCK_CLOEXEC.
pub fn socket(addr: SocketAddr, flags: c_int) -> Res<c_int> {
    let family = if addr.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: no pointers.
    check_fd(unsafe { libc::socket(family, libc::SOCK_STREAM | flags, 0) })
}

/// bind(2)
pub fn bind(fd: c_int, addr: SocketAddr) -> Res<usize> {
    let raw = Raw::from(addr);
    // SAFETY: the address outlives the call.
    check(unsafe { libc::bind(fd, raw.as_ptr(), raw.len) } as isize)
}

/// listen(2)
pub fn listen(fd: c_int, backlog: c_int) -> Res<usize> {
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd, backlog) } as isize)
}

/// connect(2)
pub fn connect(fd: c_int, addr: SocketAddr) -> Res<usize> {
    let raw = Raw::from(addr);
    // SAFETY: the address outlives the call.
    check(unsafe { libc::connect(fd, raw.as_ptr(), raw.len) } as isize)
}

/// accept4(2) without the address.
pub fn accept4(fd: c_int, flags: c_int) -> Res<c_int> {
    // SAFETY: null pointers are allowed: no address wanted.
    check_fd(unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), flags) })
}

/// accept(2) with the peer's address.
pub fn accept(fd: c_int) -> Res<(c_int, Option<SocketAddr>)> {
    let mut raw = Raw::empty();
    // SAFETY: the storage and its length are ours and live.
    let new = check_fd(unsafe { libc::accept(fd, (&raw mut raw.storage).cast(), &mut raw.len) })?;
    Ok((new, raw.to_std()))
}

/// getsockname(2)
pub fn getsockname(fd: c_int) -> Res<Option<SocketAddr>> {
    let mut raw = Raw::empty();
    // SAFETY: the storage and its length are ours and live.
    check(unsafe { libc::getsockname(fd, (&raw mut raw.storage).cast(), &mut raw.len) } as isize)?;
    Ok(raw.to_std())
}

/// getpeername(2)
pub fn getpeername(fd: c_int) -> Res<Option<SocketAddr>> {
    let mut raw = Raw::empty();
    // SAFETY: the storage and its length are ours and live.
    check(unsafe { libc::getpeername(fd, (&raw mut raw.storage).cast(), &mut raw.len) } as isize)?;
    Ok(raw.to_std())
}

/// setsockopt(2) with any plain value.
pub fn setsockopt<T>(fd: c_int, level: c_int, name: c_int, value: &T) -> Res<usize> {
    let at = (value as *const T).cast();
    // SAFETY: pointer and length describe `value`.
    check(unsafe { libc::setsockopt(fd, level, name, at, size_of::<T>() as u32) } as isize)
}

/// getsockopt(2) with any plain value.
pub fn getsockopt<T: Copy>(fd: c_int, level: c_int, name: c_int) -> Res<T> {
    // SAFETY: used with integers and C structs only, for which all zeroes is a value.
    let mut value: T = unsafe { zeroed() };
    let mut len = size_of::<T>() as u32;
    // SAFETY: pointer and length describe `value`.
    let r = unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &mut len) };
    check(r as isize)?;
    Ok(value)
}

/// SO_ERROR's value, which reading clears.
pub fn so_error(fd: c_int) -> Res<Errno> {
    getsockopt::<c_int>(fd, libc::SOL_SOCKET, libc::SO_ERROR).map(Errno)
}

/// recv(2)
pub fn recv(fd: c_int, buf: &mut [u8], flags: c_int) -> Res<usize> {
    // SAFETY: pointer and length describe `buf`.
    check(unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), flags) })
}

/// send(2)
pub fn send(fd: c_int, buf: &[u8], flags: c_int) -> Res<usize> {
    // SAFETY: pointer and length describe `buf`.
    check(unsafe { libc::send(fd, buf.as_ptr().cast(), buf.len(), flags) })
}

/// read(2)
pub fn read(fd: c_int, buf: &mut [u8]) -> Res<usize> {
    // SAFETY: pointer and length describe `buf`.
    check(unsafe { libc::read(fd, buf.as_mut_ptr().cast(), buf.len()) })
}

/// write(2)
pub fn write(fd: c_int, buf: &[u8]) -> Res<usize> {
    // SAFETY: pointer and length describe `buf`.
    check(unsafe { libc::write(fd, buf.as_ptr().cast(), buf.len()) })
}

/// iovecs over pieces of one buffer that the caller keeps alive.
pub fn iovecs(buf: &mut [u8], sizes: &[usize]) -> Vec<libc::iovec> {
    let mut rest = buf;
    sizes
        .iter()
        .map(|&n| {
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(n);
            rest = tail;
            libc::iovec {
                iov_base: piece.as_mut_ptr().cast(),
                iov_len: n,
            }
        })
        .collect()
}

/// A msghdr over `iov`, without address and control data.
pub fn msghdr(iov: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zeroes is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { zeroed() };
    msg.msg_iov = iov.as_mut_ptr();
    msg.msg_iovlen = iov.len() as _;
    msg
}

/// readv(2)
pub fn readv(fd: c_int, iov: &[libc::iovec]) -> Res<usize> {
    // SAFETY: the iovecs come from `iovecs`, over a live buffer.
    check(unsafe { libc::readv(fd, iov.as_ptr(), iov.len() as c_int) })
}

/// writev(2)
pub fn writev(fd: c_int, iov: &[libc::iovec]) -> Res<usize> {
    // SAFETY: as for readv.
    check(unsafe { libc::writev(fd, iov.as_ptr(), iov.len() as c_int) })
}

/// recvmsg(2)
pub fn recvmsg(fd: c_int, msg: &mut libc::msghdr, flags: c_int) -> Res<usize> {
    // SAFETY: the header comes from `msghdr`, over live iovecs.
    check(unsafe { libc::recvmsg(fd, msg, flags) })
}

/// sendmsg(2)
pub fn sendmsg(fd: c_int, msg: &libc::msghdr, flags: c_int) -> Res<usize> {
    // SAFETY: as for recvmsg.
    check(unsafe { libc::sendmsg(fd, msg, flags) })
}

/// shutdown(2)
pub fn shutdown(fd: c_int, how: c_int) -> Res<usize> {
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(fd, how) } as isize)
}

/// close(2)
pub fn close(fd: c_int) -> Res<usize> {
    // SAFETY: no pointers; the callers own the descriptor.
    check(unsafe { libc::close(fd) } as isize)
}

/// fcntl(2) with an integer argument.
pub fn fcntl(fd: c_int, cmd: c_int, arg: c_int) -> Res<c_int> {
    // SAFETY: only commands that take an integer are used.
    check_fd(unsafe { libc::fcntl(fd, cmd, arg) })
}

/// Sets or clears O_NONBLOCK.
pub fn set_nonblocking(fd: c_int, on: bool) -> Res<c_int> {
    let flags = fcntl(fd, libc::F_GETFL, 0)?;
    fcntl(
        fd,
        libc::F_SETFL,
        if on {
            flags | libc::O_NONBLOCK
        } else {
            flags & !libc::O_NONBLOCK
        },
    )
}

/// How long, in milliseconds, to wait for what has to come: only what never comes takes so long.
pub const PATIENCE_MS: c_int = 30_000;

/// poll(2) of one descriptor: the returned events, none after `timeout_ms`.
pub fn poll(fd: c_int, events: i16, timeout_ms: c_int) -> Res<i16> {
    let mut p = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one live pollfd.
    check(unsafe { libc::poll(&mut p, 1, timeout_ms) } as isize)?;
    Ok(p.revents)
}

/// A listening socket on `addr`, with SO_REUSEADDR as every server has it.
pub fn listener(addr: SocketAddr, backlog: c_int) -> Res<c_int> {
    let fd = socket(addr, libc::SOCK_CLOEXEC)?;
    let listening = setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1i32)
        .and_then(|_| bind(fd, addr))
        .and_then(|_| listen(fd, backlog));
    or_close(fd, listening)
}

/// A blocking socket connected to `addr`.
pub fn connected(addr: SocketAddr) -> Res<c_int> {
    let fd = socket(addr, libc::SOCK_CLOEXEC)?;
    or_close(fd, connect(fd, addr))
}

/// The descriptor if the call that made it useful went well.
fn or_close(fd: c_int, call: Res<usize>) -> Res<c_int> {
    if call.is_err() {
        let _ = close(fd);
    }
    call.map(|_| fd)
}

/// Nanoseconds of the monotonic clock, which all processes of a host share.
pub fn now_ns() -> u64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}
