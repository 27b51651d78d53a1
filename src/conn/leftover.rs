//! What a connection had received over its link and nobody had read when it was handed back to the kernel. It is
//! read first.

use super::user_buf::UserBuf;

/// Bytes not yet read.
#[derive(Default)]
pub struct Leftover {
    bytes: Vec<u8>,
    read: usize,
}

impl Leftover {
    /// All of `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Leftover { bytes, read: 0 }
    }

    /// Unread bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.read
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies up to `max` bytes to `out`; returns how many found room.
    pub fn peek(&self, out: &mut UserBuf, max: usize) -> usize {
        let end = self.read + max.min(self.len());
        out.fill(&self.bytes[self.read..end])
    }

    /// The next `n` bytes, at most all, are read.
    pub fn skip(&mut self, n: usize) {
        self.read += n.min(self.len());
        if self.is_empty() {
            *self = Leftover::default();
        }
    }

    /// The same, for a forked child.
    pub fn copy(&self) -> Leftover {
        Leftover::new(self.bytes[self.read..].to_vec())
    }

    /// Takes what is unread.
    pub fn take_all(&mut self) -> Vec<u8> {
        let Leftover { mut bytes, read } = core::mem::take(self);
        bytes.drain(..read);
        bytes
    }
}
