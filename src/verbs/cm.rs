//! Connections, by librdmacm: the one connection manager that RoCE, InfiniBand and iWARP devices share.
//!
//! Nothing here waits: each step of making a connection ends in an event, which
//! [`EventChannel::next_event`] gives when the channel's descriptor is readable.
//!
//! | connecting side | accepting side |
//! |---|---|
//! | [`CmId::create`], [`CmId::resolve_address`] → `AddressResolved` | [`CmId::listen`] |
//! | [`CmId::resolve_route`] → `RouteResolved` | |
//! | make the queue pair, post receives, [`CmId::connect`] | → `ConnectRequest` with an id of its own |
//! | → `Established` (or `Rejected`, `Unreachable`, ...) | queue pair, receives, [`CmId::accept`] → `Established` |
//! | send first: iWARP wants the connecting side to | wait for its first message |
//!
//! All calls on the ids of one channel exclude each other: librdmacm changes an id's queue pair while it
//! reads an event of it.

pub use super::event::{Event, EventChannel, EventKind};
pub use super::id::CmId;
pub use super::private_data::{PRIVATE_DATA, PrivateData};

/// The token of ids that this layer keeps for itself, and of events that are of no id.
pub const OWN_TOKEN: u64 = u64::MAX;
