//! How many may knock at once. Whoever reaches a side port, a door or the rendezvous costs this process a descriptor and a
//! little memory before it has said anything: a small part of what the application has, however many come, and nobody who
//! waits for an answer is kept out by those who say nothing.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::HashMap;
use std::net::IpAddr;

use rustix::event::epoll;
use rustix::process::{Resource, getrlimit};

use super::io_thread::{Control, Source};
use crate::socket::addr::Address;
use crate::stats;

/// Callers that have a place at the same time, at most.
const MOST: usize = 256;
/// The part of the process's descriptors that they may have, and how many they may have in any case.
const PART: usize = 16;
const LEAST: usize = 8;

/// Who has not said what it is, or has its answer and is about to go.
static KNOCKING: AtomicUsize = AtomicUsize::new(0);
/// Who waits until its listener has room.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// A place among those who knock.
pub struct Place(&'static AtomicUsize);

/// So many places there are.
fn room() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let part = limit.map_or(MOST, |limit| (limit / PART as u64) as usize);
    part.clamp(LEAST, MOST)
}

impl Place {
    fn take(of: &'static AtomicUsize) -> Option<Place> {
        let room = room();
        of.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |taken| {
            (taken < room).then_some(taken + 1)
        })
        .ok()
        .map(|_| Place(of))
    }

    /// For one who knocks, if there is any.
    pub fn to_knock() -> Option<Place> {
        Place::take(&KNOCKING)
    }

    /// For one who waits for room, if there is any.
    pub fn to_wait() -> Option<Place> {
        Place::take(&HELD)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Nobody knocks at a forked child yet: what its parent has is not its own.
pub fn reset_after_fork() {
    KNOCKING.store(0, Ordering::Relaxed);
    HELD.store(0, Ordering::Relaxed);
}

/// Somebody was let go of unheard.
pub fn turned_away() {
    stats::add(&stats::global().turned_away, 1);
}

/// Where those who knock come from, as far as they are to share: an IPv4 address, an IPv6 network, or a user of this host.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The address, without its lower half if it is one of IPv6.
    Host(u128),
    /// By the rendezvous.
    User(u32),
}

impl Origin {
    /// Of who comes from `remote`.
    pub fn of(remote: &Address) -> Origin {
        Origin::Host(match remote.to_std().ip().to_canonical() {
            IpAddr::V4(ip) => u32::from(ip).into(),
            IpAddr::V6(ip) => u128::from(ip) >> 64 << 64,
        })
    }
}

impl Control {
    /// A place for one who knocks. If all are taken, the oldest caller goes of the origin that has most of them: a peer says
    /// what it wants as soon as it is connected, and does not wait here.
    pub fn make_place(&mut self) -> Option<Place> {
        if let Some(place) = Place::to_knock() {
            return Some(place);
        }
        let knocks = |(key, source): (&u64, &Source)| Some((*key, source.knocks_from()?));
        let knocking: Vec<(u64, Origin)> = self.sources.iter().filter_map(knocks).collect();
        let mut counts: HashMap<Origin, usize> = HashMap::new();
        for (_, origin) in &knocking {
            *counts.entry(*origin).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count)?.0;
        let from_there = knocking.iter().filter(|(_, origin)| *origin == most);
        let oldest = from_there.map(|(key, _)| *key).min()?;
        let source = self.sources.remove(&oldest)?;
        source.with_fd(|fd, _| {
            let _ = epoll::delete(&self.epoll, fd);
        });
        turned_away();
        drop(source);
        Place::to_knock()
    }
}
