//! Numbers and ends: socket, dup, shutdown, close.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;
use rustix::fd::RawFd;
use rustix::net::{Shutdown, sockopt};

use super::addr::Address;
use super::wait::Wait;
use super::{Inner, Role, Socket};
use crate::conn::Conn;
use crate::control::cache;
use crate::control::heirs;
use crate::control::io_thread::Command;
use crate::control::listener::Closing;
use crate::control::shelf;
use crate::control::worth::Life;
use crate::fdtable::{self, Entry};
use crate::fork;
use crate::link::Link;
use crate::link::record::Kind;
use crate::link::ways::Lease;
use crate::poll::epoll::EpollSet;
use crate::poll::interest;
use crate::poll::ready::Watch;
use crate::poll::twin;
use crate::poll::waiter::Wakes;
use crate::real::orig;
use crate::real::sys::{self, Errno};
use crate::runtime;
use crate::stats::{self, ConnState};

/// Puts `entry` at `fd`. What stood there before was closed behind our back: it is over.
pub fn install(fd: RawFd, entry: Entry) {
    if let Some(stale) = fdtable::set(fd, entry) {
        lost(fd, stale);
    }
}

/// A TCP socket was made as `fd`.
pub fn created(fd: RawFd, domain: i32, nonblocking: bool) {
    if !fdtable::fits(fd) {
        return;
    }
    let socket = Socket::new(domain, nonblocking);
    socket.lock().fds.push(fd);
    install(fd, Entry::Socket(socket));
}

/// `to` is a new number for what `from` is.
pub fn duplicated(from: RawFd, to: RawFd) {
    match fdtable::get(from) {
        Some(entry @ (Entry::Socket(socket) | Entry::Plain(socket))) => {
            let mut inner = socket.lock();
            if fdtable::is(from, entry) {
                inner.fds.push(to);
                drop(inner);
                install(to, entry);
            }
        }
        Some(entry @ Entry::Epoll(set)) => {
            set.numbered();
            install(to, entry);
        }
        Some(Entry::Lost) => install(to, Entry::Lost),
        Some(Entry::Internal) | None => {
            // The number may have been closed behind our back before.
            if let Some(stale) = fdtable::take(to) {
                lost(to, stale);
            }
        }
    }
}

/// `fd` no longer stands for `entry`, and is about to be closed.
pub fn release(fd: RawFd, entry: Entry) {
    give_up(fd, entry, true);
}

/// `fd` no longer stands for `entry`: it was closed, and may stand for something else by now.
pub fn lost(fd: RawFd, entry: Entry) {
    give_up(fd, entry, false);
}

fn give_up(fd: RawFd, entry: Entry, is_open: bool) {
    match entry {
        Entry::Socket(socket) | Entry::Plain(socket) => socket.lose_number(fd, is_open),
        Entry::Epoll(set) => set.unnumbered(),
        Entry::Lost | Entry::Internal => {}
    }
}

/// `fd` is about to be closed. As the kernel: a connection that is closed with bytes unread is broken off, and those of
/// one that was handed back may be here. (Not one that another process may hold.)
#[unsafe(link_section = ".text.netacc_hooks")]
pub fn closes(fd: RawFd) {
    if let Some(Entry::Socket(socket)) = fdtable::get(fd) {
        let inner = socket.lock();
        if let Role::Leftover(left) = &inner.role
            && !left.is_empty()
            && inner.fds[..] == [fd]
            && !heirs::may_hold(inner.forks)
            && fork::generation() == 0
        {
            let _ = sockopt::set_socket_linger(sys::borrow(fd), Some(Duration::ZERO));
        }
    }
}

/// close(2) of a number that the library itself has just given out.
pub fn close(fd: RawFd) {
    if let Some(entry) = fdtable::take(fd) {
        release(fd, entry);
    }
    sys::close(fd);
}

/// What is left to do for an ended socket once its lock is released.
#[derive(Default)]
pub struct Farewell {
    /// The link and the id there that it gives up, and whether the peer never knew the id. If it
    /// did, it is told.
    pub link: Option<(Arc<Link>, u32, bool)>,
    /// How many bytes had arrived there when it ended.
    pub arrived: Option<u64>,
    /// The port that it gives up with that, if it was opened fast.
    pub lease: Option<Lease>,
    /// A kernel's connection was being made for it.
    pub stood_soon: bool,
    /// The link that the sets count for it.
    pub joined: Option<Arc<Link>>,
    /// The links that the sets count for it as a listener.
    pub ways: Vec<Arc<Link>>,
    /// The epoll sets that lost its watch.
    pub sets: Vec<(&'static EpollSet, u64)>,
    /// The side port that it closes.
    pub listener: Option<Arc<crate::control::listener::SideListener>>,
}

impl Farewell {
    /// Does it.
    pub fn say(self) {
        for (set, life) in self.sets {
            set.drop_watch(life, self.joined.as_ref());
            self.ways.iter().for_each(|link| set.left(life, link));
        }
        if let Some((link, id, unknown)) = self.link {
            link.forget(id, unknown, self.arrived, self.lease);
        }
        if self.stood_soon {
            runtime::get().command(Command::Stood);
        }
        if let Some(side) = self.listener {
            shelf::leave_to_others(&side, side.close());
            // A forked child that did not accept has none.
            if let Some(runtime) = runtime::started() {
                runtime.command(Command::Unlisten(Closing::new(side)));
            }
        }
    }
}

impl Socket {
    fn lose_number(&'static self, fd: RawFd, is_open: bool) {
        let mut inner = self.lock();
        if is_open && inner.fds[..] == [fd] {
            // Bytes that nobody has looked for are unread too; and the peer may have asked for something that takes the
            // number to answer.
            inner = match self.refreshed(inner) {
                Some(inner) => inner,
                None => return,
            };
        }
        // Once: dup2 onto a number that stood for this very socket lists it anew before it goes.
        if let Some(at) = inner.fds.iter().position(|&f| f == fd) {
            inner.fds.remove(at);
        }
        if !inner.fds.is_empty() {
            return;
        }
        if is_open {
            inner.keep_blank(fd);
        }
        let stays = match &inner.role {
            Role::Connected(_) => inner.held > 0 || inner.linger.is_some_and(|seconds| seconds > 0),
            _ => false,
        };
        if is_open && (stays || inner.owes_peer() || inner.has_heirs()) {
            inner.keep_number(fd);
        }
        // A listener at which nobody waits in accept ends at once: no number is left by which the kernel's queue could be
        // asked. Who waits for it otherwise looks again and finds that.
        let mut wakes = Wakes::new(None);
        match &inner.role {
            Role::Listening(listening) if listening.door.is_none() || inner.held == 0 => {
                inner.wake_sleepers(&mut wakes);
            }
            _ if inner.held > 0 => {
                inner.closing = true;
                return;
            }
            _ => inner = self.linger(inner),
        }
        match is_open {
            // What has come since finds it gone.
            true => self.part(inner),
            false => self.see_off(inner),
        }
        wakes.ring();
    }

    /// As the kernel with SO_LINGER: what the peer has no room for is waited for, for a time.
    fn linger(&'static self, mut inner: MutexGuard<'static, Inner>) -> MutexGuard<'static, Inner> {
        let Some(seconds @ 1..) = inner.linger else {
            return inner;
        };
        let delivered = |inner: &mut Inner| match &inner.role {
            Role::Connected(conn) => conn.is_taken().then_some(Ok(())),
            _ => Some(Ok(())),
        };
        if inner.nonblocking || delivered(&mut inner).is_some() {
            return inner;
        }
        let wait = Wait {
            timeout: Some(Duration::from_secs(seconds.unsigned_abs().into())),
            ..Wait::default()
        };
        // Nobody else ends it meanwhile.
        inner.users += 1;
        let _: Result<(), Errno> = self.wait_until(inner, wait, delivered);
        let mut inner = self.lock();
        inner.users -= 1;
        inner
    }

    /// A call that [held](Inner::hold) it has ended.
    pub fn let_go(&'static self, mut inner: MutexGuard<'static, Inner>) {
        inner.held -= 1;
        inner.users -= 1;
        match inner.held == 0 && std::mem::take(&mut inner.closing) {
            true => self.see_off(inner),
            false => self.recycle_if_done(&mut inner),
        }
    }

    /// Its last number is gone.
    fn see_off(&'static self, inner: MutexGuard<'static, Inner>) {
        // Bytes that nobody has looked for are unread too.
        if let Some(inner) = self.refreshed(inner) {
            self.part(inner);
        }
    }

    fn part(&'static self, mut inner: MutexGuard<'static, Inner>) {
        let farewell = match inner.keep_for_others(self) {
            true => inner.unwatched(),
            false => inner.end(),
        };
        // Not recycled before the link has forgotten it.
        inner.users += 1;
        drop(inner);
        farewell.say();
        let mut inner = self.lock();
        inner.users -= 1;
        self.recycle_if_done(&mut inner);
    }

    /// Ends a socket that the application never got: the peer is reset, as by the kernel when a
    /// listener closes.
    pub fn discard(&'static self) {
        {
            let mut inner = self.lock();
            inner.linger = Some(0);
            inner.forks = heirs::forks();
        }
        self.lose_number(-1, false);
    }

    /// Ends a socket that the application never got, and whose peer goes another way.
    pub fn give_up(&'static self) {
        // Whoever is just taking it off its link puts it back into the free list.
        self.lock().forks = heirs::forks();
        self.lose_number(-1, false);
    }

    /// shutdown(2). `None`: the kernel's affair.
    ///
    /// # Errors
    /// `ENOTCONN`, `EINVAL`.
    pub fn shutdown(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        how: i32,
    ) -> Option<Result<(), Errno>> {
        inner = match self.refreshed(inner) {
            Some(inner) => inner,
            None => return Some(Err(Errno::BADF)),
        };
        let page = inner.stats;
        if !matches!(inner.role, Role::Connected(_)) {
            inner.spoil();
        }
        if matches!(inner.role, Role::Listening(_)) && how != libc::SHUT_WR {
            return Some(self.stop_listening(inner, how));
        }
        if let Role::Leftover(left) = &mut inner.role
            && left.resends
            && (libc::SHUT_WR..=libc::SHUT_RDWR).contains(&how)
        {
            left.then_ends = true;
            return Some(stop_reading(inner.fd(), how));
        }
        let Role::Connected(conn) = &mut inner.role else {
            return None;
        };
        if !(libc::SHUT_RD..=libc::SHUT_RDWR).contains(&how) {
            return Some(Err(Errno::INVAL));
        }
        if conn.tx_left {
            // Where the stream ends, the kernel's connection does when it has all.
            conn.rx_shut |= how != libc::SHUT_WR;
            conn.tx_shut |= how != libc::SHUT_RD;
            let fd = inner.fd();
            return Some(stop_reading(fd, how));
        }
        if conn.is_over() {
            return Some(Err(Errno::NOTCONN));
        }
        let mut events = libc::EPOLLHUP;
        if how != libc::SHUT_WR {
            conn.rx_shut = true;
            events |= libc::EPOLLIN | libc::EPOLLRDNORM | libc::EPOLLRDHUP;
        }
        if how != libc::SHUT_RD && !conn.tx_shut {
            conn.tx_shut = true;
            conn.link.send_control(conn.id, Kind::Fin, &[]);
            events |= libc::EPOLLOUT | libc::EPOLLWRNORM;
        }
        // Should it be handed back, the kernel's connection ends with what is to be sent there before.
        let _ = stop_reading(inner.fd(), how);
        page.inspect(|p| p.set_state(ConnState::HalfClosed));
        inner.update_slot();
        let mut wakes = Wakes::new(None);
        inner.announce(self, events as u32, &mut wakes);
        drop(inner);
        wakes.ring();
        Some(Ok(()))
    }
}

/// Of shutdown(2), what concerns reading.
fn stop_reading(fd: RawFd, how: i32) -> Result<(), Errno> {
    match how {
        libc::SHUT_WR => Ok(()),
        _ => rustix::net::shutdown(sys::borrow(fd), Shutdown::Read),
    }
}

impl Socket {
    /// shutdown(2) of a listener: it listens no more, at its side port either.
    fn stop_listening(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        how: i32,
    ) -> Result<(), Errno> {
        let fd = inner.fd();
        // SAFETY: no pointers.
        if unsafe { orig::shutdown(fd, how) } < 0 {
            return Err(sys::last_error());
        }
        let Role::Listening(listening) = std::mem::replace(&mut inner.role, Role::Fresh) else {
            return Ok(());
        };
        if let Some(side) = &listening.side {
            side.stop();
        }
        inner.watches.iter_mut().for_each(twin::hide);
        let ways = listening.ways();
        let sets: Vec<_> = inner.watches.iter().map(|w| (w.set, w.life)).collect();
        // While it listened the kernel was never to wait.
        if !listening.foreign {
            let _ = rustix::io::ioctl_fionbio(sys::borrow(fd), inner.nonblocking);
        }
        let mut wakes = Wakes::new(None);
        inner.wake_sleepers(&mut wakes);
        drop(inner);
        wakes.ring();
        for (set, life) in sets {
            ways.iter().for_each(|link| set.left(life, link));
        }
        Farewell {
            listener: listening.side,
            ..Farewell::default()
        }
        .say();
        Ok(())
    }
}

impl Inner {
    /// A blocked call wants it as it is, until [`Socket::let_go`].
    pub fn hold(&mut self) {
        self.held += 1;
        self.users += 1;
    }

    /// No set watches it any more.
    fn unwatched(&mut self) -> Farewell {
        let (joined, ways) = (self.joined_link(), self.ways());
        self.watches.iter_mut().for_each(twin::hide);
        for watch in &self.watches {
            interest::look_no_more(watch, &[]);
        }
        let watches = self.watches.drain(..).filter(Watch::is_live);
        Farewell {
            sets: watches.map(|w| (w.set, w.life)).collect(),
            joined,
            ways,
            ..Farewell::default()
        }
    }

    /// The application's last number for it is gone, or it breaks the connection off.
    pub fn end(&mut self) -> Farewell {
        let mut farewell = self.unwatched();
        match std::mem::replace(&mut self.role, Role::Plain) {
            Role::Connected(mut conn) | Role::Connecting(Some(mut conn)) => {
                self.was_served_here();
                if conn.has_left() {
                    stats::add(&stats::global().handed_back, 1);
                }
                match conn.afloat.take() {
                    Some(afloat) => {
                        farewell.stood_soon = afloat.stands_soon;
                        farewell.lease = afloat.lease;
                        if !conn.rx_shut {
                            self.give_blank_back();
                        }
                    }
                    None => note_worth(self.remote, &conn),
                }
                let unread = !conn.rx.is_empty();
                conn.rx.clear(&conn.link.slots);
                // As the kernel: unread data, or a linger time of zero, breaks the connection off, if it is not over.
                let breaks_off = unread || self.linger == Some(0);
                if breaks_off && !conn.peer_closed && !conn.tx_left && !conn.is_over() {
                    conn.link.send_control(conn.id, Kind::Reset, &[]);
                }
                farewell.link = Some((conn.link.clone(), conn.id, false));
                farewell.arrived = Some(conn.windows.received());
                stats::add(&stats::global().conns_closed, 1);
            }
            Role::Listening(listening) => farewell.listener = listening.side,
            Role::Plain if self.stats.is_some() => stats::add(&stats::global().conns_closed, 1),
            Role::Leftover(_) => stats::add(&stats::global().conns_closed, 1),
            Role::Plain | Role::Fresh | Role::Connecting(None) | Role::Orphan(_) | Role::Unused => {
            }
        }
        farewell
    }
}

/// A connection that this process made to `dest` ends on its link: what it was like is remembered for those that follow.
pub(super) fn note_worth(dest: Option<Address>, conn: &Conn) {
    if let (Some(dest), Some(runtime)) = (dest, runtime::started())
        && runtime.config.short_conn_limit > 0
    {
        let (mut cache, key) = (runtime.cache.lock(), cache::key(&dest));
        let life = match (conn.was_short(), conn.has_left()) {
            (false, _) => Life::Long,
            (true, false) => Life::Short,
            (true, true) => Life::HandedBack,
        };
        cache.ended(&key, life, runtime.config.short_conn_limit);
    }
}
