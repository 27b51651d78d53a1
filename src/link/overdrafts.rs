//! Stream bytes that this process has taken from its application and found no ring space for yet.
//!
//! Whoever was told that a connection can be written to may write to it, as over the kernel, even if its
//! neighbours have filled the link's ring since: one record of it is kept until there is room. These bytes are in
//! no memory that the peer sees, so a process that ends waits for them.

use std::sync::atomic::{AtomicU64, Ordering};

static UNSETTLED: AtomicU64 = AtomicU64::new(0);

/// Another record.
pub(super) fn taken() {
    UNSETTLED.fetch_add(1, Ordering::AcqRel);
}

/// One of them is in its ring, or will never be.
pub(super) fn settled() {
    // A forked child lets go of links whose records were never its own.
    let fewer = |records: u64| records.checked_sub(1);
    let _ = UNSETTLED.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer);
}

/// Whether there are any.
pub fn any() -> bool {
    UNSETTLED.load(Ordering::Acquire) > 0
}

/// A forked child has none of them.
pub fn reset_after_fork() {
    UNSETTLED.store(0, Ordering::Release);
}
