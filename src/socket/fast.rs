//! Connections that are opened fast ([`crate::link::ways`]): by one record, without the kernel; and how they come to have
//! a kernel's connection behind them ([`crate::control::standing`]).

use std::sync::Arc;

use parking_lot::MutexGuard;
use rustix::fd::{AsFd, AsRawFd, RawFd};
use rustix::net::Shutdown;

use super::addr::Address;
use super::connect::{Outcome, Side};
use super::leaving::{broken, cookie, replace, stand_in};
use super::{Inner, NOT_ACCEPTED, Role, Socket};
use crate::conn::{Afloat, Conn};
use crate::control::cache;
use crate::control::io_thread::Command;
use crate::control::standing;
use crate::link::Link;
use crate::link::record::Kind;
use crate::link::ways::{Coming, Going, Grant, Leading, Open};
use crate::poll::interest;
use crate::poll::waiter::Wakes;
use crate::real::sys::{self, Errno, InternalFd, now_ns};
use crate::runtime::{self, Runtime};
use crate::stats;

/// How long a connect that may wait does so for the listener to take others in, before it goes the safe way.
const CREDIT_NS: u64 = 300_000;

impl Socket {
    /// connect(2) by a way, if there is one for it now.
    ///
    /// # Errors
    /// The lock: it goes the safe way.
    pub(super) fn connect_fast(
        &'static self,
        runtime: &'static Runtime,
        mut inner: MutexGuard<'static, Inner>,
        dest: Address,
    ) -> Result<Outcome, MutexGuard<'static, Inner>> {
        if standing::has_left() || !inner.may_be_fast() {
            return Err(inner);
        }
        let key = cache::key(&dest);
        // The listener may have been closed since: that is told by the link. (This socket is on none.)
        let links = runtime.ways.lock().links(&key);
        for link in links {
            link.source().poll(None);
        }
        let mut found = runtime.ways.lock().take(&key);
        if let Err(Some(link)) = &found
            && !inner.nonblocking
        {
            let link = link.clone();
            inner.users += 1;
            drop(inner);
            found = await_credit(runtime, &key, &link);
            inner = self.lock();
            inner.users -= 1;
            if !matches!(inner.role, Role::Fresh) || inner.fds.is_empty() {
                if let Ok((_, way)) = found {
                    way.return_credit();
                }
                self.recycle_if_done(&mut inner);
                return Ok(match inner.role {
                    Role::Connected(_) => Outcome::Done(Err(Errno::ISCONN)),
                    _ => Outcome::Kernel,
                });
            }
        }
        let Ok((link, way)) = found else {
            return Err(inner);
        };
        if !self.open_by(&mut inner, &link, &way, dest) {
            way.return_credit();
            if link.pending() {
                runtime.ring_io();
            }
            return Err(inner);
        }
        let mut wakes = Wakes::new(None);
        let mask = inner.poll_mask();
        inner.announce(self, mask, &mut wakes);
        let sets: Vec<_> = inner.watches.iter().map(|w| (w.set, w.life)).collect();
        let nonblocking = inner.nonblocking;
        inner.connect_done = nonblocking;
        drop(inner);
        wakes.ring();
        for (set, life) in sets {
            set.joined(life, &link);
        }
        link.poll_missed();
        // As the kernel's, which never is through at once.
        Ok(Outcome::Done(match nonblocking {
            true => Err(Errno::INPROGRESS),
            false => Ok(()),
        }))
    }

    fn open_by(
        &'static self,
        inner: &mut Inner,
        link: &Arc<Link>,
        way: &Arc<Going>,
        dest: Address,
    ) -> bool {
        // A socket of IPv6 may name the same place by another address.
        if way.local.family() != inner.domain {
            return false;
        }
        let Some(lease) = way.lease() else {
            return false;
        };
        let Some(id) = link.open_unseen(self, false) else {
            return false;
        };
        let mut conn = inner.new_conn(link, id);
        conn.windows.begin_sending(way.window);
        interest::leave_kernel(inner);
        inner.local = Some(lease.local());
        inner.remote = Some(dest);
        inner.kept = Vec::new();
        link.send_open(id, &lease, conn.windows.receiving());
        conn.afloat = Some(Box::new(Afloat {
            way: Some(way.clone()),
            lease: Some(lease),
            ..Afloat::default()
        }));
        inner.role = Role::Connected(conn);
        let mode = link.fabric().kind().mode();
        self.describe(inner, mode, stats::Reason::None, Side::Connecting(dest));
        stats::add(&stats::global().connected_fast, 1);
        inner.stats.inspect(|s| s.set_link(Some(link.stats)));
        inner.update_slot();
        true
    }

    /// A way was granted with connection `id` of `link`. Called under the link's `rx` lock.
    pub fn way_came(&'static self, link: &Link, id: u32, grant: Grant) {
        let mut inner = self.lock();
        if let Some(conn) = inner.conn_on(link, id) {
            conn.granted = Some(grant);
            inner.note_way();
        }
    }

    /// The peer opens connection `id` of `link` by `way`. It is not on the link yet.
    pub fn arrived_fast(link: &Arc<Link>, id: u32, way: &Coming, open: &Open) -> &'static Socket {
        let socket = Socket::new(way.local.family(), false);
        let mut inner = socket.lock();
        inner.local = Some(way.local);
        inner.remote = Some(way.remote.with_port(open.port));
        inner.forks = NOT_ACCEPTED;
        inner.inherit_from(&way.heritage);
        let mut conn = Box::new(Conn::new(link.clone(), id));
        conn.windows.begin_receiving(way.window);
        conn.windows.begin_sending(open.window.into());
        conn.afloat = Some(Box::default());
        inner.role = Role::Connected(conn);
        drop(inner);
        socket
    }

    /// The peer wants connection `id` of `link` to stand. Called under the link's `rx` lock.
    pub fn stand_is_asked(&'static self, link: &Link, id: u32) {
        let mut inner = self.lock();
        if inner.conn_on(link, id).is_some_and(|conn| {
            let connects = |afloat: &Afloat| afloat.way.is_some();
            conn.afloat.as_deref().is_some_and(connects)
        }) {
            inner.ask_to_stand(self);
        }
    }

    /// The peer has the kernel's connection that this end has made for connection `id`. Returns whether it has left the
    /// link, as [`hand_back_came`](Self::hand_back_came) does.
    pub fn stood_came(&'static self, link: &Link, id: u32, wakes: &mut Wakes) -> bool {
        let mut inner = self.lock();
        let rises = |afloat: &Afloat| afloat.stands_soon && afloat.way.is_some();
        let Some(conn) = inner.conn_on(link, id) else {
            return false;
        };
        if !conn.afloat.as_deref().is_some_and(rises) {
            return false;
        }
        inner.stands(self, wakes);
        runtime::get().command(Command::Stood);
        inner
            .conn_on(link, id)
            .is_some_and(|conn| conn.is_done_leaving())
    }

    /// Connection `id` of `link`, of which this is the accepting end, has the kernel's connection `kernel`. False if it does
    /// not wait for one.
    pub fn stand_on(
        &'static self,
        link: &Link,
        id: u32,
        kernel: InternalFd,
        from: &Address,
    ) -> bool {
        let mut wakes = Wakes::new(None);
        let left;
        {
            let mut inner = self.lock();
            let same_host = |remote: Address| {
                cache::key(&remote.with_port(0)) == cache::key(&from.with_port(0))
            };
            let is_it = inner.remote.is_some_and(same_host)
                && inner.conn_on(link, id).is_some_and(|conn| {
                    let waits = |afloat: &Afloat| afloat.way.is_none();
                    conn.afloat.as_deref().is_some_and(waits) && !conn.is_reset()
                });
            if !is_it {
                return false;
            }
            let _ = rustix::io::ioctl_fionbio(&kernel, inner.nonblocking);
            inner.give_kernel(&kernel);
            let never_accepted = inner.fds.is_empty();
            if never_accepted {
                inner.last_number = Some(kernel);
            }
            link.send_leaving(id, Kind::Stood);
            inner.stands(self, &mut wakes);
            left = inner
                .conn_on(link, id)
                .is_some_and(|conn| conn.is_done_leaving());
        }
        wakes.ring();
        if left && let Some(link) = self.lock().link() {
            runtime::get().command(Command::Leave(self, link, id));
        }
        true
    }

    /// There is no kernel's connection to be had for it: it is broken off, as one of the kernel's would be.
    pub fn cannot_stand(&'static self, serial: u64) {
        let mut wakes = Wakes::new(None);
        {
            let mut inner = self.lock();
            let is_it = inner.serial == serial;
            let Role::Connected(conn) = &mut inner.role else {
                return;
            };
            if !is_it || conn.afloat.is_none() {
                return;
            }
            tracing::warn!(target: "netacc::conn", "a connection that was opened fast cannot be had from the kernel");
            if !conn.peer_closed {
                conn.link.send_control(conn.id, Kind::Reset, &[]);
            }
            let events = conn.on_reset(Errno::CONNRESET);
            inner.announce(self, events, &mut wakes);
        }
        wakes.ring();
    }

    /// Asks for a kernel's connection behind it, if it has none. Returns whether there is one to wait for.
    pub fn begin_to_stand(&'static self) -> bool {
        self.lock_soon()
            .is_some_and(|mut inner| inner.begin_to_stand(self))
    }

    /// Its lock, unless somebody has it for long: this thread may, interrupted by a signal's handler.
    fn lock_soon(&self) -> Option<MutexGuard<'_, Inner>> {
        const TRIES: u32 = 1000;
        for _ in 0..TRIES {
            if let Some(inner) = self.try_lock() {
                return Some(inner);
            }
            rustix::thread::sched_yield();
        }
        None
    }

    /// Before a fork: as [`begin_to_stand`](Self::begin_to_stand); and a listener grants no ways any more. Returns the link
    /// on which it is heard that it stands.
    pub fn prepare_to_stand(&'static self) -> Option<Arc<Link>> {
        let mut inner = self.lock_soon()?;
        let waits = inner.begin_to_stand(self);
        if let Role::Listening(listening) = &inner.role
            && let Some(side) = &listening.side
        {
            side.close_ways();
        }
        waits.then(|| inner.link()).flatten()
    }
}

/// Waits a moment for a credit.
fn await_credit(
    runtime: &Runtime,
    key: &cache::Key,
    link: &Arc<Link>,
) -> Result<Leading, Option<Arc<Link>>> {
    let source = link.source();
    let by = now_ns() + CREDIT_NS;
    loop {
        source.poll(None);
        let found = runtime.ways.lock().take(key);
        match found {
            Err(Some(_)) if now_ns() < by => rustix::thread::sched_yield(),
            found => return found,
        }
    }
}

impl Inner {
    /// It was opened fast, and has just been accepted as `number`.
    pub(super) fn is_accepted_fast(&mut self, number: RawFd) {
        stats::add(&stats::global().accepted_fast, 1);
        // The peer may have wanted it to stand before anybody accepted it.
        if let Some(kernel) = self.last_number.take() {
            self.spoil();
            let _ = rustix::io::ioctl_fionbio(&kernel, self.nonblocking);
            // What the listener has left it was set on what is replaced.
            self.kept.iter().for_each(|kept| kept.apply(kernel.as_fd()));
            super::options::bequeath(kernel.as_raw_fd(), self.low_water, self.linger);
            replace(number, &kernel);
        }
    }

    /// Whether nothing was set that makes the kernel choose how it connects.
    fn may_be_fast(&self) -> bool {
        !self.is_bound && self.kept.iter().all(|kept| !kept.steers())
    }

    /// The connection is established: the way that came with it, if one did, is known from now on.
    pub(super) fn note_way(&mut self) {
        let fd = self.fd();
        let (dest, is_bound) = (self.remote, self.is_bound);
        let Role::Connected(conn) = &mut self.role else {
            return;
        };
        if let Some(grant) = conn.granted.take()
            && let Some(dest) = dest
            && !is_bound
            && let Some(local) = Address::local_of(fd)
        {
            conn.link.gains_way(&grant, local, dest);
        }
    }

    /// Somebody is about to inherit it, who may change what its numbers stand for: asks for a kernel's connection behind it.
    /// Returns whether there is one to wait for.
    fn begin_to_stand(&mut self, socket: &'static Socket) -> bool {
        self.spoil();
        let is_over = |conn: &Conn| conn.afloat.is_some() && conn.peer_closed && !conn.is_reset();
        if matches!(&self.role, Role::Connected(conn) if is_over(conn)) {
            self.stand_alone();
            return false;
        }
        self.ask_to_stand(socket)
    }

    /// Asks for a kernel's connection behind it, once. Returns whether there is one to wait for.
    pub(super) fn ask_to_stand(&mut self, socket: &'static Socket) -> bool {
        let serial = self.serial;
        let Role::Connected(conn) = &mut self.role else {
            return false;
        };
        let over = conn.peer_closed;
        let Some(afloat) = &mut conn.afloat else {
            return false;
        };
        if over {
            return false;
        }
        if !core::mem::replace(&mut afloat.stands_soon, true) {
            match afloat.way {
                Some(_) => runtime::get().command(Command::Stand(socket, serial)),
                None => conn.link.send_leaving(conn.id, Kind::Stand),
            }
        }
        true
    }

    /// A hand-back is to begin: whether there is a kernel's connection for it. If not it begins when there is.
    pub(super) fn stands_to_leave(&mut self, socket: &'static Socket) -> bool {
        let Role::Connected(conn) = &mut self.role else {
            return true;
        };
        let over = conn.peer_closed;
        let Some(afloat) = &mut conn.afloat else {
            return true;
        };
        if over {
            self.stand_alone();
            return true;
        }
        afloat.then_leaves = true;
        self.ask_to_stand(socket);
        false
    }

    /// It is about to be broken off by the kernel, too, which is to know that there was a connection.
    pub(super) fn stands_to_break_off(&mut self) {
        if matches!(&self.role, Role::Connected(conn) if conn.afloat.is_some()) {
            self.stand_alone();
        }
    }

    /// The peer is gone, so there is nobody to connect to: the kernel is to have what it would have of a connection that the
    /// peer has closed.
    fn stand_alone(&mut self) {
        let made = match stand_in(&[]) {
            Ok((reading, writing, _)) => {
                drop(writing);
                Ok(reading)
            }
            Err(_) => broken(),
        };
        if let Ok(made) = made {
            let _ = rustix::io::ioctl_fionbio(&made, self.nonblocking);
            for &number in &self.fds {
                replace(number, &made);
            }
        }
        self.spoil();
        if let Role::Connected(conn) = &mut self.role {
            conn.afloat = None;
        }
    }

    /// The application's numbers stand for `kernel` from now on, which has what was set on what they stood for before.
    fn give_kernel(&mut self, kernel: &InternalFd) {
        for kept in core::mem::take(&mut self.kept) {
            kept.apply(kernel.as_fd());
        }
        self.spoil();
        self.former_cookie = cookie(self.fd());
        super::options::bequeath(kernel.as_raw_fd(), self.low_water, self.linger);
        for &number in &self.fds {
            replace(number, kernel);
        }
    }

    /// There is a kernel's connection behind it.
    fn stands(&mut self, socket: &'static Socket, wakes: &mut Wakes) {
        let fd = self.fd();
        let Role::Connected(conn) = &mut self.role else {
            return;
        };
        let Some(afloat) = conn.afloat.take() else {
            return;
        };
        stats::add(&stats::global().fast_stood, 1);
        if conn.rx_shut && fd >= 0 {
            let _ = rustix::net::shutdown(sys::borrow(fd), Shutdown::Read);
        }
        if afloat.then_leaves {
            self.begin_hand_back(socket);
        }
        self.wake_sleepers(wakes);
    }
}
