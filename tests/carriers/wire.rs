//! What carries a link in these tests: like a byte stream, which copies into the ring at the other end, or
//! like a queue pair, whose device reads and writes the rings by itself, later.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use netacc::fabric::FabricKind;
use netacc::fabric::plain::Plain;
use netacc::fabric::remote::carrier::{Batch, Carrier, MOST_PIECES, Posted, RingSource};
use netacc::fabric::remote::message::{Immediate, Message, Progress};

use crate::memory::{Device, Lease, Source};

/// How a carrier works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// Bytes come in order; the receiver copies them.
    Stream,
    /// Writes, each announced by immediate data.
    Immediate,
    /// Writes, then a message.
    Messages,
}

/// Ring bytes on their way.
pub struct Bytes {
    from: *const u8,
    len: usize,
    /// A copy, once the sender's memory may go.
    copy: Option<Vec<u8>>,
    /// Whether the sender's memory is still there, if that is known.
    leased: Option<Arc<AtomicBool>>,
    /// Where they go, if it is the device that writes them.
    pub to: u64,
    pub rkey: u32,
}

// SAFETY: the pointer is to mapped memory; all is done by one thread.
unsafe impl Send for Bytes {}

impl Bytes {
    /// The bytes as they are now.
    pub fn get(&self) -> Vec<u8> {
        if let Some(copy) = &self.copy {
            return copy.clone();
        }
        if let Some(leased) = &self.leased {
            assert!(
                leased.load(Ordering::Relaxed),
                "a mirror is read from that was given back"
            );
        }
        // SAFETY: a piece of a mirror, which is mapped: a device's for ever, another one for as long as the
        // link may have to send it again.
        unsafe { core::slice::from_raw_parts(self.from, self.len) }.to_vec()
    }
}

/// What an end is told with ring bytes.
#[derive(Clone, Copy, Debug)]
pub enum News {
    Progress(Progress),
    Immediate(u32),
}

/// Something on its way.
pub enum Packet {
    Ring(Vec<Bytes>, News),
    Message(Message),
}

/// One direction.
#[derive(Default)]
pub struct Way {
    pub packets: VecDeque<Packet>,
    /// Its sender has closed it.
    pub is_closed: bool,
    /// A post found no room.
    pub is_blocked: bool,
    /// The next post fails.
    pub fails: bool,
    /// What is sent from now on is lost.
    pub is_cut: bool,
}

/// A carrier, both ends of it.
pub struct Wire {
    pub manner: Manner,
    /// Packets that each direction holds.
    pub room: usize,
    /// From end 0, and from end 1.
    pub ways: [Way; 2],
    /// The carrier's number at each end.
    pub ids: [u32; 2],
    pub devices: [Arc<Device>; 2],
}

/// One end of a wire in the hands of a link.
pub struct Plug {
    pub wire: Arc<Mutex<Wire>>,
    pub end: usize,
    told_freed: u64,
}

impl Plug {
    pub fn new(wire: &Arc<Mutex<Wire>>, end: usize) -> Box<Plug> {
        Box::new(Plug {
            wire: wire.clone(),
            end,
            told_freed: 0,
        })
    }

    fn send(&self, packet: impl FnOnce() -> Packet) -> Posted {
        let mut wire = self.wire.lock().unwrap();
        let room = wire.room;
        let way = &mut wire.ways[self.end];
        assert!(!way.is_closed, "a closed carrier is used");
        if way.fails {
            return Posted::Failed;
        }
        if way.packets.len() >= room {
            way.is_blocked = true;
            return Posted::Full;
        }
        let packet = packet();
        if !way.is_cut {
            way.packets.push_back(packet);
        }
        Posted::Done
    }
}

impl Carrier for Plug {
    fn kind(&self) -> FabricKind {
        FabricKind::Tcp
    }

    fn limits(&self) -> (u64, usize) {
        (8 << 10, MOST_PIECES)
    }

    fn post(&mut self, batch: &mut Batch<'_>) -> Posted {
        let mut sum = 0;
        let pieces = batch.pieces.iter().flatten().map(|piece| {
            sum += u64::from(piece.len);
            let lease = piece.mirror.own.downcast_ref::<Lease>();
            assert!(piece.offset + piece.len as usize <= piece.mirror.memory.size);
            Bytes {
                from: piece.mirror.memory.base.wrapping_add(piece.offset),
                len: piece.len as usize,
                copy: None,
                leased: lease.map(Lease::watch),
                to: piece.to,
                rkey: piece.rkey,
            }
        });
        let pieces: Vec<Bytes> = pieces.collect();
        let manner = self.wire.lock().unwrap().manner;
        let told = self.told_freed;
        let (news, freed) = match manner {
            Manner::Immediate => {
                let news = Immediate::of(sum, batch.progress.freed - told, 0);
                (News::Immediate(news.encode()), told + u64::from(news.freed))
            }
            _ => (News::Progress(batch.progress), batch.progress.freed),
        };
        let posted = self.send(|| Packet::Ring(pieces, news));
        if posted == Posted::Done {
            self.told_freed = freed;
            batch.progress.freed = freed;
        }
        posted
    }

    fn tell(&mut self, message: &Message) -> Posted {
        let posted = self.send(|| Packet::Message(*message));
        if posted == Posted::Done {
            match message {
                Message::Resume { freed, .. } => self.told_freed = *freed,
                Message::Progress(progress) => self.told_freed = progress.freed,
                _ => {}
            }
        }
        posted
    }

    fn is_idle(&self) -> bool {
        self.wire.lock().unwrap().ways[self.end].packets.is_empty()
    }

    fn close(&mut self) {
        let mut wire = self.wire.lock().unwrap();
        let way = &mut wire.ways[self.end];
        way.is_closed = true;
        // What was sent is on its way, and may still arrive: of the sender's memory no longer.
        for packet in &mut way.packets {
            if let Packet::Ring(pieces, _) = packet {
                for piece in pieces {
                    piece.copy = Some(piece.get());
                }
            }
        }
    }

    fn rings(&self) -> Arc<dyn RingSource> {
        let wire = self.wire.lock().unwrap();
        match wire.manner {
            Manner::Stream => Arc::new(Plain),
            _ => Arc::new(Source(wire.devices[self.end].clone())),
        }
    }
}
