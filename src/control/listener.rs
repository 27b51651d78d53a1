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
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::io_thread::Command;
use super::server::{self, Wish};
use super::shelf::Shelf;
use crate::fdtable;
use crate::link::Link;
use crate::link::ways::Coming;
use crate::real::sys::{self, Errno, InternalFd};
use crate::runtime;
use crate::socket::Socket;
use crate::socket::accept::Heritage;
use crate::socket::addr::Address;
use crate::socket::options::Kept;
use crate::stats::Reason;

/// A connection that `accept` may return.
pub struct Arrival {
    /// The kernel connection behind it; none if it was opened fast.
    pub fd: Option<InternalFd>,
    /// The peer.
    pub remote: Address,
    /// What it has been told.
    pub standing: Standing,
    /// The way by which it was opened, until its credit is given back.
    pub way: Option<(Arc<Link>, Arc<Coming>)>,
}

/// What the peer of an arrival knows.
pub enum Standing {
    /// That it is connected, with this socket, which has no number of the application's yet.
    Taken(&'static Socket),
    /// Nothing yet.
    Asks(Asked),
}

/// What a peer asks for: to be a certain connection of a link. If nothing comes of it (it is dropped), the number is free
/// again once both ends have closed it.
pub struct Asked {
    link: Arc<Link>,
    conn: u32,
    window: u64,
    remote: Address,
    granted: bool,
}

impl Asked {
    /// To be connection `conn` of `link`, by `remote`, whose receive window is `window` bytes.
    pub fn new(link: Arc<Link>, conn: u32, window: u64, remote: Address) -> Asked {
        Asked {
            link,
            conn,
            window,
            remote,
            granted: false,
        }
    }

    /// Its link, and its number there.
    pub fn place(&self) -> (Arc<Link>, u32) {
        (self.link.clone(), self.conn)
    }

    /// It is that connection, at our address `local`.
    pub fn grant(mut self, heritage: Heritage, local: Address) -> &'static Socket {
        self.granted = true;
        Socket::arrived(heritage, local, Some((&self.link, self.conn)), self.window)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.granted {
            let on = Some((&self.link, self.conn));
            Socket::arrived(Heritage::default(), self.remote, on, self.window).give_up();
        }
    }
}

impl Arrival {
    /// Nobody will accept it. A peer that was told otherwise is reset; any other goes to the kernel's door.
    pub fn discard(self) {
        if let Standing::Taken(socket) = self.standing {
            socket.discard();
        }
    }

    /// Whether its peer has given up waiting for a verdict.
    pub fn is_gone(&self) -> bool {
        matches!(self.standing, Standing::Asks(_)) && self.fd.as_ref().is_some_and(server::is_gone)
    }

    /// It takes no place in the queue any more.
    pub fn gives_credit_back(&mut self) {
        if let Some((link, way)) = self.way.take() {
            way.give_back(&link);
        }
    }
}

/// A listening side port.
pub struct SideListener {
    fd: InternalFd,
    /// The application's own listening address.
    pub local: Address,
    owner: &'static Socket,
    queue: Mutex<VecDeque<Arrival>>,
    /// Held while a peer is told that it is connected, and until it is in the queue.
    answering: Mutex<()>,
    /// For those who were told so and not accepted before a fork.
    pub(super) shelf: OnceLock<Shelf>,
    /// Those that are on their way there.
    pub(super) leaving: Mutex<Vec<Arrival>>,
    pub(super) ready: AtomicUsize,
    pub(super) backlog: AtomicUsize,
    /// Ways to it, each with its link; places in the queue that are promised to them, and those that they take.
    pub(super) ways: Mutex<Vec<(Arc<Link>, Arc<Coming>)>>,
    pub(super) reserved: AtomicUsize,
    pub(super) by_ways: AtomicUsize,
    /// Connections that came by them and were accepted.
    pub(super) accepted: AtomicUsize,
    /// What was set on the listener, for connections that do not come from the kernel.
    pub options: Mutex<Vec<Kept>>,
    /// Connections that wait for room in the queue.
    pub held: AtomicUsize,
    /// Nobody is let in any more.
    stopped: AtomicBool,
    closed: AtomicBool,
    /// How many forks there had been when it was made.
    forks: u32,
    /// A process before this one has made it.
    inherited: bool,
    /// The kernel may choose other listeners of a group (SO_REUSEPORT) for who connects.
    grouped: bool,
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
    /// The descriptors of its shelf, if it has one.
    pub shelf: Option<[RawFd; 2]>,
}

impl Bequest {
    /// All its descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        core::iter::once(self.fd).chain(self.shelf.into_iter().flatten())
    }
}

/// Forks of this process and those from which it was forked.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Whether a side port was opened since the last fork.
static OPENED: AtomicBool = AtomicBool::new(false);

/// A child is about to be forked, which will share all side ports that there are. Returns whether the control thread has to
/// know: it does not if all of them have been shared before.
pub fn forked() -> bool {
    FORKS.fetch_add(1, Ordering::AcqRel);
    OPENED.swap(false, Ordering::AcqRel)
}

/// Connections that a queue takes, at most.
const MOST_QUEUED: usize = 4096;
/// Who knock in a row and are not for the application, at most, before it is looked for something else: all that were there
/// when the kernel said that somebody is, for it may not say so again.
const KNOCKS: usize = MOST_QUEUED + 1;
/// Once the side port is shared, the kernel wakes those who wait at it when a peer has said what it wants, not before;
/// but no later than after the time in which it repeats its answer so many times.
const DEFER: i32 = 1;

/// Side ports that the application has closed and the control thread has not heard of.
static CLOSING: AtomicUsize = AtomicUsize::new(0);

/// Whether there is any: a side port that other processes have, too, is closed here when the control thread gets to it.
pub fn is_any_closing() -> bool {
    CLOSING.load(Ordering::Acquire) > 0
}

/// A side port that the application has closed.
pub struct Closing(Option<Arc<SideListener>>);

impl Closing {
    /// It was closed just now.
    pub fn new(side: Arc<SideListener>) -> Closing {
        CLOSING.fetch_add(1, Ordering::AcqRel);
        Closing(Some(side))
    }

    /// Whether it is this one.
    pub fn is(&self, other: &Arc<SideListener>) -> bool {
        self.0.as_ref().is_some_and(|side| Arc::ptr_eq(side, other))
    }

    /// Whether this stranger has knocked there.
    pub fn is_of(&self, stranger: &server::Stranger) -> bool {
        self.0.as_ref().is_some_and(|side| stranger.is_for(side))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0 = None;
        CLOSING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A forked child closes none for its parent.
pub fn reset_after_fork() {
    CLOSING.store(0, Ordering::Relaxed);
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
        let forks = FORKS.load(Ordering::Acquire);
        let opened = SideListener {
            grouped: at.reuse_port,
            ..Self::with(fd, local, owner, room_of(backlog), forks)
        };
        *opened.options.lock() = at.options.to_vec();
        Ok(opened)
    }

    fn with(
        fd: InternalFd,
        local: Address,
        owner: &'static Socket,
        backlog: usize,
        forks: u32,
    ) -> SideListener {
        OPENED.store(true, Ordering::Release);
        SideListener {
            fd,
            local,
            owner,
            queue: Mutex::new(VecDeque::new()),
            answering: Mutex::new(()),
            shelf: OnceLock::new(),
            leaving: Mutex::new(Vec::new()),
            ready: AtomicUsize::new(0),
            backlog: AtomicUsize::new(backlog),
            ways: Mutex::default(),
            reserved: AtomicUsize::new(0),
            by_ways: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            options: Mutex::default(),
            held: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            forks,
            inherited: false,
            grouped: false,
        }
    }

    /// Whether who connects there is sure to come to it.
    pub fn is_only_one(&self) -> bool {
        !self.grouped && !self.is_shared()
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
        let fd = InternalFd::take_back(self.fd.as_raw_fd());
        let backlog = self.backlog.load(Ordering::Relaxed);
        let mut child = Self::with(fd, self.local, owner, backlog, self.forks);
        child.inherited = true;
        *child.stopped.get_mut() = self.stopped.load(Ordering::Relaxed);
        if let Some(shelf) = self.shelf.get() {
            let _ = child.shelf.set(Shelf::of(shelf.descriptors()));
        }
        child
    }

    /// Whether this process has made it, and no other one has one for the same listener.
    pub fn is_own(&self) -> bool {
        !self.inherited && self.forks != OTHERS
    }

    /// Its descriptors, which a forked child has, too.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let shelf = self.shelf.get().map(Shelf::descriptors);
        let shelf = shelf.into_iter().flatten();
        core::iter::once(self.fd.as_raw_fd()).chain(shelf).collect()
    }

    /// What a program is told that replaces this one and gets it.
    pub fn bequest(&self) -> Bequest {
        Bequest {
            fd: self.fd.as_raw_fd(),
            local: self.local,
            backlog: self.backlog.load(Ordering::Relaxed) as u64,
            shelf: self.shelf.get().map(Shelf::descriptors),
        }
    }

    /// The side port that the program before this one has left, for its listener `owner`. `None`: it is not there.
    pub fn taken_over(left: &Bequest, owner: &'static Socket) -> Option<SideListener> {
        let fd = sys::borrow(left.fd);
        let offset = i32::from(Address::local_of(left.fd)?.port()) - i32::from(left.local.port());
        let listens = rustix::net::sockopt::socket_acceptconn(fd) == Ok(true);
        if !listens || offset <= 0 || !left.descriptors().all(fdtable::fits) {
            return None;
        }
        for fd in left.descriptors() {
            rustix::io::fcntl_setfd(sys::borrow(fd), FdFlags::CLOEXEC).ok()?;
        }
        left.descriptors().for_each(fdtable::set_internal);
        let fd = InternalFd::take_back(left.fd);
        let backlog = left.backlog as usize;
        let side = Self::with(fd, left.local, owner, backlog, OTHERS);
        if let Some(shelf) = left.shelf {
            let _ = side.shelf.set(Shelf::of(shelf));
        }
        Some(side)
    }

    /// Whether other processes may have it.
    pub fn is_shared(&self) -> bool {
        self.forks != FORKS.load(Ordering::Acquire)
    }

    /// While this is held, nobody else tells a peer of this listener that it is connected: one who was told is in the queue.
    pub fn answering(&self) -> MutexGuard<'_, ()> {
        self.answering.lock()
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
        self.room() > 0 || self.makes_room()
    }

    /// Queues a connection and tells whoever waits. A closed listener gives it back.
    ///
    /// # Errors
    /// The arrival, if the listener was closed meanwhile.
    pub fn push(&self, arrival: Arrival) -> Result<(), Arrival> {
        self.enqueue(arrival)?;
        self.announce();
        Ok(())
    }

    /// Queues a connection and tells nobody. A closed listener gives it back.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn enqueue(&self, arrival: Arrival) -> Result<(), Arrival> {
        let mut queue = self.queue.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(arrival);
        }
        if arrival.fd.is_none() {
            self.by_ways.fetch_add(1, Ordering::Relaxed);
        }
        queue.push_back(arrival);
        self.ready.store(queue.len(), Ordering::Release);
        Ok(())
    }

    /// Takes in who knocks at a side port that is shared, until there is a connection for the application. Who wants
    /// something else is the control thread's.
    ///
    /// # Errors
    /// There are no descriptors or no memory for it.
    pub fn take_in(self: &Arc<Self>) -> Result<Option<Arrival>, Errno> {
        let Some(runtime) = runtime::started() else {
            return Ok(None);
        };
        for _ in 0..KNOCKS {
            if !self.is_shared() || self.closed.load(Ordering::Acquire) {
                return Ok(None);
            }
            if let Some(arrival) = self.take_from_shelf() {
                return Ok(Some(arrival));
            }
            let stranger = match server::knocking(self, runtime) {
                Ok(stranger) => stranger,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                // Another process that shares it has stopped it.
                Err(Errno::INVAL) => {
                    self.stopped.store(true, Ordering::Relaxed);
                    return Ok(None);
                }
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    return Err(error);
                }
                Err(error) => {
                    server::pause_unless_done(error);
                    return Ok(None);
                }
            };
            match stranger.asks(runtime) {
                Wish::Connection(arrival) => return Ok(Some(arrival)),
                Wish::Other(stranger) => runtime.command(Command::Stranger(stranger)),
                Wish::Nothing => {}
            }
        }
        Ok(None)
    }

    /// Tells the peer of `arrival` that it is connected, unless it was told. `None`: it has gone another way. `heritage` is
    /// what the application's listener leaves it.
    pub fn settle(&self, arrival: Arrival, heritage: Heritage) -> Option<Arrival> {
        let socket = match (arrival.standing, &arrival.fd) {
            (Standing::Taken(socket), _) => socket,
            (Standing::Asks(asked), Some(fd)) => {
                let socket = asked.grant(heritage, server::local_of(fd, self));
                if server::welcome(fd, socket).is_err() {
                    socket.discard();
                    return None;
                }
                socket
            }
            (Standing::Asks(_), None) => return None,
        };
        Some(Arrival {
            standing: Standing::Taken(socket),
            ..arrival
        })
    }

    /// Takes all out, whether they were told that they are connected or not.
    pub fn take_all(&self) -> VecDeque<Arrival> {
        let mut queue = self.queue.lock();
        self.ready.store(0, Ordering::Release);
        self.by_ways.store(0, Ordering::Release);
        core::mem::take(&mut *queue)
    }

    /// Takes the oldest connection.
    pub fn pop(&self) -> Option<Arrival> {
        if !self.has_ready() {
            return None;
        }
        let mut queue = self.queue.lock();
        let arrival = queue.pop_front();
        self.ready.store(queue.len(), Ordering::Release);
        if arrival.as_ref().is_some_and(|arrival| arrival.fd.is_none()) {
            self.by_ways.fetch_sub(1, Ordering::Relaxed);
        }
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
        if arrival.fd.is_none() {
            self.by_ways.fetch_add(1, Ordering::Relaxed);
        }
        queue.push_front(arrival);
        self.ready.store(queue.len(), Ordering::Release);
        Ok(())
    }

    /// Lets nobody in any more, in any process; who came in before may still be accepted.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.close_ways();
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }

    /// Whether nobody can connect there any more.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// No more in this process: returns what nobody will accept.
    pub fn close(&self) -> VecDeque<Arrival> {
        self.close_ways();
        let mut queue = self.queue.lock();
        self.closed.store(true, Ordering::Release);
        self.ready.store(0, Ordering::Release);
        self.by_ways.store(0, Ordering::Release);
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
    backlog.cast_unsigned().min(MOST_QUEUED as u32) as usize + 1
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
