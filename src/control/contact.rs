//! First contact with a destination: a hello on a connection of our own, and the link that comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::PollFlags;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::cache;
use super::identity::is_rendezvous;
use super::io_thread::{Control, Source};
use super::opening::Opening;
use super::passing;
use super::rdma;
use super::session::{Peer, Session};
use super::wire::{
    Answer, FAST, Frame, Hello, MAX_FRAME, Name, OLDEST, Parsed, RESENDS, VERSION, Verdict,
};
use crate::config::FabricName;
use crate::contain;
use crate::fabric::FabricKind;
use crate::fabric::shm::{End, MAX_RING, Segment, Shm};
use crate::link::{Link, Terms};
use crate::log::{self, Left};
use crate::poll::waiter::Waiter;
use crate::real::sys::{self, Errno, InternalFd, now_ns};
use crate::runtime::Runtime;
use crate::socket::Socket;
use crate::socket::addr::Address;
use crate::stats::{self, Reason};

/// Who waits for a contact's outcome.
#[derive(Clone)]
pub enum Waiting {
    /// Nobody: it is for connections that come later.
    Nobody,
    /// A thread in a blocking connect.
    Thread(Arc<AtomicBool>, &'static Waiter),
    /// A socket whose connect is under way, in the life of that number.
    Socket(&'static Socket, u64),
    /// A connection that was taken by a process to which there was no link with room.
    Opening(Opening),
}

/// With whom contact is made.
#[derive(Clone, Copy)]
pub struct Goal {
    /// Where the application connects to.
    pub address: Address,
    /// Which of the processes that listen there; `None`: whichever answers.
    pub process: Option<Name>,
}

impl Goal {
    /// Under which it is known in [`Control::contacts`].
    pub(super) fn key(&self) -> (cache::Key, Option<Name>) {
        (cache::key(&self.address), self.process)
    }
}

/// What can come of a contact, other than a link.
type Failure = Reason;

/// How far a contact has come.
enum Answered {
    /// There is more to come.
    Not,
    /// A link came of it.
    Link(Arc<Link>),
    /// Whoever goes on with it tells those who wait.
    Elsewhere,
}

enum Stage {
    /// The TCP connection to the side port is being made.
    Connecting,
    /// The hello is sent.
    AwaitAnswer { buf: Vec<u8> },
    /// The token is sent to the rendezvous.
    AwaitSegment {
        unix: InternalFd,
        answer: Answer,
        peer_uid: u32,
    },
}

/// A contact under way.
pub struct Contact {
    goal: Goal,
    tcp: InternalFd,
    stage: Stage,
    deadline: u64,
}

impl Control {
    /// Makes contact with `goal`, unless that is under way already, and tells `waiting` of the outcome.
    pub fn contact(&mut self, goal: Goal, waiting: Waiting) {
        let key = goal.key();
        if let Some(others) = self.contacts.get_mut(&key) {
            others.push(waiting);
            return;
        }
        self.contacts.insert(key, vec![waiting]);
        match Contact::start(self.runtime, goal) {
            Ok(contact) => {
                if let Some(contact) = Box::new(contact).advance(self, false) {
                    self.insert(Source::Contact(contact));
                }
            }
            Err(reason) => self.contact_failed(&goal, reason),
        }
    }

    /// No link comes of the contact with `goal`.
    pub fn contact_failed(&mut self, goal: &Goal, reason: Reason) {
        let address = &goal.address;
        log::fallback(reason, Left::ConnectionsTo(address.to_std()));
        if reason == Reason::SidePortForeign {
            stats::add(&stats::global().foreign_peers, 1);
        }
        let ttl = self.runtime.config.peer_ttl.as_nanos() as u64;
        {
            let mut cache = self.runtime.cache.lock();
            match &goal.process {
                Some(process) => cache.not_it(&cache::key(address), process, reason, ttl),
                None => cache.not_us(cache::key(address), reason, ttl),
            }
        }
        self.contact_over(goal);
    }

    /// The contact with `goal` has made a link.
    pub fn contact_made(&mut self, goal: &Goal, link: Arc<Link>) {
        let address = &goal.address;
        tracing::info!(target: "netacc::control", "{address:?} is linked by {:?}", link.fabric().kind());
        self.runtime.cache.lock().linked(cache::key(address), link);
        self.contact_over(goal);
    }

    /// Lets everybody who waited go on.
    fn contact_over(&mut self, goal: &Goal) {
        for waiting in self.contacts.remove(&goal.key()).unwrap_or_default() {
            match waiting {
                Waiting::Nobody => {}
                Waiting::Opening(opening) => self.open(opening),
                Waiting::Thread(done, waiter) => {
                    done.store(true, Ordering::Release);
                    waiter.wake();
                }
                Waiting::Socket(socket, life) => {
                    if let Some(opening) =
                        socket.go_on_connecting(self.runtime, life, &goal.address)
                    {
                        match opening {
                            Ok(opening) => self.open(opening),
                            // The link is full: another one.
                            Err(waiting) => self.contact(*goal, waiting),
                        }
                    }
                }
            }
        }
    }
}

impl Contact {
    fn start(runtime: &Runtime, goal: Goal) -> Result<Contact, Failure> {
        let address = &goal.address;
        let offset = runtime.config.side_port_offset;
        let port = address
            .port()
            .checked_add(offset)
            .ok_or(Reason::SidePortOutOfRange)?;
        let family = AddressFamily::from_raw(address.family() as u16);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let tcp = rustix::net::socket_with(family, SocketType::STREAM, flags, None)
            .map_err(|_| Reason::ResourceLimit)?;
        let tcp = InternalFd::adopt(tcp);
        match sys::connect(tcp.as_fd(), &address.with_port(port)) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(refusal(error)),
        }
        let deadline = now_ns() + runtime.connect_timeout().as_nanos() as u64;
        Ok(Contact {
            goal,
            tcp,
            stage: Stage::Connecting,
            deadline,
        })
    }

    /// Whether it is made from that address.
    pub fn is_from(&self, address: &cache::Key) -> bool {
        Address::local_of(self.tcp.as_raw_fd()).is_some_and(|own| cache::key(&own) == *address)
    }

    /// With whom it is made.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// See [`Source`].
    pub fn interest(&self) -> EventFlags {
        match self.stage {
            Stage::Connecting => EventFlags::OUT,
            _ => EventFlags::IN | EventFlags::RDHUP,
        }
    }

    /// See [`Source`].
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Does what can be done now; gives itself back while there is more to come.
    pub fn advance(mut self: Box<Self>, control: &mut Control, expired: bool) -> Option<Box<Self>> {
        let outcome = match expired {
            true => Err(match self.stage {
                Stage::Connecting | Stage::AwaitAnswer { .. } => Reason::SidePortTimeout,
                Stage::AwaitSegment { .. } => Reason::HandshakeTimeout,
            }),
            false => self.step(control),
        };
        match outcome {
            Ok(Answered::Not) => return Some(self),
            Ok(Answered::Link(link)) => control.contact_made(&self.goal, link),
            Ok(Answered::Elsewhere) => {}
            Err(reason) => control.contact_failed(&self.goal, reason),
        }
        None
    }

    fn step(&mut self, control: &mut Control) -> Result<Answered, Failure> {
        contain::provoked("contact");
        if matches!(self.stage, Stage::Connecting) {
            match connected(self.tcp.as_fd()) {
                None => return Ok(Answered::Not),
                Some(Err(error)) => return Err(refusal(error)),
                Some(Ok(())) => {}
            }
            let local = Address::local_of(self.tcp.as_raw_fd());
            let verbs = rdma::offers(control, local);
            let hello = hello(control.runtime, verbs, self.goal.process).encode();
            let sent =
                rustix::net::send(&self.tcp, &hello, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            if sent != Ok(hello.len()) {
                return Err(Reason::SidePortForeign);
            }
            stats::add(&stats::global().hellos_sent, 1);
            // Somebody listens: who does not answer now may never. There is to be time left for the kernel's port.
            let half = control.runtime.connect_timeout() / 2;
            self.deadline = self.deadline.min(now_ns() + half.as_nanos() as u64);
            self.stage = Stage::AwaitAnswer { buf: Vec::new() };
        }
        if let Stage::AwaitAnswer { buf } = &mut self.stage {
            let Some(answer) = read_answer(self.tcp.as_fd(), buf)? else {
                return Ok(Answered::Not);
            };
            return self.answered(control, answer);
        }
        self.fetch_segment(control)
    }

    fn answered(&mut self, control: &mut Control, answer: Answer) -> Result<Answered, Failure> {
        match answer.verdict {
            Verdict::Yes if (OLDEST..=VERSION).contains(&answer.version) => {}
            Verdict::Yes | Verdict::Version => return Err(Reason::VersionMismatch),
            Verdict::Fabric => return Err(Reason::NoCommonFabric),
            Verdict::Route => return Err(Reason::NoRdmaRoute),
            Verdict::Plain | Verdict::Resources => return Err(Reason::PeerRefused),
        }
        if self.goal.process.is_some_and(|p| p != answer.rendezvous) {
            return Err(Reason::PeerRefused);
        }
        match FabricKind::from_code(answer.fabric) {
            Some(FabricKind::Loop) => {
                // The answer came from this very thread.
                control
                    .own_ends
                    .remove(&answer.token)
                    .map(Answered::Link)
                    .ok_or(Reason::SidePortForeign)
            }
            Some(FabricKind::Shm) => {
                let (unix, peer_uid) = attach(control.runtime, &answer)?;
                self.stage = Stage::AwaitSegment {
                    unix,
                    answer,
                    peer_uid,
                };
                Ok(Answered::Not)
            }
            Some(kind @ (FabricKind::Tcp | FabricKind::Verbs)) => {
                let peer = Peer {
                    token: answer.token,
                    window: answer.window,
                    pid: answer.pid,
                    capabilities: answer.capabilities,
                    acceptor: answer.rendezvous,
                };
                let fd = duplicate(&self.tcp)?;
                let mut session = Session::new(control.runtime, fd, kind, true, &peer)
                    .map_err(|_| Reason::ResourceLimit)?;
                if kind == FabricKind::Tcp {
                    session.carry(control.runtime);
                    control.contact_made(&self.goal, session.link.clone());
                    control.begin_session(session);
                } else {
                    let token = *session.link.token();
                    control.begin_session(session);
                    let goal = self.goal;
                    control.with_session_of(&token, |session, control| {
                        session.dial_first(control, answer.doors, goal);
                    });
                }
                Ok(Answered::Elsewhere)
            }
            None => Err(Reason::NoCommonFabric),
        }
    }

    fn fetch_segment(&mut self, control: &mut Control) -> Result<Answered, Failure> {
        let Stage::AwaitSegment {
            unix,
            answer,
            peer_uid,
        } = &self.stage
        else {
            return Ok(Answered::Not);
        };
        let mut bytes = [0; MAX_FRAME];
        let (n, fds) = match passing::receive(unix, &mut bytes) {
            Ok((0, _)) => return Err(Reason::PeerRefused),
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Answered::Not),
            Err(_) => return Err(Reason::LinkFailed),
        };
        let Ok(Parsed::Frame(Frame::Segment { ring_size }, _)) = Frame::parse(&bytes[..n]) else {
            return Err(Reason::LinkFailed);
        };
        let Ok([memory, io_bell]) = <[InternalFd; 2]>::try_from(fds) else {
            return Err(Reason::LinkFailed);
        };
        if !passing::is_bell(&io_bell) {
            return Err(Reason::LinkFailed);
        }
        if ring_size > MAX_RING as u64 {
            return Err(Reason::LinkFailed);
        }
        let segment =
            Segment::map(memory.as_fd(), ring_size as usize).map_err(|error| match error {
                Errno::INVAL => Reason::LinkFailed,
                _ => Reason::ResourceLimit,
            })?;
        let pass = duplicate(unix)?;
        let terms = terms(
            control.runtime,
            answer.token,
            answer.window,
            answer.pid,
            *peer_uid,
            answer.capabilities,
            answer.rendezvous,
        );
        let raw = rustix::fd::AsRawFd::as_raw_fd(&pass);
        let link = Link::new(
            Box::new(Shm::with_peer(segment, End::Connector, io_bell, pass)),
            terms,
        );
        match control.adopt_link(&link, 0, raw) {
            true => Ok(Answered::Link(link)),
            false => Err(Reason::ResourceLimit),
        }
    }
}

impl AsFd for Contact {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stage {
            Stage::AwaitSegment { unix, .. } => unix.as_fd(),
            _ => self.tcp.as_fd(),
        }
    }
}

/// A second number for a socket: the first one ends with the hand-shake.
fn duplicate(fd: &InternalFd) -> Result<InternalFd, Failure> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0)
        .map(InternalFd::adopt)
        .map_err(|_| Reason::ResourceLimit)
}

/// What a link between us and a peer stands on.
pub fn terms(
    runtime: &Runtime,
    token: [u8; 16],
    peer_window: u64,
    peer_pid: u32,
    peer_uid: u32,
    capabilities: u64,
    acceptor: Name,
) -> Terms {
    let config = &runtime.config;
    Terms {
        token,
        window: config.window_size as u64,
        peer_window,
        peer_pid,
        peer_uid,
        acceptor,
        max_conns: config.conn_per_qp,
        msg_size: config.msg_size,
        resends: capabilities & RESENDS != 0,
        fast: capabilities & FAST != 0,
    }
}

/// Windows outside this are no windows: a stream would stand still, or a counter overflow.
pub fn window_is_sane(window: u64) -> bool {
    (1024..=1 << 40).contains(&window)
}

fn hello(runtime: &Runtime, verbs: bool, wanted: Option<Name>) -> Frame {
    let possible = |f: &&FabricName| verbs || **f != FabricName::Verbs;
    let offered = runtime
        .config
        .fabrics
        .iter()
        .filter(possible)
        .map(|f| match f {
            FabricName::Loop => FabricKind::Loop as u8,
            FabricName::Shm => FabricKind::Shm as u8,
            FabricName::Verbs => FabricKind::Verbs as u8,
            FabricName::Tcp => FabricKind::Tcp as u8,
        });
    Frame::Hello(Hello {
        oldest: OLDEST,
        newest: VERSION,
        capabilities: runtime.capabilities(),
        host: runtime.identity.host,
        process: runtime.identity.process,
        pid: std::process::id(),
        window: runtime.config.window_size as u64,
        fabrics: offered.collect(),
        wanted,
    })
}

/// What a failed connect to a side port means.
fn refusal(error: Errno) -> Failure {
    match error {
        Errno::TIMEDOUT => Reason::SidePortTimeout,
        Errno::ADDRNOTAVAIL | Errno::NOBUFS | Errno::NOMEM => Reason::ResourceLimit,
        _ => Reason::SidePortRefused,
    }
}

/// Whether a non-blocking connect has come to an end, and how. `None`: not yet.
pub fn connected(fd: BorrowedFd<'_>) -> Option<Result<(), Errno>> {
    sys::poll_one(fd, PollFlags::OUT, 0)
        .ok()
        .filter(|found| !found.is_empty())?;
    Some(match rustix::net::sockopt::socket_error(fd) {
        Ok(result) => result,
        Err(error) => Err(error),
    })
}

fn read_answer(tcp: BorrowedFd<'_>, buf: &mut Vec<u8>) -> Result<Option<Answer>, Failure> {
    let mut bytes = [0; MAX_FRAME];
    match rustix::net::recv(tcp, &mut bytes[..], RecvFlags::DONTWAIT) {
        Ok((_, 0)) => return Err(Reason::SidePortForeign),
        Ok((_, n)) => buf.extend_from_slice(&bytes[..n.min(MAX_FRAME)]),
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Err(_) => return Err(Reason::SidePortForeign),
    }
    match Frame::parse(buf) {
        Ok(Parsed::Incomplete) => Ok(None),
        Ok(Parsed::Frame(Frame::Answer(answer), n)) if n == buf.len() => {
            let sane = answer.verdict != Verdict::Yes || window_is_sane(answer.window);
            if sane {
                Ok(Some(answer))
            } else {
                Err(Reason::SidePortForeign)
            }
        }
        _ => Err(Reason::SidePortForeign),
    }
}

/// Goes to the peer's rendezvous and names the link. Memory is for peers that NACC_SHM_PEERS names.
fn attach(runtime: &Runtime, answer: &Answer) -> Result<(InternalFd, u32), Failure> {
    // What answers may be anything: it sends us to no other service's address.
    if !is_rendezvous(&answer.rendezvous) {
        return Err(Reason::SidePortForeign);
    }
    let (unix, credentials) = passing::visit(&answer.rendezvous).map_err(|error| match error {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => Reason::ResourceLimit,
        _ => Reason::LinkFailed,
    })?;
    let unix = InternalFd::adopt(unix);
    if !credentials.is_shared_with(runtime.config.shm_peers) {
        return Err(Reason::PeerOtherUser);
    }
    let attach = Frame::Attach {
        token: answer.token,
    }
    .encode();
    passing::send(unix.as_fd(), &attach, &[runtime.io(0).bell.as_fd()])
        .map_err(|_| Reason::LinkFailed)?;
    Ok((unix, credentials.uid.as_raw()))
}
