//! The links to other hosts of this process, taken together: whoever waits for one takes in what all of
//! them have, and sends what was collected for any of them.
//!
//! **Flushing.** A batch that is not full stays with its link until a thread of the application comes back to wait
//! ([`flush`]). If none does, an I/O thread sends it: while batches are being collected, one of them keeps
//! *watch* and looks from time to time ([`FIRST_NS`] to [`QUICK_NS`]).
//!
//! **Turns.** A thread that was told of several events at once comes back with answers to most of them: until then
//! it holds even what it could send at once ([`holds`]), but for [`MOST_HELD`] records at a time, so that the peer has
//! something to do meanwhile. A turn has its limits, for it may be that the thread does something else altogether: a
//! few writes and looks for each event, and the watch. A thread whose last turn was slow holds nothing in the next.
//!
//! **Sleeping.** An [`Engine`] raises an event when it is armed and something arrives. Whoever sleeps watches its
//! descriptor ([`watch`]), and the kernel wakes one of them: a thread of the application if one sleeps, else an
//! I/O thread, which is the last in the line. So an engine must be armed, or watched, whenever nobody polls it: a thread that leaves a wait
//! arms it again for the time that the application computes ([`woken`]), unless there is a watch.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use parking_lot::{Mutex, RwLock};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::BorrowedFd;

use super::remote::Remote;
use crate::link::stamp::Stamp;
use crate::poll::waiter::Waiter;
use crate::real::sys::now_ns;

/// How often an I/O thread looks while it keeps watch, in nanoseconds: when it found something that the application had
/// left lying for long; doubling up to [`COMING_NS`] while the application comes back, to [`TURNING_NS`] if it made
/// turns not long ago that were not slow, and to [`QUICK_NS`] while it makes one in [`QUICK_LOOKS`] looks.
const FIRST_NS: u64 = 200_000;
const COMING_NS: u64 = 2_000_000;
const TURNING_NS: u64 = 8_000_000;
const QUICK_NS: u64 = 32_000_000;
/// Looks that find nothing to watch before a watch ends, and that find no turn before it takes there to be none.
const IDLE_LOOKS: u32 = 8;
/// Looks in which a loop that is quick makes a turn.
const QUICK_LOOKS: u32 = 3;
/// After so many sleeps that ended without a watch it is tried whether one pays.
const MANY_WAKES: u64 = 64;
/// A watch goes on while so much is taken in between two looks.
const BUSY_POLLS: u64 = 4;
/// How many turns of an event loop a batch is held back while there is more to do.
const HOLD_TURNS: u32 = 3;
/// Writes, and looks for what has come, that belong to a turn for each of its events.
const DEEDS: u32 = 4;
/// Records of a turn that are held back, at most.
pub const MOST_HELD: u32 = 64;

/// A turn is slow that takes longer for each of its events, in nanoseconds.
const SLOW_NS: u64 = 500_000;

/// A thread's turn.
struct Turn {
    /// What it may still do in it; 0: it is in none, or in one in which it holds nothing.
    left: Cell<u32>,
    /// When it began, in [`now_ns`] time; 0: it is in none.
    began: Cell<u64>,
    events: Cell<u32>,
    /// The last one was slow.
    slow: Cell<bool>,
}

thread_local! {
    /// The calling thread's. (Without a destructor.)
    static TURN: Turn = const {
        Turn {
            left: Cell::new(0),
            began: Cell::new(0),
            events: Cell::new(0),
            slow: Cell::new(false),
        }
    };
}

impl Turn {
    fn begin(&self, events: u32) {
        // Who has one thing to do has one answer, which may go at once.
        if events > 1 {
            self.began.set(now_ns());
            self.events.set(events);
            if !self.slow.get() {
                self.left.set(events.saturating_mul(DEEDS));
            }
        }
    }

    #[inline]
    fn end(&self, network: &Network) {
        self.left.set(0);
        let began = self.began.take();
        if began != 0 {
            let slow = now_ns() - began > SLOW_NS * u64::from(self.events.get());
            self.slow.set(slow);
            if !slow {
                network.quick_turns.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Does something in it. False: it holds nothing.
    #[inline]
    fn spend(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}

/// A writer looks for what has come if nobody has for so long, in ticks of a [`Stamp`]: some ten microseconds.
const UNLOOKED_TICKS: u64 = 1 << 16;

/// What raises events: the completion queues of a device.
pub trait Engine: Send + Sync {
    /// The descriptor that has input when there is an event.
    fn event_fd(&self) -> BorrowedFd<'_>;
    /// An event woke the caller.
    fn take_event(&self);
    /// Takes all events, of whoever did not: it is not armed afterwards.
    fn take_all(&self);
    /// The I/O thread that sleeps on the event queues up behind all others who do.
    fn queue_up(&self);
    /// Takes in what has completed. Adds the ends for which there is news to `touched`.
    fn gather(&self, touched: &mut Vec<Arc<Remote>>);
    /// Raises an event for the next completion. The caller gathers once more afterwards.
    fn arm(&self);
}

/// How an engine's event is watched: it is news once, to one of those who wait.
pub const EVENTS: EventFlags = EventFlags::IN
    .union(EventFlags::ET)
    .union(EventFlags::EXCLUSIVE);

/// One for each process, part of its runtime.
#[derive(Default)]
pub struct Network {
    engines: RwLock<Vec<Arc<dyn Engine>>>,
    /// Changes with the list of engines.
    generation: AtomicU32,
    /// Ends with news that their links have not taken in.
    touched: Mutex<Vec<Arc<Remote>>>,
    has_touched: AtomicBool,
    /// Ends with bytes that wait for a flush.
    deferred: Mutex<Vec<Arc<Remote>>>,
    has_deferred: AtomicBool,
    /// Turns for which what is deferred was held back.
    held: AtomicU32,
    /// Flushes by threads of the application.
    flushes: AtomicU64,
    watched: AtomicBool,
    polls: AtomicU64,
    /// When the engines were last asked, in a [`Stamp`]'s ticks.
    looked: AtomicU64,
    /// Looks by threads of the application.
    visits: AtomicU64,
    wakes: AtomicU64,
    /// Turns of threads of the application that were not slow.
    quick_turns: AtomicU64,
    /// All ends that ever were.
    ends: AtomicU64,
}

/// That of this process, once it has a runtime.
#[inline]
fn network() -> Option<&'static Network> {
    crate::runtime::started().map(|runtime| &runtime.network)
}

/// The same, if there ever was a link to another host.
#[inline]
fn used() -> Option<&'static Network> {
    network().filter(|network| network.was_used())
}

/// Whether something has come that no link has taken in.
pub fn pending() -> bool {
    network().is_some_and(Network::pending)
}

/// Takes in what has come and hands it to its links. `me` is the caller's own waiter. Returns whether there
/// was anything.
pub fn poll(me: Option<&'static Waiter>) -> bool {
    if me.is_none() && TURN.with(|turn| turn.spend() && turn.left.get() == 0) {
        flush();
    }
    network().is_some_and(|network| {
        network.visits.fetch_add(1, Ordering::Relaxed);
        network.poll(me)
    })
}

/// Whether nobody has looked for a while at what has come.
#[inline]
pub fn is_unlooked() -> bool {
    used().is_some_and(|network| {
        Stamp::now().ticks_since(network.looked.load(Ordering::Relaxed)) > UNLOOKED_TICKS
    })
}

/// Takes in what has come, as something by the way: it counts neither as a look nor as a deed in a turn.
pub fn glance() {
    if let Some(network) = network() {
        network.poll(None);
    }
}

/// Has an event raised for whatever comes next. The caller looks once more afterwards.
pub fn arm() {
    if let Some(network) = network() {
        network.arm();
    }
}

/// A thread that slept goes back to the application: somebody has to hear what comes meanwhile. That is whoever
/// sleeps on the engines' events, or, when threads come and go all the time, an I/O thread's watch: an event
/// for each message that comes between two sleeps would wake a thread for nothing.
pub fn woken() {
    if let Some(network) = network()
        && !network.watched.load(Ordering::Relaxed)
    {
        network.arm();
        if network.wakes.fetch_add(1, Ordering::Relaxed) % MANY_WAKES == MANY_WAKES - 1
            && !network.watched.swap(true, Ordering::SeqCst)
            && let Some(runtime) = crate::runtime::started()
        {
            runtime.ring_io();
        }
        // What came before it was armed has raised no event.
        network.poll(None);
    }
}

/// An I/O thread was woken by an event: takes in what came and hears what comes next, unless others watch.
pub fn serve() {
    if let Some(network) = network() {
        network.poll(None);
    }
    woken();
}

/// The data under which engines are registered in epolls: an address of ours, which an application has no
/// reason to use.
pub fn mark() -> u64 {
    static MARK: u8 = 0;
    &raw const MARK as u64
}

/// Has the epoll `epfd` wake its sleeper when an engine raises an event, and no other. `seen` remembers up to
/// which change of the engines that is so.
pub fn watch(epfd: BorrowedFd<'_>, seen: &AtomicU32) {
    let Some(network) = network() else { return };
    let now = network.generation.load(Ordering::Acquire);
    if seen.load(Ordering::Relaxed) != now {
        seen.store(now, Ordering::Relaxed);
        for engine in network.engines.read().iter() {
            let _ = epoll::add(epfd, engine.event_fd(), EventData::new_u64(mark()), EVENTS);
            engine.queue_up();
        }
    }
}

/// An event of an engine came to the caller, and to nobody else: takes it, takes in what it was about, and has
/// the next one raised. `me` is the caller's own waiter.
pub fn hear(me: Option<&'static Waiter>) {
    let Some(network) = network() else { return };
    for engine in network.engines.read().iter() {
        engine.take_event();
    }
    network.poll(me);
    woken();
}

/// The calling thread writes something: whether it is in a turn, and what it writes is held.
#[inline]
pub fn holds() -> bool {
    TURN.with(Turn::spend)
}

/// Sends what was collected: the application comes back to wait.
#[inline]
pub fn flush() {
    let Some(network) = used() else { return };
    TURN.with(|turn| turn.end(network));
    if network.has_deferred.load(Ordering::Relaxed) {
        network.flush_own();
    }
}

/// The application comes back, and there are `events` for it at once: what was collected may be joined by what
/// comes of them, for a few turns.
#[inline]
pub fn flush_or_hold(events: usize) {
    let Some(network) = used() else { return };
    TURN.with(|turn| {
        turn.end(network);
        turn.begin(events as u32);
    });
    if network.has_deferred.load(Ordering::Relaxed)
        && network.held.fetch_add(1, Ordering::Relaxed) >= HOLD_TURNS
    {
        network.flush_own();
    }
}

impl Network {
    /// From now on `engine` is polled by whoever waits.
    pub fn add(&self, engine: Arc<dyn Engine>) {
        engine.arm();
        self.engines.write().push(engine);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// `engine` is no more.
    pub fn remove(&self, engine: &Arc<dyn Engine>) {
        self.engines
            .write()
            .retain(|other| !Arc::ptr_eq(other, engine));
    }

    /// Another end.
    pub fn join(&self) {
        self.ends.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether there ever was an end.
    pub fn was_used(&self) -> bool {
        self.ends.load(Ordering::Relaxed) > 0
    }

    /// Once in a while: an event that got lost with the thread that was to hear it is made up for.
    pub fn make_sure(&self) {
        for engine in self.engines.read().iter() {
            engine.take_all();
        }
        self.poll(None);
        self.arm();
        self.poll(None);
    }

    /// There is news for `remote`.
    pub fn touch(&self, remote: &Arc<Remote>) {
        self.touched.lock().push(remote.clone());
        self.has_touched.store(true, Ordering::Release);
    }

    fn pending(&self) -> bool {
        self.gather();
        self.has_touched.load(Ordering::Acquire)
    }

    fn gather(&self) {
        let mut touched = Vec::new();
        for engine in self.engines.read().iter() {
            engine.gather(&mut touched);
        }
        if !touched.is_empty() {
            self.touched.lock().append(&mut touched);
            self.has_touched.store(true, Ordering::Release);
        }
    }

    fn poll(&self, me: Option<&'static Waiter>) -> bool {
        let mut any = false;
        self.looked.store(Stamp::now().ticks(), Ordering::Relaxed);
        loop {
            self.gather();
            if !self.has_touched.swap(false, Ordering::AcqRel) {
                break;
            }
            let touched = core::mem::take(&mut *self.touched.lock());
            for remote in touched {
                if let Some(link) = remote.link() {
                    any |= link.poll(me);
                }
            }
        }
        if any {
            self.polls.fetch_add(1, Ordering::Relaxed);
        }
        any
    }

    fn arm(&self) {
        for engine in self.engines.read().iter() {
            engine.arm();
        }
        fence(Ordering::SeqCst);
    }

    /// `remote` has bytes that wait for a flush. Returns whether an I/O thread has to be woken for its watch.
    #[must_use]
    pub fn defer(&self, remote: &Arc<Remote>) -> bool {
        self.deferred.lock().push(remote.clone());
        self.has_deferred.store(true, Ordering::SeqCst);
        !self.watched.load(Ordering::SeqCst) && !self.watched.swap(true, Ordering::SeqCst)
    }

    /// Sends what was collected, but where another thread is about to send: it may have been stopped in the middle
    /// of that, and to wait for it is to call the kernel.
    fn flush_what_lies(&self) {
        let deferred = core::mem::take(&mut *self.deferred.lock());
        let busy = deferred.into_iter().filter(|remote| !remote.try_flush());
        let busy: Vec<_> = busy.collect();
        let mut deferred = self.deferred.lock();
        deferred.extend(busy);
        let any = !deferred.is_empty();
        self.has_deferred.store(any, Ordering::SeqCst);
    }

    /// Sends what was collected, on a thread of the application.
    fn flush_own(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.flush();
    }

    #[cold]
    fn flush(&self) {
        self.held.store(0, Ordering::Relaxed);
        self.has_deferred.store(false, Ordering::SeqCst);
        let deferred = core::mem::take(&mut *self.deferred.lock());
        for remote in deferred {
            remote.flush();
        }
    }
}

/// An I/O thread's watch.
#[derive(Default)]
pub struct Watch {
    polls: u64,
    flushes: u64,
    visits: u64,
    quick_turns: u64,
    /// Looks since the last of them was seen.
    without_turn: u32,
    was_away: bool,
    idle: u32,
    pause: u64,
    /// When it looks next, in [`now_ns`] time, however often its thread has other things to do meanwhile; 0: at once.
    due: u64,
}

impl Watch {
    /// Looks after what no thread of the application does. Returns the time until the next look, in
    /// nanoseconds; `None`: there is no need for one, an event will tell.
    pub fn look(&mut self, network: &Network) -> Option<u64> {
        let deferred = network.has_deferred.load(Ordering::SeqCst);
        if !network.watched.load(Ordering::SeqCst) && !deferred {
            network.poll(None);
            network.arm();
            network.poll(None);
            self.pause = FIRST_NS;
            self.due = 0;
            return None;
        }
        let now = now_ns();
        if now < self.due {
            return Some(self.due - now);
        }
        let visits = network.visits.load(Ordering::Relaxed);
        let came = visits != core::mem::replace(&mut self.visits, visits);
        let flushes = network.flushes.load(Ordering::Relaxed);
        let flushed = flushes != core::mem::replace(&mut self.flushes, flushes);
        let polls = network.polls.load(Ordering::Relaxed);
        let taken_in = polls.wrapping_sub(self.polls);
        let left_lying = deferred && !flushed;
        if left_lying {
            network.flush_what_lies();
        }
        let neglected = !came && network.poll(None);
        // Away for more than one look: not just in the middle of a turn of its event loop.
        let away = core::mem::replace(&mut self.was_away, !came) && !came;
        let quick_turns = network.quick_turns.load(Ordering::Relaxed);
        self.without_turn = match core::mem::replace(&mut self.quick_turns, quick_turns) {
            before if before != quick_turns => 0,
            _ => self.without_turn.saturating_add(1),
        };
        let most = match self.without_turn {
            0..QUICK_LOOKS => QUICK_NS,
            QUICK_LOOKS..IDLE_LOOKS => TURNING_NS,
            _ => COMING_NS,
        };
        self.pause = match away && (left_lying || neglected) {
            true => FIRST_NS,
            false => (2 * self.pause).clamp(FIRST_NS, most),
        };
        self.polls = network.polls.load(Ordering::Relaxed);
        self.idle = match deferred || flushed || taken_in >= BUSY_POLLS {
            true => 0,
            false => self.idle + 1,
        };
        if self.idle < IDLE_LOOKS {
            self.due = now + self.pause;
            return Some(self.pause);
        }
        self.idle = 0;
        self.due = 0;
        network.watched.store(false, Ordering::SeqCst);
        network.arm();
        network.poll(None);
        if network.has_deferred.load(Ordering::SeqCst) {
            // Whoever deferred it may have relied on the watch.
            network.watched.store(true, Ordering::SeqCst);
            self.due = now + FIRST_NS;
            return Some(FIRST_NS);
        }
        None
    }
}
