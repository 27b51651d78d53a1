//! What becomes of the control thread's work when a turn of it panics: the turn ends, what it was about is given up in a
//! manner that nobody waits for it, and the thread goes on.

use std::sync::Arc;

use rustix::event::epoll;
use rustix::fd::{AsRawFd, RawFd};

use super::contact::{Goal, Waiting};
use super::io_thread::{Command, Control, Source};
use super::listener::SideListener;
use super::opening::{Opening, Step};
use crate::contain;
use crate::link::Link;
use crate::real::sys;
use crate::runtime::Runtime;
use crate::stats::Reason;

/// What is lost with a turn.
enum Stake {
    /// Nothing that anybody waits for.
    Nothing,
    /// It goes on as before: the same thing happens to it once more, at most as often as there may be faults.
    Again(RawFd, Source),
    /// A link, and the peer's socket that is watched for it.
    Link(Arc<Link>, Option<RawFd>),
    /// A link to another host, and who waits for the first one there.
    Session(Arc<Link>, Option<Goal>),
    /// Contact, and who waits for it beside those that are known to.
    Contact(Goal, Waiting),
    /// A connect of the application.
    Opening(Box<Opening>),
    /// A side port that nobody looks after.
    Listener(Arc<SideListener>),
    /// Where shared memory is handed over.
    Rendezvous,
}

impl Stake {
    fn of(source: &Source) -> Stake {
        let again = |copy| Stake::Again(source.with_fd(|fd, _| fd.as_raw_fd()), copy);
        match source {
            Source::Listener(listener) => again(Source::Listener(listener.clone())),
            Source::RdmaEvents(channel) => again(Source::RdmaEvents(channel.clone())),
            Source::Engine(engine) => again(Source::Engine(engine.clone())),
            Source::Device(device) => again(Source::Device(device.clone())),
            &Source::Knocks { listener, life, fd } => again(Source::Knocks { listener, life, fd }),
            Source::Peer { link, fd } => Stake::Link(link.clone(), Some(*fd)),
            Source::Dying(dying) => Stake::Link(dying.link.clone(), None),
            Source::Session(session) => Stake::Session(session.link.clone(), session.awaited_by()),
            Source::Contact(contact) => Stake::Contact(contact.goal(), Waiting::Nobody),
            Source::Opening(opening) => Stake::Opening(Box::new(opening.clone())),
            Source::Rendezvous(_) => Stake::Rendezvous,
            Source::Stranger(_)
            | Source::Guest(_)
            | Source::Removals(_)
            | Source::Heirs(_)
            | Source::Resending(_)
            | Source::Door(_)
            | Source::Rising(_) => Stake::Nothing,
        }
    }

    fn of_command(command: &Command) -> Stake {
        match command {
            Command::Listen(listener) => Stake::Listener(listener.clone()),
            Command::Contact(goal, waiting) => Stake::Contact(*goal, waiting.clone()),
            Command::Open(opening) => Stake::Opening(Box::new(opening.clone())),
            Command::Leave(_, link, _) => Stake::Link(link.clone(), None),
            _ => Stake::Nothing,
        }
    }
}

impl Control {
    /// The turn of what is looked after under `key`.
    pub(super) fn handle(&mut self, key: u64, expired: bool) {
        let stake = self.source(key).map_or(Stake::Nothing, Stake::of);
        if contain::catch("the control thread", || self.turn(key, expired)).is_none() {
            contain::catch("what comes after a fault", || self.make_good(key, stake));
        }
    }

    /// A command's turn.
    pub(super) fn take_command(&mut self, command: Command) {
        const NO_KEY: u64 = u64::MAX;
        let stake = Stake::of_command(&command);
        if contain::catch("a command", || self.obey(command)).is_none() {
            contain::catch("what comes after a fault", || self.make_good(NO_KEY, stake));
        }
    }

    fn make_good(&mut self, key: u64, stake: Stake) {
        match stake {
            Stake::Nothing => {}
            Stake::Again(_, source) if !contain::has_given_up() => {
                drop(self.sources.insert(key, source))
            }
            Stake::Again(fd, source) => {
                let _ = epoll::delete(&self.epoll, sys::borrow(fd));
                if let Source::Listener(listener) = source {
                    listener.stop();
                }
            }
            Stake::Link(link, peer) => {
                if let Some(fd) = peer {
                    let _ = epoll::delete(&self.epoll, sys::borrow(fd));
                }
                self.runtime.let_go(&link);
                link.condemn();
            }
            Stake::Session(link, goal) => {
                self.sessions.remove(link.token());
                self.runtime.let_go(&link);
                link.condemn();
                if let Some(goal) = goal {
                    self.contact_failed(&goal, Reason::LinkFailed);
                }
            }
            Stake::Contact(goal, waiting) => {
                self.contacts.entry(goal.key()).or_default().push(waiting);
                self.contact_failed(&goal, Reason::LinkFailed);
            }
            Stake::Opening(opening) => {
                self.open(opening.resume(Step::Failed(Reason::LinkFailed)));
            }
            // Who comes finds it closed, and goes to the application's own port.
            Stake::Listener(listener) => listener.stop(),
            Stake::Rendezvous => self.open_rendezvous(),
        }
    }
}

/// The turn of a link's I/O thread.
pub(super) fn service(runtime: &Runtime, index: usize) {
    let links: Vec<Arc<Link>> = {
        let mut links = runtime.io(index).links.lock();
        links.retain(|l| !l.is_dead());
        links.clone()
    };
    for link in &links {
        if contain::catch("an I/O thread", || link.service()).is_none() {
            link.condemn();
        }
    }
}
