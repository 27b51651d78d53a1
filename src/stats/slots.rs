//! Which slots of a table are taken: a bitmap, claimed and released without locks.
//!
//! It lives in the process's own memory, not in the page, so nothing that another process writes to
//! the page can mislead it; and the lowest free slot is always taken, so few of the page's slots
//! are ever touched.

use core::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};

/// A bitmap of `WORDS * 64` slots.
pub(super) struct Slots<const WORDS: usize> {
    taken: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Slots<WORDS> {
    /// All slots free.
    pub(super) const fn new() -> Self {
        Self {
            taken: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    /// Takes a free slot, the lowest unless another thread is faster. `None` if all are taken.
    pub(super) fn claim(&self) -> Option<usize> {
        for (index, word) in self.taken.iter().enumerate() {
            let mut seen = word.load(Acquire);
            while seen != u64::MAX {
                let bit = seen.trailing_ones();
                match word.compare_exchange_weak(seen, seen | 1 << bit, AcqRel, Acquire) {
                    Ok(_) => return Some(index * 64 + bit as usize),
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    /// Gives back a slot that the caller had claimed. A number out of range is ignored.
    pub(super) fn release(&self, slot: usize) {
        if let Some(word) = self.taken.get(slot / 64) {
            word.fetch_and(!(1 << (slot % 64)), Release);
        }
    }

    /// Frees all slots. Only for a process with one thread (a fork's child).
    pub(super) fn reset(&self) {
        self.taken.iter().for_each(|word| word.store(0, Release));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn lowest_first_until_full() {
        let slots = Slots::<2>::new();
        for expected in 0..128 {
            assert_eq!(slots.claim(), Some(expected));
        }
        assert_eq!(slots.claim(), None);
        slots.release(100);
        slots.release(7);
        slots.release(1000);
        assert_eq!(
            (slots.claim(), slots.claim(), slots.claim()),
            (Some(7), Some(100), None)
        );
        slots.reset();
        assert_eq!(slots.claim(), Some(0));
    }

    #[test]
    fn no_slot_is_ever_held_twice() {
        let slots = Slots::<1>::new();
        let holders = [const { AtomicU32::new(0) }; 64];
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut held = Vec::new();
                    for step in 0..20_000_u32 {
                        if step % 3 != 2 {
                            held.extend(slots.claim().inspect(|slot| {
                                assert_eq!(holders[*slot].fetch_add(1, AcqRel), 0);
                            }));
                        } else if let Some(slot) = held.pop() {
                            holders[slot].fetch_sub(1, AcqRel);
                            slots.release(slot);
                        }
                    }
                });
            }
        });
    }
}
