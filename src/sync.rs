//! The atomics of the lock-free parts; loom's own under `--cfg loom`, so that the models in
//! `tests/loom.rs` check the very code that ships. And what a forked child does with its parent's locks.

use parking_lot::Mutex;

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

/// For a forked child: puts `value` into `of`, whoever had the lock in the parent. What was in it leaks.
///
/// # Safety
/// No other thread may run.
pub unsafe fn renew<T>(of: &Mutex<T>, value: T) {
    // SAFETY: by the contract nobody else is here.
    unsafe {
        of.data_ptr().write(value);
        unlock(of);
    }
}

/// For a forked child: the list is empty, whoever had the lock in the parent; what was in it leaks. Nothing is written
/// where it is empty already: a page that a child leaves alone stays shared with its parent.
///
/// # Safety
/// No other thread may run.
pub unsafe fn empty<T>(of: &Mutex<Vec<T>>) {
    // SAFETY: by the contract nobody else is here; only who has the lock leaves a list half changed.
    unsafe {
        if of.is_locked() || !(*of.data_ptr()).is_empty() {
            renew(of, Vec::new());
        }
    }
}

/// For a forked child: `of` is nobody's, whoever had it in the parent. What is in it stays as it is.
///
/// # Safety
/// No other thread may run.
pub unsafe fn unlock<T>(of: &Mutex<T>) {
    while of.is_locked() {
        // SAFETY: it is locked, by nobody who is here.
        unsafe { of.force_unlock() };
    }
}
