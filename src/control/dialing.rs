//! How the active side of a session looks for a queue pair: at first contact, and again whenever one broke.

use super::contact::Goal;
use super::io_thread::Control;
use super::rdma::Outcome;
use super::session::{BEAT_NS, Session};
use super::wire::Door;
use crate::real::sys::{Errno, now_ns};
use crate::socket::addr::Address;
use crate::stats::{self, Reason};

/// How the active side looks for a queue pair.
#[derive(Default)]
pub struct Dialing {
    /// Where the peer listens, the preferred first.
    doors: Vec<Door>,
    /// The next one to try.
    next: usize,
    /// How often all of them were tried in vain.
    rounds: u32,
    /// How often in a row the port was taken that a try was to connect from.
    taken: u32,
    /// The line that is being made, and when it is given up.
    line: Option<(u64, u64)>,
    /// When to try again, and how long was waited for that, in nanoseconds.
    again: Option<u64>,
    pause: u64,
    /// The destination whose first contact waits for the outcome, until [`first_until`](Self::first_until).
    pub first: Option<Goal>,
    first_until: u64,
    /// When the present queue pair came to be, in [`now_ns`] time; 0: there is none.
    up_since: u64,
    /// For how long the last one was of use, in nanoseconds, if that is not taken into account yet.
    held: Option<u64>,
    /// When to say something again on a queue pair on which the peer has not answered yet, and how long was
    /// waited for that, in nanoseconds.
    nudge: Option<(u64, u64)>,
}

impl Dialing {
    /// When there is something to do, in [`now_ns`] time.
    pub fn deadline(&self) -> Option<u64> {
        let given_up = self.line.map(|(_, at)| at);
        let nudge = self.nudge.map(|(at, _)| at);
        [given_up, nudge, self.again].into_iter().flatten().min()
    }

    /// The queue pair broke. The peer had been silent on it for so many nanoseconds, as far as that was seen, once a
    /// beat.
    pub fn lost(&mut self, silent: u64) {
        let useless = if silent > 0 { silent + BEAT_NS } else { 0 };
        match core::mem::take(&mut self.up_since) {
            0 => {}
            since => self.held = Some((now_ns() - since).saturating_sub(useless)),
        }
    }

    /// Whether there is a queue pair to look for, and nobody does.
    pub fn is_due(&self) -> bool {
        !self.doors.is_empty() && self.line.is_none()
    }
}

/// How long the peer has to answer on a new queue pair before it is spoken to again; doubled each time. Soft
/// iWARP may leave the first message lying, if it comes as the queue pair is being connected, until another
/// one comes.
const NUDGE_NS: u64 = 10_000_000;

/// How often a first contact tries all doors: a connect may fail for a reason that the next does not meet.
const ROUNDS: u32 = 3;
/// How often a door is tried again at once because the local port was taken.
const MOST_TAKEN: u32 = 8;
/// Longest time for a connection to be made.
const DIAL_NS: u64 = 4_000_000_000;
/// Longest time for a first contact to be held up by that: the application's connect waits for it. The passive
/// side, which does not know our [`FIRST_MORE_NS`], counts on it.
pub(super) const FIRST_NS: u64 = 3_000_000_000;
/// Shortest time for one of its tries.
const FIRST_TRY_NS: u64 = 500_000_000;
/// So much longer than NACC_CONNECT_TIMEOUT_MS it may be held up, within [`FIRST_NS`].
const FIRST_MORE_NS: u64 = 1_000_000_000;
/// Shortest and longest pause before another try: the link rests on a queue pair that is of no use, for seconds.
const PAUSE_NS: (u64, u64) = (100_000_000, 30_000_000_000);
/// Longest pause after a try that gave no queue pair: that did the link no harm.
const VAIN_NS: u64 = 1_000_000_000;

impl Session {
    /// Looks for a queue pair to one of `doors`, for the first contact with `first`.
    pub fn dial_first(&mut self, control: &mut Control, doors: Vec<Door>, first: Goal) {
        self.dialing.doors = doors;
        self.dialing.first = Some(first);
        let limit = control.runtime.connect_timeout().as_nanos() as u64 + FIRST_MORE_NS;
        self.dialing.first_until = now_ns() + limit.min(FIRST_NS);
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
                    let now = now_ns();
                    let patience = match self.dialing.first {
                        // What gets lost is said again: there is time for another try.
                        Some(_) => {
                            let left = self.dialing.first_until.saturating_sub(now);
                            (left / 2).max(FIRST_TRY_NS).min(left)
                        }
                        None => DIAL_NS,
                    };
                    self.dialing.line = Some((line, now + patience));
                    return;
                }
                Err(error) => {
                    tracing::info!(target: "netacc::rdma", "no connection: {error}");
                }
            }
        }
        self.give_up(control, Reason::RdmaUnreachable);
    }

    /// There is no queue pair to be had now.
    fn give_up(&mut self, control: &mut Control, reason: Reason) {
        self.dialing.next = 0;
        match self.dialing.first.take() {
            Some(goal) => {
                control.contact_failed(&goal, reason);
                self.link.retire(Errno::CONNRESET, false);
            }
            None => self.dial_later(),
        }
    }

    /// The interface by which the peer is reached, for addresses that mean something on it only.
    fn scope(&self) -> u32 {
        use rustix::fd::{AsFd, AsRawFd};
        let peer = Address::peer_of(self.stream.as_fd().as_raw_fd());
        peer.map_or(0, |peer| peer.scope())
    }

    /// Tries all doors again after a pause: a short one if the last queue pair was of use for longer than was waited
    /// for it, else a longer one than before.
    pub(super) fn dial_later(&mut self) {
        let dialing = &mut self.dialing;
        let longer = |most| (2 * dialing.pause).clamp(PAUSE_NS.0, most);
        let pause = match dialing.held.take() {
            Some(held) if held > dialing.pause => PAUSE_NS.0,
            Some(_) => longer(PAUSE_NS.1),
            None => dialing.pause.max(longer(VAIN_NS)),
        };
        dialing.pause = pause;
        dialing.again = Some(now_ns() + pause);
    }

    /// What was to be done at a time is done.
    pub(super) fn dial_on_time(&mut self, control: &mut Control) {
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
        let taken = core::mem::take(&mut self.dialing.taken);
        let channel = match outcome {
            Outcome::Up(channel) => channel,
            Outcome::PortTaken if taken < MOST_TAKEN => {
                self.dialing.taken = taken + 1;
                self.dialing.next = self.dialing.next.saturating_sub(1);
                return self.dial(control);
            }
            Outcome::Down | Outcome::PortTaken => return self.dial(control),
            Outcome::Hopeless(reason) => return self.give_up(control, reason),
        };
        if channel.id < self.remote.carrier() {
            // Another carrier was begun meanwhile. The peer tells by their numbers which is the newest.
            if let Some(rdma) = control.rdma() {
                rdma.hang_up(line);
            }
            self.dialing.next = 0;
            return self.dial(control);
        }
        if self.remote.begin(channel.id, channel.carrier()).is_err() {
            return self.give_up(control, Reason::LockedMemory);
        }
        self.dialing.next = 0;
        self.dialing.up_since = now_ns();
        self.dialing.nudge = Some((self.dialing.up_since + NUDGE_NS, NUDGE_NS));
        match self.dialing.first.take() {
            Some(goal) => control.contact_made(&goal, self.link.clone()),
            None => stats::add(&stats::global().carriers_resumed, 1),
        }
    }
}
