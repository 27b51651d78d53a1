//! Waiting: where threads sleep, how long they spin first, and epoll, poll and select over a mix of
//! accelerated and kernel descriptors.

pub mod epoll;
pub mod select;
pub mod spin;
pub mod ready;
pub mod waiter;
