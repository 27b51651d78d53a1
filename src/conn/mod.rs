//! One accelerated connection: what has arrived, what may be sent, how it ends. No I/O here: the
//! link feeds records in, `socket/` takes bytes out, both under the socket's lock.
//!
//! Stream offsets count from 0 in each direction. The receiver grants offsets up to which the
//! sender may go; a grant is renewed by a `Window` record when a quarter of the window was taken.

pub mod leftover;
mod rx;
pub mod stalls;
pub mod user_buf;
pub mod window;

use std::sync::Arc;
use std::time::Duration;

use crate::link::Link;
use crate::link::record::Kind;
use crate::link::ways::{Going, Grant, Lease};
use crate::real::sys::{Errno, now_ns};
pub use rx::{Chunk, RxQueue};
pub use window::Windows;

/// How long a call is held up that must not wait, in nanoseconds: what a peer that runs takes at most to send again what
/// was there a moment ago.
pub const GRACE_NS: u64 = 250_000_000;

/// So many reads and writes, or so many bytes, earn back what it costs to join a link.
const WORTH_CALLS: u64 = 16;
const WORTH_BYTES: u64 = 256 << 10;

const READABLE: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
const WRITABLE: u32 = (libc::EPOLLOUT | libc::EPOLLWRNORM) as u32;

// include/net/tcp_states.h; the libc crate does not have them.
const TCP_ESTABLISHED: u8 = 1;
const TCP_FIN_WAIT2: u8 = 5;
const TCP_CLOSE: u8 = 7;
const TCP_CLOSE_WAIT: u8 = 8;

/// State of a connection on a link.
pub struct Conn {
    /// The link that carries it.
    pub link: Arc<Link>,
    /// Its id on the link.
    pub id: u32,
    /// Bytes that have arrived.
    pub rx: RxQueue,
    /// The peer's stream has ended (FIN).
    pub rx_fin: bool,
    /// `shutdown(SHUT_RD)` here, or the connection was reset.
    pub rx_shut: bool,
    /// `shutdown(SHUT_WR)` here, or the connection was reset.
    pub tx_shut: bool,
    /// The peer's socket is gone: what we still send would be answered by a reset.
    pub peer_closed: bool,
    /// What `SO_ERROR` and the next failing call report.
    pub error: Option<Errno>,
    /// Somebody was told that there is no room, and wants to hear of some (the kernel's SOCK_NOSPACE).
    pub tx_blocked: bool,
    /// It is in the link's list of those who wait for ring space.
    pub awaits_ring: bool,
    /// What is written here goes over the kernel's connection: the peer was told.
    pub tx_left: bool,
    /// Since when, in nanoseconds.
    pub left_at: u64,
    /// What the peer writes comes over the kernel's connection, after what has arrived.
    pub rx_left: bool,
    /// This end gives what it had received, and nobody has read, back to the peer.
    pub recalls: bool,
    /// What it gave back, until the peer has sent it again.
    pub given_back: Vec<u8>,
    /// How many bytes the kernel's connection has received when all of that has come again; none once that is no news.
    pub known_to: Option<u64>,
    /// The peer has sent it again, over the kernel's connection.
    pub resent: bool,
    /// The peer gives back what it had received of our stream, and has not given all of it yet.
    pub awaits_return: bool,
    /// What it has given back and is not sent again yet.
    pub returned: Vec<u8>,
    /// This end has broken it off: what is still on its way here is dropped.
    refused: bool,
    /// A way that was granted with it, until it is established.
    pub granted: Option<Grant>,
    /// It was opened fast, and has no kernel's connection behind it.
    pub afloat: Option<Box<Afloat>>,
    /// How far each side may send.
    pub windows: Windows,
    /// Reads and writes of the application.
    calls: u64,
}

/// What a connection has in place of a kernel's connection behind it ([`crate::link::ways`]).
#[derive(Default)]
pub struct Afloat {
    /// The way by which this end has opened it; none at the accepting end.
    pub way: Option<Arc<Going>>,
    /// Its local port, at the connecting end, until the kernel's connection is being made.
    pub lease: Option<Lease>,
    /// That connection was asked for.
    pub stands_soon: bool,
    /// A hand-back begins when it is there.
    pub then_leaves: bool,
}

/// The peer did what the protocol forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation;

impl Conn {
    /// A connection that has just been opened on `link`.
    pub fn new(link: Arc<Link>, id: u32) -> Self {
        let windows = Windows::new(link.window(), link.peer_window());
        Conn {
            link,
            id,
            rx: RxQueue::default(),
            rx_fin: false,
            rx_shut: false,
            tx_shut: false,
            peer_closed: false,
            error: None,
            tx_blocked: false,
            awaits_ring: false,
            tx_left: false,
            left_at: 0,
            rx_left: false,
            recalls: false,
            given_back: Vec::new(),
            known_to: None,
            resent: false,
            awaits_return: false,
            returned: Vec::new(),
            refused: false,
            granted: None,
            afloat: None,
            windows,
            calls: 0,
        }
    }

    /// A `Data` record's payload has arrived. Returns the poll bits that may have become true, as
    /// all of these do.
    ///
    /// # Errors
    /// [`Violation`] when the peer sends beyond its grant or after its end.
    // Once for each record: a call costs as much as what it does.
    #[inline(always)]
    pub fn on_data(&mut self, chunk: Chunk) -> Result<u32, Violation> {
        let over = self.rx_fin || self.rx_left || self.is_reset() && !self.refused;
        if !self.windows.arrived(chunk.len()) || over {
            return Err(Violation);
        }
        if self.rx_shut && self.tx_shut && !self.tx_left {
            chunk.discard(&self.link.slots);
            return Ok(self.refuse());
        }
        self.rx.push(chunk);
        Ok(READABLE)
    }

    /// Stream bytes came for an end that has shut down both ways: as the kernel, it breaks the connection off.
    #[cold]
    fn refuse(&mut self) -> u32 {
        if self.refused {
            return 0;
        }
        self.refused = true;
        self.link.send_control(self.id, Kind::Reset, &[]);
        self.on_reset(Errno::CONNRESET)
    }

    /// What the kernel calls the state that it is in: `tcpi_state` of TCP_INFO.
    pub fn tcp_state(&self) -> u8 {
        match (self.rx_fin, self.tx_shut) {
            _ if self.is_over() => TCP_CLOSE,
            (false, false) => TCP_ESTABLISHED,
            (false, true) => TCP_FIN_WAIT2,
            (true, _) => TCP_CLOSE_WAIT,
        }
    }

    /// Whether both directions have ended, in whatever way: the kernel knows no peer of such a socket any more.
    pub fn is_over(&self) -> bool {
        self.is_reset() || self.rx_fin && self.tx_shut
    }

    /// A `Fin` record has arrived.
    pub fn on_fin(&mut self) -> u32 {
        if self.is_reset() {
            return 0;
        }
        self.rx_fin = true;
        READABLE | libc::EPOLLRDHUP as u32 | libc::EPOLLHUP as u32
    }

    /// A `Window` record has arrived.
    pub fn on_window(&mut self, granted: u64) -> u32 {
        self.windows.on_grant(granted);
        self.room()
    }

    /// The link has ring space again.
    pub fn on_ring_space(&mut self) -> u32 {
        self.awaits_ring = false;
        self.room()
    }

    /// There may be room to send again: tells so if a sender found none before.
    fn room(&mut self) -> u32 {
        if self.tx_blocked && self.writable() {
            self.tx_blocked = false;
            return WRITABLE;
        }
        0
    }

    /// A `Close` record has arrived: the peer's socket is gone, its stream complete.
    pub fn on_close(&mut self) -> u32 {
        if self.is_reset() {
            return 0;
        }
        // After a `HandBack` it only says that the id is free: the peer's socket is with the kernel.
        if self.rx_left {
            self.give_up_return();
            return 0;
        }
        self.peer_closed = true;
        self.tx_blocked = false;
        self.rx_fin = true;
        READABLE | WRITABLE | (libc::EPOLLRDHUP | libc::EPOLLHUP) as u32
    }

    /// The same, if `arrived` bytes had arrived at the peer's socket before. As the kernel, it answers the rest by a reset.
    pub fn on_close_after(&mut self, arrived: Option<u64>) -> u32 {
        let events = self.on_close();
        match self.peer_closed
            && arrived.is_some_and(|arrived| self.windows.has_sent_beyond(arrived))
        {
            true => events | self.on_reset(Errno::CONNRESET),
            false => events,
        }
    }

    /// The connection is broken off: a `Reset` record, or its link is gone. As the kernel does on
    /// RST: EPIPE after the peer's FIN, else `error`.
    pub fn on_reset(&mut self, error: Errno) -> u32 {
        if self.is_reset() {
            return 0;
        }
        self.error = Some(if self.rx_fin { Errno::PIPE } else { error });
        self.rx_shut = true;
        self.tx_shut = true;
        self.peer_closed = true;
        self.tx_blocked = false;
        READABLE | WRITABLE | (libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLRDHUP) as u32
    }

    /// A `HandBack` record has arrived, or a `Recall`.
    pub fn on_hand_back(&mut self, recalls: bool) {
        self.rx_left = true;
        self.awaits_return = recalls;
    }

    /// A `Returned` record has arrived, with bytes of our own stream.
    ///
    /// # Errors
    /// [`Violation`] when none was to come, or more than the peer can have.
    pub fn on_returned(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let all = (self.returned.len() + bytes.len()) as u64;
        if !self.awaits_return || all > self.windows.most_unread() {
            return Err(Violation);
        }
        self.returned.extend_from_slice(bytes);
        Ok(())
    }

    /// A `Resent` record has arrived.
    pub fn on_resent(&mut self) {
        self.resent = true;
        self.given_back = Vec::new();
    }

    /// The peer is gone, or its end of the link: nothing more comes back, and what was to be sent again is or never
    /// will be.
    pub fn give_up_return(&mut self) {
        if core::mem::take(&mut self.awaits_return) {
            self.returned = Vec::new();
        }
        self.resent = true;
    }

    /// Whether what nobody had read is on its way to the kernel's connection.
    pub fn is_being_resent(&self) -> bool {
        // What the peer did not send again is to be read here, once the connection has left.
        let comes = !self.given_back.is_empty() || !self.resent && !self.peer_closed;
        self.rx_left && self.recalls && comes && !self.is_reset()
    }

    /// How long a call that must not wait is held up for that.
    pub fn grace(&self) -> Duration {
        Duration::from_nanos((self.left_at + GRACE_NS).saturating_sub(now_ns()))
    }

    /// Whether nothing of it comes or goes over the link any more, though it is not broken off: the kernel's
    /// connection carries what follows.
    pub fn has_left(&self) -> bool {
        let is_over = self.rx_left && !self.awaits_return && (self.resent || !self.recalls);
        self.tx_left && (is_over || self.peer_closed) && !self.is_reset()
    }

    /// Whether a hand-back that began is over, done or in vain.
    pub fn is_done_leaving(&self) -> bool {
        self.has_left() || self.tx_left && self.is_reset()
    }

    /// Whether both directions ended by a reset.
    pub fn is_reset(&self) -> bool {
        self.rx_shut && self.tx_shut && self.peer_closed
    }

    /// Bytes that may be sent now as far as the peer's grant goes.
    pub fn credit(&self) -> usize {
        self.windows.credit() as usize
    }

    /// Whether `poll` reports POLLOUT: the peer's grant has room for a quarter of the smallest window, or a write would
    /// fail or be thrown away at once.
    pub fn writable(&self) -> bool {
        let roomy = self.windows.is_roomy() && !self.awaits_ring;
        // One that is leaving waits for what comes back, which goes first.
        self.tx_shut || self.peer_closed || roomy && !self.tx_left
    }

    /// Whether a close has nothing to wait for: the peer has room for all that was sent and for more, or nobody wants it.
    pub fn is_taken(&self) -> bool {
        let over = self.peer_closed || self.tx_left || !self.rx.is_empty();
        over || self.windows.is_roomy() && !self.awaits_ring
    }

    /// `n` bytes went to the link.
    pub fn sent(&mut self, n: usize) {
        self.calls += 1;
        self.windows.sent(n);
    }

    /// The application took `n` bytes. Returns a new grant when it is time to send one.
    pub fn took(&mut self, n: usize) -> Option<u64> {
        self.calls += 1;
        let grant = self.windows.took(n);
        // After the end of the stream, too: a peer whose process ends must know that all was read.
        grant.filter(|_| !self.peer_closed && !self.rx_left)
    }

    /// Whether the application has read or written.
    pub fn was_used(&self) -> bool {
        self.calls > 0
    }

    /// Whether so little came and went that it was not worth a place on a link.
    pub fn was_short(&self) -> bool {
        self.calls < WORTH_CALLS && self.windows.moved() < WORTH_BYTES
    }

    /// The peer is to know exactly what was read: if this process dies, a child of it may go on. Returns a grant if it does
    /// not know yet.
    pub fn tell_exactly(&mut self) -> Option<u64> {
        let over = self.peer_closed || self.rx_left;
        if over { None } else { self.windows.exact() }
    }

    /// The peer's sender waits for a window: a grant of a larger one, if there can be one.
    pub fn on_want(&mut self) -> Option<u64> {
        let over = self.rx_fin || self.rx_shut || self.peer_closed || self.rx_left;
        if over { None } else { self.windows.widen() }
    }

    /// Whether a read would not block: `enough` bytes (SO_RCVLOWAT), the end, or an error.
    pub fn readable(&self, enough: usize) -> bool {
        self.rx.len() >= enough.max(1) || self.rx_fin || self.rx_shut || self.error.is_some()
    }

    /// The `poll` bits, as the kernel's tcp_poll() would set them. Whoever is told that there is no
    /// room to send will hear of some.
    pub fn poll_mask(&mut self, enough: usize) -> u32 {
        let mut mask = 0;
        if self.is_reset() || (self.rx_fin || self.rx_shut) && self.tx_shut {
            mask |= libc::EPOLLHUP;
        }
        if self.rx_fin || self.rx_shut {
            mask |= libc::EPOLLIN | libc::EPOLLRDNORM | libc::EPOLLRDHUP;
        }
        if self.rx.len() >= enough.max(1) {
            mask |= libc::EPOLLIN | libc::EPOLLRDNORM;
        }
        if self.writable() {
            mask |= libc::EPOLLOUT | libc::EPOLLWRNORM;
        } else {
            self.tx_blocked = true;
        }
        if self.error.is_some() {
            mask |= libc::EPOLLERR;
        }
        mask as u32
    }
}
