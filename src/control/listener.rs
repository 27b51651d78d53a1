//! The side port of a listener: where NetACC peers knock, and the queue of connections that came
//! in by it, ready for the application's `accept`.
//!
//! As long as the process that made it is alone with it, the control thread takes in who knocks, and answers at once, as
//! a kernel does. Once it has forked, its children have the listener and the side port too. Then the kernel is to decide
//! which process gets a connection, as it does at the listener itself: threads of the application take in who knocks,
//! where they wait at the listener or accept from it, one connection at a time; and a peer is answered when its
//! connection is accepted. What a process has taken in and does not accept, for it closes the listener or is stopped,
//! finds the kernel's door.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::io_thread::Command;
use super::server;
use crate::fdtable;
use crate::link::Link;
use crate::poll::waiter::Wakes;
use crate::real::sys::{self, Errno, InternalFd};
use crate::runtime;
use crate::socket::accept::Heritage;
use crate::socket::addr::Address;
use crate::socket::options::Kept;
use crate::socket::{Role, Socket};
use crate::stats::Reason;

/// A connection that `accept` may return.
pub struct Arrival {
    /// The kernel connection behind it.
    pub fd: InternalFd,
    /// The peer.
    pub remote: Address,
    /// What it has been told.
    pub standing: Standing,
}

/// What the peer of an arrival knows.
pub enum Standing {
    /// That it is connected, with this socket, which has no number of the application's yet.
    Taken(&'static Socket),
    /// Nothing yet.
    Asks {
        /// The link on which it wants to be connection `conn`.
        link: Arc<Link>,
        /// See `link`.
        conn: u32,
        /// The peer's receive window, in bytes.
        window: u64,
    },
}

impl Arrival {
    /// Nobody will accept it. A peer that was told otherwise is reset; any other goes to the kernel's door.
    pub fn discard(self) {
        match self.standing {
            Standing::Taken(socket) => socket.discard(),
            Standing::Asks { link, conn, window } => {
                drop(self.fd);
                give_up(&link, conn, window, self.remote);
            }
        }
    }
}

/// Connection `conn` of `link` was asked for and is not to be: its number is free again once both ends have closed it.
fn give_up(link: &Arc<Link>, conn: u32, window: u64, remote: Address) {
    Socket::arrived(Heritage::default(), remote, Some((link, conn)), window).give_up();
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
    /// How many forks there had been when it was made.
    forks: u32,
}

/// In place of that number: it came from another program, whose other processes may have it; or the listener did, and they
/// may have side ports of their own.
const OTHERS: u32 = u32::MAX;

/// A side port that a process leaves to the program that replaces it.
#[derive(Clone, Copy)]
pub struct Bequest {
    /// Its descriptor.
    pub fd: RawFd,
    /// The application's own listening address.
    pub local: Address,
    /// Connections that its queue takes.
    pub backlog: u64,
}

/// Forks of this process and those from which it was forked.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// A child is about to be forked, which will share all side ports that there are.
pub fn forked() {
    FORKS.fetch_add(1, Ordering::AcqRel);
}

/// Who knock in a row and are not for the application, at most, before it is looked for something else.
const KNOCKS: usize = 64;
/// Once the side port is shared, the kernel wakes those who wait at it when a peer has said what it wants, not before;
/// but no later than after the time in which it repeats its answer so many times.
const DEFER: i32 = 1;

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
            forks: FORKS.load(Ordering::Acquire),
        })
    }

    /// Other processes may have side ports beside it.
    pub fn of_others(self) -> SideListener {
        SideListener {
            forks: OTHERS,
            ..self
        }
    }

    /// The same side port, as a forked child has it for its listener `owner`.
    pub fn inherit(&self, owner: &'static Socket) -> SideListener {
        SideListener {
            fd: InternalFd::take_back(self.fd.as_raw_fd()),
            local: self.local,
            owner,
            queue: Mutex::new(VecDeque::new()),
            ready: AtomicUsize::new(0),
            backlog: AtomicUsize::new(self.backlog.load(Ordering::Relaxed)),
            held: AtomicUsize::new(0),
            stopped: AtomicBool::new(self.stopped.load(Ordering::Relaxed)),
            closed: AtomicBool::new(false),
            forks: self.forks,
        }
    }

    /// What a program is told that replaces this one and gets it.
    pub fn bequest(&self) -> Bequest {
        Bequest {
            fd: self.fd.as_raw_fd(),
            local: self.local,
            backlog: self.backlog.load(Ordering::Relaxed) as u64,
        }
    }

    /// The side port that the program before this one has left, for its listener `owner`. `None`: it is not there.
    pub fn taken_over(left: &Bequest, owner: &'static Socket) -> Option<SideListener> {
        let fd = sys::borrow(left.fd);
        let offset = i32::from(Address::local_of(left.fd)?.port()) - i32::from(left.local.port());
        let listens = rustix::net::sockopt::socket_acceptconn(fd) == Ok(true);
        if !listens || offset <= 0 || !fdtable::fits(left.fd) {
            return None;
        }
        rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).ok()?;
        fdtable::set_internal(left.fd);
        Some(SideListener {
            fd: InternalFd::take_back(left.fd),
            local: left.local,
            owner,
            queue: Mutex::new(VecDeque::new()),
            ready: AtomicUsize::new(0),
            backlog: AtomicUsize::new(left.backlog as usize),
            held: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            forks: OTHERS,
        })
    }

    /// Whether other processes may have it.
    pub fn is_shared(&self) -> bool {
        self.forks != FORKS.load(Ordering::Acquire)
    }

    /// This process takes in who knocks at a side port that is shared.
    pub fn join_in(&self) {
        let seconds = DEFER;
        let _errno = crate::log::ErrnoGuard::new();
        // SAFETY: an int and its length. Where it cannot be had, the control thread waits for what the peer says.
        unsafe {
            let value = (&raw const seconds).cast();
            let (level, name) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
            crate::real::orig::setsockopt(self.fd.as_raw_fd(), level, name, value, 4)
        };
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

    /// Takes in who knocks at a side port that is shared, until there is a connection for the application. Who wants
    /// something else is the control thread's.
    pub fn take_in(self: &Arc<Self>) -> Option<Arrival> {
        let runtime = runtime::started()?;
        for _ in 0..KNOCKS {
            if !self.is_shared() || self.closed.load(Ordering::Acquire) {
                return None;
            }
            let stranger = match server::knocking(self, runtime) {
                Ok(stranger) => stranger,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                // Another process that shares it has stopped it.
                Err(Errno::INVAL) => {
                    self.stopped.store(true, Ordering::Relaxed);
                    return None;
                }
                Err(error) => {
                    server::pause_unless_done(error);
                    return None;
                }
            };
            match stranger.asks(runtime) {
                Ok(arrival) => return Some(arrival),
                Err(Some(stranger)) => runtime.command(Command::Stranger(stranger)),
                Err(None) => {}
            }
        }
        None
    }

    /// Tells the peer of `arrival` that it is connected, unless it was told. `None`: it has gone another way. `heritage` is
    /// what the application's listener leaves it.
    pub fn settle(&self, arrival: Arrival, heritage: Heritage) -> Option<Arrival> {
        if let Standing::Asks { .. } = &arrival.standing
            && server::is_gone(&arrival.fd)
        {
            arrival.discard();
            return None;
        }
        let Standing::Asks { link, conn, window } = &arrival.standing else {
            return Some(arrival);
        };
        let local = server::local_of(&arrival.fd, self);
        let socket = Socket::arrived(heritage, local, Some((link, *conn)), *window);
        if server::welcome(&arrival.fd, socket).is_err() {
            socket.discard();
            return None;
        }
        Some(Arrival {
            standing: Standing::Taken(socket),
            ..arrival
        })
    }

    /// Takes those out whose peers were told that they are connected, although nobody here will accept them.
    pub fn take_told(&self) -> Vec<Arrival> {
        let mut queue = self.queue.lock();
        let all = core::mem::take(&mut *queue).into_iter();
        let told = |arrival: &Arrival| matches!(arrival.standing, Standing::Taken(_));
        let (told, rest): (Vec<_>, Vec<_>) = all.partition(told);
        *queue = rest.into();
        self.ready.store(queue.len(), Ordering::Release);
        told
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

    /// Lets nobody in any more, in any process; who came in before may still be accepted.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }

    /// Whether nobody can connect there any more.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// No more in this process: returns what nobody will accept.
    pub fn close(&self) -> VecDeque<Arrival> {
        let mut queue = self.queue.lock();
        self.closed.store(true, Ordering::Release);
        self.ready.store(0, Ordering::Release);
        if !self.is_shared() {
            // Connects find the port closed at once, not when the control thread gets to it.
            self.stop();
        }
        core::mem::take(&mut *queue)
    }
}

impl AsRawFd for SideListener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
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
