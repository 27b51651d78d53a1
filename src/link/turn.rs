//! Work that whoever comes by does, one thread at a time, without waiting for each other.

use crate::sync::{Ordering, fence};

/// Does `work` under the lock that `try_lock` gives, until there is no `more`; gives up when another
/// thread has the lock, or when `work` returns false.
///
/// Whoever finds the lock taken may go to sleep if it has armed first: its holder looks once more
/// after it let go, so either the holder finds what came meanwhile, or whoever sent it finds the
/// sleeper armed.
#[inline]
pub fn take_turns<G>(
    try_lock: impl Fn() -> Option<G>,
    mut work: impl FnMut(G) -> bool,
    more: impl Fn() -> bool,
) {
    while let Some(guard) = try_lock() {
        if !work(guard) {
            break;
        }
        fence(Ordering::SeqCst);
        if !more() {
            break;
        }
    }
}
