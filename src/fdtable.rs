//! From a descriptor number to what the library knows of it.
//!
//! One flat array, all zero until used (the pages are never touched in a process without TCP): an
//! unknown descriptor costs one load. Entries are tagged pointers to objects that are never freed,
//! only reused (see [`crate::slab`]), so a look-up that races with `close` in another thread reads a
//! valid object and finds out under the object's lock that it is no longer this descriptor's.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use rustix::fd::RawFd;

use crate::poll::epoll::EpollSet;
use crate::socket::Socket;

/// Descriptors at or above this number are never accelerated.
pub const CAPACITY: usize = 1 << 20;

// (The large tables lie together, so that the small variables do, too: a fork's child writes to many of these, and each
// page of them costs a copy.)
#[unsafe(link_section = ".bss.netacc_tables")]
static ENTRIES: [AtomicUsize; CAPACITY] = [const { AtomicUsize::new(0) }; CAPACITY];

/// Numbers that share a bit of [`TOUCHED`].
const BLOCK: usize = 64;
/// A bit for each block of numbers of which one ever had an entry. A fork walks through them: the application's numbers are
/// low, the library's own high, and there are thousands between.
#[unsafe(link_section = ".bss.netacc_tables")]
static TOUCHED: [AtomicU64; CAPACITY / BLOCK / 64] =
    [const { AtomicU64::new(0) }; CAPACITY / BLOCK / 64];

fn touch(fd: RawFd) {
    let block = fd as usize / BLOCK;
    let (word, bit) = (&TOUCHED[block / 64], 1 << (block % 64));
    if word.load(Ordering::Relaxed) & bit == 0 {
        word.fetch_or(bit, Ordering::Relaxed);
    }
}

const TAG: usize = 0b111;
const SOCKET: usize = 0b001;
const EPOLL: usize = 0b010;
const INTERNAL: usize = 0b011;
const PLAIN: usize = 0b100;
const LOST: usize = 0b101;
/// One of the library's own, which a blocked accept has taken for the connection that it waits for.
const RESERVED: usize = 0b1000 | INTERNAL;

/// What a descriptor is to the library.
#[derive(Clone, Copy)]
pub enum Entry {
    /// A TCP socket whose calls we serve.
    Socket(&'static Socket),
    /// A TCP socket that is the kernel's; we only keep its record (reason, virtual addresses).
    Plain(&'static Socket),
    /// An epoll set.
    Epoll(&'static EpollSet),
    /// A connect of the parent's that was under way at the fork: out of the child's reach.
    Lost,
    /// One of the library's own.
    Internal,
}

#[inline]
fn slot(fd: RawFd) -> Option<&'static AtomicUsize> {
    ENTRIES.get(fd as usize)
}

/// Looks `fd` up; `None` means that the kernel alone knows it.
#[inline]
pub fn get(fd: RawFd) -> Option<Entry> {
    let value = slot(fd)?.load(Ordering::Acquire);
    if value == 0 {
        return None;
    }
    decode(value)
}

#[inline]
fn decode(value: usize) -> Option<Entry> {
    let address = value & !TAG;
    // SAFETY: entries are written by `encode` only, from references to objects that live for ever.
    unsafe {
        Some(match value & TAG {
            SOCKET => Entry::Socket(&*(address as *const Socket)),
            PLAIN => Entry::Plain(&*(address as *const Socket)),
            EPOLL => Entry::Epoll(&*(address as *const EpollSet)),
            LOST => Entry::Lost,
            INTERNAL => Entry::Internal,
            _ => return None,
        })
    }
}

fn encode(entry: Entry) -> usize {
    match entry {
        Entry::Socket(s) => s as *const Socket as usize | SOCKET,
        Entry::Plain(s) => s as *const Socket as usize | PLAIN,
        Entry::Epoll(e) => e as *const EpollSet as usize | EPOLL,
        Entry::Lost => LOST,
        Entry::Internal => INTERNAL,
    }
}

/// Whether `fd` can have an entry at all.
pub fn fits(fd: RawFd) -> bool {
    (fd as usize) < CAPACITY
}

/// Installs `entry` and returns what was there before.
pub fn set(fd: RawFd, entry: Entry) -> Option<Entry> {
    let slot = slot(fd)?;
    touch(fd);
    decode(slot.swap(encode(entry), Ordering::AcqRel))
}

/// Removes and returns the entry of `fd`.
pub fn take(fd: RawFd) -> Option<Entry> {
    let slot = slot(fd)?;
    if slot.load(Ordering::Acquire) == 0 {
        return None;
    }
    decode(slot.swap(0, Ordering::AcqRel))
}

/// Whether `fd` still means `entry`.
pub fn is(fd: RawFd, entry: Entry) -> bool {
    slot(fd).is_some_and(|s| s.load(Ordering::Acquire) == encode(entry))
}

/// Replaces `from` by `to` if it is still there.
pub fn replace(fd: RawFd, from: Entry, to: Entry) -> bool {
    slot(fd).is_some_and(|s| {
        s.compare_exchange(
            encode(from),
            encode(to),
            Ordering::AcqRel,
            Ordering::Acquire,
        )
        .is_ok()
    })
}

/// Marks `fd` as the library's own.
pub fn set_internal(fd: RawFd) {
    set(fd, Entry::Internal);
}

/// Forgets that `fd` is the library's own.
pub fn clear_internal(fd: RawFd) {
    clear(fd, INTERNAL);
}

/// Marks `fd` as taken by a blocked accept. Returns what was there before.
pub fn reserve(fd: RawFd) -> Option<Entry> {
    let slot = slot(fd)?;
    touch(fd);
    decode(slot.swap(RESERVED, Ordering::AcqRel))
}

/// Whether `fd` is taken by a blocked accept.
pub fn is_reserved(fd: RawFd) -> bool {
    slot(fd).is_some_and(|s| s.load(Ordering::Acquire) == RESERVED)
}

/// Forgets that `fd` is taken by a blocked accept.
pub fn clear_reserved(fd: RawFd) {
    clear(fd, RESERVED);
}

fn clear(fd: RawFd, from: usize) {
    if let Some(s) = slot(fd) {
        let _ = s.compare_exchange(from, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Calls `f` for every number in `first..=last` that has an entry, in rising order.
pub fn for_each(first: usize, last: usize, mut f: impl FnMut(RawFd, Entry)) {
    let last = last.min(CAPACITY - 1);
    let words = TOUCHED.iter().enumerate();
    for (word, blocks) in words.take(last / BLOCK / 64 + 1).skip(first / BLOCK / 64) {
        let mut blocks = blocks.load(Ordering::Relaxed);
        while blocks != 0 {
            let start = (word * 64 + blocks.trailing_zeros() as usize) * BLOCK;
            blocks &= blocks - 1;
            for fd in start.max(first)..=(start + BLOCK - 1).min(last) {
                if let Some(entry) = get(fd as RawFd) {
                    f(fd as RawFd, entry);
                }
            }
        }
    }
}
