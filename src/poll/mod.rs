//! Waiting: where threads sleep, how long they spin first, and epoll, poll and select over a mix of
//! accelerated and kernel descriptors.

pub mod epoll;
pub mod interest;
pub mod kernel;
pub mod nested;
pub mod ready;
pub mod select;
pub mod sleepers;
pub mod spin;
pub mod twin;
pub mod waiter;
