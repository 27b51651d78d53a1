//! Received bytes of one connection, in order: pieces that still lie in the link's ring, and pieces
//! that were spilled to the connection's own memory because they held the ring up.

use std::collections::VecDeque;

use super::user_buf::UserBuf;
use crate::link::slots::Slots;

/// A piece of the stream.
pub enum Chunk {
    /// In the ring: `at` points to its first unread byte; the ring space stays ours until `slot` is
    /// marked done.
    Ring {
        /// First unread byte.
        at: *const u8,
        /// Unread bytes.
        len: usize,
        /// Its place in the link's list of records not yet freed.
        slot: u32,
    },
    /// In the connection's own memory.
    Heap {
        /// The bytes.
        bytes: Box<[u8]>,
        /// How many of them are read.
        read: usize,
    },
}

// SAFETY: the pointer leads into a mapping that lives as long as the link, which the connection
// that owns the chunk holds; the bytes are not written again before the slot is marked done.
unsafe impl Send for Chunk {}

impl Chunk {
    /// Unread bytes.
    pub fn len(&self) -> usize {
        match self {
            Chunk::Ring { len, .. } => *len,
            Chunk::Heap { bytes, read } => bytes.len() - read,
        }
    }

    /// Whether nothing is left unread.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Throws it away, giving ring space back.
    pub fn discard(self, slots: &Slots) {
        if let Chunk::Ring { slot, .. } = self {
            slots.done(slot);
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            // SAFETY: see `Chunk`'s Send: valid, and not written by the peer while the slot is ours
            // (a hostile peer that does so changes bytes that it sent itself, copied as they are).
            Chunk::Ring { at, len, .. } => unsafe { core::slice::from_raw_parts(*at, *len) },
            Chunk::Heap { bytes, read } => &bytes[*read..],
        }
    }

    fn advance(&mut self, n: usize) {
        match self {
            Chunk::Ring { at, len, .. } => {
                *at = at.wrapping_add(n);
                *len -= n;
            }
            Chunk::Heap { read, .. } => *read += n,
        }
    }
}

/// The chunks not yet read.
#[derive(Default)]
pub struct RxQueue {
    chunks: VecDeque<Chunk>,
    len: usize,
}

impl RxQueue {
    /// Unread bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is unread.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a piece.
    pub fn push(&mut self, chunk: Chunk) {
        self.len += chunk.len();
        self.chunks.push_back(chunk);
    }

    /// Copies up to `max` bytes to `out` (or nowhere, for MSG_TRUNC) and removes them; marks the
    /// slots of finished ring pieces done. Returns the count.
    pub fn take(&mut self, mut out: Option<&mut UserBuf>, max: usize, slots: &Slots) -> usize {
        let mut taken = 0;
        while let Some(chunk) = self.chunks.front_mut() {
            let n = chunk.len().min(max - taken);
            let n = match out.as_deref_mut() {
                Some(out) => out.fill(&chunk.data()[..n]),
                None => n,
            };
            if n == 0 {
                break;
            }
            taken += n;
            chunk.advance(n);
            if chunk.is_empty() {
                if let Chunk::Ring { slot, .. } = chunk {
                    slots.done(*slot);
                }
                self.chunks.pop_front();
            }
        }
        self.len -= taken;
        taken
    }

    /// Copies up to `max` bytes to `out` and leaves them (MSG_PEEK).
    pub fn peek(&self, out: &mut UserBuf, max: usize) -> usize {
        let mut seen = 0;
        for chunk in &self.chunks {
            let want = chunk.len().min(max - seen);
            let n = out.fill(&chunk.data()[..want]);
            seen += n;
            if n < chunk.len() {
                break;
            }
        }
        seen
    }

    /// Moves the piece that occupies `slot` to the heap and marks the slot done. Returns the bytes moved.
    pub fn spill(&mut self, slot: u32, slots: &Slots) -> usize {
        for chunk in &mut self.chunks {
            if matches!(chunk, Chunk::Ring { slot: s, .. } if *s == slot) {
                let bytes: Box<[u8]> = chunk.data().into();
                let moved = bytes.len();
                *chunk = Chunk::Heap { bytes, read: 0 };
                slots.done(slot);
                return moved;
            }
        }
        0
    }

    /// Takes everything out, in one piece, giving ring space back.
    pub fn take_all(&mut self, slots: &Slots) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len);
        for chunk in &self.chunks {
            all.extend_from_slice(chunk.data());
        }
        self.clear(slots);
        all
    }

    /// Throws everything away, giving ring space back.
    pub fn clear(&mut self, slots: &Slots) {
        for chunk in self.chunks.drain(..) {
            chunk.discard(slots);
        }
        self.len = 0;
    }
}
