//! Four ways to wait for many sockets, behind one trait.

use crate::stream::plan::Mode;
use crate::sys::{self, Errno};
use libc::c_int;
use std::collections::BTreeMap;

/// One socket's readiness.
pub struct Ready {
    /// The socket.
    pub fd: c_int,
    /// Reading would not block.
    pub read: bool,
    /// Writing would not block.
    pub write: bool,
}

/// Which of a socket's halves are waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// Wait until it can be read.
    pub read: bool,
    /// Wait until it can be written.
    pub write: bool,
}

/// A way to wait.
pub trait Waiter {
    /// Waits for `fd` from now on as `interest` says.
    fn set(&mut self, fd: c_int, interest: Interest);
    /// Forgets `fd`.
    fn remove(&mut self, fd: c_int);
    /// Waits up to `timeout_ms`, -1 without limit.
    fn wait(&mut self, timeout_ms: c_int) -> Vec<Ready>;
    /// Does readiness, once told, stay until EAGAIN without being told again?
    fn edge(&self) -> bool {
        false
    }
}

/// The waiter for a mode other than blocking.
pub fn waiter(mode: Mode) -> Box<dyn Waiter> {
    match mode {
        Mode::Poll => Box::new(Poll::default()),
        Mode::Select => Box::new(Select::default()),
        _ => Box::new(Epoll::new(mode == Mode::EpollEdge)),
    }
}

fn fatal(call: &str) -> ! {
    panic!("{call}: {}", sys::errno())
}

struct Epoll {
    epfd: c_int,
    edge: bool,
    known: BTreeMap<c_int, Interest>,
}

impl Epoll {
    fn new(edge: bool) -> Epoll {
        // SAFETY: no pointers.
        let epfd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epfd < 0 {
            fatal("epoll_create1");
        }
        Epoll {
            epfd,
            edge,
            known: BTreeMap::new(),
        }
    }

    fn ctl(&self, op: c_int, fd: c_int, events: u32) {
        let mut event = libc::epoll_event {
            events,
            u64: fd as u64,
        };
        // SAFETY: a live event.
        if unsafe { libc::epoll_ctl(self.epfd, op, fd, &mut event) } < 0 {
            fatal("epoll_ctl");
        }
    }
}

impl Waiter for Epoll {
    fn set(&mut self, fd: c_int, interest: Interest) {
        let old = self.known.insert(fd, interest);
        if self.edge {
            if old.is_none() {
                let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
                self.ctl(libc::EPOLL_CTL_ADD, fd, events as u32);
            }
            return;
        }
        let mut events = 0;
        if interest.read {
            events |= libc::EPOLLIN;
        }
        if interest.write {
            events |= libc::EPOLLOUT;
        }
        match old {
            None => self.ctl(libc::EPOLL_CTL_ADD, fd, events as u32),
            Some(old) if old != interest => self.ctl(libc::EPOLL_CTL_MOD, fd, events as u32),
            Some(_) => {}
        }
    }

    fn remove(&mut self, fd: c_int) {
        self.known.remove(&fd);
        self.ctl(libc::EPOLL_CTL_DEL, fd, 0);
    }

    fn wait(&mut self, timeout_ms: c_int) -> Vec<Ready> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: the array has room for the 64 events asked for.
        let n = unsafe { libc::epoll_wait(self.epfd, events.as_mut_ptr(), 64, timeout_ms) };
        match sys::check(n as isize) {
            Ok(n) => events[..n]
                .iter()
                .map(|event| {
                    let bits = event.events as c_int;
                    let broken = bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
                    Ready {
                        fd: event.u64 as c_int,
                        read: broken || bits & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0,
                        write: broken || bits & libc::EPOLLOUT != 0,
                    }
                })
                .collect(),
            Err(Errno(libc::EINTR)) => Vec::new(),
            Err(_) => fatal("epoll_wait"),
        }
    }

    fn edge(&self) -> bool {
        self.edge
    }
}

#[derive(Default)]
struct Poll {
    known: BTreeMap<c_int, Interest>,
}

impl Waiter for Poll {
    fn set(&mut self, fd: c_int, interest: Interest) {
        self.known.insert(fd, interest);
    }

    fn remove(&mut self, fd: c_int) {
        self.known.remove(&fd);
    }

    fn wait(&mut self, timeout_ms: c_int) -> Vec<Ready> {
        let mut fds: Vec<libc::pollfd> = self
            .known
            .iter()
            .filter(|(_, i)| i.read || i.write)
            .map(|(&fd, i)| {
                let events =
                    if i.read { libc::POLLIN } else { 0 } | if i.write { libc::POLLOUT } else { 0 };
                libc::pollfd {
                    fd,
                    events,
                    revents: 0,
                }
            })
            .collect();
        // SAFETY: a live array of that length.
        let n = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
        if n < 0 && sys::errno() != Errno(libc::EINTR) {
            fatal("poll");
        }
        fds.iter()
            .filter(|p| p.revents != 0)
            .map(|p| {
                let broken = p.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0;
                Ready {
                    fd: p.fd,
                    read: p.events & libc::POLLIN != 0 && (broken || p.revents & libc::POLLIN != 0),
                    write: p.events & libc::POLLOUT != 0
                        && (broken || p.revents & libc::POLLOUT != 0),
                }
            })
            .collect()
    }
}

#[derive(Default)]
struct Select {
    known: BTreeMap<c_int, Interest>,
}

impl Waiter for Select {
    fn set(&mut self, fd: c_int, interest: Interest) {
        assert!(
            (fd as usize) < libc::FD_SETSIZE,
            "descriptor {fd} is too high for select"
        );
        self.known.insert(fd, interest);
    }

    fn remove(&mut self, fd: c_int) {
        self.known.remove(&fd);
    }

    fn wait(&mut self, timeout_ms: c_int) -> Vec<Ready> {
        // SAFETY: all zeroes is an empty set; descriptors are below FD_SETSIZE (checked in `set`);
        // all pointers are to live values.
        unsafe {
            let mut read: libc::fd_set = std::mem::zeroed();
            let mut write: libc::fd_set = std::mem::zeroed();
            let mut top = 0;
            for (&fd, interest) in &self.known {
                if interest.read {
                    libc::FD_SET(fd, &mut read);
                }
                if interest.write {
                    libc::FD_SET(fd, &mut write);
                }
                top = top.max(fd + 1);
            }
            let mut limit = libc::timeval {
                tv_sec: i64::from(timeout_ms) / 1000,
                tv_usec: i64::from(timeout_ms) % 1000 * 1000,
            };
            let limit = if timeout_ms < 0 {
                std::ptr::null_mut()
            } else {
                &raw mut limit
            };
            let n = libc::select(top, &mut read, &mut write, std::ptr::null_mut(), limit);
            if n < 0 {
                if sys::errno() != Errno(libc::EINTR) {
                    fatal("select");
                }
                return Vec::new();
            }
            self.known
                .keys()
                .map(|&fd| Ready {
                    fd,
                    read: libc::FD_ISSET(fd, &read),
                    write: libc::FD_ISSET(fd, &write),
                })
                .filter(|r| r.read || r.write)
                .collect()
        }
    }
}
