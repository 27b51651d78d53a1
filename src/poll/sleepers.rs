//! How many threads sleep at a place, and whether it was rung: of many who have news, one rings.
//!
//! The same hand-shake as in [`fabric::ring`](crate::fabric::ring), within the process: *make the
//! news visible, then look whether somebody sleeps* against *say that you sleep, then look for news*.

use crate::sync::{AtomicBool, AtomicU32, Ordering, fence};

/// See the module.
#[derive(Debug, Default)]
pub struct Sleepers {
    count: AtomicU32,
    /// Somebody rings, or has rung, since a thread last said that it sleeps.
    rung: AtomicBool,
}

impl Sleepers {
    /// A thread is about to sleep. It looks for news once more afterwards.
    pub fn begin(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.rung.store(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// A thread is awake again. True if others still sleep; whatever the bell told was told to one of
    /// them only, so the caller passes it on.
    pub fn end(&self) -> bool {
        let others = self.count.fetch_sub(1, Ordering::SeqCst) > 1;
        if others {
            self.rung.store(false, Ordering::SeqCst);
        }
        others
    }

    /// Whether the caller is the one to ring: somebody sleeps and nobody rang yet. The caller has
    /// issued a full barrier since it made the news visible.
    pub fn claim(&self) -> bool {
        self.count.load(Ordering::SeqCst) != 0 && !self.rung.swap(true, Ordering::SeqCst)
    }
}
