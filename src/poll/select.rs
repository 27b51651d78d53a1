//! poll and select in all their forms, over a mix of accelerated and kernel descriptors.

use rustix::fd::AsRawFd;

use libc::{c_int, fd_set, pollfd, sigset_t, timespec};
use smallvec::SmallVec;

use super::epoll::EpollSet;
use super::waiter::Waiter;
use crate::fabric::network;
use crate::fdtable::{self, Entry};
use crate::link::source::{self, Source};
use crate::real::orig;
use crate::real::sys::{self, Errno, now_ns};
use crate::runtime;
use crate::socket::wait::{Asleep, Borrowed, Sleeper};
use crate::socket::{Inner, Socket};

/// Most calls name a few descriptors: these need no memory of the heap. (A server that forks for each connection would copy
/// several pages of that in each turn.)
type Few<T> = SmallVec<[T; 8]>;

/// Whether poll(2) on `fd` has anything to do with us.
fn ours(fd: c_int) -> Option<&'static Socket> {
    match fdtable::get(fd) {
        Some(Entry::Socket(socket)) if socket.is_orphan() => {
            socket.adopt();
            ours(fd)
        }
        Some(Entry::Socket(socket)) => Some(socket),
        _ => None,
    }
}

/// An epoll set that holds sockets of ours.
fn our_set(fd: c_int) -> Option<&'static EpollSet> {
    match fdtable::get(fd) {
        Some(Entry::Epoll(set)) if set.has_bells() => Some(set),
        _ => None,
    }
}

/// Whether any of `fds` is ours: else the call is the kernel's.
pub fn concerns(fds: &[pollfd]) -> bool {
    fds.iter()
        .any(|p| p.fd >= 0 && (ours(p.fd).is_some() || our_set(p.fd).is_some()))
}

/// An accelerated socket among the polled descriptors.
struct Polled {
    at: usize,
    socket: &'static Socket,
}

/// Whether `fd` has input is asked.
fn input(fd: c_int) -> pollfd {
    pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

fn note_source(sources: &mut Few<Source>, inner: &Inner) {
    if let Some(source) = inner.link().map(|link| link.source())
        && !sources.iter().any(|s| s.is(&source))
    {
        sources.push(source);
    }
    for source in inner.ways().iter().map(|link| link.source()) {
        if !sources.iter().any(|s| s.is(&source)) {
            sources.push(source);
        }
    }
}

/// A poll call in progress.
struct Call<'a> {
    fds: &'a mut [pollfd],
    polled: Few<Polled>,
    sources: Few<Source>,
    /// Polled epoll sets that hold sockets of ours. Their bells show in their descriptors.
    sets: Few<(usize, &'static EpollSet)>,
    /// Polled listeners whose side ports other processes have too.
    doors: Few<&'static Socket>,
    /// What the kernel is asked: the same descriptors, less those whose readiness is ours alone, the side ports of
    /// `doors`, and the waiter's bell at the end.
    kernel: Few<pollfd>,
    asks_kernel: bool,
}

impl<'a> Call<'a> {
    fn new(fds: &'a mut [pollfd], bell: c_int) -> Call<'a> {
        let mut polled = Few::new();
        let mut sources = Few::new();
        let mut kernel: Few<pollfd> = fds.iter().map(|p| pollfd { revents: 0, ..*p }).collect();
        let mut asks_kernel = false;
        let mut sets = Few::new();
        let (mut doors, mut side_ports) = (Few::new(), Few::new());
        for (at, p) in fds.iter().enumerate().filter(|(_, p)| p.fd >= 0) {
            let Some(socket) = ours(p.fd) else {
                if let Some(set) = our_set(p.fd) {
                    set.observe();
                    sets.push((at, set));
                }
                asks_kernel = true;
                continue;
            };
            let mut inner = socket.lock();
            inner.claim_listener(socket);
            if inner.is_virtual() {
                kernel[at].fd = -1;
            } else {
                asks_kernel = true;
            }
            let asks_input = p.events & (libc::POLLIN | libc::POLLRDNORM) != 0;
            if let Some(side) = inner.shared_side_port().filter(|_| asks_input) {
                doors.push(socket);
                side_ports.push(input(side.as_raw_fd()));
            }
            note_source(&mut sources, &inner);
            polled.push(Polled { at, socket });
        }
        kernel.append(&mut side_ports);
        kernel.push(input(bell));
        Call {
            fds,
            polled,
            sources,
            sets,
            doors,
            kernel,
            asks_kernel,
        }
    }

    /// Takes in who knocks at side ports, as far as the kernel has said that somebody does.
    fn look_at_doors(&self) {
        let of_doors = &self.kernel[self.fds.len()..];
        for (socket, asked) in self.doors.iter().zip(of_doors) {
            if asked.revents != 0 {
                socket.look_at_side_port();
            }
        }
    }

    fn take_in(&self, waiter: &'static Waiter) -> bool {
        source::poll_all(self.sources.iter(), Some(waiter))
    }

    /// Whether nothing can become ready but by the kernel, or by who rings the waiter's bell: neither is missed by asking
    /// the kernel once, for the whole time.
    fn is_kernels(&self) -> bool {
        let virtuals = |polled: &Polled| self.kernel[polled.at].fd < 0;
        self.sources.is_empty() && self.sets.is_empty() && !self.polled.iter().any(virtuals)
    }

    fn pending(&self) -> bool {
        self.sources.iter().any(|source| source.pending())
    }

    /// Lists `waiter` with every polled socket; takes their links anew, for one that connects may
    /// have got one.
    fn list(&mut self, waiter: &'static Waiter) -> Few<Sleeper> {
        let mut listed = Few::new();
        for polled in &self.polled {
            let mut inner = polled.socket.lock();
            listed.push(Sleeper::new(polled.socket, &mut inner, waiter));
            note_source(&mut self.sources, &inner);
        }
        listed
    }

    /// Fills the revents of our sockets in and merges what the kernel said; returns how many
    /// descriptors are ready.
    fn ready(&mut self) -> usize {
        for (p, k) in self.fds.iter_mut().zip(&self.kernel) {
            p.revents = if k.fd >= 0 { k.revents } else { 0 };
        }
        const ALWAYS: i16 = libc::POLLERR | libc::POLLHUP;
        for polled in &self.polled {
            let p = &mut self.fds[polled.at];
            let mask = polled.socket.lock().poll_mask() as i16;
            p.revents |= mask & (p.events | ALWAYS);
        }
        for (at, set) in &self.sets {
            let p = &mut self.fds[*at];
            if p.events & (libc::POLLIN | libc::POLLRDNORM) != 0 {
                p.revents = if set.has_news(p.fd) {
                    p.events & (libc::POLLIN | libc::POLLRDNORM)
                } else {
                    0
                };
            }
        }
        self.fds.iter().filter(|p| p.revents != 0).count()
    }

    /// Whether a socket whose readiness was ours alone has become the kernel's since (its connect fell back to TCP, or
    /// it was handed back), or was closed.
    fn is_stale(&self) -> bool {
        self.polled.iter().any(|p| {
            let fd = self.fds[p.at].fd;
            !fdtable::is(fd, Entry::Socket(p.socket))
                || self.kernel[p.at].fd < 0 && !p.socket.lock().is_virtual()
        })
    }

    /// As [`ready`](Self::ready). But select(2) has no bit for a hang-up or an error of a descriptor that only exceptions
    /// are wanted of, nor do they end it: such descriptors do not count, and are not asked again.
    fn look(&mut self, selects: bool) -> usize {
        self.look_at_doors();
        let ready = self.ready();
        if !selects {
            return ready;
        }
        let deaf =
            |p: &&mut pollfd| p.events == libc::POLLPRI && p.revents != 0 && p.revents & NAMED == 0;
        const NAMED: i16 = libc::POLLPRI | libc::POLLNVAL;
        let mut deafened = 0;
        for p in self.fds.iter_mut().filter(deaf) {
            p.fd = -1;
            p.revents = 0;
            deafened += 1;
        }
        ready - deafened
    }

    /// Asks the kernel, for at most `timeout` (`None`: for ever).
    unsafe fn ask(
        &mut self,
        with_bell: bool,
        timeout: Option<u64>,
        mask: *const sigset_t,
    ) -> Result<(), Errno> {
        let count = self.kernel.len() - usize::from(!with_bell);
        let time = timeout.map(|ns| timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        });
        let time = time.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: a valid array, a valid or null timespec; the mask by the caller's contract.
        match unsafe { orig::ppoll(self.kernel.as_mut_ptr(), count as libc::nfds_t, time, mask) } {
            n if n < 0 => Err(sys::last_error()),
            _ => Ok(()),
        }
    }
}

/// ppoll(2), or as select(2) would have it. `timeout` in nanoseconds, `None` for ever.
///
/// # Errors
/// As ppoll(2).
///
/// # Safety
/// The contract of ppoll(2) for `mask`.
pub unsafe fn poll(
    fds: &mut [pollfd],
    timeout: Option<u64>,
    mask: *const sigset_t,
    selects: bool,
) -> Result<usize, Errno> {
    let borrowed = Borrowed(Waiter::take()?);
    let waiter = borrowed.0;
    let spin_max = runtime::spin_ns();
    let deadline = timeout.map(|t| now_ns().saturating_add(t));
    network::flush();
    loop {
        let mut call = Call::new(fds, waiter.raw_bell());
        call.take_in(waiter);
        let kernels = call.is_kernels();
        if call.asks_kernel && !(kernels && timeout != Some(0) && call.ready() == 0) {
            // SAFETY: no mask.
            unsafe { call.ask(false, Some(0), core::ptr::null()) }?;
        }
        let ready = call.look(selects);
        if ready > 0 || timeout == Some(0) {
            return Ok(ready);
        }
        if !kernels && waiter.spin.until(spin_max, || call.pending()) && call.take_in(waiter) {
            continue;
        }
        let listed = call.list(waiter);
        let sources = call.sources.clone();
        let asleep = Asleep::new(waiter, || sources);
        call.take_in(waiter);
        let ready = call.look(selects);
        if ready > 0 {
            return Ok(ready);
        }
        if call.is_stale() {
            continue;
        }
        let start = now_ns();
        // SAFETY: the mask by the contract.
        let asked = unsafe { call.ask(true, deadline.map(|d| d.saturating_sub(start)), mask) };
        drop(asleep);
        drop(listed);
        let end = now_ns();
        asked?;
        if call.kernel.last().is_some_and(|bell| bell.revents != 0) {
            let mut count = [0; 8];
            let _ = rustix::io::read(waiter.bell(), &mut count);
        }
        call.take_in(waiter);
        if call.is_stale() && deadline.is_none_or(|d| d > end) {
            continue;
        }
        let ready = call.look(selects);
        if ready > 0 || deadline.is_some_and(|d| d <= end) {
            return Ok(ready);
        }
    }
}

/// The descriptor sets of a select call; each may be absent.
pub struct Sets {
    /// Wanted: readable.
    pub read: *mut fd_set,
    /// Wanted: writable.
    pub write: *mut fd_set,
    /// Wanted: exceptional.
    pub except: *mut fd_set,
}

const WORD: usize = u64::BITS as usize;

/// Bit operations on a set of any size: FD_SETSIZE is the application's affair.
unsafe fn has(set: *mut fd_set, fd: usize) -> bool {
    // SAFETY: the caller's set has a bit for every fd below the count that it passed.
    !set.is_null() && unsafe { *set.cast::<u64>().add(fd / WORD) } >> (fd % WORD) & 1 != 0
}

unsafe fn put(set: *mut fd_set, fd: usize) {
    if !set.is_null() {
        // SAFETY: as in `has`.
        unsafe { *set.cast::<u64>().add(fd / WORD) |= 1 << (fd % WORD) };
    }
}

unsafe fn clear(set: *mut fd_set, count: usize) {
    for fd in 0..count {
        if !set.is_null() {
            // SAFETY: as in `has`.
            unsafe { *set.cast::<u64>().add(fd / WORD) &= !(1 << (fd % WORD)) };
        }
    }
}

impl Sets {
    /// The descriptors below `count` that are in any set.
    ///
    /// # Safety
    /// The contract of select(2).
    pub unsafe fn to_poll(&self, count: usize) -> Vec<pollfd> {
        let mut fds = Vec::new();
        for fd in 0..count {
            let mut events = 0;
            // SAFETY: by the contract.
            unsafe {
                if has(self.read, fd) {
                    events |= libc::POLLIN;
                }
                if has(self.write, fd) {
                    events |= libc::POLLOUT;
                }
                if has(self.except, fd) {
                    events |= libc::POLLPRI;
                }
            }
            if events != 0 {
                fds.push(pollfd {
                    fd: fd as c_int,
                    events,
                    revents: 0,
                });
            }
        }
        fds
    }

    /// Writes the outcome of a poll back; returns the number of bits set.
    ///
    /// # Errors
    /// `EBADF` if one of the descriptors is not open.
    ///
    /// # Safety
    /// The contract of select(2).
    pub unsafe fn set_from_poll(&self, count: usize, fds: &[pollfd]) -> Result<usize, Errno> {
        if fds.iter().any(|p| p.revents & libc::POLLNVAL != 0) {
            return Err(Errno::BADF);
        }
        let mut bits = 0;
        // SAFETY: by the contract.
        unsafe {
            clear(self.read, count);
            clear(self.write, count);
            clear(self.except, count);
            let readable =
                libc::POLLIN | libc::POLLRDNORM | libc::POLLRDBAND | libc::POLLHUP | libc::POLLERR;
            let writable = libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND | libc::POLLERR;
            for p in fds {
                let wants = [
                    (libc::POLLIN, readable, self.read),
                    (libc::POLLOUT, writable, self.write),
                    (libc::POLLPRI, libc::POLLPRI, self.except),
                ];
                for (asked, given, set) in wants {
                    if p.events & asked != 0 && p.revents & given != 0 {
                        put(set, p.fd as usize);
                        bits += 1;
                    }
                }
            }
        }
        Ok(bits)
    }
}
