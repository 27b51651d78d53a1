//! NetACC's own layer over libibverbs and librdmacm (`src/verbs`), on this run's device.

mod connecting;
mod data;
mod device;
mod ends;
mod memory;
mod processes;
mod scope;
