//! A child that shares its parent's memory (vfork, as Python's subprocess does) and is about to run a program. The tables
//! are its parent's, its descriptors are not: nothing is put into any table here, and nothing of the parent's is
//! changed, but that the parent is asked, as by any other process, for what the program gets.

use parking_lot::Mutex;
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::io::FdFlags;

use super::legacy::{Item, Legacy, What};
use super::program::{Program, survives};
use crate::fdtable::{self, Entry};
use crate::fork;
use crate::real::sys::Errno;
use crate::runtime;
use crate::socket::leaving::{self, broken, cookie, ends_soon, replace, whole};
use crate::socket::orphan::Orphan;
use crate::socket::{Role, Socket};

/// What numbers stand for in such children where that is not what they stand for in the parent.
static NUMBERS: Mutex<Vec<(u32, RawFd, Option<&'static Socket>)>> = Mutex::new(Vec::new());
/// Children that never ran a program leave theirs behind.
const MOST: usize = 256;

fn socket_at(fd: RawFd) -> Option<&'static Socket> {
    let me = fork::pid();
    let numbers = NUMBERS.lock();
    match numbers.iter().rfind(|(pid, at, _)| (*pid, *at) == (me, fd)) {
        Some((_, _, socket)) => *socket,
        None => match fdtable::get(fd) {
            Some(Entry::Socket(socket)) => Some(socket),
            _ => None,
        },
    }
}

/// `to` stands for what `from` does.
pub fn duplicated(from: RawFd, to: RawFd) {
    let socket = socket_at(from);
    if socket.is_none() && socket_at(to).is_none() {
        return;
    }
    let mut numbers = NUMBERS.lock();
    if numbers.len() == MOST {
        numbers.remove(0);
    }
    numbers.push((fork::pid(), to, socket));
}

/// A forked child may have copied them while they were locked.
pub fn reset_after_fork() {
    // SAFETY: fork leaves the child with this thread only.
    unsafe { crate::sync::empty(&NUMBERS) };
}

/// What the parent has under this number, as a process sees it that is not the parent.
fn seen(socket: &'static Socket, fd: RawFd) -> Option<Item> {
    let inner = socket.lock();
    let what = match (&inner.role, runtime::started()) {
        (Role::Orphan(orphaned), _) => What::Orphan(orphaned.orphan),
        (Role::Connected(_) | Role::Leftover(_), Some(runtime)) => {
            What::Orphan(Orphan::of(&runtime.identity, inner.serial, -1))
        }
        (Role::Leftover(left), None) => What::Leftover(left.copy().take_all()),
        (Role::Listening(_), _) => What::Listener(None),
        _ => return None,
    };
    Some(Item {
        fd,
        cookie: cookie(fd)?,
        domain: inner.domain,
        nonblocking: inner.nonblocking,
        foreign: inner.is_foreign(),
        timeouts: [inner.receive_timeout, inner.send_timeout],
        addresses: [inner.local, inner.remote],
        what,
    })
}

/// Before `program` replaces the child.
///
/// # Safety
/// As for [`Departure::replacing`](super::Departure::replacing).
pub unsafe fn depart(program: &Program<'_>, environment: *const *const libc::c_char) {
    let mut numbers = Vec::new();
    fdtable::for_each(0, fdtable::CAPACITY - 1, |fd, _| numbers.push(fd));
    let me = fork::pid();
    numbers.extend(NUMBERS.lock().iter().filter(|n| n.0 == me).map(|n| n.1));
    numbers.sort_unstable();
    numbers.dedup();
    numbers.retain(|&fd| survives(fd));
    let sockets: Vec<_> = numbers
        .into_iter()
        .filter_map(|fd| Some((fd, socket_at(fd)?)))
        .collect();
    let unclaimed = sockets
        .iter()
        .filter_map(|&(fd, socket)| Some((fd, unclaimed(socket)?)));
    let unclaimed: Vec<(RawFd, Orphan)> = unclaimed.collect();
    let by = leaving::deadline();
    let mut items: Vec<Item> = sockets
        .iter()
        .filter_map(|&(fd, socket)| seen(socket, fd))
        .collect();
    if items.is_empty() {
        return;
    }
    let held = announce(&items, &unclaimed, by);
    // Side ports would lead to the parent, where nobody may ever accept.
    for (_, claimed) in claim_all(&unclaimed, by) {
        let _ = claimed;
    }
    if !unclaimed.is_empty() {
        items = sockets
            .iter()
            .filter_map(|&(fd, socket)| seen(socket, fd))
            .collect();
    }
    claim_afloat(&mut items, by);
    // SAFETY: by the contract.
    if unsafe { program.is_preloaded(environment) } && leave(&items, &held) {
        held.into_iter().for_each(core::mem::forget);
        return;
    }
    let mut orphans = Vec::new();
    for item in &items {
        match &item.what {
            What::Orphan(orphan) => orphans.push((item.fd, *orphan)),
            // The parent is a forked child itself, and has been told.
            What::Leftover(unread) if !unread.is_empty() => {
                if let Ok(made) = last_of(item.fd, unread, by) {
                    replace(item.fd, &made);
                }
            }
            // A listener's description is the parent's, too, which must not be made to wait in the kernel.
            What::Listener(_) | What::Leftover(_) => {}
        }
    }
    for (fd, claimed) in claim_all(&orphans, by) {
        let made = match claimed {
            Ok(unread) if unread.is_empty() => continue,
            Ok(unread) => last_of(fd, &unread, by),
            Err(error) => {
                tracing::warn!(target: "netacc::conn", "a program does not get its connection: {error}");
                match error {
                    // Its parent is gone: what the kernel has is all there is.
                    Errno::CONNREFUSED => continue,
                    _ => broken(),
                }
            }
        };
        if let Ok(made) = made {
            replace(fd, &made);
        }
    }
}

/// A connection that gives these bytes, which come before what the kernel has for `fd`. If more may come behind them, one
/// that is broken off.
fn last_of(fd: RawFd, unread: &[u8], by: u64) -> Result<OwnedFd, Errno> {
    match ends_soon(fd, by) {
        true => whole(unread),
        false => broken(),
    }
}

/// What the child has of connections that were opened fast stands for nothing: it gets what is in the kernel, which the
/// parent has made.
fn claim_afloat(items: &mut Vec<Item>, by: u64) {
    let is_afloat = |fd| socket_at(fd).is_some_and(Socket::is_afloat);
    let orphans: Vec<(RawFd, Orphan)> = items
        .iter()
        .filter_map(|item| match &item.what {
            What::Orphan(orphan) if is_afloat(item.fd) => Some((item.fd, *orphan)),
            _ => None,
        })
        .collect();
    for (fd, claimed) in claim_all(&orphans, by) {
        if claimed.is_err()
            && let Ok(broken) = broken()
        {
            replace(fd, &broken);
        }
        let unread = claimed.unwrap_or_default();
        for item in items.iter_mut().filter(|item| item.fd == fd) {
            item.cookie = cookie(fd).unwrap_or(item.cookie);
            item.what = What::Leftover(unread.clone());
        }
    }
    items.retain(|item| !matches!(&item.what, What::Leftover(unread) if unread.is_empty()));
}

/// Claims all of these, and then waits for the answers, until `by`.
fn claim_all(
    orphans: &[(RawFd, Orphan)],
    by: u64,
) -> impl Iterator<Item = (RawFd, Result<Vec<u8>, Errno>)> {
    let claims: Vec<_> = orphans
        .iter()
        .map(|(fd, orphan)| orphan.claim(*fd))
        .collect();
    let all = orphans.iter().zip(claims);
    all.map(move |((fd, orphan), claim)| (*fd, orphan.obtain(*fd, claim, by)))
}

/// A listener of the parent's that it has not asked for a connection.
fn unclaimed(socket: &'static Socket) -> Option<Orphan> {
    let inner = socket.lock();
    match (&inner.role, runtime::started()) {
        (Role::Listening(listening), Some(runtime)) if listening.is_for_others() => {
            Some(Orphan::of(&runtime.identity, inner.serial, -1))
        }
        _ => None,
    }
}

/// Tells the processes that have the connections that there is one more to count with.
fn announce(items: &[Item], listeners: &[(RawFd, Orphan)], by: u64) -> Vec<OwnedFd> {
    let connections = items.iter().filter_map(|item| match &item.what {
        What::Orphan(orphan) => Some((item.fd, orphan)),
        _ => None,
    });
    let listeners = listeners.iter().map(|(fd, orphan)| (*fd, orphan));
    let mut told: Vec<[u8; 32]> = Vec::new();
    let mut held = Vec::new();
    for (fd, orphan) in connections.chain(listeners) {
        // One that is gone, or has done with this connection, need not count.
        if !told.contains(&orphan.rendezvous)
            && let Ok(fd) = orphan.inherit(fd, by)
        {
            told.push(orphan.rendezvous);
            held.push(fd);
        }
    }
    held
}

/// Leaves `items` to a program with this library, which is to hold `held`.
fn leave(items: &[Item], held: &[OwnedFd]) -> bool {
    if items.is_empty() {
        return true;
    }
    let numbers: Vec<RawFd> = held.iter().map(|fd| fd.as_raw_fd()).collect();
    let Ok(legacy) = Legacy::write(items, &numbers) else {
        return false;
    };
    // The program's; if it cannot be run, this child ends.
    core::mem::forget(legacy);
    for fd in held {
        let _ = rustix::io::fcntl_setfd(fd, FdFlags::empty());
    }
    true
}
