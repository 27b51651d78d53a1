//! The atomics of the lock-free parts; loom's own under `--cfg loom`, so that the models in
//! `tests/loom.rs` check the very code that ships.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
