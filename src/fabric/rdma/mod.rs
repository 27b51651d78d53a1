//! Queue pairs as carriers of links.
//!
//! A batch of ring bytes is one chain of work requests: RDMA writes into the peer's ring, the last with
//! immediate data that announces them, or followed by a small message that does where a device has no
//! immediate data. Whatever announces something uses up a receive of the peer: receives are credits, and
//! are never overdrawn, so that the device never has to wait for one.
//!
//! * [`engine`]: a completion queue, and the channels on it
//! * [`channel`]: a queue pair with its credits
//! * [`memory`]: rings of registered memory

pub mod channel;
pub mod engine;
pub mod memory;
