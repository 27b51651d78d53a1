//! What is known of destinations: linked, not NetACC (for a while), or being asked right now.

use std::collections::HashMap;
use std::sync::Arc;

use super::wire::Name;
use super::worth::{Life, Worth};
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

/// Links to one destination, at most: a server may have any number of processes, one after the other.
const MOST_LINKS: usize = 256;
/// Processes of one destination to which no link could be made, at most.
const MOST_REFUSALS: usize = 64;

enum Known {
    /// By these links; until `enough_ns` they are to do, for a further one could not be made.
    Linked {
        links: Vec<Arc<Link>>,
        enough_ns: u64,
        ttl_ns: u64,
        refusals: Vec<Refusal>,
        accepting: Accepting,
        worth: Worth,
    },
    NotUs {
        until_ns: u64,
        ttl_ns: u64,
        reason: Reason,
    },
}

/// One of the processes that listen at a destination cannot be linked, for now.
struct Refusal {
    process: Name,
    until_ns: u64,
    ttl_ns: u64,
    reason: Reason,
}

/// Openings in a row that nobody answered before that counts: one may have met a busy moment.
const MOST_UNANSWERED: u32 = 2;

/// Whether anybody accepts at a destination to which there are links.
#[derive(Clone, Copy, Default)]
struct Accepting {
    /// Several processes share it: a connection waits there until one of them accepts it.
    shared: bool,
    /// Openings that nobody has answered since the last one that somebody has.
    unanswered: u32,
    /// Until then connects go to the kernel's port.
    absent_until_ns: u64,
    ttl_ns: u64,
}

impl Accepting {
    /// An opening was answered, by one of several processes if they are known to be `shared`.
    fn answered(&mut self, shared: bool) {
        *self = Accepting {
            shared: shared || self.shared,
            ..Accepting::default()
        };
    }

    /// An opening was not answered, at `now`.
    fn unanswered(&mut self, now: u64, max_ttl_ns: u64) {
        // Of those that were begun together each would count.
        if self.is_absent(now) {
            return;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered >= MOST_UNANSWERED {
            self.ttl_ns = longer(self.ttl_ns, max_ttl_ns);
            self.absent_until_ns = now + self.ttl_ns;
        }
    }

    fn is_absent(&self, now: u64) -> bool {
        now < self.absent_until_ns
    }
}

/// Answer of [`Cache::look`].
pub enum Look {
    /// There are links to the processes that listen there.
    Linked {
        /// They.
        links: Vec<Arc<Link>>,
        /// There will be no more of them: they are to carry what comes, however much they carry already.
        enough: bool,
        /// Several processes share it, and answer when they accept.
        shared: bool,
    },
    /// It was found not to be NetACC, or nobody there answers, for this reason.
    NotUs(Reason),
    /// Not known, or no longer.
    Unknown,
}

/// How long the next finding of the same kind is believed.
fn longer(ttl_ns: u64, max_ttl_ns: u64) -> u64 {
    ttl_ns
        .saturating_mul(2)
        .clamp(FIRST_TTL_NS.min(max_ttl_ns), max_ttl_ns)
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
            Some(Known::Linked {
                links,
                enough_ns,
                accepting,
                worth,
                ..
            }) => {
                let before = links.len();
                links.retain(|l| !l.is_dead());
                if links.len() != before {
                    *enough_ns = 0;
                }
                let now = now_ns();
                if links.is_empty() {
                    Look::Unknown
                } else if accepting.is_absent(now) {
                    Look::NotUs(Reason::NotNetacc)
                } else if worth.is_little(now) {
                    Look::NotUs(Reason::ShortLived)
                } else {
                    Look::Linked {
                        links: links.clone(),
                        enough: now < *enough_ns,
                        shared: accepting.shared,
                    }
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
        let (mut links, mut refusals, accepting, worth) = match self.known.remove(&key) {
            Some(Known::Linked {
                links,
                refusals,
                accepting,
                worth,
                ..
            }) => (links, refusals, accepting, worth),
            _ => Default::default(),
        };
        refusals.retain(|refusal| refusal.process != *link.acceptor());
        links.push(link);
        let known = Known::Linked {
            links,
            enough_ns: 0,
            ttl_ns: 0,
            refusals,
            accepting,
            worth,
        };
        self.known.insert(key, known);
    }

    fn accepting(&mut self, key: &Key) -> Option<&mut Accepting> {
        match self.known.get_mut(key) {
            Some(Known::Linked { accepting, .. }) => Some(accepting),
            _ => None,
        }
    }

    /// Somebody at `key` has answered an opening; one of several processes, if they are known to be `shared`.
    pub fn answered(&mut self, key: &Key, shared: bool) {
        if let Some(accepting) = self.accepting(key) {
            accepting.answered(shared);
        }
    }

    /// Nobody at `key` has answered an opening. If that goes on, it is not asked for a while, of at most `max_ttl_ns`.
    pub fn unanswered(&mut self, key: &Key, max_ttl_ns: u64) {
        if let Some(accepting) = self.accepting(key) {
            accepting.unanswered(now_ns(), max_ttl_ns);
        }
    }

    /// A connection to `key` has ended, which was like this. After `limit` short ones in a row further ones go over TCP for a
    /// while.
    pub fn ended(&mut self, key: &Key, life: Life, limit: u32) {
        if let Some(Known::Linked { worth, .. }) = self.known.get_mut(key) {
            worth.ended(life, limit, now_ns());
        }
    }

    /// The links to `process`, which is one of those that listen at `key`; and why there will be no more of them for now.
    pub fn links_to(&self, key: &Key, process: &Name) -> (Vec<Arc<Link>>, Option<Reason>) {
        let Some(Known::Linked {
            links, refusals, ..
        }) = self.known.get(key)
        else {
            return (Vec::new(), None);
        };
        let now = now_ns();
        let refused = |r: &&Refusal| r.process == *process && now < r.until_ns;
        let reason = match links.len() >= MOST_LINKS {
            true => Some(Reason::LinkLimit),
            false => refusals.iter().find(refused).map(|r| r.reason),
        };
        let its = |link: &&Arc<Link>| link.acceptor() == process && !link.is_dead();
        (links.iter().filter(its).cloned().collect(), reason)
    }

    /// `link` is the one by which `key` was reached last: the next to be tried.
    pub fn prefer(&mut self, key: &Key, link: &Arc<Link>) {
        if let Some(Known::Linked { links, .. }) = self.known.get_mut(key)
            && let Some(at) = links.iter().position(|l| Arc::ptr_eq(l, link))
        {
            links[..=at].rotate_right(1);
        }
    }

    /// No link to `process`, one of those that listen at `key`, could be made; remembered for at most `max_ttl_ns`.
    pub fn not_it(&mut self, key: &Key, process: &Name, reason: Reason, max_ttl_ns: u64) {
        let Some(Known::Linked { refusals, .. }) = self.known.get_mut(key) else {
            return;
        };
        let former = refusals.iter().position(|r| r.process == *process);
        let former = former.map(|at| refusals.remove(at));
        if refusals.len() >= MOST_REFUSALS {
            refusals.remove(0);
        }
        let ttl_ns = longer(former.map_or(0, |r| r.ttl_ns), max_ttl_ns);
        refusals.push(Refusal {
            process: *process,
            until_ns: now_ns() + ttl_ns,
            ttl_ns,
            reason,
        });
    }

    /// The process that listens at `key` does not know `link`: it is not the one that was linked.
    pub fn unlinked(&mut self, key: &Key, link: &Arc<Link>) {
        if let Some(Known::Linked {
            links,
            enough_ns,
            ttl_ns,
            ..
        }) = self.known.get_mut(key)
        {
            links.retain(|l| !Arc::ptr_eq(l, link));
            // Another process may have room.
            (*enough_ns, *ttl_ns) = (0, 0);
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
    /// have to do for that time.
    pub fn not_us(&mut self, key: Key, reason: Reason, max_ttl_ns: u64) {
        let next = |ttl_ns: u64| longer(ttl_ns, max_ttl_ns);
        if let Some(Known::Linked {
            links,
            enough_ns,
            ttl_ns,
            ..
        }) = self.known.get_mut(&key)
            && links.iter().any(|link| !link.is_dead())
        {
            *ttl_ns = next(*ttl_ns);
            *enough_ns = now_ns() + *ttl_ns;
            return;
        }
        let ttl_ns = match self.known.get(&key) {
            Some(Known::NotUs { ttl_ns, .. }) => next(*ttl_ns),
            _ => next(0),
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn nobody_is_asked_for_longer_and_longer_where_nobody_answers() {
        let mut there = Accepting::default();
        there.unanswered(0, 3 * SECOND);
        assert!(!there.is_absent(0), "it may have been a busy moment");
        there.unanswered(10, 3 * SECOND);
        assert!(there.is_absent(10 + SECOND - 1));
        // Begun before that was known.
        there.unanswered(20, 3 * SECOND);
        assert!(!there.is_absent(10 + SECOND));
        for (at, lasts) in [(10, 2), (20, 3), (30, 3)] {
            there.unanswered(at * SECOND, 3 * SECOND);
            assert!(there.is_absent((at + lasts) * SECOND - 1));
            assert!(!there.is_absent((at + lasts) * SECOND));
        }
    }

    #[test]
    fn an_answer_clears_what_is_remembered_but_how_many_there_are() {
        let mut there = Accepting::default();
        there.unanswered(0, SECOND);
        there.answered(true);
        there.unanswered(0, SECOND);
        assert!(!there.is_absent(0));
        there.unanswered(0, SECOND);
        assert!(there.is_absent(0));
        there.answered(false);
        assert!(there.shared && !there.is_absent(0));
    }
}
