//! The control connection of a link to another host, for as long as the link lives.
//!
//! It tells when the peer's process is gone, it is how the ends of a link say that a carrier broke, and
//! it carries the link itself while there is no queue pair ([`crate::fabric::stream`]). After the hello and
//! its answer both sides speak the frames of that module. The connecting side is the *active* one: it begins
//! every carrier.

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::net::sockopt;

use super::contact::{Goal, terms};
use super::crowd::Origin;
use super::dialing::{Dialing, FIRST_NS};
use super::io_thread::{Command, Control, Source};
use super::shelf;
use super::wire::Name;
use crate::config::Config;
use crate::contain;
use crate::fabric::FabricKind;
use crate::fabric::plain::Plain;
use crate::fabric::remote::carrier::Posted;
use crate::fabric::remote::message::Message;
use crate::fabric::remote::{End, Hub, MOST_PAYLOAD, Remote, RingSizes};
use crate::fabric::stream::{Heard, Read, Reader, Stream, StreamCarrier};
use crate::link::{Link, Token, overdrafts};
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
    pub(super) stream: Arc<Stream>,
    reader: Reader,
    /// The stream's present life as a carrier: its number on the stream, and for the link's end.
    life: (u32, u32),
    pub(super) dialing: Dialing,
    /// For so long, in nanoseconds, the peer has owed a word and said none. (Counted in beats: if it was this process
    /// that stood still, the peer is not to blame.)
    silent: u64,
    /// Since when the link carries nothing, and what it had written by then.
    idle_since: Option<u64>,
    /// The passive side's: when the first carrier is there, or the session is over, in [`now_ns`] time.
    carried_by: Option<u64>,
    /// The passive side's: our numbers of carriers, and those that the peer gave them.
    names: ArrayVec<(u32, u32), 8>,
}

/// Time between two looks at each session, in nanoseconds.
pub const BEAT_NS: u64 = 1_000_000_000;
/// So many nanoseconds without an answer, and the carrier is given up.
const PATIENCE_NS: u64 = 4 * BEAT_NS;
/// Frames that are taken in in a row, beside those that were read with them: other sessions are to have their turn
/// as well.
const FRAMES: usize = 64;

/// Who the peer is, from the hello or the answer.
pub struct Peer {
    /// The link's name.
    pub token: Token,
    /// Its window, in bytes.
    pub window: u64,
    /// Its process id, for display.
    pub pid: u32,
    /// What it and we can do.
    pub capabilities: u64,
    /// The process, if it is the accepting one; else zero.
    pub acceptor: Name,
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

/// How large rings become.
pub fn ring_sizes(config: &Config) -> RingSizes {
    RingSizes {
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
        let mut terms = terms(
            runtime,
            peer.token,
            peer.window,
            peer.pid,
            u32::MAX,
            peer.capabilities,
            peer.acceptor,
        );
        terms.msg_size = terms.msg_size.min(MOST_PAYLOAD);
        let link = Link::new(Box::new(End(remote.clone())), terms);
        remote.attach(&link);
        runtime.network.join();
        let patience = FIRST_NS + runtime.connect_timeout().as_nanos() as u64;
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
            carried_by: (!active).then(|| now_ns() + patience),
            names: ArrayVec::new(),
        })
    }

    /// Whether it is this side that begins every carrier.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// See [`Source`].
    pub fn deadline(&self) -> Option<u64> {
        [self.dialing.deadline(), self.carried_by]
            .into_iter()
            .flatten()
            .min()
    }

    /// Where the peer is.
    pub fn comes_from(&self) -> Option<Origin> {
        Address::peer_of(self.as_fd().as_raw_fd()).map(|remote| Origin::of(&remote))
    }

    /// Who waits for it, as the first link there.
    pub fn awaited_by(&self) -> Option<Goal> {
        self.dialing.first
    }

    /// Whether the peer made it and has not begun a carrier yet.
    pub fn awaits_carrier(&self) -> bool {
        self.carried_by.is_some() && self.remote.carrier() == 0
    }

    /// Our carrier `own` is `theirs` to the peer.
    pub(super) fn name_carrier(&mut self, own: u32, theirs: u32) {
        let used = self.remote.carrier();
        self.names.retain(|(own, _)| *own >= used);
        if self.names.is_full() {
            // Of carriers that were begun and came to nothing; never the one in use.
            let oldest = usize::from(self.names[0].0 == used);
            self.names.remove(oldest);
        }
        self.names.push((own, theirs));
    }

    /// What the peer calls the carrier in use; 0: nothing.
    fn name_of_carrier(&self) -> u64 {
        let used = self.remote.carrier();
        let found = self.names.iter().find(|(own, _)| *own == used);
        found.map_or(0, |(_, theirs)| u64::from(*theirs))
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
        // The same number here and there, as for queue pairs: the peer says by it which one broke.
        let id = self.remote.next_carrier();
        self.life = (id, id);
        // Plain memory reaches any ring: it cannot fail.
        let _ = self.remote.begin(id, self.carrier(runtime, id));
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
        contain::provoked("session");
        if expired {
            self.dial_on_time(control);
            if self.carried_by.is_some_and(|by| by <= now_ns()) {
                if self.awaits_carrier() {
                    tracing::info!(target: "netacc::control", "a peer made a link and does not use it: it is given up");
                    return false;
                }
                self.carried_by = None;
            }
        }
        if self.link.is_dead() {
            return false;
        }
        if self.stream.is_blocked() {
            match self.stream.go_on() {
                Posted::Done => self.remote.flush(),
                // What came before it broke is still there to be read.
                Posted::Full | Posted::Failed => {}
            }
        }
        let mut frames = 0;
        while frames < FRAMES || self.reader.has_frame() {
            frames += 1;
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
                    // In good order, as far as one can tell: no stream that was cut is to look complete.
                    let cut = self.reader.is_within_frame() || self.stream.has_failed();
                    self.end(control, Errno::CONNRESET, cut);
                    return false;
                }
                Read::Broken(error) => {
                    tracing::info!(target: "netacc::control", "the connection of a link broke: {error}");
                    // What was lost there nobody knows: no stream is to look complete.
                    self.end(control, error, true);
                    return false;
                }
                Read::Nonsense => {
                    self.link.retire(Errno::CONNRESET, true);
                    return false;
                }
            }
        }
        // The kernel reports what is left at once.
        true
    }

    /// What the carrier has brought is taken in, then the link is over.
    fn end(&self, control: &Control, error: Errno, broken: bool) {
        control.runtime.network.touch(&self.remote);
        crate::fabric::network::poll(None);
        self.link.retire(error, broken);
    }

    fn hear(&mut self, control: &mut Control, heard: &Heard) -> Result<(), crate::conn::Violation> {
        if heard.number == 0 {
            // Said of another carrier than the present one it is old news.
            if self.active && heard.message == Message::Broken(u64::from(self.remote.carrier())) {
                self.replace_carrier(control);
            }
            return Ok(());
        }
        // One that comes late, after a queue pair took over, begins nothing.
        let newest = u64::from(self.life.0).max(self.name_of_carrier());
        if !self.active
            && u64::from(heard.number) > newest
            && matches!(heard.message, Message::Resume { .. })
        {
            let id = self.remote.next_carrier();
            self.life = (heard.number, id);
            self.name_carrier(id, heard.number);
            // Plain memory: it cannot fail.
            let carrier = self.carrier(control.runtime, heard.number);
            let _ = self.remote.expect(id, carrier);
        }
        if heard.number != self.life.0 {
            return Ok(());
        }
        self.remote.hear(self.life.1, heard.message)
    }

    /// Every `pace` nanoseconds: is the peer there, and is the link still of use? False: it is over.
    ///
    /// A device tells of a dead peer only while something is under way, and some not even then.
    pub fn beat(&mut self, runtime: &Runtime, pace: u64) -> bool {
        if self.link.is_dead() {
            // A thread of the application ended it, and cannot tell.
            return false;
        }
        let heard = self.remote.was_heard();
        if heard || self.remote.is_settled() || self.remote.is_broken() {
            self.silent = 0;
        } else {
            self.silent += pace;
        }
        if self.silent >= PATIENCE_NS && self.life.1 != self.remote.carrier() {
            tracing::info!(target: "netacc::rdma", "the peer does not answer: the queue pair is given up");
            self.dialing.lost(core::mem::take(&mut self.silent));
            self.remote.give_up_carrier();
        } else if !self.remote.is_settled() {
            self.remote.ping();
        }
        self.remote.grow_again();
        if self.link.is_full() {
            // Whoever heard of room may have found the link in use, and left it at that.
            self.link.poll(None);
        }
        !self.active || !self.is_idle_for_long(runtime)
    }

    fn is_idle_for_long(&mut self, runtime: &Runtime) -> bool {
        // That it has been read by an application is not asked for: connections that both ends have closed carry
        // nothing that anybody waits for.
        let idle =
            self.link.is_unused() && self.remote.is_settled() && self.dialing.first.is_none();
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
            let _ = self.stream.say(&Message::Broken(self.name_of_carrier()));
            return;
        }
        if self.dialing.first.is_some() {
            // There never was one: the outcome of dialing decides.
            return;
        }
        self.carry(control.runtime);
        self.dialing.lost(core::mem::take(&mut self.silent));
        if self.dialing.is_due() {
            self.dial_later();
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
            self.runtime.accept_on(&session.link);
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
            self.runtime.network.make_sure();
            let runtime = self.runtime;
            if let Some(rdma) = &mut self.rdma {
                rdma.reopen();
            }
            let over: Vec<Token> = self
                .sessions_mut()
                .filter_map(|session| (!session.beat(runtime, pace)).then(|| *session.link.token()))
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
        let mut settled = !overdrafts::any() && self.is_bequeathed() && shelf::is_left_to_others();
        for session in self.sessions_mut() {
            if session.link.owes() || !session.remote.is_settled() {
                session.remote.ping();
                settled = false;
            }
        }
        settled
    }

    /// `session` is over.
    pub fn end_session(&mut self, session: &Session) {
        let token = session.link.token();
        if let Some(goal) = session.dialing.first {
            self.contact_failed(&goal, Reason::LinkFailed);
        }
        self.sessions.remove(token);
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
