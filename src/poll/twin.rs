//! A listener's side port in the kernel's epolls, beside the listener.
//!
//! While a process is alone with a side port, its control thread waits there. A side port that forked processes share
//! (see [`crate::control::listener`]) is watched by each epoll set that watches the listener, in the same manner
//! (level or edge, once, exclusively): so the kernel wakes a process for who knocks there exactly when it would wake it
//! for the listener itself.

use libc::epoll_event;
use parking_lot::Mutex;
use rustix::fd::{AsRawFd, RawFd};

use super::epoll::EpollSet;
use super::interest::kernel_control;
use super::ready::Watch;
use crate::fdtable::{self, Entry};
use crate::socket::{Inner, Socket};

/// The data under which side ports are watched: addresses of ours, which the application has no reason to use. They are
/// told by the place alone, for a side port that is closed here goes on to be watched as long as another process has it
/// and the set cannot be named any more.
static MARKS: [u8; 4096] = [0; 4096];

/// Whether an event with `data` is of a side port.
#[inline]
pub fn is_mark(data: u64) -> bool {
    data.wrapping_sub(MARKS.as_ptr() as u64) < MARKS.len() as u64
}

/// The mark of the listener with this serial number; others may have the same.
fn mark_of(serial: u64) -> u64 {
    MARKS.as_ptr() as u64 + serial % MARKS.len() as u64
}

/// The listeners whose side ports a set watches, under their marks.
#[derive(Default)]
pub struct Twins {
    listeners: Mutex<Vec<(u64, &'static Socket)>>,
}

impl Twins {
    /// Somebody knocks at a side port with this mark: there may be a connection to accept now.
    #[cold]
    pub fn hear(&self, data: u64, set: &EpollSet) {
        let listeners: Vec<&'static Socket> = {
            let listeners = self.listeners.lock();
            let marked = listeners.iter().filter(|(mark, _)| *mark == data);
            marked.map(|(_, socket)| *socket).collect()
        };
        for socket in listeners {
            socket.look_at_side_port();
            rearm(&mut socket.lock(), set);
        }
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.listeners.lock().clear();
    }
}

const ONCE: u32 = libc::EPOLLONESHOT as u32;

/// How the side port is watched: as the listener.
fn event(watch: &Watch, serial: u64) -> epoll_event {
    const MANNER: u32 = libc::EPOLLET as u32 | ONCE | libc::EPOLLEXCLUSIVE as u32;
    const INPUT: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
    let input = match watch.interest & INPUT {
        0 => 0,
        _ => libc::EPOLLIN as u32,
    };
    epoll_event {
        events: watch.interest & MANNER | input,
        u64: mark_of(serial),
    }
}

/// Has the sets that watch the listener `socket` watch its side port as well, if that is shared.
pub fn show(socket: &'static Socket, inner: &mut Inner) {
    let Some(side) = inner.shared_side_port() else {
        return;
    };
    let (side, serial) = (side.as_raw_fd(), inner.serial);
    for watch in inner
        .watches
        .iter_mut()
        .filter(|w| w.in_kernel && w.side.is_none())
    {
        let event = event(watch, serial);
        if names_its_set(watch)
            && kernel_control(watch.epfd, libc::EPOLL_CTL_ADD, side, &event).is_ok()
        {
            watch.side = Some((side, socket));
            let mut listeners = watch.set.twins.listeners.lock();
            listeners.push((mark_of(serial), socket));
        }
    }
}

/// The watch has changed.
pub fn modify(watch: &Watch, serial: u64) {
    if let Some((side, _)) = watch.side {
        control(watch, libc::EPOLL_CTL_MOD, side, &event(watch, serial));
    }
}

/// The watch ends, or the side port does.
pub fn hide(watch: &mut Watch) {
    if let Some((side, socket)) = watch.side.take() {
        control(watch, libc::EPOLL_CTL_DEL, side, &watch.event());
        if watch.is_live() {
            let mut listeners = watch.set.twins.listeners.lock();
            if let Some(at) = listeners
                .iter()
                .position(|(_, s)| core::ptr::eq(*s, socket))
            {
                listeners.swap_remove(at);
            }
        }
    }
}

/// What is watched once was spent on who knocked; if nothing came of it for the application, it is watched again.
fn rearm(inner: &mut Inner, set: &EpollSet) {
    if inner.poll_mask() == 0 {
        let serial = inner.serial;
        let once = |w: &&Watch| w.interest & ONCE != 0 && core::ptr::eq(w.set, set);
        inner
            .watches
            .iter()
            .filter(once)
            .for_each(|watch| modify(watch, serial));
    }
}

fn names_its_set(watch: &Watch) -> bool {
    watch.is_live() && fdtable::is(watch.epfd, Entry::Epoll(watch.set))
}

fn control(watch: &Watch, op: i32, side: RawFd, event: &epoll_event) {
    if names_its_set(watch) {
        let _ = kernel_control(watch.epfd, op, side, event);
    }
}
