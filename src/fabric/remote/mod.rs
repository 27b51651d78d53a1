//! Links to other hosts: the sender writes records into a *mirror* of the peer's ring, and a
//! [`Carrier`] (a queue pair, or a byte stream) moves them there, many records at a time.
//!
//! A link outlives its carriers. The mirror holds what the peer has not given back; when a carrier
//! breaks, the next one begins with each side saying how far it has received
//! ([`Message::Resume`]), and goes on from there: no byte is lost, and none comes twice.
//!
//! Rings begin with [`FIRST_RING`] bytes at every end. A sender that finds one half full asks for a larger one and
//! says how large a mirror it would make ([`Message::Full`]); the receiver offers it, and the sender switches when it
//! has no room left. So a mirror is always as large as the ring that it stands for, and neither is larger than what its
//! owner agreed to.
//!
//! Lock order: a link's `tx`, then `sending`, then `receiving`.

pub mod carrier;
mod end;
pub mod message;
mod receiving;
mod rings;
mod sending;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, MutexGuard};

use super::FabricKind;
use crate::conn::Violation;
use crate::link::Link;
use crate::real::sys::Errno;
use carrier::{Carrier, Posted, Ring, RingSource};
pub use end::End;
use message::{Immediate, Message, RemoteRing};
use receiving::Receiving;
use rings::Rings;
use sending::Sending;

/// What a remote end needs of its surroundings: whoever flushes later, and repairs.
pub trait Hub: Send + Sync {
    /// Bytes wait in `remote` for a [`flush`](Remote::flush).
    fn defer(&self, remote: &Arc<Remote>);
    /// The carrier of `remote` broke: it needs another one.
    fn lost(&self, remote: &Arc<Remote>);
}

/// Bytes of the first ring of each direction. Part of the protocol: records are written before either end knows
/// anything of the other's ring, and how large they may be follows from its size.
pub const FIRST_RING: usize = 16 << 10;

/// Sizes of a link's rings, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct RingSizes {
    /// After much use: a power of two, at least [`FIRST_RING`].
    pub most: usize,
}

/// The largest payload of a record, in bytes: every carrier moves it in one batch.
pub const MOST_PAYLOAD: usize = 128 << 10;

/// One end of a link over a [`Carrier`].
pub struct Remote {
    hub: &'static dyn Hub,
    kind: FabricKind,
    sizes: RingSizes,
    link: OnceLock<Weak<Link>>,
    /// Bytes before this are in our ring.
    produced: AtomicU64,
    /// We gave the bytes before this back.
    released: AtomicU64,
    /// The peer gave the bytes before this back.
    freed: AtomicU64,
    /// It waits for a flush.
    dirty: AtomicBool,
    /// There is no carrier, and somebody has been told.
    broken: AtomicBool,
    /// Something came from the peer since this was last taken back.
    heard: AtomicBool,
    /// What was posted when the last ping went out; `u64::MAX`: none on this carrier.
    asked: AtomicU64,
    /// The peer is known to have the bytes before this in its ring.
    confirmed: AtomicU64,
    /// Number of the last carrier.
    carriers: AtomicU64,
    receiving: Mutex<Receiving>,
    sending: Mutex<Sending>,
}

impl Remote {
    /// An end without a carrier, its rings from `source`.
    ///
    /// # Errors
    /// What the source of rings says.
    pub fn new(
        hub: &'static dyn Hub,
        kind: FabricKind,
        sizes: RingSizes,
        source: &dyn RingSource,
    ) -> Result<Arc<Remote>, Errno> {
        Ok(Arc::new(Remote {
            hub,
            kind,
            sizes,
            link: OnceLock::new(),
            produced: AtomicU64::new(0),
            released: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            broken: AtomicBool::new(true),
            heard: AtomicBool::new(false),
            asked: AtomicU64::new(u64::MAX),
            confirmed: AtomicU64::new(0),
            carriers: AtomicU64::new(0),
            receiving: Mutex::new(Receiving::new(source.ring(FIRST_RING)?)),
            sending: Mutex::new(Sending::new(source.ring(FIRST_RING)?)),
        }))
    }

    /// The link whose fabric this is.
    pub fn attach(&self, link: &Arc<Link>) {
        let _ = self.link.set(Arc::downgrade(link));
    }

    /// The link whose fabric this is, while it is there.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.link.get().and_then(Weak::upgrade)
    }

    /// A number for a carrier to come.
    pub fn next_carrier(&self) -> u32 {
        self.carriers.fetch_add(1, Ordering::Relaxed) as u32 + 1
    }

    /// Speaks first on `carrier`. From here on nothing is taken from the one before. A link that is over closes it.
    ///
    /// # Errors
    /// No memory that the carrier can reach: it is closed, and the one before goes on.
    pub fn begin(self: &Arc<Self>, id: u32, carrier: Box<dyn Carrier>) -> Result<(), Errno> {
        self.begin_with(id, carrier, Rings::default())
    }

    /// The same, with what was made of its rings already.
    fn begin_with(
        self: &Arc<Self>,
        id: u32,
        mut carrier: Box<dyn Carrier>,
        mut rings: Rings,
    ) -> Result<(), Errno> {
        let source = carrier.rings();
        let outcome = {
            let mut sending = self.sending.lock();
            if sending.shut {
                carrier.close();
                return Ok(());
            }
            let mut receiving = self.receiving.lock();
            if let Err(error) = rings.complete(&sending, &receiving, &*source) {
                carrier.close();
                return Err(error);
            }
            if let Some(link) = self.link() {
                let kind = carrier.kind().stats() as u32;
                link.stats.fabric.store(kind, Ordering::Relaxed);
                let (number, device) = carrier.queue_pair();
                link.stats.set_carrier(number, device);
            }
            sending.spare = rings.mirror;
            // First of all: it may still write to the rings.
            if let Some(mut old) = sending.carrier.replace(carrier) {
                old.close();
            }
            let got = self.produced.load(Ordering::Relaxed);
            let freed = self.released.load(Ordering::Relaxed);
            let ring = receiving.begin(id, got, rings.ring);
            receiving.freed(freed);
            drop(receiving);
            sending.id = id;
            sending.resumed = false;
            sending.queue.clear();
            sending.told_freed = freed;
            sending
                .queue
                .push_back(Message::Resume { got, freed, ring });
            self.broken.store(false, Ordering::Relaxed);
            sending.flush(freed)
        };
        self.settle(id, outcome);
        Ok(())
    }

    /// The peer is to speak first on `carrier`. A link that is over closes it.
    ///
    /// # Errors
    /// No memory that the carrier can reach: it is closed.
    pub fn expect(&self, id: u32, carrier: Box<dyn Carrier>) -> Result<(), Errno> {
        // Now, while the peer can still be told that there is none.
        let mut rings = Rings::default();
        let source = carrier.rings();
        let (outcome, unwanted) = {
            let mut sending = self.sending.lock();
            let outcome = rings.complete(&sending, &self.receiving.lock(), &*source);
            match sending.shut || outcome.is_err() {
                true => (outcome, Some(carrier)),
                false => {
                    let former = sending.pending.replace((id, carrier, rings));
                    (outcome, former.map(|(_, carrier, _)| carrier))
                }
            }
        };
        if let Some(mut unwanted) = unwanted {
            unwanted.close();
        }
        outcome
    }

    /// Takes a carrier back on which the peer has not spoken.
    pub fn forget_pending(&self, id: u32) {
        let mut sending = self.sending.lock();
        if sending.pending.as_ref().is_some_and(|p| p.0 == id)
            && let Some((_, mut old, _)) = sending.pending.take()
        {
            old.close();
        }
    }

    /// A message came on carrier `id`. Messages of one carrier come in their order.
    ///
    /// # Errors
    /// [`Violation`]: the peer says what cannot be.
    pub fn hear(self: &Arc<Self>, id: u32, message: Message) -> Result<(), Violation> {
        if let Message::Resume { got, freed, ring } = message {
            return self.resume(id, got, freed, ring);
        }
        self.heard.store(true, Ordering::Relaxed);
        match message {
            Message::Progress(news) => {
                let receiving = self.receiving.lock();
                if receiving.carrier != id {
                    return Ok(());
                }
                self.produced.store(news.produced, Ordering::Release);
                drop(receiving);
                self.peer_freed(id, |_| news.freed);
            }
            Message::Switch(at) => {
                let mut receiving = self.receiving.lock();
                if receiving.carrier == id
                    && (at != self.produced.load(Ordering::Relaxed) || !receiving.switch(at))
                {
                    return Err(Violation);
                }
            }
            Message::Offer(ring) => {
                let mut sending = self.sending.lock();
                if sending.id == id {
                    let sizes = sending.mirror().memory.size + 1..=self.sizes.most;
                    if sending.has_offer()
                        || sending.is_switching()
                        || !sizes.contains(&(ring.size as usize))
                    {
                        return Err(Violation);
                    }
                    sending.offer = Some(ring);
                }
            }
            Message::Ping(at) => {
                let mut sending = self.sending.lock();
                if sending.id == id {
                    sending.queue.retain(|m| !matches!(m, Message::Pong(_)));
                    sending.queue.push_back(Message::Pong(at));
                    drop(sending);
                    self.flush();
                }
            }
            // It may come late, after more was sent, or on a carrier that is given up: it says what it says.
            Message::Pong(at) => {
                self.confirmed.fetch_max(at, Ordering::Release);
            }
            Message::Full(most) => {
                let mut sending = self.sending.lock();
                if sending.id == id && sending.resumed {
                    self.grow_ring(&mut sending, most);
                    drop(sending);
                    self.flush();
                }
            }
            Message::Broken(_) | Message::Resume { .. } => {}
        }
        Ok(())
    }

    /// News that came with ring bytes on carrier `id`.
    pub fn hear_immediate(&self, id: u32, news: Immediate) {
        self.heard.store(true, Ordering::Relaxed);
        {
            // Under the lock: whoever begins with another carrier says how far this one came.
            let receiving = self.receiving.lock();
            if receiving.carrier != id {
                return;
            }
            let produced = self.produced.load(Ordering::Relaxed);
            let produced = produced.wrapping_add(u64::from(news.produced));
            self.produced.store(produced, Ordering::Release);
        }
        if news.freed > 0 {
            self.peer_freed(id, |known| known.saturating_add(u64::from(news.freed)));
        }
    }

    /// What goes back, or further than what was sent, is no news. (What follows from `produced` is for the
    /// link to check.)
    fn peer_freed(&self, id: u32, freed: impl FnOnce(u64) -> u64) {
        let mut sending = self.sending.lock();
        let known = self.freed.load(Ordering::Relaxed);
        let freed = freed(known);
        if sending.id == id && freed > known && freed <= sending.posted {
            self.freed.store(freed, Ordering::Release);
            sending.freed(freed);
        }
    }

    /// The peer has said on carrier `id` where to go on.
    fn resume(
        self: &Arc<Self>,
        id: u32,
        got: u64,
        freed: u64,
        ring: RemoteRing,
    ) -> Result<(), Violation> {
        self.heard.store(true, Ordering::Relaxed);
        let pending = {
            let mut sending = self.sending.lock();
            sending.pending.take_if(|p| p.0 == id)
        };
        if let Some((_, carrier, rings)) = pending
            && self.begin_with(id, carrier, rings).is_err()
        {
            self.lose(id);
            return Ok(());
        }
        let Some(link) = self.link() else {
            return Ok(());
        };
        // The mirror may have to be another one: nobody writes records meanwhile.
        let outcome = link.with_mirror(|| {
            let mut sending = self.sending.lock();
            if sending.id != id || sending.resumed {
                return Ok((Posted::Done, None));
            }
            let known = self.freed.load(Ordering::Relaxed);
            let (kept, size) = (sending.kept_from(), ring.size as usize);
            // A ring that is smaller than the mirror would not hold what is written already.
            let sizes = sending.mirror().memory.size..=self.sizes.most;
            if got > sending.written || freed > got || !sizes.contains(&size) {
                return Err(Violation);
            }
            if got < known.max(kept) || freed < known {
                // Said long ago, and only now delivered: what it asks for has been given back since. Nobody goes
                // on with this carrier.
                return Ok((Posted::Failed, None));
            }
            self.freed.store(freed, Ordering::Release);
            sending.freed(freed);
            // As large as the ring: the peer counts on it when it decides how much to keep.
            let mut memory = None;
            if let Some(source) = sending.carrier.as_ref().map(|c| c.rings())
                && (sending.mirror().source != source.id() || sending.mirror().memory.size < size)
            {
                let spare = sending.spare.take();
                let fits = |spare: &Ring| spare.is_for(size, &*source);
                match spare.filter(fits).map_or_else(|| source.ring(size), Ok) {
                    Ok(mirror) => {
                        memory = Some(mirror.memory);
                        sending.replace_mirrors(got, mirror);
                    }
                    Err(_) => return Ok((Posted::Failed, None)),
                }
            }
            sending.spare = None;
            sending.go_on(got, ring);
            self.asked.store(u64::MAX, Ordering::Relaxed);
            // What was given back while nobody could be told, and nothing more may come that would tell it by the way.
            let released = self.released.load(Ordering::Relaxed);
            let outcome = match released == sending.told_freed {
                true => sending.flush(released),
                false => sending.tell(released),
            };
            Ok((outcome, memory))
        })?;
        self.settle(id, outcome);
        Ok(())
    }

    /// Hands the carrier what waits.
    pub fn flush(self: &Arc<Self>) {
        self.flush_with(self.sending.lock());
    }

    /// The same, unless another thread is at it: false then.
    pub fn try_flush(self: &Arc<Self>) -> bool {
        self.sending
            .try_lock()
            .map(|sending| self.flush_with(sending))
            .is_some()
    }

    fn flush_with(self: &Arc<Self>, mut sending: MutexGuard<'_, Sending>) {
        self.dirty.store(false, Ordering::Relaxed);
        let freed = self.released.load(Ordering::Relaxed);
        let (id, outcome) = (sending.id, sending.flush(freed));
        drop(sending);
        self.settle(id, outcome);
    }

    fn settle(self: &Arc<Self>, id: u32, outcome: Posted) {
        if outcome == Posted::Failed {
            self.lose(id);
        }
    }

    /// Carrier `id` is broken.
    pub fn lose(self: &Arc<Self>, id: u32) {
        let lost = {
            let mut sending = self.sending.lock();
            if sending.pending.as_ref().is_some_and(|p| p.0 == id) {
                sending.pending.take().map(|(_, carrier, _)| carrier)
            } else if sending.id == id {
                sending.resumed = false;
                sending.carrier.take()
            } else {
                None
            }
        };
        let Some(mut carrier) = lost else { return };
        carrier.close();
        if self.sending.lock().carrier.is_none() && !self.broken.swap(true, Ordering::AcqRel) {
            self.hub.lost(self);
        }
    }

    /// Tells the peer on carrier `id` how far we are, with ring bytes or without.
    pub fn acknowledge(self: &Arc<Self>, id: u32) {
        let outcome = {
            let mut sending = self.sending.lock();
            if sending.id != id || !sending.resumed {
                return;
            }
            let freed = self.released.load(Ordering::Relaxed);
            let before = sending.posted;
            // Ring bytes that go tell it as well.
            let mut outcome = sending.flush(freed);
            if outcome != Posted::Failed && sending.posted == before {
                // There are none, or no credit for them: it may be this that the peer waits for to give some.
                outcome = sending.tell(freed);
            }
            outcome
        };
        self.settle(id, outcome);
    }

    /// Has a larger ring asked for and made anew, if that has failed: there may be memory by now.
    pub fn grow_again(&self) {
        self.sending.lock().grow_again();
    }

    /// Whether it waits for another carrier.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Whether the peer is known to have all that was written.
    pub fn is_settled(&self) -> bool {
        self.sending.lock().written <= self.confirmed.load(Ordering::Acquire)
    }

    /// Whether anything has come since the last call.
    pub fn was_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Asks the peer whether it is there, after all that was written.
    pub fn ping(self: &Arc<Self>) {
        let (id, outcome) = {
            let mut sending = self.sending.lock();
            if !sending.resumed {
                return;
            }
            let freed = self.released.load(Ordering::Relaxed);
            let mut outcome = sending.flush(freed);
            let at = sending.posted;
            if outcome == Posted::Done && self.asked.swap(at, Ordering::Relaxed) != at {
                sending.queue.push_back(Message::Ping(at));
                outcome = sending.flush(freed);
            }
            (sending.id, outcome)
        };
        self.settle(id, outcome);
    }

    /// Says something on a carrier on which the peer has not answered yet. False if it has, or there is none.
    pub fn nudge(self: &Arc<Self>) -> bool {
        let (id, outcome) = {
            let mut sending = self.sending.lock();
            if sending.resumed || sending.carrier.is_none() {
                return false;
            }
            // Of nothing in particular.
            sending.queue.push_back(Message::Ping(0));
            let freed = self.released.load(Ordering::Relaxed);
            (sending.id, sending.flush(freed))
        };
        self.settle(id, outcome);
        true
    }

    /// The number of the carrier in use, or of the last one.
    pub fn carrier(&self) -> u32 {
        self.sending.lock().id
    }

    /// The carrier in use is broken, as far as one can tell.
    pub fn give_up_carrier(self: &Arc<Self>) {
        let id = self.sending.lock().id;
        self.lose(id);
    }

    /// Puts ring bytes that came on carrier `id` where they belong, for a progress to announce. From a
    /// carrier that is not listened to they are not wanted.
    ///
    /// # Errors
    /// [`Violation`]: they do not follow what came, or there is no room for them.
    pub fn place(&self, id: u32, from: u64, bytes: &[u8]) -> Result<(), Violation> {
        // Under the lock: what another carrier brings is not to be written over.
        let receiving = self.receiving.lock();
        if receiving.carrier != id {
            return Ok(());
        }
        let (ring, _) = receiving.at(from);
        let held = from.wrapping_sub(self.released.load(Ordering::Acquire));
        if from != self.produced.load(Ordering::Relaxed)
            || held.saturating_add(bytes.len() as u64) > ring.size as u64
        {
            return Err(Violation);
        }
        // SAFETY: they fit into the ring, which is mapped twice in a row, and into the part of it that was
        // given back; `receiving` keeps the ring.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), ring.at(from), bytes.len());
        }
        Ok(())
    }

    /// The link is over: nothing more is sent or taken.
    pub fn shut(&self) {
        let (carrier, pending) = {
            let mut sending = self.sending.lock();
            self.broken.store(true, Ordering::Release);
            sending.shut = true;
            (sending.carrier.take(), sending.pending.take())
        };
        for mut carrier in carrier.into_iter().chain(pending.map(|(_, c, _)| c)) {
            carrier.close();
        }
    }

    /// Offers the peer a larger ring, of up to `most` bytes.
    fn grow_ring(&self, sending: &mut Sending, most: u64) {
        let Some(source) = sending.carrier.as_ref().map(|c| c.rings()) else {
            return;
        };
        let mut receiving = self.receiving.lock();
        let size = receiving.current().memory.size;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let larger = (size * 4).min(self.sizes.most).min(most);
        if larger <= size || !larger.is_power_of_two() || !receiving.may_offer() {
            return;
        }
        if let Ok(ring) = source.ring(larger) {
            sending.queue.push_back(Message::Offer(ring.remote));
            receiving.offer(ring);
        }
    }
}
