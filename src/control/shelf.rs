//! Connections that were told that they are connected before a fork, and that nobody has accepted: they go to whichever
//! process accepts next, as they would from the kernel's queue.
//!
//! A process that has not asked its listener for a connection before it forks may never do so; its children do. So its
//! connections are handed back to the kernel ([`crate::socket::hand_back`]), after which they need nothing of the process
//! that has taken them in, and lie on a *shelf*: a pair of Unix sockets that all processes of the listener have, with the
//! connections' descriptors in flight. Whoever puts one there knocks at the side port, so that the kernel wakes one of those
//! who wait for a connection. What a process that ends, or closes its listener, had told so goes the same way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::event::PollFlags;
use rustix::fd::{AsFd, AsRawFd, RawFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::heirs::memory_of;
use super::listener::{Arrival, SideListener, Standing};
use super::{passing, server};
use crate::exec::legacy::contents;
use crate::exit;
use crate::fabric::network;
use crate::fdtable::{self, Entry};
use crate::real::sys::{self, Errno, InternalFd, now_ns};
use crate::socket::Socket;
use crate::socket::accept::Heritage;
use crate::socket::addr::Address;
use crate::sync;

/// How long a fork waits, in nanoseconds, for peers to take connections back to the kernel, and between looks. (They go on
/// after it, if this process does.)
const PATIENCE_NS: (u64, u64) = (1_000_000_000, 100_000);
/// Bytes that may be in flight on a shelf; the kernel gives less.
const ROOM: usize = 4 << 20;

/// See the module.
pub struct Shelf {
    put: InternalFd,
    take: InternalFd,
}

impl Shelf {
    fn make() -> Result<Shelf, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (put, take) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let _ = sockopt::set_socket_send_buffer_size(&put, ROOM);
        Ok(Shelf {
            put: InternalFd::adopt(put),
            take: InternalFd::adopt(take),
        })
    }

    /// The same, as a forked child has it, or a program that it was left to.
    pub fn of([put, take]: [RawFd; 2]) -> Shelf {
        IN_USE.store(true, Ordering::Relaxed);
        Shelf {
            put: InternalFd::take_back(put),
            take: InternalFd::take_back(take),
        }
    }

    /// Its descriptors, which a forked child has, too.
    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.put.as_raw_fd(), self.take.as_raw_fd()]
    }

    /// Puts a connection there, of which `unread` is to be read before what the kernel has.
    fn put(&self, connection: &InternalFd, unread: &[u8]) -> Result<(), Errno> {
        let to = self.put.as_fd();
        match unread.is_empty() {
            true => passing::send(to, &[0], &[connection.as_fd()]),
            false => {
                let memory = memory_of(unread)?;
                passing::send(to, &[0], &[connection.as_fd(), memory.as_fd()])
            }
        }
    }

    /// Takes the oldest.
    fn take(&self) -> Option<(InternalFd, Vec<u8>)> {
        let (_, fds) = passing::receive(&self.take, &mut [0; 1]).ok()?;
        let mut fds = fds.into_iter();
        let connection = fds.next()?;
        let unread = fds.next().map(|memory| contents(memory.as_fd()));
        Some((connection, unread.unwrap_or_default()))
    }
}

/// What has become of a connection that is to go on a shelf.
pub enum Progress {
    /// It is on its link.
    OnLink,
    /// The kernel has it; these bytes are to be read before what comes by the kernel.
    Kernels(Vec<u8>),
    /// Nobody can have it any more.
    Gone,
}

/// Side ports with connections that are on their way to the shelf.
static BUSY: Mutex<Vec<Arc<SideListener>>> = Mutex::new(Vec::new());
/// There is a shelf in this process.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// Whether the end of the process has to look for connections that are for others.
pub fn is_in_use() -> bool {
    IN_USE.load(Ordering::Relaxed)
}

/// A child is about to be forked that shares these side ports; true: this process has asked for connections and goes on to
/// accept those that it has. Counted already ([`forked`](super::listener::forked)).
pub fn before_fork(side_ports: &[(Arc<SideListener>, bool)]) {
    let mut waiting = Vec::new();
    for (side, accepts) in side_ports {
        // Who is being told at this moment is in the queue afterwards, and nobody is told from now on.
        drop(side.answering());
        if side.has_ready() && side.has_shelf() && !accepts {
            side.begin_shelving(side.take_all());
            waiting.push(side.clone());
        }
    }
    let deadline = now_ns() + PATIENCE_NS.0;
    loop {
        waiting.retain(|side| !side.shelve());
        if waiting.is_empty() || now_ns() >= deadline {
            break;
        }
        sys::nap(PATIENCE_NS.1);
    }
    BUSY.lock().append(&mut waiting);
}

/// What nobody here accepts any more from `side`, which may be others' too, goes to these if it was told that it is
/// connected; otherwise it is reset.
pub fn leave_to_others(side: &Arc<SideListener>, left: VecDeque<Arrival>) {
    if side.is_shared() && side.shelf.get().is_some() {
        side.begin_shelving(left);
        if !side.shelve() {
            BUSY.lock().push(side.clone());
        }
    } else {
        left.into_iter().for_each(Arrival::discard);
    }
}

/// The control thread's turn: puts those on their shelves that the kernel has by now. Returns whether that is all of them.
pub fn go_on() -> bool {
    let mut busy = core::mem::take(&mut *BUSY.lock());
    busy.retain(|side| !side.shelve());
    let done = busy.is_empty();
    BUSY.lock().append(&mut busy);
    done
}

/// The process ends: what it has told that it is connected, and has not accepted, is for the others. Returns whether there
/// is nothing left to do.
pub fn is_left_to_others() -> bool {
    if !is_in_use() {
        return true;
    }
    // The program that replaces this one may not be run.
    if exit::is_exec() {
        return go_on();
    }
    fdtable::for_each(0, fdtable::CAPACITY - 1, |_, entry| {
        if let Entry::Socket(socket) = entry
            && let Some((side, _)) = socket.heirs_side_port()
            && side.has_ready()
        {
            leave_to_others(&side, side.take_all());
        }
    });
    go_on()
}

/// A forked child has nothing on its way.
pub fn reset_after_fork() {
    // SAFETY: the child is alone; what its parent had is left as it is.
    unsafe { sync::empty(&BUSY) };
    IN_USE.store(false, Ordering::Relaxed);
}

impl SideListener {
    /// Whether it has a shelf, which is made now if need be.
    fn has_shelf(&self) -> bool {
        if self.shelf.get().is_none() {
            match Shelf::make() {
                Ok(shelf) => {
                    let _ = self.shelf.set(shelf);
                    IN_USE.store(true, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::warn!(target: "netacc::control", "connections that nobody has accepted end with a fork: {error}");
                }
            }
        }
        self.shelf.get().is_some()
    }

    /// These are to go on the shelf: hands them back to the kernel. Who was told nothing finds the kernel's door.
    fn begin_shelving(&self, arrivals: VecDeque<Arrival>) {
        // (A way is granted only by a process that accepts itself; what came by one is not for others.)
        let told = |arrival: &Arrival| {
            matches!(arrival.standing, Standing::Taken(_)) && arrival.fd.is_some()
        };
        let (arrivals, others): (Vec<Arrival>, Vec<Arrival>) = arrivals.into_iter().partition(told);
        others.into_iter().for_each(Arrival::discard);
        for arrival in &arrivals {
            if let Standing::Taken(socket) = arrival.standing {
                socket.begin_to_let_out();
            }
        }
        network::flush();
        self.leaving.lock().extend(arrivals);
    }

    /// Puts those on the shelf that the kernel has by now. Returns whether that is all of them.
    fn shelve(&self) -> bool {
        let mut leaving = self.leaving.lock();
        for arrival in core::mem::take(&mut *leaving) {
            let Standing::Taken(socket) = arrival.standing else {
                continue;
            };
            match socket.progress_to_shelf() {
                Progress::OnLink => leaving.push(arrival),
                Progress::Gone => arrival.discard(),
                Progress::Kernels(unread) => {
                    let shelf = self.shelf.get().ok_or(Errno::NXIO);
                    let put = |shelf: &Shelf| match &arrival.fd {
                        Some(fd) => shelf.put(fd, &unread),
                        None => Err(Errno::NOTCONN),
                    };
                    match shelf.and_then(put) {
                        Ok(()) => {
                            socket.give_up();
                            self.knock();
                        }
                        Err(error) => {
                            tracing::warn!(target: "netacc::control", "no room for a connection that nobody has accepted: {error}");
                            arrival.discard();
                        }
                    }
                }
            }
        }
        leaving.is_empty()
    }

    /// Has the kernel wake somebody who waits at the side port.
    fn knock(&self) {
        const MOMENT_NS: u64 = 20_000_000;
        let Some(at) = Address::local_of(self.as_raw_fd()) else {
            return;
        };
        let family = AddressFamily::from_raw(at.family() as u16);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(fd) = rustix::net::socket_with(family, SocketType::STREAM, flags, None) else {
            return;
        };
        let fd = InternalFd::adopt(fd);
        // It says nothing: nobody is disturbed but for a moment. Without it there are others who knock.
        if sys::connect(fd.as_fd(), &at) == Err(Errno::INPROGRESS) {
            let _ = sys::poll_one(fd.as_fd(), PollFlags::OUT, MOMENT_NS);
        }
    }

    /// The connection that has been longest on the shelf.
    pub(super) fn take_from_shelf(&self) -> Option<Arrival> {
        let shelf = self.shelf.get()?;
        loop {
            let (fd, unread) = shelf.take()?;
            // One without a peer was broken off.
            if let Some(remote) = Address::peer_of(fd.as_raw_fd()) {
                let local = server::local_of(&fd, self);
                let socket = Socket::arrived(Heritage::default(), local, None, 0);
                socket.was_on_shelf(unread);
                return Some(Arrival {
                    fd: Some(fd),
                    remote,
                    standing: Standing::Taken(socket),
                    way: None,
                });
            }
        }
    }
}
