//! The side port of a listener: where NetACC peers knock, and the queue of connections that came
//! in by it, ready for the application's `accept`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::poll::waiter::Wakes;
use crate::real::sys::{Errno, InternalFd};
use crate::socket::addr::Address;
use crate::socket::options::Kept;
use crate::socket::{Role, Socket};
use crate::stats::Reason;

/// A connection that `accept` may return.
pub struct Arrival {
    /// The kernel connection behind it.
    pub fd: InternalFd,
    /// The socket, without a number of the application's yet.
    pub socket: &'static Socket,
    /// The peer.
    pub remote: Address,
}

/// A listening side port.
pub struct SideListener {
    fd: InternalFd,
    /// The application's own listening address.
    pub local: Address,
    owner: &'static Socket,
    queue: Mutex<VecDeque<Arrival>>,
    ready: AtomicUsize,
    backlog: AtomicUsize,
    /// Connections that wait for room in the queue.
    pub held: AtomicUsize,
    /// Nobody is let in any more.
    stopped: AtomicBool,
    closed: AtomicBool,
}

/// Where and how the application's own listener listens.
pub struct Place<'a> {
    /// Its address.
    pub local: Address,
    /// IPV6_V6ONLY.
    pub only_v6: bool,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// The other options that were set on it.
    pub options: &'a [Kept],
}

impl SideListener {
    /// Listens `offset` ports above `at`, at the same address.
    ///
    /// # Errors
    /// Why the listener is reachable by TCP alone.
    pub fn open(
        owner: &'static Socket,
        at: &Place<'_>,
        backlog: i32,
        offset: u16,
    ) -> Result<SideListener, Reason> {
        let local = at.local;
        let port = local
            .port()
            .checked_add(offset)
            .ok_or(Reason::SidePortOutOfRange)?;
        let side = local.with_port(port);
        let fd = open(&side, at, backlog).map_err(|error| match error {
            Errno::ADDRINUSE | Errno::ACCESS | Errno::PERM => Reason::SidePortTaken,
            _ => Reason::ResourceLimit,
        })?;
        Ok(SideListener {
            fd,
            local,
            owner,
            queue: Mutex::new(VecDeque::new()),
            ready: AtomicUsize::new(0),
            backlog: AtomicUsize::new(room_of(backlog)),
            held: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    /// The application's listener.
    pub fn owner(&self) -> &'static Socket {
        self.owner
    }

    /// The application called `listen` again with another backlog.
    pub fn set_backlog(&self, backlog: i32) {
        self.backlog.store(room_of(backlog), Ordering::Relaxed);
        if !self.stopped.load(Ordering::Relaxed) {
            let _ = rustix::net::listen(&self.fd, backlog);
        }
    }

    /// Whether `accept` would find something.
    #[inline]
    pub fn has_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) > 0
    }

    /// Whether the queue takes another connection.
    pub fn has_room(&self) -> bool {
        self.ready.load(Ordering::Acquire) < self.backlog.load(Ordering::Relaxed)
    }

    /// Queues a connection and tells whoever waits. A closed listener gives it back.
    ///
    /// # Errors
    /// The arrival, if the listener was closed meanwhile.
    pub fn push(&self, arrival: Arrival) -> Result<(), Arrival> {
        {
            let mut queue = self.queue.lock();
            if self.closed.load(Ordering::Acquire) {
                return Err(arrival);
            }
            queue.push_back(arrival);
            self.ready.store(queue.len(), Ordering::Release);
        }
        let mut wakes = Wakes::new(None);
        {
            let mut inner = self.owner.lock();
            if matches!(&inner.role, Role::Listening(l) if l.side.as_ref().is_some_and(|s| core::ptr::eq(&**s, self)))
            {
                inner.announce(
                    self.owner,
                    (libc::EPOLLIN | libc::EPOLLRDNORM) as u32,
                    &mut wakes,
                );
            }
        }
        wakes.ring();
        Ok(())
    }

    /// Takes the oldest connection.
    pub fn pop(&self) -> Option<Arrival> {
        if !self.has_ready() {
            return None;
        }
        let mut queue = self.queue.lock();
        let arrival = queue.pop_front();
        self.ready.store(queue.len(), Ordering::Release);
        arrival
    }

    /// Puts a connection back that could not be accepted now. A closed listener gives it back.
    ///
    /// # Errors
    /// The arrival, if the listener was closed meanwhile.
    pub fn put_back(&self, arrival: Arrival) -> Result<(), Arrival> {
        let mut queue = self.queue.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(arrival);
        }
        queue.push_front(arrival);
        self.ready.store(queue.len(), Ordering::Release);
        Ok(())
    }

    /// Lets nobody in any more; who came in before may still be accepted.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }

    /// No more: returns what nobody will accept.
    pub fn close(&self) -> VecDeque<Arrival> {
        let mut queue = self.queue.lock();
        self.closed.store(true, Ordering::Release);
        self.ready.store(0, Ordering::Release);
        // Connects find the port closed at once, not when the control thread gets to it.
        self.stop();
        core::mem::take(&mut *queue)
    }
}

impl AsFd for SideListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// As the kernel: a backlog of n holds n + 1, and a negative one is a very large one.
fn room_of(backlog: i32) -> usize {
    backlog.cast_unsigned().min(4096) as usize + 1
}

fn open(side: &Address, at: &Place<'_>, backlog: i32) -> Result<InternalFd, Errno> {
    use rustix::net::sockopt;
    let family = AddressFamily::from_raw(side.family() as u16);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = InternalFd::adopt(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        flags,
        None,
    )?);
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if at.reuse_port {
        sockopt::set_socket_reuseport(&fd, true)?;
    }
    if side.family() == libc::AF_INET6 {
        sockopt::set_ipv6_v6only(&fd, at.only_v6)?;
    }
    for option in at.options {
        option.apply(fd.as_fd());
    }
    crate::real::sys::bind(fd.as_fd(), side)?;
    rustix::net::listen(&fd, backlog)?;
    Ok(fd)
}
