//! A fabric makes links: it moves a ring's bytes to the peer and tells it about them.
//!
//! A link is generic over [`Fabric`]. The link writes records into [`Fabric::tx`] memory (the peer's
//! ring itself, or a registered mirror of it), then calls [`Fabric::publish`]; the receiving end
//! sees [`Fabric::produced`] advance, reads the records in [`Fabric::rx`] memory and gives space back
//! with [`Fabric::release`].
//!
//! Waiting: each sleeping place of a process (an epoll set, a blocked thread) has a small number,
//! its *slot*. The receiver says in [`Fabric::set_slot`] where each connection's reader waits, and
//! arms that slot before it sleeps. The sender rings only an armed slot, so a busy peer costs no
//! system call.

pub mod network;
pub mod plain;
pub mod rdma;
pub mod remote;
pub mod ring;
pub mod shm;
pub mod stream;

use std::sync::Arc;

use crate::link::Link;
use crate::link::source::Source;

/// The slot of the I/O thread: it takes in the records and wakes whoever waits in the process.
pub const SLOT_IO: u8 = 0;
/// Nobody waits for this connection.
pub const SLOT_NONE: u8 = u8::MAX;
/// Number of slots of a process; waiters beyond them use [`SLOT_IO`].
pub const SLOTS: usize = if cfg!(loom) { 3 } else { 64 };
/// Connections that one link can carry.
pub const MAX_CONNS: usize = if cfg!(loom) { 2 } else { 1 << 16 };

/// Which fabric a link is made of. The numbers are those of the control protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FabricKind {
    /// Memory of one process that talks to itself.
    Loop = 1,
    /// Shared memory between two processes of one host.
    Shm = 2,
    /// RDMA.
    Verbs = 3,
    /// A byte stream of the kernel's.
    Tcp = 4,
}

impl FabricKind {
    /// Its name in the stats page.
    pub fn stats(self) -> crate::stats::Fabric {
        match self {
            FabricKind::Loop => crate::stats::Fabric::Loop,
            FabricKind::Shm => crate::stats::Fabric::Shm,
            FabricKind::Verbs => crate::stats::Fabric::Verbs,
            FabricKind::Tcp => crate::stats::Fabric::Tcp,
        }
    }

    /// Its name in the configuration.
    pub fn name(self) -> crate::config::FabricName {
        match self {
            FabricKind::Loop => crate::config::FabricName::Loop,
            FabricKind::Shm => crate::config::FabricName::Shm,
            FabricKind::Verbs => crate::config::FabricName::Verbs,
            FabricKind::Tcp => crate::config::FabricName::Tcp,
        }
    }

    /// How connections over it are counted.
    pub fn mode(self) -> crate::stats::Mode {
        match self {
            FabricKind::Loop => crate::stats::Mode::Loop,
            FabricKind::Shm => crate::stats::Mode::Shm,
            FabricKind::Verbs | FabricKind::Tcp => crate::stats::Mode::Rdma,
        }
    }

    /// The kind with this protocol number.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(FabricKind::Loop),
            2 => Some(FabricKind::Shm),
            3 => Some(FabricKind::Verbs),
            4 => Some(FabricKind::Tcp),
            _ => None,
        }
    }
}

/// One ring's memory as this process sees it: mapped twice in a row, so that a record that crosses
/// the end lies in one piece.
#[derive(Clone, Copy, Debug)]
pub struct RingMemory {
    /// First byte; `2 * size` bytes are mapped from here.
    pub base: *mut u8,
    /// Size in bytes, a power of two.
    pub size: usize,
}

impl RingMemory {
    /// The byte that `cursor` stands for.
    #[inline]
    pub fn at(&self, cursor: u64) -> *mut u8 {
        // The mask keeps the result inside the first mapping.
        self.base.wrapping_add(cursor as usize & (self.size - 1))
    }
}

/// One end of a link, below records.
///
/// Cursors count bytes from the link's start and never wrap.
pub trait Fabric: Send + Sync {
    /// What it is made of.
    fn kind(&self) -> FabricKind;
    /// Whom a waiting thread has to ask for news of `link`, which this is the fabric of.
    fn source(&self, link: &Arc<Link>) -> Source {
        Source::Link(link.clone())
    }

    /// Where to write outgoing records.
    fn tx(&self) -> RingMemory;
    /// Where the incoming byte at `cursor` lies, and the cursor at which that ring ends, if it does.
    fn rx(&self, cursor: u64) -> (RingMemory, Option<u64>);

    /// The outgoing bytes before `to` may go to the peer: at once, or with others that follow soon.
    fn publish(&self, to: u64);
    /// How far the peer has given outgoing ring space back.
    fn freed(&self) -> u64;
    /// The ring is full: if there is a larger one, the bytes from `written` on are written there.
    fn grow(&self, _written: u64) -> Option<RingMemory> {
        None
    }
    /// Asks the peer to wake our I/O thread when it next gives space back, and has its I/O thread
    /// take in what fills the ring. The caller looks at [`freed`](Self::freed) once more afterwards.
    fn want_space(&self) {}

    /// How far incoming bytes are visible. Not to be trusted to be in range.
    fn produced(&self) -> u64;
    /// Gives the incoming bytes before `to` back to the peer, waking it if it asked.
    fn release(&self, to: u64);
    /// The link is over: the peer learns of it as it learns of our end.
    fn hang_up(&self);

    // Waking by slots, for peers that share memory; where a message wakes whoever waits for the network
    // there is nothing to do.

    /// Wakes the peer's waiter of `conn` if it sleeps. Called after `publish`.
    fn notify(&self, _conn: u32) {}
    /// Has the peer's I/O thread take in what was published, in case nobody waits there.
    fn notify_io(&self) {}
    /// Where the reader of `conn` waits.
    fn set_slot(&self, _conn: u32, _slot: u8) {}
    /// The waiter of `slot` is about to sleep: it arms, looks once more, and sleeps.
    fn arm(&self, _slot: u8) {}
    /// The waiter of `slot` is awake.
    fn disarm(&self, _slot: u8) {}
    /// Offers the descriptor by which the peer can wake `slot` (an eventfd).
    fn offer_bell(&self, _slot: u8, _bell: rustix::fd::BorrowedFd<'_>) {}
    /// The peer offered one.
    fn install_bell(&self, _slot: u8, _bell: crate::real::sys::InternalFd) {}
}
