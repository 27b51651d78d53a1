//! The accepting side: who knocks at a side port, and what becomes of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::contact::{terms, window_is_sane};
use super::identity::random;
use super::io_thread::{Control, Source};
use super::listener::{Arrival, SideListener};
use super::passing;
use super::session::{Peer, Session};
use super::wire::{Answer, CAPABILITIES, Frame, Hello, MAX_FRAME, Parsed, VERSION, Verdict};
use crate::fabric::FabricKind;
use crate::fabric::shm::{End, Segment, Shm};
use crate::link::{Link, Token};
use crate::real::sys::{self, Errno, InternalFd, now_ns};
use crate::socket::addr::Address;
use crate::stats;

/// Connections that have not yet said what they are; more are turned away.
const MOST_STRANGERS: usize = 1024;
/// Links that peers made and do not use yet; more are turned away.
const MOST_UNUSED: usize = 256;

/// A link that an answer has promised, until the peer fetches its memory.
pub struct Promise {
    peer_window: u64,
    peer_pid: u32,
    capabilities: u64,
    /// When it lapses.
    pub deadline: u64,
}

enum Stage {
    /// Nothing known yet.
    Silent,
    /// The hello was answered; kept until the peer closes it.
    Answered,
    /// Wants to be connection `conn` of `link`, as soon as the listener has room.
    Held {
        conn: u32,
        link: Option<Arc<Link>>,
        /// The peer's receive window.
        window: u64,
    },
}

/// A connection to a side port.
pub struct Stranger {
    fd: InternalFd,
    remote: Address,
    listener: Arc<SideListener>,
    buf: Vec<u8>,
    stage: Stage,
    deadline: u64,
}

impl Control {
    /// Takes in who knocks at `listener`.
    pub fn accept_strangers(&mut self, listener: &Arc<SideListener>) {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd = match rustix::net::accept_with(listener.as_fd(), flags) {
                Ok(fd) => InternalFd::adopt(fd),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return pause_unless_done(error),
            };
            let Some(remote) = Address::peer_of(fd.as_raw_fd()) else {
                continue;
            };
            if self.strangers() >= MOST_STRANGERS {
                continue;
            }
            let deadline = now_ns() + self.runtime.connect_timeout().as_nanos() as u64;
            let stranger = Stranger {
                fd,
                remote,
                listener: listener.clone(),
                buf: Vec::new(),
                stage: Stage::Silent,
                deadline,
            };
            if let Some(stranger) = stranger.advance(self, false) {
                self.insert(Source::Stranger(stranger));
            }
        }
    }

    /// The answer to a hello that came to our address `local`.
    fn answer(&mut self, hello: &Hello, local: Option<Address>) -> Answer {
        stats::add(&stats::global().hellos_received, 1);
        let runtime = self.runtime;
        let mut answer = Answer {
            version: VERSION,
            verdict: Verdict::Yes,
            fabric: 0,
            capabilities: hello.capabilities & CAPABILITIES,
            window: runtime.config.window_size as u64,
            pid: std::process::id(),
            token: random(),
            rendezvous: runtime.identity.rendezvous,
            doors: Vec::new(),
        };
        if !(hello.oldest..=hello.newest).contains(&VERSION) {
            answer.verdict = Verdict::Version;
            return answer;
        }
        let verbs = hello.fabrics.contains(&(FabricKind::Verbs as u8));
        let doors = match (self.rdma(), local) {
            (Some(rdma), Some(local)) if verbs => rdma.doors(&local),
            _ => Vec::new(),
        };
        let Some(kind) = self.choose(hello, !doors.is_empty()) else {
            let route = verbs != self.rdma.is_some() || verbs && doors.is_empty();
            answer.verdict = match route {
                true => Verdict::Route,
                false => Verdict::Fabric,
            };
            return answer;
        };
        answer.fabric = kind as u8;
        match kind {
            FabricKind::Loop => {
                if self.make_loop(answer.token).is_err() {
                    answer.verdict = Verdict::Resources;
                }
            }
            FabricKind::Shm => {
                let deadline = now_ns() + runtime.connect_timeout().as_nanos() as u64;
                let promise = Promise {
                    peer_window: hello.window,
                    peer_pid: hello.pid,
                    capabilities: answer.capabilities,
                    deadline,
                };
                self.promised.insert(answer.token, promise);
            }
            FabricKind::Verbs | FabricKind::Tcp => {
                let unused = |session: &&mut Session| session.awaits_carrier();
                if self.sessions_mut().filter(unused).count() >= MOST_UNUSED {
                    answer.verdict = Verdict::Resources;
                } else if kind == FabricKind::Verbs {
                    answer.doors = doors;
                }
            }
        }
        answer
    }

    /// The first of the fabrics that a hello offers which will do for this peer.
    fn choose(&self, hello: &Hello, reachable: bool) -> Option<FabricKind> {
        let identity = &self.runtime.identity;
        let same_process = hello.process == identity.process;
        let same_host = hello.host.same_as(&identity.host);
        let serves = |kind: FabricKind| match kind {
            FabricKind::Loop => same_process,
            FabricKind::Shm => same_host && !same_process,
            FabricKind::Verbs => reachable && !same_process,
            FabricKind::Tcp => !same_process,
        };
        let ours = &self.runtime.config.fabrics;
        let offered = hello.fabrics.iter().copied();
        offered
            .filter_map(FabricKind::from_code)
            .find(|kind| ours.contains(&kind.name()) && serves(*kind))
    }

    fn make_loop(&mut self, token: Token) -> Result<(), Errno> {
        let (connector, acceptor) = Shm::pair(self.runtime.config.ring_size)?;
        let (pid, uid) = (std::process::id(), rustix::process::geteuid().as_raw());
        let terms = terms(
            self.runtime,
            token,
            self.runtime.config.window_size as u64,
            pid,
            uid,
            CAPABILITIES,
        );
        let own = Link::new(Box::new(connector), terms);
        let accepted = Link::new(Box::new(acceptor), terms);
        for link in [&own, &accepted] {
            self.runtime.serve(link, 0);
        }
        self.own_ends.insert(token, own);
        self.accepted.insert(token, accepted);
        Ok(())
    }

    /// Listens at the rendezvous. Without it there are no links to other processes.
    pub fn open_rendezvous(&mut self) {
        let made = (|| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            let fd = InternalFd::adopt(fd);
            let address = SocketAddrUnix::new_abstract_name(&self.runtime.identity.rendezvous)?;
            rustix::net::bind(&fd, &address)?;
            rustix::net::listen(&fd, 128)?;
            Ok::<_, Errno>(fd)
        })();
        match made {
            Ok(fd) => {
                self.insert(Source::Rendezvous(fd));
            }
            Err(error) => {
                tracing::warn!(target: "netacc::control", "no rendezvous for shared memory: {error}")
            }
        }
    }

    /// Takes in who comes to the rendezvous.
    pub fn accept_guests(&mut self, rendezvous: &InternalFd) {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd = match rustix::net::accept_with(rendezvous, flags) {
                Ok(fd) => InternalFd::adopt(fd),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return pause_unless_done(error),
            };
            let Ok(credentials) = rustix::net::sockopt::socket_peercred(&fd) else {
                continue;
            };
            if self.strangers() >= MOST_STRANGERS {
                continue;
            }
            let deadline = now_ns() + self.runtime.connect_timeout().as_nanos() as u64;
            let guest = Guest {
                fd,
                uid: credentials.uid.as_raw(),
                deadline,
            };
            if let Some(guest) = guest.advance(self) {
                self.insert(Source::Guest(guest));
            }
        }
    }

    /// Takes what the other process of `link` passes. False once that process is gone.
    pub fn hear_peer(&mut self, link: &Arc<Link>, fd: RawFd) -> bool {
        let mut bytes = [0; MAX_FRAME];
        loop {
            match passing::receive(sys::borrow(fd), &mut bytes) {
                Ok((n, fds)) if n > 0 => {
                    if let (Ok(Parsed::Frame(Frame::Bell { slot }, _)), Some(bell)) =
                        (Frame::parse(&bytes[..n]), fds.into_iter().next())
                    {
                        link.fabric().install_bell(slot, bell);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if !link.is_dead() => return true,
                _ => break,
            }
        }
        tracing::info!(target: "netacc::control", "the peer process of a link is gone");
        match is_dead(sys::borrow(fd)) {
            true => link.retire_of_dead(),
            false => link.retire(Errno::CONNRESET, false),
        }
        self.accepted.remove(link.token());
        self.runtime.let_go(link);
        false
    }
}

/// Whether the process at the other end of a Unix socket is dead, and its descriptors are closed: it may be about to.
fn is_dead(peer: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};
    const PATIENCE: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 200_000_000,
    };
    let Ok(credentials) = rustix::net::sockopt::socket_peercred(peer) else {
        return false;
    };
    match pidfd_open(credentials.pid, PidfdFlags::empty()) {
        Ok(process) => {
            let mut fds = [PollFd::new(&process, PollFlags::IN)];
            poll(&mut fds, Some(&PATIENCE)) == Ok(1)
        }
        Err(error) => error == Errno::SRCH,
    }
}

/// An accept without descriptors or memory would be tried again at once, for ever.
fn pause_unless_done(error: Errno) {
    if error != Errno::AGAIN {
        let nap = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 2_000_000,
        };
        let _ = rustix::event::poll(&mut [], Some(&nap));
    }
}

impl Stranger {
    /// Whether it knocked at `listener`.
    pub fn is_for(&self, listener: &Arc<SideListener>) -> bool {
        Arc::ptr_eq(&self.listener, listener)
    }

    /// Whether it waits for room in the queue of `listener`.
    pub fn is_held_for(&self, listener: &Arc<SideListener>) -> bool {
        matches!(self.stage, Stage::Held { .. }) && self.is_for(listener)
    }

    /// See [`Source`].
    pub fn interest(&self) -> EventFlags {
        match self.stage {
            Stage::Held { .. } => EventFlags::empty(),
            _ => EventFlags::IN | EventFlags::RDHUP,
        }
    }

    /// See [`Source`]. One that is held waits as long as its peer does, as in a kernel backlog.
    pub fn deadline(&self) -> Option<u64> {
        (!matches!(self.stage, Stage::Held { .. })).then_some(self.deadline)
    }

    /// Does what can be done now; gives itself back while there is more to come.
    pub fn advance(mut self, control: &mut Control, expired: bool) -> Option<Stranger> {
        if expired {
            return None;
        }
        if !matches!(self.stage, Stage::Held { .. }) {
            let mut bytes = [0; MAX_FRAME];
            match rustix::net::recv(&self.fd, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((_, n)) if n > 0 => self.buf.extend_from_slice(&bytes[..n.min(MAX_FRAME)]),
                Err(Errno::AGAIN | Errno::INTR) => return Some(self),
                _ => return None,
            }
            let frame = match Frame::parse(&self.buf) {
                Ok(Parsed::Incomplete) => return Some(self),
                Ok(Parsed::Frame(frame, n)) if n == self.buf.len() => frame,
                _ => {
                    stats::add(&stats::global().hellos_rejected, 1);
                    return None;
                }
            };
            self.buf.clear();
            match (&self.stage, frame) {
                (Stage::Silent, Frame::Hello(hello)) if window_is_sane(hello.window) => {
                    let local = Address::local_of(self.fd.as_raw_fd());
                    let answer = control.answer(&hello, local);
                    self.reply(&Frame::Answer(answer.clone()).encode()).ok()?;
                    let kind = FabricKind::from_code(answer.fabric);
                    if answer.verdict == Verdict::Yes
                        && let Some(kind @ (FabricKind::Verbs | FabricKind::Tcp)) = kind
                    {
                        self.become_session(control, kind, &hello, &answer);
                        return None;
                    }
                    self.stage = Stage::Answered;
                    return Some(self);
                }
                (
                    Stage::Silent,
                    Frame::Open {
                        conn,
                        token,
                        window,
                    },
                ) => {
                    // A link that this process does not have belongs to another one that listens on
                    // the same port: the connection goes on as plain TCP.
                    let link = control
                        .accepted
                        .get(&token)
                        .filter(|l| !l.is_dead())
                        .cloned();
                    self.stage = Stage::Held { conn, link, window };
                    self.listener.held.fetch_add(1, Ordering::AcqRel);
                }
                _ => {
                    stats::add(&stats::global().hellos_rejected, 1);
                    return None;
                }
            }
        }
        self.admit()
    }

    /// The connection stays, as that of a link.
    fn become_session(
        self,
        control: &mut Control,
        kind: FabricKind,
        hello: &Hello,
        answer: &Answer,
    ) {
        let peer = Peer {
            token: answer.token,
            window: hello.window,
            pid: hello.pid,
            capabilities: answer.capabilities,
        };
        match Session::new(control.runtime, self.fd, kind, false, &peer) {
            Ok(session) => control.begin_session(session),
            Err(error) => {
                stats::add(&stats::global().links_failed, 1);
                tracing::warn!(target: "netacc::control", "cannot make a link: {error}");
            }
        }
    }

    /// Whether its kernel connection is over in both directions.
    fn is_broken(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.fd, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)) == Ok(1)
    }

    fn reply(&self, frame: &[u8]) -> Result<(), Errno> {
        match rustix::net::send(&self.fd, frame, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)? {
            n if n == frame.len() => Ok(()),
            _ => Err(Errno::PIPE),
        }
    }

    /// Hands the connection to the application's `accept`, or waits for room.
    fn admit(mut self) -> Option<Stranger> {
        if !self.listener.has_room() {
            if self.is_broken() {
                // It goes another way, and would be reported for ever.
                self.listener.held.fetch_sub(1, Ordering::AcqRel);
                return None;
            }
            return Some(self);
        }
        let Stage::Held { conn, link, window } = std::mem::replace(&mut self.stage, Stage::Silent)
        else {
            return None;
        };
        self.listener.held.fetch_sub(1, Ordering::AcqRel);
        let (local, remote) = (self.local(), self.remote);
        let owner = self.listener.owner();
        let socket = owner.arrived(local, link.as_ref().map(|l| (l, conn)), window);
        let receive_window = socket.receive_window();
        let verdict = match receive_window {
            Some(window) => Frame::Verdict {
                verdict: Verdict::Yes,
                window,
            },
            None => Frame::Verdict {
                verdict: Verdict::Plain,
                window: 0,
            },
        };
        if self.reply(&verdict.encode()).is_err() {
            socket.discard();
            return None;
        }
        let arrival = Arrival {
            fd: self.fd,
            socket,
            remote,
        };
        if let Err(arrival) = self.listener.push(arrival) {
            arrival.socket.discard();
        }
        None
    }

    /// Our address as the peer meant it: the kernel's, with the application's port.
    fn local(&self) -> Address {
        let port = self.listener.local.port();
        Address::local_of(self.fd.as_raw_fd())
            .unwrap_or(self.listener.local)
            .with_port(port)
    }
}

impl AsFd for Stranger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A connection to the rendezvous that has not said for which link it comes.
pub struct Guest {
    fd: InternalFd,
    uid: u32,
    deadline: u64,
}

impl Guest {
    /// See [`Source`].
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Makes the promised link. Gives itself back until the peer has spoken.
    pub fn advance(self, control: &mut Control) -> Option<Guest> {
        let mut bytes = [0; MAX_FRAME];
        let (n, fds) = match passing::receive(&self.fd, &mut bytes) {
            Err(Errno::AGAIN | Errno::INTR) => return Some(self),
            Ok(got) if got.0 > 0 => got,
            _ => return None,
        };
        let token = match Frame::parse(&bytes[..n]) {
            Ok(Parsed::Frame(Frame::Attach { token }, _)) => token,
            // A child may be another user's by now; it knows what nobody else does.
            Ok(Parsed::Frame(Frame::Claim { key, serial }, _))
                if key == control.runtime.identity.family =>
            {
                control.claimed(self.fd, serial);
                return None;
            }
            Ok(Parsed::Frame(Frame::Heir { key }, _)) if key == control.runtime.identity.family => {
                control.inherits(self.fd);
                return None;
            }
            _ => return None,
        };
        // Memory is shared with processes of the same user only.
        if self.uid != rustix::process::geteuid().as_raw() {
            return None;
        }
        let promise = control.promised.remove(&token)?;
        let io_bell = fds.into_iter().next()?;
        if let Err(error) = self.hand_over(control, token, &promise, io_bell) {
            stats::add(&stats::global().links_failed, 1);
            tracing::warn!(target: "netacc::control", "cannot make a shared-memory link: {error}");
        }
        None
    }

    fn hand_over(
        self,
        control: &mut Control,
        token: Token,
        promise: &Promise,
        io_bell: InternalFd,
    ) -> Result<(), Errno> {
        let runtime = control.runtime;
        let ring_size = runtime.config.ring_size;
        let memory = Segment::create(ring_size)?;
        let segment = Segment::map(memory.as_fd(), ring_size)?;
        let io = runtime.choose_io();
        let frame = Frame::Segment {
            ring_size: ring_size as u64,
        }
        .encode();
        passing::send(
            self.fd.as_fd(),
            &frame,
            &[memory.as_fd(), runtime.io(io).bell.as_fd()],
        )?;
        let raw = self.fd.as_raw_fd();
        let terms = terms(
            runtime,
            token,
            promise.peer_window,
            promise.peer_pid,
            self.uid,
            promise.capabilities,
        );
        let link = Link::new(
            Box::new(Shm::with_peer(segment, End::Acceptor, io_bell, self.fd)),
            terms,
        );
        control.accepted.insert(token, link.clone());
        control.adopt_link(&link, io, raw);
        Ok(())
    }
}

impl AsFd for Guest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
