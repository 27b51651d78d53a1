//! RDMA verbs: a safe layer over libibverbs and librdmacm, and the only place that calls them. It knows
//! nothing of links, records or sockets.
//!
//! # Words
//!
//! | word | meaning | here |
//! |---|---|---|
//! | device | a network card, or a driver that plays one, to which a process speaks without the kernel | [`device`] |
//! | protection domain (PD) | what belongs together on a device: keys of one are good on its queue pairs only | one a device |
//! | memory region (MR) | memory that is pinned and registered, so that the device may use it; `lkey` names it in own requests, `rkey` in the peer's | [`pool`] |
//! | queue pair (QP) | one end of a reliable connection: a send queue and a receive queue | [`qp`] |
//! | work request (WR) | an entry of one of them: send, RDMA write (with immediate data), receive | [`qp::SendOp`] |
//! | doorbell | how the device is told that there are new requests; one for a whole chain of them | [`qp::QueuePair::post`] |
//! | completion queue (CQ) | where the device says what became of requests; it can be *armed* to make an event | [`cq`] |
//! | inline | bytes that travel in the request itself: the device need not fetch them | [`qp::Payload`] |
//! | immediate data | a number that goes with an RDMA write, uses up a receive of the peer, and so tells it of the write | [`qp::Verb::WriteImm`] |
//! | communication manager (CM) | who makes connections, by IP address and port | [`cm`] |
//!
//! # Rules that this layer keeps, and where they come from
//!
//! | rule | because of |
//! |---|---|
//! | What a device can is asked of it, or tried; never taken from its name | all; [`probe`] |
//! | Bytes that an RDMA write brought are there when a completion says so, not when they are seen | InfiniBand and iWARP order completions only |
//! | Writes with immediate data only where the device has them; else write, then send, in one chain | soft iWARP and older iWARP cards have none |
//! | Both queues of a queue pair have a depth, requests and receives one piece of memory | eRDMA: none may be empty, receives take one |
//! | One signaled request in a few: only its completion gives back the places of all before it | verbs; eRDMA counts places in units of its own |
//! | Inline up to what `create_qp` takes | 96 bytes on eRDMA, 80 on soft iWARP, 512 on soft RoCE |
//! | No shared receive queue, no RDMA read, no atomics | eRDMA and iWARP lack one or the other |
//! | Queue pairs are made and connected by librdmacm | the one way that InfiniBand, RoCE and iWARP share |
//! | At most 56 bytes of private data, with their own length | RoCE's room, which it pads |
//! | The connecting side sends first | iWARP (RFC 5044) |
//! | One outstanding RDMA read is offered, though none is made | some iWARP cards take no 0 |
//! | `retry_count` 6 | 7 is "for ever" on soft RoCE: a dead peer would never show |
//! | After the peer's end, disconnect or `to_error` oneself | RoCE flushes nothing before |
//! | Requests that are posted after `to_error` are not waited for | soft iWARP completes none of them, eRDMA refuses them |
//! | A refused request is looked for even if posting succeeded | soft iWARP's library, see [`qp`] |
//! | Arm for all completions, not for solicited ones | soft iWARP never calls a receive solicited |
//! | A refusal may come after `Established`, and ends the connection | RoCE, if the accepting process dies at that moment |
//! | Events are acknowledged before their object is destroyed | libibverbs and librdmacm wait for it |
//! | On a removal, let go of everything, the descriptors too | drivers that cannot take a device away wait for it; [`removal`] |
//! | A forked child leaves everything alone, and cannot begin anew | the device knows the parent only; librdmacm keeps devices in static variables |
//! | A process that changes its user or group loses its connections | the kernel lets those who opened a device write to it (`ib_safe_file_access`) |
//!
//! # Threads
//!
//! Opening libraries, channels and devices is for one thread, of the library's own. All else may be done
//! in any thread: posting and polling take locks of the device's provider only, calls on ids that of their
//! event channel. No thread can be cancelled within a call, and `errno` comes back as it was.

pub mod api;
mod async_event;
pub mod buddy;
pub mod cm;
mod completion;
pub mod cq;
pub mod device;
pub mod error;
mod event;
mod guard;
mod id;
mod mr;
pub mod pool;
mod private_data;
pub mod probe;
pub mod qp;
pub mod reach;
mod region;
pub mod removal;
pub mod sysfs;
mod wr;

pub use error::Error;
pub(crate) use guard::is_inside;
