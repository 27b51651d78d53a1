//! The accepting side: who knocks at a side port, and what becomes of it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use super::contact::window_is_sane;
use super::crowd::{self, Origin, Place};
use super::dialing::FIRST_NS;
use super::granting::Visit;
use super::io_thread::{Control, Source};
use super::listener::{Arrival, Asked, SideListener, Standing};
use super::passing;
use super::refused::REFUSED;
use super::session::{Peer, Session};
use super::wire::{Answer, Frame, Hello, MAX_FRAME, Name, Parsed, Verdict, hears_elsewhere};
use crate::contain;
use crate::fabric::FabricKind;
use crate::real::sys::{self, Errno, InternalFd, now_ns};
use crate::runtime::Runtime;
use crate::socket::Socket;
use crate::socket::addr::Address;
use crate::stats;

/// Callers that are taken in in a row: links are to have their turn as well.
pub(super) const CALLERS: usize = 64;

/// A link that an answer has promised, until the peer fetches its memory.
pub struct Promise {
    pub(super) peer_window: u64,
    pub(super) peer_pid: u32,
    pub(super) capabilities: u64,
    /// When it lapses.
    pub deadline: u64,
}

enum Stage {
    /// Nothing known yet.
    Silent,
    /// The same, at a door.
    AtDoor,
    /// The hello was answered; kept until the peer closes it.
    Answered,
    /// It named a link that this process does not have, and was told which process this is.
    Directed,
    /// Wants to be that, as soon as the listener has room; if it is nothing that this process can give, plain TCP.
    Held(Option<Asked>),
}

/// A connection to a side port.
pub struct Stranger {
    fd: InternalFd,
    remote: Address,
    /// Where it knocked, unless another process has passed it on.
    listener: Weak<SideListener>,
    buf: Vec<u8>,
    stage: Stage,
    deadline: u64,
    place: Option<Place>,
}

/// What somebody wants who knocks at a side port that is shared.
pub enum Wish {
    /// To be a connection of the application, on a link that this process has.
    Connection(Arrival),
    /// Something that is for the control thread.
    Other(Stranger),
    /// It is gone.
    Nothing,
}

/// How long a stranger has to say what it is, in [`now_ns`] time.
fn patience(runtime: &Runtime) -> u64 {
    now_ns() + runtime.connect_timeout().as_nanos() as u64
}

/// Who knocks next at `listener`.
///
/// # Errors
/// The kernel's, of accept(2).
pub fn knocking(listener: &Arc<SideListener>, runtime: &Runtime) -> Result<Stranger, Errno> {
    // (One that has said what it wants needs none.)
    let place = || Some(Place::to_knock());
    let stranger = knocking_at(listener.as_fd(), Stage::Silent, runtime, place)?;
    Ok(Stranger {
        listener: Arc::downgrade(listener),
        ..stranger
    })
}

fn knocking_at(
    at: BorrowedFd<'_>,
    stage: Stage,
    runtime: &Runtime,
    place: impl FnOnce() -> Option<Option<Place>>,
) -> Result<Stranger, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::accept_with(at, flags)?;
    let Some(place) = place() else {
        crowd::turned_away();
        return Err(Errno::CONNABORTED);
    };
    let fd = InternalFd::adopt(fd);
    let remote = Address::peer_of(fd.as_raw_fd()).ok_or(Errno::CONNABORTED)?;
    Ok(Stranger {
        fd,
        remote,
        listener: Weak::new(),
        buf: Vec::new(),
        stage,
        deadline: patience(runtime),
        place,
    })
}

/// Whether the peer of a connection that waits for a verdict has given up.
pub fn is_gone(fd: &InternalFd) -> bool {
    let mut byte = [0; 1];
    let looked = rustix::net::recv(fd, &mut byte, RecvFlags::DONTWAIT | RecvFlags::PEEK);
    !matches!(looked, Err(Errno::AGAIN | Errno::INTR))
}

/// Our address of `fd` as the peer meant it: the kernel's, with the application's port.
pub fn local_of(fd: &InternalFd, listener: &SideListener) -> Address {
    Address::local_of(fd.as_raw_fd())
        .unwrap_or(listener.local)
        .with_port(listener.local.port())
}

/// Tells the peer that it is connected, with `socket`.
///
/// # Errors
/// The kernel's, of send(2).
pub fn welcome(fd: &InternalFd, socket: &Socket) -> Result<(), Errno> {
    let (verdict, window) = match socket.receive_window() {
        Some(window) => (Verdict::Yes, window),
        None => (Verdict::Plain, 0),
    };
    reply(fd, &Frame::Verdict { verdict, window })
}

fn reply(fd: &InternalFd, frame: &Frame) -> Result<(), Errno> {
    let bytes = frame.encode();
    match rustix::net::send(fd, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)? {
        n if n == bytes.len() => Ok(()),
        _ => Err(Errno::PIPE),
    }
}

impl Control {
    /// Takes in who knocks at `listener`.
    pub fn accept_strangers(&mut self, listener: &Arc<SideListener>) {
        for _ in 0..CALLERS {
            if listener.is_shared() {
                return;
            }
            let runtime = self.runtime;
            let place = || self.make_place().map(Some);
            match knocking_at(listener.as_fd(), Stage::Silent, runtime, place) {
                Ok(stranger) => self.meet(Stranger {
                    listener: Arc::downgrade(listener),
                    ..stranger
                }),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return pause_unless_done(error),
            }
        }
    }

    /// Takes in who knocks at a door.
    pub fn accept_at_door(&mut self, door: &InternalFd) {
        for _ in 0..CALLERS {
            let runtime = self.runtime;
            let place = || self.make_place().map(Some);
            match knocking_at(door.as_fd(), Stage::AtDoor, runtime, place) {
                Ok(stranger) => self.meet(stranger),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return pause_unless_done(error),
            }
        }
    }

    /// Hears what `stranger` wants.
    pub fn meet(&mut self, stranger: Stranger) {
        if let Some(stranger) = stranger.advance(self, false) {
            self.insert(Source::Stranger(stranger));
        }
    }
}

/// An accept without descriptors or memory would be tried again at once, for ever.
pub fn pause_unless_done(error: Errno) {
    const NAP_NS: u64 = 2_000_000;
    if error != Errno::AGAIN {
        sys::nap(NAP_NS);
    }
}

impl Stranger {
    /// One that another process of a side port has taken in, with what it has said, and passed on.
    pub(super) fn passed_on(
        runtime: &Runtime,
        fd: InternalFd,
        remote: Address,
        said: Vec<u8>,
        place: Place,
    ) -> Stranger {
        Stranger {
            fd,
            remote,
            listener: Weak::new(),
            buf: said,
            stage: Stage::Silent,
            deadline: patience(runtime),
            place: Some(place),
        }
    }

    /// Whether it knocked at `listener`.
    pub fn is_for(&self, listener: &Arc<SideListener>) -> bool {
        core::ptr::eq(self.listener.as_ptr(), Arc::as_ptr(listener))
    }

    /// It knocked at a side port that is shared: what it wants, as far as it has said so already.
    pub fn asks(mut self, runtime: &Runtime) -> Wish {
        if self.listen().is_err() {
            return Wish::Nothing;
        }
        match Frame::parse(&self.buf) {
            Ok(Parsed::Frame(
                Frame::Open {
                    conn,
                    token,
                    window,
                    ..
                },
                n,
            )) if n == self.buf.len() => match runtime.accepted(&token) {
                Some(link) => {
                    let asked = Asked::new(link, conn, window, self.remote);
                    let arrival = self.into_arrival(asked);
                    // The kernel keeps what a peer has said that has given up since.
                    match arrival.is_gone() {
                        true => Wish::Nothing,
                        false => Wish::Connection(arrival),
                    }
                }
                None => self.for_control_thread(),
            },
            _ => self.for_control_thread(),
        }
    }

    fn for_control_thread(self) -> Wish {
        if self.place.is_none() {
            crowd::turned_away();
            return Wish::Nothing;
        }
        Wish::Other(self)
    }

    fn into_arrival(self, asked: Asked) -> Arrival {
        Arrival {
            fd: Some(self.fd),
            remote: self.remote,
            standing: Standing::Asks(asked),
            way: None,
        }
    }

    /// Takes in what it has said.
    fn listen(&mut self) -> Result<(), Errno> {
        let mut bytes = [0; MAX_FRAME];
        match rustix::net::recv(&self.fd, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((_, n)) if n > 0 => self.buf.extend_from_slice(&bytes[..n.min(MAX_FRAME)]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            _ => return Err(Errno::CONNRESET),
        }
        Ok(())
    }

    /// Where it comes from, if it has a place among those who knock.
    pub fn knocks_from(&self) -> Option<Origin> {
        let knocks = !matches!(self.stage, Stage::Held(_));
        knocks.then(|| Origin::of(&self.remote))
    }

    /// Whether it waits for room in the queue of `listener`.
    pub fn is_held_for(&self, listener: &Arc<SideListener>) -> bool {
        matches!(self.stage, Stage::Held(_)) && self.is_for(listener)
    }

    /// See [`Source`].
    pub fn interest(&self) -> EventFlags {
        match self.stage {
            Stage::Held(_) => EventFlags::empty(),
            _ => EventFlags::IN | EventFlags::RDHUP,
        }
    }

    /// See [`Source`]. One that is held waits as long as its peer does, as in a kernel backlog.
    pub fn deadline(&self) -> Option<u64> {
        (!matches!(self.stage, Stage::Held(_))).then_some(self.deadline)
    }

    /// Does what can be done now; gives itself back while there is more to come.
    pub fn advance(mut self, control: &mut Control, expired: bool) -> Option<Stranger> {
        contain::provoked("stranger");
        if !matches!(self.stage, Stage::Held(_)) {
            self.listen().ok()?;
            let frame = match Frame::parse(&self.buf) {
                // What it has said is heard even then: it may have waited here for its turn.
                Ok(Parsed::Incomplete) if expired => return None,
                Ok(Parsed::Incomplete) => return Some(self),
                Ok(Parsed::Frame(frame, n)) if n == self.buf.len() => frame,
                _ => {
                    stats::add(&stats::global().hellos_rejected, 1);
                    return None;
                }
            };
            let said = core::mem::take(&mut self.buf);
            match (&self.stage, frame) {
                (Stage::Silent, Frame::Hello(hello)) if window_is_sane(hello.window) => {
                    let own = &control.runtime.identity.rendezvous;
                    if let Some(wanted) = hello.wanted.filter(|wanted| wanted != own) {
                        // Once: whoever passed it to us was to pass it to us.
                        let first = self.listener.strong_count() > 0;
                        if first && let Err(error) = passing::pass_on(&self.fd, &said, &wanted) {
                            tracing::info!(target: "netacc::control", "a process that shares a side port cannot be reached: {error}");
                            let _ = reply(&self.fd, &Frame::Answer(control.excuse(&hello)));
                        }
                        return None;
                    }
                    let local = Address::local_of(self.fd.as_raw_fd());
                    let answer = control.answer(&hello, local, &self.remote);
                    let until = now_ns() + control.runtime.config.peer_ttl.as_nanos() as u64;
                    let here = local.unwrap_or(self.remote).to_std().ip();
                    REFUSED.note(self.remote.to_std().ip(), here, answer.verdict, until);
                    reply(&self.fd, &Frame::Answer(answer.clone())).ok()?;
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
                    Stage::Silent | Stage::Directed,
                    Frame::Open {
                        version,
                        conn,
                        token,
                        window,
                    },
                ) => {
                    let link = control.runtime.accepted(&token);
                    if link.is_none()
                        && hears_elsewhere(version)
                        && !matches!(self.stage, Stage::Directed)
                    {
                        // It belongs to another process that listens on the same port, but this one has the connection:
                        // the peer may name a link with this one, or make one.
                        let process = control.runtime.identity.rendezvous;
                        reply(&self.fd, &Frame::Elsewhere { process }).ok()?;
                        self.stage = Stage::Directed;
                        self.deadline = patience(control.runtime) + FIRST_NS;
                        return Some(self);
                    }
                    // Who cannot do that goes on as plain TCP.
                    let listener = self.listener.upgrade()?;
                    let asked = link.map(|link| Asked::new(link, conn, window, self.remote));
                    self.place = Some(Place::to_wait()?);
                    self.stage = Stage::Held(asked);
                    listener.held.fetch_add(1, Ordering::AcqRel);
                }
                (Stage::Silent | Stage::AtDoor, Frame::Stand { conn, token }) => {
                    let stands = control.runtime.accepted(&token).and_then(|link| {
                        let socket = link.socket_of(conn)?;
                        Some(socket.stand_on(&link, conn, self.fd, &self.remote))
                    });
                    if stands != Some(true) {
                        stats::add(&stats::global().hellos_rejected, 1);
                    }
                    return None;
                }
                _ => {
                    stats::add(&stats::global().hellos_rejected, 1);
                    return None;
                }
            }
        }
        self.admit(control)
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
            acceptor: Name::default(),
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
        sys::poll_mask(self.fd.as_raw_fd(), 0) != 0
    }

    /// Hands the connection to the application's `accept`, or waits for room.
    fn admit(mut self, control: &mut Control) -> Option<Stranger> {
        let listener = self.listener.upgrade()?;
        if !listener.has_room() {
            if self.is_broken() {
                // It goes another way, and would be reported for ever.
                listener.held.fetch_sub(1, Ordering::AcqRel);
                return None;
            }
            return Some(self);
        }
        let Stage::Held(asked) = std::mem::replace(&mut self.stage, Stage::Silent) else {
            return None;
        };
        listener.held.fetch_sub(1, Ordering::AcqRel);
        let _answering = listener.answering();
        if listener.is_stopped() {
            return None;
        }
        let arrival = match asked {
            Some(asked) if listener.is_shared() => {
                if !listener.owner().lock().is_claimed() {
                    // Others accept here. By the application's own port it comes to them.
                    return None;
                }
                self.into_arrival(asked)
            }
            // The same.
            None if listener.is_shared() => return None,
            asked => {
                let heritage = listener.owner().lock().heritage();
                let local = local_of(&self.fd, &listener);
                let remote = self.remote;
                let socket = match asked {
                    Some(asked) => {
                        let (link, conn) = asked.place();
                        let socket = asked.grant(heritage, local);
                        if let Some(window) = socket.receive_window() {
                            let (link, local, remote) = (&link, local, remote);
                            let visit = Visit {
                                link,
                                conn,
                                local,
                                remote,
                            };
                            // Before the peer is connected: it may have closed the connection at once.
                            control.grant(&listener, &visit, heritage, window);
                        }
                        socket
                    }
                    None => Socket::arrived(heritage, local, None, 0),
                };
                if welcome(&self.fd, socket).is_err() {
                    socket.discard();
                    return None;
                }
                Arrival {
                    fd: Some(self.fd),
                    remote,
                    standing: Standing::Taken(socket),
                    way: None,
                }
            }
        };
        if let Err(arrival) = listener.push(arrival) {
            arrival.discard();
        }
        None
    }
}

impl AsFd for Stranger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
