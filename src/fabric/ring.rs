//! The shared words of one direction of a link: cursors, arming, and where readers wait.
//!
//! All of it is written by one side only, but for `armed` and `space_wanted`, which one side sets
//! and the other swaps to zero. Every hand-shake is of one shape: *publish, then look whether the
//! other sleeps* against *say that you sleep, then look whether there is something*; both with
//! sequentially consistent order, so that at least one sees the other. `tests/loom.rs` checks it.

use super::{MAX_CONNS, SLOT_NONE, SLOTS};
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

/// A value on cache lines of its own (two: adjacent lines are fetched in pairs).
#[repr(C, align(128))]
#[derive(Default, Debug)]
pub struct Line<T>(pub T);

/// Producer and consumer cursor of a ring.
#[repr(C)]
#[derive(Default, Debug)]
pub struct Cursors {
    /// Bytes before this are written; by the producer.
    produced: Line<AtomicU64>,
    /// Bytes before this may be overwritten; by the consumer.
    freed: Line<AtomicU64>,
    /// The producer wants to hear of space.
    space_wanted: Line<AtomicU32>,
}

impl Cursors {
    /// Producer: makes the bytes before `to` visible. A full barrier: what the producer reads next
    /// (whether the consumer sleeps) is not older than this.
    #[inline]
    pub fn publish(&self, to: u64) {
        self.produced.0.store(to, Ordering::SeqCst);
        fence_for_loom();
    }

    /// Consumer: how far bytes are visible.
    #[inline]
    pub fn produced(&self) -> u64 {
        self.produced.0.load(Ordering::Acquire)
    }

    /// Consumer: gives the bytes before `to` back; true if the producer asked to be told.
    #[inline]
    pub fn release(&self, to: u64) -> bool {
        self.freed.0.store(to, Ordering::SeqCst);
        fence_for_loom();
        self.space_wanted.0.load(Ordering::Relaxed) != 0
            && self.space_wanted.0.swap(0, Ordering::SeqCst) != 0
    }

    /// Producer: how far space was given back.
    #[inline]
    pub fn freed(&self) -> u64 {
        self.freed.0.load(Ordering::Acquire)
    }

    /// Producer: asks to be told of space; looks at `freed` afterwards.
    pub fn want_space(&self) {
        self.space_wanted.0.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

/// On hardware a sequentially consistent store orders later loads as well (`xchg` on x86,
/// `stlr`/`ldar` pairs on Arm need it spelled out); loom models the language's weaker rule.
#[inline]
fn fence_for_loom() {
    #[cfg(any(loom, not(target_arch = "x86_64")))]
    fence(Ordering::SeqCst);
    #[cfg(all(not(loom), target_arch = "x86_64"))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// Which of the consumer's waiters sleep.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct Armed([AtomicU32; SLOTS]);

impl Default for Armed {
    fn default() -> Self {
        Armed(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl Armed {
    /// Consumer: `slot` is about to sleep. It looks for work once more afterwards.
    pub fn arm(&self, slot: u8) {
        // As expensive as a store of this order, and loom orders it among the swaps of `claim`.
        self.0[slot as usize % SLOTS].swap(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Consumer: `slot` is awake.
    pub fn disarm(&self, slot: u8) {
        self.0[slot as usize % SLOTS].store(0, Ordering::Relaxed);
    }

    /// Producer, after publishing: whether `slot` sleeps.
    #[inline]
    pub fn is_armed(&self, slot: u8) -> bool {
        self.0[slot as usize % SLOTS].load(Ordering::Relaxed) != 0
    }

    /// Producer: whether it is the one to wake `slot`. It must then wake that very waiter, which
    /// arms anew; nobody else does that for it.
    #[inline]
    pub fn claim(&self, slot: u8) -> bool {
        self.is_armed(slot) && self.0[slot as usize % SLOTS].swap(0, Ordering::SeqCst) != 0
    }
}

/// The shared header of one direction.
#[repr(C)]
pub struct Direction {
    /// Producer and consumer cursors.
    pub cursors: Cursors,
    /// Sleeping waiters of the consumer.
    pub armed: Armed,
    slot_of: [AtomicU8; MAX_CONNS],
}

/// Shared memory comes zeroed; a model's does not.
#[cfg(loom)]
impl Default for Direction {
    fn default() -> Self {
        Direction {
            cursors: Cursors::default(),
            armed: Armed::default(),
            slot_of: std::array::from_fn(|_| AtomicU8::new(0)),
        }
    }
}

impl Direction {
    /// Producer, after publishing a record of `conn`: the slot whose waiter sleeps for it. To be
    /// claimed ([`Armed::claim`]) by whoever rings it.
    #[inline]
    pub fn sleeper(&self, conn: u32) -> Option<u8> {
        let slot = self.slot_of[conn as usize % MAX_CONNS].load(Ordering::Relaxed);
        // 0 is the state of fresh shared memory, and stands for nobody.
        let slot = slot.wrapping_sub(1);
        (slot != SLOT_NONE && self.armed.is_armed(slot)).then_some(slot)
    }

    /// Consumer: where the reader of `conn` waits. Takes effect for records published after the
    /// caller's next look at the ring.
    pub fn set_slot(&self, conn: u32, slot: u8) {
        self.slot_of[conn as usize % MAX_CONNS].store(slot.wrapping_add(1), Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}
