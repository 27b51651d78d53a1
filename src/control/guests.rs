//! The rendezvous: the abstract Unix socket where processes of this host come for shared memory, and what the two ends of such a
//! link go on saying there.

use std::sync::Arc;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;

use super::contact::terms;
use super::crowd::{self, Origin, Place};
use super::io_thread::{Control, Source};
use super::passing;
use super::server::{CALLERS, Promise, Stranger, pause_unless_done};
use super::wire::{Frame, MAX_FRAME, Name, Parsed};
use crate::contain;
use crate::fabric::shm::{End, Segment, Shm};
use crate::link::{Link, Token};
use crate::real::sys::{self, Errno, InternalFd, now_ns};
use crate::socket::addr::Address;
use crate::stats;

/// Links that one process of this host may have made here, at most: each carries a thousand connections.
const MOST_OF_PROCESS: usize = 256;
/// Bells that a peer passes in a row, likewise.
const BELLS: usize = 64;

impl Control {
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
        for _ in 0..CALLERS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd = match rustix::net::accept_with(rendezvous, flags) {
                Ok(fd) => InternalFd::adopt(fd),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return pause_unless_done(error),
            };
            let Ok(whose) = passing::maker(&fd) else {
                continue;
            };
            let Some(place) = self.make_place() else {
                crowd::turned_away();
                continue;
            };
            let deadline = now_ns() + self.runtime.connect_timeout().as_nanos() as u64;
            let guest = Guest {
                fd,
                ours: whose.is_of_our_user(),
                shares: whose.is_shared_with(self.runtime.config.shm_peers),
                uid: whose.uid.as_raw(),
                pid: whose.pid,
                deadline,
                place,
            };
            if let Some(guest) = guest.advance(self) {
                self.insert(Source::Guest(guest));
            }
        }
    }

    /// Takes what the other process of `link` passes. False once that process is gone.
    pub fn hear_peer(&mut self, link: &Arc<Link>, fd: RawFd) -> bool {
        contain::provoked("peer");
        let mut bytes = [0; MAX_FRAME];
        let mut bells = 0;
        loop {
            if bells == BELLS {
                return true;
            }
            bells += 1;
            match passing::receive(sys::borrow(fd), &mut bytes) {
                Ok((n, fds)) if n > 0 => {
                    if let (Ok(Parsed::Frame(Frame::Bell { slot }, _)), Some(bell)) = (
                        Frame::parse(&bytes[..n]),
                        fds.into_iter().next().filter(passing::is_bell),
                    ) {
                        link.fabric().install_bell(slot, bell);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if !link.is_dead() => return true,
                _ => break,
            }
        }
        tracing::info!(target: "netacc::control", "the peer process of a link is gone");
        match process_at(sys::borrow(fd)) {
            // It may be about to die: what stands then is known when it is dead.
            Ok(process) => {
                let deadline = now_ns() + DYING_NS;
                self.insert(Source::Dying(Dying {
                    process,
                    link: link.clone(),
                    deadline,
                }));
            }
            // (In another PID namespace it cannot be watched. One that lives on hands back before it leaves a link.)
            Err(Errno::SRCH | Errno::NOTSUP) => self.is_dead(link),
            Err(_) => self.is_left(link),
        }
        false
    }

    /// Links that the process has with this one. (All those in other PID namespaces, where it has no number here.)
    fn links_of(&self, pid: Option<Pid>) -> usize {
        let is_its = |source: &&Source| match source {
            Source::Peer { fd, .. } => {
                passing::maker(sys::borrow(*fd)).is_ok_and(|whose| whose.pid == pid)
            }
            _ => false,
        };
        self.sources.values().filter(is_its).count()
    }

    /// The other process of `link` is dead: its descriptors are closed.
    pub fn is_dead(&mut self, link: &Arc<Link>) {
        link.retire_of_dead();
        self.runtime.let_go(link);
    }

    /// The other process of `link` lives on without it.
    pub fn is_left(&mut self, link: &Arc<Link>) {
        link.retire(Errno::CONNRESET, false);
        self.runtime.let_go(link);
    }
}

/// The process at the other end of a link that has ended, which may be about to die, or runs another program.
pub struct Dying {
    /// Its pidfd.
    pub process: InternalFd,
    /// The link.
    pub link: Arc<Link>,
    /// When it is not waited for any more.
    pub deadline: u64,
}

/// How long a process takes at most that has closed one of its descriptors to close the others, and to be dead.
const DYING_NS: u64 = 2_000_000_000;

/// The process at the other end of a Unix socket.
///
/// # Errors
/// `ESRCH`: it is dead. `EOPNOTSUPP`: it is in another PID namespace. Others: the kernel's.
fn process_at(peer: BorrowedFd<'_>) -> Result<InternalFd, Errno> {
    use rustix::process::{PidfdFlags, pidfd_open};
    let pid = passing::maker(peer)?.pid.ok_or(Errno::NOTSUP)?;
    pidfd_open(pid, PidfdFlags::empty()).map(InternalFd::adopt)
}

/// A connection to the rendezvous that has not said for which link it comes.
pub struct Guest {
    fd: InternalFd,
    uid: u32,
    pid: Option<Pid>,
    /// Of this process's user.
    ours: bool,
    /// Memory is shared with it.
    shares: bool,
    deadline: u64,
    place: Place,
}

impl Guest {
    /// Whose it is.
    pub fn origin(&self) -> Origin {
        Origin::User(self.uid)
    }

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
        let ours = self.ours;
        let token = match Frame::parse(&bytes[..n]) {
            Ok(Parsed::Frame(Frame::Attach { token }, _)) => token,
            // Another process that shares a side port has taken it.
            Ok(Parsed::Frame(Frame::Hello(_), _)) if ours => {
                let fd = fds.into_iter().next()?;
                let remote = Address::peer_of(fd.as_raw_fd())?;
                let said = bytes[..n].to_vec();
                let stranger = Stranger::passed_on(control.runtime, fd, remote, said, self.place);
                control.meet(stranger);
                return None;
            }
            // A child may be another user's by now; it shows that it has the connection.
            Ok(Parsed::Frame(Frame::Claim { serial }, _)) => {
                control.claimed(self.fd, serial, fds.first()?);
                return None;
            }
            Ok(Parsed::Frame(Frame::Heir { serial }, _)) => {
                control.inherits(self.fd, serial, fds.first()?);
                return None;
            }
            _ => return None,
        };
        if !self.shares {
            return None;
        }
        let promise = control.promised.remove(&token)?;
        let io_bell = fds.into_iter().next().filter(passing::is_bell)?;
        if control.links_of(self.pid) >= MOST_OF_PROCESS {
            return None;
        }
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
        let raw = self.fd.as_raw_fd();
        let terms = terms(
            runtime,
            token,
            promise.peer_window,
            promise.peer_pid,
            self.uid,
            promise.capabilities,
            Name::default(),
        );
        let link = Link::new(
            Box::new(Shm::with_peer(segment, End::Acceptor, io_bell, self.fd)),
            terms,
        );
        // Before the peer has anything: it is to learn at once that there will be no link.
        if !control.adopt_link(&link, io, raw) {
            return Err(Errno::NOMEM);
        }
        runtime.accept_on(&link);
        let shared = [memory.as_fd(), runtime.io(io).bell.as_fd()];
        passing::send(sys::borrow(raw), &frame, &shared).inspect_err(|_| control.is_left(&link))
    }
}

impl AsFd for Guest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
