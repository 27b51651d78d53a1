//! A connection that was handed back to the kernel and is not the kernel's alone yet: what it had received over its
//! link and nobody had read is read first, and what its peer has given back is sent again first.

use super::user_buf::UserBuf;

/// What is to be done before it is the kernel's alone.
#[derive(Default)]
pub struct Leftover {
    bytes: Vec<u8>,
    read: usize,
    /// Bytes that the peer has given back have found no room with the kernel yet: nothing else is written before.
    pub resends: bool,
    /// The stream ends after these.
    pub then_ends: bool,
    /// What nobody had read comes again by the kernel's connection: it is all there when that has received so many bytes.
    pub known_to: Option<u64>,
    /// The peer has closed the connection: nothing comes after the bytes that are here.
    pub is_last: bool,
}

impl Leftover {
    /// `bytes` are to be read.
    pub fn new(bytes: Vec<u8>) -> Self {
        Leftover {
            bytes,
            ..Leftover::default()
        }
    }

    /// Unread bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.read
    }

    /// Whether nothing is left to read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the kernel serves it alone from now on.
    pub fn is_over(&self) -> bool {
        self.is_empty() && !self.resends
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
            drop(self.take_all());
        }
    }

    /// The same, for a forked child.
    pub fn copy(&self) -> Leftover {
        Leftover::new(self.bytes[self.read..].to_vec())
    }

    /// Takes what is unread.
    pub fn take_all(&mut self) -> Vec<u8> {
        let mut bytes = core::mem::take(&mut self.bytes);
        bytes.drain(..core::mem::take(&mut self.read));
        bytes
    }
}
