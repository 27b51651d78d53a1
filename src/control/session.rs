//! The control connection of a link to another host, for as long as the link lives.
//!
//! It tells when the peer's process is gone, it is how the ends of a link say that a carrier broke, and
//! it carries the link itself while there is no queue pair ([`crate::fabric::stream`]). After the hello and
//! its answer both sides speak the frames of that module. The connecting side is the *active* one: it begins
//! every carrier.

use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::net::sockopt;

use super::contact::terms;
use super::io_thread::{Command, Control, Source};
use super::rdma::Outcome;
use super::wire::Door;
use crate::config::Config;
use crate::fabric::FabricKind;
use crate::fabric::plain::Plain;
use crate::fabric::remote::carrier::Posted;
use crate::fabric::remote::message::Message;
use crate::fabric::remote::{End, Hub, MOST_PAYLOAD, Remote, RingSizes};
use crate::fabric::stream::{Heard, Read, Reader, Stream, StreamCarrier};
use crate::link::{Link, Token};
use crate::real::sys::{Errno, InternalFd, now_ns};
use crate::runtime::Runtime;
use crate::socket::addr::Address;
use crate::stats::{self, Reason};

/// See the module.
pub struct Session {
    /// The link's end.
    pub remote: Arc<Remote>,
    /// The link.
    pub link: Arc<Link>,
    active: bool,
    stream: Arc<Stream>,
    reader: Reader,
    /// The stream's present life as a carrier: its number on the stream, and for the link's end.
    life: (u32, u32),
    dialing: Dialing,
    /// Beats in a row without a word from the peer, which owed one.
    silent: u32,
    /// Since when the link carries nothing, and what it had written by then.
    idle_since: Option<u64>,
}

/// Time between two looks at each session, in nanoseconds.
pub const BEAT_NS: u64 = 1_000_000_000;
/// So many beats without an answer, and the carrier is given up.
const PATIENCE: u32 = 4;

/// How the active side looks for a queue pair.
#[derive(Default)]
struct Dialing {
    /// Where the peer listens, the preferred first.
    doors: Vec<Door>,
    /// The next one to try.
    next: usize,
    /// How often all of them were tried in vain.
    rounds: u32,
    /// The line that is being made, and when it is given up.
    line: Option<(u64, u64)>,
    /// When to try again, and how long was waited for that, in nanoseconds.
    again: Option<u64>,
    pause: u64,
    /// The destination whose first contact waits for the outcome, until [`first_until`](Self::first_until).
    first: Option<Address>,
    first_until: u64,
    /// When the present queue pair came to be.
    up_since: u64,
    /// When to say something again on a queue pair on which the peer has not answered yet, and how long was
    /// waited for that, in nanoseconds.
    nudge: Option<(u64, u64)>,
}

/// How long the peer has to answer on a new queue pair before it is spoken to again; doubled each time. Soft
/// iWARP may leave the first message lying, if it comes as the queue pair is being connected, until another
/// one comes.
const NUDGE_NS: u64 = 10_000_000;

/// How often a first contact tries all doors: a connect may fail for a reason that the next does not meet (soft
/// iWARP chooses a local port that may be taken).
const ROUNDS: u32 = 3;
/// Longest time for a connection to be made, and for a first contact to be held up by that: the application's
/// connect waits for it.
const DIAL_NS: u64 = 4_000_000_000;
const FIRST_NS: u64 = 3_000_000_000;
/// Shortest and longest pause before another try.
const PAUSE_NS: (u64, u64) = (100_000_000, 30_000_000_000);
/// A queue pair that held for so long was a good one.
const GOOD_NS: u64 = 10_000_000_000;

/// Who the peer is, from the hello or the answer.
pub struct Peer {
    /// The link's name.
    pub token: Token,
    /// Its window, in bytes.
    pub window: u64,
    /// Its process id, for display.
    pub pid: u32,
}

impl Hub for Runtime {
    fn defer(&self, remote: &Arc<Remote>) {
        if self.network.defer(remote) {
            self.ring_io();
        }
    }

    fn lost(&self, remote: &Arc<Remote>) {
        stats::add(&stats::global().carriers_lost, 1);
        self.command(Command::Lost(remote.clone()));
    }
}

/// How large rings are at first and at most.
pub fn ring_sizes(config: &Config) -> RingSizes {
    let buffer = config.msg_size.next_power_of_two().max(16 << 10);
    let first = match config.conn_per_qp {
        1 => buffer,
        _ => 4 * buffer,
    };
    RingSizes {
        first: first.min(config.ring_size),
        most: config.ring_size,
    }
}

impl Session {
    /// A link over `fd`, a connected socket; its rings are plain memory until a device needs others.
    ///
    /// # Errors
    /// No memory for its rings.
    pub fn new(
        runtime: &'static Runtime,
        fd: InternalFd,
        kind: FabricKind,
        active: bool,
        peer: &Peer,
    ) -> Result<Session, Errno> {
        // A host that went away without a word is noticed, sooner or later, as for any connection.
        let _ = sockopt::set_socket_keepalive(&fd, true);
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        let sizes = ring_sizes(&runtime.config);
        let remote = Remote::new(runtime, kind, sizes, &Plain)?;
        let mut terms = terms(runtime, peer.token, peer.window, peer.pid, u32::MAX);
        terms.msg_size = terms.msg_size.min(MOST_PAYLOAD);
        let link = Link::new(Box::new(End(remote.clone())), terms);
        remote.attach(&link);
        runtime.network.join();
        Ok(Session {
            remote,
            link,
            active,
            stream: Stream::new(fd),
            reader: Reader::default(),
            life: (0, 0),
            dialing: Dialing::default(),
            silent: 0,
            idle_since: None,
        })
    }

    /// Whether it is this side that begins every carrier.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// See [`Source`].
    pub fn deadline(&self) -> Option<u64> {
        let given_up = self.dialing.line.map(|(_, at)| at);
        let nudge = self.dialing.nudge.map(|(at, _)| at);
        [given_up, nudge, self.dialing.again]
            .into_iter()
            .flatten()
            .min()
    }

    /// See [`Source`].
    pub fn interest(&self) -> EventFlags {
        let mut interest = EventFlags::IN | EventFlags::RDHUP;
        if self.stream.is_blocked() {
            interest |= EventFlags::OUT;
        }
        interest
    }

    /// The stream carries the link from here on. (The active side's.)
    pub fn carry(&mut self, runtime: &'static Runtime) {
        let number = self.life.0 + 1;
        let id = self.remote.next_carrier();
        self.life = (number, id);
        // Plain memory reaches any ring: it cannot fail.
        let _ = self.remote.begin(id, self.carrier(runtime, number));
    }

    fn carrier(&self, runtime: &'static Runtime, number: u32) -> Box<StreamCarrier> {
        let token = *self.link.token();
        let stalled = move || runtime.command(Command::Stalled(token));
        Box::new(StreamCarrier::new(
            self.stream.clone(),
            number,
            Box::new(stalled),
        ))
    }

    /// Does what can be done now; false when the session is over.
    pub fn advance(&mut self, control: &mut Control, expired: bool) -> bool {
        if expired {
            self.dial_on_time(control);
        }
        if self.link.is_dead() {
            return false;
        }
        if self.stream.is_blocked() {
            match self.stream.go_on() {
                Posted::Done => self.remote.flush(),
                Posted::Full => {}
                Posted::Failed => return false,
            }
        }
        loop {
            let (life, remote) = (self.life, self.remote.clone());
            let place = |number, from, bytes: &[u8]| match number == life.0 {
                true => remote.place(life.1, from, bytes),
                false => Ok(()),
            };
            match self.reader.read(&self.stream, place) {
                Read::Frame(heard) => {
                    if self.hear(control, &heard).is_err() {
                        self.link.retire(Errno::CONNRESET, true);
                        return false;
                    }
                    self.link.poll(None);
                }
                Read::Nothing => return true,
                Read::End => {
                    tracing::info!(target: "netacc::control", "the peer process of a link is gone");
                    self.end(control, Errno::CONNRESET, false);
                    return false;
                }
                Read::Broken(error) => {
                    tracing::info!(target: "netacc::control", "the connection of a link broke: {error}");
                    // A reset comes from a process that is gone as well; any other error is the network's,
                    // and what was lost there nobody knows.
                    self.end(control, error, error != Errno::CONNRESET);
                    return false;
                }
                Read::Nonsense => {
                    self.link.retire(Errno::CONNRESET, true);
                    return false;
                }
            }
        }
    }

    /// What the carrier has brought is taken in, then the link is over.
    fn end(&self, control: &Control, error: Errno, broken: bool) {
        control.runtime.network.touch(&self.remote);
        crate::fabric::network::poll(None);
        self.link.retire(error, broken);
    }

    fn hear(&mut self, control: &mut Control, heard: &Heard) -> Result<(), crate::conn::Violation> {
        if heard.number == 0 {
            if heard.message == Message::Broken && self.active {
                self.replace_carrier(control);
            }
            return Ok(());
        }
        if !self.active
            && heard.number > self.life.0
            && matches!(heard.message, Message::Resume { .. })
        {
            let id = self.remote.next_carrier();
            self.life = (heard.number, id);
            self.remote
                .expect(id, self.carrier(control.runtime, heard.number));
        }
        if heard.number != self.life.0 {
            return Ok(());
        }
        self.remote.hear(self.life.1, heard.message)
    }

    /// Once in a while: is the peer there, and is the link still of use? False: it is over.
    ///
    /// A device tells of a dead peer only while something is under way, and some not even then.
    pub fn beat(&mut self, runtime: &Runtime) -> bool {
        let heard = self.remote.was_heard();
        if heard || self.remote.is_settled() || self.remote.is_broken() {
            self.silent = 0;
        } else {
            self.silent += 1;
        }
        if self.silent >= PATIENCE && self.life.1 != self.remote.carrier() {
            tracing::info!(target: "netacc::rdma", "the peer does not answer: the queue pair is given up");
            self.silent = 0;
            self.remote.give_up_carrier();
        } else if !self.remote.is_settled() {
            self.remote.ping();
        }
        !self.active || !self.is_idle_for_long(runtime)
    }

    fn is_idle_for_long(&mut self, runtime: &Runtime) -> bool {
        let idle = self.link.is_unused() && self.remote.is_clean() && self.dialing.first.is_none();
        if !idle {
            self.idle_since = None;
            return false;
        }
        let now = now_ns();
        let since = *self.idle_since.get_or_insert(now);
        let limit = runtime.config.qp_idle.map(|limit| limit.as_nanos() as u64);
        limit.is_some_and(|limit| now - since >= limit) && self.link.retire_if_unused()
    }

    /// The carrier broke, here or there: the stream carries the link on, until there is a queue pair again.
    pub fn replace_carrier(&mut self, control: &Control) {
        if !self.active {
            let _ = self.stream.say(&Message::Broken);
            return;
        }
        if self.dialing.first.is_some() {
            // There never was one: the outcome of dialing decides.
            return;
        }
        self.carry(control.runtime);
        if !self.dialing.doors.is_empty() && self.dialing.line.is_none() {
            self.dial_later();
        }
    }

    /// Looks for a queue pair to one of `doors`, for the first contact with `first`.
    pub fn dial_first(&mut self, control: &mut Control, doors: Vec<Door>, first: Address) {
        self.dialing.doors = doors;
        self.dialing.first = Some(first);
        self.dialing.first_until = now_ns() + FIRST_NS;
        self.dial(control);
    }

    /// Tries the next door, and those after it until one begins to open.
    fn dial(&mut self, control: &mut Control) {
        self.dialing.again = None;
        let (token, scope) = (*self.link.token(), self.scope());
        if self.dialing.next >= self.dialing.doors.len() {
            self.dialing.rounds += 1;
            let waits = self.dialing.first.is_some() && now_ns() < self.dialing.first_until;
            if waits && self.dialing.rounds < ROUNDS {
                self.dialing.next = 0;
            }
        }
        while let Some(door) = self.dialing.doors.get(self.dialing.next) {
            if self.dialing.first.is_some() && now_ns() >= self.dialing.first_until {
                break;
            }
            self.dialing.next += 1;
            let Some(rdma) = control.rdma() else { break };
            match rdma.dial(door, scope, token) {
                Ok(line) => {
                    let until = now_ns() + DIAL_NS;
                    let until = match self.dialing.first {
                        Some(_) => until.min(self.dialing.first_until),
                        None => until,
                    };
                    self.dialing.line = Some((line, until));
                    return;
                }
                Err(error) => {
                    tracing::info!(target: "netacc::rdma", "no connection: {error}");
                }
            }
        }
        self.dialing.next = 0;
        match self.dialing.first.take() {
            Some(address) => {
                control.contact_failed(&address, Reason::RdmaUnreachable);
                self.link.retire(Errno::CONNRESET, false);
            }
            None => self.dial_later(),
        }
    }

    /// The interface by which the peer is reached, for addresses that mean something on it only.
    fn scope(&self) -> u32 {
        use rustix::fd::AsRawFd;
        let peer = Address::peer_of(self.stream.as_fd().as_raw_fd());
        peer.map_or(0, |peer| peer.scope())
    }

    fn dial_later(&mut self) {
        let now = now_ns();
        let was_good = self.dialing.up_since != 0 && now - self.dialing.up_since > GOOD_NS;
        let pause = match was_good {
            true => PAUSE_NS.0,
            false => (2 * self.dialing.pause).clamp(PAUSE_NS.0, PAUSE_NS.1),
        };
        self.dialing.pause = pause;
        self.dialing.again = Some(now + pause);
    }

    fn dial_on_time(&mut self, control: &mut Control) {
        let now = now_ns();
        if let Some((line, at)) = self.dialing.line
            && at <= now
        {
            if let Some(rdma) = control.rdma() {
                rdma.hang_up(line);
            }
            self.dialing.line = None;
            self.dial(control);
        } else if let Some((at, pause)) = self.dialing.nudge
            && at <= now
        {
            let waits = self.remote.nudge();
            self.dialing.nudge = waits.then_some((now + 2 * pause, 2 * pause));
        } else if self.dialing.again.is_some_and(|at| at <= now) {
            self.dialing.next = 0;
            self.dial(control);
        }
    }

    /// A line that we made has come up, or ended.
    pub fn dialed(&mut self, control: &mut Control, line: u64, outcome: Outcome) {
        if self.dialing.line.is_none_or(|(own, _)| own != line) {
            return;
        }
        self.dialing.line = None;
        let Outcome::Up(channel) = outcome else {
            return self.dial(control);
        };
        if self.remote.begin(channel.id, channel.carrier()).is_err() {
            if let Some(address) = self.dialing.first.take() {
                control.contact_failed(&address, Reason::LockedMemory);
                self.link.retire(Errno::CONNRESET, false);
            } else {
                self.replace_carrier(control);
            }
            return;
        }
        self.dialing.next = 0;
        self.dialing.up_since = now_ns();
        self.dialing.nudge = Some((self.dialing.up_since + NUDGE_NS, NUDGE_NS));
        match self.dialing.first.take() {
            Some(address) => control.contact_made(&address, self.link.clone()),
            None => stats::add(&stats::global().carriers_resumed, 1),
        }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Control {
    /// Looks after `session` from now on.
    pub fn begin_session(&mut self, session: Session) {
        let token = *session.link.token();
        if !session.active {
            self.accepted.insert(token, session.link.clone());
        }
        if let Some(key) = self.insert(Source::Session(Box::new(session))) {
            self.sessions.insert(token, key);
        }
    }

    /// The session of the link that is named so.
    pub fn session(&self, link: &Token) -> Option<&Session> {
        match self.source(*self.sessions.get(link)?) {
            Some(Source::Session(session)) => Some(session),
            _ => None,
        }
    }

    /// Does something with that session, if there is one.
    pub fn with_session_of(&mut self, link: &Token, act: impl FnOnce(&mut Session, &mut Control)) {
        if let Some(&key) = self.sessions.get(link) {
            self.with_session(key, act);
        }
    }

    /// Looks at all sessions; returns the time until the next look.
    pub fn beat(&mut self) -> Option<Duration> {
        if self.sessions.is_empty() {
            return None;
        }
        let now = now_ns();
        let pace = match self.runtime.config.qp_idle {
            Some(Duration::ZERO) => BEAT_NS / 20,
            _ => BEAT_NS,
        };
        if now >= self.next_beat {
            self.next_beat = now + pace;
            let runtime = self.runtime;
            let over: Vec<Token> = self
                .sessions_mut()
                .filter_map(|session| (!session.beat(runtime)).then(|| *session.link.token()))
                .collect();
            for link in over {
                // Its turn finds the link dead.
                self.with_session_of(&link, |_, _| {});
            }
        }
        Some(Duration::from_nanos(self.next_beat.saturating_sub(now)))
    }

    /// Whether the peers of all links have taken in what was written. Asks them if not.
    pub fn is_settled(&mut self) -> bool {
        let mut settled = true;
        for session in self.sessions_mut() {
            if !session.remote.is_settled() {
                session.remote.ping();
                settled = false;
            }
        }
        settled
    }

    /// `session` is over.
    pub fn end_session(&mut self, session: &Session) {
        let token = session.link.token();
        if let Some(address) = session.dialing.first {
            self.contact_failed(&address, Reason::LinkFailed);
        }
        self.sessions.remove(token);
        self.accepted.remove(token);
        self.runtime.let_go(&session.link);
        session.link.retire(Errno::CONNRESET, false);
        session.remote.shut();
        if let Some(rdma) = &mut self.rdma {
            rdma.end(token);
        }
    }

    /// A link's carrier broke.
    pub fn carrier_lost(&mut self, remote: &Arc<Remote>) {
        let found = remote
            .link()
            .and_then(|link| self.sessions.get(link.token()).copied());
        if let Some(key) = found {
            self.with_session(key, |session, control| {
                if session.remote.is_broken() {
                    session.replace_carrier(control);
                }
            });
        }
    }
}
