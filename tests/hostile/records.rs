//! A process that shares a ring with the victim and writes what it likes there, while the victim reads.

use std::sync::atomic::{AtomicBool, Ordering};

use netacc::control::wire::{Frame, Verdict};
use netacc::fabric::Fabric;
use netacc::link::record::{HEADER, Header, Kind, span};
use netacc::link::stamp::Stamp;

use crate::common::bare;
use crate::peer::{Linked, WINDOW};
use crate::victim::Victim;

/// A record of that kind, of which the header says `len`; `payload` bytes follow.
fn record(kind: u8, conn: u32, len: u32, payload: usize) -> Vec<u8> {
    let header = Header {
        len,
        conn,
        kind: Kind::Data,
        stamp: Stamp::now(),
    };
    let mut bytes = header.encode().to_vec();
    bytes[8] = kind;
    bytes.resize(span(payload).max(HEADER), 0x5a);
    bytes
}

/// A link with one connection, whose ring it writes.
struct Writer {
    linked: Linked,
    _stream: std::net::TcpStream,
    written: u64,
}

impl Writer {
    fn new(victim: &Victim) -> Writer {
        let linked = Linked::with(victim.side_port());
        let (verdict, stream) = linked.open(0, WINDOW);
        assert!(matches!(
            verdict,
            Some(Frame::Verdict {
                verdict: Verdict::Yes,
                ..
            })
        ));
        Writer {
            linked,
            _stream: stream,
            written: 0,
        }
    }

    fn room(&self) -> u64 {
        let ring = self.linked.shm.tx().size as u64;
        ring.saturating_sub(self.written.wrapping_sub(self.linked.shm.freed()))
    }

    fn put(&mut self, bytes: &[u8]) {
        let ring = self.linked.shm.tx();
        let bytes = &bytes[..bytes.len().min(ring.size)];
        // SAFETY: the ring is mapped twice, so that its size follows any place in it.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), ring.at(self.written), bytes.len());
        }
        self.written = self.written.wrapping_add(bytes.len() as u64);
    }

    fn publish(&self) {
        self.linked.shm.publish(self.written);
        self.linked.shm.notify(0);
        self.linked.shm.notify_io();
    }
}

#[test]
fn records_that_break_the_rules_end_the_link_and_nothing_else() {
    if bare() {
        return;
    }
    let victim = Victim::new();
    type Crime = fn(&mut Writer);
    let crimes: [Crime; 12] = [
        // Kinds that there are not, and what was not asked for.
        |w| w.put(&record(0, 0, 0, 0)),
        |w| w.put(&record(200, 0, 0, 0)),
        |w| w.put(&record(Kind::Open as u8, 0, 8, 8)),
        |w| w.put(&record(Kind::Grant as u8, 0, 12, 12)),
        |w| w.put(&record(Kind::Returned as u8, 0, 64, 64)),
        // Lengths.
        |w| w.put(&record(Kind::Data as u8, 0, 0, 0)),
        |w| w.put(&record(Kind::Data as u8, 0, u32::MAX, 64)),
        |w| w.put(&record(Kind::Window as u8, 0, 7, 8)),
        // Data beyond the window.
        |w| {
            for _ in 0..9 {
                w.put(&record(Kind::Data as u8, 0, 64 << 10, 64 << 10));
            }
        },
        // Data after the end.
        |w| {
            w.put(&record(Kind::Fin as u8, 0, 0, 0));
            w.put(&record(Kind::Data as u8, 0, 1, 1));
        },
        // Cursors.
        |w| w.written = u64::MAX,
        |w| w.written = w.linked.shm.tx().size as u64 + 16,
    ];
    for crime in crimes {
        let mut writer = Writer::new(&victim);
        crime(&mut writer);
        writer.publish();
        assert!(writer.linked.is_given_up());
    }
    victim.comes_through();
}

#[test]
fn bytes_that_change_while_they_are_read_do_no_harm() {
    const LINKS: usize = 40;
    const RECORDS: usize = 3_000;
    if bare() {
        return;
    }
    let victim = Victim::new();
    let mut taken_in = 0;
    for round in 0..LINKS {
        let mut writer = Writer::new(&victim);
        let over = AtomicBool::new(false);
        let ring = writer.linked.shm.tx();
        let (base, size) = (ring.base as usize, ring.size as u64);
        std::thread::scope(|scope| {
            let over = &over;
            scope.spawn(move || {
                let ring = netacc::fabric::RingMemory {
                    base: base as *mut u8,
                    size: size as usize,
                };
                // Lengths, numbers and kinds of records that are being looked at; and the records' bytes.
                let mut random = fastrand::Rng::with_seed(round as u64);
                while !over.load(Ordering::Relaxed) {
                    for at in (0..8192).step_by(HEADER) {
                        let bit = 1 << random.u8(..8);
                        // SAFETY: a byte of the ring, which both ends may write.
                        unsafe {
                            let byte = ring.at(at + random.u64(..12));
                            byte.write_volatile(byte.read_volatile() ^ bit);
                        }
                    }
                }
            });
            for _ in 0..RECORDS {
                if writer.room() < 4096 {
                    break;
                }
                writer.put(&record(Kind::Data as u8, 0, 48, 48));
                writer.publish();
                taken_in += usize::from(writer.linked.shm.freed() > 0);
            }
            over.store(true, Ordering::Relaxed);
        });
        // Whatever has become of it: this is its end.
        writer.written = u64::MAX;
        writer.publish();
        assert!(writer.linked.is_given_up());
    }
    // Some are read before a bit of theirs is wrong, or the flipping would show nothing.
    assert!(taken_in > 0);
    victim.comes_through();
}

#[test]
fn cursors_and_bells_that_never_rest_do_no_harm() {
    if bare() {
        return;
    }
    let victim = Victim::new();
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut writer = Writer::new(&victim);
        // What steers: producer's and consumer's cursors, marks of who sleeps, slots of connections, in both directions.
        for _ in 0..20_000 {
            writer.written = match random.u8(..4) {
                0 => random.u64(..),
                1 => writer.written.wrapping_add(random.u64(..256)),
                _ => writer.linked.shm.freed().wrapping_add(random.u64(..65536)),
            };
            writer.publish();
            let shm = &writer.linked.shm;
            shm.release(random.u64(..));
            shm.want_space();
            shm.set_slot(random.u32(..64), random.u8(..));
            shm.arm(random.u8(..64));
        }
        assert!(writer.linked.is_given_up());
    }
    victim.comes_through();
}
