//! Models of the lock-free parts: every interleaving and every stale read that the language allows,
//! of the very code that ships. A lost wake-up shows as loom's "deadlock", a torn or overwritten
//! byte as its "causality violation". `make test-loom` runs them.
//!
//! Each model can fail: its comment names the weakening with which it was seen to.
#![cfg(loom)]

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use netacc::fabric::ring::{Cursors, Direction};
use netacc::link::turn::take_turns;
use netacc::memory::Marks;
use netacc::poll::sleepers::Sleepers;
use netacc::sync::{AtomicBool, AtomicU64, Ordering, fence};

/// Explores the model with at most `preemptions` involuntary switches in one run.
fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// An eventfd: a ring stays until somebody hears it, and one hears all rings so far.
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn new() -> Bell {
        Bell {
            rung: Mutex::new(false),
            heard: Condvar::new(),
        }
    }

    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.heard.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.heard.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// As `Waiter::wake`.
fn wake(sleepers: &Sleepers, bell: &Bell) {
    fence(Ordering::SeqCst);
    if sleepers.claim() {
        bell.ring();
    }
}

/// A ring of two cells; cursors count cells.
struct Ring {
    cursors: Cursors,
    cells: [UnsafeCell<u64>; 2],
}

/// Fails when `publish` or `release` stores relaxed and its fence is left out, and when `produced` or
/// `freed` loads relaxed.
#[test]
fn bytes_are_neither_torn_nor_overwritten() {
    model(3, || {
        let ring = Arc::new(Ring {
            cursors: Cursors::default(),
            cells: [UnsafeCell::new(0), UnsafeCell::new(0)],
        });
        let producer = thread::spawn({
            let ring = ring.clone();
            move || {
                for n in 0..3 {
                    while n - ring.cursors.freed() == 2 {
                        thread::yield_now();
                    }
                    // SAFETY: what the model checks.
                    ring.cells[n as usize % 2].with_mut(|cell| unsafe { *cell = n + 1 });
                    ring.cursors.publish(n + 1);
                }
            }
        });
        for n in 0..3 {
            while ring.cursors.produced() <= n {
                thread::yield_now();
            }
            // SAFETY: as above.
            ring.cells[n as usize % 2].with(|cell| assert_eq!(unsafe { *cell }, n + 1));
            ring.cursors.release(n + 1);
        }
        producer.join().unwrap();
    });
}

/// One direction of a link with the bells of the slots 1 and 2.
struct Channel {
    direction: Direction,
    bells: [Bell; 2],
}

impl Channel {
    fn new() -> Arc<Channel> {
        Arc::new(Channel {
            direction: Direction::default(),
            bells: [Bell::new(), Bell::new()],
        })
    }

    /// The sending end, as `Link::send_data` over shared memory.
    fn send(&self, conn: u32, to: u64) {
        self.direction.cursors.publish(to);
        if let Some(slot) = self.direction.sleeper(conn)
            && self.direction.armed.claim(slot)
        {
            self.bells[slot as usize - 1].ring();
        }
    }

    fn has(&self, enough: u64) -> bool {
        self.direction.cursors.produced() >= enough
    }

    /// A reader that waits in `slot` until everything before `enough` has come.
    fn wait_for(&self, enough: u64, slot: u8) {
        while !self.has(enough) {
            self.direction.armed.arm(slot);
            if self.has(enough) {
                self.direction.armed.disarm(slot);
                break;
            }
            self.bells[slot as usize - 1].wait();
        }
    }
}

/// Fails without the fence of `publish`, and without that of `arm`.
#[test]
fn a_sleeping_reader_is_woken() {
    model(3, || {
        let channel = Channel::new();
        channel.direction.set_slot(0, 1);
        let reader = thread::spawn({
            let channel = channel.clone();
            move || channel.wait_for(2, 1)
        });
        channel.send(0, 1);
        channel.send(0, 2);
        reader.join().unwrap();
    });
}

/// Fails without the fence of `publish`, without that of `arm`, and when `claim` clears another slot.
#[test]
fn readers_in_two_slots_are_woken() {
    model(2, || {
        let channel = Channel::new();
        channel.direction.set_slot(0, 1);
        channel.direction.set_slot(1, 2);
        let readers = [(1, 1), (2, 2)].map(|(enough, slot)| {
            let channel = channel.clone();
            thread::spawn(move || channel.wait_for(enough, slot))
        });
        channel.send(0, 1);
        channel.send(1, 2);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

/// Fails when the slot is set after the last look, and without the fence of `publish` or `arm` (that
/// of `set_slot` is for a slot that is armed already).
#[test]
fn a_reader_that_moves_just_before_it_sleeps_is_woken() {
    model(3, || {
        let channel = Channel::new();
        channel.direction.set_slot(0, 2);
        let reader = thread::spawn({
            let channel = channel.clone();
            move || {
                channel.direction.set_slot(0, 1);
                channel.wait_for(1, 1);
                // Elsewhere next time, as another thread reads it.
                channel.direction.set_slot(0, 2);
                channel.wait_for(2, 2);
            }
        });
        channel.send(0, 1);
        channel.send(0, 2);
        reader.join().unwrap();
    });
}

/// Fails without the fence of `release`, and without that of `want_space`.
#[test]
fn a_sender_that_wants_space_is_woken() {
    model(3, || {
        let shared = Arc::new((Cursors::default(), Bell::new()));
        let consumer = thread::spawn({
            let shared = shared.clone();
            move || {
                let (cursors, bell) = &*shared;
                for to in 1..=2 {
                    if cursors.release(to) {
                        bell.ring();
                    }
                }
            }
        });
        let (cursors, bell) = &*shared;
        while cursors.freed() < 2 {
            cursors.want_space();
            if cursors.freed() < 2 {
                bell.wait();
            }
        }
        consumer.join().unwrap();
    });
}

/// A lock that is only tried: as weak as parking_lot's.
struct Lock(AtomicBool);

struct Guard<'a>(&'a Lock);

impl Lock {
    fn try_lock(&self) -> Option<Guard<'_>> {
        let free = !self.0.load(Ordering::Relaxed)
            && self
                .0
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        free.then(|| Guard(self))
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// The receiving end of a link that two threads poll.
struct Polled {
    channel: Arc<Channel>,
    rx: Lock,
    seen: AtomicU64,
    /// What has been demultiplexed; the second record is the reader's.
    delivered: Mutex<u64>,
    sleepers: Sleepers,
}

impl Polled {
    /// As `Link::poll`; `awake`: the caller is the reader itself.
    fn poll(&self, awake: bool) {
        let produced = || self.channel.direction.cursors.produced();
        if produced() == self.seen.load(Ordering::Relaxed) {
            return;
        }
        let mut news = false;
        take_turns(
            || self.rx.try_lock(),
            |guard| {
                let all = produced();
                news |= all == 2;
                *self.delivered.lock().unwrap() = all;
                self.seen.store(all, Ordering::Relaxed);
                drop(guard);
                true
            },
            || produced() != self.seen.load(Ordering::Relaxed),
        );
        if news && !awake {
            wake(&self.sleepers, &self.channel.bells[0]);
        }
    }
}

/// Fails without the fence of `take_turns`, without its second look, and when `Sleepers::begin` comes
/// after the reader's last look.
#[test]
fn a_reader_that_finds_the_link_taken_is_woken() {
    model(3, || {
        let polled = Arc::new(Polled {
            channel: Channel::new(),
            rx: Lock(AtomicBool::new(false)),
            seen: AtomicU64::new(0),
            delivered: Mutex::new(0),
            sleepers: Sleepers::default(),
        });
        let channel = polled.channel.clone();
        channel.direction.set_slot(0, 1);
        // There is something for the other thread already; the reader waits for what comes next.
        channel.direction.cursors.publish(1);
        let other = thread::spawn({
            let polled = polled.clone();
            move || polled.poll(false)
        });
        let reader = thread::spawn({
            let polled = polled.clone();
            move || {
                loop {
                    polled.sleepers.begin();
                    polled.channel.direction.armed.arm(1);
                    polled.poll(true);
                    if *polled.delivered.lock().unwrap() == 2 {
                        break;
                    }
                    polled.channel.bells[0].wait();
                    polled.sleepers.end(|| (), || ());
                }
            }
        });
        channel.send(0, 2);
        other.join().unwrap();
        reader.join().unwrap();
    });
}

/// As a blocking connect waits for the control thread. Fails without the fence of `Sleepers::begin`,
/// and without that of `Wakes::ring`.
#[test]
fn a_thread_that_waits_for_another_is_woken() {
    model(3, || {
        let shared = Arc::new((AtomicBool::new(false), Sleepers::default(), Bell::new()));
        let waiting = thread::spawn({
            let shared = shared.clone();
            move || {
                let (done, sleepers, bell) = &*shared;
                while !done.load(Ordering::Acquire) {
                    sleepers.begin();
                    if !done.load(Ordering::Acquire) {
                        bell.wait();
                    }
                    sleepers.end(|| (), || ());
                }
            }
        });
        let (done, sleepers, bell) = &*shared;
        done.store(true, Ordering::Release);
        wake(sleepers, bell);
        waiting.join().unwrap();
    });
}

/// An epoll set that several threads wait in; each takes one event and goes away with it.
struct Set {
    channel: Arc<Channel>,
    /// Ring cells demultiplexed, and events not yet taken.
    ready: Mutex<(u64, u64)>,
    sleepers: Sleepers,
}

impl Set {
    fn new() -> Arc<Set> {
        let channel = Channel::new();
        channel.direction.set_slot(0, 1);
        Arc::new(Set {
            channel,
            ready: Mutex::new((0, 0)),
            sleepers: Sleepers::default(),
        })
    }

    fn pending(&self) -> bool {
        self.channel.direction.cursors.produced() != self.ready.lock().unwrap().0
    }

    /// Takes in what the link has, then takes one event.
    fn collect(&self) -> bool {
        let mut ready = self.ready.lock().unwrap();
        let produced = self.channel.direction.cursors.produced();
        ready.1 += produced - ready.0;
        ready.0 = produced;
        let any = ready.1 > 0;
        ready.1 -= u64::from(any);
        any
    }

    fn wake(&self) {
        wake(&self.sleepers, &self.channel.bells[0]);
    }

    /// As `EpollSet::wait` and `Asleep`.
    fn wait(&self) {
        let armed = &self.channel.direction.armed;
        loop {
            self.sleepers.begin();
            armed.arm(1);
            let found = self.collect();
            if !found {
                self.channel.bells[0].wait();
            }
            if self.sleepers.end(|| armed.arm(1), || armed.disarm(1)) && self.pending() {
                self.wake();
            }
            if found || self.collect() {
                break;
            }
        }
        if self.sleepers.any() && self.ready.lock().unwrap().1 > 0 {
            self.wake();
        }
    }
}

/// Each of two threads gets one of two events that the peer sends. Fails when `Sleepers::end` does not
/// arm for the others, or not after it has disarmed under one of them, or without the fence between;
/// and without the look at the link after it.
#[test]
fn threads_of_one_set_are_woken_by_the_peer() {
    model(3, || {
        let set = Set::new();
        let threads = [(); 2].map(|()| {
            let set = set.clone();
            thread::spawn(move || set.wait())
        });
        set.channel.send(0, 1);
        set.channel.send(0, 2);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// The same with events that another thread of the process has taken in. Fails when `Sleepers::begin`
/// resets the ring mark before it counts the thread, or not at all; when `end` does not reset it for
/// the others; and when the events left over are not passed on.
#[test]
fn threads_of_one_set_are_woken_from_within() {
    model(4, || {
        let set = Set::new();
        let threads = [(); 2].map(|()| {
            let set = set.clone();
            thread::spawn(move || set.wait())
        });
        for _ in 0..2 {
            set.ready.lock().unwrap().1 += 1;
            set.wake();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// A reserve whose first piece is used by whoever has taken it.
struct Reserve {
    marks: Marks<2>,
    piece: UnsafeCell<u64>,
}

impl Reserve {
    /// Takes so many pieces, the first among them, uses that and gives them back. Returns whether it got them.
    fn use_some(&self, count: usize) -> bool {
        let Some(start) = self.marks.take(count) else {
            return false;
        };
        assert_eq!(start, 0);
        // SAFETY: what the model checks.
        self.piece.with_mut(|piece| unsafe { *piece += 1 });
        self.marks.give(start, count);
        true
    }
}

/// Fails when what was claimed before a conflict is not given back, when a conflict is not looked for, and when pieces are
/// taken or given back with relaxed order.
#[test]
fn pieces_of_the_reserve_are_one_threads_at_a_time() {
    model(3, || {
        let reserve = Arc::new(Reserve {
            marks: Marks::new(),
            piece: UnsafeCell::new(0),
        });
        let other = thread::spawn({
            let reserve = reserve.clone();
            move || reserve.use_some(70)
        });
        let mine = reserve.use_some(100);
        assert!(other.join().unwrap() || mine, "one of them finds room");
        assert_eq!(reserve.marks.take(128), Some(0), "all of it is given back");
    });
}
