//! How a thread waits for a socket: look, take in what the link has, spin a little, sleep.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use rustix::fd::RawFd;

use parking_lot::MutexGuard;

use super::{Inner, Role, Socket};
use crate::control::io_thread::Command;
use crate::fabric::network;
use crate::link::Link;
use crate::link::source::{self, Source};
use crate::poll::kernel;
use crate::poll::waiter::{Waiter, Wakes};
use crate::real::orig;
use crate::real::sys::{self, Errno, now_ns};
use crate::runtime;

/// How a call waits.
#[derive(Clone, Copy, Default)]
pub struct Wait<'a> {
    /// For so long at most.
    pub timeout: Option<Duration>,
    /// A kernel descriptor whose input is a change too.
    pub also: Option<RawFd>,
    /// Another one, of which the kernel is to tell one process of several in turn, as of `also`.
    pub in_turn: Option<RawFd>,
    /// Whether a part is done, which a signal has the call return.
    pub begun: Option<&'a Cell<bool>>,
}

/// A socket in use by a blocked call: it does not end meanwhile, whoever closes it.
struct Use(&'static Socket);

impl Use {
    fn new(socket: &'static Socket, inner: &mut Inner) -> Use {
        inner.hold();
        Use(socket)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.let_go(self.0.lock());
    }
}

/// A thread that is listed as sleeping on a socket.
pub struct Sleeper {
    socket: &'static Socket,
    waiter: &'static Waiter,
}

impl Sleeper {
    /// Lists `waiter`.
    pub fn new(socket: &'static Socket, inner: &mut Inner, waiter: &'static Waiter) -> Sleeper {
        inner.hold();
        inner.sleepers.push(waiter);
        inner.update_slot();
        Sleeper { socket, waiter }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let mut inner = self.socket.lock();
        if let Some(at) = inner
            .sleepers
            .iter()
            .position(|w| core::ptr::eq(*w, self.waiter))
        {
            inner.sleepers.swap_remove(at);
            inner.update_slot();
        }
        self.socket.let_go(inner);
    }
}

/// A thread between `begin_sleep` and `end_sleep`.
pub struct Asleep<L: AsRef<[Source]>>(&'static Waiter, L);

impl<L: AsRef<[Source]>> Asleep<L> {
    /// Arms `waiter` with `sources`, which are asked for once it counts as sleeping: whoever adds one
    /// later wakes it. The caller looks for work once more.
    pub fn new(waiter: &'static Waiter, sources: impl FnOnce() -> L) -> Self {
        waiter.begin_sleep();
        let sources = sources();
        for source in sources.as_ref() {
            source.arm(waiter.slot());
        }
        Asleep(waiter, sources)
    }

    /// Whether it waits for links to other hosts.
    pub fn hears_network(&self) -> bool {
        let sources = self.1.as_ref();
        sources.iter().any(|s| matches!(s, Source::Network))
    }
}

impl<L: AsRef<[Source]>> Drop for Asleep<L> {
    fn drop(&mut self) {
        let (waiter, sources) = (self.0, self.1.as_ref());
        let others = waiter.end_sleep(
            || sources.iter().for_each(|source| source.arm(waiter.slot())),
            || {
                sources
                    .iter()
                    .for_each(|source| source.disarm(waiter.slot()))
            },
        );
        if others && sources.iter().any(Source::pending) {
            waiter.wake();
        }
    }
}

/// A waiter from the pool, given back when dropped.
pub struct Borrowed(pub &'static Waiter);

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.0.put();
    }
}

impl Inner {
    /// The link that carries the socket.
    pub fn link(&self) -> Option<Arc<Link>> {
        match &self.role {
            Role::Connected(conn) | Role::Connecting(Some(conn)) => Some(conn.link.clone()),
            _ => None,
        }
    }
}

impl Inner {
    /// The links that are polled for it as a listener: those by which connections are opened fast.
    pub fn ways(&self) -> Vec<Arc<Link>> {
        match &self.role {
            Role::Listening(listening) => listening.ways(),
            _ => Vec::new(),
        }
    }

    /// The link that epoll sets poll for the socket: from when it is established.
    pub fn joined_link(&self) -> Option<Arc<Link>> {
        self.link()
            .filter(|_| matches!(self.role, Role::Connected(_)))
    }
}

impl Socket {
    /// Whether other threads wake those who wait for this socket, if they wait at a bell alone: the I/O threads do for
    /// links, and are made to for `also`, its kernel descriptor.
    fn is_told_of(&'static self, also: Option<RawFd>) -> bool {
        let (Some(fd), Some(runtime)) = (also, runtime::started()) else {
            return also.is_none();
        };
        let mut inner = self.lock();
        let life = inner.life;
        if let Role::Listening(listening) = &mut inner.role
            && !core::mem::replace(&mut listening.watched, true)
        {
            runtime.command(Command::Knocks(self, life, fd));
        }
        true
    }

    /// Somebody knocks at the kernel's listener.
    pub fn knocked(&'static self, life: u64) {
        let mut wakes = Wakes::new(None);
        {
            let inner = self.lock();
            if inner.life == life {
                inner.sleepers.iter().for_each(|waiter| wakes.add(waiter));
            }
        }
        wakes.ring();
    }

    /// Does `look` without the lock. `None`: the socket was closed meanwhile.
    #[inline]
    pub fn unlocked(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        look: impl FnOnce(),
    ) -> Option<MutexGuard<'static, Inner>> {
        let numbers = inner.fds.len();
        // So that it is not another connection afterwards.
        inner.users += 1;
        drop(inner);
        look();
        let mut inner = self.lock();
        inner.users -= 1;
        if inner.fds.is_empty() && numbers > 0 {
            self.recycle_if_done(&mut inner);
            return None;
        }
        Some(inner)
    }

    /// Takes in what has come for it on its link: what is asked of it then is answered as the kernel would now.
    /// `None`: it was closed meanwhile.
    pub fn refreshed(
        &'static self,
        inner: MutexGuard<'static, Inner>,
    ) -> Option<MutexGuard<'static, Inner>> {
        match &inner.role {
            Role::Connected(conn) if conn.link.pending() || conn.link.is_remote() => {
                let source = conn.link.source();
                self.unlocked(inner, || {
                    source.poll(None);
                })
            }
            _ => Some(inner),
        }
    }

    /// Waits until `attempt` gives a result. It is called with the lock held whenever something may
    /// have changed; the lock is free while waiting. `also` is a kernel descriptor whose input is a
    /// change too.
    ///
    /// # Errors
    /// `EAGAIN` when `timeout` is over, `EINTR` on a signal (see [`Waiter::sleep`]), or whatever
    /// `attempt` gives.
    pub fn wait_until<T>(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        wait: Wait<'_>,
        mut attempt: impl FnMut(&mut Inner) -> Option<Result<T, Errno>>,
    ) -> Result<T, Errno> {
        if let Some(result) = attempt(&mut inner) {
            return result;
        }
        let _in_use = Use::new(self, &mut inner);
        drop(inner);
        network::flush();
        let (timeout, also) = (wait.timeout, wait.also);
        let deadline = timeout.map(|t| now_ns() + t.as_nanos() as u64);
        let borrowed = Waiter::take().map(Borrowed);
        let spin_max = runtime::spin_ns();
        loop {
            // Anew in each turn: a socket that connects gets its link meanwhile.
            let (source, ways) = {
                let inner = self.lock();
                (inner.link().map(|link| link.source()), inner.ways())
            };
            let ways: Vec<Source> = ways.iter().map(|link| link.source()).collect();
            let sources = match ways.is_empty() {
                true => source.as_slice(),
                false => &ways,
            };
            let take_in = |me| source::poll_all(sources.iter(), me);
            let left = deadline.map(|d| Duration::from_nanos(d.saturating_sub(now_ns())));
            let Ok(Borrowed(waiter)) = &borrowed else {
                // Without a descriptor for a bell: slowly, but as kernel TCP it does not fail.
                take_in(None);
                if let Some(result) = attempt(&mut self.lock()) {
                    return result;
                }
                doze(left)?;
                continue;
            };
            take_in(Some(waiter));
            if let Some(result) = attempt(&mut self.lock()) {
                return result;
            }
            let pending = || sources.iter().any(Source::pending);
            if waiter.spin.until(spin_max, pending) && take_in(Some(waiter)) {
                continue;
            }
            let listed = Sleeper::new(self, &mut self.lock(), waiter);
            let asleep = Asleep::new(waiter, || sources);
            take_in(Some(waiter));
            if let Some(result) = attempt(&mut self.lock()) {
                return result;
            }
            // As the kernel: not with a timeout, and not when there is something to return.
            let goes_on = timeout.is_none() && !wait.begun.is_some_and(Cell::get);
            // The kernel begins a sleep at the bell alone anew after a signal, if its handler wants that.
            let more = also.is_some() || asleep.hears_network();
            let woken = match left {
                Some(Duration::ZERO) => Err(Errno::AGAIN),
                left if goes_on
                    && more
                    && wait.in_turn.is_none()
                    && kernel::handlers_differ()
                    && self.is_told_of(also) =>
                {
                    waiter.sleep(left, None, true)
                }
                left if also.is_none() && asleep.hears_network() => {
                    waiter.sleep_with_network(left, goes_on)
                }
                left => match (also, wait.in_turn) {
                    (Some(also), Some(other)) => waiter.sleep_in_turn(left, [also, other], goes_on),
                    _ => waiter.sleep(left, also, goes_on),
                },
            };
            drop(asleep);
            drop(listed);
            if woken == Err(Errno::AGAIN) {
                take_in(Some(waiter));
                return attempt(&mut self.lock()).unwrap_or(Err(Errno::AGAIN));
            }
            woken?;
        }
    }
}

/// Sleeps a millisecond, or what is `left` if that is less. A cancellation point.
fn doze(left: Option<Duration>) -> Result<(), Errno> {
    let nap = left.map_or(1_000_000, |l| l.as_nanos().min(1_000_000) as libc::c_long);
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: nap,
    };
    // SAFETY: no descriptors, a valid timespec, no mask.
    match unsafe { orig::ppoll(core::ptr::null_mut(), 0, &time, core::ptr::null()) } {
        0 if nap == 0 => Err(Errno::AGAIN),
        0 => Ok(()),
        _ => Err(sys::last_error()),
    }
}
