//! How many threads sleep at a place, and whether it was rung: of many who have news, one rings.
//!
//! The same hand-shake as in [`fabric::ring`](crate::fabric::ring), within the process: *make the
//! news visible, then look whether somebody sleeps* against *say that you sleep, then look for news*.

use crate::sync::{AtomicBool, AtomicU32, Ordering, fence};

/// See the module.
#[derive(Debug, Default)]
pub struct Sleepers {
    count: AtomicU32,
    /// Somebody rings, or has rung, since a thread last said that it sleeps. Changed by swaps only,
    /// which are as cheap as stores of this order and which loom models exactly.
    rung: AtomicBool,
}

impl Sleepers {
    /// A thread is about to sleep. It looks for news once more afterwards.
    pub fn begin(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.rung.swap(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// A thread is awake again. `disarm` undoes what makes peers ring; but if other threads still
    /// sleep here it is to `arm` for them, for whoever rang has disarmed the place. True if they do:
    /// what the bell told was told to one thread only, so the caller looks for news once more and
    /// passes them on.
    pub fn end(&self, arm: impl Fn(), disarm: impl Fn()) -> bool {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            disarm();
            fence(Ordering::SeqCst);
            // One that came just now may have armed before that.
            if !self.any() {
                return false;
            }
        }
        self.rung.swap(false, Ordering::SeqCst);
        arm();
        true
    }

    /// Whether a thread sleeps here.
    #[inline]
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Whether the caller is the one to ring: somebody sleeps and nobody rang yet. The caller has
    /// issued a full barrier since it made the news visible.
    pub fn claim(&self) -> bool {
        self.count.load(Ordering::SeqCst) != 0 && !self.rung.swap(true, Ordering::SeqCst)
    }
}
