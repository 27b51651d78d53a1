//! Connecting: to the side port with an open for a link that is known, after a first contact with
//! a destination that is not, and to the application's own port in all other cases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::c_int;
use parking_lot::MutexGuard;
use rustix::event::PollFlags;
use rustix::fd::RawFd;

use super::addr::Address;
use super::lifecycle::Farewell;
use super::wait::{Borrowed, Wait};
use super::{Inner, Role, Socket};
use crate::control::cache::{self, Look};
use crate::control::contact::{Goal, Waiting};
use crate::control::io_thread::Command;
use crate::control::opening::{Opening, Patience, Step};
use crate::link::Link;
use crate::link::record::Kind;
use crate::log::{self, Left};
use crate::poll::epoll::EpollSet;
use crate::poll::waiter::{Waiter, Wakes};
use crate::poll::{interest, kernel};
use crate::real::orig;
use crate::real::sys::{self, Errno, now_ns};
use crate::runtime::{self, Runtime};
use crate::stats::{self, ConnState, ConnStats, Mode, Reason};

/// First contacts that one connect waits for: each may find the links full that it made.
const TRIES: usize = 64;

/// What became of a connect.
pub enum Outcome {
    /// It is over (or under way: `EINPROGRESS`).
    Done(Result<(), Errno>),
    /// The caller passes the call on; the socket is the kernel's now.
    Kernel,
}

enum Road {
    /// By this link, under this number; whether several processes may take it there.
    Link(Arc<Link>, u32, bool),
    Contact,
    Kernel(Reason),
}

impl Socket {
    /// connect(2). `inner` is the socket's lock, taken by the caller.
    pub fn connect(
        &'static self,
        fd: RawFd,
        mut inner: MutexGuard<'static, Inner>,
        dest: Option<Address>,
    ) -> Outcome {
        if dest.is_none() && matches!(inner.role, Role::Connected(_)) {
            return self.unconnect(inner);
        }
        match &inner.role {
            // As the kernel: the first call after a connect in the background reports its success.
            Role::Connected(_) => {
                let first = std::mem::take(&mut inner.connect_done);
                return Outcome::Done(if first { Ok(()) } else { Err(Errno::ISCONN) });
            }
            Role::Connecting(_) if inner.nonblocking => {
                return Outcome::Done(Err(Errno::ALREADY));
            }
            Role::Connecting(_) => return self.await_connect(inner),
            Role::Fresh => {}
            Role::Listening(_)
            | Role::Leftover(_)
            | Role::Orphan(_)
            | Role::Plain
            | Role::Unused => {
                return Outcome::Kernel;
            }
        }
        let Some(dest) = dest else {
            // AF_UNSPEC, or an address that the kernel will refuse: nothing changes.
            return Outcome::Kernel;
        };
        if inner.only_kernel {
            return self.leave_to_kernel(inner, dest, Reason::OptionNotCarried);
        }
        let Some(runtime) = runtime::start() else {
            return self.leave_to_kernel(inner, dest, Reason::ResourceLimit);
        };
        if let Some(reason) = runtime.why_off() {
            return self.leave_to_kernel(inner, dest, reason);
        }
        self.connect_by(runtime, fd, inner, dest)
    }

    /// connect(2) of a blocking socket while another call's connect is under way: waits for it.
    fn await_connect(&'static self, inner: MutexGuard<'static, Inner>) -> Outcome {
        let wait = Wait {
            timeout: inner.send_timeout,
            ..Wait::default()
        };
        let over = |inner: &mut Inner| {
            let done = core::mem::take(&mut inner.connect_done);
            match inner.role {
                Role::Connecting(_) => None,
                Role::Connected(_) if done => Some(Ok(Outcome::Done(Ok(())))),
                Role::Connected(_) => Some(Err(Errno::ISCONN)),
                _ => Some(Ok(Outcome::Kernel)),
            }
        };
        match self.wait_until(inner, wait, over) {
            Ok(outcome) => outcome,
            Err(Errno::AGAIN) => Outcome::Done(Err(Errno::ALREADY)),
            Err(error) => Outcome::Done(Err(error)),
        }
    }

    /// connect(2) with AF_UNSPEC: the connection is reset and the socket as new; the caller has the
    /// kernel do the same with its part.
    fn unconnect(&'static self, mut inner: MutexGuard<'static, Inner>) -> Outcome {
        let kept = inner.linger;
        inner.linger = Some(0);
        inner.stands_to_break_off();
        let mut watches = std::mem::take(&mut inner.watches);
        let mut farewell = inner.end();
        inner.watches.append(&mut watches);
        farewell.sets = interest::enter_kernel(&mut inner);
        inner.linger = kept;
        inner.role = Role::Fresh;
        inner.remote = None;
        inner.local = None;
        drop(inner);
        farewell.say();
        Outcome::Kernel
    }

    fn leave_to_kernel(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        dest: Address,
        reason: Reason,
    ) -> Outcome {
        inner.spoil();
        let left = self.become_plain(&mut inner, reason, Side::Connecting(dest));
        drop(inner);
        left.say();
        Outcome::Kernel
    }

    fn connect_by(
        &'static self,
        runtime: &'static Runtime,
        fd: RawFd,
        mut inner: MutexGuard<'static, Inner>,
        dest: Address,
    ) -> Outcome {
        if runtime.config.fast_connect {
            inner = match self.connect_fast(runtime, inner, dest) {
                Ok(outcome) => return outcome,
                Err(inner) => inner,
            };
        }
        inner.spoil();
        for _ in 0..TRIES {
            match self.road(runtime, &dest) {
                Road::Kernel(reason) => return self.leave_to_kernel(inner, dest, reason),
                Road::Link(link, id, shared) => {
                    let patience = Patience::new(runtime.connect_timeout(), shared);
                    return self.connect_over(runtime, fd, inner, dest, (link, id), patience);
                }
                Road::Contact if inner.nonblocking => {
                    inner.role = Role::Connecting(None);
                    interest::leave_kernel(&mut inner);
                    let life = inner.life;
                    drop(inner);
                    let waiting = Waiting::Socket(self, life);
                    runtime.command(Command::Contact(whoever_listens_at(dest), waiting));
                    return Outcome::Done(Err(Errno::INPROGRESS));
                }
                Road::Contact => {
                    drop(inner);
                    await_contact(runtime, whoever_listens_at(dest), u64::MAX);
                    inner = self.lock();
                    if !matches!(inner.role, Role::Fresh) {
                        return Outcome::Kernel;
                    }
                }
            }
        }
        self.leave_to_kernel(inner, dest, Reason::LinkLimit)
    }

    /// Which way `dest` is reached.
    fn road(&'static self, runtime: &Runtime, dest: &Address) -> Road {
        if dest
            .port()
            .checked_add(runtime.config.side_port_offset)
            .is_none()
        {
            return Road::Kernel(Reason::SidePortOutOfRange);
        }
        if !runtime.config.accelerates(dest.to_std().ip(), dest.port()) {
            return Road::Kernel(Reason::LeftAlone);
        }
        if crate::memory::is_short() {
            return Road::Kernel(Reason::ResourceLimit);
        }
        let look = runtime.cache.lock().look(&cache::key(dest));
        match look {
            Look::NotUs(reason) => Road::Kernel(reason),
            Look::Unknown if runtime.config.tcp_first => {
                let goal = whoever_listens_at(*dest);
                runtime.command(Command::Contact(goal, Waiting::Nobody));
                Road::Kernel(Reason::TcpFirst)
            }
            Look::Unknown => Road::Contact,
            Look::Linked {
                links,
                enough,
                shared,
            } => {
                let open = |beyond| {
                    let open = |link: &Arc<Link>| Some((link.clone(), link.open(self, beyond)?));
                    links.iter().find_map(open)
                };
                match open(false).or_else(|| enough.then(|| open(true)).flatten()) {
                    Some((link, id)) => Road::Link(link, id, shared),
                    None if enough => Road::Kernel(Reason::LinkLimit),
                    None => Road::Contact,
                }
            }
        }
    }

    fn connect_over(
        &'static self,
        runtime: &'static Runtime,
        fd: RawFd,
        mut inner: MutexGuard<'static, Inner>,
        dest: Address,
        (link, id): (Arc<Link>, u32),
        patience: Patience,
    ) -> Outcome {
        let nonblocking = inner.nonblocking;
        let conn = inner.new_conn(&link, id);
        let window = conn.windows.receiving();
        inner.role = Role::Connecting(Some(conn));
        interest::leave_kernel(&mut inner);
        let opening = Opening::new(self, inner.life, fd, link, id, dest, window, patience);
        let side = dest.with_port(dest.port() + runtime.config.side_port_offset);
        let result = if nonblocking {
            kernel_connect(fd, &side)
        } else {
            // It may wait, as the application expects; nobody else can change the role meanwhile.
            inner.users += 1;
            drop(inner);
            let result = kernel_connect(fd, &side);
            inner = self.lock();
            inner.users -= 1;
            result
        };
        match result {
            Ok(()) if !nonblocking => self.finish_blocking(runtime, opening, inner),
            Ok(()) | Err(Errno::INPROGRESS) => {
                self.finish_later(runtime, opening, inner, Errno::INPROGRESS)
            }
            // The kernel goes on connecting after a signal.
            Err(Errno::INTR) => self.finish_later(runtime, opening, inner, Errno::INTR),
            Err(_) => {
                withdraw(&opening);
                let outcome = match nonblocking {
                    true => Outcome::Done(kernel_connect(fd, &opening.dest)),
                    false => Outcome::Kernel,
                };
                let left = self.become_plain_after(&mut inner, &opening, Reason::SidePortRefused);
                drop(inner);
                left.say();
                outcome
            }
        }
    }

    fn finish_later(
        &'static self,
        runtime: &Runtime,
        mut opening: Opening,
        mut inner: MutexGuard<'static, Inner>,
        error: Errno,
    ) -> Outcome {
        let step = opening.step();
        if step == Step::Accelerated {
            inner.connect_done = true;
            let joined = self.establish(&mut inner, &opening);
            drop(inner);
            join_sets(joined, &opening);
            self.answer_early_hand_back();
        } else {
            drop(inner);
            runtime.command(Command::Open(opening.resume(step)));
        }
        Outcome::Done(Err(error))
    }

    fn finish_blocking(
        &'static self,
        runtime: &Runtime,
        mut opening: Opening,
        mut inner: MutexGuard<'static, Inner>,
    ) -> Outcome {
        let timeout = inner.send_timeout;
        let patience = timeout.map_or(u64::MAX, |t| now_ns() + t.as_nanos() as u64);
        let mut step = opening.step();
        loop {
            match step {
                Step::Wait => {}
                Step::Elsewhere(process) => {
                    (inner, step) = self.turn(runtime, inner, &mut opening, &process);
                    if matches!(step, Step::Elsewhere(_)) {
                        inner.users += 1;
                        drop(inner);
                        let goal = Goal {
                            address: opening.dest,
                            process: Some(process),
                        };
                        await_contact(runtime, goal, patience);
                        inner = self.lock();
                        inner.users -= 1;
                        if now_ns() >= patience {
                            opening = opening.resume(step);
                            return self.finish_later(runtime, opening, inner, Errno::INPROGRESS);
                        }
                    }
                    continue;
                }
                _ => break,
            }
            let now = now_ns();
            if now >= opening.deadline() {
                step = Step::Failed(Reason::HandshakeTimeout);
                break;
            }
            if now >= patience {
                return self.finish_later(runtime, opening, inner, Errno::INPROGRESS);
            }
            inner.users += 1;
            drop(inner);
            let left = opening.deadline().min(patience) - now;
            let polled = sys::poll_one(sys::borrow(opening.fd()), PollFlags::IN, left);
            let interrupted = polled == Err(Errno::INTR);
            let goes_on = !interrupted || timeout.is_none() && kernel::interrupted_calls_go_on();
            inner = self.lock();
            inner.users -= 1;
            step = opening.step();
            if !goes_on && step == Step::Wait {
                return self.finish_later(runtime, opening, inner, Errno::INTR);
            }
        }
        match step {
            Step::Wait | Step::Elsewhere(_) | Step::Accelerated => {
                let joined = self.establish(&mut inner, &opening);
                drop(inner);
                join_sets(joined, &opening);
                self.answer_early_hand_back();
                Outcome::Done(Ok(()))
            }
            Step::Plain => {
                let left = self.accept_plain(&mut inner, &opening);
                drop(inner);
                left.say();
                Outcome::Done(Ok(()))
            }
            Step::Failed(reason) => {
                withdraw(&opening);
                let left = self.become_plain_after(&mut inner, &opening, reason);
                drop(inner);
                left.say();
                Outcome::Kernel
            }
        }
    }

    /// The control thread's turn at a connect that goes on in the background.
    pub fn continue_opening(
        &'static self,
        runtime: &Runtime,
        opening: &mut Opening,
        expired: bool,
    ) -> Step {
        let mut inner = self.lock();
        if !inner.goes_on_connecting(opening) {
            // Closed meanwhile; `close` has told the link.
            return Step::Failed(Reason::LinkFailed);
        }
        let mut step = match opening.step() {
            Step::Wait if expired => Step::Failed(Reason::HandshakeTimeout),
            step => step,
        };
        if let Step::Elsewhere(process) = step {
            (inner, step) = self.turn(runtime, inner, opening, &process);
            if !inner.goes_on_connecting(opening) {
                if inner.life == opening.life {
                    self.recycle_if_done(&mut inner);
                }
                return Step::Failed(Reason::LinkFailed);
            }
        }
        let mut left = Farewell::default();
        let mut joined = Vec::new();
        match step {
            Step::Wait | Step::Elsewhere(_) => {}
            Step::Accelerated => {
                inner.connect_done = true;
                joined = self.establish(&mut inner, opening);
            }
            Step::Plain => left = self.accept_plain(&mut inner, opening),
            Step::Failed(reason) => {
                withdraw(opening);
                connect_in_background(&mut inner, &opening.dest);
                left = self.become_plain_after(&mut inner, opening, reason);
            }
        }
        drop(inner);
        join_sets(joined, opening);
        left.say();
        if step == Step::Accelerated {
            self.answer_early_hand_back();
        }
        step
    }

    /// The contact that this socket's connect waited for is over: goes on. `Err`: the links that
    /// there are have no room, it waits for another contact.
    pub fn go_on_connecting(
        &'static self,
        runtime: &'static Runtime,
        life: u64,
        dest: &Address,
    ) -> Option<Result<Opening, Waiting>> {
        let mut inner = self.lock();
        if inner.life != life
            || !matches!(inner.role, Role::Connecting(None))
            || inner.fds.is_empty()
        {
            return None;
        }
        let (link, id, shared) = match self.road(runtime, dest) {
            Road::Link(link, id, shared) => (link, id, shared),
            Road::Contact => return Some(Err(Waiting::Socket(self, life))),
            Road::Kernel(reason) => {
                connect_in_background(&mut inner, dest);
                let left = self.become_plain(&mut inner, reason, Side::Connecting(*dest));
                drop(inner);
                left.say();
                return None;
            }
        };
        let side = dest.with_port(dest.port() + runtime.config.side_port_offset);
        let conn = inner.new_conn(&link, id);
        let window = conn.windows.receiving();
        inner.role = Role::Connecting(Some(conn));
        inner.update_slot();
        let fd = inner.fd();
        let patience = Patience::new(runtime.connect_timeout(), shared);
        let mut opening = Opening::new(self, life, fd, link, id, *dest, window, patience);
        match without_waiting(&inner, || sys::connect(sys::borrow(fd), &side)) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => opening = opening.resume(Step::Failed(Reason::SidePortRefused)),
        }
        Some(Ok(opening))
    }

    /// The acceptor has taken the connection: it is established. Returns the epoll sets to tell.
    fn establish(
        &'static self,
        inner: &mut Inner,
        opening: &Opening,
    ) -> Vec<(&'static EpollSet, u64)> {
        let mut conn = match std::mem::replace(&mut inner.role, Role::Fresh) {
            Role::Connecting(Some(conn)) => conn,
            // Closed by another thread during a blocking connect.
            other => {
                inner.role = other;
                return Vec::new();
            }
        };
        if let Some(window) = opening.peer_window() {
            conn.windows.begin_sending(window);
        }
        let link = conn.link.clone();
        {
            let (mut cache, key) = (runtime::get().cache.lock(), cache::key(&opening.dest));
            cache.answered(&key, opening.has_turned());
            if opening.has_turned() {
                cache.prefer(&key, &link);
            }
        }
        inner.role = Role::Connected(conn);
        inner.kept = Vec::new();
        inner.remote = Some(opening.dest);
        inner.note_way();
        self.describe(
            inner,
            link.fabric().kind().mode(),
            Reason::None,
            Side::Connecting(opening.dest),
        );
        inner.stats.inspect(|s| s.set_link(Some(link.stats)));
        inner.update_slot();
        let mut wakes = Wakes::new(None);
        let mask = inner.poll_mask();
        inner.announce(self, mask, &mut wakes);
        wakes.ring();
        inner.watches.iter().map(|w| (w.set, w.life)).collect()
    }

    /// The acceptor has taken the connection, but as plain TCP on this very socket.
    fn accept_plain(&'static self, inner: &mut Inner, opening: &Opening) -> Farewell {
        // Another process listens there now; the next connect asks it.
        if let Some((link, _)) = &opening.place {
            let mut cache = runtime::get().cache.lock();
            cache.unlinked(&cache::key(&opening.dest), link);
        }
        inner.remote = Some(opening.dest);
        let farewell =
            self.become_plain(inner, Reason::PeerRefused, Side::Connecting(opening.dest));
        Farewell {
            link: opening.place.clone().map(|(link, id)| (link, id, true)),
            ..farewell
        }
    }

    /// [`become_plain`](Self::become_plain) where nothing came of an opening.
    fn become_plain_after(
        &'static self,
        inner: &mut Inner,
        opening: &Opening,
        reason: Reason,
    ) -> Farewell {
        if reason == Reason::HandshakeTimeout {
            let runtime = runtime::get();
            let ttl = runtime.config.peer_ttl.as_nanos() as u64;
            let key = cache::key(&opening.dest);
            runtime.cache.lock().unanswered(&key, ttl);
        }
        let farewell = self.become_plain(inner, reason, Side::Connecting(opening.dest));
        Farewell {
            link: opening
                .place
                .clone()
                .map(|(link, id)| (link, id, !opening.is_announced())),
            ..farewell
        }
    }

    /// The socket is the kernel's from now on. Returns what is left to do once the lock is released.
    pub fn become_plain(&'static self, inner: &mut Inner, reason: Reason, side: Side) -> Farewell {
        self.describe(inner, Mode::Tcp, reason, side);
        stats::add(stats::global().fallback(reason), 1);
        let sets = self.be_plain(inner);
        let mut wakes = Wakes::new(None);
        inner.wake_sleepers(&mut wakes);
        wakes.ring();
        Farewell {
            sets,
            ..Farewell::default()
        }
    }

    /// Fills in the socket's line of the stats page, counts the connection and tells its way.
    pub fn describe(&'static self, inner: &mut Inner, mode: Mode, reason: Reason, side: Side) {
        let page = inner
            .stats
            .get_or_insert_with(|| ConnStats::claim(inner.fds.first().copied().unwrap_or(-1)));
        page.set_mode(mode, reason);
        let global = stats::global();
        match side {
            Side::Connecting(dest) => {
                stats::add(global.connected(mode), 1);
                if mode == Mode::Tcp {
                    log::fallback(reason, Left::ConnectionsTo(dest.to_std()));
                }
                tracing::debug!(target: "netacc::conn", reason = %reason.name(), "connects to {dest:?} over {}", mode.name());
                let number = inner.fds.first().copied().unwrap_or(-1);
                if mode != Mode::Tcp
                    && let Some(local) = inner.local.or_else(|| Address::local_of(number))
                {
                    page.set_addresses(local.to_std(), dest.to_std());
                } else {
                    page.set_addresses(dest.unspecified(), dest.to_std());
                }
            }
            Side::Accepting(local, remote) => {
                stats::add(global.accepted(mode), 1);
                if mode == Mode::Tcp {
                    log::fallback(reason, Left::ConnectionsAt(local.to_std()));
                }
                tracing::debug!(target: "netacc::conn", reason = %reason.name(), "accepted {remote:?} at {local:?} over {}", mode.name());
                page.set_addresses(local.to_std(), remote.to_std());
            }
        }
        page.set_state(if mode == Mode::Tcp {
            ConnState::Tcp
        } else {
            ConnState::Established
        });
    }
}

/// Which end of a connection a socket is.
#[derive(Clone, Copy)]
pub enum Side {
    /// It connects to this address.
    Connecting(Address),
    /// It was accepted: local and remote address.
    Accepting(Address, Address),
}

/// Whichever process listens at `address` is to be met.
fn whoever_listens_at(address: Address) -> Goal {
    Goal {
        address,
        process: None,
    }
}

/// A socket watched by these sets came to be on the link of `opening`.
fn join_sets(sets: Vec<(&'static EpollSet, u64)>, opening: &Opening) {
    let Some((link, _)) = &opening.place else {
        return;
    };
    for (set, life) in sets {
        set.joined(life, link);
    }
}

/// connect(2) by the libc: it may wait, and be cancelled.
fn kernel_connect(fd: RawFd, address: &Address) -> Result<(), Errno> {
    let (ptr, len) = address.as_ptr();
    // SAFETY: pointer and length describe an address.
    match unsafe { orig::connect(fd as c_int, ptr, len) } {
        0 => Ok(()),
        _ => Err(sys::last_error()),
    }
}

/// Runs a connect of the control thread, which must not wait even if the socket is a blocking one.
fn without_waiting<T>(inner: &Inner, connect: impl FnOnce() -> T) -> T {
    let fd = sys::borrow(inner.fd());
    if inner.nonblocking {
        return connect();
    }
    let _ = rustix::io::ioctl_fionbio(fd, true);
    let result = connect();
    let _ = rustix::io::ioctl_fionbio(fd, false);
    result
}

/// Nothing came of an opening: the socket is as new, for the kernel to connect.
fn withdraw(opening: &Opening) {
    if let Some((link, id)) = opening.place.as_ref().filter(|_| opening.is_announced()) {
        // The acceptor may have taken it at this very moment: it learns that nobody is there.
        link.send_control(*id, Kind::Reset, &[]);
    }
    sys::disconnect(opening.fd());
}

/// Has the kernel connect to the application's own port; what it says at once is kept for SO_ERROR. Before the
/// kernel's epolls watch it: one that is not connecting is hung up to them.
fn connect_in_background(inner: &mut Inner, dest: &Address) {
    let fd = sys::borrow(inner.fd());
    match without_waiting(inner, || sys::connect(fd, dest)) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => inner.connect_error = Some(error),
    }
}

/// Waits until the control thread knows who `goal` is. Bounded by the contact's own deadline, and by `until`, in
/// [`now_ns`] time.
fn await_contact(runtime: &Runtime, goal: Goal, until: u64) {
    let Ok(waiter) = Waiter::take() else { return };
    let borrowed = Borrowed(waiter);
    let done = Arc::new(AtomicBool::new(false));
    runtime.command(Command::Contact(
        goal,
        Waiting::Thread(done.clone(), waiter),
    ));
    // (Whoever has the waiter next may be woken for nothing.)
    while !done.load(Ordering::Acquire) && now_ns() < until {
        waiter.begin_sleep();
        if !done.load(Ordering::Acquire) {
            let left = until.saturating_sub(now_ns());
            // Not a cancellation point: the control thread still holds the waiter.
            if sys::poll_one(waiter.bell(), PollFlags::IN, left) == Ok(PollFlags::IN) {
                let mut count = [0; 8];
                let _ = rustix::io::read(waiter.bell(), &mut count);
            }
        }
        waiter.end_sleep(|| (), || ());
    }
    drop(borrowed);
}
