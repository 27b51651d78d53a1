//! Readiness of accelerated sockets in an epoll set: each watch is queued once when its socket may
//! have become ready; what it is ready for is found out when the events are collected.

use rustix::fd::RawFd;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use libc::epoll_event;
use parking_lot::Mutex;

use super::epoll::EpollSet;
use super::waiter::{Waiter, Wakes};
use crate::socket::{Inner, Socket};

/// Something to read, and room to write.
pub const INPUT: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
/// See [`INPUT`].
pub const ROOM: u32 = (libc::EPOLLOUT | libc::EPOLLWRNORM) as u32;

const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

/// The data of what nobody is to hear of: an address of ours, which the application has no reason to use.
pub fn spent_mark() -> u64 {
    static MARK: u8 = 0;
    &raw const MARK as u64
}

/// One registration of a socket in an epoll set.
pub struct Watch {
    /// The set.
    pub set: &'static EpollSet,
    /// The set's life when the watch was made: a set that was closed since is another one.
    pub life: u64,
    /// The set's number by which the socket was added.
    pub epfd: RawFd,
    /// The number under which the socket was added.
    pub fd: RawFd,
    /// What the application wants to hear, with EPOLLET and EPOLLONESHOT.
    pub interest: u32,
    /// What it wants to be told it with.
    pub data: u64,
    /// The kernel's epoll has it as well (or alone).
    pub in_kernel: bool,
    /// The kernel's epoll has it only to tell the set that there is something new about this socket.
    pub looks: Option<&'static Socket>,
    /// The side port of the listener `Socket` that the kernel's epoll has beside it.
    pub side: Option<(RawFd, &'static Socket)>,
    /// Events of which the application knows: the kernel, which does not, tells of them when it begins to watch.
    pub known: u32,
    token: u64,
    queued: bool,
    spent: bool,
}

static TOKENS: AtomicU64 = AtomicU64::new(1);

impl Watch {
    /// A watch for `event`.
    pub fn new(
        set: &'static EpollSet,
        epfd: RawFd,
        fd: RawFd,
        event: &epoll_event,
        in_kernel: bool,
    ) -> Watch {
        Watch {
            set,
            life: set.life(),
            epfd,
            fd,
            interest: event.events,
            data: event.u64,
            in_kernel,
            looks: None,
            side: None,
            known: 0,
            token: TOKENS.fetch_add(1, Ordering::Relaxed),
            queued: false,
            spent: false,
        }
    }

    /// EPOLL_CTL_MOD.
    pub fn modify(&mut self, event: &epoll_event) {
        self.interest = event.events;
        self.data = event.u64;
        self.spent = false;
        self.known = 0;
    }

    fn hears_edges(&self) -> bool {
        self.interest & libc::EPOLLET as u32 != 0 && !self.spent && self.is_live()
    }

    /// Whether it hears of room to write by edges.
    pub fn hears_of_room_once(&self) -> bool {
        self.interest & libc::EPOLLOUT as u32 != 0 && self.hears_edges()
    }

    /// What nobody has read goes away for a while and comes again: no news to a watch that hears by edges and has been
    /// told.
    pub fn knows_input(&mut self) {
        if self.hears_edges() && !self.queued {
            self.known |= INPUT;
        }
    }

    /// Whether it knows something of which a kernel that begins to watch would tell by one edge too many.
    pub fn knows_more_than_kernel(&self) -> bool {
        self.hears_of_room_once() || self.known & INPUT != 0 && self.hears_edges()
    }

    /// Whether the set it was made for still exists.
    pub fn is_live(&self) -> bool {
        self.set.life() == self.life
    }

    /// Where the set's threads sleep.
    pub fn waiter(&self) -> Option<&'static Waiter> {
        self.is_live().then(|| self.set.waiter()).flatten()
    }

    /// The event as epoll_ctl(2) takes it.
    pub fn event(&self) -> epoll_event {
        epoll_event {
            events: self.interest,
            u64: self.data,
        }
    }

    /// The same, for a kernel that is to go on from here: a one-shot that is spent stays so. (Of errors and hang-ups the
    /// kernel tells always, so these come under a mark that the application does not hear of.)
    pub fn kernel_event(&self) -> epoll_event {
        let mut event = self.event();
        if let Some(socket) = self.looks {
            const ONCE: u32 = (libc::EPOLLONESHOT | libc::EPOLLEXCLUSIVE) as u32;
            event.events = event.events & !ONCE | libc::EPOLLET as u32;
            event.u64 = socket.mark();
        } else if self.spent {
            event.events &= (libc::EPOLLONESHOT | libc::EPOLLET) as u32;
            event.u64 = spent_mark();
        }
        event
    }

    /// `events` may have become true.
    #[inline]
    pub fn signal(&mut self, socket: &'static Socket, events: u32, wakes: &mut Wakes) {
        if self.queued || self.spent || events & (self.interest | ALWAYS) == 0 || !self.is_live() {
            return;
        }
        self.queued = true;
        self.set.ready.push(Ready {
            socket,
            token: self.token,
        });
        if let Some(waiter) = self.set.waiter() {
            if self.set.is_observed() {
                crate::real::sys::signal(waiter.bell());
            } else {
                wakes.add(waiter);
            }
        }
    }

    /// What to report now, and whether to keep it queued.
    fn report(&mut self, mask: u32) -> (Option<epoll_event>, bool) {
        let events = mask & (self.interest | ALWAYS);
        let once = self.interest & libc::EPOLLONESHOT as u32 != 0;
        let edge = self.interest & libc::EPOLLET as u32 != 0;
        if events == 0 || self.spent {
            self.queued = false;
            return (None, false);
        }
        self.spent = once;
        self.queued = !once && !edge;
        (
            Some(epoll_event {
                events,
                u64: self.data,
            }),
            self.queued,
        )
    }
}

/// A queued watch.
#[derive(Clone, Copy)]
pub struct Ready {
    socket: &'static Socket,
    token: u64,
}

/// The queue of an epoll set.
#[derive(Default)]
pub struct ReadyList {
    queue: Mutex<VecDeque<Ready>>,
}

impl ReadyList {
    /// An empty queue.
    pub const fn new() -> Self {
        ReadyList {
            queue: Mutex::new(VecDeque::new()),
        }
    }

    #[inline]
    fn push(&self, ready: Ready) {
        self.queue.lock().push_back(ready);
    }

    /// Whether something is queued. (A level-triggered watch stays queued until it is seen idle.)
    pub fn is_empty(&self) -> bool {
        self.queue.lock().is_empty()
    }

    /// Whether a collection would find anything now. What it would not report is no longer queued: the next
    /// that happens to it is news again.
    pub fn has_news(&self) -> bool {
        let queued: Vec<Ready> = self.queue.lock().iter().copied().collect();
        queued.iter().any(|ready| {
            let mut inner = ready.socket.lock();
            let news = inner.would_report(ready.token);
            if !news {
                self.queue.lock().retain(|r| r.token != ready.token);
            }
            news
        })
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.queue.lock().clear();
    }

    /// Writes the events of ready sockets to `out`; returns their number. Each queued watch is
    /// looked at once; those that stay ready go to the end, so that all get their turn.
    pub fn collect(&self, out: &mut [epoll_event]) -> usize {
        const BATCH: usize = 64;
        let mut found = 0;
        let mut left = self.queue.lock().len();
        while left > 0 && found < out.len() {
            let mut batch = [const { None }; BATCH];
            let mut taken = 0;
            {
                let mut queue = self.queue.lock();
                let want = left.min(BATCH).min(out.len() - found);
                while taken < want {
                    let Some(ready) = queue.pop_front() else {
                        break;
                    };
                    batch[taken] = Some(ready);
                    taken += 1;
                }
            }
            if taken == 0 {
                break;
            }
            left -= taken;
            let mut kept = 0;
            for at in 0..taken {
                let Some(ready) = batch[at].take() else {
                    continue;
                };
                let (event, keep) = ready.socket.lock().report(ready.token);
                if let Some(event) = event {
                    out[found] = event;
                    found += 1;
                }
                if keep {
                    batch[kept] = Some(ready);
                    kept += 1;
                }
            }
            if kept > 0 {
                self.queue
                    .lock()
                    .extend(batch[..kept].iter_mut().filter_map(Option::take));
            }
        }
        found
    }
}

/// Sockets about which the kernel tells a set that there is something new, and no more than that.
#[derive(Default)]
pub struct Looks {
    any: AtomicBool,
    sockets: Mutex<Vec<&'static Socket>>,
}

impl Looks {
    /// `socket` is one of them.
    pub fn add(&self, socket: &'static Socket) {
        let mut sockets = self.sockets.lock();
        if !sockets.iter().any(|s| core::ptr::eq(*s, socket)) {
            sockets.push(socket);
        }
        self.any.store(true, Ordering::Release);
    }

    /// `socket` is none of them any more.
    pub fn remove(&self, socket: &'static Socket) {
        let mut sockets = self.sockets.lock();
        sockets.retain(|s| !core::ptr::eq(*s, socket));
        self.any.store(!sockets.is_empty(), Ordering::Release);
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.sockets.lock().clear();
        self.any.store(false, Ordering::Release);
    }

    /// Whether an event with `data` is of this kind; its watches in `set` are queued then.
    #[inline]
    pub fn hear(&self, data: u64, set: &EpollSet) -> bool {
        self.any.load(Ordering::Acquire) && self.find(data, set)
    }

    #[cold]
    fn find(&self, data: u64, set: &EpollSet) -> bool {
        let sockets = self.sockets.lock();
        let found = sockets.iter().find(|s| s.mark() == data).copied();
        drop(sockets);
        let Some(socket) = found else { return false };
        let mut wakes = Wakes::new(None);
        socket.lock().look(socket, set, &mut wakes);
        wakes.ring();
        true
    }
}

impl Inner {
    fn would_report(&mut self, token: u64) -> bool {
        let mask = self.poll_mask();
        let Some(watch) = self.watches.iter_mut().find(|w| w.token == token) else {
            return false;
        };
        watch.queued = !watch.spent && mask & (watch.interest | ALWAYS) != 0;
        watch.queued
    }

    /// The kernel says that there is something new: for the watches of `set`.
    fn look(&mut self, socket: &'static Socket, set: &EpollSet, wakes: &mut Wakes) {
        let mask = self.poll_mask();
        let kernels = self.kernel_mask();
        let more = self.has_more_than_known(kernels);
        for watch in &mut self.watches {
            if core::ptr::eq(watch.set, set) {
                let known = match more {
                    true => watch.known & !INPUT,
                    false => watch.known,
                };
                // That there is room is told once; what comes again may come in pieces.
                watch.known = known & INPUT;
                if known == 0 || kernels & !known & (watch.interest | ALWAYS) != 0 {
                    watch.signal(socket, mask, wakes);
                }
            }
        }
    }

    fn report(&mut self, token: u64) -> (Option<epoll_event>, bool) {
        let Some(at) = self.watches.iter().position(|w| w.token == token) else {
            return (None, false);
        };
        let mask = self.poll_mask();
        self.watches[at].report(mask)
    }
}
