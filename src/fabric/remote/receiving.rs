//! The receiving half of a link's end: its rings, and what is believed of the peer's word.

use std::collections::VecDeque;
use std::sync::Arc;

use super::carrier::Ring;
use super::message::RemoteRing;
use crate::fabric::RingMemory;

/// Under a lock of its own.
pub struct Receiving {
    /// The carrier that is listened to; 0 before the first.
    pub carrier: u32,
    /// Rings and the cursor from which each holds the bytes; oldest first, never empty.
    rings: VecDeque<(u64, Arc<Ring>)>,
    /// A further ring, which the peer may switch to.
    offered: Option<Arc<Ring>>,
}

impl Receiving {
    /// With its first ring.
    pub fn new(ring: Ring) -> Receiving {
        Receiving {
            carrier: 0,
            rings: VecDeque::from([(0, Arc::new(ring))]),
            offered: None,
        }
    }

    /// The ring that receives now.
    pub fn current(&self) -> &Arc<Ring> {
        match self.rings.back() {
            Some((_, ring)) => ring,
            None => unreachable!("the last ring is never dropped"),
        }
    }

    /// The ring in which the byte at `cursor` lies, and the cursor at which it ends, if it does.
    pub fn at(&self, cursor: u64) -> (RingMemory, Option<u64>) {
        let next = self.rings.iter().position(|(start, _)| *start > cursor);
        let index = next.unwrap_or(self.rings.len()).saturating_sub(1);
        let end = self.rings.get(index + 1).map(|(start, _)| *start);
        let ring = self.rings.get(index).map_or(self.current(), |(_, r)| r);
        (ring.memory, end)
    }

    /// The ring that was made last: the peer may write to one of its size.
    pub fn newest(&self) -> &Ring {
        self.offered.as_ref().unwrap_or(self.current())
    }

    /// Carrier `id` is listened to; it brings the bytes from `got` on, into the ring that is returned.
    pub fn begin(&mut self, id: u32, got: u64, fresh: Option<Ring>) -> RemoteRing {
        self.carrier = id;
        // What was offered may be in use by the peer already: its mirror may be as large.
        let offered = self.offered.take();
        if let Some(next) = fresh.map(Arc::new).or(offered) {
            // Carriers that brought nothing leave no rings behind.
            self.rings.pop_back_if(|(start, _)| *start == got);
            self.rings.push_back((got, next));
        }
        self.current().remote
    }

    /// Whether another ring can be offered.
    pub fn may_offer(&self) -> bool {
        self.offered.is_none()
    }

    /// Offers `ring`.
    pub fn offer(&mut self, ring: Ring) {
        self.offered = Some(Arc::new(ring));
    }

    /// The peer switches to what was offered, from `cursor` on. False: nothing was.
    pub fn switch(&mut self, cursor: u64) -> bool {
        let offered = self.offered.take();
        let known = offered.is_some();
        self.rings.extend(offered.map(|ring| (cursor, ring)));
        known
    }

    /// All bytes before `cursor` were given back: so are rings that held nothing else.
    pub fn freed(&mut self, cursor: u64) {
        while self.rings.len() > 1 && self.rings[1].0 <= cursor {
            self.rings.pop_front();
        }
    }
}
