//! The sending half of a link's end: what was written, what was posted of it, and what the peer was told.

use std::collections::VecDeque;
use std::sync::Arc;

use super::carrier::{Batch, Carrier, MOST_PIECES, Piece, Posted, Ring};
use super::message::{Message, Progress, RemoteRing};
use super::rings::Rings;
use crate::link::record::{HEADER, Header};

/// Under a lock of its own.
pub struct Sending {
    /// What moves the bytes; `None` while there is nothing.
    pub carrier: Option<Box<dyn Carrier>>,
    /// The carrier's number.
    pub id: u32,
    /// The peer has said where to go on.
    pub resumed: bool,
    /// The link is over: no carrier is taken any more.
    pub shut: bool,
    /// A carrier on which the peer is to speak first, and its number.
    pub pending: Option<(u32, Box<dyn Carrier>, Rings)>,
    /// A mirror for the carrier in use, until the peer has said how large it is to be.
    pub spare: Option<Ring>,
    /// Ring bytes before this may be sent.
    pub written: u64,
    /// Ring bytes before this were posted.
    pub posted: u64,
    /// Records that were written since a batch went out.
    pub records: u32,
    /// The peer has given the ring bytes before this back.
    pub peer_freed: u64,
    /// What the peer was told that we gave back.
    pub told_freed: u64,
    /// Messages that wait for room at the carrier.
    pub queue: VecDeque<Message>,
    /// Mirrors of the peer's rings, and the cursor from which each holds the bytes; never empty.
    mirrors: VecDeque<(u64, Arc<Ring>)>,
    /// Where the posts go.
    peer_ring: RemoteRing,
    /// Size of the ring in whose place a larger one was asked for; 0: of none.
    asked_at: usize,
    /// A ring that the peer offers.
    pub offer: Option<RemoteRing>,
    /// The same, once there was no memory for a mirror of it.
    pub later: Option<RemoteRing>,
    /// From this cursor on posts go to that ring.
    switch: Option<(u64, RemoteRing)>,
}

impl Sending {
    /// With its first mirror, and no carrier.
    pub fn new(mirror: Ring) -> Sending {
        Sending {
            carrier: None,
            id: 0,
            resumed: false,
            shut: false,
            pending: None,
            spare: None,
            written: 0,
            posted: 0,
            records: 0,
            peer_freed: 0,
            told_freed: 0,
            queue: VecDeque::new(),
            peer_ring: mirror.remote,
            mirrors: VecDeque::from([(0, Arc::new(mirror))]),
            asked_at: 0,
            offer: None,
            later: None,
            switch: None,
        }
    }

    /// The mirror that is written to now.
    pub fn mirror(&self) -> &Arc<Ring> {
        match self.mirrors.back() {
            Some((_, ring)) => ring,
            None => unreachable!("the last mirror is never dropped"),
        }
    }

    /// Bytes from `at` on are written into `mirror`, and go to the peer's `ring`.
    pub fn switch_to(&mut self, at: u64, mirror: Ring, ring: RemoteRing) {
        self.mirrors.push_back((at, Arc::new(mirror)));
        self.switch = Some((at, ring));
    }

    /// Whether a switch is announced, and not made yet.
    pub fn is_switching(&self) -> bool {
        self.switch.is_some()
    }

    /// The peer has the bytes before `cursor` and does not need them again.
    pub fn freed(&mut self, cursor: u64) {
        self.peer_freed = cursor;
        while self.mirrors.len() > 1 && self.mirrors[1].0 <= cursor {
            self.mirrors.pop_front();
        }
    }

    /// The mirrors hold nothing before this.
    pub fn kept_from(&self) -> u64 {
        self.mirrors.front().map_or(0, |(start, _)| *start)
    }

    /// Asks for a larger ring, of up to `most` bytes: once for each ring, and not before the peer has heard of the switch to
    /// this one. (It offers one at a time.)
    pub fn ask_for_more(&mut self, most: usize) {
        let size = self.mirror().memory.size;
        if self.asked_at != size && size < most && !self.is_switching() {
            self.asked_at = size;
            self.queue.push_back(Message::Full(most as u64));
        }
    }

    /// Whether the peer offers a ring.
    pub fn has_offer(&self) -> bool {
        self.offer.is_some() || self.later.is_some()
    }

    /// What did not succeed may do so by now: an offer is looked at again, and if there is none, it is asked anew when a larger
    /// ring is wanted.
    pub fn grow_again(&mut self) {
        match self.later.take() {
            Some(offer) => self.offer = Some(offer),
            None if self.offer.is_none() => self.asked_at = 0,
            None => {}
        }
    }

    /// Goes on at `got`, into the peer's `ring`.
    pub fn go_on(&mut self, got: u64, ring: RemoteRing) {
        self.posted = got;
        self.peer_ring = ring;
        self.switch = None;
        self.offer = None;
        self.later = None;
        self.resumed = true;
        self.asked_at = 0;
    }

    /// Puts `mirror` in the place of all others, with the bytes from `from` on.
    pub fn replace_mirrors(&mut self, from: u64, mirror: Ring) {
        let mut at = from;
        while at < self.written {
            let (old, offset, len) = self.local(at, self.written);
            // SAFETY: `len` bytes lie in one piece in the old mirror; the new one is as large as all that
            // is outstanding, and mapped twice in a row.
            unsafe {
                let bytes = old.memory.base.add(offset);
                core::ptr::copy_nonoverlapping(bytes, mirror.memory.at(at), len as usize);
            }
            at += len;
        }
        self.mirrors = VecDeque::from([(from, Arc::new(mirror))]);
    }

    /// The mirror with the byte at `at`, where in it that lies, and how many bytes before `end` follow it in one
    /// piece.
    fn local(&self, at: u64, end: u64) -> (&Arc<Ring>, usize, u64) {
        let next = self.mirrors.iter().position(|(start, _)| *start > at);
        let index = next.unwrap_or(self.mirrors.len()).saturating_sub(1);
        let end = self
            .mirrors
            .get(index + 1)
            .map_or(end, |(s, _)| end.min(*s));
        let ring = self.mirrors.get(index).map_or(self.mirror(), |(_, r)| r);
        let size = ring.memory.size as u64;
        let offset = at & (size - 1);
        (ring, offset as usize, (end - at).min(size - offset))
    }

    /// The pieces of the bytes from `posted` to `end`, at most `most`, and where they end.
    fn pieces(&self, end: u64, most: usize) -> ([Option<Piece<'_>>; MOST_PIECES], u64) {
        let mut pieces = [None; MOST_PIECES];
        let mut at = self.posted;
        for piece in pieces.iter_mut().take(most) {
            if at >= end {
                break;
            }
            let (mirror, offset, len) = self.local(at, end);
            let size = u64::from(self.peer_ring.size);
            let place = at & (size - 1);
            let len = len.min(size - place);
            *piece = Some(Piece {
                mirror,
                offset,
                to: self.peer_ring.addr.wrapping_add(place),
                rkey: self.peer_ring.rkey,
                len: len as u32,
            });
            at += len;
        }
        (pieces, at)
    }

    /// Where the last record ends that does not go beyond `end`. What was posted always ends with a record: the
    /// peer may go on in another ring there.
    fn record_end(&self, end: u64) -> u64 {
        let mut at = self.posted;
        loop {
            let (mirror, _, _) = self.local(at, self.written);
            // SAFETY: a header that was written, and lies in one piece in the mirror.
            let header = unsafe { mirror.memory.at(at).cast::<[u8; HEADER]>().read() };
            let next = at + Header::span_of(&header) as u64;
            if next > end {
                return at;
            }
            at = next;
        }
    }

    /// Hands the carrier whatever it takes. `freed`: what we gave back.
    pub fn flush(&mut self, freed: u64) -> Posted {
        let Some(mut carrier) = self.carrier.take() else {
            return Posted::Done;
        };
        let outcome = self.flush_to(&mut *carrier, freed);
        self.carrier = Some(carrier);
        outcome
    }

    fn flush_to(&mut self, carrier: &mut dyn Carrier, freed: u64) -> Posted {
        loop {
            while let Some(message) = self.queue.front() {
                match carrier.tell(message) {
                    Posted::Done => self.queue.pop_front(),
                    other => return other,
                };
            }
            if !self.resumed {
                return Posted::Done;
            }
            let end = self.switch.map_or(self.written, |(at, _)| at);
            if self.posted < end {
                // Whatever was written: what the peer has not given back is not overwritten.
                let room = self.peer_freed.saturating_add(self.peer_ring.size.into());
                let (bytes, most) = carrier.limits();
                let bound = end.min(room).min(self.posted + bytes);
                let (mut pieces, mut to) = self.pieces(bound, most);
                if to < end {
                    (pieces, to) = self.pieces(self.record_end(to), most);
                }
                if to == self.posted {
                    if room < end {
                        return Posted::Done;
                    }
                    debug_assert!(false, "a record that no carrier takes");
                    return Posted::Failed;
                }
                let mut batch = Batch {
                    pieces: &pieces,
                    progress: Progress {
                        produced: to,
                        freed,
                    },
                };
                match carrier.post(&mut batch) {
                    Posted::Done => {
                        self.told_freed = batch.progress.freed;
                        self.posted = to;
                        self.records = 0;
                    }
                    other => return other,
                }
            } else if let Some((at, ring)) = self.switch.take() {
                self.queue.push_back(Message::Switch(at));
                self.peer_ring = ring;
            } else {
                return Posted::Done;
            }
        }
    }

    /// Tells the peer what we gave back, in a message of its own, and hands the carrier whatever it takes.
    pub fn tell(&mut self, freed: u64) -> Posted {
        let produced = self.posted;
        self.queue
            .retain(|message| !matches!(message, Message::Progress(_)));
        self.queue
            .push_back(Message::Progress(Progress { produced, freed }));
        self.told_freed = freed;
        self.flush(freed)
    }
}
