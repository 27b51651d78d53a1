//! NetACC's core: everything but the exported libc symbols, which are in `src/preload`.
//!
//! Tests, benches and tools link this library without interposing themselves.

pub mod config;
pub mod log;
pub mod stats;
