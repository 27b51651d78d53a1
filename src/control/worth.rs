//! Whether connections to a destination are worth a place on a link.
//!
//! To join one costs more than a connect of the kernel's alone; a few messages do not earn that back. Where one short
//! connection follows the other (a request each, or a server that gives each to a child process), they go over TCP for a
//! while. Some are tried again after that: one that lives ends it.

/// Within this time so many short ones must have come: where they come slowly the cost is not felt.
const WITHIN_NS: u64 = 1_000_000_000;
/// So many of those that are tried again must be short.
const TRIED_AGAIN: u32 = 2;
/// So many short ones does one count for that was handed back: that costs as much again.
const HANDED_BACK: u32 = 4;
/// Shortest and longest time to stay with TCP, doubled each time: a connection that will live long may be among them.
const STAY_NS: (u64, u64) = (250_000_000, 4_000_000_000);

/// What a connection was like that has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It was worth its place.
    Long,
    /// A few messages.
    Short,
    /// A few messages, after which it went back to the kernel.
    HandedBack,
}

/// What the connections to one destination were like.
#[derive(Clone, Copy, Default)]
pub struct Worth {
    /// Short ones in a row, and when the first of them ended.
    short: u32,
    since_ns: u64,
    /// Until then they go over TCP, and for how long that is.
    until_ns: u64,
    stay_ns: u64,
}

impl Worth {
    /// Whether a connect at `now` is better left to the kernel.
    pub fn is_little(&self, now: u64) -> bool {
        now < self.until_ns
    }

    /// A connection ended at `now` that was like this; after `limit` short ones there is a pause. 0: never.
    pub fn ended(&mut self, life: Life, limit: u32, now: u64) {
        if life == Life::Long || limit == 0 {
            *self = Worth::default();
            return;
        }
        // Of those that were begun together each would count.
        if self.is_little(now) {
            return;
        }
        if self.short == 0 || now - self.since_ns > WITHIN_NS {
            (self.short, self.since_ns) = (0, now);
        }
        self.short += if life == Life::Short { 1 } else { HANDED_BACK };
        let enough = match self.stay_ns {
            0 => limit,
            _ => limit.min(TRIED_AGAIN),
        };
        if self.short >= enough {
            self.short = 0;
            self.stay_ns = (2 * self.stay_ns).clamp(STAY_NS.0, STAY_NS.1);
            self.until_ns = now + self.stay_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u32 = 8;
    const SECOND: u64 = 1_000_000_000;

    /// So many short ones, a millisecond apart; when the last one ended.
    fn shorts(worth: &mut Worth, n: u32, from: u64) -> u64 {
        (0..n).fold(from, |now, _| {
            worth.ended(Life::Short, LIMIT, now + 1_000_000);
            now + 1_000_000
        })
    }

    #[test]
    fn short_ones_in_a_row_go_over_tcp_for_longer_and_longer() {
        let mut worth = Worth::default();
        let mut now = shorts(&mut worth, LIMIT - 1, SECOND);
        assert!(!worth.is_little(now));
        now = shorts(&mut worth, 1, now);
        let mut stay = STAY_NS.0;
        for _ in 0..8 {
            assert!(worth.is_little(now + stay - 1));
            assert!(!worth.is_little(now + stay));
            now = shorts(&mut worth, TRIED_AGAIN, now + stay);
            stay = (2 * stay).min(STAY_NS.1);
        }
    }

    #[test]
    fn one_that_was_handed_back_counts_for_several() {
        let mut worth = Worth::default();
        for now in 0..u64::from(LIMIT / HANDED_BACK) {
            assert!(!worth.is_little(SECOND + now));
            worth.ended(Life::HandedBack, LIMIT, SECOND + now);
        }
        assert!(worth.is_little(SECOND + u64::from(LIMIT)));
    }

    #[test]
    fn one_that_lives_ends_it() {
        let mut worth = Worth::default();
        let now = shorts(&mut worth, LIMIT, SECOND);
        assert!(worth.is_little(now));
        worth.ended(Life::Long, LIMIT, now);
        assert!(!worth.is_little(now));
        let now = shorts(&mut worth, LIMIT - 1, now);
        assert!(!worth.is_little(now));
    }

    #[test]
    fn slow_ones_do_not_count_nor_where_it_is_switched_off() {
        let mut worth = Worth::default();
        for second in 0..100 {
            worth.ended(Life::Short, LIMIT, 2 * second * SECOND);
            assert!(!worth.is_little(2 * second * SECOND));
        }
        for now in 0..100 {
            worth.ended(Life::Short, 0, now);
            assert!(!worth.is_little(now));
        }
    }
}
