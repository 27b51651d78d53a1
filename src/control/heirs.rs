//! What forked children have inherited from this process, and how they get it.
//!
//! A child that was forked while connections were on links holds their kernel connections, but the links are its
//! parent's. When it first uses one it *claims* it at the parent's rendezvous, and shows its descriptor; the parent hands
//! the connection back to the kernel ([`crate::socket::hand_back`]) and passes on what had come by the link and nobody has
//! read. A connection
//! that the parent closes while a child may hold it is handed back then, and what was unread is kept for a claim.
//!
//! Which children live is told by a pipe for each fork: children hold its writing end, and so do theirs. Beside it they
//! hold the *will*, a file in memory where a parent that ends writes what was unread of connections that nobody has
//! claimed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use rustix::fs::{MemfdFlags, SeekFrom};

use super::io_thread::{Command, Control, Source};
use super::passing;
use super::wire::Frame;
use crate::exit;
use crate::fdtable::{self, Entry};
use crate::real::sys::{self, Errno, InternalFd};
use crate::runtime;
use crate::socket::Socket;
use crate::socket::leaving::cookie;
use crate::sync;

/// Forks so far that children may have inherited connections by.
static FORKS: AtomicU64 = AtomicU64::new(0);
/// The last of them of which a child lives.
static LAST_ALIVE: AtomicU64 = AtomicU64::new(0);

/// The children of one fork, and theirs: nothing is ever written, the end tells that the last is gone.
pub struct Heirs {
    fork: u64,
    pipe: InternalFd,
    /// Whether they have this process's will. Not a program that was started by vfork: it says itself that it is there,
    /// too late for that.
    have_will: bool,
}

/// What children find of unread bytes when this process is gone; -1 while there was no fork that inherits connections. One
/// for all of them: whoever of them uses a connection first takes what is left of it.
static WILL: AtomicI32 = AtomicI32::new(-1);

/// This process's will, which is made now if need be.
///
/// # Errors
/// The kernel's.
pub fn will() -> Result<RawFd, Errno> {
    let before = WILL.load(Ordering::Acquire);
    if is_will(before) {
        return Ok(before);
    }
    let will = rustix::fs::memfd_create(c"netacc-will", MemfdFlags::CLOEXEC)?;
    let will = InternalFd::adopt(will).leave();
    match WILL.compare_exchange(before, will, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(will),
        // Another thread that forks was faster.
        Err(other) => {
            drop(InternalFd::take_back(will));
            Ok(other)
        }
    }
}

/// Whether `number` is that of the will: there is one, and nobody has closed it behind our back.
fn is_will(number: RawFd) -> bool {
    matches!(fdtable::get(number), Some(Entry::Internal))
}

/// A number of its own for this process's will: who is given it may close and open it as it likes.
///
/// # Errors
/// The kernel's.
pub fn copy_of_will() -> Result<InternalFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(sys::borrow(will()?), 0).map(InternalFd::adopt)
}

/// How many forks there were: what is made now is inherited by later ones only.
pub fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Whether a child may hold what was made when there had been `forks` forks.
pub fn may_hold(forks: u64) -> bool {
    LAST_ALIVE.load(Ordering::Acquire) > forks
}

/// A child is about to inherit connections, and may claim them before anything else is done here.
pub fn will_fork() {
    let fork = FORKS.fetch_add(1, Ordering::Relaxed) + 1;
    LAST_ALIVE.fetch_max(fork, Ordering::AcqRel);
}

/// A child has inherited connections, those that were made since [`will_fork`], too. `pipe` ends with it.
pub fn forked(pipe: InternalFd) {
    let fork = FORKS.fetch_add(1, Ordering::Relaxed) + 1;
    LAST_ALIVE.fetch_max(fork, Ordering::AcqRel);
    let have_will = true;
    runtime::get().command(Command::Heirs(Heirs {
        fork,
        pipe,
        have_will,
    }));
}

/// A forked child has children of its own, and none yet.
pub fn reset_after_fork() {
    FORKS.store(0, Ordering::Relaxed);
    LAST_ALIVE.store(0, Ordering::Relaxed);
    if WILL.load(Ordering::Relaxed) != -1 {
        WILL.store(-1, Ordering::Relaxed);
    }
    // SAFETY: the child is alone; the old list, which another thread may have been changing, is left as it is.
    unsafe { sync::empty(&CLOSED) };
}

/// Connections that the application has closed and that are being handed back for children.
static CLOSED: Mutex<Vec<&'static Socket>> = Mutex::new(Vec::new());

/// `socket` was closed here, and children may hold it: it is kept until it is handed back.
pub fn keep(socket: &'static Socket) {
    CLOSED.lock().push(socket);
}

/// What nobody had read of a connection that was closed.
struct Unread {
    /// How many forks there had been when it was made, and when it was closed.
    forks: (u64, u64),
    /// The kernel's name of it.
    cookie: Option<u64>,
    bytes: Vec<u8>,
}

impl Unread {
    /// Of a connection that was made after `made` forks, and is closed now.
    fn now(made: u64, cookie: Option<u64>, bytes: Vec<u8>) -> Unread {
        let forks = (made, forks());
        Unread {
            forks,
            cookie,
            bytes,
        }
    }
}

/// What the control thread knows of heirs.
#[derive(Default)]
pub struct Estate {
    /// Claims of connections that are being handed back: their serial numbers, and the kernel's names of what was shown.
    claims: Vec<(InternalFd, &'static Socket, [u64; 2])>,
    /// What nobody had read of connections that were closed here, by their serial numbers.
    unread: HashMap<u64, Unread>,
    /// Forks of which a child lives.
    alive: Vec<u64>,
}

impl Control {
    /// See [`forked`].
    pub fn watch_heirs(&mut self, heirs: Heirs) {
        self.estate.alive.push(heirs.fork);
        // Forks of several threads are told in any order.
        LAST_ALIVE.fetch_max(heirs.fork, Ordering::AcqRel);
        // If they cannot be watched, they count as alive for good.
        self.insert(Source::Heirs(heirs));
    }

    /// A program that was started with connections of this process, of which it has `shown` one, says so by `pipe`, which it
    /// holds while it lives.
    pub fn inherits(&mut self, pipe: InternalFd, serial: u64, shown: &InternalFd) {
        let cookie = cookie(shown.as_raw_fd());
        let ours = Socket::of(serial).is_some_and(|socket| socket.is_called(cookie));
        let unread = self.estate.unread.get(&serial);
        if cookie.is_none() || !ours && unread.is_none_or(|unread| unread.cookie != cookie) {
            refuse(&pipe, true);
            return;
        }
        let fork = FORKS.fetch_add(1, Ordering::Relaxed) + 1;
        // Before the program goes on, and its parent, which may close them at once.
        LAST_ALIVE.fetch_max(fork, Ordering::AcqRel);
        answer(&pipe, &[]);
        self.watch_heirs(Heirs {
            fork,
            pipe,
            have_will: false,
        });
    }

    /// All processes that hold a pipe's other end are gone.
    pub fn heirs_gone(&mut self, heirs: &Heirs) {
        self.estate.alive.retain(|fork| *fork != heirs.fork);
        let last = self.estate.alive.iter().copied().max().unwrap_or(0);
        // A fork that is being made counts already, and has not been told here yet.
        let _ = LAST_ALIVE.compare_exchange(heirs.fork, last, Ordering::AcqRel, Ordering::Relaxed);
        // One that has not been told here yet is not in the list.
        let latest = LAST_ALIVE.load(Ordering::Acquire);
        let alive = &self.estate.alive;
        self.estate.unread.retain(|_, unread| {
            let (made, closed) = unread.forks;
            let mut living = alive.iter().chain([&latest]);
            living.any(|fork| (made + 1..=closed).contains(fork))
        });
    }

    /// Another process uses the connection with this number, or the one that it has `shown` if it does not know the number.
    /// It is answered by `to` once the kernel has it, and refused if it has shown something else; not at all if it knows no
    /// number.
    pub fn claimed(&mut self, to: InternalFd, serial: u64, shown: &InternalFd) {
        let knows = serial != 0;
        let Some(shown) = cookie(shown.as_raw_fd()) else {
            // Without an answer it would be claimed again.
            return refuse(&to, knows);
        };
        let serial = match knows {
            true => serial,
            false => self.number_of(shown),
        };
        if let Some(unread) = self.estate.unread.get(&serial) {
            if unread.cookie != Some(shown) {
                refuse(&to, knows);
            } else if answer(&to, &unread.bytes) {
                self.estate.unread.remove(&serial);
            }
            return;
        }
        match Socket::of(serial) {
            Some(socket) if !socket.is_called(Some(shown)) => refuse(&to, knows),
            Some(socket) => {
                socket.lock().went_to_child();
                self.estate.claims.push((to, socket, [serial, shown]));
                self.settle_claims();
            }
            // It was one of ours, and is the kernel's.
            None if serial != 0 => {
                answer(&to, &[]);
            }
            None => {}
        }
    }

    /// The number of the connection that the kernel calls `cookie`; 0 if it is none of ours.
    fn number_of(&self, cookie: u64) -> u64 {
        let kept =
            |(serial, unread): (&u64, &Unread)| (unread.cookie == Some(cookie)).then_some(*serial);
        let mut kept = self.estate.unread.iter().filter_map(kept);
        let ours = Socket::shown(cookie).map(|socket| socket.lock().serial);
        ours.or_else(|| kept.next()).unwrap_or(0)
    }

    /// Answers the claims of connections that are the kernel's by now.
    pub fn settle_claims(&mut self) {
        let claims = core::mem::take(&mut self.estate.claims);
        for (to, socket, [serial, shown]) in claims {
            match socket.bequeath(serial) {
                Some(bytes) => {
                    let kernel = socket.kernel_unlike(serial, shown);
                    if !answer_with(&to, &bytes, kernel.as_ref()) {
                        // The claimer is gone; another child may ask.
                        let unread = Unread::now(0, socket.cookie(), bytes);
                        self.estate.unread.insert(serial, unread);
                    }
                }
                None => self.estate.claims.push((to, socket, [serial, shown])),
            }
        }
        let closed = core::mem::take(&mut *CLOSED.lock());
        for socket in closed {
            let (serial, made) = {
                let inner = socket.lock();
                (inner.serial, inner.forks)
            };
            match socket.bequeath(serial) {
                Some(bytes) => {
                    if !bytes.is_empty() && may_hold(made) {
                        let unread = Unread::now(made, socket.cookie(), bytes);
                        self.estate.unread.insert(serial, unread);
                    }
                    socket.was_kept();
                }
                None => keep(socket),
            }
        }
    }

    /// The process ends: what children may hold is handed back before. Returns whether all of it is.
    pub fn is_bequeathed(&mut self) -> bool {
        let mut done = true;
        fdtable::for_each(0, fdtable::CAPACITY - 1, |_, entry| {
            if let Entry::Socket(socket) = entry {
                done &= socket.is_handed_to_heirs();
            }
        });
        self.settle_claims();
        let done = done && CLOSED.lock().is_empty() && self.has_resent_all();
        if done && !exit::is_exec() {
            self.make_wills();
        }
        done
    }

    /// Leaves what is unread to children that inherited it.
    fn make_wills(&mut self) {
        let mut unread = core::mem::take(&mut self.estate.unread);
        fdtable::for_each(0, fdtable::CAPACITY - 1, |_, entry| {
            if let Entry::Socket(socket) = entry
                && let Some((serial, made, bytes)) = socket.unread_for_heirs()
            {
                unread.insert(serial, Unread::now(made, None, bytes));
            }
        });
        for (serial, Unread { forks, bytes, .. }) in unread {
            let inherited = |heirs: &Heirs| heirs.have_will && heirs.fork > forks.0;
            let will = WILL.load(Ordering::Acquire);
            if is_will(will) && self.heirs().any(inherited) {
                let will = sys::borrow(will);
                let head = [serial.to_le_bytes(), (bytes.len() as u64).to_le_bytes()].concat();
                let before = rustix::fs::fstat(will).map_or(0, |stat| stat.st_size as u64);
                if write_all(will, &[head, bytes].concat()).is_err() {
                    // No memory: nothing of it, rather than a part that hides what follows.
                    let _ = rustix::fs::ftruncate(will, before);
                    let _ = rustix::fs::seek(will, SeekFrom::Start(before));
                }
            }
        }
    }
}

/// Tells a process that it does not get what it asks for by its number: that there is something to be read, which it is not
/// given.
fn refuse(to: &InternalFd, knows_number: bool) {
    if knows_number {
        let _ = passing::send(to.as_fd(), &Frame::Estate { unread: 1 }.encode(), &[]);
    }
}

/// Tells a child that the kernel has its connection, and passes on what is to be read first. False if it does not get it.
fn answer(to: &InternalFd, unread: &[u8]) -> bool {
    answer_with(to, unread, None)
}

/// The same, with what the kernel has if the child has something else.
fn answer_with(to: &InternalFd, unread: &[u8], kernel: Option<&InternalFd>) -> bool {
    let kernel = kernel.map(AsFd::as_fd);
    let frame = Frame::Estate {
        unread: unread.len() as u64,
    }
    .encode();
    let passed = match unread.is_empty() {
        true => passing::send(to.as_fd(), &frame, kernel.as_slice()),
        false => memory_of(unread).and_then(|memory| {
            let fds: Vec<_> = core::iter::once(memory.as_fd()).chain(kernel).collect();
            passing::send(to.as_fd(), &frame, &fds)
        }),
    };
    if let Err(error) = &passed {
        tracing::warn!(target: "netacc::control", "a child does not get its connection: {error}");
    }
    passed.is_ok()
}

fn write_all(to: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    let mut written = 0;
    while written < bytes.len() {
        written += rustix::io::write(to, &bytes[written..])?;
    }
    Ok(())
}

/// What a parent's will leaves of the connection with this number. Taken once, by whichever of its children comes first.
pub fn inherited(will: BorrowedFd<'_>, serial: u64) -> Option<Vec<u8>> {
    use rustix::fs::{FlockOperation, fcntl_lock};
    // A lock of the process's: it ends with it, and a fork does not share it.
    let locked = fcntl_lock(will, FlockOperation::LockExclusive);
    let found = taken(will, serial);
    if locked.is_ok() {
        let _ = fcntl_lock(will, FlockOperation::Unlock);
    }
    found
}

fn taken(will: BorrowedFd<'_>, serial: u64) -> Option<Vec<u8>> {
    let size = rustix::fs::fstat(will).ok()?.st_size as u64;
    let read = |len: u64, at: u64| {
        // Written by a relative, but not to be trusted to fit.
        at.checked_add(len).filter(|end| *end <= size)?;
        let mut bytes = vec![0; len as usize];
        (rustix::io::pread(will, &mut bytes, at) == Ok(bytes.len())).then_some(bytes)
    };
    let number = |at| Some(u64::from_le_bytes(read(8, at)?.try_into().ok()?));
    let mut at = 0;
    loop {
        let (found, len) = (number(at)?, number(at + 8)?);
        if found == serial {
            // Serial numbers begin with one.
            let _ = rustix::io::pwrite(will, &[0; 8], at);
            return read(len, at + 16);
        }
        at = at.checked_add(16)?.checked_add(len)?;
    }
}

/// A file in memory with these bytes.
///
/// # Errors
/// The kernel's.
pub(super) fn memory_of(bytes: &[u8]) -> Result<InternalFd, Errno> {
    let memory = rustix::fs::memfd_create(c"netacc-unread", MemfdFlags::CLOEXEC)?;
    let memory = InternalFd::adopt(memory);
    write_all(memory.as_fd(), bytes)?;
    rustix::fs::seek(&memory, SeekFrom::Start(0))?;
    Ok(memory)
}

impl AsFd for Heirs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
