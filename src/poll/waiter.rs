//! Where a thread sleeps: an eventfd with a process-wide number (its slot) under which peers and
//! other threads of this process can wake it.

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering, fence};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll};

use super::kernel;
use super::sleepers::Sleepers;
use super::spin::Spin;
use crate::fabric::{SLOT_IO, SLOTS, network};
use crate::real::orig;
use crate::real::sys::{self, Errno, InternalFd};
use crate::slab::Slab;
use crate::stats;

/// A sleeping place. Belongs to one epoll set, or to one blocked thread at a time.
pub struct Waiter {
    bell: InternalFd,
    slot: u8,
    sleepers: Sleepers,
    /// How long its thread spins first.
    pub spin: Spin,
    /// Where it hears both its bell and the network's engines, once it had to.
    epoll: OnceLock<InternalFd>,
    engines_seen: AtomicU32,
}

/// Under what a waiter's own epoll has descriptors that it sleeps at in turn with others.
const DOOR: u64 = 1;
/// How long a thread sleeps that cannot be woken by all that it waits for.
const NAP: Duration = Duration::from_millis(1);

static BY_SLOT: [AtomicPtr<Waiter>; SLOTS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; SLOTS];
static NEXT_SLOT: AtomicU8 = AtomicU8::new(SLOT_IO + 1);
static POOL: Slab<Waiter> = Slab::new();

/// Rings the waiter of `slot` of this process.
pub fn ring_slot(slot: u8) {
    if slot == SLOT_IO {
        crate::runtime::get().ring_io();
        return;
    }
    let waiter = BY_SLOT[slot as usize % SLOTS].load(Ordering::Acquire);
    // SAFETY: only pointers to waiters that live for ever are stored.
    if let Some(waiter) = unsafe { waiter.as_ref() } {
        sys::signal(waiter.bell());
    }
}

impl Waiter {
    fn make() -> Result<Waiter, Errno> {
        let bell = InternalFd::adopt(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?);
        let slot = NEXT_SLOT
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |slot| {
                ((slot as usize) < SLOTS).then_some(slot + 1)
            })
            .unwrap_or(SLOT_IO);
        Ok(Waiter {
            bell,
            slot,
            sleepers: Sleepers::default(),
            spin: Spin::default(),
            epoll: OnceLock::new(),
            engines_seen: AtomicU32::new(0),
        })
    }

    /// A waiter nobody uses.
    ///
    /// # Errors
    /// The kernel's, when no further eventfd can be had.
    pub fn take() -> Result<&'static Waiter, Errno> {
        if let Some(waiter) = POOL.pop() {
            return Ok(waiter);
        }
        let made = Self::make()?;
        let waiter = POOL.take(|| made);
        if waiter.slot != SLOT_IO {
            BY_SLOT[waiter.slot as usize]
                .store(core::ptr::from_ref(waiter).cast_mut(), Ordering::Release);
        }
        Ok(waiter)
    }

    /// Gives it back for others to use.
    pub fn put(&'static self) {
        POOL.put(self);
    }

    /// The number under which peers know it; [`SLOT_IO`] if numbers ran out.
    #[inline]
    pub fn slot(&self) -> u8 {
        self.slot
    }

    /// The eventfd.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The eventfd's number.
    pub fn raw_bell(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// Forgets rings of a former life, so that the eventfd is not readable at first.
    pub fn hush(&self) {
        if sys::poll_mask(self.raw_bell(), libc::POLLIN) != 0 {
            let mut count = [0; 8];
            let _ = rustix::io::read(self.bell(), &mut count);
        }
    }

    /// Says that a thread is about to sleep here. It looks for work once more afterwards.
    pub fn begin_sleep(&self) {
        self.sleepers.begin();
        stats::add(&stats::global().sleeps, 1);
    }

    /// A thread is awake again. See [`Sleepers::end`].
    pub fn end_sleep(&self, arm: impl Fn(), disarm: impl Fn()) -> bool {
        self.sleepers.end(arm, disarm)
    }

    /// Whether a thread sleeps here.
    #[inline]
    pub fn is_slept_at(&self) -> bool {
        self.sleepers.any()
    }

    /// Wakes it if it sleeps.
    pub fn wake(&'static self) {
        let mut wakes = Wakes::new(None);
        wakes.add(self);
        wakes.ring();
    }

    /// Sleeps until rung, until `also` has input, or for `timeout`. A cancellation point. If it `goes_on` a signal ends
    /// it only if the handler lacks SA_RESTART, else any.
    ///
    /// # Errors
    /// `EINTR`; `EAGAIN` when the time is over.
    pub fn sleep(
        &self,
        timeout: Option<Duration>,
        also: Option<RawFd>,
        goes_on: bool,
    ) -> Result<(), Errno> {
        let _errno = crate::log::ErrnoGuard::new();
        if timeout.is_some() || also.is_some() || !goes_on {
            let time = timeout.map(|timeout| libc::timespec {
                tv_sec: timeout.as_secs() as libc::time_t,
                tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
            });
            let time = time.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
            let input = |fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            // A negative number is skipped.
            let mut fds = [input(self.raw_bell()), input(also.unwrap_or(-1))];
            // SAFETY: two valid pollfds, a valid or null timespec, no mask.
            match unsafe { orig::ppoll(fds.as_mut_ptr(), 2, time, core::ptr::null()) } {
                0 => return Err(Errno::AGAIN),
                n if n < 0 => return interrupted(sys::last_error(), goes_on),
                _ if fds[0].revents == 0 => return Ok(()),
                _ => {}
            }
        }
        let mut count = 0u64;
        // SAFETY: eight writable bytes, as an eventfd wants.
        if unsafe { orig::read(self.raw_bell(), (&raw mut count).cast(), 8) } < 0 {
            return Err(sys::last_error());
        }
        Ok(())
    }

    /// As [`sleep`](Self::sleep), and woken by what comes for links to other hosts, if by its event the kernel
    /// wakes this thread and no other.
    ///
    /// # Errors
    /// As of [`sleep`](Self::sleep).
    pub fn sleep_with_network(
        &'static self,
        timeout: Option<Duration>,
        goes_on: bool,
    ) -> Result<(), Errno> {
        let Some(epoll) = self.own_epoll() else {
            return self.sleep(timeout, None, goes_on);
        };
        let _errno = crate::log::ErrnoGuard::new();
        network::watch(epoll.as_fd(), &self.engines_seen);
        self.sleep_at(epoll, timeout, goes_on)
    }

    /// As [`sleep`](Self::sleep), until one of `doors` has input: of all who wait so for the same, in whatever process,
    /// the kernel wakes the one that has waited longest.
    ///
    /// # Errors
    /// As of [`sleep`](Self::sleep).
    pub fn sleep_in_turn(
        &'static self,
        timeout: Option<Duration>,
        doors: [RawFd; 2],
        goes_on: bool,
    ) -> Result<(), Errno> {
        let _errno = crate::log::ErrnoGuard::new();
        let added = self.own_epoll().filter(|epoll| {
            let data = epoll::EventData::new_u64(DOOR);
            let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
            let all = doors.map(|door| epoll::add(epoll, sys::borrow(door), data, flags));
            all.iter().all(Result::is_ok)
        });
        let slept = match added {
            Some(epoll) => self.sleep_at(epoll, timeout, goes_on),
            // Where that cannot be had the caller looks anew before long.
            None => {
                let nap = timeout.map_or(NAP, |timeout| timeout.min(NAP));
                match self.sleep(Some(nap), Some(doors[0]), goes_on) {
                    Err(Errno::AGAIN) if timeout != Some(nap) => Ok(()),
                    other => other,
                }
            }
        };
        if let Some(epoll) = self.epoll.get() {
            for door in doors {
                let _ = epoll::delete(epoll, sys::borrow(door));
            }
        }
        slept
    }

    fn sleep_at(
        &'static self,
        epoll: &InternalFd,
        timeout: Option<Duration>,
        goes_on: bool,
    ) -> Result<(), Errno> {
        let nanoseconds = timeout.map(|timeout| timeout.as_nanos() as u64);
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        // SAFETY: a valid buffer, no mask.
        let waited = unsafe {
            kernel::wait(
                epoll.as_raw_fd(),
                &mut events,
                nanoseconds,
                core::ptr::null(),
            )
        };
        let got = match waited {
            Err(error) => return interrupted(error, goes_on),
            Ok(got) => got,
        };
        for event in &events[..got] {
            let mark = event.u64;
            match mark {
                DOOR => {}
                _ if mark == network::mark() => network::hear(Some(self)),
                _ => self.hush(),
            }
        }
        match got {
            0 => Err(Errno::AGAIN),
            _ => Ok(()),
        }
    }

    fn own_epoll(&self) -> Option<&InternalFd> {
        if let Some(epoll) = self.epoll.get() {
            return Some(epoll);
        }
        let made = epoll::create(epoll::CreateFlags::CLOEXEC).ok()?;
        let made = InternalFd::adopt(made);
        epoll::add(
            &made,
            self.bell(),
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )
        .ok()?;
        let _ = self.epoll.set(made);
        self.epoll.get()
    }
}

/// What comes of a wait in the kernel that failed: poll and epoll are never begun anew after a signal, but the calls that
/// they stand for may be.
fn interrupted(error: Errno, goes_on: bool) -> Result<(), Errno> {
    match error == Errno::INTR && goes_on && kernel::interrupted_calls_go_on() {
        true => Ok(()),
        false => Err(error),
    }
}

/// Waiters to wake once the locks are released: a system call under a link's lock would hold up
/// every other thread of the link.
pub struct Wakes {
    me: Option<&'static Waiter>,
    list: [Option<&'static Waiter>; 16],
    len: usize,
}

impl Wakes {
    /// None yet. `me` is the caller's own waiter, which is awake.
    pub fn new(me: Option<&'static Waiter>) -> Self {
        Wakes {
            me,
            list: [None; 16],
            len: 0,
        }
    }

    /// Wakes `waiter` at the end, if it sleeps then.
    #[inline]
    pub fn add(&mut self, waiter: &'static Waiter) {
        let known = |w: &Option<&'static Waiter>| w.is_some_and(|w| core::ptr::eq(w, waiter));
        if known(&self.me) || self.list[..self.len].iter().rev().any(known) {
            return;
        }
        if self.len == self.list.len() {
            self.ring();
        }
        self.list[self.len] = Some(waiter);
        self.len += 1;
    }

    /// Rings those that sleep.
    pub fn ring(&mut self) {
        if self.len == 0 {
            return;
        }
        fence(Ordering::SeqCst);
        for waiter in self.list[..self.len].iter_mut().filter_map(Option::take) {
            if waiter.sleepers.claim() {
                sys::signal(waiter.bell());
                stats::add(&stats::global().wakes_sent, 1);
            }
        }
        self.len = 0;
    }
}

/// For a forked child: the parent's waiters are not ours.
///
/// # Safety
/// No other thread may run.
pub unsafe fn reset_after_fork() {
    for slot in &BY_SLOT {
        slot.store(core::ptr::null_mut(), Ordering::Relaxed);
    }
    NEXT_SLOT.store(SLOT_IO + 1, Ordering::Relaxed);
    // SAFETY: by the contract.
    unsafe { POOL.reset_after_fork() };
}
