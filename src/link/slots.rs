//! Which records of a ring are still referenced where they lie.
//!
//! Records are taken out of the ring in any order (connections are read independently) but ring
//! space goes back in order. The demultiplexer opens a slot for each record; the reader of the
//! connection marks it done, with no lock of the link; the demultiplexer later frees the ring up to
//! the oldest slot not done.

use core::sync::atomic::{AtomicU32, Ordering};

/// Slots in a list: how many records may be referenced at a time. Memory for them is touched as it is used.
pub const COUNT: u32 = 8192;

/// The done marks, shared between readers and the demultiplexer.
pub struct Slots {
    done: Box<[AtomicU32]>,
}

impl Slots {
    /// All free.
    pub fn new() -> Self {
        Slots {
            done: bytemuck::zeroed_slice_box(COUNT as usize),
        }
    }

    fn mark(&self, slot: u32) -> &AtomicU32 {
        &self.done[(slot % COUNT) as usize]
    }

    /// Reader: the record's bytes are no longer needed.
    #[inline]
    pub fn done(&self, slot: u32) {
        self.mark(slot).store(1, Ordering::Release);
    }

    fn reopen(&self, slot: u32) {
        self.mark(slot).store(0, Ordering::Relaxed);
    }

    fn is_done(&self, slot: u32) -> bool {
        self.mark(slot).load(Ordering::Acquire) != 0
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy, bytemuck::Zeroable)]
struct Open {
    end: u64,
    conn: u32,
}

/// The demultiplexer's side: the records not yet freed, oldest first.
pub struct OpenRecords {
    records: Box<[Open]>,
    first: u32,
    next: u32,
    freed: u64,
}

impl OpenRecords {
    /// None open.
    pub fn new() -> Self {
        OpenRecords {
            records: bytemuck::zeroed_slice_box(COUNT as usize),
            first: 0,
            next: 0,
            freed: 0,
        }
    }

    /// Ring bytes before this are free.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// Whether another record can be opened.
    pub fn is_full(&self) -> bool {
        self.next.wrapping_sub(self.first) == COUNT
    }

    /// Opens a slot for a record of `conn` that ends at ring cursor `end`.
    pub fn open(&mut self, slots: &Slots, conn: u32, end: u64) -> u32 {
        let slot = self.next;
        slots.reopen(slot);
        self.records[(slot % COUNT) as usize] = Open { end, conn };
        self.next = self.next.wrapping_add(1);
        slot
    }

    /// A record that nobody references ends at `end`.
    pub fn skip(&mut self, end: u64) {
        if self.first == self.next {
            self.freed = end;
        } else {
            // It goes back together with the record before it.
            let last = self.next.wrapping_sub(1);
            self.records[(last % COUNT) as usize].end = end;
        }
    }

    /// Moves past all leading slots that are done.
    pub fn reclaim(&mut self, slots: &Slots) {
        while self.first != self.next && slots.is_done(self.first) {
            self.freed = self.records[(self.first % COUNT) as usize].end;
            self.first = self.first.wrapping_add(1);
        }
    }

    /// The oldest slot and its connection.
    pub fn oldest(&self) -> Option<(u32, u32)> {
        (self.first != self.next)
            .then(|| (self.first, self.records[(self.first % COUNT) as usize].conn))
    }
}

impl Default for OpenRecords {
    fn default() -> Self {
        Self::new()
    }
}
