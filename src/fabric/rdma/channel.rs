//! A queue pair that carries a link: its work requests, its receives, and what both ends know of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use parking_lot::Mutex;

use super::engine::Engine;
use super::memory::region_of;
use crate::fabric::FabricKind;
use crate::fabric::remote::carrier::{Batch, Carrier, MOST_PIECES, Posted, Ring, RingSource};
use crate::fabric::remote::message::{Immediate, MESSAGE, Message};
use crate::fabric::remote::{MOST_PAYLOAD, Remote};
use crate::stats::{self, LinkStats};
use crate::verbs::Error;
use crate::verbs::cm::CmId;
use crate::verbs::device::Device;
use crate::verbs::pool::{Region, RemoteAddress};
use crate::verbs::qp::{Payload, QpSetup, QueuePair, SendOp, Slots, Verb};

/// Room for a message, in bytes: receives are as long, and sends begin at multiples of it.
const SLOT: usize = 64;
const _: () = assert!(MESSAGE <= SLOT);

/// Credits that only messages may use, so that news of credits can always go.
const RESERVE: u32 = 2;

/// Most ring bytes of one batch: the peer works on it while the next one is being collected.
const BATCH: u64 = 256 << 10;
const _: () = assert!(BATCH <= Immediate::MOST_PRODUCED && BATCH > MOST_PAYLOAD as u64);

/// A work request of so many bytes makes a completion. (Linux's siw sends what makes none page by page and the checksum
/// of each segment in a packet of its own: "siw_qp_tx.c", `use_sendpage`.)
const LARGE: usize = 4096;

/// What both ends told each other when they connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Receives that the sender of the greeting posts.
    pub depth: u16,
    /// Whether it can do with immediate data.
    pub immediate: bool,
}

impl Greeting {
    /// Its bytes.
    pub fn encode(&self) -> [u8; 3] {
        let [low, high] = self.depth.to_le_bytes();
        [low, high, u8::from(self.immediate)]
    }

    /// The greeting in `bytes`; `None`: it is none, or more receives than anybody posts.
    pub fn parse(bytes: &[u8]) -> Option<Greeting> {
        let [low, high, immediate @ (0 | 1)] = *bytes else {
            return None;
        };
        let depth = u16::from_le_bytes([low, high]);
        (8..=4096).contains(&depth).then_some(Greeting {
            depth,
            immediate: immediate == 1,
        })
    }
}

/// See the module. The numbers of messages wrap.
pub struct Channel {
    qp: QueuePair,
    engine: Arc<Engine>,
    remote: Arc<Remote>,
    /// The carrier's number at its link's end.
    pub id: u32,
    key: AtomicU32,
    depth: u32,
    /// Receive slots, then send slots.
    messages: Region,
    /// Mirrors that work requests name. The device may read them until the queue pair is gone, whatever the peer says
    /// that it has; there are few, each larger than the one before. (Dropped after `qp`.)
    mirrors: Mutex<Vec<Arc<Ring>>>,
    peer_depth: AtomicU32,
    immediate: AtomicBool,
    /// Places in the send queue that are free.
    room: AtomicU32,
    /// Messages (and writes with immediate data) that were posted.
    sent: AtomicU32,
    /// How many of those the peer has taken in and made room for, by its word.
    peer_taken: AtomicU32,
    /// Messages of the peer that were taken in and made room for.
    taken: AtomicU32,
    /// What the peer knows of that.
    told_taken: AtomicU32,
    /// A post found no room.
    blocked: AtomicBool,
    closed: AtomicBool,
}

impl Channel {
    /// Makes the queue pair of `cm` on `engine` and posts its receives.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(
        engine: &Arc<Engine>,
        cm: &Arc<CmId>,
        remote: &Arc<Remote>,
        depth: u32,
    ) -> Result<Arc<Channel>, Error> {
        let setup = QpSetup {
            send_depth: depth,
            recv_depth: depth,
            max_inline: engine.device().attributes().max_inline,
        };
        let messages = engine.memory().pool().allocate(2 * depth as usize * SLOT)?;
        let qp = QueuePair::create(cm, engine.cq(), engine.cq(), setup)?;
        let channel = Arc::new(Channel {
            qp,
            engine: engine.clone(),
            remote: remote.clone(),
            id: remote.next_carrier(),
            key: AtomicU32::new(0),
            depth,
            messages,
            mirrors: Mutex::default(),
            peer_depth: AtomicU32::new(0),
            immediate: AtomicBool::new(false),
            room: AtomicU32::new(depth),
            sent: AtomicU32::new(0),
            peer_taken: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            told_taken: AtomicU32::new(0),
            blocked: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        let key = engine.admit(&channel);
        channel.key.store(key, Ordering::Relaxed);
        let slots = channel.receive_slots(0);
        let posted = channel
            .qp
            .post_receives(channel.receive_id(0), slots, depth as usize);
        if posted.is_err() {
            channel.shut();
            return Err(Error::OtherDevice);
        }
        stats::add(&stats::global().qps_made, 1);
        stats::add(&stats::global().qps_now, 1);
        stats::add(&engine.memory().pool().page().qps_now, 1);
        Ok(channel)
    }

    /// What to tell the peer at first.
    pub fn greeting(&self) -> Greeting {
        Greeting {
            depth: self.depth as u16,
            immediate: self.engine.device().attributes().write_imm,
        }
    }

    /// What the peer told.
    pub fn greeted(&self, by: Greeting) {
        // No more than there are send slots.
        let depth = u32::from(by.depth).min(self.depth);
        self.peer_depth.store(depth, Ordering::Relaxed);
        let both = by.immediate && self.greeting().immediate;
        self.immediate.store(both, Ordering::Relaxed);
    }

    /// Work requests in each of its queues.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// The link's end that it carries.
    pub fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    /// The device that it is on.
    pub fn device(&self) -> &Arc<Device> {
        self.engine.device()
    }

    /// The connection manager's side of it.
    pub fn cm(&self) -> &Arc<CmId> {
        self.qp.id()
    }

    /// It as a carrier.
    pub fn carrier(self: &Arc<Self>) -> Box<dyn Carrier> {
        Box::new(ChannelCarrier {
            channel: self.clone(),
            unsignaled: 0,
            told_freed: 0,
            mirror: None,
            page: None,
        })
    }

    fn receive_slots(&self, index: u32) -> Slots<'_> {
        Slots::Region {
            region: &self.messages,
            offset: index as usize * SLOT,
            size: SLOT,
        }
    }

    fn receive_id(&self, index: u32) -> u64 {
        Engine::work_id(self.key.load(Ordering::Relaxed), true, index)
    }

    /// A receive has completed: the message in it, if it was not a mere write.
    pub fn message(&self, index: u32) -> [u8; MESSAGE] {
        let at = (index % self.depth) as usize * SLOT;
        // SAFETY: the slot lies in the region; the receive has completed, so the device writes it no more
        // (and if it did, these are bytes of the peer, to be checked anyway).
        unsafe {
            self.messages
                .base()
                .add(at)
                .cast::<[u8; MESSAGE]>()
                .read_volatile()
        }
    }

    /// The peer has taken in as many of our messages.
    pub fn peer_took(&self, more: u32) {
        // What it cannot have taken is nobody's credit.
        let taken = self.peer_taken.load(Ordering::Relaxed);
        let due = self.sent.load(Ordering::Relaxed).wrapping_sub(taken);
        self.peer_taken
            .store(taken.wrapping_add(more.min(due)), Ordering::SeqCst);
    }

    /// The peer says how many of our messages it has taken in altogether.
    pub fn peer_has_taken(&self, all: u32) {
        let taken = self.peer_taken.load(Ordering::Relaxed);
        let more = all.wrapping_sub(taken);
        // Less than before is no news.
        if more.cast_signed() > 0 {
            self.peer_took(more);
        }
    }

    /// Work requests have completed.
    pub fn completed(&self, count: u32) {
        self.room.fetch_add(count, Ordering::SeqCst);
    }

    /// `count` receives from `first` on were used up and are posted anew. False: the queue pair is of no
    /// further use.
    pub fn replenish(&self, first: u32, count: u32) -> bool {
        let mut left = count;
        let mut from = first;
        while left > 0 {
            // The slots come in a circle.
            let run = left.min(self.depth - from);
            let posted = self.qp.post_receives(
                self.receive_id(from),
                self.receive_slots(from),
                run as usize,
            );
            if posted.is_err() {
                return false;
            }
            left -= run;
            from = (from + run) % self.depth;
        }
        self.taken.fetch_add(count, Ordering::Release);
        true
    }

    /// Whether the peer should be told soon what was taken in.
    pub fn owes_credits(&self) -> bool {
        let untold = self
            .taken
            .load(Ordering::Relaxed)
            .wrapping_sub(self.told_taken.load(Ordering::Relaxed));
        // The peer has no more of them under way than this.
        untold >= (self.peer_depth.load(Ordering::Relaxed) / 2).max(1)
    }

    /// Whether a post found no room, and may find some now.
    pub fn take_blocked(&self) -> bool {
        fence(Ordering::SeqCst);
        self.blocked.load(Ordering::Relaxed) && self.blocked.swap(false, Ordering::SeqCst)
    }

    /// Receives that the peer has free, but for `reserve`, and places in the send queue, are at least `wrs`.
    fn has_room(&self, wrs: u32, reserve: u32) -> bool {
        let fits = || {
            let under_way = self
                .sent
                .load(Ordering::Relaxed)
                .wrapping_sub(self.peer_taken.load(Ordering::SeqCst));
            self.peer_depth.load(Ordering::Relaxed) > under_way + reserve
                && self.room.load(Ordering::SeqCst) >= wrs + reserve
        };
        if fits() {
            return true;
        }
        self.blocked.store(true, Ordering::SeqCst);
        // Whoever made room just now may have looked before.
        if fits() {
            self.blocked.store(false, Ordering::SeqCst);
            return true;
        }
        false
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The queue pair's number.
    pub fn qp_number(&self) -> u32 {
        self.qp.number()
    }

    /// Closes it: nothing more comes of it.
    pub fn shut(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            let _ = self.qp.id().disconnect();
            let _ = self.qp.to_error();
            self.engine.dismiss(self.key.load(Ordering::Relaxed));
            stats::add(&stats::global().qps_now, 1u64.wrapping_neg());
            let device = self.engine.memory().pool().page();
            stats::add(&device.qps_now, 1u64.wrapping_neg());
        }
    }
}

/// A channel in the hands of its link's sending half.
struct ChannelCarrier {
    channel: Arc<Channel>,
    /// Work requests that no completion stands for yet.
    unsignaled: u32,
    /// What the peer was told that we gave back.
    told_freed: u64,
    /// The last one that was noted in [`Channel::mirrors`].
    mirror: Option<Arc<Ring>>,
    /// The link's line in the stats page, once it is known. (The lock of its sending half is held.)
    page: Option<&'static LinkStats>,
}

impl ChannelCarrier {
    /// `mirror` stays as long as the queue pair.
    fn keep(&mut self, mirror: &Arc<Ring>) {
        if self.mirror.as_ref().is_some_and(|m| Arc::ptr_eq(m, mirror)) {
            return;
        }
        let mut kept = self.channel.mirrors.lock();
        if !kept.iter().any(|m| Arc::ptr_eq(m, mirror)) {
            kept.push(mirror.clone());
        }
        self.mirror = Some(mirror.clone());
    }

    /// Posts `ops`, the last of which announces something. One of a few makes a completion, whose number
    /// says for how many places in the queue it stands.
    fn post_ops(&mut self, ops: &mut [SendOp<'_>]) -> Posted {
        let channel = &*self.channel;
        let count = ops.len() as u32;
        let left = channel.room.fetch_sub(count, Ordering::SeqCst) - count;
        let full = left <= RESERVE + MOST_PIECES as u32;
        let key = channel.key.load(Ordering::Relaxed);
        for (at, op) in ops.iter_mut().enumerate() {
            self.unsignaled += 1;
            let last = at + 1 == count as usize;
            if op.payload.size() >= LARGE || last && (self.unsignaled >= channel.depth / 4 || full)
            {
                op.signaled = true;
                op.wr_id = Engine::work_id(key, false, self.unsignaled);
                self.unsignaled = 0;
            }
        }
        self.page = self.page.or_else(|| Some(channel.remote.link()?.stats));
        match self.page {
            Some(page) => {
                stats::bump(&page.work_requests, u64::from(count));
                stats::bump(&page.doorbells, 1);
            }
            None => {
                stats::add(&stats::global().work_requests, u64::from(count));
                stats::add(&stats::global().doorbells, 1);
            }
        }
        // Before the peer can answer: what it takes in beyond what was sent is not believed.
        channel.sent.fetch_add(1, Ordering::SeqCst);
        match channel.qp.post(ops) {
            Ok(()) => Posted::Done,
            Err(refused) => {
                tracing::info!(target: "netacc::rdma", "a queue pair fails: {refused}");
                Posted::Failed
            }
        }
    }
}

impl Channel {
    /// Puts a message into a send slot and makes an operation of it.
    fn message_op(&self, message: &Message) -> SendOp<'_> {
        let taken = self.taken.load(Ordering::Acquire);
        let slot = self.depth + self.sent.load(Ordering::Relaxed) % self.depth;
        let offset = slot as usize * SLOT;
        let bytes = message.encode(taken);
        self.told_taken.store(taken, Ordering::Relaxed);
        // SAFETY: the slot lies in the region; the message that was in it before has been taken in by the
        // peer, for no more than `depth` of them are under way.
        unsafe {
            self.messages
                .base()
                .add(offset)
                .cast::<[u8; MESSAGE]>()
                .write_volatile(bytes);
        }
        SendOp {
            wr_id: 0,
            verb: Verb::Send,
            payload: Payload::Region {
                region: &self.messages,
                offset,
                len: MESSAGE,
            },
            signaled: false,
            solicited: false,
        }
    }
}

/// A chain of work requests, built on the stack.
type Chain<'a> = arrayvec::ArrayVec<SendOp<'a>, { MOST_PIECES + 1 }>;

impl Carrier for ChannelCarrier {
    fn kind(&self) -> FabricKind {
        FabricKind::Verbs
    }

    fn queue_pair(&self) -> (u32, Option<usize>) {
        let device = self.channel.engine.memory().pool().page().index();
        (self.channel.qp_number(), device)
    }

    fn limits(&self) -> (u64, usize) {
        (BATCH, MOST_PIECES)
    }

    fn post(&mut self, batch: &mut Batch<'_>) -> Posted {
        let channel = self.channel.clone();
        let mut ops = Chain::new();
        let mut bytes = 0;
        for piece in batch.pieces.iter().flatten() {
            let Some(region) = region_of(piece.mirror) else {
                return Posted::Failed;
            };
            bytes += u64::from(piece.len);
            ops.push(SendOp {
                wr_id: 0,
                verb: Verb::Write(RemoteAddress {
                    address: piece.to,
                    rkey: piece.rkey,
                }),
                payload: Payload::Region {
                    region,
                    offset: piece.offset,
                    len: piece.len as usize,
                },
                signaled: false,
                solicited: false,
            });
        }
        if !channel.has_room(ops.len() as u32 + 1, RESERVE) {
            return Posted::Full;
        }
        for piece in batch.pieces.iter().flatten() {
            self.keep(piece.mirror);
        }
        if channel.immediate.load(Ordering::Relaxed) {
            let taken = channel.taken.load(Ordering::Acquire);
            let told = channel.told_taken.load(Ordering::Relaxed);
            let freed = batch.progress.freed - self.told_freed;
            let news = Immediate::of(bytes, freed, taken.wrapping_sub(told));
            let told = told.wrapping_add(news.taken);
            channel.told_taken.store(told, Ordering::Relaxed);
            self.told_freed += u64::from(news.freed);
            if let Some(last) = ops.last_mut()
                && let Verb::Write(to) = last.verb
            {
                last.verb = Verb::WriteImm(to, news.encode());
            }
        } else {
            self.told_freed = batch.progress.freed;
            ops.push(channel.message_op(&Message::Progress(batch.progress)));
        }
        batch.progress.freed = self.told_freed;
        self.post_ops(&mut ops)
    }

    fn tell(&mut self, message: &Message) -> Posted {
        let channel = self.channel.clone();
        if !channel.has_room(1, 0) {
            return Posted::Full;
        }
        match message {
            Message::Resume { freed, .. } => self.told_freed = *freed,
            Message::Progress(progress) => self.told_freed = progress.freed,
            _ => {}
        }
        stats::add(&stats::global().messages_sent, 1);
        let op = channel.message_op(message);
        self.post_ops(&mut [op])
    }

    fn is_idle(&self) -> bool {
        let taken = self.channel.peer_taken.load(Ordering::Relaxed);
        self.channel.sent.load(Ordering::Relaxed) == taken
    }

    fn close(&mut self) {
        self.channel.shut();
    }

    fn rings(&self) -> Arc<dyn RingSource> {
        self.channel.engine.memory().clone()
    }
}
