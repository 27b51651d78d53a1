//! The sending half: records into the ring, one publication for a batch.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::record::{HEADER, Header, Kind, span};
use super::stamp::Stamp;
use super::{Link, max_payload, overdrafts};
use crate::conn::user_buf::UserBuf;
use crate::contain;
use crate::fabric::RingMemory;
use crate::socket::Socket;
use crate::stats;

/// Ring bytes that data never takes, so that window grants and closes get through a full ring of `size`
/// bytes: less in small ones, for what a peer keeps of a ring leaves no more than a quarter of it for sure.
fn reserve(size: usize) -> usize {
    (size / 16).min(4096)
}

/// A record that found no room.
struct Owed {
    conn: u32,
    kind: Kind,
    payload: Payload,
}

/// The longest payload of a record without stream bytes.
const MOST_FEW: usize = 12;

/// What is in it.
enum Payload {
    /// So many bytes of a record without stream bytes.
    Few([u8; MOST_FEW], usize),
    /// Stream bytes.
    Data(Box<[u8]>),
}

impl Payload {
    fn bytes(&self) -> &[u8] {
        match self {
            Payload::Few(bytes, len) => &bytes[..*len],
            Payload::Data(bytes) => bytes,
        }
    }
}

/// State of the sending half, under the link's `tx` lock.
pub struct Tx {
    ring: RingMemory,
    /// Bytes written (and published, outside of a call).
    written: u64,
    /// The peer's cursor when last looked at.
    freed: u64,
    owed: VecDeque<Owed>,
    /// Connections of records that were written after they had been owed for a while: nobody has notified their
    /// readers yet.
    late: Vec<u32>,
    waiting: Vec<&'static Socket>,
    /// Connections that were closed here since the link was condemned: their peers have not heard of it.
    unheard: Vec<u32>,
    /// Their peers are being told.
    is_telling: bool,
}

// SAFETY: the ring memory is plain mapped memory, written only under the lock that holds this.
unsafe impl Send for Tx {}

impl Tx {
    pub fn new(ring: RingMemory) -> Self {
        Tx {
            ring,
            written: 0,
            freed: 0,
            owed: VecDeque::new(),
            late: Vec::new(),
            waiting: Vec::new(),
            unheard: Vec::new(),
            is_telling: false,
        }
    }

    /// The link is condemned: nothing more is written. What connections still write goes nowhere, as behind a reset that
    /// they have not heard of.
    #[inline]
    fn is_over(&self, link: &Link) -> bool {
        link.is_condemned() && !self.is_telling
    }

    /// Free ring bytes; looks at the peer's cursor only if fewer than `want` are known to be free.
    #[inline]
    fn free(&mut self, link: &Link, want: usize) -> usize {
        let mut used = self.written.wrapping_sub(self.freed);
        if (self.ring.size as u64).saturating_sub(used) < want as u64 {
            let freed = link.fabric.freed();
            // A cursor outside what we wrote is a lie: believe the last good one, and stall.
            if self.written.wrapping_sub(freed) <= used {
                self.freed = freed;
                used = self.written - freed;
            }
            if (self.ring.size as u64).saturating_sub(used) < want as u64
                && let Some(ring) = link.fabric.grow(self.written)
            {
                self.ring = ring;
                link.stats
                    .ring_size
                    .store(ring.size as u64, Ordering::Relaxed);
            }
        }
        self.ring.size.saturating_sub(used as usize)
    }

    /// Records are written into `ring` from now on.
    pub fn move_to(&mut self, ring: RingMemory) {
        self.ring = ring;
    }

    /// Writes a header at the write cursor.
    #[inline]
    fn header(&mut self, conn: u32, kind: Kind, len: usize) {
        let header = Header {
            len: len as u32,
            conn,
            kind,
            stamp: Stamp::now(),
        }
        .encode();
        // SAFETY: the caller has made sure of room for the whole record; the ring is mapped twice,
        // so `at` is followed by at least `size` mapped bytes.
        unsafe {
            core::ptr::copy_nonoverlapping(header.as_ptr(), self.ring.at(self.written), HEADER)
        };
    }

    /// Appends `Data` records with up to `max` bytes of `buf`, publishing each as soon as it is
    /// complete: on shared memory that costs a store, and the peer copies while we go on.
    pub fn data(&mut self, link: &Link, conn: u32, buf: &mut UserBuf, max: usize) -> usize {
        let max = max.min(buf.left());
        if self.is_over(link) {
            buf.skip(max);
            return max;
        }
        if !self.owed.is_empty() && !self.pay(link, false) {
            return 0;
        }
        let largest = self.largest(link);
        let mut sent = 0;
        while sent < max {
            let want = (max - sent).min(largest);
            let free = self.free(link, span(want) + reserve(self.ring.size));
            let room =
                free.saturating_sub(reserve(self.ring.size) + HEADER) & !(super::record::ALIGN - 1);
            // A shred of a large write is not worth a record of its own.
            if room < want.min(512) {
                break;
            }
            let len = want.min(room);
            self.header(conn, Kind::Data, len);
            contain::provoked("tx.data");
            // SAFETY: room was checked above, mapped as in `header`.
            unsafe { buf.drain(self.ring.at(self.written + HEADER as u64), len) };
            self.written += span(len) as u64;
            link.fabric.publish(self.written);
            sent += len;
            stats::bump(&link.stats.tx_records, 1);
            stats::bump(&link.stats.tx_batches, 1);
        }
        stats::bump(&link.stats.tx_bytes, sent as u64);
        sent
    }

    /// Appends a record without stream bytes, or owes it.
    pub fn control(&mut self, link: &Link, conn: u32, kind: Kind, payload: &[u8]) {
        let len = payload.len().min(MOST_FEW);
        let mut few = [0; MOST_FEW];
        few[..len].copy_from_slice(&payload[..len]);
        self.owe(link, conn, kind, Payload::Few(few, len));
    }

    /// Owes a `Data` record with up to `max` bytes of `buf`, which leave it. Returns how many they are.
    pub fn overdraw(&mut self, link: &Link, conn: u32, buf: &mut UserBuf, max: usize) -> usize {
        let len = max.min(buf.left()).min(self.largest(link));
        let mut bytes = vec![0; len].into_boxed_slice();
        // SAFETY: room for `len` bytes.
        unsafe { buf.drain(bytes.as_mut_ptr(), len) };
        stats::bump(&link.stats.tx_bytes, len as u64);
        overdrafts::taken();
        self.owe(link, conn, Kind::Data, Payload::Data(bytes));
        len
    }

    /// Gives bytes of the peer's stream back, or owes them.
    pub fn give_back(&mut self, link: &Link, conn: u32, bytes: &[u8]) {
        for piece in bytes.chunks(self.largest(link)) {
            overdrafts::taken();
            self.owe(link, conn, Kind::Returned, Payload::Data(piece.into()));
        }
        self.control(link, conn, Kind::Returned, &[]);
    }

    fn owe(&mut self, link: &Link, conn: u32, kind: Kind, payload: Payload) {
        if self.is_over(link) {
            match payload {
                Payload::Data(_) => overdrafts::settled(),
                Payload::Few(..) if kind == Kind::Close => self.unheard.push(conn),
                Payload::Few(..) => {}
            }
            return;
        }
        self.owed.push_back(Owed {
            conn,
            kind,
            payload,
        });
        if !self.pay(link, true) {
            self.ask_for_space(link);
            // What was given back just before is not told any more.
            self.pay(link, true);
        }
    }

    /// Connections whose readers the caller has to notify, once it has let go of the lock.
    pub fn take_late(&mut self) -> Vec<u32> {
        core::mem::take(&mut self.late)
    }

    /// The largest payload of one record, in bytes.
    fn largest(&self, link: &Link) -> usize {
        link.terms.msg_size.min(max_payload(self.ring.size))
    }

    /// Whether anything is owed.
    pub fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Nothing more is written but that these connections are reset, as far as there is room. (The cursor moves when a record
    /// is whole: the next one can be written wherever it was that something went wrong.)
    pub fn give_up(&mut self, link: &Link, conns: impl Iterator<Item = u32>) {
        self.is_telling = true;
        self.forget_owed();
        let conns = conns.chain(core::mem::take(&mut self.unheard));
        conns.for_each(|conn| self.control(link, conn, Kind::Reset, &[]));
        self.forget_owed();
        self.is_telling = false;
    }

    /// Nothing that is owed will ever be written.
    pub fn forget_owed(&mut self) {
        for owed in self.owed.drain(..) {
            if let Payload::Data(_) = owed.payload {
                overdrafts::settled();
            }
        }
    }

    /// Writes owed records; true if none is left. Who reads them is in `late`, but for the last one if that is the
    /// caller's `own`.
    fn pay(&mut self, link: &Link, own: bool) -> bool {
        if self.is_over(link) {
            return self.owed.is_empty();
        }
        let before = self.written;
        while let Some(owed) = self.owed.pop_front() {
            let bytes = owed.payload.bytes();
            let spare = match owed.payload {
                Payload::Few(..) => 0,
                Payload::Data(_) => reserve(self.ring.size),
            };
            let size = span(bytes.len());
            if self.free(link, size + spare) < size + spare {
                self.owed.push_front(owed);
                break;
            }
            self.header(owed.conn, owed.kind, bytes.len());
            // SAFETY: as in `header`; a record's span includes its payload.
            unsafe {
                core::ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    self.ring.at(self.written + HEADER as u64),
                    bytes.len(),
                );
            }
            self.written += size as u64;
            stats::bump(&link.stats.tx_records, 1);
            if !own || !self.owed.is_empty() {
                self.late.push(owed.conn);
            }
            if let Payload::Data(_) = owed.payload {
                overdrafts::settled();
            }
        }
        if self.written != before {
            link.fabric.publish(self.written);
            stats::bump(&link.stats.tx_batches, 1);
        }
        self.owed.is_empty()
    }

    /// Whether there is room for data and nothing is owed that cannot go.
    pub fn has_room(&mut self, link: &Link) -> bool {
        let enough = 2 * reserve(self.ring.size).max(self.ring.size / 8);
        self.free(link, enough) >= enough
    }

    fn ask_for_space(&mut self, link: &Link) {
        link.full.store(true, Ordering::Relaxed);
        link.fabric.want_space();
    }

    /// `socket` waits for room. False if there is some by now.
    pub fn wait(&mut self, link: &Link, socket: &'static Socket) -> bool {
        stats::bump(&link.stats.stalls, 1);
        stats::add(&stats::global().ring_full_stalls, 1);
        self.ask_for_space(link);
        if self.has_room(link) {
            return false;
        }
        if !self.waiting.iter().any(|&s| core::ptr::eq(s, socket)) {
            self.waiting.push(socket);
        }
        true
    }

    /// If there is room now: writes what is owed and returns who waits.
    pub fn resume(&mut self, link: &Link) -> Vec<&'static Socket> {
        if !self.has_room(link) || !self.pay(link, false) {
            // Asked anew: the last answer may have been used up.
            link.fabric.want_space();
            if !self.has_room(link) || !self.pay(link, false) {
                return Vec::new();
            }
        }
        link.full.store(false, Ordering::Relaxed);
        core::mem::take(&mut self.waiting)
    }
}
