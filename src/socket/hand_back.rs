//! Hand-back: a live connection leaves its link for the kernel's connection that stands behind it, at an exact
//! byte in each direction.
//!
//! Either end begins, for a call that only the kernel can serve. It sends `HandBack` as its last record; what it
//! writes from then on goes over the kernel's connection. The peer answers with a `HandBack` of its own (both may
//! begin at once). An end that has sent and received one has left: it reads what had come by the link and was not
//! read yet ([`Leftover`]), then what the kernel has. So nothing is lost, doubled or out of order, and nobody waits
//! but the call that began it, the process's end, and a child's claim.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::lifecycle::Farewell;
use super::wait::Wait;
use super::{Inner, Role, Socket};
use crate::conn::leftover::Leftover;
use crate::fabric::network;
use crate::fdtable::{self, Entry};
use crate::link::Link;
use crate::poll::epoll::EpollSet;
use crate::poll::interest;
use crate::poll::ready::Watch;
use crate::poll::waiter::Wakes;
use crate::real::sys::Errno;
use crate::stats::{self, ConnState, ConnStats, Mode, Reason};

impl Inner {
    /// Tells the peer, once, that what is written here goes over the kernel's connection from now on. False if there
    /// is no connection on a link, or one that is broken off.
    pub fn begin_hand_back(&mut self) -> bool {
        let Role::Connected(conn) = &mut self.role else {
            return false;
        };
        if conn.is_reset() {
            return false;
        }
        if !conn.tx_left {
            conn.tx_left = true;
            if !conn.peer_closed {
                conn.link.send_hand_back(conn.id);
            }
        }
        true
    }

    /// Whether a set watches it of which only we know what it knows: see [`Watch::hears_of_room_once`].
    fn hears_of_room_once(&self) -> bool {
        self.watches.iter().any(Watch::hears_of_room_once)
    }

    /// Whether a hand-back has begun and is not over.
    pub fn is_leaving(&self) -> bool {
        match &self.role {
            Role::Connected(conn) => conn.tx_left && !conn.has_left() && !conn.is_reset(),
            _ => false,
        }
    }
}

impl Socket {
    /// Hands the connection back to the kernel and waits until it has left its link; bounded by the peer's I/O thread.
    /// Does nothing to a socket that is on no link, and to one that was reset.
    pub fn hand_back(&'static self, mut inner: MutexGuard<'static, Inner>) {
        if !inner.begin_hand_back() {
            return;
        }
        let Some(link) = inner.link() else { return };
        let id = inner.conn().map_or(0, |conn| conn.id);
        // A signal's handler runs meanwhile, and the wait goes on.
        loop {
            let left = |inner: &mut Inner| (!inner.is_leaving()).then_some(Ok(()));
            match self.wait_until(inner, Wait::default(), left) {
                Err(Errno::INTR) => inner = self.lock(),
                _ => break,
            }
        }
        self.leave_link(&link, id);
    }

    /// Begins to hand the connection back, if it is on a link and still the one with this serial number, without waiting;
    /// the control thread's work is done at once where the peer has nothing to say any more.
    pub fn begin_and_leave(&'static self, serial: u64) {
        let mut inner = self.lock();
        if inner.serial == serial
            && inner.begin_hand_back()
            && let Some(link) = inner.link()
        {
            let id = inner.conn().map_or(0, |conn| conn.id);
            drop(inner);
            network::flush();
            self.leave_link(&link, id);
        }
    }

    /// The peer's `HandBack` of connection `id` has come: it is answered unless this end began. Returns whether the
    /// connection has left; the caller sees it off. Called under the link's `rx` lock.
    pub fn hand_back_came(&'static self, link: &Link, id: u32, wakes: &mut Wakes) -> bool {
        let mut inner = self.lock();
        match inner.conn_on(link, id) {
            Some(conn) if !conn.is_reset() => conn.on_hand_back(),
            _ => return false,
        }
        // One that is not established yet answers when it is.
        let left = inner.begin_hand_back();
        // Epoll sets hear from the kernel what else there is; nothing new has come by the link.
        inner.wake_sleepers(wakes);
        left
    }

    /// The socket is established, and its peer may have begun a hand-back before that.
    pub fn answer_early_hand_back(&'static self) {
        let mut inner = self.lock();
        let early = inner.conn().is_some_and(|conn| conn.rx_left);
        let serial = inner.serial;
        drop(inner);
        if early {
            self.begin_and_leave(serial);
        }
    }

    /// Connection `id` of `link`, if it has left: the socket is the kernel's, once what came by the link is read.
    /// Never called under a lock.
    pub fn leave_link(&'static self, link: &Arc<Link>, id: u32) {
        let mut inner = self.lock();
        let established = matches!(inner.role, Role::Connected(_));
        if !established || !inner.conn_on(link, id).is_some_and(|conn| conn.has_left()) {
            return;
        }
        let Role::Connected(mut conn) = std::mem::replace(&mut inner.role, Role::Plain) else {
            return;
        };
        let unread = conn.rx.take_all(&link.slots);
        let fd = inner.fd();
        let sets: Vec<_> = inner.watches.iter().map(|w| (w.set, w.life)).collect();
        let room = !conn.tx_blocked;
        let kept = !unread.is_empty() || inner.hears_of_room_once();
        if kept {
            inner.role = Role::Leftover(Leftover::new(unread));
            inner.share_low_water();
            interest::share_with_kernel(self, &mut inner, room);
        } else {
            self.be_plain(&mut inner);
        }
        stats::add(&stats::global().handed_back, 1);
        let page = inner.stats.get_or_insert_with(|| ConnStats::claim(fd));
        page.set_mode(Mode::Tcp, Reason::HandedBack);
        page.set_state(ConnState::Tcp);
        page.set_link(None);
        tracing::debug!(target: "netacc::conn", "handed back to the kernel: {:?}", inner.remote);
        let mut wakes = Wakes::new(None);
        // Its watches have heard of what came by the link; the kernel tells them of the rest.
        inner.wake_sleepers(&mut wakes);
        // Not used again before the link has forgotten it; one that waits to be accepted has no number yet.
        let numbers = inner.fds.len();
        inner.users += 1;
        drop(inner);
        wakes.ring();
        let farewell = Farewell {
            link: Some((link.clone(), id, false)),
            joined: Some(link.clone()),
            sets: sets.clone(),
            ..Farewell::default()
        };
        farewell.say();
        if kept {
            // They go on watching it, though not for this link.
            for (set, life) in sets {
                if set.life() == life {
                    set.gained_watch(None);
                    set.rouse();
                }
            }
        }
        network::flush();
        let mut inner = self.lock();
        inner.users -= 1;
        if numbers > 0 {
            self.recycle_if_done(&mut inner);
        }
    }

    /// The kernel serves it alone from now on. Its watches move to the kernel's epolls; the caller tells their sets.
    pub fn be_plain(&'static self, inner: &mut Inner) -> Vec<(&'static EpollSet, u64)> {
        inner.role = Role::Plain;
        for &fd in &inner.fds {
            fdtable::replace(fd, Entry::Socket(self), Entry::Plain(self));
        }
        interest::enter_kernel(inner)
    }

    /// What was left over is read: the next call finds the kernel's socket.
    pub fn leave_if_read(&'static self, mut inner: MutexGuard<'static, Inner>) {
        if matches!(&inner.role, Role::Leftover(left) if left.is_empty())
            && !inner.hears_of_room_once()
        {
            let sets = self.be_plain(&mut inner);
            drop(inner);
            Farewell {
                sets,
                ..Farewell::default()
            }
            .say();
        }
    }
}
