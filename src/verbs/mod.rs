//! RDMA verbs: a safe layer over libibverbs and librdmacm. It knows nothing of links, records or
//! sockets.

pub mod api;
pub mod buddy;
pub mod cm;
pub mod cq;
pub mod device;
pub mod error;
mod guard;
mod mr;
pub mod pool;
mod private_data;
pub mod probe;
pub mod qp;
pub mod reach;
pub mod removal;
pub mod sysfs;
mod wr;

pub use error::Error;
