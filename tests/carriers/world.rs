//! Both ends, the wires between them, and everything that can happen.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use netacc::fabric::remote::RingSizes;
use netacc::fabric::remote::message::{Immediate, Message};

use crate::end::{CONNS, End};
use crate::wire::{Manner, News, Packet, Plug, Way, Wire};

/// How often things go wrong, each in 10,000 steps.
#[derive(Clone, Copy)]
pub struct Faults {
    /// A carrier breaks.
    pub breaks: u32,
    /// A carrier that works is replaced.
    pub replaced: u32,
    /// A device has no memory for a while.
    pub poor: u32,
}

impl Faults {
    pub const NONE: Faults = Faults {
        breaks: 0,
        replaced: 0,
        poor: 0,
    };
    pub const SOME: Faults = Faults {
        breaks: 30,
        replaced: 15,
        poor: 5,
    };
    pub const MANY: Faults = Faults {
        breaks: 600,
        replaced: 300,
        poor: 50,
    };
}

/// The end that begins every carrier.
const ACTIVE: usize = 0;

/// See the module.
pub struct World {
    rng: Rng,
    faults: Faults,
    pub ends: [End; 2],
    seeds: [u64; 2],
    /// All carriers that may still bring something.
    wires: Vec<Arc<Mutex<Wire>>>,
    /// The passive end has something to say about its carrier, which is under way.
    complaints: u32,
    /// The active end is to begin another carrier.
    wanted: bool,
    pub broken: u64,
    pub resumed: u64,
    switches: u64,
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> World {
        println!("seed {seed}");
        let seeds = [2 * seed, 2 * seed + 1];
        // The ends need not agree; one in four has rings that never grow.
        let most = match seed % 4 {
            0 => [16, 16],
            1 => [64, 256],
            2 => [256, 16],
            _ => [256, 256],
        };
        let sizes = most.map(|most| RingSizes { most: most << 10 });
        World {
            rng: Rng::with_seed(seed),
            faults,
            ends: [0, 1].map(|end: usize| End::new(end, seeds[end], sizes[end])),
            seeds,
            wires: Vec::new(),
            complaints: 0,
            wanted: true,
            broken: 0,
            resumed: 0,
            switches: 0,
        }
    }

    /// Rings that were switched to.
    pub fn switches(&self) -> u64 {
        self.switches
    }

    /// Bytes that were received.
    pub fn received(&self) -> u64 {
        self.ends.iter().flat_map(|end| end.received).sum()
    }

    fn chance(&mut self, of: u32) -> bool {
        self.rng.u32(..10_000) < of
    }

    /// One thing happens.
    pub fn step(&mut self) {
        self.fail();
        let (end, conn) = (self.rng.usize(..2), self.rng.usize(..CONNS));
        let size = 1 << self.rng.u32(..15);
        let size = self.rng.usize(1..=size);
        match self.rng.u32(..100) {
            0..25 => self.ends[end].send(conn, size),
            25..50 => self.ends[end].receive(conn, size, self.seeds[1 - end]),
            50..60 => self.ends[end].poll(),
            60..90 => self.deliver(end),
            90..96 => self.ends[end].flush(),
            96..98 => self.ends[end].remote.ping(),
            _ => self.check_settled(),
        }
        self.look_after_carriers();
    }

    /// Something goes wrong, or not.
    fn fail(&mut self) {
        let end = self.rng.usize(..2);
        if self.chance(self.faults.breaks)
            && let Some(wire) = self.wires.last().cloned()
        {
            self.break_at(&wire, end);
        }
        self.wanted |= self.chance(self.faults.replaced);
        if self.chance(self.faults.poor) {
            let device = &self.ends[end].devices[self.rng.usize(..2)];
            device.is_out_of_memory.fetch_xor(true, Ordering::Relaxed);
        }
    }

    fn break_at(&mut self, wire: &Arc<Mutex<Wire>>, end: usize) {
        let ids = wire.lock().unwrap().ids;
        match self.rng.u32(..4) {
            // The end finds out when it next wants to send something.
            0 => wire.lock().unwrap().ways[end].fails = true,
            // It is told.
            1 => self.ends[end].remote.lose(ids[end]),
            // Both are.
            2 => {
                self.ends[end].remote.lose(ids[end]);
                self.ends[1 - end].remote.lose(ids[1 - end]);
            }
            // What is sent is lost; some time later one of them notices.
            _ => wire.lock().unwrap().ways[end].is_cut = true,
        }
    }

    /// What the sessions of both ends do.
    fn look_after_carriers(&mut self) {
        // A cut is noticed sooner or later, and so is that the other end has closed.
        if let Some(wire) = self.wires.last().cloned()
            && self.rng.u32(..50) == 0
        {
            let (ids, cut) = {
                let wire = wire.lock().unwrap();
                let ended = |way: &Way| way.is_cut || way.is_closed;
                (wire.ids, wire.ways.iter().any(ended))
            };
            if cut {
                let end = self.rng.usize(..2);
                self.ends[end].remote.lose(ids[end]);
            }
        }
        let is_late = self.rng.u32(..4) == 0;
        for end in 0..2 {
            if self.ends[end].news.take_lost() {
                assert!(self.ends[end].remote.is_broken());
                if end == ACTIVE {
                    self.wanted = true;
                } else {
                    self.complaints += 1;
                }
            }
        }
        if is_late && self.complaints > 0 {
            self.complaints -= 1;
            self.wanted = true;
        }
        if self.wanted && self.rng.u32(..3) == 0 {
            self.begin();
        }
    }

    /// The active end begins another carrier.
    fn begin(&mut self) {
        self.wanted = false;
        let manners = [Manner::Stream, Manner::Immediate, Manner::Messages];
        let device = self.rng.usize(..2);
        let mut ways = [Way::default(), Way::default()];
        // It may break before it has carried anything.
        if self.chance(self.faults.breaks) {
            ways[self.rng.usize(..2)].is_cut = true;
        }
        let wire = Arc::new(Mutex::new(Wire {
            manner: manners[self.rng.usize(..3)],
            room: self.rng.usize(2..12),
            ways,
            ids: [0, 1].map(|end: usize| self.ends[end].remote.next_carrier()),
            devices: [0, 1].map(|end: usize| self.ends[end].devices[device].clone()),
        }));
        let ids = wire.lock().unwrap().ids;
        let expected = self.ends[1].remote.expect(ids[1], Plug::new(&wire, 1));
        if expected.is_err() {
            // Refused, without memory for it: yet another one.
            self.wanted = true;
            return;
        }
        self.wires.push(wire.clone());
        let begun = self.ends[0].remote.begin(ids[0], Plug::new(&wire, 0));
        match begun {
            Ok(()) => self.resumed += 1,
            // Without memory for it: yet another one.
            Err(_) => {
                self.ends[1].remote.forget_pending(ids[1]);
                self.wanted = true;
            }
        }
        // What is old enough brings nothing any more.
        let old = self.wires.len().saturating_sub(4);
        self.wires.drain(..old);
    }

    /// The next packet of some carrier arrives that comes from `end`.
    fn deliver(&mut self, end: usize) {
        let Some(at) = self.wires.len().checked_sub(1) else {
            return;
        };
        // Mostly of the newest.
        let at = match self.rng.u32(..4) {
            0 => self.rng.usize(..=at),
            _ => at,
        };
        let wire = self.wires[at].clone();
        let (packet, id, device, blocked) = {
            let mut wire = wire.lock().unwrap();
            let other = 1 - end;
            let (id, device) = (wire.ids[other], wire.devices[other].clone());
            // An end that has closed takes nothing.
            let is_deaf = wire.ways[other].is_closed;
            let way = &mut wire.ways[end];
            let packet = way.packets.pop_front().filter(|_| !is_deaf);
            let blocked = std::mem::take(&mut way.is_blocked);
            (packet, id, device, blocked)
        };
        if let Some(packet) = packet {
            self.arrive(end, &wire, packet, id, &device);
        }
        if blocked {
            self.ends[end].remote.flush();
        }
    }

    fn arrive(
        &mut self,
        from: usize,
        wire: &Arc<Mutex<Wire>>,
        packet: Packet,
        id: u32,
        device: &crate::memory::Device,
    ) {
        let remote = self.ends[1 - from].remote.clone();
        let manner = wire.lock().unwrap().manner;
        let heard = match packet {
            Packet::Message(message) => {
                self.switches += u64::from(matches!(message, Message::Switch(_)));
                remote.hear(id, message)
            }
            Packet::Ring(pieces, news) if manner == Manner::Stream => {
                let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.get()).collect();
                let News::Progress(progress) = news else {
                    unreachable!("a stream has no immediate data");
                };
                let at = progress.produced - bytes.len() as u64;
                remote
                    .place(id, at, &bytes)
                    .and_then(|()| remote.hear(id, Message::Progress(progress)))
            }
            Packet::Ring(pieces, news) => {
                for piece in &pieces {
                    device.write(piece.rkey, piece.to, &piece.get());
                }
                // The carrier may break just before the news.
                if self.chance(self.faults.breaks) {
                    wire.lock().unwrap().ways[from].packets.clear();
                    wire.lock().unwrap().ways[from].is_cut = true;
                    return;
                }
                match news {
                    News::Progress(progress) => remote.hear(id, Message::Progress(progress)),
                    News::Immediate(bits) => {
                        remote.hear_immediate(id, Immediate::parse(bits));
                        Ok(())
                    }
                }
            }
        };
        assert!(heard.is_ok(), "an honest peer was turned away");
    }

    /// An end that believes that its peer has everything is right.
    fn check_settled(&mut self) {
        for end in 0..2 {
            let (own, other) = (&self.ends[end], &self.ends[1 - end]);
            if own.remote.is_settled() && !own.link.owes() {
                other.poll();
                for conn in 0..CONNS {
                    assert_eq!(own.sent[conn], other.arrived(conn), "connection {conn}");
                }
            }
        }
    }

    /// Nothing goes wrong any more: everything that was sent arrives, and some more.
    pub fn calm(&mut self) {
        const MORE: u64 = 60_000;
        self.faults = Faults::NONE;
        let goals = [0, 1].map(|end: usize| self.ends[end].sent.map(|sent| sent + MORE));
        for device in self.ends.iter().flat_map(|end| &end.devices) {
            device.is_out_of_memory.store(false, Ordering::Relaxed);
        }
        for _ in 0..20_000 {
            let [a, b] = &self.ends;
            let done = a.received == goals[1] && b.received == goals[0];
            if done && a.remote.is_settled() && b.remote.is_settled() {
                self.broken = self.ends.iter().map(|end| end.news.losses()).sum();
                return;
            }
            for (end, goal) in goals.iter().enumerate() {
                self.deliver(end);
                self.ends[end].flush();
                self.ends[end].poll();
                let conn = self.rng.usize(..CONNS);
                let left = goal[conn] - self.ends[end].sent[conn];
                self.ends[end].send(conn, left.min(1 << 14) as usize);
                self.ends[end].receive(conn, 1 << 14, self.seeds[1 - end]);
                if self.rng.u32(..100) == 0 {
                    self.ends[end].remote.ping();
                }
            }
            self.check_settled();
            self.look_after_carriers();
        }
        let state = |end: &End| {
            format!(
                "sent {:?}, received {:?}, broken {}, settled {}",
                end.sent,
                end.received,
                end.remote.is_broken(),
                end.remote.is_settled()
            )
        };
        let states: Vec<String> = self.ends.iter().map(state).collect();
        panic!("it stands still: {states:#?}");
    }

    /// The active end begins another carrier, on which both say how far they are.
    pub fn replace(&mut self) {
        self.begin();
        for end in [0, 1, 0, 1] {
            self.deliver(end);
        }
    }

    /// The most rings that one device has lent to one end.
    pub fn leased(&self) -> usize {
        let devices = self.ends.iter().flat_map(|end| &end.devices);
        devices.map(|device| device.leased()).max().unwrap_or(0)
    }

    /// The link is over: all memory is given back.
    pub fn end(self) {
        let leased = self.leased();
        assert!(leased <= 4, "{leased} rings are kept");
        let World { ends, wires, .. } = self;
        let devices = ends.each_ref().map(|end| end.devices.clone());
        for end in &ends {
            end.end();
        }
        drop((ends, wires));
        for device in devices.iter().flatten() {
            assert_eq!(device.leased(), 0, "rings outlive their link");
        }
    }
}
