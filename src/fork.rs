//! Processes: a forked child starts clean, a vfork child (which shares our memory) changes nothing.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use rustix::fd::RawFd;
use std::cell::Cell;

use crate::contain;
use crate::control::io_thread::Command;
use crate::control::{crowd, heirs, listener, shelf, standing};
use crate::fdtable::{self, Entry};
use crate::real::sys::InternalFd;
use crate::socket::orphan::Preparation;
use crate::socket::{Inherited, Socket};
use crate::{runtime, stats};

/// The process that the tables describe; 0 until there is something in them.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// The calling process.
pub fn pid() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get() as u32
}

/// Something is about to be put into the tables. From the first time on a fork passes through
/// [`child`], for it copies them.
pub fn claim() {
    if OWNER.load(Ordering::Relaxed) == 0 {
        OWNER.store(pid(), Ordering::Relaxed);
        watch();
    }
}

/// Whether this is a child that shares or copies a parent's memory without having passed through
/// [`child`]: after vfork, posix_spawn, or a bare clone. Its descriptors are its own, the tables are not.
pub fn is_stranger() -> bool {
    let owner = OWNER.load(Ordering::Relaxed);
    owner != 0 && owner != pid()
}

/// How many forks lie between this process and the one that began.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Tells this process from those that it was forked from, of whose objects it has copies. Costs no system
/// call; a child that has not passed through [`child`] has its parent's.
#[inline]
pub fn generation() -> u32 {
    claim();
    GENERATION.load(Ordering::Relaxed)
}

/// Whether there can be a connection that is not the kernel's alone: a process without a runtime may have inherited one.
#[inline]
pub fn may_serve() -> bool {
    runtime::started().is_some() || GENERATION.load(Ordering::Relaxed) > 0
}

/// Has the C library tell us of forks and of the process's end. Once.
fn watch() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if WATCHED.swap(true, Ordering::AcqRel) {
        return;
    }
    extern "C" fn before() {
        contain::catch("fork", prepare);
    }
    extern "C" fn after() {
        contain::catch("fork", parent);
    }
    extern "C" fn within() {
        contain::catch("fork", child);
    }
    // SAFETY: both functions live as long as the library, which is never unloaded.
    unsafe {
        libc::pthread_atfork(Some(before), Some(after), Some(within));
        libc::atexit(at_exit);
        at_quick_exit(at_quick);
    }
}

unsafe extern "C" {
    fn at_quick_exit(handler: extern "C" fn()) -> libc::c_int;
}

extern "C" fn at_quick() {
    contain::catch("the end of the process", crate::exit::finish);
}

extern "C" fn at_exit() {
    // What streams still hold would be written after all handlers, too late to wait for.
    // SAFETY: null stands for all streams.
    unsafe { libc::fflush(core::ptr::null_mut()) };
    contain::catch("the end of the process", || {
        crate::exit::finish();
        stats::remove_at_exit();
    });
}

/// Runs in the parent, before a fork.
#[unsafe(link_section = ".text.netacc_hooks")]
fn prepare() {
    if !is_stranger() {
        crate::socket::foreign::before_fork();
    }
    let Some(runtime) = runtime::started().filter(|_| !is_stranger()) else {
        return;
    };
    let _errno = crate::log::ErrnoGuard::new();
    standing::before_fork();
    let mut connections = false;
    let mut side_ports = Vec::new();
    fdtable::for_each(0, fdtable::CAPACITY - 1, |_, entry| {
        if let Entry::Socket(socket) = entry {
            connections |= socket.prepare_for_heirs();
            side_ports.extend(socket.heirs_side_port());
        }
    });
    let news = listener::forked();
    shelf::before_fork(&side_ports);
    if news {
        runtime.command(Command::Fork);
    }
    // Without one the child is taken for gone: what the parent closes ends for both.
    if connections
        && let Ok(will) = heirs::will()
        && let Ok(made) = Preparation::make()
    {
        let (reading, writing) = (made.reading.leave(), made.writing.leave());
        PREPARED.set(Some([reading, writing, will]));
        heirs::will_fork();
    }
}

thread_local! {
    /// For the fork that this thread makes: both ends of the pipe, and the will.
    static PREPARED: Cell<Option<[RawFd; 3]>> = const { Cell::new(None) };
}

/// Runs in the parent, after a fork (or the attempt).
#[unsafe(link_section = ".text.netacc_hooks")]
fn parent() {
    if let Some([reading, writing, _]) = PREPARED.take() {
        let _errno = crate::log::ErrnoGuard::new();
        drop(InternalFd::take_back(writing));
        heirs::forked(InternalFd::take_back(reading));
    }
}

/// Writing ends of pipes, as long as this process or a child of it lives, ancestors keep what it may claim; and their wills.
static HELD: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// What is to be held, but for numbers that do not stand for it any more.
pub fn held() -> Vec<RawFd> {
    let internal = |fd: &RawFd| matches!(fdtable::get(*fd), Some(Entry::Internal));
    HELD.lock().iter().copied().filter(internal).collect()
}

/// This program was left something by the one before it, as a child by its parent.
pub fn become_heir() {
    claim();
    GENERATION.fetch_max(1, Ordering::Relaxed);
}

/// Holds `fd` for as long as this process lives.
pub fn hold_fd(fd: RawFd) {
    HELD.lock().push(fd);
}

/// What this child holds of its ancestors from now on, and its parent's will.
fn hold() -> (Vec<RawFd>, RawFd) {
    // SAFETY: fork leaves the child with this thread only; nobody has the lock but in the parent.
    let held = unsafe {
        crate::sync::unlock(&HELD);
        &mut *HELD.data_ptr()
    };
    let [_, writing, will] = PREPARED.take().unwrap_or([-1; 3]);
    held.extend([writing, will].into_iter().filter(|&fd| fd >= 0));
    (held.clone(), will)
}

/// Runs in the child of a fork, alone. No lock of the parent is taken, nothing of it is freed.
#[unsafe(link_section = ".text.netacc_hooks")]
fn child() {
    let _errno = crate::log::ErrnoGuard::new();
    OWNER.store(pid(), Ordering::Relaxed);
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let (held, will) = hold();
    let identity = runtime::started().map(|runtime| (&runtime.identity, will));
    heirs::reset_after_fork();
    crowd::reset_after_fork();
    listener::reset_after_fork();
    shelf::reset_after_fork();
    standing::reset_after_fork();
    stats::after_fork_in_child();
    crate::exit::reset_after_fork();
    crate::exec::reset_after_fork();
    crate::conn::window::reset_after_fork();
    crate::link::overdrafts::reset_after_fork();
    crate::memory::reset_after_fork();
    // SAFETY: fork leaves the child with this thread only.
    unsafe {
        crate::socket::reset_after_fork();
        crate::conn::stalls::reset_after_fork();
        crate::poll::epoll::reset_after_fork();
        crate::poll::waiter::reset_after_fork();
        runtime::reset_after_fork();
    }
    let side_ports = side_ports();
    // Of those that have one number only, nothing is to be remembered.
    let mut several: Vec<(*const Socket, Inherited)> = Vec::new();
    let mut closing = Closing::NONE;
    fdtable::for_each(0, fdtable::CAPACITY - 1, |fd, entry| match entry {
        Entry::Internal if held.contains(&fd) || side_ports.contains(&fd) => {}
        Entry::Internal => {
            fdtable::take(fd);
            closing.add(fd);
        }
        Entry::Epoll(_) => {
            fdtable::take(fd);
        }
        Entry::Lost => {}
        Entry::Socket(socket) | Entry::Plain(socket) => {
            let known = several.iter().find(|(at, _)| core::ptr::eq(*at, socket));
            let new = match known {
                Some((_, new)) => *new,
                None => {
                    // SAFETY: fork leaves the child with this thread only.
                    let (new, more) =
                        unsafe { (socket.inherit(identity), socket.has_several_numbers()) };
                    if more {
                        several.push((socket, new));
                    }
                    new
                }
            };
            put(fd, new, matches!(entry, Entry::Plain(_)));
        }
    });
    closing.done();
}

/// Numbers that a child closes, one after the other: each run of them costs one system call.
struct Closing {
    first: RawFd,
    last: RawFd,
}

impl Closing {
    const NONE: Closing = Closing { first: 0, last: -1 };

    /// `fd` is to be closed, which is above those before.
    fn add(&mut self, fd: RawFd) {
        if self.last + 1 != fd {
            self.done();
            self.first = fd;
        }
        self.last = fd;
    }

    /// Closes what is left.
    fn done(&mut self) {
        if self.first <= self.last {
            crate::real::sys::close_all(self.first, self.last);
        }
        *self = Self::NONE;
    }
}

/// The side ports of listeners, which a child has as it has the listeners.
fn side_ports() -> Vec<RawFd> {
    let mut found = Vec::new();
    fdtable::for_each(0, fdtable::CAPACITY - 1, |_, entry| {
        if let Entry::Socket(socket) = entry {
            // SAFETY: fork leaves the child with this thread only.
            found.extend(unsafe { socket.side_port() }.into_iter().flatten());
        }
    });
    found
}

fn put(fd: RawFd, new: Inherited, plain: bool) {
    match new {
        Inherited::Kernel => {
            fdtable::take(fd);
        }
        Inherited::Lost => {
            fdtable::set(fd, Entry::Lost);
        }
        Inherited::Socket(socket) => {
            socket.lock().fds.push(fd);
            fdtable::set(
                fd,
                if plain {
                    Entry::Plain(socket)
                } else {
                    Entry::Socket(socket)
                },
            );
        }
    }
}
