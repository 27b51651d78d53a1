//! Queue pairs for links: which interfaces have a device, who connects to whom, and what becomes of it.
//! All of it on the control thread, where nothing waits; what may wait has a thread of its own, see
//! [`Connecting`].

use std::collections::HashMap;
use std::sync::Arc;

use rustix::fd::AsFd;

use super::interfaces;
use super::io_thread::{Command, Control, Source, spawn};
use super::session::Session;
use super::wire::{Door, MAX_DOORS};
use crate::config::Config;
use crate::fabric::network;
use crate::fabric::rdma::channel::{Channel, Greeting};
use crate::fabric::rdma::engine::Engine;
use crate::fabric::rdma::memory::Memory;
use crate::fabric::remote::Remote;
use crate::link::Token;
use crate::real::sys::Errno;
use crate::runtime::Runtime;
use crate::socket::addr::Address;
use crate::stats::Reason;
use crate::verbs::api;
use crate::verbs::cm::{CmId, Event, EventChannel, EventKind};
use crate::verbs::device::{AsyncEvent, Device};
use crate::verbs::pool::{Pool, PoolSizes};
use crate::verbs::reach::LocalAddresses;
use crate::verbs::removal::Removals;
use crate::verbs::{Error, sysfs};

/// How long librdmacm may look for an address or a route, in milliseconds.
const RESOLVE_MS: i32 = 2000;
/// Work requests in each queue of a queue pair: for one that carries many connections, and for one that
/// carries one.
const DEPTHS: (u32, u32) = (64, 16);
const BACKLOG: i32 = 128;
/// Threads that wait for a device to connect, at most.
const MOST_CONNECTING: usize = 64;

/// A device in use.
struct Used {
    device: Arc<Device>,
    memory: Arc<Memory>,
    engines: Vec<Arc<Engine>>,
}

/// A connection of librdmacm's, being made or made.
struct Line {
    /// The link that it is for.
    link: Token,
    cm: Arc<CmId>,
    channel: Option<Arc<Channel>>,
}

/// Where peers connect to us. They know the port for as long as their links live: if the device goes, it is the
/// same when the device comes back.
struct Entrance {
    address: Address,
    port: u16,
    /// What its events carry.
    token: u64,
    listener: Option<CmId>,
}

/// What a process has once it has looked for devices and found one.
pub struct Rdma {
    events: Arc<EventChannel>,
    local: LocalAddresses,
    used: Vec<Used>,
    entrances: Vec<Entrance>,
    lines: HashMap<u64, Line>,
    next: u64,
    /// Each thread that connects holds one more reference.
    connecting: Arc<()>,
}

/// What a thread needs that connects. Soft iWARP makes its TCP connection within the call, and to a host that
/// drops all packets that lasts for minutes.
struct Connecting {
    line: u64,
    /// Lives until the call is over, whatever becomes of the line.
    channel: Arc<Channel>,
    data: [u8; INTRODUCTION],
    runtime: &'static Runtime,
    _counted: Arc<()>,
}

impl Connecting {
    fn run(self) {
        if let Err(error) = self.channel.cm().connect(&self.data) {
            tracing::info!(target: "netacc::rdma", "no connection: {error}");
            let outcome = match error.errno() {
                // Soft iWARP connects by TCP from a port that librdmacm has chosen without asking TCP.
                Some(Errno::ADDRINUSE) => Outcome::PortTaken,
                // Another address may do.
                _ => Outcome::Down,
            };
            self.runtime
                .command(Command::NotConnected(self.line, outcome));
        }
    }
}

/// What became of a line.
pub enum Outcome {
    /// It stands; the other side's word.
    Up(Arc<Channel>),
    /// It does not, but another one may.
    Down,
    /// It does not: our own port was taken, and the next one need not be.
    PortTaken,
    /// It does not, and no other one will.
    Hopeless(Reason),
}

/// Said to a peer that is refused because there is too little memory, so that it does not try the other addresses.
const NO_MEMORY: &[u8] = b"memory";

impl Rdma {
    /// Opens the libraries. `None` on a host without devices.
    fn open() -> Option<Rdma> {
        if !sysfs::devices_present() {
            return None;
        }
        let opened = api::open().and_then(EventChannel::create);
        let events = match opened {
            Ok(events) => events,
            Err(error) => {
                error.tell();
                return None;
            }
        };
        Some(Rdma {
            local: LocalAddresses::new(&events),
            events,
            used: Vec::new(),
            entrances: Vec::new(),
            lines: HashMap::new(),
            next: 1,
            connecting: Arc::new(()),
        })
    }

    /// Whether the interface that has `address` has an RDMA device.
    pub fn reaches(&self, address: &Address) -> bool {
        let is_rdma = |address: &Address| self.local.is_rdma(address).unwrap_or(false);
        is_rdma(address) || interfaces::beside(address).iter().any(is_rdma)
    }

    /// Where peers can connect to us who reached us at `address`.
    pub fn doors(&mut self, address: &Address) -> Vec<Door> {
        if !self.reaches(address) {
            return Vec::new();
        }
        let mut doors = Vec::new();
        let mut failure = None;
        let all = core::iter::once(*address)
            .chain(interfaces::beside(address))
            .chain(interfaces::others(address));
        for candidate in all {
            if doors.len() == MAX_DOORS || !self.local.is_rdma(&candidate).unwrap_or(false) {
                continue;
            }
            match self.listen_at(&candidate) {
                Ok(port) => {
                    let door = (candidate.canonical().0, port);
                    if !doors.contains(&door) {
                        doors.push(door);
                    }
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            Some(error) if doors.is_empty() => error.tell(),
            // There are devices that know IPv4 only.
            Some(error) => tracing::debug!(target: "netacc::rdma", "{error}"),
            None => {}
        }
        doors
    }

    /// The port at which we listen at `address`.
    fn listen_at(&mut self, address: &Address) -> Result<u16, Error> {
        let key = address.canonical().0;
        let known = |e: &Entrance| e.address.canonical().0 == key;
        let index = self.entrances.iter().position(known).unwrap_or_else(|| {
            self.entrances.push(Entrance {
                address: *address,
                port: 0,
                token: self.next,
                listener: None,
            });
            self.next += 1;
            self.entrances.len() - 1
        });
        let port = self.listen(index);
        if self.entrances[index].port == 0 {
            // Nobody knows of it, so there is nothing to open again.
            self.entrances.swap_remove(index);
        }
        port
    }

    fn listen(&mut self, index: usize) -> Result<u16, Error> {
        let entrance = &mut self.entrances[index];
        if entrance.listener.is_none() {
            let at = entrance.address.with_port(entrance.port);
            let listener = CmId::listen(&self.events, entrance.token, &at, BACKLOG)?;
            // Though nothing is made on it yet: its removal waits for us from now on.
            Device::of(&listener)?;
            entrance.port = listener.local_address().map_or(0, |local| local.port());
            entrance.listener = Some(listener);
        }
        Ok(entrance.port)
    }

    /// Listens again where the device had gone, if it is there again.
    pub fn reopen(&mut self) {
        for index in 0..self.entrances.len() {
            if let Err(error) = self.listen(index) {
                tracing::debug!(target: "netacc::rdma", "{error}");
            }
        }
    }

    /// The device has gone at which we listened with `token`. False: that is no listener's.
    fn close(&mut self, token: u64) -> bool {
        let mut entrances = self.entrances.iter_mut();
        let found = entrances.find(|entrance| entrance.token == token);
        found.map(|entrance| entrance.listener = None).is_some()
    }

    /// Begins to connect to `door` for `link`; returns the line's number.
    ///
    /// # Errors
    /// librdmacm's.
    pub fn dial(&mut self, door: &Door, scope: u32, link: Token) -> Result<u64, Error> {
        let number = self.next;
        self.next += 1;
        let cm = Arc::new(CmId::create(&self.events, number)?);
        let to = Address::from_canonical(door.0, door.1, scope);
        cm.resolve_address(None, &to, RESOLVE_MS)?;
        let channel = None;
        self.lines.insert(number, Line { link, cm, channel });
        Ok(number)
    }

    /// Gives a line up.
    pub fn hang_up(&mut self, number: u64) {
        if let Some(line) = self.lines.remove(&number)
            && let Some(channel) = &line.channel
        {
            channel.shut();
        }
    }

    /// The link is over, and so are its lines.
    pub fn end(&mut self, link: &Token) {
        for (_, line) in self.lines.extract_if(|_, line| line.link == *link) {
            if let Some(channel) = &line.channel {
                channel.shut();
            }
        }
    }

    /// Forgets lines whose queue pair is closed.
    pub fn sweep(&mut self) {
        self.lines
            .retain(|_, line| line.channel.as_ref().is_none_or(|c| !c.is_closed()));
    }
}

fn depth(config: &Config, device: &Device) -> u32 {
    let wanted = match config.conn_per_qp {
        1 => DEPTHS.1,
        _ => DEPTHS.0,
    };
    wanted.min(device.attributes().max_qp_wr)
}

/// What the connecting side says with its request.
struct Introduction {
    /// The link's name.
    link: Token,
    /// The carrier's number on the connecting side.
    carrier: u32,
    greeting: Greeting,
}

/// Bytes of an [`Introduction`].
const INTRODUCTION: usize = 23;

impl Introduction {
    fn encode(&self) -> [u8; INTRODUCTION] {
        let mut bytes = [0; INTRODUCTION];
        bytes[..16].copy_from_slice(&self.link);
        bytes[16..20].copy_from_slice(&self.carrier.to_le_bytes());
        bytes[20..].copy_from_slice(&self.greeting.encode());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Introduction> {
        let (link, rest) = bytes.split_first_chunk()?;
        let (carrier, greeting) = rest.split_first_chunk()?;
        Some(Introduction {
            link: *link,
            carrier: u32::from_le_bytes(*carrier),
            greeting: Greeting::parse(greeting)?,
        })
    }
}

impl Control {
    /// The process's RDMA, opened now if need be.
    pub fn rdma(&mut self) -> Option<&mut Rdma> {
        use crate::config::FabricName;
        if self.rdma.is_none() && self.runtime.config.fabrics.contains(&FabricName::Verbs) {
            let rdma = Rdma::open()?;
            self.insert(Source::RdmaEvents(rdma.events.clone()))?;
            match Removals::watch() {
                Ok(removals) => drop(self.insert(Source::Removals(removals))),
                Err(error) => error.tell(),
            }
            self.rdma = Some(rdma);
        }
        self.rdma.as_mut()
    }

    /// An engine of the device of `cm` with room for another queue pair.
    fn engine(&mut self, cm: &CmId) -> Result<Arc<Engine>, Error> {
        let device = Device::of(cm)?;
        let config = &self.runtime.config;
        let depth = depth(config, &device);
        let rdma = self.rdma.as_mut().ok_or(Error::OtherDevice)?;
        let known = rdma
            .used
            .iter()
            .position(|u| Arc::ptr_eq(&u.device, &device));
        let at = match known {
            Some(at) => at,
            None => {
                let sizes = PoolSizes::new(
                    config.msg_size,
                    config.mr_min_inc_size,
                    config.mr_max_inc_size,
                );
                rdma.used.push(Used {
                    device: device.clone(),
                    memory: Memory::new(Pool::new(&device, sizes)),
                    engines: Vec::new(),
                });
                rdma.used.len() - 1
            }
        };
        let used = &mut rdma.used[at];
        // Each I/O thread gets one, then those with room are used up.
        let fits = |engine: &&Arc<Engine>| engine.has_room(depth);
        let index = used.engines.len();
        let enough = index >= self.runtime.io_count();
        if enough && let Some(engine) = used.engines.iter().find(fits) {
            return Ok(engine.clone());
        }
        let engine = Engine::new(&device, &used.memory, index as u32)?;
        used.engines.push(engine.clone());
        if known.is_none() {
            self.insert(Source::Device(device));
        }
        self.watch_engine(index, &engine);
        Ok(engine)
    }

    fn watch_engine(&mut self, index: usize, engine: &Arc<Engine>) {
        let for_all: Arc<dyn network::Engine> = engine.clone();
        self.runtime.network.add(for_all);
        let io = index % self.runtime.io_count();
        if io == 0 {
            self.insert(Source::Engine(engine.clone()));
        } else {
            self.runtime.io(io).engines.lock().push(engine.clone());
            crate::real::sys::signal(self.runtime.io(io).bell.as_fd());
        }
    }

    fn new_channel(&mut self, cm: &Arc<CmId>, remote: &Arc<Remote>) -> Result<Arc<Channel>, Error> {
        let engine = self.engine(cm)?;
        let depth = depth(&self.runtime.config, engine.device());
        Channel::new(&engine, cm, remote, depth)
    }

    /// Takes in what happened to lines.
    pub fn rdma_events(&mut self) {
        while let Some(events) = self.rdma.as_ref().map(|rdma| rdma.events.clone()) {
            match events.next_event() {
                Ok(Some(event)) => self.rdma_event(event),
                Ok(None) => return,
                Err(error) => return error.tell(),
            }
        }
    }

    fn rdma_event(&mut self, event: Event) {
        let number = event.token;
        match event.kind {
            EventKind::ConnectRequest { id, data } => {
                let cm = Arc::new(id);
                if let Some(peer) = data.as_deref().and_then(Introduction::parse)
                    && let Err(error) = self.accept_line(&cm, &peer)
                {
                    error.tell();
                    if error.is_of_memory() {
                        let _ = cm.reject(NO_MEMORY);
                    }
                }
            }
            EventKind::AddressResolved => {
                let resolved = self.line(number, |line| {
                    Device::of(&line.cm)?;
                    line.cm.resolve_route(RESOLVE_MS)
                });
                self.check(number, resolved);
            }
            EventKind::RouteResolved => {
                let connecting = self.connect_line(number);
                self.check(number, connecting);
            }
            EventKind::Established { data } => {
                let greeting = data.as_deref().and_then(Greeting::parse);
                self.line_up(number, greeting);
            }
            EventKind::DeviceRemoval => {
                if !self.rdma.as_mut().is_some_and(|rdma| rdma.close(number)) {
                    self.line_down(number);
                }
            }
            EventKind::Disconnected | EventKind::AddressChange | EventKind::TimewaitExit => {
                self.line_down(number);
            }
            EventKind::DeviceGone(device) => self.retire_device(&device),
            EventKind::Rejected {
                data: Some(said), ..
            } if *said == *NO_MEMORY => {
                self.line_over(number, Outcome::Hopeless(Reason::PeerRefused));
            }
            EventKind::AddressError(_)
            | EventKind::RouteError(_)
            | EventKind::ConnectError(_)
            | EventKind::Unreachable(_)
            | EventKind::Rejected { .. } => {
                tracing::info!(target: "netacc::rdma", "no connection: {:?}", event.kind);
                self.line_down(number);
            }
        }
    }

    fn line<T>(&mut self, number: u64, f: impl FnOnce(&mut Line) -> T) -> Option<T> {
        self.rdma.as_mut()?.lines.get_mut(&number).map(f)
    }

    fn check(&mut self, number: u64, done: Option<Result<(), Error>>) {
        if let Some(Err(error)) = done {
            error.tell();
            self.line_over(
                number,
                match error.is_of_memory() {
                    true => Outcome::Hopeless(Reason::LockedMemory),
                    false => Outcome::Down,
                },
            );
        }
    }

    /// The address and the way to it are known: makes the queue pair and has it connected.
    fn connect_line(&mut self, number: u64) -> Option<Result<(), Error>> {
        let (link, cm) = self.line(number, |line| (line.link, line.cm.clone()))?;
        let remote = self.session(&link).map(|session| session.remote.clone())?;
        let made = self.new_channel(&cm, &remote);
        Some(made.and_then(|channel| {
            self.line(number, |line| line.channel = Some(channel.clone()));
            self.connect_channel(number, link, channel)
        }))
    }

    fn connect_channel(&self, line: u64, link: Token, channel: Arc<Channel>) -> Result<(), Error> {
        let failed = |errno| Error::Call {
            call: "rdma_connect",
            errno,
        };
        let rdma = self.rdma.as_ref().ok_or(Error::OtherDevice)?;
        if Arc::strong_count(&rdma.connecting) > MOST_CONNECTING {
            return Err(failed(Errno::AGAIN));
        }
        let introduction = Introduction {
            link,
            carrier: channel.id,
            greeting: channel.greeting(),
        };
        let connecting = Connecting {
            line,
            channel,
            data: introduction.encode(),
            runtime: self.runtime,
            _counted: rdma.connecting.clone(),
        };
        spawn(move || connecting.run()).map_err(failed)
    }

    /// A peer connects for a link.
    fn accept_line(&mut self, cm: &Arc<CmId>, peer: &Introduction) -> Result<(), Error> {
        let link = peer.link;
        let Some(remote) = self
            .session(&link)
            .filter(|session| !session.is_active())
            .map(|session| session.remote.clone())
        else {
            // Dropping it refuses.
            return Ok(());
        };
        let channel = self.new_channel(cm, &remote)?;
        channel.greeted(peer.greeting);
        // Not its turn: it may end then.
        if let Some(session) = self.sessions_mut().find(|s| *s.link.token() == link) {
            session.name_carrier(channel.id, peer.carrier);
        }
        if remote.expect(channel.id, channel.carrier()).is_err() {
            // The source of rings has told why.
            let _ = cm.reject(NO_MEMORY);
            return Ok(());
        }
        let Some(rdma) = &mut self.rdma else {
            return Ok(());
        };
        let number = rdma.next;
        rdma.next += 1;
        cm.set_token(number);
        let answer = channel.greeting().encode();
        let channel_id = channel.id;
        let line = Line {
            link,
            cm: cm.clone(),
            channel: Some(channel),
        };
        let accepted = cm.accept(&answer);
        if accepted.is_ok() {
            rdma.lines.insert(number, line);
        } else {
            // Nothing more is heard of it.
            remote.lose(channel_id);
        }
        accepted
    }

    fn line_up(&mut self, number: u64, greeting: Option<Greeting>) {
        let Some((link, Some(channel))) =
            self.line(number, |line| (line.link, line.channel.clone()))
        else {
            return;
        };
        let active = self.session(&link).is_some_and(Session::is_active);
        if !active {
            return;
        }
        let Some(greeting) = greeting else {
            return self.line_down(number);
        };
        channel.greeted(greeting);
        self.with_session_of(&link, |session, control| {
            session.dialed(control, number, Outcome::Up(channel));
        });
    }

    fn line_down(&mut self, number: u64) {
        self.line_over(number, Outcome::Down);
    }

    /// Line `number` is over; its link hears what became of it.
    pub fn line_over(&mut self, number: u64, outcome: Outcome) {
        let Some(line) = self.rdma.as_mut().and_then(|r| r.lines.remove(&number)) else {
            return;
        };
        if let Some(channel) = &line.channel {
            channel.remote().lose(channel.id);
            channel.shut();
        }
        self.with_session_of(&line.link, |session, control| {
            session.dialed(control, number, outcome);
        });
    }

    /// Takes in which devices are being removed.
    pub fn removals(&mut self, removals: &Removals) {
        for device in removals.take() {
            self.retire_device(&device);
        }
    }

    /// Takes in what happened to a device itself. False when it is no more.
    pub fn device_events(&mut self, device: &Arc<Device>) -> bool {
        loop {
            match device.next_async_event() {
                Ok(Some(AsyncEvent::QpFatal { qp_num })) => self.queue_pair_failed(device, qp_num),
                Ok(Some(AsyncEvent::CqError | AsyncEvent::DeviceFatal)) | Err(_) => {
                    self.retire_device(device);
                    return false;
                }
                Ok(Some(AsyncEvent::AddressesChanged)) => {
                    if let Some(rdma) = &self.rdma {
                        rdma.local.refresh();
                    }
                }
                Ok(Some(AsyncEvent::PortUp(_) | AsyncEvent::PortDown(_))) => {}
                Ok(None) => return true,
            }
        }
    }

    /// (Devices number their queue pairs each for itself.)
    fn queue_pair_failed(&mut self, device: &Arc<Device>, qp_num: u32) {
        let failed = self.rdma.iter().flat_map(|rdma| rdma.lines.values());
        let failed: Vec<_> = failed
            .filter_map(|line| line.channel.clone())
            .filter(|channel| {
                channel.qp_number() == qp_num && Arc::ptr_eq(channel.device(), device)
            })
            .collect();
        for channel in failed {
            channel.remote().lose(channel.id);
        }
    }

    /// The device is gone: so is all that was on it.
    fn retire_device(&mut self, device: &Arc<Device>) {
        device.retire();
        let Some(rdma) = &mut self.rdma else { return };
        rdma.local.refresh();
        let of_it = |used: &mut Used| Arc::ptr_eq(&used.device, device);
        let gone: Vec<Used> = rdma.used.extract_if(.., of_it).collect();
        for engine in gone.iter().flat_map(|used| &used.engines) {
            engine.fail();
            let for_all: Arc<dyn network::Engine> = engine.clone();
            self.runtime.network.remove(&for_all);
            for io in 0..self.runtime.io_count() {
                let mut engines = self.runtime.io(io).engines.lock();
                engines.retain(|other| !Arc::ptr_eq(other, engine));
            }
            self.forget(|source| matches!(source, Source::Engine(e) if Arc::ptr_eq(e, engine)));
        }
        self.forget(|source| matches!(source, Source::Device(d) if Arc::ptr_eq(d, device)));
        let Some(rdma) = &mut self.rdma else { return };
        rdma.sweep();
        // Those that are being made: no link knows of them yet, and the removal waits for them.
        let left = rdma.lines.iter().filter(|(_, line)| {
            let channel = line.channel.as_ref();
            channel.is_some_and(|channel| Arc::ptr_eq(channel.device(), device))
        });
        for number in left.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.line_down(number);
        }
    }
}

/// Whether a connection whose local address is `local` leaves by an RDMA device.
pub fn offers(control: &mut Control, local: Option<Address>) -> bool {
    match (control.rdma(), local) {
        (Some(rdma), Some(local)) => rdma.reaches(&local),
        _ => false,
    }
}
