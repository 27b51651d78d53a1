//! Fast connect at a listener: ways to it ([`crate::link::ways`]), and the connections that come by them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::cache;
use super::io_thread::{Command, Control};
use super::listener::{Arrival, SideListener, Standing};
use super::standing;
use crate::link::Link;
use crate::link::ways::{Coming, MOST_WAYS, knocker};
use crate::poll::waiter::Wakes;
use crate::runtime;
use crate::socket::accept::Heritage;
use crate::socket::addr::Address;
use crate::socket::{Inner, Role, Socket};

const INPUT: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
/// How often it is tried to lock a listener whose lock another thread has, or this one.
const TRIES: u32 = 200;

/// A connection that has come to a listener: by which link, and from and to where.
pub struct Visit<'a> {
    /// Its link.
    pub link: &'a Arc<Link>,
    /// Its number there.
    pub conn: u32,
    /// The listener's address as the peer reached it.
    pub local: Address,
    /// The peer's.
    pub remote: Address,
}

impl Control {
    /// Grants the peer a way to `listener`, for connections like `visit`, whose window is so many bytes.
    pub(super) fn grant(
        &mut self,
        listener: &Arc<SideListener>,
        visit: &Visit<'_>,
        heritage: Heritage,
        window: u64,
    ) {
        if !visit.link.is_fast() || !listener.is_only_one() || standing::has_left() {
            return;
        }
        let known = visit.link.coming_to(listener, visit);
        if let Some(way) = known.or_else(|| self.make_way(listener, visit, heritage, window)) {
            way.grant(visit.link, visit.conn);
        }
    }

    fn make_way(
        &mut self,
        listener: &Arc<SideListener>,
        visit: &Visit<'_>,
        heritage: Heritage,
        window: u64,
    ) -> Option<Arc<Coming>> {
        let door = self.door(&visit.local)?;
        let number = visit.link.ways.coming.lock().len();
        let credits = Coming::credits_for(listener.room());
        if number >= MOST_WAYS || credits == 0 {
            return None;
        }
        let way = Arc::new(Coming::new(
            number as u16,
            listener,
            visit.local,
            visit.remote,
            heritage,
            window,
            door,
            credits,
        ));
        let mut wakes = Wakes::new(None);
        let (sets, dead) = {
            let inner = listener.owner().lock();
            let Role::Listening(listening) = &inner.role else {
                return None;
            };
            let is_its = |side: &Arc<SideListener>| Arc::ptr_eq(side, listener);
            // Who only watches may leave it to a child to accept.
            if !listening.accepts || !listening.side.as_ref().is_some_and(is_its) {
                return None;
            }
            visit.link.ways.coming.lock().push(way.clone());
            let dead = listener.add_way(visit.link.clone(), way.clone());
            listener.show_slots(&inner);
            inner.sleepers.iter().for_each(|waiter| wakes.add(waiter));
            let sets: Vec<_> = inner.watches.iter().map(|w| (w.set, w.life)).collect();
            (sets, dead)
        };
        for (set, life) in sets {
            dead.iter().for_each(|link| set.left(life, link));
            set.joined(life, visit.link);
        }
        wakes.ring();
        Some(way)
    }
}

impl Link {
    /// The way for connections like `visit` to `listener`, if there is one.
    fn coming_to(&self, listener: &Arc<SideListener>, visit: &Visit<'_>) -> Option<Arc<Coming>> {
        let same = |a: Address, b: Address| cache::key(&a) == cache::key(&b);
        let coming = self.ways.coming.lock();
        let is_it = |way: &&Arc<Coming>| {
            core::ptr::eq(way.side.as_ptr(), Arc::as_ptr(listener))
                && same(way.local, visit.local)
                && same(way.remote, visit.remote.with_port(0))
                && !way.is_closed()
        };
        coming.iter().find(is_it).cloned()
    }
}

impl Coming {
    /// A connection that was opened by it, from this port of the peer's, goes into the listener's queue as `socket`. False
    /// if nobody listens any more. Called under the link's `rx` lock.
    pub fn queue(
        self: &Arc<Self>,
        link: &Arc<Link>,
        socket: &'static Socket,
        port: u16,
        wakes: &mut Wakes,
    ) -> bool {
        let Some(side) = self.side.upgrade() else {
            return false;
        };
        let arrival = Arrival {
            fd: None,
            remote: self.remote.with_port(port),
            standing: Standing::Taken(socket),
            way: Some((link.clone(), self.clone())),
        };
        if side.enqueue(arrival).is_err() {
            return false;
        }
        // Its lock may be held by whoever polls the link: never waited for here.
        for _ in 0..TRIES {
            if let Some(mut inner) = side.owner().try_lock() {
                side.tell(&mut inner, wakes);
                return true;
            }
            std::hint::spin_loop();
        }
        runtime::get().command(Command::Announce(side));
        true
    }
}

impl SideListener {
    /// Tells whoever waits at the listener that somebody has come.
    pub fn announce(&self) {
        let mut wakes = Wakes::new(None);
        self.tell(&mut self.owner().lock(), &mut wakes);
        wakes.ring();
    }

    fn tell(&self, inner: &mut Inner, wakes: &mut Wakes) {
        if inner.listens_at(self) {
            inner.announce(self.owner(), INPUT, wakes);
        }
    }

    /// The links of ways to it.
    pub fn links(&self) -> Vec<Arc<Link>> {
        let ways = self.ways.lock();
        ways.iter().map(|(link, _)| link.clone()).collect()
    }

    /// A connection that was opened fast has been accepted: whether the next may be one, too, before the kernel is asked
    /// for others. To ask costs more than to accept one such.
    pub fn spares_kernel(&self) -> bool {
        /// So many in a row.
        const ROW: usize = 16;
        !self
            .accepted
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(ROW)
    }

    /// Whether there are any.
    pub fn has_ways(&self) -> bool {
        self.reserved.load(Ordering::Relaxed) > 0
    }

    /// Takes in what has come by ways.
    pub fn poll_ways(&self) {
        for link in self.links() {
            link.source().poll(None);
        }
    }

    /// Peers ring where those wait who wait for `owner`, the listener.
    pub fn show_slots(&self, owner: &Inner) {
        if !self.has_ways() {
            return;
        }
        for (link, way) in self.ways.lock().iter() {
            let slot = owner.slot_on(link);
            link.fabric().set_slot(knocker(way.number), slot);
        }
    }

    /// Adds a way; returns the links of those that are over.
    fn add_way(&self, link: Arc<Link>, way: Arc<Coming>) -> Vec<Arc<Link>> {
        let mut ways = self.ways.lock();
        let dead: Vec<_> = ways.extract_if(.., |(link, _)| link.is_dead()).collect();
        ways.push((link, way));
        self.count(&ways);
        dead.into_iter().map(|(link, _)| link).collect()
    }

    fn count(&self, ways: &[(Arc<Link>, Arc<Coming>)]) {
        let alive = ways.iter().filter(|(link, _)| !link.is_dead());
        let reserved = alive.map(|(_, way)| way.credits as usize).sum();
        self.reserved.store(reserved, Ordering::Relaxed);
    }

    /// Places in the queue that are neither taken nor promised to a way.
    pub(super) fn room(&self) -> usize {
        let by_ways = self.by_ways.load(Ordering::Acquire);
        let others = self.ready.load(Ordering::Acquire).saturating_sub(by_ways);
        let taken = others + self.reserved.load(Ordering::Relaxed);
        self.backlog.load(Ordering::Relaxed).saturating_sub(taken)
    }

    /// Whether there is one, once what was promised to those who are gone is taken back.
    pub(super) fn makes_room(&self) -> bool {
        self.has_ways() && {
            self.count(&self.ways.lock());
            self.room() > 0
        }
    }

    /// Nothing is to be opened by ways any more.
    pub fn close_ways(&self) {
        for (link, way) in self.ways.lock().iter() {
            way.close(link);
        }
    }
}
