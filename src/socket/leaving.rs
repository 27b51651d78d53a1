//! Sockets whose descriptors go where this library may not be: to another process, or to the program that replaces this
//! one. The kernel alone is to serve them.

use parking_lot::MutexGuard;
use rustix::event::PollFlags;
use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use super::addr::Address;
use super::hand_back::has_bytes;
use super::lifecycle::Farewell;
use super::{Inner, Role, Socket};
use crate::conn::leftover::Leftover;
use crate::control::io_thread::Command;
use crate::control::listener::Closing;
use crate::control::resending::{self, Resending};
use crate::exec;
use crate::log::ErrnoGuard;
use crate::poll::waiter::Wakes;
use crate::real::orig;
use crate::real::sys::{self, Errno, now_ns};
use crate::runtime;
use crate::stats::{Mode, Reason};

/// How long is waited for others, in nanoseconds, before descriptors go, however many there are: for connects that are
/// under way, and for processes that have a connection, or something to send again on it. Longer than any that runs takes.
pub const PATIENCE_NS: u64 = 10_000_000_000;
/// How many things can be in the way of a socket, one after the other.
const STEPS: u32 = 4;

/// When a departure is over that begins now, in [`now_ns`] time.
pub fn deadline() -> u64 {
    now_ns() + PATIENCE_NS
}

/// Sees to it that whoever gets these sockets needs nothing but the kernel: of all of them at once, and for
/// [`PATIENCE_NS`] at most.
pub fn let_out(sockets: impl IntoIterator<Item = &'static Socket>) {
    let by = deadline();
    let sockets: Vec<_> = sockets.into_iter().collect();
    sockets.iter().for_each(|socket| socket.begin_to_let_out());
    sockets.iter().for_each(|socket| socket.let_out(by));
}

/// Waits a moment for what nobody tells of.
pub fn nap() {
    sys::nap(2_000_000);
}

/// The kernel's name of a socket.
pub fn cookie(fd: RawFd) -> Option<u64> {
    let socket = (fd >= 0).then(|| sys::borrow(fd))?;
    rustix::net::sockopt::socket_cookie(socket).ok()
}

/// A connection that was broken off.
///
/// # Errors
/// The kernel's.
pub fn broken() -> Result<OwnedFd, Errno> {
    let (reading, _writing) = pair()?;
    sys::disconnect(reading.as_raw_fd());
    Ok(reading)
}

/// A connection of this process with itself, of the kernel's, that gives `bytes` and then ends: the end to read, the one
/// to write, and how many bytes have found room.
///
/// # Errors
/// The kernel's.
pub fn stand_in(bytes: &[u8]) -> Result<(OwnedFd, OwnedFd, usize), Errno> {
    let (reading, writing) = pair()?;
    let sent = resending::send(writing.as_fd(), bytes);
    Ok((reading, writing, sent))
}

/// The end to read of a connection that gives `bytes` and then ends, for a process that has nobody who could send more as
/// there is room: one that is broken off if there is not room for all.
///
/// # Errors
/// The kernel's.
pub fn whole(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    match stand_in(bytes) {
        Ok((reading, _, sent)) if sent == bytes.len() => Ok(reading),
        _ => broken(),
    }
}

/// Has `number` stand for what `fd` does; it stays open over exec, or not, as it was.
pub fn replace(number: RawFd, fd: &impl AsRawFd) {
    let flags = match exec::program::survives(number) {
        true => 0,
        false => libc::O_CLOEXEC,
    };
    let _errno = ErrnoGuard::new();
    // SAFETY: no pointers.
    unsafe { orig::dup3(fd.as_raw_fd(), number, flags) };
}

fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
    /// As much as there may be; the kernel gives less.
    const ROOM: usize = 4 << 20;
    let socket = || {
        let flags = SocketFlags::CLOEXEC;
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
    };
    let listener = sys::raise(socket()?);
    sockopt::set_socket_recv_buffer_size(&listener, ROOM)?;
    rustix::net::listen(&listener, 1)?;
    let there = Address::local_of(listener.as_raw_fd()).ok_or(Errno::ADDRNOTAVAIL)?;
    let writing = sys::raise(socket()?);
    sockopt::set_socket_send_buffer_size(&writing, ROOM)?;
    sys::connect(writing.as_fd(), &there)?;
    let reading = sys::raise(rustix::net::accept_with(&listener, SocketFlags::CLOEXEC)?);
    match (
        Address::peer_of(reading.as_raw_fd()),
        Address::local_of(writing.as_raw_fd()),
    ) {
        (Some(one), Some(other)) if one.port() == other.port() => Ok((reading, writing)),
        // Somebody else was faster.
        _ => Err(Errno::CONNABORTED),
    }
}

/// Whether the kernel has nothing but the end of a stream, or will have that in a moment, and by `by`: what the peer says
/// by the link is here before.
pub fn ends_soon(fd: RawFd, by: u64) -> bool {
    const MOMENT_NS: u64 = 1_000_000_000;
    if fd < 0 {
        return false;
    }
    let time = by.saturating_sub(now_ns()).min(MOMENT_NS);
    let ended = sys::poll_one(sys::borrow(fd), PollFlags::RDHUP, time);
    ended.is_ok_and(|found| !found.is_empty()) && !has_bytes(fd)
}

impl Socket {
    /// Sees to it that whoever gets the socket needs nothing but the kernel. What cannot be had until `by` is broken off.
    pub fn let_out(&'static self, by: u64) {
        if !self.is_let_out(by, false) {
            self.cut_off();
        }
    }

    /// The same for a program with this library, which can be told what it is to read first.
    pub fn let_out_with(&'static self, by: u64) {
        if !self.is_let_out(by, true) {
            self.cut_off();
        }
    }

    fn is_let_out(&'static self, by: u64, with_library: bool) -> bool {
        for _ in 0..STEPS {
            let mut inner = self.lock();
            inner.spoil();
            let done = match &inner.role {
                _ if inner.is_cut_off => return true,
                Role::Connected(conn) if conn.is_reset() => return true,
                Role::Connected(_) => self.hand_back_by(inner, by),
                Role::Connecting(_) => {
                    let connects = |inner: &Inner| matches!(inner.role, Role::Connecting(_));
                    self.wait_while(inner, by, connects)
                }
                Role::Leftover(left) if left.resends => self.wait_while(inner, by, Inner::resends),
                Role::Leftover(left) if with_library || left.is_empty() => return true,
                Role::Leftover(_) => return self.substitute(inner, by),
                Role::Orphan(_) => {
                    drop(inner);
                    self.adopt_within(PATIENCE_NS, by)
                }
                Role::Listening(_) => {
                    self.share_listener(inner);
                    return true;
                }
                Role::Unused | Role::Fresh | Role::Plain => return true,
            };
            if !done {
                return false;
            }
        }
        true
    }

    /// Others did not do their part in time. Whoever gets the socket is to see an error rather than a stream with a hole,
    /// and nobody is asked again.
    fn cut_off(&'static self) {
        let mut inner = self.lock();
        match inner.role {
            // Its parent's, which goes on with it.
            Role::Orphan(_) => self.lose(inner, Errno::TIMEDOUT),
            _ => {
                inner.is_cut_off = true;
                let fd = inner.fd();
                if fd >= 0 {
                    sys::disconnect(fd);
                }
            }
        }
    }

    /// The peer has closed the connection, so it can send nothing again: what nobody has read is to be read from a
    /// connection of this process with itself, which takes its place. False if that cannot be had.
    fn substitute(&'static self, mut inner: MutexGuard<'static, Inner>, by: u64) -> bool {
        let fd = inner.fd();
        let Role::Leftover(left) = &inner.role else {
            return true;
        };
        let mut is_last = left.is_last;
        if !is_last {
            // Another thread may close it meanwhile, read what is left, or give it away.
            inner = match self.unlocked(inner, || is_last = ends_soon(fd, by)) {
                Some(inner) => inner,
                None => return true,
            };
        }
        let (nonblocking, serial) = (inner.nonblocking, inner.serial);
        let numbers = inner.fds.clone();
        let Role::Leftover(left) = &mut inner.role else {
            return true;
        };
        if left.is_empty() || left.resends {
            return true;
        }
        let bytes = left.take_all();
        let made = match is_last {
            true => stand_in(&bytes),
            // There may be more to come behind it.
            false => Err(Errno::BUSY),
        };
        let (reading, writing, sent) = match made {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(target: "netacc::conn", "{} bytes cannot go with a connection: {error}", bytes.len());
                let (resends, then_ends) = (left.resends, left.then_ends);
                *left = Leftover::new(bytes);
                (left.resends, left.then_ends) = (resends, then_ends);
                return false;
            }
        };
        let _ = rustix::io::ioctl_fionbio(&reading, nonblocking);
        for number in numbers {
            replace(number, &reading);
        }
        if sent < bytes.len() {
            Resending::begin(writing.as_fd(), bytes[sent..].to_vec(), self, serial);
        }
        self.leave_if_read(inner);
        true
    }

    /// Another process is to accept from the listener, too. It goes on here as it is if it can: one that the application
    /// itself has made non-blocking, and accepts from. Else it is the kernel's, for both; here, once those are accepted who
    /// know that they are connected.
    pub(super) fn share_listener(&'static self, mut inner: MutexGuard<'static, Inner>) {
        let (nonblocking, fd) = (inner.nonblocking, inner.fd());
        let Role::Listening(listening) = &mut inner.role else {
            return;
        };
        if listening.leaves || listening.claimed && (nonblocking || listening.foreign) {
            return;
        }
        if listening.foreign {
            // Nobody accepts here. If that changes, there will be another side port.
            listening.untried = true;
            let listener = listening.side.take();
            drop(inner);
            return Farewell {
                listener,
                ..Farewell::default()
            }
            .say();
        }
        let _ = rustix::io::ioctl_fionbio(sys::borrow(fd), nonblocking);
        let waited_for = listening.is_for_others() && listening.has_ready();
        listening.leaves = waited_for;
        let closing = listening.side.clone().filter(|_| waited_for);
        inner
            .stats
            .inspect(|page| page.set_mode(Mode::Tcp, Reason::Forked));
        match closing {
            Some(side) => {
                side.stop();
                runtime::get().command(Command::Unlisten(Closing::new(side)));
            }
            None => self.stop_serving(inner),
        }
    }

    /// A listener is the kernel's alone from now on.
    pub(super) fn stop_serving(&'static self, mut inner: MutexGuard<'static, Inner>) {
        let Role::Listening(listening) = &mut inner.role else {
            return;
        };
        let ways = listening.ways();
        let side = listening.side.take();
        let sets = self.be_plain(&mut inner);
        let mut wakes = Wakes::new(None);
        inner.wake_sleepers(&mut wakes);
        drop(inner);
        wakes.ring();
        Farewell {
            sets,
            ways,
            listener: side,
            ..Farewell::default()
        }
        .say();
    }

    /// Whether it is a listener that the kernel never waits for, though the application would have it wait.
    pub fn waits_here(&self) -> bool {
        let inner = self.lock();
        inner.never_waits() && !inner.nonblocking
    }
}
