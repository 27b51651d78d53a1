//! How two processes find each other and agree on a link: side ports, hellos, the memory of who is
//! NetACC, and the I/O thread that drives it all.

mod affinity;
mod answering;
pub mod cache;
pub mod contact;
mod contained;
pub mod crowd;
mod dialing;
pub mod granting;
pub mod guests;
pub mod heirs;
pub mod identity;
mod interfaces;
pub mod io_thread;
pub mod listener;
pub mod opening;
pub mod passing;
pub mod possession;
pub mod rdma;
pub mod refused;
pub mod resending;
pub mod server;
pub mod session;
pub mod shelf;
pub mod standing;
pub mod wire;
pub mod worth;
