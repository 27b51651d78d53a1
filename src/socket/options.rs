//! Options: the kernel's socket keeps them all; the few that change how an accelerated connection
//! behaves are noted here as well.

use core::time::Duration;

use libc::{c_int, c_void, socklen_t};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::{Inner, Role};
use crate::conn::{Afloat, Windows};
use crate::control::io_thread::Command;
use crate::control::listener::Closing;
use crate::real::orig;
use crate::real::sys::Errno;
use crate::runtime;
use crate::stats::{Mode, Reason};

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
const SO_BINDTOIFINDEX: c_int = 62;
const SO_ATTACH_REUSEPORT_CBPF: c_int = 51;
const SO_ATTACH_REUSEPORT_EBPF: c_int = 52;

/// SO_RCVLOWAT of the kernel's socket.
pub fn set_low_water(fd: RawFd, bytes: usize) {
    let _errno = crate::log::ErrnoGuard::new();
    let bytes = bytes.min(c_int::MAX as usize) as c_int;
    let value = (&raw const bytes).cast();
    // SAFETY: an int and its length.
    unsafe { orig::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, 4) };
}

/// What the kernel's connection behind an accepted one does not have from the side port.
pub(super) fn bequeath(number: RawFd, low_water: usize, linger: Option<i32>) {
    use rustix::net::sockopt;
    let socket = crate::real::sys::borrow(number);
    if let Some(seconds) = linger {
        let time = core::time::Duration::from_secs(seconds.max(0) as u64);
        let _ = sockopt::set_socket_linger(socket, Some(time));
    }
    if low_water > 1 {
        set_low_water(number, low_water);
    }
}

/// The longest value of an option that is kept, in bytes.
const LONGEST: usize = 64;

/// An option that was set on a socket that may come to listen.
#[derive(Clone)]
pub struct Kept {
    level: c_int,
    name: c_int,
    value: Box<[u8]>,
}

impl Kept {
    /// As `fd` has it.
    pub fn read(fd: RawFd, level: c_int, name: c_int) -> Option<Kept> {
        let mut value = [0_u8; LONGEST];
        let mut len = LONGEST as socklen_t;
        // SAFETY: so much room.
        let got = unsafe { orig::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &mut len) };
        (got == 0 && len > 0).then(|| Kept {
            level,
            name,
            value: value[..len as usize].into(),
        })
    }

    /// Whether it may make the kernel choose another way to connect, or another address.
    pub fn steers(&self) -> bool {
        match self.level {
            libc::SOL_SOCKET => {
                matches!(
                    self.name,
                    libc::SO_BINDTODEVICE | libc::SO_MARK | libc::SO_DONTROUTE | libc::SO_BROADCAST
                ) || self.name == SO_BINDTOIFINDEX
            }
            libc::IPPROTO_TCP => false,
            _ => true,
        }
    }

    /// Sets it on another socket; one that cannot have it goes without.
    pub fn apply(&self, socket: BorrowedFd<'_>) {
        let _errno = crate::log::ErrnoGuard::new();
        let (value, len) = (self.value.as_ptr().cast(), self.value.len() as socklen_t);
        // SAFETY: the value that the application's socket took, and its length.
        unsafe { orig::setsockopt(socket.as_raw_fd(), self.level, self.name, value, len) };
    }
}

/// Whether an option goes on the side port too. Not what it has in its own way (who may share the port), what would
/// keep its openings from being read (SO_RCVLOWAT, TCP_DEFER_ACCEPT) or hold up who closes them (SO_LINGER): these a
/// connection gets when it is accepted.
fn passes_to_side_port(level: c_int, name: c_int) -> bool {
    match level {
        libc::SOL_SOCKET => !matches!(
            name,
            libc::SO_REUSEADDR
                | libc::SO_REUSEPORT
                | libc::SO_RCVLOWAT
                | libc::SO_LINGER
                | SO_ATTACH_REUSEPORT_CBPF
                | SO_ATTACH_REUSEPORT_EBPF
        ),
        libc::IPPROTO_TCP => !matches!(name, libc::TCP_DEFER_ACCEPT | libc::TCP_FASTOPEN),
        libc::IPPROTO_IPV6 => name != libc::IPV6_V6ONLY,
        libc::IPPROTO_IP => true,
        _ => false,
    }
}

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
        self.spoil();
        let defers = (level, name) == (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
        let kernels = is_kernels(level, name) || defers;
        self.only_kernel |= kernels && matches!(self.role, Role::Fresh);
        if is_kernels(level, name) {
            self.stop_side();
        }
        // SAFETY: by the contract.
        unsafe {
            self.keep_for_side_port(level, name, value, len);
            self.keep_to_stand(level, name, value, len);
        }
        if level != libc::SOL_SOCKET {
            return;
        }
        // SAFETY: each read is within `len`, by the contract.
        unsafe {
            match name {
                RECEIVE_TIMEOUT | SEND_TIMEOUT if len as usize >= size_of::<libc::timeval>() => {
                    let time = value.cast::<libc::timeval>().read_unaligned();
                    let tv_sec = time.tv_sec;
                    let time = Duration::new(
                        time.tv_sec.max(0) as u64,
                        time.tv_usec.clamp(0, 999_999) as u32 * 1000,
                    );
                    // A time before now is one that is over at once.
                    let time = (!time.is_zero() || tv_sec < 0).then_some(time);
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
                libc::SO_REUSEADDR if len as usize >= size_of::<c_int>() => {
                    self.reuses_address = Some(value.cast::<c_int>().read_unaligned() != 0);
                }
                libc::SO_RCVLOWAT if len as usize >= size_of::<c_int>() => {
                    self.low_water = match value.cast::<c_int>().read_unaligned() {
                        0 => 1,
                        // As the kernel: a very large one.
                        ..0 => c_int::MAX as usize,
                        value => value as usize,
                    };
                    self.share_low_water();
                }
                _ => {}
            }
        }
    }

    /// Connections of a listener are to have from now on what only the kernel can give them: they are the kernel's. (As
    /// there, those that have come already and wait are without it.)
    fn stop_side(&mut self) {
        if let Role::Listening(listening) = &self.role
            && let Some(side) = &listening.side
        {
            side.stop();
            runtime::get().command(Command::Unlisten(Closing::new(side.clone())));
            self.stats
                .inspect(|page| page.set_mode(Mode::Tcp, Reason::OptionNotCarried));
        }
    }

    /// The kernel's connection that there may be behind it later is to have all that is set on what stands for it now.
    ///
    /// # Safety
    /// As for [`option_set`](Self::option_set).
    unsafe fn keep_to_stand(
        &mut self,
        level: c_int,
        name: c_int,
        value: *const c_void,
        len: socklen_t,
    ) {
        let Role::Connected(conn) = &self.role else {
            return;
        };
        let accepted = |afloat: &Afloat| afloat.way.is_none();
        if conn.afloat.as_deref().is_some_and(accepted)
            && len as usize <= LONGEST
            && !value.is_null()
        {
            // SAFETY: by the contract.
            let value = unsafe { core::slice::from_raw_parts(value.cast::<u8>(), len as usize) };
            self.keep(level, name, value);
        }
    }

    fn keep(&mut self, level: c_int, name: c_int, value: &[u8]) {
        self.kept.retain(|k| (k.level, k.name) != (level, name));
        self.kept.push(Kept {
            level,
            name,
            value: value.into(),
        });
    }

    /// The kernel's connections behind those that a listener accepts come by its side port: they are to have the
    /// options that the listener has.
    ///
    /// # Safety
    /// As for [`option_set`](Self::option_set).
    unsafe fn keep_for_side_port(
        &mut self,
        level: c_int,
        name: c_int,
        value: *const c_void,
        len: socklen_t,
    ) {
        if !passes_to_side_port(level, name)
            || is_kernels(level, name)
            || len as usize > LONGEST
            || value.is_null()
        {
            return;
        }
        // SAFETY: by the contract.
        let value = unsafe { core::slice::from_raw_parts(value.cast::<u8>(), len as usize) };
        match &self.role {
            Role::Fresh => self.keep(level, name, value),
            Role::Listening(listening) => {
                if let Some(side) = &listening.side {
                    let option = Kept {
                        level,
                        name,
                        value: value.into(),
                    };
                    option.apply(side.as_fd());
                    let mut options = side.options.lock();
                    options.retain(|known| (known.level, known.name) != (level, name));
                    options.push(option);
                }
            }
            _ => {}
        }
    }

    /// The kernel is to say that there is enough to read (SO_RCVLOWAT) when there is with what was left over here.
    pub fn share_low_water(&self) {
        if let Role::Leftover(left) = &self.role
            && self.low_water > 1
        {
            let rest = self.low_water.saturating_sub(left.len()).max(1);
            set_low_water(self.fd(), rest);
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
    pub fn reason(&self) -> Reason {
        let code = self
            .stats
            .map_or(0, |s| s.reason.load(core::sync::atomic::Ordering::Relaxed));
        Reason::from_code(code).unwrap_or(Reason::None)
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

    /// `tcpi_state` of a connection whose states are ours. `None`: ask the kernel.
    pub fn tcp_state(&self) -> Option<u8> {
        match &self.role {
            Role::Connected(conn) if !conn.tx_left => Some(conn.tcp_state()),
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
