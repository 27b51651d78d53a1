//! What is known of destinations: linked, not NetACC (for a while), or being asked right now.

use std::collections::HashMap;
use std::sync::Arc;

use crate::link::Link;
use crate::real::sys::now_ns;
use crate::socket::addr::Address;
use crate::stats::Reason;

/// A destination: address in IPv6 form, port, whether it is IPv6 proper, scope.
pub type Key = ([u8; 16], u16, bool, u32);

/// The key of an address.
pub fn key(address: &Address) -> Key {
    let (ip, port, v6) = address.canonical();
    (ip, port, v6, address.scope())
}

/// The first time that a destination is found not to be NetACC it is believed for this long only:
/// it may just be starting. Doubled each further time, up to NACC_PEER_TTL_S.
const FIRST_TTL_NS: u64 = 1_000_000_000;

enum Known {
    /// By these links; `enough`: a further one could not be made.
    Linked { links: Vec<Arc<Link>>, enough: bool },
    NotUs {
        until_ns: u64,
        ttl_ns: u64,
        reason: Reason,
    },
}

/// Answer of [`Cache::look`].
pub enum Look {
    /// Links to the process that listens there, and whether there will be no more of them: they are to carry
    /// what comes, however much they carry already.
    Linked(Vec<Arc<Link>>, bool),
    /// It was found not to be NetACC, for this reason.
    NotUs(Reason),
    /// Not known, or no longer.
    Unknown,
}

/// The memory of one process.
#[derive(Default)]
pub struct Cache {
    known: HashMap<Key, Known>,
}

impl Cache {
    /// What is known of `key`.
    pub fn look(&mut self, key: &Key) -> Look {
        match self.known.get_mut(key) {
            Some(Known::Linked { links, enough }) => {
                let before = links.len();
                links.retain(|l| !l.is_dead());
                *enough &= links.len() == before;
                if links.is_empty() {
                    Look::Unknown
                } else {
                    Look::Linked(links.clone(), *enough)
                }
            }
            Some(Known::NotUs {
                until_ns, reason, ..
            }) if now_ns() < *until_ns => Look::NotUs(*reason),
            _ => Look::Unknown,
        }
    }

    /// A link to `key` was made.
    pub fn linked(&mut self, key: Key, link: Arc<Link>) {
        match self.known.get_mut(&key) {
            Some(Known::Linked { links, .. }) => links.push(link),
            _ => {
                let links = vec![link];
                let enough = false;
                self.known.insert(key, Known::Linked { links, enough });
            }
        }
    }

    /// The process that listens at `key` does not know `link`: it is not the one that was linked.
    pub fn unlinked(&mut self, key: &Key, link: &Arc<Link>) {
        if let Some(Known::Linked { links, .. }) = self.known.get_mut(key) {
            links.retain(|l| !Arc::ptr_eq(l, link));
        }
    }

    /// Takes the links out that are over, for the caller to let go of.
    pub fn dead(&mut self) -> Vec<Arc<Link>> {
        let mut dead = Vec::new();
        for known in self.known.values_mut() {
            if let Known::Linked { links, .. } = known {
                dead.extend(links.extract_if(.., |l| l.is_dead()));
            }
        }
        self.known
            .retain(|_, known| !matches!(known, Known::Linked { links, .. } if links.is_empty()));
        dead
    }

    /// No link to `key` could be made; remembered for at most `max_ttl_ns`. If there are links to it already, these
    /// have to do.
    pub fn not_us(&mut self, key: Key, reason: Reason, max_ttl_ns: u64) {
        if let Some(Known::Linked { links, enough }) = self.known.get_mut(&key)
            && links.iter().any(|link| !link.is_dead())
        {
            *enough = true;
            return;
        }
        let ttl_ns = match self.known.get(&key) {
            Some(Known::NotUs { ttl_ns, .. }) => ttl_ns.saturating_mul(2),
            _ => FIRST_TTL_NS,
        }
        .min(max_ttl_ns);
        self.known.insert(
            key,
            Known::NotUs {
                until_ns: now_ns() + ttl_ns,
                ttl_ns,
                reason,
            },
        );
        self.bound();
    }

    /// Keeps the memory of a process that visits ever new destinations from growing.
    fn bound(&mut self) {
        const MOST: usize = 4096;
        if self.known.len() > MOST {
            let now = now_ns();
            self.known.retain(|_, known| match known {
                Known::Linked { links, .. } => links.iter().any(|l| !l.is_dead()),
                Known::NotUs { until_ns, .. } => *until_ns > now,
            });
            if self.known.len() > MOST {
                self.known
                    .retain(|_, known| matches!(known, Known::Linked { .. }));
            }
        }
    }
}
