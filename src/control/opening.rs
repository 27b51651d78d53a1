//! Opening one connection: the application's own socket, connected to the side port, says which
//! connection of which link it is, and the acceptor says yes.
//!
//! Which of several processes that share the side port takes the connection is decided by their kernel. One that does not
//! know the link says which process it is, and the connection is opened anew, on a link with that one.

use core::time::Duration;
use std::sync::Arc;

use rustix::event::epoll::EventFlags;
use rustix::fd::RawFd;
use rustix::net::{RecvFlags, SendFlags};

use super::contact::connected;
use super::contact::{Goal, Waiting};
use super::io_thread::Control;
use super::wire::{Frame, LONGEST_REPLY, Name, Parsed, VERSION, Verdict};
use crate::contain;
use crate::fabric::network;
use crate::link::Link;
use crate::real::sys::{self, Errno, now_ns};
use crate::socket::Socket;
use crate::socket::addr::Address;
use crate::stats::Reason;

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Connecting,
    AwaitVerdict,
    Over(Step),
}

/// A connection that is being opened.
#[derive(Clone)]
pub struct Opening {
    /// The application's socket.
    pub socket: &'static Socket,
    /// Its life when the connect began.
    pub life: u64,
    /// The link that is to carry it, and its id there; `None` while it goes from one link to another.
    pub place: Option<(Arc<Link>, u32)>,
    /// Where the application connects to.
    pub dest: Address,
    fd: RawFd,
    stage: Stage,
    announced: bool,
    window: u64,
    patience: Patience,
    deadline: u64,
    /// When the time for all of it is over.
    end: u64,
    peer_window: Option<u64>,
    /// How often it was taken by a process that did not know the link.
    turns: u32,
    /// That process, once contact was made with it.
    met: Option<Name>,
}

/// How long an opening waits. An answer takes as long as a process needs to come round to it; where several share a side
/// port, until one of them accepts.
#[derive(Clone, Copy)]
pub struct Patience {
    /// For one answer.
    answer: Duration,
    /// In all, but for contacts that are made on the way.
    all: Duration,
}

impl Patience {
    /// Where a peer is waited for during `timeout` at most. At a side port that is known to be `shared` it may well be that
    /// nobody accepts, and the kernel's port is the way.
    pub fn new(timeout: Duration, shared: bool) -> Patience {
        const PARTS: (u32, u32) = (2, 10);
        const LEAST: Duration = Duration::from_millis(20);
        let part = if shared { PARTS.1 } else { PARTS.0 };
        Patience {
            answer: (timeout / part).max(LEAST).min(timeout),
            all: timeout,
        }
    }
}

/// Links that one opening tries: each may be taken for another process's.
const MOST_TURNS: u32 = 4;

/// Where an opening stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Something has to happen on the socket first.
    Wait,
    /// The acceptor took it as a connection of the link.
    Accelerated,
    /// The acceptor took it as plain TCP.
    Plain,
    /// This process took it, which does not know the link.
    Elsewhere(Name),
    /// Nothing came of it; the socket is to connect to the application's own port.
    Failed(Reason),
}

impl Opening {
    /// An opening on `fd`, whose connect to the side port was started; `window` is our own, in bytes.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is another thing that the caller alone knows"
    )]
    pub fn new(
        socket: &'static Socket,
        life: u64,
        fd: RawFd,
        link: Arc<Link>,
        id: u32,
        dest: Address,
        window: u64,
        patience: Patience,
    ) -> Self {
        let now = now_ns();
        Opening {
            socket,
            life,
            place: Some((link, id)),
            dest,
            fd,
            stage: Stage::Connecting,
            announced: false,
            window,
            patience,
            deadline: now + patience.answer.as_nanos() as u64,
            end: now + patience.all.as_nanos() as u64,
            peer_window: None,
            turns: 0,
            met: None,
        }
    }

    /// It is to be connection `id` of `link` now, at a side port that several share; `window` is our own, in bytes.
    pub fn turn_to(&mut self, link: Arc<Link>, id: u32, window: u64) {
        self.place = Some((link, id));
        self.window = window;
        let answer = Patience::new(self.patience.all, true).answer.as_nanos() as u64;
        let next = self.patience.answer.as_nanos() as u64;
        let now = now_ns();
        // A contact may have taken all the time that there was.
        self.deadline = (now + next).min(self.end).max(now + answer);
        self.stage = Stage::Connecting;
        self.announced = false;
        self.turns += 1;
    }

    /// Whether another link may be tried.
    pub fn may_turn(&self) -> bool {
        self.turns < MOST_TURNS
    }

    /// Whether it was opened on another link than the first.
    pub fn has_turned(&self) -> bool {
        self.turns > 0
    }

    /// Contact with `process` is about to be made for it. False if that has been tried.
    pub fn meets(&mut self, process: &Name) -> bool {
        self.met.replace(*process) != Some(*process)
    }

    /// The acceptor's window for what is sent to it, in bytes, once it has accepted.
    pub fn peer_window(&self) -> Option<u64> {
        self.peer_window
    }

    /// The application's descriptor.
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// Whether the acceptor may know of it.
    pub fn is_announced(&self) -> bool {
        self.announced
    }

    /// When it is to be given up, in [`now_ns`] time.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    /// What to wait for on the descriptor.
    pub fn interest(&self) -> EventFlags {
        match self.stage {
            Stage::Connecting => EventFlags::OUT,
            Stage::AwaitVerdict | Stage::Over(_) => EventFlags::IN | EventFlags::RDHUP,
        }
    }

    /// Does what can be done now. The caller holds the socket's lock or is inside its connect, so
    /// that the descriptor is still the socket's.
    pub fn step(&mut self) -> Step {
        contain::provoked("opening");
        if let Stage::Over(step) = self.stage {
            return step;
        }
        let fd = sys::borrow(self.fd);
        if self.stage == Stage::Connecting {
            match connected(fd) {
                None => return Step::Wait,
                Some(Err(_)) => return Step::Failed(Reason::SidePortRefused),
                Some(Ok(())) => {}
            }
            let Some((link, id)) = &self.place else {
                return Step::Failed(Reason::LinkFailed);
            };
            let frame = Frame::Open {
                version: VERSION,
                conn: *id,
                token: *link.token(),
                window: self.window,
            }
            .encode();
            if link.is_remote() {
                // The end of the number's former bearer goes first.
                network::flush();
            }
            self.announced = true;
            if rustix::net::send(fd, &frame, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
                != Ok(frame.len())
            {
                return Step::Failed(Reason::LinkFailed);
            }
            self.stage = Stage::AwaitVerdict;
        }
        // Looked at until whole, then taken: what follows it is the stream's.
        let mut bytes = [0; LONGEST_REPLY];
        let n = match rustix::net::recv(fd, &mut bytes[..], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok((_, n)) if n > 0 => n.min(LONGEST_REPLY),
            Err(Errno::AGAIN | Errno::INTR) => return Step::Wait,
            _ => return Step::Failed(Reason::PeerRefused),
        };
        let (frame, len) = match Frame::parse(&bytes[..n]) {
            Ok(Parsed::Incomplete) => return Step::Wait,
            Ok(Parsed::Frame(frame, len)) => (frame, len),
            Err(_) => return Step::Failed(Reason::PeerRefused),
        };
        match rustix::net::recv(fd, &mut bytes[..len], RecvFlags::DONTWAIT) {
            Ok((_, taken)) if taken == len => {}
            // What is left of it would be taken for the stream's.
            _ => return Step::Failed(Reason::LinkFailed),
        }
        match frame {
            Frame::Verdict {
                verdict: Verdict::Yes,
                window,
            } => {
                self.peer_window = Some(window);
                Step::Accelerated
            }
            Frame::Verdict {
                verdict: Verdict::Plain,
                ..
            } => Step::Plain,
            Frame::Elsewhere { process } => Step::Elsewhere(process),
            _ => Step::Failed(Reason::PeerRefused),
        }
    }

    /// The control thread's turn. Gives itself back while there is more to come.
    pub fn advance_in_background(
        mut self,
        control: &mut Control,
        expired: bool,
    ) -> Option<Opening> {
        let socket = self.socket;
        match socket.continue_opening(control.runtime, &mut self, expired) {
            Step::Wait => return Some(self),
            step @ Step::Elsewhere(process) => {
                let goal = Goal {
                    address: self.dest,
                    process: Some(process),
                };
                control.contact(goal, Waiting::Opening(self.resume(step)));
            }
            Step::Accelerated | Step::Plain | Step::Failed(_) => {}
        }
        None
    }
}

impl Opening {
    /// Keeps an outcome that was seen by a thread that cannot act on it: the control thread's first
    /// turn finds it.
    #[must_use]
    pub fn resume(mut self, step: Step) -> Opening {
        if step != Step::Wait {
            self.stage = Stage::Over(step);
        }
        self
    }
}
