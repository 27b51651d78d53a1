//! Processes: a forked child starts clean, a vfork child (which shares our memory) changes nothing.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fd::RawFd;

use crate::fdtable::{self, Entry};
use crate::socket::{Inherited, Socket};
use crate::{runtime, stats};

/// The process that the tables describe; 0 until there is something in them.
static OWNER: AtomicU32 = AtomicU32::new(0);

fn pid() -> u32 {
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

/// Has the C library tell us of forks and of the process's end. Once.
fn watch() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if WATCHED.swap(true, Ordering::AcqRel) {
        return;
    }
    // SAFETY: both functions live as long as the library, which is never unloaded.
    unsafe {
        libc::pthread_atfork(Some(prepare), None, Some(child));
        libc::atexit(at_exit);
    }
}

extern "C" fn at_exit() {
    stats::remove_at_exit();
}

/// Runs in the parent, before a fork.
extern "C" fn prepare() {
    if runtime::started().is_none() || is_stranger() {
        return;
    }
    let _errno = crate::log::ErrnoGuard::new();
    fdtable::for_each(0, fdtable::CAPACITY - 1, |_, entry| {
        if let Entry::Socket(socket) = entry {
            socket.leave_to_children();
        }
    });
}

/// Runs in the child of a fork, alone. No lock of the parent is taken, nothing of it is freed.
extern "C" fn child() {
    let _errno = crate::log::ErrnoGuard::new();
    OWNER.store(pid(), Ordering::Relaxed);
    stats::after_fork_in_child();
    // SAFETY: fork leaves the child with this thread only.
    unsafe {
        crate::socket::reset_after_fork();
        crate::poll::epoll::reset_after_fork();
        crate::poll::waiter::reset_after_fork();
        runtime::reset_after_fork();
    }
    let mut inherited: Vec<(*const Socket, Inherited)> = Vec::new();
    fdtable::for_each(0, fdtable::CAPACITY - 1, |fd, entry| match entry {
        Entry::Internal => {
            fdtable::take(fd);
            crate::real::sys::close(fd);
        }
        Entry::Epoll(_) => {
            fdtable::take(fd);
        }
        Entry::Orphan => {}
        Entry::Socket(socket) | Entry::Plain(socket) => {
            let known = inherited
                .iter()
                .find(|(old, _)| core::ptr::eq(*old, socket))
                .map(|(_, new)| *new);
            let new = known.unwrap_or_else(|| {
                // SAFETY: as above.
                let new = unsafe { socket.inherit() };
                inherited.push((socket, new));
                new
            });
            put(fd, new, matches!(entry, Entry::Plain(_)));
        }
    });
}

fn put(fd: RawFd, new: Inherited, plain: bool) {
    match new {
        Inherited::Kernel => {
            fdtable::take(fd);
        }
        Inherited::Orphan => {
            fdtable::set(fd, Entry::Orphan);
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
