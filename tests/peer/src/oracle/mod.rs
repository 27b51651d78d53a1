//! Small scenarios that print what they observe, one line each. The test runs them over kernel TCP
//! and with the preload library: the two traces must be equal, line by line.
//!
//! So nothing that may differ between two runs over kernel TCP is printed: no port, no time, no size
//! that depends on buffers; and waiting is for a state, never for a time.

mod accept;
mod blocking;
mod connect;
mod dup;
mod endings;
mod flags;
mod iovec;
mod names;
mod numbers;
mod options;
pub mod puppet;
mod ready_epoll;
mod ready_mixed;
mod ready_poll;

use crate::args::Args;
use crate::{sys, verdict};
use puppet::{Puppet, Remote, byte};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;

/// A scenario and its name.
pub type Scenario = (&'static str, fn(&Ctx));

/// The calls on sockets.
pub const SEMANTICS: &[&[Scenario]] = &[
    flags::ALL,
    iovec::ALL,
    names::ALL,
    accept::ALL,
    connect::ALL,
    dup::ALL,
    endings::ALL,
    numbers::ALL,
    options::ALL,
    blocking::ALL,
];

/// Waiting for sockets.
pub const READINESS: &[&[Scenario]] = &[ready_epoll::ALL, ready_poll::ALL, ready_mixed::ALL];

/// The names of epoll's and poll's bits.
const BITS: [(i32, &str); 7] = [
    (libc::EPOLLIN, "IN"),
    (libc::EPOLLPRI, "PRI"),
    (libc::EPOLLOUT, "OUT"),
    (libc::EPOLLERR, "ERR"),
    (libc::EPOLLHUP, "HUP"),
    (libc::EPOLLRDHUP, "RDHUP"),
    (libc::POLLNVAL as i32, "NVAL"),
];

/// Readiness bits (poll's and epoll's have the same values) as words.
pub fn bits(events: i32) -> String {
    let names: Vec<&str> = BITS
        .iter()
        .filter(|(bit, _)| events & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    if names.is_empty() {
        "nothing".to_string()
    } else {
        names.join("|")
    }
}

/// How many bytes, and whether they are those of a puppet's stream from `offset`.
pub fn content(offset: usize, data: &[u8]) -> String {
    let right = data.iter().enumerate().all(|(i, &b)| b == byte(offset + i));
    format!(
        "{} bytes, {}",
        data.len(),
        if right { "right" } else { "WRONG" }
    )
}

static WHERE: Mutex<String> = Mutex::new(String::new());

/// What a scenario works with.
pub struct Ctx {
    remote: RefCell<Remote>,
    two_processes: bool,
    /// Does the local end of `pair` connect (or accept)?
    pub connects: bool,
    ip: IpAddr,
    base: u16,
    listener: i32,
    prefix: String,
    pairs: Cell<u32>,
    /// Low numbers that were open before the last scenario.
    low: Cell<Option<usize>>,
    open: RefCell<Vec<i32>>,
}

impl Ctx {
    fn new(two_processes: bool, v6: bool, connects: bool, base: u16) -> Ctx {
        let remote = if two_processes {
            Remote::start()
        } else {
            Remote::Here(Puppet::default())
        };
        let ip: IpAddr = if v6 {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        };
        let listener = sys::listener(SocketAddr::new(ip, base), 64).expect("listen");
        let words = [
            if two_processes { "two" } else { "one" },
            if v6 { "v6" } else { "v4" },
            if connects { "connects" } else { "accepts" },
        ];
        let (remote, prefix, open) = (RefCell::new(remote), words.join(" "), RefCell::default());
        Ctx {
            remote,
            two_processes,
            connects,
            ip,
            base,
            listener,
            prefix,
            pairs: Cell::new(0),
            low: Cell::new(None),
            open,
        }
    }

    /// Prints an observation.
    pub fn log(&self, text: impl AsRef<str>) {
        let scenario = WHERE.lock().map(|w| w.clone()).unwrap_or_default();
        verdict::line(&format!("{scenario}: {}", text.as_ref()));
    }

    /// Has the other end do something; its answer.
    pub fn tell(&self, command: impl AsRef<str>) -> String {
        self.remote.borrow_mut().tell(command.as_ref())
    }

    /// The address of the local listener, `listener`.
    pub fn here(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.base)
    }

    /// The address of the other end's listener, "L".
    pub fn there(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.base + 1)
    }

    /// Further ports, 0 to 3, on which nothing listens.
    pub fn spare(&self, n: u16) -> SocketAddr {
        SocketAddr::new(self.ip, self.base + 2 + n)
    }

    /// The local listener.
    pub fn listener(&self) -> i32 {
        self.listener
    }

    /// A connected pair: the local socket, and the name of the other end.
    pub fn pair(&self) -> (i32, String) {
        self.pairs.set(self.pairs.get() + 1);
        let id = format!("r{}", self.pairs.get());
        let fd = if self.connects {
            let fd = sys::connected(self.there()).expect("connect");
            assert_eq!(self.tell(format!("accept {id} L")), "ok");
            fd
        } else {
            let at = self.here();
            assert_eq!(self.tell(format!("connect {id} {at}")), "ok");
            sys::accept4(self.listener, libc::SOCK_CLOEXEC).expect("accept")
        };
        (self.own(fd), id)
    }

    /// Has `fd` closed at the end of the scenario.
    pub fn own(&self, fd: i32) -> i32 {
        self.open.borrow_mut().push(fd);
        fd
    }

    /// Closes `fd` now.
    pub fn close(&self, fd: i32) -> String {
        self.disown(fd);
        sys::word(sys::close(fd))
    }

    /// The scenario has closed `fd` by other means.
    pub fn disown(&self, fd: i32) {
        self.open.borrow_mut().retain(|&open| open != fd);
    }

    /// Waits until `fd` can be read (data, end or error).
    pub fn readable(&self, fd: i32) {
        if sys::poll(fd, libc::POLLIN, sys::PATIENCE_MS) == Ok(0) {
            self.log("NOT READABLE for a long time");
        }
    }

    /// Waits for `n` bytes to be there, unread.
    pub fn holds(&self, fd: i32, n: usize) {
        let mut buf = vec![0; n];
        for _ in 0..sys::PATIENCE_MS {
            match sys::recv(fd, &mut buf, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
                Ok(got) if got == n => return,
                _ => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        }
        self.log(format!("{n} bytes NOT THERE for a long time"));
    }

    /// The other end sends `n` bytes, and they have arrived.
    pub fn sent(&self, fd: i32, id: &str, n: usize) {
        assert_eq!(self.tell(format!("send {id} {n}")), n.to_string());
        self.holds(fd, n);
    }

    /// How many low numbers are open, those apart that are so for a moment only (a connection that comes in has the
    /// lowest number until it is moved): waits for as many as before the last scenario.
    fn low_descriptors(&self) -> usize {
        let is_open = |fd: &i32| sys::fcntl(*fd, libc::F_GETFD, 0).is_ok();
        let open = || (0..64).filter(is_open).count();
        let (expected, looks) = match self.low.get() {
            Some(before) => (before, 5_000),
            // The first time the fewest of many looks have to do.
            None => (0, 200),
        };
        let mut least = open();
        for _ in 0..looks {
            if least == expected {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
            least = least.min(open());
        }
        self.low.set(Some(least));
        least
    }

    fn run(&self, name: &str, scenario: fn(&Ctx)) {
        if let Ok(mut at) = WHERE.lock() {
            *at = format!("{} {name}", self.prefix);
        }
        // The same in both runs, if nothing but the program's own is open there.
        let low = self.low_descriptors();
        self.log(format!("begins with {low} low descriptors"));
        scenario(self);
        for fd in self.open.take() {
            let _ = sys::close(fd);
        }
        let there = self.there();
        self.tell("forget");
        assert_eq!(self.tell(format!("listen L {there}")), "ok");
    }
}

/// Runs scenario groups with both ends in one process and in two, over IPv4 and IPv6, connecting and
/// accepting. `--port BASE`: the first of 8 ports; `--only TEXT`: scenarios whose name contains it.
pub fn run(args: &Args, groups: &[&[Scenario]]) -> ! {
    let base = args.number("port", 0) as u16;
    verdict::describe(|| json!(WHERE.lock().map(|w| w.clone()).unwrap_or_default()));
    // SAFETY: the scenarios' own handler counts; before one sets it, a stray signal must end nothing.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    for way in 0..8u16 {
        let (two, v6, connects) = (way & 1 == 0, way & 2 != 0, way & 4 == 0);
        let ctx = Ctx::new(two, v6, connects, base);
        let there = ctx.there();
        assert_eq!(ctx.tell(format!("listen L {there}")), "ok");
        for &(name, scenario) in groups.iter().copied().flatten() {
            if args.text("only").is_none_or(|only| name.contains(only)) {
                ctx.run(name, scenario);
            }
        }
        ctx.tell("forget");
        let _ = sys::close(ctx.listener);
    }
    verdict::finish(json!({"ok": true}), args.has("hold"))
}
