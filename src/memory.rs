//! The library's own memory: the C library's `malloc`, and a reserve for when that has none left.
//!
//! Where Rust finds no memory it ends the process, and that is the application's. So what little the library needs to let
//! connections go on, or go over to the kernel, comes from the reserve then, and nothing new is begun until all of it has
//! been given back ([`is_short`]). The reserve is part of the library's zeroed data: pages of it that were never needed
//! cost nothing. Like `malloc` itself it serves any thread at any time, also in a child that was forked meanwhile: it has
//! no lock that somebody could have had.

#[cfg(not(loom))]
use core::alloc::{GlobalAlloc, Layout};
#[cfg(not(loom))]
use core::cell::UnsafeCell;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;
#[cfg(not(loom))]
use std::alloc::System;

use crate::sync::{AtomicU64, Ordering};

/// Bytes are given out in pieces of so many.
const PIECE: usize = 256;
/// Pieces that one word has a mark for.
const BITS: usize = u64::BITS as usize;
/// Words with marks.
const WORDS: usize = 256;
/// Size of the reserve in bytes: 4 MiB, the widest window of a connection.
const SIZE: usize = PIECE * BITS * WORDS;

/// Which pieces are taken, a bit for each.
#[derive(Debug)]
pub struct Marks<const WORDS: usize> {
    words: [AtomicU64; WORDS],
}

/// The part of a run of pieces that lies in one word: its index, and the bits.
fn parts(start: usize, count: usize) -> impl DoubleEndedIterator<Item = (usize, u64)> {
    let end = start + count;
    (start / BITS..end.div_ceil(BITS)).map(move |index| {
        let first = start.max(index * BITS) - index * BITS;
        let last = end.min((index + 1) * BITS) - index * BITS;
        (index, (u64::MAX >> (BITS - (last - first))) << first)
    })
}

impl<const WORDS: usize> Marks<WORDS> {
    /// Nothing is taken.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Marks {
            words: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    /// Nothing is taken.
    #[cfg(loom)]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Marks {
            words: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Takes `count` pieces in a row, one at least: the first one's number.
    pub fn take(&self, count: usize) -> Option<usize> {
        let mut start = 0;
        while start + count <= WORDS * BITS {
            match self.claim(start, count) {
                Ok(()) => return Some(start),
                Err(next) => start = next,
            }
        }
        None
    }

    /// Gives back what was taken.
    pub fn give(&self, start: usize, count: usize) {
        for (index, bits) in parts(start, count) {
            self.words[index].fetch_and(!bits, Ordering::Release);
        }
    }

    /// Takes just these; or tells from where on to try next.
    fn claim(&self, start: usize, count: usize) -> Result<(), usize> {
        let behind = |index: usize, taken: u64| (index + 1) * BITS - taken.leading_zeros() as usize;
        for (index, bits) in parts(start, count).rev() {
            let taken = self.words[index].load(Ordering::Relaxed) & bits;
            if taken != 0 {
                return Err(behind(index, taken));
            }
        }
        for (index, bits) in parts(start, count) {
            let before = self.words[index].fetch_or(bits, Ordering::Acquire);
            let taken = before & bits;
            if taken != 0 {
                // Somebody was faster here. What is ours of this word, and the words before it, go back.
                self.words[index].fetch_and(!(bits & !before), Ordering::Release);
                self.give(start, (index * BITS).saturating_sub(start));
                return Err(behind(index, taken));
            }
        }
        Ok(())
    }
}

#[cfg(not(loom))]
impl<const WORDS: usize> Default for Marks<WORDS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(not(loom))]
#[repr(C, align(4096))]
struct Bytes(UnsafeCell<[u8; SIZE]>);

// SAFETY: who has taken a piece is alone with it; `Marks` sees to that.
#[cfg(not(loom))]
unsafe impl Sync for Bytes {}

#[cfg(not(loom))]
static MARKS: Marks<WORDS> = Marks::new();
#[cfg(not(loom))]
#[unsafe(link_section = ".bss.netacc_tables")]
static BYTES: Bytes = Bytes(UnsafeCell::new([0; SIZE]));

/// Pieces that are taken, and how many of them a parent has taken, for nobody gives these back.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static INHERITED: AtomicUsize = AtomicUsize::new(0);

/// Whether memory has run out, and what was taken from the reserve is not given back yet: no time to begin anything that
/// the kernel can do.
#[inline]
pub fn is_short() -> bool {
    TAKEN.load(Relaxed) > INHERITED.load(Relaxed)
}

/// Whether half of the reserve is gone, too.
#[inline]
pub fn is_scarce() -> bool {
    TAKEN.load(Relaxed).saturating_sub(INHERITED.load(Relaxed)) > SIZE / PIECE / 2
}

/// For a forked child: it frees nothing of its parent.
pub fn reset_after_fork() {
    if is_short() {
        INHERITED.store(TAKEN.load(Relaxed), Relaxed);
    }
}

/// The allocator of the preload library.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct Allocator;

#[cfg(not(loom))]
impl Allocator {
    fn count(size: usize) -> usize {
        size.div_ceil(PIECE).max(1)
    }

    /// From the reserve; null if it has not so much in one piece.
    #[cold]
    fn from_reserve(layout: Layout) -> *mut u8 {
        if layout.align() > PIECE || layout.size() > SIZE {
            return core::ptr::null_mut();
        }
        let count = Self::count(layout.size());
        match MARKS.take(count) {
            Some(start) => {
                TAKEN.fetch_add(count, Relaxed);
                BYTES.0.get().cast::<u8>().wrapping_add(start * PIECE)
            }
            None => core::ptr::null_mut(),
        }
    }

    /// How far from the beginning of the reserve this lies, if it does in it.
    #[inline]
    fn place(at: *mut u8) -> Option<usize> {
        let offset = at.addr().wrapping_sub(BYTES.0.get().addr());
        (offset < SIZE).then_some(offset)
    }
}

// SAFETY: what comes from `malloc` goes back there; what comes from the reserve is nobody else's until it is given back,
// is as long as asked for and aligned to a piece, at least as strictly as asked for.
#[cfg(not(loom))]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        let at = unsafe { System.alloc(layout) };
        match at.is_null() {
            false => at,
            true => Self::from_reserve(layout),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let at = unsafe { System.alloc_zeroed(layout) };
        if !at.is_null() {
            return at;
        }
        let at = Self::from_reserve(layout);
        if !at.is_null() {
            // SAFETY: so many bytes are ours; others may have used them before.
            unsafe { at.write_bytes(0, layout.size()) };
        }
        at
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        match Self::place(at) {
            // SAFETY: not from the reserve, so from `malloc`.
            None => unsafe { System.dealloc(at, layout) },
            Some(offset) => {
                let count = Self::count(layout.size());
                MARKS.give(offset / PIECE, count);
                TAKEN.fetch_sub(count, Relaxed);
            }
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let place = Self::place(at);
        if place.is_none() {
            // SAFETY: as in `dealloc`.
            let moved = unsafe { System.realloc(at, layout, size) };
            if !moved.is_null() {
                return moved;
            }
        } else if Self::count(size) == Self::count(layout.size()) {
            return at;
        }
        // SAFETY: the caller keeps to the rules for the size; the alignment is that of a layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let moved = match place {
            None => Self::from_reserve(wanted),
            // SAFETY: of a size above zero, by the caller's contract.
            Some(_) => unsafe { self.alloc(wanted) },
        };
        if !moved.is_null() {
            // SAFETY: two allocations, at least so long; the old one is not used any more.
            unsafe {
                moved.copy_from_nonoverlapping(at, layout.size().min(size));
                self.dealloc(at, layout);
            }
        }
        moved
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn runs_of_pieces() {
        let marks = Marks::<3>::new();
        assert_eq!(marks.take(60), Some(0));
        assert_eq!(marks.take(70), Some(60), "across a word's end");
        assert_eq!(marks.take(63), None, "62 are left");
        assert_eq!(marks.take(62), Some(130));
        assert_eq!(marks.take(1), None);
        marks.give(60, 70);
        assert_eq!(marks.take(64), Some(60));
        assert_eq!(marks.take(6), Some(124));
        marks.give(0, 60);
        marks.give(60, 64);
        marks.give(124, 6);
        marks.give(130, 62);
        assert_eq!(marks.take(192), Some(0), "all of it");
    }

    #[test]
    fn what_the_reserve_gives() {
        let layout = |size| Layout::from_size_align(size, 16).unwrap();
        let at = Allocator::from_reserve(layout(1000));
        assert!(is_short());
        // SAFETY: 1000 bytes, then 1024, which are as many pieces; then more.
        unsafe {
            at.write_bytes(7, 1000);
            assert_eq!(Allocator.realloc(at, layout(1000), 1024), at);
            let moved = Allocator.realloc(at, layout(1024), 5000);
            assert!(Allocator::place(moved).is_none(), "from malloc again");
            let bytes = core::slice::from_raw_parts(moved, 1000);
            assert!(bytes.iter().all(|byte| *byte == 7));
            assert!(!is_short());
            Allocator.dealloc(moved, layout(5000));
        }
        let strict = Layout::from_size_align(64, 512).unwrap();
        assert!(Allocator::from_reserve(strict).is_null());
        assert!(Allocator::from_reserve(layout(SIZE + 1)).is_null());
    }
}
