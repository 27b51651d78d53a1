//! epoll, poll and select in all their forms.

use libc::{c_int, epoll_event, fd_set, nfds_t, pollfd, sigset_t, size_t, timespec, timeval};

use super::{fail, give};
use crate::fdtable::{self, Entry};
use crate::poll::epoll::EpollSet;
use crate::poll::interest;
use crate::poll::select::{self, Sets};
use crate::real::orig;
use crate::real::sys::{Errno, now_ns};
use crate::socket::{foreign, lifecycle};
use crate::{fork, verbs};

fn created(epfd: c_int) -> c_int {
    if epfd >= 0 && fdtable::fits(epfd) && !fork::is_stranger() {
        fork::claim();
        lifecycle::install(epfd, Entry::Epoll(EpollSet::take()));
    }
    epfd
}

pub unsafe fn epoll_create(size: c_int) -> c_int {
    // SAFETY: no pointers.
    created(unsafe { orig::epoll_create(size) })
}

pub unsafe fn epoll_create1(flags: c_int) -> c_int {
    // SAFETY: no pointers.
    created(unsafe { orig::epoll_create1(flags) })
}

/// The set that `epfd` is; `None`: the kernel's affair.
///
/// # Errors
/// `EBADF` if the application may not know of it.
fn set_of(epfd: c_int) -> Result<Option<&'static EpollSet>, Errno> {
    match fdtable::get(epfd) {
        Some(Entry::Epoll(set)) => Ok(Some(set)),
        Some(Entry::Internal) if !verbs::is_inside() => Err(Errno::BADF),
        _ => Ok(None),
    }
}

pub unsafe fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    match set_of(epfd) {
        Err(error) => return fail::<c_int>(error),
        Ok(None) => {}
        Ok(Some(set)) => {
            if matches!(fdtable::get(fd), Some(Entry::Internal)) && !verbs::is_inside() {
                return fail::<c_int>(Errno::BADF);
            }
            if op == libc::EPOLL_CTL_ADD {
                foreign::meet(fd);
            }
            // SAFETY: null or valid, by the caller's contract.
            let event = unsafe { event.as_ref() };
            if let Some(result) = interest::control(set, epfd, op, fd, event) {
                return give(result.map(|()| 0));
            }
        }
    }
    // SAFETY: the caller's contract is that of the original.
    unsafe { orig::epoll_ctl(epfd, op, fd, event) }
}

/// Waits on a set of ours. `None`: the kernel's affair.
unsafe fn wait(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: Option<u64>,
    mask: *const sigset_t,
) -> Option<c_int> {
    let set = match set_of(epfd) {
        Ok(set) => set?,
        Err(error) => return Some(fail::<c_int>(error)),
    };
    if max <= 0 || events.is_null() {
        return None;
    }
    // SAFETY: `max` events by the caller's contract.
    let events = unsafe { core::slice::from_raw_parts_mut(events, max as usize) };
    // SAFETY: the mask by the caller's contract.
    Some(give(
        unsafe { set.wait(epfd, events, timeout, mask) }.map(|n| n as c_int),
    ))
}

/// A timeout in milliseconds; negative: for ever.
fn from_ms(timeout: c_int) -> Option<u64> {
    u64::try_from(timeout).ok().map(|ms| ms * 1_000_000)
}

/// A timespec; null: for ever. `Err`: one that the kernel refuses.
unsafe fn from_timespec(timeout: *const timespec) -> Result<Option<u64>, ()> {
    // SAFETY: null or valid, by the caller's contract.
    match unsafe { timeout.as_ref() } {
        None => Ok(None),
        Some(t) if t.tv_sec >= 0 && (0..1_000_000_000).contains(&t.tv_nsec) => Ok(Some(
            (t.tv_sec as u64)
                .saturating_mul(1_000_000_000)
                .saturating_add(t.tv_nsec as u64),
        )),
        Some(_) => Err(()),
    }
}

pub unsafe fn epoll_wait(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        wait(epfd, events, max, from_ms(timeout), core::ptr::null())
            .unwrap_or_else(|| orig::epoll_wait(epfd, events, max, timeout))
    }
}

pub unsafe fn epoll_pwait(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        wait(epfd, events, max, from_ms(timeout), mask)
            .unwrap_or_else(|| orig::epoll_pwait(epfd, events, max, timeout, mask))
    }
}

pub unsafe fn epoll_pwait2(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let served = match from_timespec(timeout) {
            Ok(timeout) => wait(epfd, events, max, timeout, mask),
            Err(()) => None,
        };
        served.unwrap_or_else(|| orig::epoll_pwait2(epfd, events, max, timeout, mask))
    }
}

/// Polls if any of `fds` is ours. `None`: the kernel's affair.
unsafe fn mixed(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: Option<u64>,
    mask: *const sigset_t,
) -> Option<Result<usize, Errno>> {
    if !fork::may_serve() {
        return None;
    }
    if count == 0 || fds.is_null() {
        return None;
    }
    // SAFETY: `count` entries by the caller's contract.
    let fds = unsafe { core::slice::from_raw_parts_mut(fds, count as usize) };
    // SAFETY: the mask by the caller's contract.
    select::concerns(fds).then(|| unsafe { select::poll(fds, timeout, mask, false) })
}

pub unsafe fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        match mixed(fds, count, from_ms(timeout), core::ptr::null()) {
            Some(result) => give(result.map(|n| n as c_int)),
            None => orig::poll(fds, count, timeout),
        }
    }
}

pub unsafe fn ppoll(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let served = match from_timespec(timeout) {
            Ok(timeout) => mixed(fds, count, timeout, mask),
            Err(()) => None,
        };
        match served {
            Some(result) => give(result.map(|n| n as c_int)),
            None => orig::ppoll(fds, count, timeout, mask),
        }
    }
}

pub unsafe fn __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, room: size_t) -> c_int {
    if !fork::may_serve() || room / size_of::<pollfd>() < count as usize {
        // SAFETY: as above; an overrun ends the program there.
        return unsafe { orig::__poll_chk(fds, count, timeout, room) };
    }
    // SAFETY: as above.
    unsafe { poll(fds, count, timeout) }
}

pub unsafe fn __ppoll_chk(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
    room: size_t,
) -> c_int {
    if !fork::may_serve() || room / size_of::<pollfd>() < count as usize {
        // SAFETY: as above.
        return unsafe { orig::__ppoll_chk(fds, count, timeout, mask, room) };
    }
    // SAFETY: as above.
    unsafe { ppoll(fds, count, timeout, mask) }
}

/// Selects if any descriptor is ours. `None`: the kernel's affair.
unsafe fn mixed_select(
    count: c_int,
    sets: &Sets,
    timeout: Option<u64>,
    mask: *const sigset_t,
) -> Option<Result<usize, Errno>> {
    if !fork::may_serve() {
        return None;
    }
    let count = usize::try_from(count).ok()?;
    // SAFETY: the caller's contract.
    unsafe {
        let mut fds = sets.to_poll(count);
        if !select::concerns(&fds) {
            return None;
        }
        Some(
            select::poll(&mut fds, timeout, mask, true)
                .and_then(|_| sets.set_from_poll(count, &fds)),
        )
    }
}

pub unsafe fn select(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let start = now_ns();
        let limit = match timeout.as_ref() {
            None => None,
            Some(t) if t.tv_sec >= 0 && t.tv_usec >= 0 => Some(
                (t.tv_sec as u64)
                    .saturating_mul(1_000_000_000)
                    .saturating_add(t.tv_usec as u64 * 1000),
            ),
            Some(_) => return orig::select(count, read, write, except, timeout),
        };
        let sets = Sets {
            read,
            write,
            except,
        };
        match mixed_select(count, &sets, limit, core::ptr::null()) {
            Some(result) => {
                if let (Some(limit), Some(t)) = (limit, timeout.as_mut()) {
                    // As Linux: what is left.
                    let left = limit.saturating_sub(now_ns() - start);
                    t.tv_sec = (left / 1_000_000_000) as libc::time_t;
                    t.tv_usec = (left % 1_000_000_000 / 1000) as libc::suseconds_t;
                }
                give(result.map(|n| n as c_int))
            }
            None => orig::select(count, read, write, except, timeout),
        }
    }
}

pub unsafe fn pselect(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let sets = Sets {
            read,
            write,
            except,
        };
        let served = match from_timespec(timeout) {
            Ok(limit) => mixed_select(count, &sets, limit, mask),
            Err(()) => None,
        };
        match served {
            Some(result) => give(result.map(|n| n as c_int)),
            None => orig::pselect(count, read, write, except, timeout, mask),
        }
    }
}
