//! Fallbacks are told once for each cause, not for each connection: the same reason with the same peer, or at the same
//! listener, is the same cause.

use core::hash::{Hash, Hasher};
use core::net::SocketAddr;
use std::hash::DefaultHasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::stats::Reason;

/// Causes that are remembered. When there are more, some are told again.
const CAUSES: usize = 1024;
/// Places that a cause may have.
const TRIES: usize = 8;

/// Of each cause that was told a number that stands for it; 0: none yet.
#[unsafe(link_section = ".bss.netacc_tables")]
static TOLD: [AtomicU64; CAUSES] = [const { AtomicU64::new(0) }; CAUSES];

/// What is left to kernel TCP.
#[derive(Clone, Copy)]
pub enum Left {
    /// Connections to this address.
    ConnectionsTo(SocketAddr),
    /// Connections from anybody to a listener at this address.
    ConnectionsAt(SocketAddr),
    /// A listener at this address.
    Listener(SocketAddr),
}

/// Tells that something is left to kernel TCP, unless this process has told so before.
pub fn fallback(reason: Reason, left: Left) {
    if !tracing::event_enabled!(target: "netacc::fallback", tracing::Level::INFO) {
        return;
    }
    let (kind, what, address) = match left {
        Left::ConnectionsTo(address) => (1, "connections to", address),
        Left::ConnectionsAt(address) => (2, "connections at", address),
        Left::Listener(address) => (3, "the listener at", address),
    };
    // A forked child has its parent's memory, but is a process of its own.
    let pid = rustix::process::getpid().as_raw_nonzero();
    let mut hasher = DefaultHasher::new();
    (kind, reason, address, pid).hash(&mut hasher);
    if is_new(&TOLD, hasher.finish().max(1)) {
        tracing::info!(
            target: "netacc::fallback",
            reason = %reason.name(),
            "kernel TCP for {what} {address}: {}",
            reason.sentence()
        );
    }
}

/// Whether `cause` is not in the table yet; it is from then on. Without a lock, so that nobody hangs on it after a fork.
fn is_new(table: &[AtomicU64], cause: u64) -> bool {
    let place = |number: usize| &table[(cause as usize).wrapping_add(number) % table.len()];
    for number in 0..TRIES {
        match place(number).compare_exchange(0, cause, Relaxed, Relaxed) {
            Ok(_) => return true,
            Err(there) if there == cause => return false,
            Err(_) => {}
        }
    }
    // All places are taken by others: it takes the place of one.
    place(0).store(cause, Relaxed);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_new_once() {
        let table = [const { AtomicU64::new(0) }; 64];
        assert!((1..=TRIES as u64).all(|cause| is_new(&table, 64 * cause)));
        assert!((1..=TRIES as u64).all(|cause| !is_new(&table, 64 * cause)));
        // One too many for its places is told, and another one is forgotten for it.
        assert!(is_new(&table, 64 * 100));
        assert!(!is_new(&table, 64 * 100));
        assert!(is_new(&table, 64));
    }
}
