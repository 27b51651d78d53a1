//! What moves ring bytes and messages to the other end of a link: a queue pair, or a byte stream.

use std::any::Any;
use std::sync::Arc;

use super::message::{Message, Progress, RemoteRing};
use crate::fabric::{FabricKind, RingMemory};
use crate::real::sys::Errno;

/// Memory for one direction of a link, as its owner sees it: the receiver's ring, or the sender's mirror
/// of it.
pub struct Ring {
    /// Mapped twice in a row.
    pub memory: RingMemory,
    /// How the other end names it.
    pub remote: RemoteRing,
    /// Which source it comes from ([`RingSource::id`]).
    pub source: usize,
    /// What the source knows of it. Gives the memory back when dropped.
    pub own: Box<dyn Any + Send + Sync>,
}

impl Ring {
    /// Whether it has that size and comes from that source.
    pub fn is_for(&self, size: usize, source: &dyn RingSource) -> bool {
        self.memory.size == size && self.source == source.id()
    }
}

// SAFETY: the memory is plain mapped memory, which lives as long as `own`; who reads and writes it is
// ordered by the link's cursors.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

/// Where rings come from: a device's registered memory, or plain memory.
pub trait RingSource: Send + Sync {
    /// A ring of just `size` bytes, a power of two.
    ///
    /// # Errors
    /// `ENOMEM` and what else the kernel says.
    fn ring(&self, size: usize) -> Result<Ring, Errno>;
    /// Tells sources apart; 0 is plain memory.
    fn id(&self) -> usize;
}

/// Ring bytes in one piece at both ends.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    /// The mirror that they lie in. A carrier that has not sent them when it returns keeps it until it has: the
    /// link may give it up at any time, for it believes the peer, which may say that it has them already.
    pub mirror: &'a Arc<Ring>,
    /// Where in it they begin.
    pub offset: usize,
    /// Where they go.
    pub to: u64,
    /// The key to that.
    pub rkey: u32,
    /// How many there are.
    pub len: u32,
}

/// The most pieces of a batch: the end of a mirror and the end of the peer's ring may each cut it in two.
pub const MOST_PIECES: usize = 4;

/// What is to go out at once.
pub struct Batch<'a> {
    /// Ring bytes, in order; the empty places come last.
    pub pieces: &'a [Option<Piece<'a>>],
    /// What the other end is told with them.
    pub progress: Progress,
}

/// What became of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It is on its way.
    Done,
    /// Not now: the carrier says ([`Remote::flush`](super::Remote::flush)) when there is room.
    Full,
    /// The carrier is broken.
    Failed,
}

/// See the module. Used under the lock of the link's sending half.
pub trait Carrier: Send {
    /// What it is made of.
    fn kind(&self) -> FabricKind;
    /// The number of its queue pair and the index of the device's slot in the stats page; 0 and `None` if it has none.
    fn queue_pair(&self) -> (u32, Option<usize>) {
        (0, None)
    }
    /// The most ring bytes of one batch (at least [`MOST_PAYLOAD`](super::MOST_PAYLOAD) and a header), and the
    /// most pieces (at least three: the ends of two rings may cut a record).
    fn limits(&self) -> (u64, usize);
    /// Sends ring bytes and news. On `Done`, `batch.progress` is what the peer will know: no more than it
    /// was, perhaps less of what was freed.
    fn post(&mut self, batch: &mut Batch<'_>) -> Posted;
    /// Sends a message.
    fn tell(&mut self, message: &Message) -> Posted;
    /// Whether the other end has taken in all that was sent, so that more need not wait for a batch.
    fn is_idle(&self) -> bool;
    /// Closes it; nothing more comes of it. What was posted may still be on its way.
    fn close(&mut self);
    /// Where rings that it can move bytes from and to come from.
    fn rings(&self) -> Arc<dyn RingSource>;
}
