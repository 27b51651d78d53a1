//! A completion queue, the channels whose work completes on it, and whoever polls it.
//!
//! A work request's number says whether it is a receive (the top bit), which channel it is of (31 bits: a place
//! in the engine's table and a generation, for places are used again, and late completions of a former channel
//! are nobody's), and in the lower half the receive's slot, or how many places in the send queue the completion
//! stands for.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use rustix::event::epoll::{self, EventData};
use rustix::fd::{AsFd, BorrowedFd, RawFd};

use super::channel::Channel;
use super::memory::Memory;
use crate::conn::Violation;
use crate::fabric::network;
use crate::fabric::remote::Remote;
use crate::fabric::remote::message::{Immediate, Message};
use crate::verbs::Error;
use crate::verbs::cq::{Completion, Cq, Work};
use crate::verbs::device::Device;

/// Completions taken out at a time.
const AT_A_TIME: usize = 32;
/// Completions that a queue should have room for.
const CAPACITY: u32 = 4096;

/// The next completion raises no event.
const IDLE: u8 = 0;
/// Somebody is about to ask for one.
const ARMING: u8 = 1;
/// It does.
const ARMED: u8 = 2;

const SLOT_BITS: u32 = 16;
const RECEIVE: u64 = 1 << 63;

struct Table {
    places: Vec<(u32, Option<Arc<Channel>>)>,
    free: Vec<u32>,
    /// Completions that may come, at most.
    reserved: u32,
}

/// See the module.
pub struct Engine {
    device: Arc<Device>,
    cq: Arc<Cq>,
    memory: Arc<Memory>,
    table: RwLock<Table>,
    polling: Mutex<[Completion; AT_A_TIME]>,
    /// Somebody found the lock taken, and relies on its holder to look once more.
    wanted: AtomicBool,
    /// [`IDLE`], [`ARMING`] or [`ARMED`].
    armed: AtomicU8,
    failed: AtomicBool,
    /// The epoll of the I/O thread that sleeps on its events, and under which data it is there.
    home: OnceLock<(RawFd, u64)>,
}

impl Engine {
    /// On `device`, for channels whose rings come from `memory`. `vector` spreads engines over interrupts.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(
        device: &Arc<Device>,
        memory: &Arc<Memory>,
        vector: u32,
    ) -> Result<Arc<Engine>, Error> {
        let capacity = CAPACITY.min(device.attributes().max_cqe);
        Ok(Arc::new(Engine {
            device: device.clone(),
            cq: Arc::new(Cq::create(device, capacity, vector)?),
            memory: memory.clone(),
            table: RwLock::new(Table {
                places: Vec::new(),
                free: Vec::new(),
                reserved: 0,
            }),
            polling: Mutex::new([const { Completion::EMPTY }; AT_A_TIME]),
            wanted: AtomicBool::new(false),
            armed: AtomicU8::new(IDLE),
            failed: AtomicBool::new(false),
            home: OnceLock::new(),
        }))
    }

    /// The number of a work request.
    pub fn work_id(key: u32, receive: bool, count: u32) -> u64 {
        let kind = if receive { RECEIVE } else { 0 };
        kind | u64::from(key) << 32 | u64::from(count)
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Where its channels' rings come from.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The queue.
    pub fn cq(&self) -> &Arc<Cq> {
        &self.cq
    }

    /// Whether a channel with queues of `depth` still fits.
    pub fn has_room(&self, depth: u32) -> bool {
        !self.failed.load(Ordering::Relaxed)
            && self.table.read().reserved + 2 * depth <= self.cq.capacity()
    }

    /// Whether nothing is on it.
    pub fn is_unused(&self) -> bool {
        self.table.read().reserved == 0
    }

    /// Takes a channel in; gives it its key.
    pub fn admit(&self, channel: &Arc<Channel>) -> u32 {
        let mut table = self.table.write();
        table.reserved += 2 * channel.depth();
        let slot = match table.free.pop() {
            Some(slot) => slot,
            None => {
                table.places.push((0, None));
                table.places.len() as u32 - 1
            }
        };
        let place = &mut table.places[slot as usize];
        place.1 = Some(channel.clone());
        place.0 << SLOT_BITS | slot
    }

    /// A channel is closed: what still completes of it is nobody's.
    pub fn dismiss(&self, key: u32) {
        let mut table = self.table.write();
        let slot = key & ((1 << SLOT_BITS) - 1);
        let Some(place) = table.places.get_mut(slot as usize) else {
            return;
        };
        if place.0 != key >> SLOT_BITS {
            return;
        }
        place.0 = (place.0 + 1) & ((1 << (31 - SLOT_BITS)) - 1);
        if let Some(channel) = place.1.take() {
            table.reserved -= 2 * channel.depth();
            table.free.push(slot);
        }
    }

    fn channel(&self, key: u32) -> Option<Arc<Channel>> {
        let table = self.table.read();
        let (generation, channel) = table.places.get(key as usize & ((1 << SLOT_BITS) - 1))?;
        (*generation == key >> SLOT_BITS)
            .then(|| channel.clone())
            .flatten()
    }

    /// It is watched in `epfd` under `data` by an I/O thread.
    pub fn is_at_home_in(&self, epfd: RawFd, data: u64) {
        let _ = self.home.set((epfd, data));
    }

    /// The descriptor has input, up to `most` events of which are taken: the queue is no longer armed. The caller gathers, then has somebody arm it.
    pub fn take_events(&self, most: u32) {
        let taken = self.cq.take_events(most);
        // Afterwards: an event that was taken here may be that of an arming by somebody else meanwhile.
        self.armed.store(IDLE, Ordering::SeqCst);
        if taken.is_err() {
            self.fail();
        }
    }

    /// Everything on it is lost.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        let channels: Vec<_> = {
            let table = self.table.read();
            table.places.iter().filter_map(|(_, c)| c.clone()).collect()
        };
        for channel in channels {
            channel.remote().lose(channel.id);
        }
    }

    fn drain(&self, completions: &mut [Completion], touched: &mut Vec<Arc<Remote>>) {
        let mut batch = Batch::default();
        loop {
            let Ok(count) = self.cq.poll(completions) else {
                return self.fail();
            };
            for completion in &completions[..count] {
                batch.take(self, completion, touched);
            }
            if count < completions.len() {
                break;
            }
        }
        batch.finish(touched);
    }
}

impl network::Engine for Engine {
    fn event_fd(&self) -> BorrowedFd<'_> {
        self.cq.as_fd()
    }

    fn take_event(&self) {
        if self.armed.load(Ordering::Relaxed) != IDLE {
            // There is one, as a rule; what is left is taken once in a while ([`Network::make_sure`](network::Network::make_sure)).
            self.take_events(1);
        }
    }

    fn take_all(&self) {
        self.take_events(u32::MAX);
    }

    fn queue_up(&self) {
        if let Some((epfd, data)) = self.home.get() {
            let epfd = crate::real::sys::borrow(*epfd);
            let _ = epoll::delete(epfd, self.as_fd());
            let data = EventData::new_u64(*data);
            let _ = epoll::add(epfd, self.as_fd(), data, network::EVENTS);
        }
    }

    fn gather(&self, touched: &mut Vec<Arc<Remote>>) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        loop {
            self.wanted.store(true, Ordering::SeqCst);
            let Some(mut completions) = self.polling.try_lock() else {
                return;
            };
            self.wanted.store(false, Ordering::SeqCst);
            self.drain(&mut completions[..], touched);
            drop(completions);
            fence(Ordering::SeqCst);
            if !self.wanted.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    fn arm(&self) {
        if self.failed.load(Ordering::Relaxed) || self.armed.load(Ordering::SeqCst) == ARMED {
            return;
        }
        // Whoever comes meanwhile arms as well: it may rely on it only once the device knows.
        self.armed.store(ARMING, Ordering::SeqCst);
        if self.cq.arm(false).is_err() {
            return self.fail();
        }
        let _ = self
            .armed
            .compare_exchange(ARMING, ARMED, Ordering::SeqCst, Ordering::SeqCst);
    }
}

impl AsFd for Engine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.cq.as_fd()
    }
}

/// Completions of one channel after the other: receives are posted anew, and credits told, for many at once.
#[derive(Default)]
struct Batch {
    channel: Option<(u32, Arc<Channel>)>,
    first: u32,
    received: u32,
}

impl Batch {
    fn take(&mut self, engine: &Engine, completion: &Completion, touched: &mut Vec<Arc<Remote>>) {
        let number = completion.wr_id();
        let (key, count) = ((number & !RECEIVE) >> 32, number as u32);
        let key = key as u32;
        if self.channel.as_ref().is_none_or(|(known, _)| *known != key) {
            self.finish(touched);
            let Some(channel) = engine.channel(key) else {
                return;
            };
            self.channel = Some((key, channel));
        }
        let Some((_, channel)) = &self.channel else {
            return;
        };
        if let Some(failure) = completion.failure() {
            tracing::info!(target: "netacc::rdma", "a queue pair fails: {failure}");
            let remote = channel.remote();
            remote.lose(channel.id);
            if core::mem::take(&mut self.received) > 0 {
                // What came before it has come.
                touched.push(remote.clone());
            }
            self.channel = None;
            return;
        }
        if number & RECEIVE == 0 {
            channel.completed(count);
            return;
        }
        if self.received == 0 {
            self.first = count;
        }
        self.received += 1;
        if hear(channel, completion, count).is_err() {
            // What cannot be is the link's to end.
            if let Some(link) = channel.remote().link() {
                link.retire(crate::real::sys::Errno::CONNRESET, true);
            }
        }
    }

    fn finish(&mut self, touched: &mut Vec<Arc<Remote>>) {
        let Some((_, channel)) = self.channel.take() else {
            return;
        };
        let received = core::mem::take(&mut self.received);
        let remote = channel.remote();
        if received > 0 {
            if !channel.replenish(self.first, received) {
                remote.lose(channel.id);
            } else if channel.owes_credits() {
                remote.acknowledge(channel.id);
            }
            touched.push(remote.clone());
        }
        if channel.take_blocked() {
            remote.flush();
        }
    }
}

fn hear(channel: &Channel, completion: &Completion, slot: u32) -> Result<(), Violation> {
    let remote = channel.remote();
    match (completion.work(), completion.imm()) {
        (Work::ReceiveWriteImm, Some(bits)) => {
            let news = Immediate::parse(bits);
            channel.peer_took(news.taken);
            remote.hear_immediate(channel.id, news);
            Ok(())
        }
        (Work::Receive, _) => {
            let (message, taken) = Message::parse(&channel.message(slot)).map_err(|_| Violation)?;
            channel.peer_has_taken(taken);
            remote.hear(channel.id, message)
        }
        _ => Err(Violation),
    }
}
