//! Whom a waiting thread asks for news: a link that shares memory with its peer is asked itself, all links
//! to other hosts are asked for at once.

use std::sync::Arc;

use super::{Link, order};
use crate::fabric::{SLOT_IO, network};
use crate::poll::waiter::Waiter;

/// See the module.
#[derive(Clone)]
pub enum Source {
    /// A link in memory.
    Link(Arc<Link>),
    /// The links to other hosts.
    Network,
}

impl Source {
    /// The link that has to be asked itself.
    pub fn link(&self) -> Option<&Arc<Link>> {
        match self {
            Source::Link(link) => Some(link),
            Source::Network => None,
        }
    }

    /// Whether both are the same.
    pub fn is(&self, other: &Source) -> bool {
        match (self, other) {
            (Source::Link(a), Source::Link(b)) => Arc::ptr_eq(a, b),
            (Source::Network, Source::Network) => true,
            _ => false,
        }
    }

    /// Whether there is something that nobody has taken in.
    #[inline]
    pub fn pending(&self) -> bool {
        match self {
            Source::Link(link) => link.pending(),
            Source::Network => network::pending(),
        }
    }

    /// Takes in what there is. See [`Link::poll`].
    #[inline]
    pub fn poll(&self, me: Option<&'static Waiter>) -> bool {
        match self {
            Source::Link(link) => link.poll(me),
            Source::Network => network::poll(me),
        }
    }

    /// The waiter of `slot` is about to sleep: it looks once more afterwards.
    pub fn arm(&self, slot: u8) {
        match self {
            Source::Link(link) => link.fabric().arm(slot),
            Source::Network => network::arm(),
        }
    }

    /// The waiter of `slot` is awake. (The I/O thread's slot stays armed for the I/O thread.)
    pub fn disarm(&self, slot: u8) {
        match self {
            Source::Link(_) if slot == SLOT_IO => {}
            Source::Link(link) => link.fabric().disarm(slot),
            Source::Network => network::woken(),
        }
    }
}

/// Takes in what `sources` have, in the order in which it was sent. `me` is the caller's own waiter, which
/// needs no waking. Returns whether there was anything.
#[inline]
pub fn poll_all<'a, I>(sources: I, me: Option<&'static Waiter>) -> bool
where
    I: Iterator<Item = &'a Source> + Clone,
{
    let network = sources.clone().any(|s| matches!(s, Source::Network)) && network::poll(me);
    order::poll_all(sources.filter_map(Source::link), me) | network
}
