//! TCP sockets as the application sees them: what each is at the moment ([`Role`]) and who waits for it.
//!
//! Operations are in one file each: [`connect`], [`accept`], [`recv`], [`send`], [`options`],
//! [`lifecycle`]. A socket that turns out to be the kernel's leaves this module: its table entry
//! becomes [`Entry::Plain`](crate::fdtable::Entry) and every data call goes straight to the kernel.

pub mod accept;
pub mod addr;
pub mod blanks;
pub mod by_kernel;
pub mod connect;
pub mod fast;
pub mod foreign;
mod given;
pub mod hand_back;
pub mod leaving;
pub mod lifecycle;
mod number;
pub mod options;
pub mod orphan;
pub mod recv;
pub mod send;
mod shelved;
mod turn;
pub mod wait;

use rustix::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::conn::leftover::Leftover;
use crate::conn::{Conn, Violation, Windows};
use crate::control::heirs;
use crate::control::identity::Identity;
use crate::control::listener::SideListener;
use crate::fabric::{SLOT_IO, SLOT_NONE};
use crate::link::Link;
use crate::link::record::Kind;
use crate::poll::ready::{ROOM, Watch};
use crate::poll::waiter::{Waiter, Wakes};
use crate::real::sys::{self, Errno, InternalFd};
use crate::slab::Slab;
use crate::stats::ConnStats;
use addr::Address;

/// [`Inner::forks`] of a connection that nobody has accepted yet: no child has it before the application does.
pub const NOT_ACCEPTED: u64 = u64::MAX;

/// What a socket is at the moment.
pub enum Role {
    /// In the free list.
    Unused,
    /// A TCP socket that has neither listened nor connected.
    Fresh,
    /// Listening, on the side port too.
    Listening(Box<Listening>),
    /// A `connect` is under way; on a link already, if its records may come before it is over.
    Connecting(Option<Box<Conn>>),
    /// On a link.
    Connected(Box<Conn>),
    /// On a link of the process from which this one was forked.
    Orphan(orphan::Orphaned),
    /// Handed back to the kernel, but for what is read before anything that the kernel has.
    Leftover(Leftover),
    /// The kernel's; only its addresses and its reason are ours to know.
    Plain,
}

/// A listener with a side port.
pub struct Listening {
    /// This process has asked for a connection, or watches for one.
    pub claimed: bool,
    /// It has asked for one. (Who only watches may leave it to a child to accept, as inetd does.)
    pub accepts: bool,
    /// The kernel's queue is looked at first for so many connections more, for fairness.
    pub kernel_next: u8,
    /// The other door.
    pub side: Option<Arc<SideListener>>,
    /// A number of the library's own, for calls that wait: the application may close its numbers meanwhile.
    pub door: Option<Arc<InternalFd>>,
    /// The control thread tells who waits of the kernel's connections.
    pub watched: bool,
    /// Another program has made it: see [`foreign`].
    pub foreign: bool,
    /// It is to be tried whether it can have a side port.
    pub untried: bool,
    /// It is the kernel's once its queue is empty, and until then nobody accepts from the kernel here.
    pub leaves: bool,
    /// How many of its connections went to children.
    pub given: given::Count,
}

impl Socket {
    /// Before a fork: tells its peer what was read. Returns whether it may be a connection that is not the kernel's alone,
    /// which children inherit.
    pub fn prepare_for_heirs(&self) -> bool {
        // Whoever has the lock is busy with it.
        let Some(mut inner) = self.inner.try_lock() else {
            return true;
        };
        inner.tell_exactly();
        matches!(inner.role, Role::Connected(_) | Role::Leftover(_))
    }

    /// Before a fork, and at the end: the side port that others have, too, if it is a listener, and whether this process has
    /// asked for a connection there.
    pub fn heirs_side_port(&self) -> Option<(Arc<SideListener>, bool)> {
        // Whoever has the lock is busy with it.
        match &self.inner.try_lock()?.role {
            Role::Listening(listening) => Some((listening.side.clone()?, listening.accepts)),
            _ => None,
        }
    }

    /// For a forked child: the descriptors of the side port, if it is a listener.
    ///
    /// # Safety
    /// No other thread may run.
    pub unsafe fn side_port(&self) -> Option<Vec<RawFd>> {
        // SAFETY: by the contract nobody changes it; only read.
        match unsafe { &(*self.inner.data_ptr()).role } {
            Role::Listening(listening) => listening.side.as_ref().map(|side| side.descriptors()),
            _ => None,
        }
    }
}

impl Listening {
    /// A listener with this side port.
    pub fn new(side: Option<Arc<SideListener>>) -> Listening {
        Listening {
            claimed: false,
            accepts: false,
            kernel_next: 1,
            side,
            door: None,
            watched: false,
            foreign: false,
            untried: false,
            leaves: false,
            given: given::Count::default(),
        }
    }

    /// The number for calls that wait, of the listener that the application knows as `fd`. None if there are none left.
    pub fn door(&mut self, fd: RawFd) -> Option<Arc<InternalFd>> {
        if self.door.is_none() {
            self.door = InternalFd::duplicate(sys::borrow(fd)).ok().map(Arc::new);
        }
        self.door.clone()
    }

    /// Whether its side port leads to this process alone, which has not asked for a connection yet: whoever accepts from it
    /// may be another one.
    pub fn is_for_others(&self) -> bool {
        let alone = |side: &Arc<SideListener>| !side.is_shared();
        !self.claimed && !self.leaves && self.side.as_ref().is_some_and(alone)
    }

    /// The links by which connections are opened fast at it.
    pub fn ways(&self) -> Vec<Arc<Link>> {
        self.side
            .as_ref()
            .map_or_else(Vec::new, |side| side.links())
    }

    /// Whether somebody who came in by the side port waits.
    pub fn has_ready(&self) -> bool {
        self.side.as_ref().is_some_and(|side| side.has_ready())
    }
}

/// A TCP socket.
pub struct Socket {
    inner: Mutex<Inner>,
}

/// A socket's state, under its lock.
pub struct Inner {
    /// What it is.
    pub role: Role,
    /// Counts the lives of this object: tells a late reader that it is another socket now.
    pub life: u64,
    /// Its number among all sockets of this process.
    pub serial: u64,
    /// How many forks there had been when it was made.
    pub forks: u64,
    /// The application's numbers for it. (Here and not on the heap: a process that forks for each connection copies each
    /// page that it writes to.)
    pub fds: SmallVec<[RawFd; 2]>,
    /// Threads inside a call on it; it is not reused before they left.
    pub users: u32,
    /// Blocked calls that keep it as it is: as in the kernel, what is closed meanwhile ends with the last of them.
    pub held: u32,
    /// It has lost its last number while it was held.
    pub closing: bool,
    /// AF_INET or AF_INET6.
    pub domain: i32,
    /// O_NONBLOCK as the application set it.
    pub nonblocking: bool,
    /// SO_RCVTIMEO.
    pub receive_timeout: Option<Duration>,
    /// SO_SNDTIMEO.
    pub send_timeout: Option<Duration>,
    /// SO_RCVLOWAT, in bytes.
    pub low_water: usize,
    /// SO_RCVBUF as the kernel reports it, if it was set.
    pub receive_buffer: Option<u64>,
    /// SO_SNDBUF was set.
    pub send_buffer_is_set: bool,
    /// It has an option that only the kernel's TCP can honour.
    pub only_kernel: bool,
    /// The application has bound it to an address of its choice.
    pub is_bound: bool,
    /// SO_REUSEADDR, as an accepted connection has it from its listener; the kernel's has it from the side port.
    pub reuses_address: Option<bool>,
    /// Options set while it was fresh, for the side port if it comes to listen.
    pub kept: Vec<options::Kept>,
    /// SO_LINGER, in seconds, if on.
    pub linger: Option<i32>,
    /// `connect` succeeded in the background and nobody has asked again yet.
    pub connect_done: bool,
    /// `connect` failed in the background with this (SO_ERROR).
    pub connect_error: Option<Errno>,
    /// The address that `getsockname` reports in place of the kernel's.
    pub local: Option<Address>,
    /// The address that `getpeername` reports in place of the kernel's.
    pub remote: Option<Address>,
    /// Its line in the stats page.
    pub stats: Option<&'static ConnStats>,
    /// Epoll sets that watch it.
    pub watches: Vec<Watch>,
    /// Threads that sleep until something happens to it.
    pub sleepers: SmallVec<[&'static Waiter; 1]>,
    /// Its peer has not let it leave in time, and the kernel's connection was broken off.
    pub is_cut_off: bool,
    /// What its numbers stand for as long as it has nothing in the kernel, unless the application has changed that.
    pub blank: Option<blanks::Blank>,
    /// The application has.
    pub is_spoiled: bool,
    /// What the kernel called it before it had a connection there.
    pub former_cookie: Option<u64>,
    /// A number of our own for it, once the application has none and there is still something to send.
    pub last_number: Option<InternalFd>,
    /// Where it counts should it go to a child: with its listener.
    pub given: Option<given::Count>,
}

static SOCKETS: Slab<Socket> = Slab::new();
static SERIALS: AtomicU64 = AtomicU64::new(1);

impl Socket {
    fn blank() -> Socket {
        Socket {
            inner: Mutex::new(Inner {
                role: Role::Unused,
                life: 0,
                serial: 0,
                forks: 0,
                fds: SmallVec::new(),
                users: 0,
                held: 0,
                closing: false,
                domain: libc::AF_INET,
                nonblocking: false,
                receive_timeout: None,
                send_timeout: None,
                low_water: 1,
                receive_buffer: None,
                send_buffer_is_set: false,
                only_kernel: false,
                is_bound: false,
                reuses_address: None,
                kept: Vec::new(),
                linger: None,
                connect_done: false,
                connect_error: None,
                local: None,
                remote: None,
                stats: None,
                watches: Vec::new(),
                sleepers: SmallVec::new(),
                is_cut_off: false,
                blank: None,
                is_spoiled: false,
                former_cookie: None,
                last_number: None,
                given: None,
            }),
        }
    }

    /// A socket in the role [`Role::Fresh`], without a number yet.
    #[unsafe(link_section = ".text.netacc_hooks")]
    pub fn new(domain: i32, nonblocking: bool) -> &'static Socket {
        let socket = SOCKETS.take(Socket::blank);
        {
            let mut inner = socket.lock();
            inner.role = Role::Fresh;
            inner.serial = SERIALS.fetch_add(1, Ordering::Relaxed);
            inner.forks = heirs::forks();
            inner.domain = domain;
            inner.nonblocking = nonblocking;
        }
        socket
    }

    /// The one with this serial number, whether the application still has a number for it or is just closing the last.
    pub fn of(serial: u64) -> Option<&'static Socket> {
        let all = SOCKETS.all();
        all.into_iter()
            .find(|socket| socket.lock().serial == serial)
    }

    /// The one whose kernel socket has this cookie.
    pub fn shown(cookie: u64) -> Option<&'static Socket> {
        let all = SOCKETS.all();
        all.into_iter()
            .find(|socket| socket.is_called(Some(cookie)))
    }

    /// Locks it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Locks it if nobody else has.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, Inner>> {
        self.inner.try_lock()
    }

    /// The number that stands for it in the kernel's epolls: see [`crate::poll::ready::Looks`].
    pub fn mark(&'static self) -> u64 {
        core::ptr::from_ref(self) as u64
    }

    /// Puts it back into the free list once neither a number nor a thread has it.
    pub fn recycle_if_done(&'static self, inner: &mut MutexGuard<'_, Inner>) {
        if !inner.fds.is_empty() || inner.users > 0 || matches!(inner.role, Role::Unused) {
            return;
        }
        let life = inner.life + 1;
        if let Some(stats) = inner.stats {
            stats.release();
        }
        **inner = Socket::blank().inner.into_inner();
        inner.life = life;
        SOCKETS.put(self);
    }

    /// The link hands a record of connection `id` in. Returns whether the connection has left the link by that; the
    /// caller sees it off. Called under the link's `rx` lock.
    ///
    /// # Errors
    /// What `apply` says about a peer that breaks the protocol.
    #[inline]
    pub fn deliver(
        &'static self,
        link: &Link,
        id: u32,
        wakes: &mut Wakes,
        apply: impl FnOnce(&mut Conn) -> Result<u32, Violation>,
    ) -> Result<bool, Violation> {
        let mut inner = self.lock();
        let Some(conn) = inner.conn_on(link, id) else {
            return Ok(false);
        };
        let events = apply(conn)?;
        let left = conn.is_done_leaving();
        inner.show_queues();
        inner.announce(self, events, wakes);
        Ok(left)
    }

    /// Moves the received piece in `slot` out of the ring. Returns the bytes moved. Called under
    /// the link's `rx` lock.
    pub fn spill(&'static self, link: &Link, id: u32, slot: u32) -> usize {
        match self.lock().conn_on(link, id) {
            Some(conn) => conn.rx.spill(slot, &link.slots),
            None => 0,
        }
    }

    /// The link has ring space again.
    pub fn room_in_link(&'static self, link: &Link, wakes: &mut Wakes) {
        let mut inner = self.lock();
        let Some(conn) = inner.conn() else { return };
        if core::ptr::eq(&*conn.link, link) {
            let events = conn.on_ring_space();
            inner.announce(self, events, wakes);
        }
    }

    /// The link is gone: what has arrived stays readable, then the stream ends (the peer's process
    /// died) or breaks off with `error` (`broken`). Returns whether it leaves the link, as
    /// [`deliver`](Self::deliver) does. Called under the link's `rx` lock.
    pub fn link_gone(
        &'static self,
        link: &Link,
        error: Errno,
        broken: bool,
        wakes: &mut Wakes,
    ) -> bool {
        let mut inner = self.lock();
        let Some(conn) = inner.conn() else {
            return false;
        };
        if !core::ptr::eq(&*conn.link, link) || conn.peer_closed {
            return false;
        }
        if conn.awaits_return && conn.windows.unacknowledged() > 0 {
            // What was to come back, and to be sent again, is gone with the peer.
            return self.break_off(inner, wakes);
        }
        // One that has left, or is about to, is with the kernel; nothing more comes back.
        if conn.rx_left {
            conn.give_up_return();
            return conn.is_done_leaving();
        }
        // The kernel of a killed process resets the connections whose data it had not read, and
        // ends the others in good order.
        let reset = broken || conn.windows.is_behind();
        let events = if reset {
            conn.on_reset(error)
        } else {
            conn.on_close()
        };
        let left = conn.is_done_leaving();
        inner.announce(self, events, wakes);
        left
    }
}

/// All that poll(2) can be asked.
const ALL_EVENTS: i16 = libc::POLLIN
    | libc::POLLPRI
    | libc::POLLOUT
    | libc::POLLRDHUP
    | libc::POLLRDNORM
    | libc::POLLRDBAND
    | libc::POLLWRNORM
    | libc::POLLWRBAND;

impl Inner {
    /// A connection on `link`, whose receive window fits the socket's buffer.
    pub fn new_conn(&self, link: &Arc<Link>, id: u32) -> Box<Conn> {
        let mut conn = Conn::new(link.clone(), id);
        if let Some(bytes) = self.receive_buffer {
            conn.windows
                .begin_receiving(Windows::fitting(bytes, link.window()));
        }
        Box::new(conn)
    }

    /// Tells the peer exactly what was read of it, if it does not know.
    pub fn tell_exactly(&mut self) {
        if let Role::Connected(conn) = &mut self.role
            && let Some(grant) = conn.tell_exactly()
        {
            conn.link
                .send_control(conn.id, Kind::Window, &grant.to_le_bytes());
        }
    }

    /// The connection on a link, established or about to be.
    #[inline]
    pub fn conn(&mut self) -> Option<&mut Conn> {
        match &mut self.role {
            Role::Connected(conn) | Role::Connecting(Some(conn)) => Some(conn),
            _ => None,
        }
    }

    /// The same, if it is number `id` of `link`.
    #[inline]
    pub fn conn_on(&mut self, link: &Link, id: u32) -> Option<&mut Conn> {
        self.conn()
            .filter(|conn| conn.id == id && core::ptr::eq(&*conn.link, link))
    }

    /// Tells the stats page what waits to be read here, and how far the peer has read. Two stores: it is done for each
    /// record.
    #[inline]
    pub fn show_queues(&self) {
        if let Some(page) = self.stats
            && let Role::Connected(conn) = &self.role
        {
            page.show_queues(conn.rx.len(), conn.windows.read_by_peer());
        }
    }

    /// Threads that wait for it look again.
    #[inline]
    pub fn wake_sleepers(&self, wakes: &mut Wakes) {
        for waiter in &self.sleepers {
            wakes.add(waiter);
        }
    }

    /// Something happened: `events` are the poll bits that may have become true.
    #[inline]
    pub fn announce(&mut self, socket: &'static Socket, events: u32, wakes: &mut Wakes) {
        if events == 0 {
            return;
        }
        for watch in &mut self.watches {
            watch.signal(socket, events, wakes);
        }
        self.wake_sleepers(wakes);
    }

    /// One of its numbers, for calls to the kernel.
    pub fn fd(&self) -> RawFd {
        let kept = self.last_number.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        self.fds.first().copied().unwrap_or(kept)
    }

    /// The `poll` bits that do not come from the kernel's socket.
    pub fn poll_mask(&mut self) -> u32 {
        match &mut self.role {
            Role::Connected(conn) => conn.poll_mask(self.low_water),
            Role::Leftover(left) => {
                // The kernel tells if it is enough with what it has.
                let unread = match left.len() < self.low_water {
                    true => 0,
                    false => libc::EPOLLIN | libc::EPOLLRDNORM,
                };
                let resends = left.resends;
                let room = (libc::EPOLLOUT | libc::EPOLLWRNORM | libc::EPOLLWRBAND) as u32;
                let kernel = self.kernel_mask() & if resends { !room } else { !0 };
                unread as u32 | kernel
            }
            Role::Listening(listening) if listening.has_ready() => {
                (libc::EPOLLIN | libc::EPOLLRDNORM) as u32
            }
            _ => 0,
        }
    }

    /// The `poll` bits of the kernel's socket.
    pub fn kernel_mask(&self) -> u32 {
        u32::from(sys::poll_mask(self.fd(), ALL_EVENTS) as u16)
    }

    /// Something is written to it: that there is room is news from now on.
    pub fn writes(&mut self) {
        self.watches
            .iter_mut()
            .for_each(|watch| watch.known &= !ROOM);
    }

    /// Whether its readiness comes from us alone and not from the kernel's socket.
    pub fn is_virtual(&self) -> bool {
        matches!(self.role, Role::Connected(_) | Role::Connecting(_))
    }

    /// Tells the peer's end of the link where this connection's reader waits.
    pub fn update_slot(&self) {
        let conn = match &self.role {
            Role::Connected(conn) | Role::Connecting(Some(conn)) => conn,
            Role::Listening(listening) => {
                if let Some(side) = &listening.side {
                    side.show_slots(self);
                }
                return;
            }
            _ => return,
        };
        let slot = match conn.rx_shut && conn.tx_shut {
            // Nobody will read it, but what comes is to be answered by a reset, though a set that watches it is not waited at.
            true => SLOT_IO,
            false => self.slot_on(&conn.link),
        };
        conn.link.fabric().set_slot(conn.id, slot);
    }

    /// Where those wait who are to hear what comes for it on `link`, whose peer can ring there from now on.
    pub fn slot_on(&self, link: &Link) -> u8 {
        let mut watchers = self
            .watches
            .iter()
            .filter_map(Watch::waiter)
            .chain(self.sleepers.iter().copied());
        match (watchers.next(), watchers.next()) {
            (None, _) => SLOT_NONE,
            (Some(only), None) => {
                link.introduce(only);
                only.slot()
            }
            // Several: the I/O thread takes the record in and wakes all of them.
            (Some(_), Some(_)) => SLOT_IO,
        }
    }
}

impl Socket {
    /// For a forked child: whether the application may have it under more than one number.
    ///
    /// # Safety
    /// No other thread may run.
    pub unsafe fn has_several_numbers(&self) -> bool {
        // SAFETY: by the contract nobody changes it; only read.
        self.inner.is_locked() || unsafe { (*self.inner.data_ptr()).fds.len() != 1 }
    }

    /// What a forked child makes of its parent's socket, without touching the parent's locks and
    /// links: the kernel's part of it.
    ///
    /// # Safety
    /// No other thread may run.
    pub unsafe fn inherit(&'static self, parent: Option<(&Identity, RawFd)>) -> Inherited {
        // SAFETY: by the contract nobody changes it; only plain values are copied.
        let old = unsafe { &*self.inner.data_ptr() };
        let role = match &old.role {
            Role::Fresh => Role::Fresh,
            Role::Listening(_) => Role::Fresh,
            Role::Plain if old.local.is_some() || old.remote.is_some() => Role::Plain,
            // One that listens shall not be taken for a listener of another program's.
            Role::Plain if old.only_kernel => Role::Plain,
            Role::Plain | Role::Unused => return Inherited::Kernel,
            Role::Orphan(orphaned) => Role::Orphan(orphaned.orphan.into()),
            // There was no time for it to stand: it goes on in the parent alone.
            Role::Connected(conn) if conn.afloat.is_some() => return Inherited::Lost,
            Role::Connected(_) | Role::Leftover(_) => match parent {
                Some((parent, will)) => {
                    Role::Orphan(orphan::Orphan::of(parent, old.serial, will).into())
                }
                // Only what was claimed, and had come, is here in a process without links.
                None => match &old.role {
                    Role::Leftover(left) => Role::Leftover(left.copy()),
                    _ => return Inherited::Lost,
                },
            },
            Role::Connecting(_) => return Inherited::Lost,
        };
        let socket = Socket::new(old.domain, old.nonblocking);
        let mut inner = socket.lock();
        inner.role = match &old.role {
            Role::Listening(listening) => {
                let side = listening.side.as_ref();
                Role::Listening(Box::new(Listening {
                    foreign: listening.foreign,
                    untried: listening.untried,
                    ..Listening::new(side.map(|side| Arc::new(side.inherit(socket))))
                }))
            }
            _ => role,
        };
        inner.receive_buffer = old.receive_buffer;
        inner.send_buffer_is_set = old.send_buffer_is_set;
        inner.receive_timeout = old.receive_timeout;
        inner.send_timeout = old.send_timeout;
        inner.linger = old.linger;
        inner.low_water = old.low_water;
        inner.reuses_address = old.reuses_address;
        inner.only_kernel = old.only_kernel;
        inner.is_bound = old.is_bound;
        inner.kept = old.kept.clone();
        inner.local = old.local;
        inner.remote = old.remote;
        drop(inner);
        Inherited::Socket(socket)
    }
}

/// See [`Socket::inherit`].
#[derive(Clone, Copy)]
pub enum Inherited {
    /// The kernel's alone.
    Kernel,
    /// A socket of the child's own.
    Socket(&'static Socket),
    /// A connect of the parent's under way, out of the child's reach.
    Lost,
}

/// For a forked child: the parent's sockets are not ours.
///
/// # Safety
/// No other thread may run.
pub unsafe fn reset_after_fork() {
    // SAFETY: by the contract.
    unsafe {
        SOCKETS.reset_after_fork();
        foreign::reset_after_fork();
    }
}
