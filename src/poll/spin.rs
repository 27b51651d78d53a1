//! How long to look before sleeping.
//!
//! Spinning saves two context switches when the answer comes soon, and steals a core from whoever
//! would give the answer when there are fewer cores than busy threads. Whether it pays cannot be
//! told from how short the sleeps are (on one core the answer comes only *because* we sleep), so it
//! is tried out: a waiter spins as long as a good part of its spins end with an answer. When they do
//! not, or when it finds that it was preempted meanwhile, it goes to sleep at once for a number of
//! waits that doubles each time, and then tries again.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::real::sys::now_ns;
use crate::stats;

/// Longer than this between two looks at the clock means that another thread had the core.
const PREEMPTED_NS: u64 = 20_000;

/// Looks at the link between two looks at the clock.
const LOOKS: u32 = 16;

/// Spins after which the score is looked at.
const TRIAL: u32 = 8;

/// Of a trial, so many spins must end with an answer.
const ENOUGH: u32 = 3;

/// Waits without spinning after a failed trial: the first time, and at most.
const REST: (u32, u32) = (32, 2048);

/// The least spin budget.
const FLOOR_NS: u32 = 4_000;

/// The spin policy's memory of one waiter. Several threads may share it: what they overwrite of each
/// other is but statistics.
#[derive(Debug, Default)]
pub struct Spin {
    /// Waits left in which it does not spin.
    rest: AtomicU32,
    /// How long the next rest will be.
    next_rest: AtomicU32,
    tries: AtomicU32,
    wins: AtomicU32,
    /// Running mean of the time that an answer took.
    answer_ns: AtomicU32,
}

impl Spin {
    /// Looks at `ready` until it is true (returns true) or the budget is spent. `max_ns` is the
    /// configured limit; 0 means never.
    pub fn until(&self, max_ns: u32, ready: impl Fn() -> bool) -> bool {
        if max_ns == 0 {
            return false;
        }
        let rest = self.rest.load(Ordering::Relaxed);
        if rest > 0 {
            self.rest.store(rest - 1, Ordering::Relaxed);
            return false;
        }
        let answer = self.answer_ns.load(Ordering::Relaxed);
        let budget = match answer {
            0 => max_ns,
            answer => answer.saturating_mul(8).clamp(FLOOR_NS.min(max_ns), max_ns),
        };
        let start = now_ns();
        let mut last = start;
        loop {
            for _ in 0..LOOKS {
                if ready() {
                    self.won((last - start) as u32, answer);
                    return true;
                }
                core::hint::spin_loop();
            }
            let now = now_ns();
            if now - last > PREEMPTED_NS {
                self.stop();
                break;
            }
            if now - start > u64::from(budget) {
                self.lost();
                break;
            }
            last = now;
        }
        stats::add(&stats::global().spins_lost, 1);
        false
    }

    fn won(&self, took: u32, mean: u32) {
        // At least one: zero stands for no experience.
        self.answer_ns
            .store((mean - mean / 8 + took / 8).max(1), Ordering::Relaxed);
        self.wins
            .store(self.wins.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.tried();
        stats::add(&stats::global().spins_won, 1);
    }

    fn lost(&self) {
        // The mean of the answers may have been too hopeful a budget.
        let mean = self.answer_ns.load(Ordering::Relaxed);
        self.answer_ns
            .store(mean.saturating_mul(2), Ordering::Relaxed);
        self.tried();
    }

    fn tried(&self) {
        let tries = self.tries.load(Ordering::Relaxed) + 1;
        if tries < TRIAL {
            self.tries.store(tries, Ordering::Relaxed);
        } else if self.wins.load(Ordering::Relaxed) < ENOUGH {
            self.stop();
        } else {
            self.next_rest.store(0, Ordering::Relaxed);
            self.begin();
        }
    }

    fn begin(&self) {
        self.tries.store(0, Ordering::Relaxed);
        self.wins.store(0, Ordering::Relaxed);
    }

    /// Spinning does not pay at present.
    fn stop(&self) {
        let rest = self.next_rest.load(Ordering::Relaxed).clamp(REST.0, REST.1);
        self.rest.store(rest, Ordering::Relaxed);
        self.next_rest.store(rest * 2, Ordering::Relaxed);
        self.answer_ns.store(0, Ordering::Relaxed);
        self.begin();
    }
}
