//! Both ends of a connection in one process, and steps that tests are made of.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use netacc::real::sys::Errno;
use netacc::socket::addr::Address;
use netacc::verbs::Error;
use netacc::verbs::api::{self, Api};
use netacc::verbs::cm::{CmId, Event, EventChannel, EventKind};
use netacc::verbs::cq::{Completion, Cq};
use netacc::verbs::device::Device;
use netacc::verbs::pool::{Pool, PoolSizes, Region, RemoteAddress};
use netacc::verbs::qp::{QpSetup, QueuePair, Slots};
use netacc::verbs::removal::Removals;

use crate::common::PATIENCE;
use crate::guest::{Guest, Remote};
use crate::net::{self, Kind};

/// Takes an expected kind of event apart, or gives it back.
#[macro_export]
macro_rules! event {
    ($pattern:pat => $value:expr) => {
        |kind| match kind {
            $pattern => Ok($value),
            #[allow(unreachable_patterns)]
            other => Err(other),
        }
    };
}

/// Tokens of ids.
pub const CONNECTOR: u64 = 1;
pub const LISTENER: u64 = 2;
pub const ACCEPTOR: u64 = 3;

/// Receives that each end has posted.
pub const RECEIVES: usize = 32;
/// Bytes of each receive.
pub const RECEIVE_SIZE: usize = 64;
/// Bytes of the memory that the other end may write to.
pub const MEMORY: usize = 256 << 10;
const RESOLVE_MS: i32 = 60_000;

/// The RDMA libraries.
pub fn libraries() -> &'static Api {
    api::open().unwrap_or_else(|error| panic!("{error}"))
}

/// An address of the standard library's as the layer takes it.
pub fn address(from: impl Into<SocketAddr>) -> Address {
    match from.into() {
        SocketAddr::V4(v4) => Address::V4(libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: v4.port().to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(v4.ip().octets()),
            },
            sin_zero: [0; 8],
        }),
        SocketAddr::V6(v6) => Address::V6(libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as u16,
            sin6_port: v6.port().to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr {
                s6_addr: v6.ip().octets(),
            },
            sin6_scope_id: v6.scope_id(),
        }),
    }
}

/// This guest's address on the wire with the device.
pub fn own_address(port: u16) -> Address {
    address((Guest::local().address(0), port))
}

/// Waits until `fd` is readable.
pub fn wait_readable(fd: BorrowedFd<'_>, what: &str) {
    let mut polled = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry.
    let ready = unsafe { libc::poll(&raw mut polled, 1, PATIENCE.as_millis() as i32) };
    assert_eq!(ready, 1, "{what} did not come");
}

/// Events of connections, waited for.
pub struct Events {
    pub channel: Arc<EventChannel>,
    /// Those that came while another one was waited for.
    early: VecDeque<Event>,
}

impl Events {
    pub fn new() -> Events {
        Events {
            channel: EventChannel::create(libraries()).unwrap(),
            early: VecDeque::new(),
        }
    }

    /// The next event.
    pub fn next(&mut self) -> Event {
        if let Some(event) = self.early.pop_front() {
            return event;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.channel.next_event().unwrap() {
                return event;
            }
            assert!(Instant::now() < deadline, "no event");
            wait_readable(self.channel.as_fd(), "an event");
        }
    }

    /// The next event of `token` for which `wanted` has an answer; others of that token are a failure,
    /// those of other tokens are kept.
    pub fn expect<T>(
        &mut self,
        token: u64,
        wanted: impl Fn(EventKind) -> Result<T, EventKind>,
    ) -> T {
        let mut others = VecDeque::new();
        let found = loop {
            let event = self.next();
            if event.token == token {
                break wanted(event.kind);
            }
            others.push_back(event);
        };
        others.append(&mut self.early);
        self.early = others;
        found.unwrap_or_else(|other| panic!("id {token}: {other:?}"))
    }

    /// Waits until `token`'s connection has ended.
    pub fn disconnected(&mut self, token: u64) {
        self.expect(token, |kind| match kind {
            EventKind::Disconnected | EventKind::Rejected { .. } => Ok(()),
            other => Err(other),
        });
    }
}

/// One end of a connection: a queue pair with posted receives, and memory that the other may write to.
pub struct End {
    pub qp: QueuePair,
    pub cq: Arc<Cq>,
    pub receives: Region,
    pub memory: Region,
    pub source: Region,
}

impl End {
    /// Makes what a connection needs on the device of `id`.
    pub fn new(id: CmId) -> End {
        let device = Device::of(&id).unwrap();
        let id = Arc::new(id);
        let cq = Arc::new(Cq::create(&device, 256, 0).unwrap());
        let setup = QpSetup {
            send_depth: 64,
            recv_depth: 2 * RECEIVES as u32,
            max_inline: device.attributes().max_inline,
        };
        let qp = QueuePair::create(&id, &cq, &cq, setup).unwrap();
        let pool = Pool::new(&device, PoolSizes::new(16 << 10, 16 << 10, 8 << 20));
        let end = End {
            receives: pool.allocate(RECEIVES * RECEIVE_SIZE).unwrap(),
            memory: pool.allocate(MEMORY).unwrap(),
            source: pool.allocate(MEMORY).unwrap(),
            qp,
            cq,
        };
        fill(&end.memory, |_| 0);
        end.post_receives(0, RECEIVES);
        end
    }

    /// Posts receives, the numbers and places of which are from `first` on.
    pub fn post_receives(&self, first: usize, count: usize) {
        let slots = Slots::Region {
            region: &self.receives,
            offset: first * RECEIVE_SIZE,
            size: RECEIVE_SIZE,
        };
        self.qp
            .post_receives(first as u64, slots, count)
            .unwrap_or_else(|refused| panic!("{refused}"));
    }

    /// Where the other end may write, as private data.
    pub fn invitation(&self) -> Vec<u8> {
        let RemoteAddress { address, rkey } = self.memory.remote();
        [&address.to_le_bytes()[..], &rkey.to_le_bytes()].concat()
    }

    /// The next completion, by looking for it.
    pub fn completion(&self) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        let mut found = [Completion::EMPTY];
        while self.cq.poll(&mut found).unwrap() == 0 {
            assert!(Instant::now() < deadline, "no completion");
            // A guest has one processor, and its kernel does the device's work.
            std::thread::yield_now();
        }
        let [completion] = found;
        completion
    }

    /// The next completion, which must be a success.
    pub fn success(&self) -> Completion {
        let completion = self.completion();
        assert!(completion.failure().is_none(), "{completion:?}");
        completion
    }
}

/// Reads an [`End::invitation`], with an offset into the memory.
pub fn invited(data: &[u8], offset: usize) -> RemoteAddress {
    RemoteAddress {
        address: u64::from_le_bytes(data[..8].try_into().unwrap()) + offset as u64,
        rkey: u32::from_le_bytes(data[8..12].try_into().unwrap()),
    }
}

/// Writes `byte(i)` to each byte of a region.
pub fn fill(region: &Region, byte: impl Fn(usize) -> u8) {
    for i in 0..region.len() {
        // SAFETY: within the region; volatile, for a device may be at it too.
        unsafe { region.base().add(i).write_volatile(byte(i)) };
    }
}

/// A copy of some of a region's bytes.
pub fn bytes(region: &Region, offset: usize, len: usize) -> Vec<u8> {
    assert!(offset + len <= region.len());
    let byte = |i| {
        // SAFETY: within the region.
        unsafe { region.base().add(i).read_volatile() }
    };
    (offset..offset + len).map(byte).collect()
}

/// A connection of this process with itself.
pub struct Pair {
    // In this order they would be dropped; tests drop them in others too.
    pub connector: End,
    pub acceptor: End,
    pub listener: CmId,
    pub events: Events,
    /// Where the connector may write.
    pub there: Vec<u8>,
    /// Where the acceptor may write.
    pub back: Vec<u8>,
}

impl Pair {
    pub fn connect() -> Pair {
        Pair::connect_at(&own_address(0))
    }

    /// Connects over the device of `address`.
    pub fn connect_at(address: &Address) -> Pair {
        let mut events = Events::new();
        let listener = CmId::listen(&events.channel, LISTENER, address, 8).unwrap();
        let port = listener.local_address().unwrap().port();
        let there = address.with_port(port);
        let connector = connect(&mut events, &there, End::invitation).unwrap();
        let (id, back) = events.expect(
            LISTENER,
            event!(EventKind::ConnectRequest { id, data } => (id, data)),
        );
        id.set_token(ACCEPTOR);
        let acceptor = End::new(id);
        acceptor.qp.id().accept(&acceptor.invitation()).unwrap();
        let there = events.expect(CONNECTOR, event!(EventKind::Established { data } => data));
        events.expect(ACCEPTOR, event!(EventKind::Established { .. } => ()));
        Pair {
            connector,
            acceptor,
            listener,
            events,
            there: there.expect("what the acceptor said").to_vec(),
            back: back.expect("what the connector said").to_vec(),
        }
    }
}

/// An id that knows its way to `address`.
pub fn resolve(events: &mut Events, address: &Address) -> CmId {
    let id = CmId::create(&events.channel, CONNECTOR).unwrap();
    id.resolve_address(None, address, RESOLVE_MS).unwrap();
    events.expect(CONNECTOR, event!(EventKind::AddressResolved => ()));
    id.resolve_route(RESOLVE_MS).unwrap();
    events.expect(CONNECTOR, event!(EventKind::RouteResolved => ()));
    id
}

/// An end that connects to `address`, where it says `data` of itself.
///
/// # Errors
/// The call's own: soft iWARP finds out within it what rxe tells by an event.
pub fn connect(
    events: &mut Events,
    address: &Address,
    data: impl Fn(&End) -> Vec<u8>,
) -> Result<End, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let end = End::new(resolve(events, address));
        match end.qp.id().connect(&data(&end)) {
            Ok(()) => return Ok(end),
            // Soft iWARP connects by TCP from a port that librdmacm has chosen without asking TCP, which may
            // remember it from the last connection.
            Err(error) if error.errno() == Some(Errno::ADDRINUSE) && Instant::now() < deadline => {}
            Err(error) => return Err(error),
        }
    }
}

/// The RDMA device of this guest's second wire, which it does not have by itself.
pub struct SecondDevice;

impl SecondDevice {
    pub fn add() -> SecondDevice {
        let (device, kind) = (net::rdma_device(1), Kind::of_this_run().name());
        Guest::local().must(&format!(
            "rdma-device add {device} {kind} {}",
            net::netdev(1)
        ));
        SecondDevice
    }

    /// Its address, port 0.
    pub fn address(&self) -> Address {
        address((Guest::local().address(1), 0))
    }

    /// Has it removed and waits until the kernel says so: the device, and the removal, which does not end
    /// before this process has let go of it.
    pub fn begin_removal(self) -> (Arc<Device>, Remote) {
        let removals = Removals::watch().unwrap();
        assert!(removals.take().is_empty());
        let mut command = Command::new("rdma-device");
        command.args(["del", &net::rdma_device(1)]);
        let removal = Guest::local().spawn(&command);
        loop {
            wait_readable(removals.as_fd(), "the removal");
            if let Some(device) = removals.take().pop() {
                return (device, removal);
            }
        }
    }

    /// Removes it; nothing else of this process is on it.
    pub fn remove(self) {
        let (device, removal) = self.begin_removal();
        drop(device);
        removal.success();
    }
}
