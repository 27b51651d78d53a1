//! The I/O threads: they keep links moving while the application is elsewhere. The first one also
//! does all control work: side ports, hellos, opening connections, noticing dead peers.
//!
//! They never sit in a busy connection's way: they sleep until rung, and are rung only for what no
//! thread of the application waits for itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::affinity;
use super::cache::Key;
use super::contact::{Contact, Goal, Waiting};
use super::contained::service;
use super::crowd::Origin;
use super::guests::{Dying, Guest};
use super::heirs::{Estate, Heirs};
use super::listener::{Closing, SideListener};
use super::opening::Opening;
use super::rdma::{Outcome, Rdma};
use super::resending::Resending;
use super::server::Stranger;
use super::session::Session;
use super::shelf;
use super::standing::Rising;
use super::wire::Name;
use crate::conn::stalls;
use crate::contain;
use crate::fabric::network::{self, Engine as _, Watch};
use crate::fabric::rdma::engine::Engine;
use crate::fabric::remote::Remote;
use crate::link::{Link, Token};
use crate::real::sys::{self, Errno, InternalFd, now_ns};
use crate::runtime::Runtime;
use crate::socket::Socket;
use crate::verbs::cm::EventChannel;
use crate::verbs::device::Device;
use crate::verbs::removal::Removals;

/// What the control thread can be asked to do.
pub enum Command {
    /// Take connections of a side port in.
    Listen(Arc<SideListener>),
    /// The application closed the listener.
    Unlisten(Closing),
    /// Somebody knocked at a side port that is shared.
    Stranger(Stranger),
    /// This process is forking: its side ports will be shared.
    Fork,
    /// Find out whether there is NetACC, and tell whoever waits.
    Contact(Goal, Waiting),
    /// See a non-blocking connect through.
    Open(Opening),
    /// A listener has room in its backlog again.
    Room(Arc<SideListener>),
    /// The carrier of a link broke.
    Lost(Arc<Remote>),
    /// A session has more to write than the kernel takes.
    Stalled(Token),
    /// A device could not connect the line of that number.
    NotConnected(u64, Outcome),
    /// A connection has been handed back, or broken off before it was.
    Leave(&'static Socket, Arc<Link>, u32),
    /// Threads that wait for a listener (in this life) want to hear of the kernel's connections, at its descriptor.
    Knocks(&'static Socket, u64, RawFd),
    /// Watch for the end of the children of a fork.
    Heirs(Heirs),
    /// A connection that children may hold was closed.
    Claims,
    /// Send again what a peer has given back.
    Resend(Resending),
    /// Somebody has come to a listener by a way, and who waits there is to be told.
    Announce(Arc<SideListener>),
    /// Make a kernel's connection for the connection with that serial number.
    Stand(&'static Socket, u64),
    /// One has been made, or is not wanted any more.
    Stood,
    /// Something of our own went wrong in a link: its connections are reset.
    Condemned(Arc<Link>),
    /// The same, of all links to other hosts.
    CondemnAll,
}

/// Something with a descriptor that the control thread looks after.
pub enum Source {
    /// A side port.
    Listener(Arc<SideListener>),
    /// The Unix socket where shared memory is handed over.
    Rendezvous(InternalFd),
    /// A connection to a side port that has not said what it is, or waits for its turn.
    Stranger(Stranger),
    /// A connection to the rendezvous that has not said for which link.
    Guest(Guest),
    /// A hello of ours under way.
    Contact(Box<Contact>),
    /// A connect of the application under way.
    Opening(Opening),
    /// The other process of a link: passes bells, and ends when the process does.
    #[allow(missing_docs)]
    Peer { link: Arc<Link>, fd: RawFd },
    /// The other process of a link that has ended, until it is known what becomes of it.
    Dying(Dying),
    /// The control connection of a link to another host.
    Session(Box<Session>),
    /// What happens to connections of librdmacm's.
    RdmaEvents(Arc<EventChannel>),
    /// A completion queue.
    Engine(Arc<Engine>),
    /// What happens to a device.
    Device(Arc<Device>),
    /// Which devices are being removed.
    Removals(Removals),
    /// Children that may hold connections of this process.
    Heirs(Heirs),
    /// What a peer has given back and is to be sent again.
    Resending(Resending),
    /// Where kernel connections come in for connections that were opened fast.
    Door(InternalFd),
    /// One of them that this process makes.
    Rising(Rising),
    /// A listener of the kernel's, by a number that is closed with it.
    #[allow(missing_docs)]
    Knocks {
        listener: &'static Socket,
        life: u64,
        fd: RawFd,
    },
}

/// The control thread's state.
pub struct Control {
    /// The process's runtime.
    pub runtime: &'static Runtime,
    pub(super) epoll: InternalFd,
    pub(super) sources: HashMap<u64, Source>,
    next_key: u64,
    /// Connecting ends of links with ourselves, until the hello's sender fetches them.
    pub own_ends: HashMap<Token, Arc<Link>>,
    /// Links promised in an answer.
    pub promised: HashMap<Token, super::server::Promise>,
    /// Devices and queue pairs, once they were looked for and found.
    pub rdma: Option<Rdma>,
    /// Control connections of links, by the links' names.
    pub sessions: HashMap<Token, u64>,
    /// When the sessions are looked at next, in [`now_ns`] time.
    pub next_beat: u64,
    /// Hellos under way, with whoever waits for their outcome.
    pub contacts: HashMap<(Key, Option<Name>), Vec<Waiting>>,
    /// What children claim.
    pub estate: Estate,
    /// Ports of the doors that are open, by their addresses.
    pub doors: HashMap<Key, u16>,
}

const BELL: u64 = 0;

/// How often it is looked whether peers have everything, when the process is about to end.
const EXIT_LOOK: Duration = Duration::from_millis(2);

/// Starts the I/O threads, or as many as can be had.
///
/// # Errors
/// The kernel's: no descriptors, or not one thread. Then nobody has the runtime any more.
pub fn spawn_all(runtime: &'static Runtime) -> Result<(), Errno> {
    let epoll = InternalFd::adopt(epoll::create(CreateFlags::CLOEXEC)?);
    let bell = runtime.io(0).bell.as_fd();
    epoll::add(
        &epoll,
        bell,
        EventData::new_u64(BELL),
        EventFlags::IN | EventFlags::ET,
    )?;
    let mut control = Control {
        runtime,
        epoll,
        sources: HashMap::new(),
        next_key: BELL + 1,
        own_ends: HashMap::new(),
        promised: HashMap::new(),
        rdma: None,
        sessions: HashMap::new(),
        next_beat: 0,
        contacts: HashMap::new(),
        estate: Estate::default(),
        doors: HashMap::new(),
    };
    control.open_rendezvous();
    let bind = move |index| affinity::bind(&runtime.config.affinity, index, runtime.io_count());
    spawn(move || {
        bind(0);
        control.run();
    })?;
    for index in 1..runtime.io_count() {
        let spawned = spawn(move || {
            bind(index);
            serve(runtime, index);
        });
        if spawned.is_err() {
            runtime.make_do_with(index);
            break;
        }
    }
    Ok(())
}

/// A thread that no signal of the application reaches.
pub(super) fn spawn(body: impl FnOnce() + Send + 'static) -> Result<(), Errno> {
    const STACK: usize = 256 << 10;
    crate::real::thread::spawn(STACK, body)
}

/// An I/O thread beyond the first.
fn serve(runtime: &'static Runtime, index: usize) {
    use rustix::event::{PollFd, PollFlags};
    let io = runtime.io(index);
    loop {
        service(runtime, index);
        let engines = io.engines.lock().clone();
        let of_engines = engines.iter().map(|engine| engine.as_fd());
        let mut fds: Vec<PollFd<'_>> = core::iter::once(io.bell.as_fd())
            .chain(of_engines)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let _ = rustix::event::poll(&mut fds, None);
        let mut count = [0; 8];
        let _ = rustix::io::read(&io.bell, &mut count);
        if !engines.is_empty() {
            contain::catch("an I/O thread", || {
                engines
                    .iter()
                    .for_each(|engine| engine.take_events(u32::MAX));
                crate::fabric::network::serve();
            });
        }
    }
}

impl Control {
    fn run(&mut self) {
        let mut events = Vec::with_capacity(64);
        let mut watch = Watch::default();
        loop {
            service(self.runtime, 0);
            while let Some(command) = self.runtime.commands.pop() {
                self.take_command(command);
            }
            let next = [
                contain::catch("time-outs", || self.expire()),
                contain::catch("the sessions' beat", || self.beat()),
                contain::catch("the end of the process", || self.help_to_exit()),
                contain::catch("the network's watch", || {
                    watch.look(&self.runtime.network).map(Duration::from_nanos)
                }),
                contain::catch("the look at stalls", stalls::look),
            ];
            let next = next.into_iter().flatten().flatten().min();
            let timeout = next.map(|left| Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            events.clear();
            let _ = epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            );
            for event in &events {
                let key = event.data.u64();
                if key != BELL {
                    self.handle(key, false);
                }
            }
        }
    }

    pub(super) fn obey(&mut self, command: Command) {
        contain::provoked("obey");
        match command {
            Command::Listen(listener) => {
                self.insert(Source::Listener(listener));
            }
            // A side port that other processes have as well is not closed by this one, so it has to be taken out.
            Command::Unlisten(closing) => self.forget(|source| match source {
                Source::Listener(listener) => closing.is(listener),
                Source::Stranger(stranger) => closing.is_of(stranger),
                _ => false,
            }),
            Command::Stranger(stranger) => self.meet(stranger),
            Command::Fork => self.share_side_ports(),
            Command::Contact(goal, waiting) => self.contact(goal, waiting),
            Command::Open(opening) => self.open(opening),
            Command::Lost(remote) => self.carrier_lost(&remote),
            Command::NotConnected(line, outcome) => self.line_over(line, outcome),
            Command::Leave(socket, link, id) => {
                socket.leave_link(&link, id);
                self.settle_claims();
                shelf::go_on();
            }
            Command::Knocks(listener, life, fd) => {
                self.sources.retain(|_, source| !source.is_over());
                self.insert(Source::Knocks { listener, life, fd });
            }
            Command::Condemned(link) => {
                self.runtime.let_go(&link);
                link.bury();
            }
            Command::CondemnAll => self.sessions_mut().for_each(|s| s.link.condemn()),
            Command::Heirs(heirs) => self.watch_heirs(heirs),
            Command::Claims => self.settle_claims(),
            Command::Resend(resending) => {
                self.insert(Source::Resending(resending));
            }
            Command::Announce(listener) => listener.announce(),
            Command::Stand(socket, serial) => self.make_stand(socket, serial),
            Command::Stood => {
                self.forget(|source| matches!(source, Source::Rising(r) if r.is_over()));
                self.settle_claims();
            }
            Command::Stalled(token) => {
                if let Some(&key) = self.sessions.get(&token) {
                    self.handle(key, false);
                }
            }
            Command::Room(listener) => {
                let held =
                    |s: &Source| matches!(s, Source::Stranger(s) if s.is_held_for(&listener));
                let keys: Vec<u64> = self
                    .sources
                    .iter()
                    .filter(|(_, s)| held(s))
                    .map(|(k, _)| *k)
                    .collect();
                for key in keys {
                    self.handle(key, false);
                }
            }
        }
    }

    /// Forked children have the side ports too: threads of the application take in who knocks from now on.
    fn share_side_ports(&mut self) {
        let is_shared = |s: &Source| matches!(s, Source::Listener(l) if l.is_shared());
        let shared: Vec<_> = self
            .sources
            .values()
            .filter_map(|source| match source {
                Source::Listener(listener) if listener.is_shared() => Some(listener.clone()),
                _ => None,
            })
            .collect();
        self.forget(is_shared);
        for listener in shared {
            self.share(&listener);
        }
    }

    /// See [`share_side_ports`](Self::share_side_ports).
    fn share(&mut self, listener: &Arc<SideListener>) {
        listener.owner().share_side_port(listener);
        self.obey(Command::Room(listener.clone()));
    }

    /// Sees `opening` through from here on.
    pub fn open(&mut self, opening: Opening) {
        if let Some(source) = Source::Opening(opening).advance(self, false) {
            self.insert(source);
        }
    }

    /// Looks after `source` from now on.
    pub fn insert(&mut self, source: Source) -> Option<u64> {
        let key = self.next_key;
        self.next_key += 1;
        let data = EventData::new_u64(key);
        let added = source.with_fd(|fd, interest| epoll::add(&self.epoll, fd, data, interest));
        match added {
            Ok(()) => {
                if let Source::Engine(engine) = &source {
                    engine.is_at_home_in(self.epoll.as_fd().as_raw_fd(), key);
                }
                self.sources.insert(key, source);
                Some(key)
            }
            Err(_) => {
                source.give_up(self);
                None
            }
        }
    }

    /// Does something with the session of `key`, if it is still there.
    pub fn with_session(&mut self, key: u64, act: impl FnOnce(&mut Session, &mut Control)) {
        let Some(Source::Session(mut session)) = self.sources.remove(&key) else {
            return;
        };
        if contain::catch("a session", || act(&mut session, self)).is_none() {
            self.end_session(&session);
            return;
        }
        self.sources.insert(key, Source::Session(session));
        // Its interest may be another one now.
        self.handle(key, false);
    }

    /// The process is about to end: what was written is to reach its peers.
    fn help_to_exit(&mut self) -> Option<Duration> {
        if !crate::exit::is_awaited() {
            return None;
        }
        if self.is_settled() {
            crate::exit::settled();
            return None;
        }
        Some(EXIT_LOOK)
    }

    /// All sessions.
    pub fn sessions_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.sources.values_mut().filter_map(|source| match source {
            Source::Session(session) => Some(&mut **session),
            _ => None,
        })
    }

    /// The children of each fork, as far as any live.
    pub fn heirs(&self) -> impl Iterator<Item = &Heirs> {
        self.sources.values().filter_map(|source| match source {
            Source::Heirs(heirs) => Some(heirs),
            _ => None,
        })
    }

    /// Whether nothing is left to be sent again.
    pub fn has_resent_all(&self) -> bool {
        let resends = |source: &Source| matches!(source, Source::Resending(_));
        !self.sources.values().any(resends)
    }

    /// What is looked after under `key`.
    pub fn source(&self, key: u64) -> Option<&Source> {
        self.sources.get(&key)
    }

    /// Looks no longer after what `is_over`.
    pub fn forget(&mut self, is_over: impl Fn(&Source) -> bool) {
        for (_, source) in self.sources.extract_if(|_, source| is_over(source)) {
            source.with_fd(|fd, _| {
                let _ = epoll::delete(&self.epoll, fd);
            });
        }
    }

    pub(super) fn turn(&mut self, key: u64, expired: bool) {
        let Some(source) = self.sources.remove(&key) else {
            return;
        };
        let raw = |fd: BorrowedFd<'_>, interest| (fd.as_raw_fd(), interest);
        let (fd, interest) = source.with_fd(raw);
        let lasting = source.is_lasting();
        if !lasting {
            // Before its turn: afterwards the number may be closed while a duplicate lives on, and
            // the registration could not be named any more.
            let _ = epoll::delete(&self.epoll, sys::borrow(fd));
        }
        let Some(source) = source.advance(self, expired) else {
            if lasting {
                let _ = epoll::delete(&self.epoll, sys::borrow(fd));
            }
            return;
        };
        if !lasting {
            let (fd, interest) = source.with_fd(raw);
            let data = EventData::new_u64(key);
            if epoll::add(&self.epoll, sys::borrow(fd), data, interest).is_err() {
                source.give_up(self);
                return;
            }
        } else {
            debug_assert!(source.with_fd(raw) == (fd, interest));
        }
        self.sources.insert(key, source);
    }

    /// Ends what has run out of time; returns the time until the next does.
    fn expire(&mut self) -> Option<Duration> {
        let now = now_ns();
        let late: Vec<u64> = self
            .sources
            .iter()
            .filter(|(_, s)| s.deadline().is_some_and(|d| d <= now))
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            self.handle(key, true);
        }
        self.promised.retain(|_, promise| promise.deadline > now);
        self.sources
            .values()
            .filter_map(Source::deadline)
            .min()
            .map(|d| Duration::from_nanos(d.saturating_sub(now)))
    }

    /// A link with another process was made: looks after it. Returns whether it can; if not, the link is over.
    #[must_use]
    pub fn adopt_link(&mut self, link: &Arc<Link>, io: usize, peer: RawFd) -> bool {
        self.runtime.serve(link, io);
        let peer = Source::Peer {
            link: link.clone(),
            fd: peer,
        };
        self.insert(peer).is_some()
    }
}

impl Source {
    pub(super) fn with_fd<T>(&self, f: impl FnOnce(BorrowedFd<'_>, EventFlags) -> T) -> T {
        match self {
            Source::Listener(l) => f(l.as_fd(), EventFlags::IN),
            Source::Rendezvous(fd) => f(fd.as_fd(), EventFlags::IN),
            Source::Stranger(s) => f(s.as_fd(), s.interest()),
            Source::Guest(g) => f(g.as_fd(), EventFlags::IN),
            Source::Contact(c) => f(c.as_fd(), c.interest()),
            Source::Opening(o) => f(sys::borrow(o.fd()), o.interest()),
            Source::Peer { fd, .. } => f(sys::borrow(*fd), EventFlags::IN | EventFlags::RDHUP),
            Source::Dying(dying) => f(dying.process.as_fd(), EventFlags::IN),
            Source::Session(s) => f(s.as_fd(), s.interest()),
            Source::RdmaEvents(channel) => f(channel.as_fd(), EventFlags::IN),
            Source::Engine(engine) => f(engine.as_fd(), network::EVENTS),
            Source::Device(device) => f(device.async_fd(), EventFlags::IN),
            Source::Removals(removals) => f(removals.as_fd(), EventFlags::IN),
            Source::Heirs(heirs) => f(heirs.as_fd(), EventFlags::empty()),
            Source::Resending(r) => f(r.as_fd(), r.interest()),
            Source::Door(fd) => f(fd.as_fd(), EventFlags::IN),
            Source::Rising(r) => f(r.as_fd(), r.interest()),
            Source::Knocks { fd, .. } => f(sys::borrow(*fd), EventFlags::IN | EventFlags::ET),
        }
    }

    /// Whether its descriptor was closed by others, and its number may be another's.
    fn is_over(&self) -> bool {
        matches!(self, Source::Knocks { listener, life, .. } if listener.lock().life != *life)
    }

    /// Whether its descriptor and interest stay the same from turn to turn.
    fn is_lasting(&self) -> bool {
        matches!(
            self,
            Source::Listener(_)
                | Source::Rendezvous(_)
                | Source::Peer { .. }
                | Source::RdmaEvents(_)
                | Source::Engine(_)
                | Source::Device(_)
                | Source::Removals(_)
                | Source::Heirs(_)
                | Source::Door(_)
                | Source::Knocks { .. }
        )
    }

    /// Where it comes from, if it has a place among those who knock.
    pub(super) fn knocks_from(&self) -> Option<Origin> {
        match self {
            Source::Stranger(stranger) => stranger.knocks_from(),
            Source::Guest(guest) => Some(guest.origin()),
            _ => None,
        }
    }

    /// When it is to be given up, in [`now_ns`] time.
    fn deadline(&self) -> Option<u64> {
        match self {
            Source::Stranger(s) => s.deadline(),
            Source::Guest(g) => Some(g.deadline()),
            Source::Contact(c) => Some(c.deadline()),
            Source::Opening(o) => Some(o.deadline()),
            Source::Dying(dying) => Some(dying.deadline),
            Source::Session(s) => s.deadline(),
            Source::Rising(r) => Some(r.deadline()),
            Source::Listener(_)
            | Source::Rendezvous(_)
            | Source::Peer { .. }
            | Source::RdmaEvents(_)
            | Source::Engine(_)
            | Source::Device(_)
            | Source::Removals(_)
            | Source::Resending(_)
            | Source::Heirs(_)
            | Source::Door(_)
            | Source::Knocks { .. } => None,
        }
    }

    /// Does what can be done now; gives back what is left to look after.
    fn advance(self, control: &mut Control, expired: bool) -> Option<Source> {
        match self {
            Source::Listener(listener) => {
                control.accept_strangers(&listener);
                if listener.is_shared() {
                    control.share(&listener);
                    return None;
                }
                Some(Source::Listener(listener))
            }
            Source::Rendezvous(fd) => {
                control.accept_guests(&fd);
                Some(Source::Rendezvous(fd))
            }
            Source::Stranger(stranger) => stranger.advance(control, expired).map(Source::Stranger),
            // What it has said is heard even then: it may have waited here for its turn.
            Source::Guest(guest) => guest
                .advance(control)
                .filter(|_| !expired)
                .map(Source::Guest),
            Source::Contact(contact) => contact.advance(control, expired).map(Source::Contact),
            Source::Opening(opening) => opening
                .advance_in_background(control, expired)
                .map(Source::Opening),
            Source::Peer { link, fd } => control
                .hear_peer(&link, fd)
                .then_some(Source::Peer { link, fd }),
            Source::Dying(dying) => {
                match expired {
                    true => control.is_left(&dying.link),
                    false => control.is_dead(&dying.link),
                }
                None
            }
            Source::Session(mut session) => {
                if session.advance(control, expired) {
                    return Some(Source::Session(session));
                }
                control.end_session(&session);
                None
            }
            Source::RdmaEvents(channel) => {
                control.rdma_events();
                Some(Source::RdmaEvents(channel))
            }
            Source::Engine(engine) => {
                // Watched by edges: what is left after one stays quiet until it is made sure of.
                engine.take_event();
                network::serve();
                Some(Source::Engine(engine))
            }
            Source::Device(device) => control
                .device_events(&device)
                .then_some(Source::Device(device)),
            Source::Removals(removals) => {
                control.removals(&removals);
                Some(Source::Removals(removals))
            }
            Source::Heirs(heirs) => {
                control.heirs_gone(&heirs);
                None
            }
            Source::Resending(resending) => resending.advance(control).map(Source::Resending),
            Source::Door(fd) => {
                control.accept_at_door(&fd);
                Some(Source::Door(fd))
            }
            Source::Rising(rising) => rising.advance(expired).map(Source::Rising),
            Source::Knocks { listener, life, fd } => {
                listener.knocked(life);
                Some(Source::Knocks { listener, life, fd })
            }
        }
    }

    /// The kernel would not watch it.
    fn give_up(self, control: &mut Control) {
        match self {
            Source::Contact(contact) => {
                let _ = contact.advance(control, true);
            }
            Source::Opening(opening) => {
                let _ = opening.advance_in_background(control, true);
            }
            // Who comes there is to find it closed, not wait.
            Source::Listener(listener) => listener.stop(),
            Source::Peer { link, .. } => control.is_left(&link),
            Source::Dying(dying) => control.is_left(&dying.link),
            Source::Resending(resending) => resending.break_off(control),
            Source::Session(session) => control.end_session(&session),
            Source::Rising(rising) => rising.fail(),
            _ => {}
        }
    }
}
