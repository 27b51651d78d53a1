//! What several processes have counted together.

use netacc::stats::reader::Snapshot;
use netacc::stats::{Mode, Reason};

use crate::view;

/// The sums.
pub struct Totals {
    /// Of how many processes.
    pub processes: usize,
    /// Each counter, by name.
    pub counters: Vec<(&'static str, u64)>,
    /// Connections that each mode carries now.
    pub now: [(Mode, u64); 4],
    /// How often each reason left a connection to kernel TCP.
    pub fallbacks: Vec<(Reason, u64)>,
}

impl Totals {
    /// Adds up what `pages` say.
    pub fn of(pages: &[&Snapshot]) -> Self {
        let sum = |of: &dyn Fn(&Snapshot) -> u64| {
            let numbers = pages.iter().copied().map(of);
            numbers.fold(0, u64::wrapping_add)
        };
        let names = pages.first().map_or(&[][..], |page| &page.counters);
        let counters = names
            .iter()
            .map(|counter| counter.name)
            .map(|name| (name, sum(&|page| page.counter(name).unwrap_or(0))));
        let modes = [Mode::Loop, Mode::Shm, Mode::Rdma, Mode::Tcp];
        let fallbacks = Reason::ALL.iter().copied();
        Self {
            processes: pages.len(),
            counters: counters.collect(),
            now: modes.map(|mode| (mode, sum(&|page| view::now(page, mode)))),
            fallbacks: fallbacks
                .map(|reason| (reason, sum(&|page| page.fallback(reason))))
                .collect(),
        }
    }
}
