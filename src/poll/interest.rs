//! epoll_ctl: what an epoll set watches, and the moves of a socket between the kernel's epoll and ours.

use libc::epoll_event;
use parking_lot::MutexGuard;
use rustix::fd::RawFd;

use super::epoll::EpollSet;
use super::ready::{ROOM, Watch};
use super::twin;
use super::waiter::Wakes;
use crate::fdtable::{self, Entry};
use crate::real::orig;
use crate::real::sys::{self, Errno};
use crate::socket::lifecycle::Farewell;
use crate::socket::{Inner, Role, Socket};
use crate::stats::{self, Reason};

/// epoll_ctl(2) on a set of ours. `None`: the kernel alone is concerned, the caller passes the call on.
///
/// # Errors
/// As epoll_ctl(2).
pub fn control(
    set: &'static EpollSet,
    epfd: RawFd,
    op: i32,
    fd: RawFd,
    event: Option<&epoll_event>,
) -> Option<Result<(), Errno>> {
    // As the kernel, which reads the event before it looks at anything else.
    if op != libc::EPOLL_CTL_DEL && event.is_none() {
        return Some(Err(Errno::FAULT));
    }
    let socket = match fdtable::get(fd) {
        Some(Entry::Socket(socket)) if op != libc::EPOLL_CTL_DEL && socket.is_orphan() => {
            socket.adopt();
            return control(set, epfd, op, fd, event);
        }
        Some(Entry::Socket(socket)) => socket,
        Some(Entry::Epoll(inner)) => {
            inner.observe();
            set.nested.note(op, fd, inner, event);
            set.kernel_too();
            return None;
        }
        _ => {
            set.kernel_too();
            return None;
        }
    };
    let mut inner = socket.lock();
    if !fdtable::is(fd, Entry::Socket(socket)) {
        drop(inner);
        return control(set, epfd, op, fd, event);
    }
    if op == libc::EPOLL_CTL_ADD && set.need_waiter(epfd).is_err() {
        return without_bell(set, socket, inner);
    }
    let result = match (op, event) {
        (libc::EPOLL_CTL_ADD, Some(event)) => add(set, epfd, fd, event, socket, &mut inner),
        (libc::EPOLL_CTL_MOD, Some(event)) => modify(set, epfd, fd, event, socket, &mut inner),
        (libc::EPOLL_CTL_DEL, _) => {
            let outcome = delete(set, epfd, fd, socket, &mut inner);
            let (link, ways) = (inner.joined_link(), inner.ways());
            drop(inner);
            // The set's list of links is never locked under a socket's lock.
            if outcome.is_ok() {
                set.drop_watch(set.life(), link.as_ref());
                ways.iter().for_each(|link| set.left(set.life(), link));
            }
            return Some(outcome);
        }
        _ => Err(Errno::INVAL),
    };
    let (link, ways) = (inner.joined_link(), inner.ways());
    drop(inner);
    if result.is_ok() {
        if op == libc::EPOLL_CTL_ADD {
            set.gained_watch(link.as_ref());
            ways.iter().for_each(|link| set.joined(set.life(), link));
        }
        set.rouse();
    }
    Some(result)
}

/// The set can have no bell, so nothing of ours can be watched in it. What is the kernel's so far is left to it.
fn without_bell(
    set: &'static EpollSet,
    socket: &'static Socket,
    mut inner: MutexGuard<'static, Inner>,
) -> Option<Result<(), Errno>> {
    if !matches!(inner.role, Role::Fresh) {
        return Some(Err(Errno::NOMEM));
    }
    stats::add(stats::global().fallback(Reason::ResourceLimit), 1);
    let sets = socket.be_plain(&mut inner);
    drop(inner);
    Farewell {
        sets,
        ..Farewell::default()
    }
    .say();
    set.kernel_too();
    None
}

pub(super) fn kernel_control(
    epfd: RawFd,
    op: i32,
    fd: RawFd,
    event: &epoll_event,
) -> Result<(), Errno> {
    let mut event = *event;
    // SAFETY: a valid event.
    match unsafe { orig::epoll_ctl(epfd, op, fd, &mut event) } {
        0 => Ok(()),
        _ => Err(sys::last_error()),
    }
}

const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;

/// What may be asked for together with EPOLLEXCLUSIVE.
const WITH_EXCLUSIVE: u32 = EXCLUSIVE
    | (libc::EPOLLIN
        | libc::EPOLLOUT
        | libc::EPOLLERR
        | libc::EPOLLHUP
        | libc::EPOLLWAKEUP
        | libc::EPOLLET) as u32;

fn find(set: &'static EpollSet, fd: RawFd, inner: &mut Inner) -> Option<usize> {
    inner.watches.retain(Watch::is_live);
    inner
        .watches
        .iter()
        .position(|w| core::ptr::eq(w.set, set) && w.fd == fd)
}

/// Queues the watch if its socket is ready now.
fn check(at: usize, socket: &'static Socket, inner: &mut Inner) {
    let mask = inner.poll_mask();
    if inner.watches[at].looks.is_some() && inner.watches[at].hears_of_room_once() {
        // The kernel tells of it too.
        inner.watches[at].known = mask & ROOM;
    }
    // The caller wakes the set's threads itself.
    inner.watches[at].signal(socket, mask, &mut Wakes::new(None));
}

fn add(
    set: &'static EpollSet,
    epfd: RawFd,
    fd: RawFd,
    event: &epoll_event,
    socket: &'static Socket,
    inner: &mut Inner,
) -> Result<(), Errno> {
    if event.events & EXCLUSIVE != 0 && event.events & !WITH_EXCLUSIVE != 0 {
        return Err(Errno::INVAL);
    }
    if find(set, fd, inner).is_some() {
        return Err(Errno::EXIST);
    }
    set.need_waiter(epfd)?;
    inner.claim_listener(socket);
    let mut watch = Watch::new(set, epfd, fd, event, !inner.is_virtual());
    if matches!(inner.role, Role::Leftover(_)) {
        watch.looks = Some(socket);
        set.looks_at(socket);
    }
    if watch.in_kernel {
        kernel_control(epfd, libc::EPOLL_CTL_ADD, fd, &watch.kernel_event())?;
        set.kernel_too();
    }
    inner.watches.push(watch);
    twin::show(socket, inner);
    inner.update_slot();
    check(inner.watches.len() - 1, socket, inner);
    Ok(())
}

fn modify(
    set: &'static EpollSet,
    epfd: RawFd,
    fd: RawFd,
    event: &epoll_event,
    socket: &'static Socket,
    inner: &mut Inner,
) -> Result<(), Errno> {
    if event.events & EXCLUSIVE != 0 {
        return Err(Errno::INVAL);
    }
    let at = find(set, fd, inner).ok_or(Errno::NOENT)?;
    let serial = inner.serial;
    let watch = &mut inner.watches[at];
    if watch.interest & EXCLUSIVE != 0 {
        return Err(Errno::INVAL);
    }
    watch.modify(event);
    if watch.in_kernel {
        kernel_control(epfd, libc::EPOLL_CTL_MOD, fd, &watch.kernel_event())?;
        twin::modify(watch, serial);
    }
    check(at, socket, inner);
    Ok(())
}

fn delete(
    set: &'static EpollSet,
    epfd: RawFd,
    fd: RawFd,
    socket: &'static Socket,
    inner: &mut Inner,
) -> Result<(), Errno> {
    let at = find(set, fd, inner).ok_or(Errno::NOENT)?;
    let mut watch = inner.watches.swap_remove(at);
    if watch.side.is_some() {
        twin::hide(&mut watch);
        // The set may have the listener by another number.
        twin::show(socket, inner);
    }
    look_no_more(&watch, &inner.watches);
    if watch.in_kernel {
        kernel_control(epfd, libc::EPOLL_CTL_DEL, fd, &watch.event())?;
    }
    inner.update_slot();
    Ok(())
}

/// `watch` is gone: its set needs to hear no more of its socket, unless another one of `others` is there for that.
pub fn look_no_more(watch: &Watch, others: &[Watch]) {
    if let Some(socket) = watch.looks
        && watch.is_live()
        && !others
            .iter()
            .any(|w| w.is_live() && core::ptr::eq(w.set, watch.set))
    {
        watch.set.looks_no_more(socket);
    }
}

/// The socket leaves the kernel's epoll: its readiness comes from us from now on.
pub fn leave_kernel(inner: &mut Inner) {
    inner.watches.retain(Watch::is_live);
    for watch in inner.watches.iter_mut().filter(|w| w.in_kernel) {
        watch.in_kernel = false;
        if fdtable::is(watch.epfd, Entry::Epoll(watch.set)) {
            let _ = kernel_control(watch.epfd, libc::EPOLL_CTL_DEL, watch.fd, &watch.event());
        }
    }
}

/// The kernel has a say in the socket's readiness from now on, beside us: its epolls watch it too, and tell the set to
/// look at it. What the application hears comes from us.
///
/// Those that hear of it by edges know that there is `room` to write, if so.
pub fn share_with_kernel(socket: &'static Socket, inner: &mut Inner, room: bool) {
    inner.watches.retain(Watch::is_live);
    let room = match room {
        true => inner.kernel_mask() & ROOM,
        false => 0,
    };
    for watch in inner.watches.iter_mut().filter(|w| !w.in_kernel) {
        watch.in_kernel = true;
        if watch.hears_of_room_once() {
            watch.known |= room;
        }
        watch.looks = Some(socket);
        watch.set.looks_at(socket);
        show_to_kernel(watch);
    }
}

fn show_to_kernel(watch: &Watch) {
    if fdtable::is(watch.epfd, Entry::Epoll(watch.set)) {
        watch.set.kernel_too();
        let event = watch.kernel_event();
        // The application is not there to be told that it cannot be had for want of memory, which may come back at once.
        for _ in 0..TRIES {
            match kernel_control(watch.epfd, libc::EPOLL_CTL_ADD, watch.fd, &event) {
                Err(Errno::NOMEM | Errno::NOSPC) => sys::nap(PAUSE_NS),
                _ => return,
            }
        }
        tracing::warn!(target: "netacc::poll", "the kernel has no memory, or no watch (fs.epoll.max_user_watches), for descriptor {} in epoll {}: its events are lost", watch.fd, watch.epfd);
    }
}

/// How often the kernel is asked to watch something, and the time between two tries in nanoseconds.
const TRIES: u32 = 100;
const PAUSE_NS: u64 = 1_000_000;

/// The socket is the kernel's from now on: moves its watches there. Returns the sets that lost one.
pub fn enter_kernel(inner: &mut Inner) -> Vec<(&'static EpollSet, u64)> {
    let mut left = Vec::new();
    for mut watch in inner.watches.drain(..).filter(Watch::is_live) {
        twin::hide(&mut watch);
        if let Some(socket) = watch.looks.take() {
            watch.set.looks_no_more(socket);
            watch.in_kernel = false;
            let _ = kernel_control(watch.epfd, libc::EPOLL_CTL_DEL, watch.fd, &watch.event());
        }
        if !watch.in_kernel {
            show_to_kernel(&watch);
        }
        left.push((watch.set, watch.life));
    }
    left
}
