//! Listeners that another program has made, without this library: they come by exec (socket activation, inetd) or in a
//! message (SCM_RIGHTS).
//!
//! They become known with the first call in which this process can only mean to accept, and get a side port then, as
//! listeners of its own get at `listen`. Two things are different:
//!
//! * Whoever else has the listener may open a side port for it as well. So all these side ports are a group
//!   (SO_REUSEPORT), of which the kernel chooses one, and none of them is ever taken for this process's alone.
//! * Whether the listener waits in the kernel is as the other programs have set it, for that belongs to what they share.
//!   Where it waits, a thread here waits for both doors and goes to the kernel only when there is something, without a
//!   lock. If another process is faster, it waits there as it would without this library, until the next client comes by
//!   that door; a peer that is not served for that long does so itself.

use core::sync::atomic::{AtomicI32, Ordering};

use parking_lot::{Mutex, MutexGuard};
use rustix::fd::{AsRawFd, RawFd};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::accept::accept_one;
use super::addr::Address;
use super::by_kernel;
use super::leaving::cookie;
use super::options::Kept;
use super::wait::Wait;
use super::{Inner, Listening, Role, Socket};

use crate::fdtable::{self, Entry};
use crate::real::orig;
use crate::real::sys::{self, Errno};
use crate::stats::Reason;
use crate::{fork, verbs};

/// The first of the numbers that the activation protocol gives listeners.
const FIRST: RawFd = 3;
/// How many numbers this process was named, until it has forked.
static NAMED: AtomicI32 = AtomicI32::new(0);
/// Of threads that meet the same listener one takes it over.
static TURN: Mutex<()> = Mutex::new(());

/// This process is named `count` listeners, which whoever started it has made: its forked children are to have their side
/// ports, too.
pub fn named(count: i32) {
    fork::claim();
    (FIRST..FIRST.saturating_add(count)).for_each(meet);
    NAMED.store(count, Ordering::Relaxed);
}

/// Before a fork.
pub fn before_fork() {
    if NAMED.load(Ordering::Relaxed) == 0 {
        return;
    }
    let named = NAMED.swap(0, Ordering::Relaxed);
    for fd in FIRST..FIRST.saturating_add(named) {
        let Some(Entry::Socket(socket)) = fdtable::get(fd) else {
            continue;
        };
        match socket.inner.try_lock() {
            Some(mut inner) => inner.try_side_port(socket),
            // (A signal's handler may fork while its thread has the lock.) The next fork asks again.
            None => NAMED.store(named, Ordering::Relaxed),
        }
    }
}

/// A forked child may have copied the lock while it was taken.
///
/// # Safety
/// No other thread may run.
pub unsafe fn reset_after_fork() {
    // SAFETY: by the contract.
    unsafe { crate::sync::renew(&TURN, ()) };
}

/// The application is about to use `fd` as one uses a listener, at the latest: if it is one that nobody here knows, it is
/// known from now on.
#[inline]
pub fn meet(fd: RawFd) {
    if fdtable::get(fd).is_none() {
        look_at(fd);
    }
}

#[cold]
fn look_at(fd: RawFd) {
    let _errno = crate::log::ErrnoGuard::new();
    if !listens(fd) || !fdtable::fits(fd) || fork::is_stranger() || verbs::is_inside() {
        return;
    }
    fork::claim();
    let _turn = TURN.lock();
    if fdtable::get(fd).is_some() {
        return;
    }
    let Some(cookie) = cookie(fd) else { return };
    let socket = known(cookie).unwrap_or_else(|| taken_over(fd));
    socket.lock().fds.push(fd);
    super::lifecycle::install(fd, Entry::Socket(socket));
}

/// Whether it is a TCP socket that listens.
fn listens(fd: RawFd) -> bool {
    if fd < 0 {
        return false;
    }
    let socket = sys::borrow(fd);
    matches!(
        sockopt::socket_domain(socket),
        Ok(AddressFamily::INET | AddressFamily::INET6)
    ) && sockopt::socket_acceptconn(socket) == Ok(true)
        && sockopt::socket_type(socket) == Ok(SocketType::STREAM)
        && sockopt::socket_protocol(socket) == Ok(Some(rustix::net::ipproto::TCP))
}

/// The same listener under another number.
fn known(name: u64) -> Option<&'static Socket> {
    let mut found = None;
    fdtable::for_each(0, fdtable::CAPACITY - 1, |fd, entry| {
        if let Entry::Socket(socket) = entry
            && found.is_none()
            && socket.lock().is_foreign()
            && cookie(fd) == Some(name)
        {
            found = Some(socket);
        }
    });
    found
}

fn taken_over(fd: RawFd) -> &'static Socket {
    let listener = sys::borrow(fd);
    let family = sockopt::socket_domain(listener).map_or(libc::AF_INET, |f| i32::from(f.as_raw()));
    let socket = Socket::new(family, waits_nowhere(fd));
    let mut inner = socket.lock();
    inner.receive_timeout =
        sockopt::socket_timeout(listener, sockopt::Timeout::Recv).unwrap_or_default();
    inner.send_timeout =
        sockopt::socket_timeout(listener, sockopt::Timeout::Send).unwrap_or_default();
    inner.linger = sockopt::socket_linger(listener)
        .unwrap_or_default()
        .map(|time| time.as_secs() as i32);
    inner.reuses_address = sockopt::socket_reuseaddr(listener).ok();
    let low_water = sys::int_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT);
    inner.low_water = low_water.unwrap_or(1).max(1) as usize;
    inner.role = Role::Listening(Box::new(Listening {
        foreign: true,
        untried: true,
        ..Listening::new(None)
    }));
    drop(inner);
    socket
}

/// Whether the description is non-blocking.
fn waits_nowhere(fd: RawFd) -> bool {
    rustix::fs::fcntl_getfl(sys::borrow(fd)).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
}

/// Options whose effect on a connection only the kernel has.
const KERNELS: [(i32, i32); 4] = [
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPING),
];

/// Options that accepted connections have from their listener, or that say where it listens.
const INHERITED: [(i32, i32); 16] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
];

/// Whether a filter is attached.
fn is_filtered(fd: RawFd) -> bool {
    // The kernel has one number for attaching a filter and for asking how long it is.
    let mut len = 0;
    // SAFETY: no room for an answer; only its length is told.
    let got = unsafe {
        let nowhere = core::ptr::null_mut();
        orig::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            nowhere,
            &mut len,
        )
    };
    got == 0 && len > 0
}

/// How many connections wait in its queue at most.
fn backlog(fd: RawFd) -> i32 {
    // Of a listener this is the limit.
    sys::tcp_info(fd).map_or(libc::SOMAXCONN, |info| {
        info.tcpi_sacked.clamp(1, 4096) as i32
    })
}

impl Inner {
    /// Whether it is a listener that others have made, and whose description they may share.
    pub fn is_foreign(&self) -> bool {
        matches!(&self.role, Role::Listening(listening) if listening.foreign)
    }

    /// Whether it is a listener that never waits in the kernel, whatever the application has set.
    pub fn never_waits(&self) -> bool {
        matches!(&self.role, Role::Listening(listening) if !listening.foreign)
    }

    /// Opens the side port, if it is a foreign listener for which that has not been tried yet.
    pub fn try_side_port(&mut self, socket: &'static Socket) {
        let fd = self.fd();
        match &mut self.role {
            Role::Listening(listening) if listening.untried => listening.untried = false,
            _ => return,
        }
        let kernels = KERNELS
            .iter()
            .any(|&(level, name)| sys::int_option(fd, level, name).is_some_and(|on| on != 0));
        let side = match kernels || is_filtered(fd) {
            true => Err(Reason::OptionNotCarried),
            false => {
                let options: Vec<Kept> = INHERITED
                    .iter()
                    .filter_map(|&(level, name)| Kept::read(fd, level, name))
                    .collect();
                socket.open_side(fd, backlog(fd), &options, true)
            }
        };
        match side {
            Ok(side) => {
                if let Role::Listening(listening) = &mut self.role {
                    listening.side = Some(side);
                }
            }
            Err(reason) => {
                self.stays_with_tcp(fd, reason);
            }
        }
    }
}

impl Socket {
    /// accept(2) from a foreign listener.
    ///
    /// # Errors
    /// As accept(2).
    pub(super) fn accept_foreign(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        fd: RawFd,
        flags: i32,
    ) -> Result<(RawFd, Address), Errno> {
        inner.nonblocking = waits_nowhere(fd);
        if inner.nonblocking {
            return accept_one(&mut inner, fd, flags, &mut None);
        }
        let Role::Listening(listening) = &mut inner.role else {
            return Err(Errno::INVAL);
        };
        let door = listening.door(fd);
        let fd = door.as_ref().map_or(fd, |door| door.as_raw_fd());
        let wait = Wait {
            timeout: inner.receive_timeout,
            also: Some(fd),
            in_turn: inner.shared_side_port().map(|side| side.as_raw_fd()),
            begun: None,
        };
        let mut kernels = false;
        let attempt = |inner: &mut Inner| {
            let Role::Listening(listening) = &mut inner.role else {
                return Some(Err(Errno::INVAL));
            };
            let knocks = || sys::poll_mask(fd, libc::POLLIN) != 0;
            kernels = core::mem::take(&mut listening.kernel_next) > 0 && knocks();
            if !kernels {
                match accept_one(inner, fd, flags, &mut None) {
                    Err(Errno::AGAIN) => kernels = knocks(),
                    other => return Some(other),
                }
            }
            kernels.then_some(Err(Errno::AGAIN))
        };
        match self.wait_until(inner, wait, attempt) {
            Err(Errno::AGAIN) if kernels => by_kernel::accept(fd, flags, &mut None, None),
            other => other,
        }
    }
}
