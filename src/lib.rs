//! NetACC's core: everything but the exported libc symbols, which are in `src/preload`.
//!
//! Tests, benches and tools link this library without interposing themselves. `docs/architecture.md`
//! tells how the modules fit together.

pub mod config;
pub mod conn;
pub mod contain;
pub mod control;
pub mod exec;
pub mod exit;
pub mod fabric;
pub mod fdtable;
pub mod fork;
pub mod hooks;
pub mod link;
pub mod log;
pub mod mapping;
pub mod memory;
pub mod poll;
pub mod real;
pub mod runtime;
pub mod slab;
pub mod socket;
pub mod stats;
pub mod sync;
pub mod verbs;

/// Whose the note in the preload library's file is that tells its version.
pub const VERSION_NOTE: &[u8; 7] = b"NetACC\0";
