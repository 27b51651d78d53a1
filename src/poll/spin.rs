//! How long to look before sleeping.
//!
//! Spinning saves two context switches when the answer comes soon, and steals a core from whoever
//! would give the answer when there are fewer cores than busy threads. So each waiter keeps a
//! budget that grows when spinning (or a longer spin) would have paid and shrinks when it did not,
//! and stops spinning for a while once it notices that it was preempted meanwhile.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::real::sys::now_ns;
use crate::stats;

/// Longer than this between two looks at the clock means that another thread had the core.
const PREEMPTED_NS: u64 = 20_000;

/// Sleeps without spinning after a preemption.
const PENALTY: u32 = 64;

/// Looks at the link between two looks at the clock.
const LOOKS: u32 = 16;

/// The least budget: below it nothing would ever be learnt again.
const FLOOR_NS: u32 = 1_000;

/// The spin budget of one waiter.
#[derive(Debug, Default)]
pub struct Spin {
    budget_ns: AtomicU32,
    penalty: AtomicU32,
}

impl Spin {
    /// Looks at `ready` until it is true (returns true) or the budget is spent. `max_ns` is the
    /// configured limit; 0 means never.
    pub fn until(&self, max_ns: u32, ready: impl Fn() -> bool) -> bool {
        if max_ns == 0 {
            return false;
        }
        let penalty = self.penalty.load(Ordering::Relaxed);
        if penalty > 0 {
            self.penalty.store(penalty - 1, Ordering::Relaxed);
            return false;
        }
        let budget = match self.budget_ns.load(Ordering::Relaxed) {
            0 => max_ns / 2,
            budget => budget.min(max_ns),
        };
        let start = now_ns();
        let mut last = start;
        loop {
            for _ in 0..LOOKS {
                if ready() {
                    self.budget_ns.store((budget + budget / 8).min(max_ns), Ordering::Relaxed);
                    stats::add(&stats::global().spins_won, 1);
                    return true;
                }
                core::hint::spin_loop();
            }
            let now = now_ns();
            if now - last > PREEMPTED_NS {
                self.penalty.store(PENALTY, Ordering::Relaxed);
                break;
            }
            if now - start > u64::from(budget) {
                break;
            }
            last = now;
        }
        stats::add(&stats::global().spins_lost, 1);
        self.budget_ns.store((budget - budget / 4).max(FLOOR_NS), Ordering::Relaxed);
        false
    }

    /// A sleep of `ns` has ended. If spinning on would have caught the event, spin longer next time.
    pub fn slept(&self, ns: u64, max_ns: u32) {
        if ns < u64::from(max_ns) {
            let budget = self.budget_ns.load(Ordering::Relaxed);
            self.budget_ns.store((budget + budget / 2 + FLOOR_NS).min(max_ns), Ordering::Relaxed);
        }
    }
}
