//! epoll sets that may hold accelerated sockets.
//!
//! The application's epoll descriptor stays what it is, and holds its kernel descriptors. Accelerated
//! sockets are watched here: the waiting thread itself takes in what their links have, and sleeps in
//! the kernel's epoll_wait, where the set's own bell is registered beside everything else.

use rustix::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use libc::{epoll_event, sigset_t};
use parking_lot::RwLock;

use super::kernel;
use super::nested::Nested;
use super::ready::{Looks, ReadyList, spent_mark};
use super::twin::{self, Twins};
use super::waiter::Waiter;
use crate::fabric::network;
use crate::link::Link;
use crate::link::source::{self, Source};
use crate::real::orig;
use crate::real::sys::{self, Errno, now_ns};
use crate::slab::Slab;
use crate::socket::Socket;
use crate::socket::wait::Asleep;
use crate::stats;

/// The kernel's descriptors get a look this often while accelerated ones keep a set busy: the first
/// figure while looks find something, doubling up to the second while they do not.
const KERNEL_LOOK_NS: (u64, u64) = (50_000, 1_600_000);
/// Where waits take as long, there are so many between looks that find nothing, but no more time than this.
const KERNEL_LOOK_WAITS: (u32, u64) = (4, 8_000_000);

/// The data under which the bell is registered in the kernel's epoll: an address of ours, which
/// the application has no reason to use.
fn bell_mark() -> u64 {
    static MARK: u8 = 0;
    &raw const MARK as u64
}

/// An epoll descriptor.
pub struct EpollSet {
    life: AtomicU64,
    /// The application's numbers for it.
    numbers: AtomicUsize,
    /// Accelerated sockets and side-port listeners in it.
    watched: AtomicUsize,
    /// Threads that sleep in it although it watches none of ours, and do not look at the bell's arms.
    plain_sleepers: AtomicUsize,
    /// Which engines of the network wake its sleepers: see [`network::watch`].
    engines_seen: AtomicU32,
    /// Whom to ask for news of them, with the number of connections for which that is.
    sources: RwLock<Vec<(Source, usize)>>,
    /// Watches that may be ready.
    pub ready: ReadyList,
    waiter: AtomicPtr<Waiter>,
    /// It is in another set, or polled: whatever becomes ready has to show in its descriptor.
    observed: AtomicBool,
    /// The sets that are in this one.
    pub nested: Nested,
    looks: Looks,
    /// Listeners in it whose side ports the kernel watches beside them.
    pub twins: Twins,
    has_kernel: AtomicBool,
    last_kernel_look: AtomicU64,
    kernel_look_ns: AtomicU64,
    /// Waits since the last look.
    unlooked: AtomicU32,
}

static SETS: Slab<EpollSet> = Slab::new();

/// For a forked child.
///
/// # Safety
/// No other thread may run.
pub unsafe fn reset_after_fork() {
    // SAFETY: by the contract.
    unsafe { SETS.reset_after_fork() };
}

impl EpollSet {
    /// A set for a fresh epoll descriptor.
    pub fn take() -> &'static EpollSet {
        let set = SETS.take(|| EpollSet {
            life: AtomicU64::new(0),
            numbers: AtomicUsize::new(0),
            watched: AtomicUsize::new(0),
            plain_sleepers: AtomicUsize::new(0),
            engines_seen: AtomicU32::new(0),
            sources: RwLock::new(Vec::new()),
            ready: ReadyList::new(),
            waiter: AtomicPtr::new(core::ptr::null_mut()),
            observed: AtomicBool::new(false),
            nested: Nested::default(),
            looks: Looks::default(),
            twins: Twins::default(),
            has_kernel: AtomicBool::new(false),
            last_kernel_look: AtomicU64::new(0),
            kernel_look_ns: AtomicU64::new(0),
            unlooked: AtomicU32::new(0),
        });
        set.numbers.store(1, Ordering::Relaxed);
        set
    }

    /// It got one more number.
    pub fn numbered(&self) {
        self.numbers.fetch_add(1, Ordering::Relaxed);
    }

    /// One of its numbers was closed. After the last, watches that still name it notice by its life.
    pub fn unnumbered(&'static self) {
        if self.numbers.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        self.life.fetch_add(1, Ordering::AcqRel);
        let waiter = self.waiter.swap(core::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: waiters live for ever.
        if let Some(waiter) = unsafe { waiter.as_ref() } {
            waiter.put();
        }
        self.sources.write().clear();
        self.engines_seen.store(0, Ordering::Relaxed);
        self.ready.clear();
        self.watched.store(0, Ordering::Relaxed);
        self.has_kernel.store(false, Ordering::Relaxed);
        self.observed.store(false, Ordering::Relaxed);
        self.nested.clear();
        self.looks.clear();
        self.twins.clear();
        SETS.put(self);
    }

    /// Whether a socket of ours is in it.
    #[inline]
    pub fn watches_ours(&self) -> bool {
        self.watched.load(Ordering::Acquire) > 0
    }

    /// Changes whenever the object starts to stand for another descriptor.
    #[inline]
    pub fn life(&self) -> u64 {
        self.life.load(Ordering::Acquire)
    }

    /// Where its threads sleep, once it watches an accelerated socket.
    #[inline]
    pub fn waiter(&self) -> Option<&'static Waiter> {
        // SAFETY: null or a waiter, and those live for ever.
        unsafe { self.waiter.load(Ordering::Acquire).as_ref() }
    }

    /// Gives the set a bell, registered in the kernel's epoll `epfd`.
    pub fn need_waiter(&self, epfd: RawFd) -> Result<&'static Waiter, Errno> {
        if let Some(waiter) = self.waiter() {
            return Ok(waiter);
        }
        let waiter = Waiter::take()?;
        waiter.hush();
        let mine = core::ptr::from_ref(waiter).cast_mut();
        if self
            .waiter
            .compare_exchange(
                core::ptr::null_mut(),
                mine,
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .is_err()
        {
            waiter.put();
            return self.waiter().ok_or(Errno::BADF);
        }
        // Registered by an earlier life of this waiter under a dup of the same epoll: fine.
        if let Err(error) = Self::register(waiter, epfd)
            && error != Errno::EXIST
        {
            self.waiter.store(core::ptr::null_mut(), Ordering::Release);
            waiter.put();
            return Err(error);
        }
        Ok(waiter)
    }

    /// Edge-triggered: each ring is an event of its own, and nobody has to read the eventfd.
    fn register(waiter: &'static Waiter, epfd: RawFd) -> Result<(), Errno> {
        let mut event = epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET) as u32,
            u64: bell_mark(),
        };
        let (op, bell) = (libc::EPOLL_CTL_ADD, waiter.raw_bell());
        // SAFETY: a valid event.
        match unsafe { orig::epoll_ctl(epfd, op, bell, &mut event) } {
            0 => Ok(()),
            _ => Err(sys::last_error()),
        }
    }

    /// `link` carries a socket of this set.
    fn adopt(&self, link: &Arc<Link>) {
        let source = link.source();
        let mut sources = self.sources.write();
        match sources.iter_mut().find(|(s, _)| s.is(&source)) {
            Some((_, count)) => *count += 1,
            None => sources.push((source, 1)),
        }
    }

    /// A socket of ours, on `link` if it is connected, is watched now.
    pub fn gained_watch(&self, link: Option<&Arc<Link>>) {
        self.watched.fetch_add(1, Ordering::SeqCst);
        if let Some(link) = link {
            self.adopt(link);
        }
        if self.is_observed() {
            self.stay_armed();
        }
    }

    /// Something about its watches changed: its sleeping threads look anew.
    pub fn rouse(&self) {
        let Some(waiter) = self.waiter() else { return };
        if self.plain_sleepers.load(Ordering::SeqCst) > 0 {
            // They sleep as in any kernel epoll.
            sys::signal(waiter.bell());
        } else {
            waiter.wake();
        }
    }

    /// The kernel watches something in it for the application.
    pub fn kernel_too(&self) {
        self.has_kernel.store(true, Ordering::Relaxed);
    }

    /// A watch of this set, with a connection on `link`, is gone.
    pub fn drop_watch(&self, life: u64, link: Option<&Arc<Link>>) {
        if self.life() != life {
            return;
        }
        self.watched.fetch_sub(1, Ordering::AcqRel);
        if let Some(link) = link {
            self.left(life, link);
        }
    }

    /// Nothing of a watch comes by `link` any more.
    pub fn left(&self, life: u64, link: &Arc<Link>) {
        if self.life() != life {
            return;
        }
        let source = link.source();
        let mut sources = self.sources.write();
        if let Some(at) = sources.iter().position(|(s, _)| s.is(&source)) {
            sources[at].1 -= 1;
            if sources[at].1 == 0 {
                sources.swap_remove(at);
            }
        }
    }

    /// A watched socket came to be on `link`.
    pub fn joined(&self, life: u64, link: &Arc<Link>) {
        if self.life() == life {
            self.adopt(link);
            if let Some(waiter) = self.waiter() {
                waiter.wake();
            }
        }
    }

    /// It is in another set, or polled, from now on.
    pub fn observe(&self) {
        if !self.observed.swap(true, Ordering::SeqCst) {
            self.stay_armed();
        }
    }

    /// See [`observe`](Self::observe).
    #[inline]
    pub fn is_observed(&self) -> bool {
        self.observed.load(Ordering::Relaxed)
    }

    /// Has peers ring its bell although no thread sleeps in it, and rings it if there is news.
    pub fn stay_armed(&self) {
        let Some(waiter) = self.waiter() else { return };
        for (source, _) in self.sources.read().iter() {
            source.arm(waiter.slot());
        }
        if self.pending() || self.ready.has_news() {
            sys::signal(waiter.bell());
        }
    }

    /// Whether a wait in it would find something. If not, the last ring of its bell is taken back.
    pub fn has_news(&self, epfd: RawFd) -> bool {
        let waiter = self.waiter();
        if let Some(waiter) = waiter {
            self.take_in(waiter);
            if self.ready.has_news() {
                return true;
            }
        }
        let news = match waiter {
            Some(waiter) if !self.has_kernel.load(Ordering::Relaxed) => {
                // The bell, and what engines have to tell.
                let mut ours = [epoll_event { events: 0, u64: 0 }; 8];
                // SAFETY: room for the events, no mask.
                let got = unsafe { kernel::wait(epfd, &mut ours, Some(0), core::ptr::null()) };
                self.without_ours(&mut ours, got.unwrap_or(0), Some(waiter));
                false
            }
            _ => self.kernel_has_news(epfd, waiter),
        };
        self.stay_armed();
        news
    }

    /// Whether the kernel has something in it for the application. Its events stay where they are, so only the bell is
    /// taken out meanwhile.
    fn kernel_has_news(&self, epfd: RawFd, waiter: Option<&'static Waiter>) -> bool {
        self.nested.ask_all();
        let aside = waiter.is_some_and(|waiter| {
            let mut none = epoll_event { events: 0, u64: 0 };
            let (op, bell) = (libc::EPOLL_CTL_DEL, waiter.raw_bell());
            // SAFETY: a valid event, which is not looked at.
            unsafe { orig::epoll_ctl(epfd, op, bell, &mut none) == 0 }
        });
        let news = sys::poll_mask(epfd, libc::POLLIN) != 0;
        if let Some(waiter) = waiter
            && aside
        {
            waiter.hush();
            let _ = Self::register(waiter, epfd);
        }
        news
    }

    /// Whether its descriptor may say more than there is: it has a bell, or a set with one.
    pub fn has_bells(&self) -> bool {
        self.waiter().is_some() || !self.nested.is_empty()
    }

    /// The kernel tells when there is something new about `socket`, whose events come from us.
    pub fn looks_at(&self, socket: &'static Socket) {
        self.looks.add(socket);
    }

    /// See [`looks_at`](Self::looks_at).
    pub fn looks_no_more(&self, socket: &'static Socket) {
        self.looks.remove(socket);
    }

    /// Takes in what there is for its sockets. Whether there was anything that no other thread is taking in.
    fn take_in(&self, waiter: &'static Waiter) -> bool {
        let sources = self.sources.read();
        source::poll_all(sources.iter().map(|(source, _)| source), Some(waiter))
    }

    fn pending(&self) -> bool {
        self.sources.read().iter().any(|(s, _)| s.pending())
    }

    /// epoll_wait(2) in all its forms. `timeout` in nanoseconds, `None` for ever.
    ///
    /// # Safety
    /// The contract of epoll_pwait(2) for `mask`.
    ///
    /// # Errors
    /// As epoll_pwait(2).
    pub unsafe fn wait(
        &'static self,
        epfd: RawFd,
        events: &mut [epoll_event],
        timeout: Option<u64>,
        mask: *const sigset_t,
    ) -> Result<usize, Errno> {
        let deadline = timeout.map(|t| now_ns().saturating_add(t));
        let mut left = timeout;
        while !self.watches_ours() {
            // SAFETY: by the contract.
            let got = unsafe { self.wait_plainly(epfd, events, left, mask) }?;
            let kept = self.without_ours(events, got, None);
            let kept = self.nested.without_idle(events, kept);
            left = deadline.map(|d| d.saturating_sub(now_ns()));
            if kept > 0 || left == Some(0) {
                return Ok(kept);
            }
            // The bell was rung: a socket of ours was added. Or an inner set's, for nothing.
        }
        let Some(waiter) = self.waiter() else {
            // SAFETY: by the contract.
            return unsafe { kernel::wait(epfd, events, left, mask) };
        };
        // SAFETY: by the contract.
        let result = unsafe { self.wait_at(waiter, epfd, events, deadline, left == Some(0), mask) };
        // A ring wakes one thread; what did not fit into its `events` is for the next.
        if waiter.is_slept_at() && !self.ready.is_empty() {
            waiter.wake();
        }
        if self.is_observed() {
            self.stay_armed();
        }
        result
    }

    /// [`wait`](Self::wait) while the set has no socket of ours; ends early when it gets one.
    unsafe fn wait_plainly(
        &self,
        epfd: RawFd,
        events: &mut [epoll_event],
        timeout: Option<u64>,
        mask: *const sigset_t,
    ) -> Result<usize, Errno> {
        self.plain_sleepers.fetch_add(1, Ordering::SeqCst);
        let got = match self.watches_ours() {
            true => Ok(0),
            // SAFETY: by the contract of `wait`.
            false => unsafe { kernel::wait(epfd, events, timeout, mask) },
        };
        self.plain_sleepers.fetch_sub(1, Ordering::SeqCst);
        got
    }

    /// [`wait`](Self::wait) until `deadline` for a set with sockets of ours; its threads sleep at
    /// `waiter`.
    unsafe fn wait_at(
        &'static self,
        waiter: &'static Waiter,
        epfd: RawFd,
        events: &mut [epoll_event],
        deadline: Option<u64>,
        only_look: bool,
        mask: *const sigset_t,
    ) -> Result<usize, Errno> {
        stats::add(&stats::global().epoll_waits, 1);
        let spin_max = crate::runtime::spin_ns();
        loop {
            self.take_in(waiter);
            let found = self.ready.collect(events);
            if found > 0 {
                network::flush_or_hold(found);
            } else {
                network::flush();
            }
            if found > 0 || only_look {
                return Ok(found + self.look_at_kernel(epfd, events, found, only_look));
            }
            // What another thread is taking in may be ours: it will wake us. To spin until it is done
            // could keep that very thread from running.
            if waiter.spin.until(spin_max, || self.pending()) && self.take_in(waiter) {
                continue;
            }
            let sources =
                || -> Vec<Source> { self.sources.read().iter().map(|(s, _)| s.clone()).collect() };
            let asleep = Asleep::new(waiter, sources);
            if asleep.hears_network() {
                network::watch(sys::borrow(epfd), &self.engines_seen);
            }
            self.take_in(waiter);
            let found = self.ready.collect(events);
            if found > 0 {
                drop(asleep);
                return Ok(found + self.look_at_kernel(epfd, events, found, false));
            }
            let start = now_ns();
            let left = deadline.map(|d| d.saturating_sub(start));
            // SAFETY: by the contract.
            let waited = unsafe { kernel::wait(epfd, events, left, mask) };
            // Before it counts as awake: whoever heard an engine's event has it armed again.
            let waited = waited.map(|got| (got, self.without_ours(events, got, Some(waiter))));
            drop(asleep);
            let end = now_ns();
            self.last_kernel_look.store(end, Ordering::Relaxed);
            self.unlooked.store(0, Ordering::Relaxed);
            let (got, mut kept) = waited?;
            if kept < got {
                stats::add(&stats::global().wakes_received, 1);
            }
            kept = self.nested.without_idle(events, kept);
            if kept > 0 {
                self.take_in(waiter);
                return Ok(kept + self.ready.collect(&mut events[kept..]));
            }
            if deadline.is_some_and(|d| d <= end) {
                self.take_in(waiter);
                return Ok(self.ready.collect(events));
            }
        }
    }

    /// Adds the kernel's events after the first `found`, if it is time for a look.
    fn look_at_kernel(
        &self,
        epfd: RawFd,
        events: &mut [epoll_event],
        found: usize,
        always: bool,
    ) -> usize {
        if found == events.len() || !always && !self.has_kernel.load(Ordering::Relaxed) {
            return 0;
        }
        let now = now_ns();
        let interval = self
            .kernel_look_ns
            .load(Ordering::Relaxed)
            .max(KERNEL_LOOK_NS.0);
        let waits = self.unlooked.load(Ordering::Relaxed) + 1;
        let since = now - self.last_kernel_look.load(Ordering::Relaxed);
        let (few, long) = (waits < KERNEL_LOOK_WAITS.0, since >= KERNEL_LOOK_WAITS.1);
        let quiet = interval == KERNEL_LOOK_NS.1;
        if !always && (since < interval || quiet && few && !long) {
            self.unlooked.store(waits, Ordering::Relaxed);
            return 0;
        }
        self.unlooked.store(0, Ordering::Relaxed);
        self.last_kernel_look.store(now, Ordering::Relaxed);
        stats::add(&stats::global().kernel_polls, 1);
        let rest = &mut events[found..];
        // SAFETY: a valid buffer, no mask.
        let got = unsafe { kernel::wait(epfd, rest, Some(0), core::ptr::null()) }.unwrap_or(0);
        let kept = self.without_ours(rest, got, self.waiter());
        let next = if kept > 0 {
            KERNEL_LOOK_NS.0
        } else {
            (interval * 2).min(KERNEL_LOOK_NS.1)
        };
        self.kernel_look_ns.store(next, Ordering::Relaxed);
        if kept < got
            && let Some(waiter) = self.waiter()
            && waiter.is_slept_at()
        {
            // It was rung for a thread that sleeps.
            sys::signal(waiter.bell());
        }
        let all = self.nested.without_idle(rest, kept);
        match found == 0 && kept < got {
            // What the kernel only said to look at.
            true => all + self.ready.collect(&mut rest[all..]),
            false => all,
        }
    }

    /// Removes what is under a mark of ours (the bell, the engines, side ports, sockets to look at) from the first `count`, and hears
    /// it; returns how many are left. `me` is the waiter of the calling thread.
    fn without_ours(
        &self,
        events: &mut [epoll_event],
        count: usize,
        me: Option<&'static Waiter>,
    ) -> usize {
        let (bell, engine, spent) = (bell_mark(), network::mark(), spent_mark());
        let (mut kept, mut heard) = (0, false);
        for at in 0..count {
            let mark = events[at].u64;
            heard |= mark == engine;
            let side = twin::is_mark(mark);
            if side {
                self.twins.hear(mark, self);
            }
            let ours = mark == bell || mark == engine || mark == spent || side;
            if !ours && !self.looks.hear(mark, self) {
                events[kept] = events[at];
                kept += 1;
            }
        }
        if heard {
            network::hear(me);
        }
        kept
    }
}
