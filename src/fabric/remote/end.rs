//! The [`Fabric`] of a link to another host: what its records and cursors mean to a [`Remote`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Remote;
use super::carrier::Posted;
use crate::fabric::{Fabric, FabricKind, RingMemory, network};
use crate::link::Link;
use crate::link::source::Source;

/// A batch of this many bytes goes out although the link is not idle.
const FULL_BATCH: u64 = 64 << 10;

/// The [`Fabric`] of a link over a [`Remote`].
pub struct End(pub Arc<Remote>);

impl Fabric for End {
    fn kind(&self) -> FabricKind {
        self.0.kind
    }

    fn source(&self, _link: &Arc<Link>) -> Source {
        Source::Network
    }

    fn tx(&self) -> RingMemory {
        self.0.sending.lock().mirror().memory
    }

    fn rx(&self, cursor: u64) -> (RingMemory, Option<u64>) {
        self.0.receiving.lock().at(cursor)
    }

    fn publish(&self, to: u64) {
        let remote = &self.0;
        let (id, outcome) = {
            let mut sending = remote.sending.lock();
            sending.written = to;
            // Early: a larger ring may be there before this one is full.
            if sending.resumed && to - sending.peer_freed > sending.mirror().memory.size as u64 / 2
            {
                sending.ask_for_more(remote.sizes.most);
            }
            let full = FULL_BATCH.min(sending.mirror().memory.size as u64 / 4);
            sending.records += 1;
            let enough = match network::holds() {
                true => sending.records >= network::MOST_HELD,
                false => sending.carrier.as_ref().is_some_and(|c| c.is_idle()),
            };
            let now = sending.resumed && (enough || to - sending.posted >= full);
            if !now {
                drop(sending);
                if !remote.dirty.swap(true, Ordering::Relaxed) {
                    remote.hub.defer(remote);
                }
                return;
            }
            let freed = remote.released.load(Ordering::Relaxed);
            (sending.id, sending.flush(freed))
        };
        remote.settle(id, outcome);
    }

    fn freed(&self) -> u64 {
        self.0.freed.load(Ordering::Acquire)
    }

    fn grow(&self, written: u64) -> Option<RingMemory> {
        let mut sending = self.0.sending.lock();
        if !sending.resumed || sending.is_switching() {
            return None;
        }
        let offer = sending.offer.take()?;
        let source = sending.carrier.as_ref().map(|c| c.rings())?;
        let Ok(mirror) = source.ring(offer.size as usize) else {
            // As before, for now. The peer keeps its offer.
            sending.later = Some(offer);
            return None;
        };
        let memory = mirror.memory;
        sending.switch_to(written, mirror, offer);
        Some(memory)
    }

    fn want_space(&self) {
        let remote = &self.0;
        let (id, outcome) = {
            let mut sending = remote.sending.lock();
            if !sending.resumed {
                return;
            }
            sending.ask_for_more(remote.sizes.most);
            let freed = remote.released.load(Ordering::Relaxed);
            (sending.id, sending.flush(freed))
        };
        remote.settle(id, outcome);
    }

    fn produced(&self) -> u64 {
        self.0.produced.load(Ordering::Acquire)
    }

    fn release(&self, to: u64) {
        let remote = &self.0;
        remote.released.store(to, Ordering::Release);
        let size = {
            let mut receiving = remote.receiving.lock();
            receiving.freed(to);
            receiving.current().memory.size as u64
        };
        let (id, outcome) = {
            let mut sending = remote.sending.lock();
            if !sending.resumed {
                return;
            }
            if to - sending.told_freed >= size / 4 {
                // Ring bytes that are about to go tell it as well.
                let mut outcome = sending.flush(to);
                if outcome != Posted::Failed && to - sending.told_freed >= size / 4 {
                    outcome = sending.tell(to);
                }
                (sending.id, outcome)
            } else if sending.queue.is_empty() {
                return;
            } else {
                (sending.id, sending.flush(to))
            }
        };
        remote.settle(id, outcome);
    }

    fn hang_up(&self) {
        self.0.shut();
    }
}
