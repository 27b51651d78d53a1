//! Hand-back: a live connection leaves its link for the kernel's connection that stands behind it, at an exact
//! byte in each direction.
//!
//! Either end begins, for a call that only the kernel can serve. It sends `Recall` as its last record; what it
//! writes from then on goes over the kernel's connection. The peer answers in kind (both may begin at once), or by
//! `HandBack` if it has read all that has come. An end that has sent `Recall` and heard the peer's word gives all that
//! nobody has read back (`Returned`), and the peer sends that again over the kernel's connection, before anything else,
//! and says so (`Resent`). Then the kernel's connection alone is complete, whoever has it: this process or another, with
//! this library or without. Nobody writes to the kernel before he knows what the other wants back. So nothing is lost,
//! doubled or out of order, and nobody waits but the call that began it, the process's end, and a child's claim.
//!
//! What a peer that is gone cannot send again is read here first ([`Leftover`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::MutexGuard;
use rustix::fd::RawFd;

use super::leaving::PATIENCE_NS;
use super::lifecycle::{Farewell, note_worth};
use super::wait::Wait;
use super::{Inner, NOT_ACCEPTED, Role, Socket};
use crate::conn::leftover::Leftover;
use crate::conn::{Afloat, Conn, GRACE_NS, Violation};
use crate::control::resending::{self, Resending};
use crate::fabric::network;
use crate::fdtable::{self, Entry};
use crate::link::Link;
use crate::link::record::Kind;
use crate::log::{self, Left};
use crate::poll::epoll::EpollSet;
use crate::poll::interest;
use crate::poll::ready::{INPUT, Watch};
use crate::poll::waiter::Wakes;
use crate::real::orig;
use crate::real::sys::{self, Errno, now_ns};
use crate::stats::{self, ConnState, ConnStats, Mode, Reason};

/// An end has recalled something once: the end of this process looks whether all is sent again.
static RECALLED: AtomicBool = AtomicBool::new(false);

/// Whether there may be something that a peer has given back, or is about to.
pub fn may_owe_peers() -> bool {
    RECALLED.load(Ordering::Relaxed)
}

impl Inner {
    /// Tells the peer, once, that what is written here goes over the kernel's connection from now on. False if there
    /// is no connection on a link, or one that is broken off.
    pub fn begin_hand_back(&mut self, socket: &'static Socket) -> bool {
        match &self.role {
            Role::Connected(conn) if !conn.is_reset() => {}
            _ => return false,
        }
        if !self.stands_to_leave(socket) {
            return true;
        }
        let Role::Connected(conn) = &mut self.role else {
            return false;
        };
        if !conn.tx_left {
            conn.tx_left = true;
            conn.left_at = now_ns();
            if !conn.peer_closed {
                // An end that answers knows what it has.
                let may_have_unread = !conn.rx_left || !conn.rx.is_empty();
                conn.recalls = may_have_unread && conn.link.resends();
                if conn.recalls {
                    RECALLED.store(true, Ordering::Relaxed);
                }
                let kind = match conn.recalls {
                    true => Kind::Recall,
                    false => Kind::HandBack,
                };
                conn.link.send_leaving(conn.id, kind);
            }
        }
        true
    }

    /// The peer has nothing more to say by the link: gives back what nobody has read, if that was announced.
    fn give_back(&mut self) {
        let fd = self.fd();
        let Role::Connected(conn) = &mut self.role else {
            return;
        };
        if !conn.recalls {
            return;
        }
        // The kernel's connection has its end, too.
        conn.rx_fin = false;
        if !conn.awaits_return {
            end_stream(fd, conn.tx_shut);
        }
        conn.given_back = conn.rx.take_all(&conn.link.slots);
        if !conn.given_back.is_empty() {
            conn.known_to = Some(received(fd) + conn.given_back.len() as u64);
        }
        conn.link.send_returned(conn.id, &conn.given_back);
        if conn.known_to.is_some() {
            self.watches.iter_mut().for_each(Watch::knows_input);
        }
    }

    /// Whether the peer has still something to give back, or to say to a recall, or there is no room for it with the kernel
    /// yet.
    pub fn owes_peer(&self) -> bool {
        match &self.role {
            Role::Connected(conn) => {
                let asked = conn.tx_left && conn.recalls && !conn.rx_left && !conn.peer_closed;
                (asked || conn.awaits_return || !conn.returned.is_empty()) && !conn.is_reset()
            }
            Role::Leftover(left) => left.resends,
            _ => false,
        }
    }

    /// Whether something is still to be sent again before anything else is sent.
    pub fn resends(&self) -> bool {
        matches!(&self.role, Role::Leftover(left) if left.resends)
    }

    /// Whether a set watches it of which only we know what it knows.
    fn is_known(&self) -> bool {
        self.watches.iter().any(Watch::knows_more_than_kernel)
    }

    /// Somebody reads from the kernel.
    pub fn reads(&mut self) {
        let fd = self.fd();
        let known_to = match &mut self.role {
            Role::Connected(conn) => &mut conn.known_to,
            Role::Leftover(left) => &mut left.known_to,
            _ => return,
        };
        // What is still to come again is news from now on; and when all is read, anything is.
        if known_to.is_some_and(|all| received(fd) < all || !has_bytes(fd)) {
            *known_to = None;
            self.watches
                .iter_mut()
                .for_each(|watch| watch.known &= !INPUT);
        }
    }

    /// Whether the kernel, which says that it has `events`, has received more than what came before.
    pub fn has_more_than_known(&self, events: u32) -> bool {
        const END: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
        match &self.role {
            Role::Leftover(left) => {
                events & END != 0 || left.known_to.is_none_or(|all| received(self.fd()) > all)
            }
            _ => true,
        }
    }

    /// Its connection on `link` under `id`, once it is established.
    fn carried(&mut self, link: &Link, id: u32) -> Option<&mut Conn> {
        match self.role {
            Role::Connected(_) => self.conn_on(link, id),
            _ => None,
        }
    }

    /// Whether a hand-back has begun and is not over.
    pub fn is_leaving(&self) -> bool {
        match &self.role {
            Role::Connected(conn) => {
                let waits = |afloat: &Afloat| afloat.then_leaves && !conn.peer_closed;
                let begins = conn.afloat.as_deref().is_some_and(waits);
                (begins || conn.tx_left && !conn.has_left()) && !conn.is_reset()
            }
            _ => false,
        }
    }
}

/// The kernel's connection ends where the stream on the link has.
fn end_stream(fd: RawFd, has_ended: bool) {
    if has_ended && fd >= 0 {
        let _ = rustix::net::shutdown(sys::borrow(fd), rustix::net::Shutdown::Write);
    }
}

/// Whether the kernel has something to read.
pub(super) fn has_bytes(fd: RawFd) -> bool {
    unread_of(fd) > 0
}

/// How many bytes the kernel has for `fd` that nobody has read.
fn unread_of(fd: RawFd) -> u64 {
    match fd >= 0 {
        true => rustix::io::ioctl_fionread(sys::borrow(fd)).unwrap_or(0),
        false => 0,
    }
}

/// Takes so many bytes from the kernel that nobody is to read. False if there are not so many.
fn discard(fd: RawFd, bytes: u64) -> bool {
    unread_of(fd) >= bytes && {
        let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
        // SAFETY: nothing is copied: TCP counts only.
        let taken = unsafe { orig::recv(fd, core::ptr::null_mut(), bytes as usize, flags) };
        taken as u64 == bytes
    }
}

/// How many bytes the kernel's connection `fd` has ever received.
fn received(fd: RawFd) -> u64 {
    sys::tcp_info(fd).map_or(0, |info| info.tcpi_bytes_received)
}

impl Socket {
    /// Hands the connection back to the kernel and waits until it has left its link, and all is sent again. Does nothing
    /// to a socket that is on no link, and to one that was reset. Bounded by [`PATIENCE_NS`], in a call that must not wait
    /// by [`GRACE_NS`].
    ///
    /// # Errors
    /// The peer has not answered in time: `EAGAIN`, or `ETIMEDOUT` in a call that may wait.
    pub fn hand_back(
        &'static self,
        inner: MutexGuard<'static, Inner>,
        nonblocking: bool,
    ) -> Result<(), Errno> {
        let (time, error) = match nonblocking {
            true => (GRACE_NS, Errno::AGAIN),
            false => (PATIENCE_NS, Errno::TIMEDOUT),
        };
        let since = match &inner.role {
            Role::Connected(conn) if conn.tx_left => conn.left_at,
            _ => now_ns(),
        };
        let by = since + time;
        let done = self.hand_back_by(inner, by) && self.wait_while(self.lock(), by, Inner::resends);
        done.then_some(()).ok_or(error)
    }

    /// The same, until `by`, as far as the link is concerned. Returns whether that is done.
    pub(super) fn hand_back_by(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        by: u64,
    ) -> bool {
        if !inner.begin_hand_back(self) {
            return true;
        }
        let Some(link) = inner.link() else {
            return true;
        };
        let id = inner.conn().map_or(0, |conn| conn.id);
        if !self.wait_while(inner, by, Inner::is_leaving) {
            tracing::warn!(target: "netacc::conn", "a peer does not answer a hand-back");
            return false;
        }
        let mut inner = self.lock();
        if inner
            .carried(&link, id)
            .is_some_and(|conn| conn.afloat.is_some())
        {
            // The peer has closed it before it stood.
            inner.begin_hand_back(self);
        }
        drop(inner);
        self.leave_link(&link, id);
        true
    }

    /// Waits while it `lasts`, until `by` at most. Returns whether it is over.
    pub(super) fn wait_while(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        by: u64,
        lasts: impl Fn(&Inner) -> bool,
    ) -> bool {
        // A signal's handler runs meanwhile, and the wait goes on.
        loop {
            let over = |inner: &mut Inner| (!lasts(inner)).then_some(Ok(()));
            let wait = Wait {
                timeout: Some(Duration::from_nanos(by.saturating_sub(now_ns()))),
                ..Wait::default()
            };
            match self.wait_until(inner, wait, over) {
                Err(Errno::INTR) => inner = self.lock(),
                waited => return waited.is_ok(),
            }
        }
    }

    /// Begins to hand the connection back, if it is on a link and still the one with this serial number, without waiting;
    /// the control thread's work is done at once where the peer has nothing to say any more.
    pub fn begin_and_leave(&'static self, serial: u64) {
        let mut inner = self.lock();
        if inner.serial == serial
            && inner.begin_hand_back(self)
            && let Some(link) = inner.link()
        {
            let id = inner.conn().map_or(0, |conn| conn.id);
            drop(inner);
            network::flush();
            self.leave_link(&link, id);
        }
    }

    /// The peer's `HandBack` of connection `id` has come, or its `Recall`: it is answered unless this end began. Returns
    /// whether the connection has left; the caller sees it off. Called under the link's `rx` lock.
    pub fn hand_back_came(
        &'static self,
        link: &Link,
        id: u32,
        recalls: bool,
        wakes: &mut Wakes,
    ) -> bool {
        let mut inner = self.lock();
        match inner.conn_on(link, id) {
            Some(conn) if !conn.is_reset() => conn.on_hand_back(recalls),
            _ => return false,
        }
        if recalls {
            RECALLED.store(true, Ordering::Relaxed);
        }
        // One that is not established yet answers when it is.
        inner.begin_hand_back(self);
        inner.give_back();
        // Epoll sets hear from the kernel what else there is; nothing new has come by the link.
        inner.wake_sleepers(wakes);
        inner.carried(link, id).is_some_and(|conn| conn.has_left())
    }

    /// Bytes of this end's own stream have come back, or, if there are none, all of them have. Returns whether the
    /// connection has left, as [`hand_back_came`](Self::hand_back_came) does.
    ///
    /// # Errors
    /// [`Violation`] when nothing was to come back, or not so much.
    pub fn return_came(
        &'static self,
        link: &Link,
        id: u32,
        bytes: &[u8],
        wakes: &mut Wakes,
    ) -> Result<bool, Violation> {
        let mut inner = self.lock();
        let fd = inner.fd();
        let Some(conn) = inner.carried(link, id).filter(|conn| !conn.is_reset()) else {
            return Ok(false);
        };
        conn.on_returned(bytes)?;
        if !bytes.is_empty() {
            return Ok(false);
        }
        conn.awaits_return = false;
        let sent = match fd {
            // Nobody will ever use it.
            ..0 => conn.returned.len(),
            fd => resending::send(sys::borrow(fd), &conn.returned),
        };
        conn.returned.drain(..sent);
        end_stream(fd, conn.tx_shut && conn.returned.is_empty());
        conn.link.send_leaving(id, Kind::Resent);
        let left = conn.has_left();
        inner.wake_sleepers(wakes);
        Ok(left)
    }

    /// The peer's process is dead. If the kernel's connection stands, a child of that process holds it, and what follows
    /// comes by it. Returns whether the connection has left by that. Called under the link's `rx` lock.
    pub fn outlives_peer(&'static self, link: &Link, wakes: &mut Wakes) -> bool {
        let mut inner = self.lock();
        let fd = inner.fd();
        let Role::Connected(conn) = &mut inner.role else {
            return false;
        };
        let is_over = conn.is_reset() || conn.peer_closed || conn.rx_left;
        if is_over || fd < 0 || !core::ptr::eq(&*conn.link, link) {
            return false;
        }
        let ended = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;
        if sys::poll_mask(fd, libc::POLLRDHUP) & ended != 0 {
            return false;
        }
        if conn.windows.unacknowledged() > 0 {
            // What it had not read died with it.
            return self.break_off(inner, wakes);
        }
        if conn.rx_fin {
            let _ = rustix::net::shutdown(sys::borrow(fd), rustix::net::Shutdown::Read);
        }
        conn.tx_left = true;
        conn.on_hand_back(false);
        conn.give_up_return();
        inner.wake_sleepers(wakes);
        true
    }

    /// The kernel's connection is not what the stream would go on in without a hole: whoever holds it sees an error, at
    /// both ends, at once. Returns as [`outlives_peer`](Self::outlives_peer).
    pub fn break_off(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        wakes: &mut Wakes,
    ) -> bool {
        sys::disconnect(inner.fd());
        let Some(conn) = inner.conn() else {
            return false;
        };
        let events = conn.on_reset(Errno::CONNRESET);
        let left = conn.is_done_leaving();
        inner.announce(self, events, wakes);
        left
    }

    /// What the peer had given back is with the kernel.
    pub fn all_resent(&'static self, serial: u64) {
        let mut inner = self.lock();
        if inner.serial != serial {
            return;
        }
        let fd = inner.fd();
        let Role::Leftover(left) = &mut inner.role else {
            return;
        };
        left.resends = false;
        end_stream(fd, left.then_ends);
        inner.writes();
        let mut wakes = Wakes::new(None);
        let writable = (libc::EPOLLOUT | libc::EPOLLWRNORM) as u32;
        inner.announce(self, writable, &mut wakes);
        self.leave_if_read(inner);
        wakes.ring();
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
        if !inner.carried(link, id).is_some_and(|conn| conn.has_left()) {
            return;
        }
        let Role::Connected(mut conn) = std::mem::replace(&mut inner.role, Role::Plain) else {
            return;
        };
        note_worth(inner.remote, &conn);
        let mut unread = conn.rx.take_all(&link.slots);
        let fd = inner.fd();
        if let Some(all) = conn.known_to.filter(|_| !conn.given_back.is_empty()) {
            // The peer went away before it said that it has sent that again.
            let missing = all.saturating_sub(received(fd));
            if missing > 0 {
                conn.known_to = None;
                unread = core::mem::take(&mut conn.given_back);
                let come = (unread.len() as u64).saturating_sub(missing);
                if come > 0 && !discard(fd, come) {
                    // Somebody has read a part of it: rather an error than a part that comes twice.
                    unread.clear();
                    sys::disconnect(fd);
                }
            }
        }
        let resends = fd >= 0 && !conn.returned.is_empty();
        end_stream(fd, conn.tx_shut && !resends);
        let sets: Vec<_> = inner.watches.iter().map(|w| (w.set, w.life)).collect();
        let room = !conn.tx_blocked;
        let kept = !unread.is_empty() || resends || inner.is_known();
        if kept {
            let mut left = Leftover::new(unread);
            (left.resends, left.then_ends) = (resends, conn.tx_shut);
            left.is_last = conn.peer_closed;
            left.known_to = conn.known_to;
            inner.role = Role::Leftover(left);
            inner.share_low_water();
            interest::share_with_kernel(self, &mut inner, room && !resends);
        } else {
            self.be_plain(&mut inner);
        }
        stats::add(&stats::global().handed_back, 1);
        let page = inner.stats.get_or_insert_with(|| ConnStats::claim(fd));
        page.set_mode(Mode::Tcp, Reason::HandedBack);
        page.set_state(ConnState::Tcp);
        page.set_link(None);
        tracing::debug!(target: "netacc::conn", "handed back to the kernel: {:?}", inner.remote);
        let local = inner.local.map(|local| Left::ConnectionsAt(local.to_std()));
        let remote = inner
            .remote
            .map(|remote| Left::ConnectionsTo(remote.to_std()));
        if let Some(which) = local.or(remote) {
            log::fallback(Reason::HandedBack, which);
        }
        let mut wakes = Wakes::new(None);
        // Its watches have heard of what came by the link; the kernel tells them of the rest.
        inner.wake_sleepers(&mut wakes);
        // Not used again before the link has forgotten it.
        inner.users += 1;
        let serial = inner.serial;
        drop(inner);
        wakes.ring();
        if resends {
            Resending::begin(sys::borrow(fd), conn.returned, self, serial);
        }
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
        // One that waits to be accepted has no number yet.
        if inner.forks != NOT_ACCEPTED {
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
        if matches!(&inner.role, Role::Leftover(left) if left.is_over()) && !inner.is_known() {
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
