//! Connections across fork: the child's side, which claims what it has inherited, and what the parent does for it.
//! [`crate::control::heirs`] has the rest of the parent's side.
//!
//! Whoever has a connection's descriptor may claim it, and nobody else: it is shown to the parent with the claim.

use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fd::{AsFd, OwnedFd, RawFd};
use rustix::process::Uid;

use parking_lot::MutexGuard;

use super::leaving::{self, PATIENCE_NS, nap};
use super::{Inner, Role, Socket};
use crate::conn::GRACE_NS;
use crate::conn::leftover::Leftover;
use crate::control::heirs;
use crate::control::identity::Identity;
use crate::control::io_thread::Command;
use crate::control::passing;
use crate::control::wire::{Frame, MAX_FRAME, Parsed};
use crate::fdtable::{self, Entry};
use crate::real::sys::{self, Errno, InternalFd, now_ns};
use crate::runtime;

/// A connection that is on a link of the process from which this one was forked.
#[derive(Clone, Copy)]
pub struct Orphan {
    /// Where that process is asked for it.
    pub rendezvous: [u8; 32],
    /// Its user, then.
    pub uid: Uid,
    /// The connection's number there.
    pub serial: u64,
    /// Our descriptor of that process's will.
    pub will: RawFd,
}

/// An [`Orphan`] and what is under way about it.
pub struct Orphaned {
    /// What it is.
    pub orphan: Orphan,
    claim: Option<Arc<Begun>>,
}

/// A claim of this process's, and since when.
struct Begun {
    claim: Claim<InternalFd>,
    at: u64,
}

impl From<Orphan> for Orphaned {
    fn from(orphan: Orphan) -> Self {
        Orphaned {
            orphan,
            claim: None,
        }
    }
}

impl Orphaned {
    /// Whether it has been claimed, and there is no answer yet.
    pub fn is_claimed(&self) -> bool {
        self.claim.is_some()
    }
}

/// A claim that was sent, and its answer; and the number that was shown with it.
pub struct Claim<F>(F, RawFd);

impl<F: AsFd> Claim<F> {
    /// The answer, if it has come: what is to be read before anything that the kernel has.
    ///
    /// # Errors
    /// `ECONNRESET`, `EPIPE`: that process is gone, or could not hear it. `EIO`: it does not give what is to be read.
    /// Others: the kernel's.
    pub fn answer(&self) -> Result<Option<Vec<u8>>, Errno> {
        let mut bytes = [0; MAX_FRAME];
        let (n, fds) = match passing::receive_unlisted(&self.0, &mut bytes) {
            Err(Errno::INTR | Errno::AGAIN) => return Ok(None),
            got => got?,
        };
        let Ok(Parsed::Frame(Frame::Estate { unread }, _)) = Frame::parse(&bytes[..n]) else {
            return Err(Errno::CONNRESET);
        };
        // What was shown stood for nothing in the kernel: this is what stands there now.
        let kernel = fds.get(usize::from(unread > 0));
        kernel.inspect(|kernel| leaving::replace(self.1, *kernel));
        let memory = match fds.first() {
            _ if unread == 0 => return Ok(Some(Vec::new())),
            Some(memory) => memory,
            None => return Err(Errno::IO),
        };
        let held = rustix::fs::fstat(memory)?.st_size as u64;
        let mut all = vec![0; unread.min(held) as usize];
        let mut read = 0;
        while read < all.len() {
            match rustix::io::read(memory, &mut all[read..])? {
                0 => break,
                n => read += n,
            }
        }
        all.truncate(read);
        Ok(Some(all))
    }

    /// Waits for the answer, until `by` at most.
    ///
    /// # Errors
    /// As [`answer`](Self::answer); `ETIMEDOUT`.
    pub fn wait(&self, by: u64) -> Result<Vec<u8>, Errno> {
        loop {
            if let Some(unread) = self.answer()? {
                return Ok(unread);
            }
            if now_ns() >= by {
                return Err(Errno::TIMEDOUT);
            }
            self.sleep(by);
        }
    }

    /// Sleeps until there may be an answer, or `by`. Returns whether a signal came before.
    fn sleep(&self, by: u64) -> bool {
        let left = by.saturating_sub(now_ns());
        sys::poll_one(self.0.as_fd(), PollFlags::IN, left) == Err(Errno::INTR)
    }
}

/// Asks the process at the other end of `unix` for the connection that this process has as `fd`, by whatever number that
/// process knows it.
///
/// # Errors
/// The kernel's.
pub fn claim_shown(unix: OwnedFd, fd: RawFd) -> Result<Claim<OwnedFd>, Errno> {
    let claim = Frame::Claim { serial: 0 }.encode();
    passing::send(unix.as_fd(), &claim, &[sys::borrow(fd)])?;
    Ok(Claim(unix, fd))
}

/// Whether an error is over when others are through with what they do.
fn is_passing(error: Errno) -> bool {
    matches!(
        error,
        Errno::AGAIN
            | Errno::MFILE
            | Errno::NFILE
            | Errno::NOMEM
            | Errno::NOBUFS
            | Errno::TOOMANYREFS
    )
}

/// Whether it says of a claim that nobody has heard it: its process may be gone, or live on. The next one tells.
fn was_dropped(error: Errno) -> bool {
    matches!(error, Errno::CONNRESET | Errno::PIPE)
}

/// Asks again until `by` where nobody has heard it, or cannot for the moment.
///
/// # Errors
/// What is `asked` gives; `ETIMEDOUT`.
fn insist<T>(by: u64, mut asked: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match asked() {
            Err(error) if is_passing(error) || was_dropped(error) => {}
            other => return other,
        }
        if now_ns() >= by {
            return Err(Errno::TIMEDOUT);
        }
        nap();
    }
}

impl Orphan {
    /// The connection with this number of the process with this identity, for one that has a descriptor of its will.
    pub fn of(parent: &Identity, serial: u64, will: RawFd) -> Orphan {
        Orphan {
            rendezvous: parent.rendezvous,
            uid: rustix::process::geteuid(),
            serial,
            will,
        }
    }

    /// Says something to the parent and shows that this process has the connection, as `fd`.
    fn say(&self, fd: RawFd, frame: &Frame) -> Result<Claim<OwnedFd>, Errno> {
        let (unix, whose) = passing::visit(&self.rendezvous)?;
        // Anybody may have taken the name once the parent is gone.
        if whose.uid != self.uid {
            return Err(Errno::CONNREFUSED);
        }
        passing::send(unix.as_fd(), &frame.encode(), &[sys::borrow(fd)])?;
        Ok(Claim(unix, fd))
    }

    /// Asks the parent for it, which this process has as `fd`.
    ///
    /// # Errors
    /// The kernel's; `ECONNREFUSED` if the parent is gone.
    pub fn claim(&self, fd: RawFd) -> Result<Claim<OwnedFd>, Errno> {
        let serial = self.serial;
        self.say(fd, &Frame::Claim { serial })
    }

    /// Goes on with a claim until `by`: returns what is to be read before anything that the kernel has.
    ///
    /// # Errors
    /// As [`claim`](Self::claim); `ETIMEDOUT`.
    pub fn obtain(
        &self,
        fd: RawFd,
        begun: Result<Claim<OwnedFd>, Errno>,
        by: u64,
    ) -> Result<Vec<u8>, Errno> {
        let mut begun = Some(begun);
        insist(by, || {
            let claim = begun.take().unwrap_or_else(|| self.claim(fd))?;
            claim.wait(by)
        })
    }

    /// Tells the parent that a program has it that did not pass through fork, as `fd`. The parent counts with that as long
    /// as what is returned is open.
    ///
    /// # Errors
    /// As [`obtain`](Self::obtain).
    pub fn inherit(&self, fd: RawFd, by: u64) -> Result<OwnedFd, Errno> {
        let serial = self.serial;
        insist(by, || {
            let said = self.say(fd, &Frame::Heir { serial })?;
            said.wait(by)?;
            Ok(said.0)
        })
    }
}

/// How far a claim is.
enum Adoption {
    Over,
    Begun(Arc<Begun>),
    /// It cannot begin yet.
    Later,
}

impl Socket {
    /// Whether it is one.
    pub fn is_orphan(&self) -> bool {
        matches!(self.lock().role, Role::Orphan(_))
    }

    /// The process uses what it has inherited: has the parent hand the connection back to the kernel first, for as long as
    /// the parent and the peer take. Nothing happens to a socket that is no [`Orphan`].
    ///
    /// # Errors
    /// `EINTR`.
    pub fn adopt_for_call(&'static self) -> Result<(), Errno> {
        loop {
            match self.begin_to_adopt() {
                Adoption::Over => return Ok(()),
                Adoption::Begun(begun) => {
                    let interrupted = begun.claim.sleep(u64::MAX);
                    if self.is_adopted(&begun) {
                        return Ok(());
                    }
                    if interrupted {
                        return Err(Errno::INTR);
                    }
                }
                Adoption::Later => nap(),
            }
        }
    }

    /// The same where the call itself is not about the connection alone: what does not come in time is lost.
    pub fn adopt(&'static self) {
        if !self.adopt_within(PATIENCE_NS, u64::MAX) {
            self.lose(self.lock(), Errno::TIMEDOUT);
        }
    }

    /// The same for a call that is to wait for `time` at most: for as long at least as a parent and a peer take that run.
    /// Returns whether it is done.
    pub fn adopt_soon(&'static self, time: Duration) -> bool {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2);
        self.adopt_within(time.max(GRACE_NS), u64::MAX)
    }

    /// The same, for a time in nanoseconds since it began, and until `by` at most. Nobody's lock is held meanwhile.
    #[cold]
    pub(super) fn adopt_within(&'static self, time: u64, by: u64) -> bool {
        let now = now_ns();
        loop {
            let adoption = self.begin_to_adopt();
            let by = by.min(match &adoption {
                Adoption::Over => return true,
                Adoption::Begun(begun) => begun.at.min(now).saturating_add(time),
                Adoption::Later => now.saturating_add(time),
            });
            match adoption {
                Adoption::Begun(begun) => {
                    begun.claim.sleep(by);
                    if self.is_adopted(&begun) {
                        return true;
                    }
                }
                _ => nap(),
            }
            if now_ns() >= by {
                return false;
            }
        }
    }

    /// Sends its claim, if it is to be claimed and was not.
    fn begin_to_adopt(&'static self) -> Adoption {
        let mut inner = self.lock();
        let fd = inner.fd();
        let Role::Orphan(orphaned) = &mut inner.role else {
            return Adoption::Over;
        };
        if let Some(begun) = &orphaned.claim {
            return Adoption::Begun(begun.clone());
        }
        match orphaned.orphan.claim(fd) {
            Ok(Claim(unix, fd)) => {
                let claim = Claim(InternalFd::adopt(unix), fd);
                let begun = Arc::new(Begun {
                    claim,
                    at: now_ns(),
                });
                orphaned.claim = Some(begun.clone());
                Adoption::Begun(begun)
            }
            Err(error) if is_passing(error) || was_dropped(error) => Adoption::Later,
            Err(error) => {
                self.is_answered(inner, Err(error));
                Adoption::Over
            }
        }
    }

    /// Begins what [`let_out`](Self::let_out) does, where that can be had without waiting.
    pub fn begin_to_let_out(&'static self) {
        let begins = self.lock().begin_hand_back(self);
        if !begins {
            self.begin_to_adopt();
        }
    }

    /// Whether the claim is answered; takes the answer, unless another thread has.
    fn is_adopted(&'static self, begun: &Arc<Begun>) -> bool {
        let mut inner = self.lock();
        let claim = match &mut inner.role {
            Role::Orphan(Orphaned { claim, .. }) => claim,
            _ => return true,
        };
        if !claim
            .as_ref()
            .is_some_and(|claim| Arc::ptr_eq(claim, begun))
        {
            return false;
        }
        match begun.claim.answer() {
            Ok(None) => return false,
            Err(error) if was_dropped(error) => {
                *claim = None;
                drop(inner);
                nap();
                return false;
            }
            Ok(Some(unread)) => self.is_answered(inner, Ok(unread)),
            Err(error) => self.is_answered(inner, Err(error)),
        }
        true
    }

    fn is_answered(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        answer: Result<Vec<u8>, Errno>,
    ) {
        let Role::Orphan(Orphaned { orphan, .. }) = &inner.role else {
            return;
        };
        let unread = match answer {
            Ok(unread) => unread,
            Err(Errno::CONNREFUSED) => {
                tracing::info!(target: "netacc::conn", "the parent of an inherited connection is gone");
                let will = (orphan.will >= 0).then(|| sys::borrow(orphan.will));
                let left = will.and_then(|will| heirs::inherited(will, orphan.serial));
                left.unwrap_or_default()
            }
            Err(error) => return self.lose(inner, error),
        };
        match unread.is_empty() {
            // Nothing watches it before it is adopted.
            true => drop(self.be_plain(&mut inner)),
            false => inner.role = Role::Leftover(Leftover::new(unread)),
        }
    }

    /// It cannot be claimed, and may still be on the link: better an error than bytes that overtake others, also for
    /// whoever gets its numbers.
    pub(super) fn lose(&'static self, mut inner: MutexGuard<'static, Inner>, error: Errno) {
        if !matches!(inner.role, Role::Orphan(_)) {
            return;
        }
        tracing::warn!(target: "netacc::conn", "an inherited connection cannot be claimed: {error}");
        let broken = leaving::broken();
        inner.role = Role::Plain;
        for fd in core::mem::take(&mut inner.fds) {
            if fdtable::replace(fd, Entry::Socket(self), Entry::Lost)
                && let Ok(broken) = &broken
            {
                leaving::replace(fd, broken);
            }
        }
        self.recycle_if_done(&mut inner);
    }

    /// Whether the kernel calls it that, or did so before it had a connection there. A claim may have been on its way.
    pub fn is_called(&self, cookie: Option<u64>) -> bool {
        let inner = self.lock();
        let is_now = leaving::cookie(inner.fd()) == cookie;
        is_now || cookie.is_some() && inner.former_cookie == cookie
    }

    /// Whether it was opened fast, and nothing of it is in the kernel.
    pub fn is_afloat(&self) -> bool {
        matches!(&self.lock().role, Role::Connected(conn) if conn.afloat.is_some())
    }

    /// A further number for it, if it has this serial number and is not what the kernel calls `cookie`: it came to have a
    /// kernel's connection since.
    pub fn kernel_unlike(&self, serial: u64, cookie: u64) -> Option<InternalFd> {
        let inner = self.lock();
        let fd = inner.fd();
        let is_other = leaving::cookie(fd).is_some_and(|now| now != cookie);
        (inner.serial == serial && is_other)
            .then(|| InternalFd::duplicate(sys::borrow(fd)).ok())
            .flatten()
    }

    /// The kernel's name of it, while there is a number for it.
    pub fn cookie(&self) -> Option<u64> {
        leaving::cookie(self.lock().fd())
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
            Role::Listening(_) => {
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
        if self.has_heirs() {
            self.went_to_child();
        }
        self.begin_hand_back(socket);
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
}

impl Preparation {
    /// Makes it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make() -> Result<Preparation, Errno> {
        let (reading, writing): (OwnedFd, OwnedFd) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Preparation {
            reading: InternalFd::adopt(reading),
            writing: InternalFd::adopt(writing),
        })
    }
}
