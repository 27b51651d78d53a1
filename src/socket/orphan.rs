//! Connections across fork: the child's side, which claims what it has inherited, and what the parent does for it.
//! [`crate::control::heirs`] has the rest of the parent's side.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{OwnedFd, RawFd};
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Uid;

use parking_lot::MutexGuard;

use super::{Inner, Role, Socket};
use crate::conn::leftover::Leftover;
use crate::control::heirs;
use crate::control::identity::Identity;
use crate::control::io_thread::Command;
use crate::control::passing;
use crate::control::wire::{Frame, MAX_FRAME, Parsed};
use crate::fdtable::{self, Entry};
use crate::real::sys::{self, Errno, InternalFd};
use crate::runtime;

/// How long a child waits for its parent: longer than any parent that runs takes. Then the kernel's connection is all
/// there is.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// A connection that is on a link of the process from which this one was forked.
#[derive(Clone, Copy)]
pub struct Orphan {
    /// Where that process is asked for it.
    pub rendezvous: [u8; 32],
    /// Its user, then.
    pub uid: Uid,
    /// Proves to that process that it is its child who asks.
    pub key: [u8; 16],
    /// The connection's number there.
    pub serial: u64,
    /// Our descriptor of that process's will.
    pub will: RawFd,
}

impl Orphan {
    /// The connection with this number of the process with this identity, for one that has a descriptor of its will.
    pub fn of(parent: &Identity, serial: u64, will: RawFd) -> Orphan {
        Orphan {
            rendezvous: parent.rendezvous,
            uid: rustix::process::geteuid(),
            key: parent.family,
            serial,
            will,
        }
    }

    /// Says something to the parent: returns its answer, the descriptors that came with that, and the connection.
    fn say(&self, frame: &Frame) -> Result<(Frame, Vec<OwnedFd>, OwnedFd), Errno> {
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // Not in the tables: they may be another process's.
        let fd = sys::raise(fd);
        let address = SocketAddrUnix::new_abstract_name(&self.rendezvous)?;
        while let Err(error) = rustix::net::connect(&fd, &address) {
            if error != Errno::INTR {
                return Err(error);
            }
        }
        // Anybody may have taken the name once the parent is gone.
        if rustix::net::sockopt::socket_peercred(&fd)?.uid != self.uid {
            return Err(Errno::CONNREFUSED);
        }
        rustix::net::send(&fd, &frame.encode(), SendFlags::NOSIGNAL)?;
        let mut bytes = [0; MAX_FRAME];
        let (n, fds) = loop {
            let mut poll = [PollFd::new(&fd, PollFlags::IN)];
            match rustix::event::poll(&mut poll, Some(&PATIENCE)) {
                Ok(0) => return Err(Errno::TIMEDOUT),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            }
            match passing::receive_unlisted(&fd, &mut bytes) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                other => break other?,
            }
        };
        match Frame::parse(&bytes[..n]) {
            Ok(Parsed::Frame(frame, _)) => Ok((frame, fds, fd)),
            _ => Err(Errno::CONNRESET),
        }
    }

    /// Asks the parent for it: returns what is to be read before anything that the kernel has.
    ///
    /// # Errors
    /// The kernel's; `ECONNREFUSED`, `ECONNRESET` or `EPIPE` if the parent is gone.
    pub fn claim(&self) -> Result<Vec<u8>, Errno> {
        let (key, serial) = (self.key, self.serial);
        let (Frame::Estate { unread }, fds, _) = self.say(&Frame::Claim { key, serial })? else {
            return Err(Errno::CONNRESET);
        };
        let held = fds
            .first()
            .map_or(Ok(0), |fd| rustix::fs::fstat(fd).map(|s| s.st_size as u64))?;
        let mut all = vec![0; unread.min(held) as usize];
        let mut read = 0;
        while read < all.len()
            && let Some(memory) = fds.first()
        {
            match rustix::io::read(memory, &mut all[read..])? {
                0 => break,
                n => read += n,
            }
        }
        all.truncate(read);
        Ok(all)
    }

    /// Tells the parent that a program has it that did not pass through fork. The parent counts with that as long as what
    /// is returned is open.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn inherit(&self) -> Result<OwnedFd, Errno> {
        let key = self.key;
        self.say(&Frame::Heir { key }).map(|(_, _, fd)| fd)
    }
}

impl Socket {
    /// Whether it is one.
    pub fn is_orphan(&self) -> bool {
        matches!(self.lock().role, Role::Orphan(_))
    }

    /// The process uses what it has inherited: has the parent hand the connection back to the kernel first. Nothing
    /// happens to a socket that is no [`Orphan`].
    pub fn adopt(&'static self) {
        let inner = self.lock();
        if let Role::Orphan(orphan) = &inner.role {
            let orphan = *orphan;
            self.adopt_as(inner, &orphan);
        }
    }

    #[cold]
    fn adopt_as(&'static self, mut inner: MutexGuard<'static, Inner>, orphan: &Orphan) {
        // Under the lock: other threads that use it wait for the same answer.
        let unread = match orphan.claim() {
            Ok(unread) => unread,
            Err(Errno::CONNREFUSED | Errno::CONNRESET | Errno::PIPE) => {
                tracing::info!(target: "netacc::conn", "the parent of an inherited connection is gone");
                let will = (orphan.will >= 0).then(|| sys::borrow(orphan.will));
                let left = will.and_then(|will| heirs::inherited(will, orphan.serial));
                left.unwrap_or_default()
            }
            Err(error) => {
                // It may still be on the link: better an error than bytes that overtake others.
                tracing::warn!(target: "netacc::conn", "an inherited connection cannot be claimed: {error}");
                for &fd in &inner.fds {
                    fdtable::replace(fd, Entry::Socket(self), Entry::Lost);
                }
                return;
            }
        };
        if unread.is_empty() {
            inner.role = Role::Plain;
            for &fd in &inner.fds {
                fdtable::replace(fd, Entry::Socket(self), Entry::Plain(self));
            }
        } else {
            inner.role = Role::Leftover(Leftover::new(unread));
        }
    }

    /// For the parent: if the connection with this serial number is the kernel's by now, or can never be, what nobody had
    /// read; it is the claimer's.
    pub fn bequeath(&'static self, serial: u64) -> Option<Vec<u8>> {
        self.begin_and_leave(serial);
        let mut inner = self.lock();
        if inner.serial != serial {
            // It has ended, and the object is another one's.
            return Some(Vec::new());
        }
        let unread = match &mut inner.role {
            Role::Connected(conn) if !conn.is_reset() => return None,
            // What is to be sent before anything that the claimer sends.
            Role::Leftover(left) if left.resends => return None,
            Role::Leftover(left) => left.take_all(),
            Role::Listening(listening) if listening.is_for_others() => {
                self.share_listener(inner);
                return Some(Vec::new());
            }
            _ => Vec::new(),
        };
        self.leave_if_read(inner);
        Some(unread)
    }

    /// For a parent that ends: begins to hand the connection back if children may hold it. Returns whether there is
    /// nothing left to do.
    pub fn is_handed_to_heirs(&'static self) -> bool {
        let (has_heirs, serial) = {
            let inner = self.lock();
            (inner.has_heirs(), inner.serial)
        };
        if has_heirs {
            self.begin_and_leave(serial);
        }
        let inner = self.lock();
        (!inner.has_heirs() || !inner.is_leaving()) && !inner.owes_peer()
    }

    /// For a parent that ends: its numbers, and what nobody has read, if children may hold it.
    pub fn unread_for_heirs(&self) -> Option<(u64, u64, Vec<u8>)> {
        let mut inner = self.lock();
        let (serial, forks) = (inner.serial, inner.forks);
        match &mut inner.role {
            Role::Leftover(left) if heirs::may_hold(forks) && !left.is_empty() => {
                Some((serial, forks, left.take_all()))
            }
            _ => None,
        }
    }

    /// It was [kept](heirs::keep) for children and need not be any more.
    pub fn was_kept(&'static self) {
        let mut inner = self.lock();
        let farewell = inner.end();
        drop(inner);
        farewell.say();
        let mut inner = self.lock();
        inner.users -= 1;
        self.recycle_if_done(&mut inner);
    }
}

impl Inner {
    /// Whether a forked child may hold it.
    pub fn has_heirs(&self) -> bool {
        let is_ours = match &self.role {
            Role::Connected(conn) => !conn.is_reset(),
            Role::Leftover(left) => !left.is_empty(),
            _ => false,
        };
        is_ours && heirs::may_hold(self.forks)
    }

    /// The application's last number for it is gone, but children may hold it, or its peer is to get something by it: it
    /// stays until it is handed back. False if it cannot be.
    pub fn keep_for_others(&mut self, socket: &'static Socket) -> bool {
        if !self.has_heirs() && !self.owes_peer() {
            return false;
        }
        self.begin_hand_back();
        self.users += 1;
        heirs::keep(socket);
        runtime::get().command(Command::Claims);
        true
    }

    /// Its last number `fd` is about to be closed, and the kernel's connection is still needed.
    pub fn keep_number(&mut self, fd: RawFd) {
        self.last_number = rustix::io::fcntl_dupfd_cloexec(sys::borrow(fd), 0)
            .ok()
            .map(InternalFd::adopt);
    }
}

/// What a fork needs whose child inherits connections.
pub struct Preparation {
    /// The reading end of a pipe: the parent's.
    pub reading: InternalFd,
    /// Its writing end: the child's.
    pub writing: InternalFd,
    /// Both have this.
    pub will: InternalFd,
}

impl Preparation {
    /// Makes it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make() -> Result<Preparation, Errno> {
        let (reading, writing): (OwnedFd, OwnedFd) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let will = rustix::fs::memfd_create(c"netacc-will", MemfdFlags::CLOEXEC)?;
        Ok(Preparation {
            reading: InternalFd::adopt(reading),
            writing: InternalFd::adopt(writing),
            will: InternalFd::adopt(will),
        })
    }
}
