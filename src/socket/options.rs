//! Options: the kernel's socket keeps them all; the few that change how an accelerated connection
//! behaves are noted here as well.

use core::time::Duration;

use libc::{c_int, c_void, socklen_t};

use super::{Inner, Role};
use crate::conn::Windows;
use crate::real::sys::Errno;

/// SO_RCVTIMEO and SO_SNDTIMEO with 64-bit times have other numbers on 32-bit systems only.
const RECEIVE_TIMEOUT: c_int = libc::SO_RCVTIMEO;
const SEND_TIMEOUT: c_int = libc::SO_SNDTIMEO;

/// Whether an option changes what comes or goes on a connection in a way that only the kernel can: encryption,
/// filters, time stamps, what `recvmsg` tells beside the bytes.
pub fn is_kernels(level: c_int, name: c_int) -> bool {
    match level {
        libc::SOL_SOCKET => matches!(
            name,
            libc::SO_ATTACH_FILTER
                | libc::SO_ATTACH_BPF
                | libc::SO_TIMESTAMP
                | libc::SO_TIMESTAMPNS
                | libc::SO_TIMESTAMPING
                | SO_TIMESTAMP_NEW
                | SO_TIMESTAMPNS_NEW
                | SO_TIMESTAMPING_NEW
                | libc::SO_PEEK_OFF
        ),
        libc::IPPROTO_TCP => matches!(
            name,
            libc::TCP_ULP
                | libc::TCP_REPAIR
                | libc::TCP_MD5SIG
                | libc::TCP_INQ
                | libc::TCP_ZEROCOPY_RECEIVE
                | TCP_TX_DELAY
        ),
        _ => false,
    }
}

// include/uapi/asm-generic/socket.h and linux/tcp.h; the libc crate does not have them.
const SO_TIMESTAMP_NEW: c_int = 63;
const SO_TIMESTAMPNS_NEW: c_int = 64;
const SO_TIMESTAMPING_NEW: c_int = 65;
const TCP_TX_DELAY: c_int = 37;

impl Inner {
    /// The kernel has accepted setsockopt(2) with these arguments.
    ///
    /// # Safety
    /// `value` must be valid for `len` bytes, as the kernel has just found it to be.
    pub unsafe fn option_set(
        &mut self,
        level: c_int,
        name: c_int,
        value: *const c_void,
        len: socklen_t,
    ) {
        self.only_kernel |= is_kernels(level, name) && matches!(self.role, Role::Fresh);
        if level != libc::SOL_SOCKET {
            return;
        }
        // SAFETY: each read is within `len`, by the contract.
        unsafe {
            match name {
                RECEIVE_TIMEOUT | SEND_TIMEOUT if len as usize >= size_of::<libc::timeval>() => {
                    let time = value.cast::<libc::timeval>().read_unaligned();
                    let time = Duration::new(
                        time.tv_sec.max(0) as u64,
                        time.tv_usec.clamp(0, 999_999) as u32 * 1000,
                    );
                    let time = (!time.is_zero()).then_some(time);
                    if name == RECEIVE_TIMEOUT {
                        self.receive_timeout = time
                    } else {
                        self.send_timeout = time
                    }
                }
                libc::SO_LINGER if len as usize >= size_of::<libc::linger>() => {
                    let linger = value.cast::<libc::linger>().read_unaligned();
                    self.linger = (linger.l_onoff != 0).then_some(linger.l_linger);
                }
                libc::SO_RCVBUF | libc::SO_RCVBUFFORCE => self.receive_buffer_set(),
                libc::SO_SNDBUF | libc::SO_SNDBUFFORCE => self.send_buffer_is_set = true,
                libc::SO_RCVLOWAT if len as usize >= size_of::<c_int>() => {
                    self.low_water = value.cast::<c_int>().read_unaligned().max(1) as usize;
                }
                _ => {}
            }
        }
    }

    fn receive_buffer_set(&mut self) {
        // The kernel has its own idea of how large it is.
        let socket = crate::real::sys::borrow(self.fd());
        let Ok(bytes) = rustix::net::sockopt::socket_recv_buffer_size(socket) else {
            return;
        };
        self.receive_buffer = Some(bytes as u64);
        if let Role::Connected(conn) = &mut self.role {
            let window = Windows::fitting(bytes as u64, conn.link.window());
            conn.windows.set_receiving(window);
        }
    }

    /// Why it is the kernel's.
    pub fn reason(&self) -> crate::stats::Reason {
        let code = self
            .stats
            .map_or(0, |s| s.reason.load(core::sync::atomic::Ordering::Relaxed));
        crate::stats::Reason::from_code(code).unwrap_or(crate::stats::Reason::None)
    }

    /// SO_ERROR of a socket whose errors are ours: taken, and cleared. `None`: ask the kernel.
    pub fn take_error(&mut self) -> Option<Option<Errno>> {
        if let Some(error) = self.connect_error.take() {
            return Some(Some(error));
        }
        match &mut self.role {
            Role::Connected(conn) => Some(conn.error.take()),
            Role::Connecting(_) => Some(None),
            _ => None,
        }
    }

    /// Bytes that a read would give now (FIONREAD). `None`: ask the kernel.
    pub fn readable_bytes(&self) -> Option<usize> {
        match &self.role {
            Role::Connected(conn) if !conn.rx_left => Some(conn.rx.len()),
            _ => None,
        }
    }

    /// Bytes sent that the peer has not taken, as far as is known (SIOCOUTQ). `None`: ask the kernel.
    pub fn unsent_bytes(&self) -> Option<usize> {
        match &self.role {
            // The ring is the peer's receive buffer: nothing stays on this side.
            Role::Connected(_) => Some(0),
            _ => None,
        }
    }
}
