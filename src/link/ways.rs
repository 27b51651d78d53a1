//! Fast connect: connections that are opened by one record on a live link.
//!
//! A *way* leads from one process to a listener of the other, as that one has seen it: it is granted with a connection that
//! came by the kernel, for others like it (the same listener, the same address there, the same address of the peer), with
//! a number of *credits*: places in the listener's queue, which come back as the application accepts. So neither address is
//! ever a claim, and nobody queues more than a backlog holds. Who opens a connection by a way takes one of its credits,
//! reserves a port of its own with its kernel, and says `Open`; the connection stands then, for both.
//!
//! No kernel's connection lies behind it: it is *afloat*, until something needs one ([`crate::control::standing`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fd::AsFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Link;
use super::record::Kind;
use crate::control::cache::Key;
use crate::control::listener::SideListener;
use crate::fabric::MAX_CONNS;
use crate::real::sys::{self, InternalFd};
use crate::socket::accept::Heritage;
use crate::socket::addr::Address;

/// Ways of one link in one direction, at most.
pub const MOST_WAYS: usize = if cfg!(loom) { 0 } else { 16 };
/// Connections that a way may have in the listener's queue, at most.
const MOST_CREDITS: usize = 64;
/// Ports that a way keeps for the next connections, at most.
const MOST_IDLE: usize = 64;

/// The number, of no connection, under which whoever waits at the listener of a way is notified.
pub fn knocker(way: u16) -> u32 {
    (MAX_CONNS - 1).saturating_sub(usize::from(way)) as u32
}

/// Both ends' ways of a link.
#[derive(Default)]
pub struct Ways {
    /// To listeners of this process.
    pub coming: Mutex<Vec<Arc<Coming>>>,
    /// To listeners of the peer.
    pub going: Mutex<Vec<Arc<Going>>>,
}

/// What a `Grant` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The way.
    pub way: u16,
    /// A port at which the acceptor takes kernel connections for such connections, should the side port be closed by then.
    pub door: u16,
    /// How many connections may have been opened by it in all.
    pub total: u32,
    /// The window of each, in bytes; 0: the way is closed.
    pub window: u32,
}

impl Grant {
    /// Whether it takes the way back.
    pub fn closes(&self) -> bool {
        self.window == 0
    }

    /// The record's payload.
    pub fn encode(&self) -> [u8; 12] {
        let mut out = [0; 12];
        out[0..2].copy_from_slice(&self.way.to_le_bytes());
        out[2..4].copy_from_slice(&self.door.to_le_bytes());
        out[4..8].copy_from_slice(&self.total.to_le_bytes());
        out[8..12].copy_from_slice(&self.window.to_le_bytes());
        out
    }

    /// What the payload says.
    pub fn parse(bytes: [u8; 12]) -> Grant {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Grant {
            way: u16::from_le_bytes([a, b]),
            door: u16::from_le_bytes([c, d]),
            total: u32::from_le_bytes([e, f, g, h]),
            window: u32::from_le_bytes([i, j, k, l]),
        }
    }
}

/// What an `Open` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The way.
    pub way: u16,
    /// The connecting end's port.
    pub port: u16,
    /// Its window, in bytes.
    pub window: u32,
}

impl Open {
    /// The record's payload.
    pub fn encode(&self) -> [u8; 8] {
        let mut out = [0; 8];
        out[0..2].copy_from_slice(&self.way.to_le_bytes());
        out[2..4].copy_from_slice(&self.port.to_le_bytes());
        out[4..8].copy_from_slice(&self.window.to_le_bytes());
        out
    }

    /// What the payload says.
    pub fn parse(bytes: [u8; 8]) -> Open {
        let [a, b, c, d, e, f, g, h] = bytes;
        Open {
            way: u16::from_le_bytes([a, b]),
            port: u16::from_le_bytes([c, d]),
            window: u32::from_le_bytes([e, f, g, h]),
        }
    }
}

/// A window as a record of a way says it.
pub fn window_told(window: u64) -> u32 {
    u32::try_from(window).unwrap_or(u32::MAX)
}

/// A way to a listener of this process.
pub struct Coming {
    /// Its number on the link.
    pub number: u16,
    /// The listener's side port.
    pub side: Weak<SideListener>,
    /// The listener's address as the peer reached it.
    pub local: Address,
    /// The peer's address, with any port.
    pub remote: Address,
    /// What the listener leaves to its connections.
    pub heritage: Heritage,
    /// Their window, in bytes.
    pub window: u64,
    /// See [`Grant::door`].
    pub door: u16,
    /// How many of them may be in the queue.
    pub credits: u32,
    granted: AtomicU32,
    opened: AtomicU32,
    /// Credits that have come back and the peer has not been told of.
    owed: AtomicU32,
    closed: AtomicBool,
}

impl Coming {
    /// A way to `side`, with so many `credits`; see the fields.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is another thing that the caller alone knows"
    )]
    pub fn new(
        number: u16,
        side: &Arc<SideListener>,
        local: Address,
        remote: Address,
        heritage: Heritage,
        window: u64,
        door: u16,
        credits: u32,
    ) -> Coming {
        Coming {
            number,
            side: Arc::downgrade(side),
            local,
            remote: remote.with_port(0),
            heritage,
            window,
            door,
            credits,
            granted: AtomicU32::new(credits),
            opened: AtomicU32::new(0),
            owed: AtomicU32::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// How many fit into a queue that has room for `room` more: half of it stays for those who come otherwise.
    pub fn credits_for(room: usize) -> u32 {
        (room / 2).min(MOST_CREDITS) as u32
    }

    /// Whether nobody is to open anything by it any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The peer opens a connection by it. False if it may not.
    pub fn open(&self) -> bool {
        let opened = self.opened.fetch_add(1, Ordering::AcqRel);
        let left = self.granted.load(Ordering::Acquire).wrapping_sub(opened);
        (1..=self.credits).contains(&left)
    }

    /// A connection that was opened by it is not in the queue any more.
    pub fn give_back(&self, link: &Link) {
        let owed = self.owed.fetch_add(1, Ordering::AcqRel) + 1;
        if owed * 4 < self.credits || self.is_closed() {
            return;
        }
        let owed = self.owed.swap(0, Ordering::AcqRel);
        if owed > 0 {
            let total = self.granted.fetch_add(owed, Ordering::AcqRel);
            self.tell(link, knocker(self.number), total.wrapping_add(owed));
        }
    }

    /// Tells the peer of the way, with its connection `conn`, which is like those that it may open.
    pub fn grant(&self, link: &Link, conn: u32) {
        self.tell(link, conn, self.granted.load(Ordering::Acquire));
    }

    /// Tells the peer that it is closed. What is under way by it is taken in.
    pub fn close(&self, link: &Link) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.tell(link, knocker(self.number), 0);
        }
    }

    fn tell(&self, link: &Link, conn: u32, total: u32) {
        let grant = Grant {
            way: self.number,
            door: self.door,
            total,
            window: match self.is_closed() {
                true => 0,
                false => window_told(self.window),
            },
        };
        link.send_control(conn, Kind::Grant, &grant.encode());
    }
}

/// A way to a listener of the peer.
pub struct Going {
    /// Its number on the link.
    pub number: u16,
    /// See [`Grant::door`].
    pub door: u16,
    /// The window of what is opened by it, in bytes.
    pub window: u64,
    /// Our address on it, with any port.
    pub local: Address,
    /// Where it leads.
    pub dest: Address,
    granted: AtomicU32,
    used: AtomicU32,
    closed: AtomicBool,
    ports: Mutex<Vec<Port>>,
}

/// A port that this process has reserved.
struct Port {
    fd: InternalFd,
    number: u16,
}

/// Ports that all ways have reserved.
static PORTS: AtomicUsize = AtomicUsize::new(0);

/// A forked child has none.
pub fn reset_after_fork() {
    PORTS.store(0, Ordering::Relaxed);
}

impl Port {
    fn reserve(local: &Address) -> Option<Port> {
        // Each takes a descriptor, and the application wants some, too.
        let most = (sys::last_number() as usize + 1) / 4;
        if PORTS.fetch_add(1, Ordering::AcqRel) < most
            && let Some(port) = Port::bind(local)
        {
            return Some(port);
        }
        PORTS.fetch_sub(1, Ordering::AcqRel);
        None
    }

    fn bind(local: &Address) -> Option<Port> {
        use rustix::fd::AsRawFd;
        let family = AddressFamily::from_raw(local.family() as u16);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None).ok()?;
        let fd = InternalFd::adopt(fd);
        sys::bind(fd.as_fd(), &local.with_port(0)).ok()?;
        let number = Address::local_of(fd.as_raw_fd())?.port();
        (number != 0).then_some(Port { fd, number })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        PORTS.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Going {
    /// The way that `grant` tells of, from our address `local` to `dest`.
    pub fn new(grant: &Grant, local: Address, dest: Address) -> Going {
        Going {
            number: grant.way,
            door: grant.door,
            window: grant.window.into(),
            local: local.with_port(0),
            dest,
            granted: AtomicU32::new(grant.total),
            used: AtomicU32::new(0),
            closed: AtomicBool::new(grant.closes()),
            ports: Mutex::default(),
        }
    }

    /// A further grant has come.
    fn granted(&self, grant: &Grant) {
        if grant.closes() {
            self.closed.store(true, Ordering::Release);
            self.ports.lock().clear();
        } else if grant
            .total
            .wrapping_sub(self.granted.load(Ordering::Acquire)) as i32
            > 0
        {
            self.granted.store(grant.total, Ordering::Release);
        }
    }

    /// Whether nothing is opened by it any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Takes a credit. False: there is none now.
    pub fn take_credit(&self) -> bool {
        let left = |used: u32| {
            let left = self.granted.load(Ordering::Acquire).wrapping_sub(used);
            (left as i32 > 0).then(|| used.wrapping_add(1))
        };
        !self.is_closed()
            && self
                .used
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, left)
                .is_ok()
    }

    /// Gives a credit back with which nothing was opened.
    pub fn return_credit(&self) {
        self.used.fetch_sub(1, Ordering::AcqRel);
    }

    /// A port of our address, for one connection. `None`: there is none to be had.
    pub fn lease(self: &Arc<Self>) -> Option<Lease> {
        let idle = self.ports.lock().pop();
        let port = idle.or_else(|| Port::reserve(&self.local))?;
        Some(Lease {
            way: self.clone(),
            port: Some(port),
        })
    }
}

/// The local port of a connection, which no other has until it is dropped.
pub struct Lease {
    way: Arc<Going>,
    port: Option<Port>,
}

impl Lease {
    /// Its way.
    pub fn way(&self) -> &Arc<Going> {
        &self.way
    }

    /// Our address with it.
    pub fn local(&self) -> Address {
        let port = self.port.as_ref().map_or(0, |port| port.number);
        self.way.local.with_port(port)
    }

    /// `socket` has the port from now on. Without a moment in which anybody else could take it: for that both are willing
    /// to share it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pass_to(mut self, socket: rustix::fd::BorrowedFd<'_>) -> Result<(), sys::Errno> {
        use rustix::net::sockopt;
        let Some(port) = self.port.take() else {
            return Err(sys::Errno::ADDRNOTAVAIL);
        };
        let shared = sockopt::socket_reuseaddr(socket)?;
        sockopt::set_socket_reuseaddr(&port.fd, true)?;
        sockopt::set_socket_reuseaddr(socket, true)?;
        let bound = sys::bind(socket, &self.way.local.with_port(port.number));
        sockopt::set_socket_reuseaddr(socket, shared)?;
        bound
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(port) = self.port.take() {
            let mut ports = self.way.ports.lock();
            if ports.len() < MOST_IDLE && !self.way.is_closed() {
                ports.push(port);
            }
        }
    }
}

impl Link {
    /// A `Grant` of a way that is known already. False: it is not.
    pub(super) fn is_granted(&self, grant: &Grant) -> bool {
        let going = self.ways.going.lock();
        let known = going.iter().find(|way| way.number == grant.way);
        known.inspect(|way| way.granted(grant)).is_some()
    }

    /// A `Grant` of a new way, with a connection from `local` to `dest`.
    pub fn gains_way(self: &Arc<Self>, grant: &Grant, local: Address, dest: Address) {
        let Some(runtime) = crate::runtime::started() else {
            return;
        };
        let way = {
            let mut going = self.ways.going.lock();
            if going.len() >= MOST_WAYS || going.iter().any(|way| way.number == grant.way) {
                return;
            }
            let way = Arc::new(Going::new(grant, local, dest));
            going.push(way.clone());
            way
        };
        let key = crate::control::cache::key(&dest);
        runtime.ways.lock().add(key, self.clone(), way);
    }

    /// Opens a connection by the way of `lease`; tells the peer, and wakes who waits at its listener.
    pub fn send_open(&self, conn: u32, lease: &Lease, window: u64) {
        let open = Open {
            way: lease.way.number,
            port: lease.local().port(),
            window: window_told(window),
        };
        let late = {
            let mut tx = self.tx();
            tx.control(self, conn, Kind::Open, &open.encode());
            tx.take_late()
        };
        late.into_iter().for_each(|conn| self.fabric.notify(conn));
        self.fabric.notify(knocker(open.way));
    }

    /// The way of that number to a listener of this process.
    pub(super) fn coming(&self, number: u16) -> Option<Arc<Coming>> {
        let coming = self.ways.coming.lock();
        coming.iter().find(|way| way.number == number).cloned()
    }
}

/// A way and its link.
pub type Leading = (Arc<Link>, Arc<Going>);

/// The ways that lead from this process, by where they lead.
#[derive(Default)]
pub struct WayBook {
    ways: HashMap<Key, Vec<Leading>>,
}

impl WayBook {
    fn add(&mut self, key: Key, link: Arc<Link>, way: Arc<Going>) {
        self.ways.entry(key).or_default().push((link, way));
    }

    /// The links with ways to `key`.
    pub fn links(&self, key: &Key) -> Vec<Arc<Link>> {
        let ways = self.ways.get(key).map_or(&[][..], Vec::as_slice);
        ways.iter().map(|(link, _)| link.clone()).collect()
    }

    /// A way to `key` with a credit, which is taken. `Err`: whether there is any at all.
    ///
    /// # Errors
    /// There is none.
    pub fn take(&mut self, key: &Key) -> Result<Leading, Option<Arc<Link>>> {
        let Some(ways) = self.ways.get_mut(key) else {
            return Err(None);
        };
        ways.retain(|(link, way)| !link.is_dead() && !way.is_closed());
        match ways.iter().find(|(_, way)| way.take_credit()) {
            Some((link, way)) => Ok((link.clone(), way.clone())),
            None => Err(ways.first().map(|(link, _)| link.clone())),
        }
    }

    /// Takes those out whose links are over, for the caller to let go of.
    pub fn dead(&mut self) -> Vec<Leading> {
        let mut dead = Vec::new();
        for ways in self.ways.values_mut() {
            dead.extend(ways.extract_if(.., |(link, way)| link.is_dead() || way.is_closed()));
        }
        self.ways.retain(|_, ways| !ways.is_empty());
        dead
    }
}
