//! The control connection of a link to another host, for as long as the link lives.
//!
//! It tells when the peer's process is gone, it is how the ends of a link say that a carrier broke, and
//! it carries the link itself while there is no queue pair ([`crate::fabric::stream`]). After the hello and
//! its answer both sides speak the frames of that module. The connecting side is the *active* one: it begins
//! every carrier.

use std::sync::Arc;

use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::net::sockopt;

use super::contact::terms;
use super::io_thread::{Command, Control, Source};
use crate::config::Config;
use crate::fabric::FabricKind;
use crate::fabric::plain::Plain;
use crate::fabric::remote::carrier::{Posted, RingSource};
use crate::fabric::remote::message::Message;
use crate::fabric::remote::{End, Hub, Remote, RingSizes};
use crate::fabric::stream::{Heard, Read, Reader, Stream, StreamCarrier};
use crate::link::{Link, Token};
use crate::real::sys::{Errno, InternalFd};
use crate::runtime::Runtime;
use crate::stats;

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
}

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
    /// A link over `fd`, a connected socket, with rings from `source` (none: plain memory).
    ///
    /// # Errors
    /// No memory for its rings.
    pub fn new(
        runtime: &'static Runtime,
        fd: InternalFd,
        kind: FabricKind,
        active: bool,
        peer: &Peer,
        source: Option<&dyn RingSource>,
    ) -> Result<Session, Errno> {
        // A host that went away without a word is noticed, sooner or later, as for any connection.
        let _ = sockopt::set_socket_keepalive(&fd, true);
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        let sizes = ring_sizes(&runtime.config);
        let remote = Remote::new(runtime, kind, sizes, source.unwrap_or(&Plain))?;
        let terms = terms(runtime, peer.token, peer.window, peer.pid, u32::MAX);
        let link = Link::new(Box::new(End(remote.clone())), terms);
        remote.attach(&link);
        Ok(Session {
            remote,
            link,
            active,
            stream: Stream::new(fd),
            reader: Reader::default(),
            life: (0, 0),
        })
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
    pub fn advance(&mut self, control: &mut Control) -> bool {
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

    /// The carrier broke, here or there: the stream carries the link on.
    pub fn replace_carrier(&mut self, control: &Control) {
        if self.active {
            stats::add(&stats::global().carriers_resumed, 1);
            self.carry(control.runtime);
        } else {
            let _ = self.stream.say(&Message::Broken);
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

    /// `session` is over.
    pub fn end_session(&mut self, session: &Session) {
        let token = session.link.token();
        self.sessions.remove(token);
        self.accepted.remove(token);
        self.runtime.let_go(&session.link);
        session.link.retire(Errno::CONNRESET, false);
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
