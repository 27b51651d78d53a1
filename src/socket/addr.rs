//! Socket addresses of IPv4 and IPv6 as the system calls want them.

use core::mem::{MaybeUninit, size_of};

use libc::{sockaddr, sockaddr_in, sockaddr_in6, socklen_t};

use crate::real::sys::Errno;

/// An IPv4 or IPv6 address with port (and, for IPv6, flow label and scope).
#[derive(Clone, Copy)]
pub enum Address {
    /// AF_INET.
    V4(sockaddr_in),
    /// AF_INET6.
    V6(sockaddr_in6),
}

impl core::fmt::Debug for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.to_std().fmt(f)
    }
}

impl Address {
    /// Reads an address that the application passed.
    ///
    /// # Safety
    /// `addr` must be valid for `len` bytes, as connect(2) wants.
    pub unsafe fn read(addr: *const sockaddr, len: socklen_t) -> Option<Address> {
        let lengths = size_of::<libc::sa_family_t>()..=size_of::<libc::sockaddr_storage>();
        if addr.is_null() || !lengths.contains(&(len as usize)) {
            return None;
        }
        // SAFETY: each read is preceded by a check of the length.
        unsafe {
            match i32::from((*addr).sa_family) {
                libc::AF_INET if len as usize >= size_of::<sockaddr_in>() => {
                    Some(Address::V4(addr.cast::<sockaddr_in>().read_unaligned()))
                }
                libc::AF_INET6 if len as usize >= size_of::<sockaddr_in6>() => {
                    Some(Address::V6(addr.cast::<sockaddr_in6>().read_unaligned()))
                }
                _ => None,
            }
        }
    }

    /// Gives the address to the application as getsockname(2) does: cut off at `*len`, which then
    /// holds the full length.
    ///
    /// # Safety
    /// The contract of getsockname(2).
    ///
    /// # Errors
    /// `EFAULT` for null pointers, `EINVAL` for a negative length.
    pub unsafe fn write(&self, addr: *mut sockaddr, len: *mut socklen_t) -> Result<(), Errno> {
        if addr.is_null() || len.is_null() {
            return Err(Errno::FAULT);
        }
        let (from, full) = self.as_ptr();
        // SAFETY: by the contract, `len` is valid and `addr` holds `*len` bytes.
        unsafe {
            if (*len as i32) < 0 {
                return Err(Errno::INVAL);
            }
            let n = (*len).min(full) as usize;
            core::ptr::copy_nonoverlapping(from.cast::<u8>(), addr.cast::<u8>(), n);
            *len = full;
        }
        Ok(())
    }

    /// Pointer and length for a system call.
    pub fn as_ptr(&self) -> (*const sockaddr, socklen_t) {
        match self {
            Address::V4(a) => (
                (&raw const *a).cast(),
                size_of::<sockaddr_in>() as socklen_t,
            ),
            Address::V6(a) => (
                (&raw const *a).cast(),
                size_of::<sockaddr_in6>() as socklen_t,
            ),
        }
    }

    /// The port, in host order.
    pub fn port(&self) -> u16 {
        match self {
            Address::V4(a) => u16::from_be(a.sin_port),
            Address::V6(a) => u16::from_be(a.sin6_port),
        }
    }

    /// The same address with another port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Address {
        match &mut self {
            Address::V4(a) => a.sin_port = port.to_be(),
            Address::V6(a) => a.sin6_port = port.to_be(),
        }
        self
    }

    /// IPv6 form of the address, port, and whether it is IPv6 proper (v4-mapped counts as IPv4).
    pub fn canonical(&self) -> ([u8; 16], u16, bool) {
        match self {
            Address::V4(a) => {
                let mut ip = [0; 16];
                ip[10] = 0xff;
                ip[11] = 0xff;
                ip[12..].copy_from_slice(&a.sin_addr.s_addr.to_ne_bytes());
                (ip, self.port(), false)
            }
            Address::V6(a) => {
                let ip = a.sin6_addr.s6_addr;
                let mapped = ip[..10] == [0; 10] && ip[10..12] == [0xff, 0xff];
                (ip, self.port(), !mapped)
            }
        }
    }

    /// The address of that IPv6 form (IPv6 or IPv4), port and scope.
    pub fn from_canonical(ip: [u8; 16], port: u16, scope: u32) -> Address {
        Address::V6(sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: port.to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: ip },
            sin6_scope_id: scope,
        })
    }

    /// Any address of IPv4, any port.
    pub fn any_v4() -> Address {
        // SAFETY: integers.
        let any: sockaddr_in = unsafe { core::mem::zeroed() };
        Address::V4(sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            ..any
        })
    }

    /// IPv6 scope (interface), 0 for IPv4.
    pub fn scope(&self) -> u32 {
        match self {
            Address::V4(_) => 0,
            Address::V6(a) => a.sin6_scope_id,
        }
    }

    /// As the standard library has it, for display.
    pub fn to_std(&self) -> core::net::SocketAddr {
        match self {
            Address::V4(a) => (a.sin_addr.s_addr.to_ne_bytes(), self.port()).into(),
            Address::V6(a) => (a.sin6_addr.s6_addr, self.port()).into(),
        }
    }

    /// No address of the same family, for display.
    pub fn unspecified(&self) -> core::net::SocketAddr {
        match self {
            Address::V4(_) => ([0; 4], 0).into(),
            Address::V6(_) => ([0; 16], 0).into(),
        }
    }

    /// AF_INET or AF_INET6.
    pub fn family(&self) -> i32 {
        match self {
            Address::V4(_) => libc::AF_INET,
            Address::V6(_) => libc::AF_INET6,
        }
    }

    /// What the kernel says about `fd`, by getsockname(2) or getpeername(2).
    fn ask(fd: i32, call: libc::c_long) -> Option<Address> {
        let mut storage = MaybeUninit::<sockaddr_in6>::zeroed();
        let mut len = size_of::<sockaddr_in6>() as socklen_t;
        let kept = crate::real::sys::errno();
        // SAFETY: a buffer of `len` bytes; the kernel writes at most that.
        unsafe {
            let (to, len_at) = (storage.as_mut_ptr() as usize, &raw mut len as usize);
            let rc = crate::real::orig::syscall(call, fd as usize, to, len_at, 0, 0, 0);
            if rc != 0 {
                crate::real::sys::set_errno(kept);
                return None;
            }
            Address::read(storage.as_ptr().cast(), len)
        }
    }

    /// accept4(2), unseen by the hooks and not a cancellation point: the new descriptor and its peer,
    /// which the kernel knows even if the connection is over by now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn accept(fd: i32, flags: i32) -> Result<(i32, Option<Address>), Errno> {
        let mut storage = MaybeUninit::<sockaddr_in6>::zeroed();
        let mut len = size_of::<sockaddr_in6>() as socklen_t;
        let kept = crate::real::sys::errno();
        // SAFETY: as in `ask`.
        unsafe {
            let (to, len_at) = (storage.as_mut_ptr() as usize, &raw mut len as usize);
            let call = libc::SYS_accept4;
            let got =
                crate::real::orig::syscall(call, fd as usize, to, len_at, flags as usize, 0, 0);
            if got < 0 {
                let error = crate::real::sys::last_error();
                crate::real::sys::set_errno(kept);
                return Err(error);
            }
            Ok((got as i32, Address::read(storage.as_ptr().cast(), len)))
        }
    }

    /// The local address of `fd`.
    pub fn local_of(fd: i32) -> Option<Address> {
        Self::ask(fd, libc::SYS_getsockname)
    }

    /// The peer's address of `fd`.
    pub fn peer_of(fd: i32) -> Option<Address> {
        Self::ask(fd, libc::SYS_getpeername)
    }
}
