//! How a connection that was opened fast ([`crate::link::ways`]) comes to *stand*: to have a kernel's connection behind it,
//! as those have that were opened the safe way.
//!
//! The connecting end makes it, with the application's own socket and the port that is reserved for it: to the side port by
//! which its way was granted, or to a *door* of the accepting process should that be closed by then; and says which
//! connection of which link it is for. The accepting end puts what it has accepted under the application's numbers, in
//! place of the socket that was there, and says so by the link. Either end may want it: for a hand-back, or a fork.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::cache;
use super::contact::connected;
use super::io_thread::{Control, Source};
use super::wire::Frame;
use crate::fdtable::{self, Entry};
use crate::link::Link;
use crate::link::source::{self, Source as News};
use crate::link::ways;
use crate::real::sys::{self, Errno, InternalFd, now_ns};
use crate::runtime;
use crate::socket::addr::Address;
use crate::socket::{Role, Socket, blanks};

/// How long the connecting end tries, in nanoseconds.
const RISING_NS: u64 = 5_000_000_000;
/// How long a fork waits, in nanoseconds, and between looks. What does not stand by then is the parent's alone.
const FORK_NS: (u64, u64) = (1_000_000_000, 100_000);

/// This process has forked: it opens nothing fast any more, and grants no ways.
static LEFT: AtomicBool = AtomicBool::new(false);

/// Whether it has.
pub fn has_left() -> bool {
    LEFT.load(Ordering::Acquire)
}

/// A forked child begins anew.
pub fn reset_after_fork() {
    LEFT.store(false, Ordering::Relaxed);
    ways::reset_after_fork();
    blanks::reset_after_fork();
}

/// A child is about to be forked, which is to find kernel connections behind all that it inherits. For a bounded time.
pub fn before_fork() {
    if !runtime::started().is_some_and(|runtime| runtime.config.fast_connect) {
        return;
    }
    LEFT.store(true, Ordering::Release);
    wait_for(|| {
        let mut links = Vec::new();
        fdtable::for_each(0, fdtable::CAPACITY - 1, |_, entry| {
            if let Entry::Socket(socket) = entry {
                links.extend(socket.prepare_to_stand());
            }
        });
        links
    });
}

/// The same for those of these sockets that are afloat, before a program inherits them.
pub fn stand_all(sockets: &[&'static Socket]) {
    wait_for(|| {
        let links = sockets.iter().filter_map(|socket| {
            let waits = socket.begin_to_stand();
            waits.then(|| socket.lock().link()).flatten()
        });
        links.collect()
    });
}

/// Takes in what comes by the links that `asked` gives until there are none, or time is up.
fn wait_for(asked: impl Fn() -> Vec<Arc<Link>>) {
    let by = now_ns() + FORK_NS.0;
    loop {
        let links = asked();
        if links.is_empty() || now_ns() >= by {
            return;
        }
        let mut news: Vec<News> = Vec::new();
        for link in links {
            let source = link.source();
            if !news.iter().any(|known| known.is(&source)) {
                news.push(source);
            }
        }
        crate::fabric::network::flush();
        source::poll_all(news.iter(), None);
        sys::nap(FORK_NS.1);
    }
}

/// A kernel's connection that the connecting end makes.
pub struct Rising {
    socket: &'static Socket,
    serial: u64,
    link: Arc<Link>,
    conn: u32,
    /// A further number for the application's socket.
    fd: InternalFd,
    /// Where to try next, the last first.
    tries: Vec<Address>,
    said: bool,
    deadline: u64,
}

impl Rising {
    /// Begins, for the connection with this serial number. `None`: it is not afloat, or cannot stand.
    fn begin(socket: &'static Socket, serial: u64, offset: u16) -> Option<Rising> {
        let (rising, lease) = {
            let mut inner = socket.lock();
            let (number, remote) = (inner.fd(), inner.remote?);
            if inner.serial != serial || number < 0 {
                return None;
            }
            inner.spoil();
            let Role::Connected(conn) = &mut inner.role else {
                return None;
            };
            let (link, id) = (conn.link.clone(), conn.id);
            let fd = InternalFd::duplicate(sys::borrow(number)).ok()?;
            let afloat = conn.afloat.as_mut()?;
            let lease = afloat.lease.take()?;
            let side = remote.port().checked_add(offset);
            let doors = [Some(lease.way().door), side];
            let tries = doors.into_iter().flatten();
            let rising = Rising {
                socket,
                serial,
                link,
                conn: id,
                fd,
                tries: tries.map(|port| remote.with_port(port)).collect(),
                said: false,
                deadline: now_ns() + RISING_NS,
            };
            (rising, lease)
        };
        match lease.pass_to(rising.fd.as_fd()) {
            Ok(()) => Some(rising),
            Err(error) => {
                tracing::warn!(target: "netacc::conn", "a reserved port cannot be had: {error}");
                None
            }
        }
    }

    /// Connects to where it is tried next. False: there is nothing left to try.
    fn connect(&mut self) -> bool {
        while let Some(at) = self.tries.pop() {
            let nonblocking = self.socket.lock().nonblocking;
            let _ = rustix::io::ioctl_fionbio(&self.fd, true);
            let begun = sys::connect(self.fd.as_fd(), &at);
            let _ = rustix::io::ioctl_fionbio(&self.fd, nonblocking);
            self.said = false;
            if matches!(begun, Ok(()) | Err(Errno::INPROGRESS)) {
                return true;
            }
            sys::disconnect(self.fd.as_raw_fd());
        }
        false
    }

    /// Whether it stands, or is closed.
    pub fn is_over(&self) -> bool {
        let mut inner = self.socket.lock();
        inner.serial != self.serial
            || inner
                .conn_on(&self.link, self.conn)
                .is_none_or(|conn| conn.afloat.is_none() || conn.is_reset())
    }

    /// See [`Source`].
    pub fn interest(&self) -> EventFlags {
        match self.said {
            false => EventFlags::OUT,
            true => EventFlags::RDHUP,
        }
    }

    /// See [`Source`].
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Does what can be done now; gives itself back while there is more to come.
    pub fn advance(mut self, expired: bool) -> Option<Rising> {
        if self.is_over() {
            return None;
        }
        let goes_on = match expired {
            true => Some(false),
            false if self.said => Some(true),
            false => match connected(self.fd.as_fd()) {
                None => return Some(self),
                Some(Ok(())) if self.say() => return Some(self),
                Some(_) => Some(true),
            },
        };
        if goes_on == Some(true) {
            sys::disconnect(self.fd.as_raw_fd());
            if self.connect() {
                return Some(self);
            }
        }
        self.fail();
        None
    }

    fn say(&mut self) -> bool {
        let frame = Frame::Stand {
            conn: self.conn,
            token: *self.link.token(),
        }
        .encode();
        self.said = true;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::send(&self.fd, &frame, flags) == Ok(frame.len())
    }

    /// It cannot be had.
    pub fn fail(&self) {
        sys::disconnect(self.fd.as_raw_fd());
        self.socket.cannot_stand(self.serial);
    }
}

impl AsFd for Rising {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Control {
    /// Makes a kernel's connection for the connection with this serial number.
    pub(super) fn make_stand(&mut self, socket: &'static Socket, serial: u64) {
        let offset = self.runtime.config.side_port_offset;
        if let Some(mut rising) = Rising::begin(socket, serial, offset)
            && rising.connect()
        {
            self.insert(Source::Rising(rising));
        } else {
            // (It may have been closed meanwhile.)
            socket.cannot_stand(serial);
        }
    }

    /// The port of a door at our address `local`, whatever its port: no wider than the application is reached.
    pub(super) fn door(&mut self, local: &Address) -> Option<u16> {
        let key = cache::key(&local.with_port(0));
        if let Some(port) = self.doors.get(&key) {
            return Some(*port);
        }
        match open_door(local) {
            Ok((fd, port)) => {
                self.insert(Source::Door(fd))?;
                self.doors.insert(key, port);
                Some(port)
            }
            Err(error) => {
                tracing::warn!(target: "netacc::control", "no door for connections that were opened fast: {error}");
                None
            }
        }
    }
}

fn open_door(local: &Address) -> Result<(InternalFd, u16), Errno> {
    const MOST_WAITING: i32 = 1024;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = AddressFamily::from_raw(local.family() as u16);
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    let fd = InternalFd::adopt(fd);
    sys::bind(fd.as_fd(), &local.with_port(0))?;
    rustix::net::listen(&fd, MOST_WAITING)?;
    let port = Address::local_of(fd.as_raw_fd()).map_or(0, |at| at.port());
    Ok((fd, port))
}
