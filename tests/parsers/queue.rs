//! Records that are referenced where they lie: taken in any order, moved away, given back in order.

use std::collections::VecDeque;

use netacc::conn::user_buf::UserBuf;
use netacc::conn::{Chunk, RxQueue};
use netacc::link::slots::{COUNT, OpenRecords, Slots};
use proptest::collection::vec;
use proptest::prelude::*;

const CONNS: usize = 3;
/// What freed memory is overwritten with; never a byte of a stream.
const FREED: u8 = 0xEE;

#[derive(Clone, Debug)]
enum Step {
    Open {
        conn: usize,
        len: usize,
    },
    Skip {
        len: usize,
    },
    Take {
        conn: usize,
        max: usize,
        pieces: usize,
    },
    Drop {
        conn: usize,
        max: usize,
    },
    Peek {
        conn: usize,
        max: usize,
    },
    SpillOldest,
    Clear {
        conn: usize,
    },
    Reclaim,
}

fn step() -> impl Strategy<Value = Step> {
    let conn = || 0..CONNS;
    prop_oneof![
        6 => (conn(), 1..60usize).prop_map(|(conn, len)| Step::Open { conn, len }),
        1 => (1..30usize).prop_map(|len| Step::Skip { len }),
        4 => (conn(), 0..120usize, 1..4usize).prop_map(|(conn, max, pieces)| Step::Take { conn, max, pieces }),
        1 => (conn(), 0..60usize).prop_map(|(conn, max)| Step::Drop { conn, max }),
        1 => (conn(), 0..120usize).prop_map(|(conn, max)| Step::Peek { conn, max }),
        2 => Just(Step::SpillOldest),
        1 => conn().prop_map(|conn| Step::Clear { conn }),
        3 => Just(Step::Reclaim),
    ]
}

/// Runs `call` on a cursor over `max` bytes in `pieces` buffers; returns what it wrote.
fn into_buffers(max: usize, pieces: usize, call: impl FnOnce(&mut UserBuf) -> usize) -> Vec<u8> {
    let mut bytes = vec![0; max];
    let iov: Vec<libc::iovec> = bytes
        .chunks_mut(max.div_ceil(pieces).max(1))
        .map(|piece| libc::iovec {
            iov_base: piece.as_mut_ptr().cast(),
            iov_len: piece.len(),
        })
        .collect();
    // SAFETY: the buffers are `bytes`, which outlive the cursor.
    let mut cursor = unsafe { UserBuf::new(iov.as_ptr(), iov.len()) };
    let n = call(&mut cursor);
    bytes.truncate(n);
    bytes
}

/// The code under test and a plain model of it.
struct World {
    memory: Vec<u8>,
    end: usize,
    slots: Slots,
    open: OpenRecords,
    queues: [RxQueue; CONNS],
    streams: [VecDeque<u8>; CONNS],
    /// For each connection: start in memory and unread bytes of each record, and whether it lies there.
    lying: [VecDeque<(usize, usize, bool)>; CONNS],
    freed: u64,
    next_byte: u8,
}

impl World {
    fn new(size: usize) -> World {
        World {
            memory: vec![0; size],
            end: 0,
            slots: Slots::new(),
            open: OpenRecords::new(),
            queues: Default::default(),
            streams: Default::default(),
            lying: Default::default(),
            freed: 0,
            next_byte: 0,
        }
    }

    fn open(&mut self, conn: usize, len: usize) {
        let start = self.end;
        for byte in &mut self.memory[start..start + len] {
            self.next_byte = (self.next_byte + 1) % FREED;
            *byte = self.next_byte;
        }
        self.streams[conn].extend(&self.memory[start..start + len]);
        self.end += len;
        let slot = self.open.open(&self.slots, conn as u32, self.end as u64);
        let at = self.memory.as_ptr().wrapping_add(start);
        self.queues[conn].push(Chunk::Ring { at, len, slot });
        self.lying[conn].push_back((start, len, true));
    }

    fn forget(&mut self, conn: usize, n: usize) -> Vec<u8> {
        let mut left = n;
        while left > 0 {
            let (_, unread, _) = &mut self.lying[conn][0];
            let part = left.min(*unread);
            *unread -= part;
            left -= part;
            if self.lying[conn][0].1 == 0 {
                self.lying[conn].pop_front();
            }
        }
        self.streams[conn].drain(..n).collect()
    }

    fn reclaim(&mut self) -> Result<(), TestCaseError> {
        self.open.reclaim(&self.slots);
        let freed = self.open.freed();
        prop_assert!(freed >= self.freed, "freed went back");
        let needed = self
            .lying
            .iter()
            .flatten()
            .filter(|r| r.2)
            .map(|r| r.0)
            .min()
            .unwrap_or(self.end);
        prop_assert!(
            freed <= needed as u64,
            "freed {} although {} is referenced",
            freed,
            needed
        );
        self.memory[self.freed as usize..freed as usize].fill(FREED);
        self.freed = freed;
        Ok(())
    }

    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Open { conn, len } => self.open(conn, len),
            Step::Skip { len } => {
                self.end += len;
                self.open.skip(self.end as u64);
            }
            Step::Take { conn, max, pieces } => {
                let (queue, slots) = (&mut self.queues[conn], &self.slots);
                let got = into_buffers(max, pieces, |cursor| queue.take(Some(cursor), max, slots));
                prop_assert_eq!(got.len(), max.min(self.streams[conn].len()));
                prop_assert_eq!(&got, &self.forget(conn, got.len()));
            }
            Step::Drop { conn, max } => {
                let n = self.queues[conn].take(None, max, &self.slots);
                prop_assert_eq!(n, max.min(self.streams[conn].len()));
                self.forget(conn, n);
            }
            Step::Peek { conn, max } => {
                let got = into_buffers(max, 2, |cursor| self.queues[conn].peek(cursor, max));
                prop_assert_eq!(got.len(), max.min(self.streams[conn].len()));
                prop_assert!(got.iter().eq(self.streams[conn].iter().take(got.len())));
            }
            Step::SpillOldest => {
                self.reclaim()?;
                let Some((slot, conn)) = self.open.oldest() else {
                    return Ok(());
                };
                let conn = conn as usize;
                let record = self.lying[conn]
                    .iter_mut()
                    .find(|r| r.2)
                    .expect("the oldest record is somebody's");
                record.2 = false;
                let unread = record.1;
                prop_assert_eq!(self.queues[conn].spill(slot, &self.slots), unread);
                prop_assert_eq!(self.queues[conn].spill(slot, &self.slots), 0);
            }
            Step::Clear { conn } => {
                self.queues[conn].clear(&self.slots);
                self.streams[conn].clear();
                self.lying[conn].clear();
            }
            Step::Reclaim => self.reclaim()?,
        }
        for (queue, stream) in self.queues.iter().zip(&self.streams) {
            prop_assert_eq!(queue.len(), stream.len());
            prop_assert_eq!(queue.is_empty(), stream.is_empty());
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn records_come_in_order_and_are_freed_when_nobody_needs_them(steps in vec(step(), 0..200)) {
        let mut world = World::new(200 * 60);
        for step in steps {
            world.run(step)?;
        }
        for conn in 0..CONNS {
            world.run(Step::Take { conn, max: usize::from(u16::MAX), pieces: 1 })?;
        }
        world.reclaim()?;
        prop_assert_eq!(world.freed, world.end as u64, "all is read, not all is free");
    }
}

/// Slot numbers come around, with the list full and with it nearly empty.
#[test]
fn slots_are_used_again() {
    let memory = [7u8; 16];
    let (slots, mut open, mut queue) = (Slots::new(), OpenRecords::new(), RxQueue::default());
    let mut end = 0;
    for held in [COUNT, 1, COUNT, COUNT / 2, 3] {
        for _ in 0..held {
            assert!(!open.is_full());
            end += 16;
            let slot = open.open(&slots, 0, end);
            queue.push(Chunk::Ring {
                at: memory.as_ptr(),
                len: memory.len(),
                slot,
            });
        }
        assert_eq!(open.is_full(), held == COUNT);
        let oldest = open.freed();
        open.reclaim(&slots);
        assert_eq!(open.freed(), oldest, "freed under a reader");
        assert_eq!(queue.take(None, usize::MAX, &slots), held as usize * 16);
        open.reclaim(&slots);
        assert_eq!(open.freed(), end);
    }
}
