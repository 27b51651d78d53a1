//! Traffic of several kinds, one of whose two processes is killed: the survivor reports, for each
//! connection, every byte it got and how the end came.
//!
//! The sender notes after every write how much its socket has taken, in a file that both processes
//! map: it outlives the killed one, so that the survivor knows what had been written for sure.

use crate::args::Args;
use crate::pattern::{Direction, Pattern};
use crate::sys::{self, Errno};
use crate::verdict;
use serde_json::{Value, json};
use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// What happens on a connection, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The client sends a piece, the server sends it back; blocking calls.
    Pingpong,
    /// The same, waiting in epoll.
    PingpongEpoll,
    /// The client writes, the server reads.
    Up,
    /// The server writes, the client reads.
    Down,
    /// Both write and read at once.
    Duplex,
    /// Nothing is sent; both are blocked in recv.
    IdleRecv,
    /// Nothing is sent; both wait in poll.
    IdlePoll,
}

const KINDS: [Kind; 7] = [
    Kind::Pingpong,
    Kind::PingpongEpoll,
    Kind::Up,
    Kind::Down,
    Kind::Duplex,
    Kind::IdleRecv,
    Kind::IdlePoll,
];

/// For each connection: how many bytes its socket has taken [to server, to client], and whether the
/// server has accepted it and read its number.
#[derive(Clone, Copy)]
struct Ledger(&'static [AtomicU64]);

impl Ledger {
    fn open(path: &str, connections: u64) -> Ledger {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("the ledger's file");
        let entries = connections as usize * 3;
        file.set_len(entries as u64 * 8).expect("the ledger's size");
        // SAFETY: a fresh shared mapping of a file of that size, never unmapped, used by atomics only.
        unsafe {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(
                std::ptr::null_mut(),
                entries * 8,
                prot,
                libc::MAP_SHARED,
                fd,
                0,
            );
            assert_ne!(at, libc::MAP_FAILED, "mmap: {}", sys::errno());
            Ledger(std::slice::from_raw_parts(at.cast(), entries))
        }
    }

    fn entry(&self, index: u64, direction: Direction) -> &'static AtomicU64 {
        &self.0[index as usize * 3 + direction as usize]
    }

    fn begun(&self, index: u64) -> &'static AtomicU64 {
        &self.0[index as usize * 3 + 2]
    }
}

struct Side {
    index: u64,
    fd: i32,
    server: bool,
    seed: u64,
    ledger: Ledger,
}

#[derive(Default)]
struct End {
    bytes: u64,
    how: String,
    at_ns: u64,
}

impl End {
    fn new(bytes: u64, how: impl ToString) -> End {
        End {
            bytes,
            how: how.to_string(),
            at_ns: sys::now_ns(),
        }
    }
}

impl Side {
    fn outward(&self) -> Direction {
        if self.server {
            Direction::ToClient
        } else {
            Direction::ToServer
        }
    }

    fn inward(&self) -> Direction {
        if self.server {
            Direction::ToServer
        } else {
            Direction::ToClient
        }
    }

    /// Waits in epoll, without limit, until the socket is ready for `events`.
    fn wait(&self, epfd: Option<i32>, events: i32) {
        let Some(epfd) = epfd else { return };
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: 0,
        };
        // SAFETY: live events; the set holds this socket only.
        unsafe {
            if libc::epoll_ctl(epfd, libc::EPOLL_CTL_MOD, self.fd, &mut event) < 0 {
                libc::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, self.fd, &mut event);
            }
            libc::epoll_wait(epfd, &mut event, 1, -1);
        }
    }

    /// Writes all of `piece`, which starts at `sent`.
    fn write_all(&self, epfd: Option<i32>, sent: &mut u64, piece: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        while done < piece.len() {
            match sys::send(self.fd, &piece[done..], libc::MSG_NOSIGNAL) {
                Ok(n) => {
                    done += n;
                    *sent += n as u64;
                    self.ledger
                        .entry(self.index, self.outward())
                        .store(*sent, Ordering::SeqCst);
                }
                Err(Errno(libc::EAGAIN)) if epfd.is_some() => self.wait(epfd, libc::EPOLLOUT),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads up to `limit` bytes that continue the pattern at `received`; how it ended, if it did.
    fn read_some(
        &self,
        epfd: Option<i32>,
        received: &mut u64,
        buf: &mut [u8],
    ) -> Result<usize, String> {
        loop {
            self.wait(epfd, libc::EPOLLIN | libc::EPOLLRDHUP);
            return match sys::recv(self.fd, buf, 0) {
                Ok(0) => Err("eof".to_string()),
                Ok(n) => {
                    let pattern = Pattern::new(self.seed, self.index, self.inward());
                    pattern
                        .check(*received, &buf[..n])
                        .map_err(|at| format!("WRONG BYTE at {at}"))?;
                    *received += n as u64;
                    Ok(n)
                }
                Err(Errno(libc::EAGAIN)) if epfd.is_some() => continue,
                Err(e) => Err(e.to_string()),
            };
        }
    }

    fn writer(&self) -> End {
        let pattern = Pattern::new(self.seed, self.index, self.outward());
        let mut rng = fastrand::Rng::with_seed(self.seed ^ self.index);
        let mut sent = 0;
        let mut piece = vec![0; 65536];
        loop {
            let magnitude = rng.u32(0..17);
            let n = rng.usize(1..=1 << magnitude);
            pattern.fill(sent, &mut piece[..n]);
            if let Err(e) = self.write_all(None, &mut sent, &piece[..n]) {
                return End::new(sent, e);
            }
        }
    }

    fn reader(&self) -> End {
        let mut received = 0;
        let mut buf = vec![0; 65536];
        loop {
            if let Err(how) = self.read_some(None, &mut received, &mut buf) {
                return End::new(received, how);
            }
        }
    }

    /// Both directions carry the same number of bytes, piece by piece.
    fn pingpong(&self, epfd: Option<i32>) -> (End, End) {
        let pattern = Pattern::new(self.seed, self.index, self.outward());
        let mut rng = fastrand::Rng::with_seed(self.seed ^ self.index);
        let (mut sent, mut received) = (0u64, 0u64);
        let mut buf = vec![0; 16384];
        loop {
            // The client leads by one piece; the server answers what it has got.
            if !self.server && sent == received {
                let n = rng.usize(1..4096);
                pattern.fill(sent, &mut buf[..n]);
                if let Err(e) = self.write_all(epfd, &mut sent, &buf[..n]) {
                    return (End::default(), End::new(sent, e));
                }
            }
            let n = match self.read_some(epfd, &mut received, &mut buf) {
                Ok(n) => n,
                Err(how) => {
                    return (
                        End::new(received, how),
                        End {
                            bytes: sent,
                            ..End::default()
                        },
                    );
                }
            };
            if self.server {
                pattern.fill(sent, &mut buf[..n]);
                if let Err(e) = self.write_all(epfd, &mut sent, &buf[..n]) {
                    return (
                        End {
                            bytes: received,
                            ..End::default()
                        },
                        End::new(sent, e),
                    );
                }
            }
        }
    }

    /// Silent until the end comes; then what two writes give: the first is taken, its answer is a reset.
    fn idle(&self, poll: bool) -> (End, Value) {
        let mut bits = 0;
        if poll {
            bits = sys::poll(self.fd, libc::POLLIN | libc::POLLRDHUP, -1).unwrap_or(0);
        }
        let end = self.reader();
        let first = sys::word(sys::send(self.fd, b"late", libc::MSG_NOSIGNAL));
        let _ = sys::poll(self.fd, 0, sys::PATIENCE_MS);
        let second = sys::word(sys::send(self.fd, b"late", libc::MSG_NOSIGNAL));
        (end, json!([bits, first, second]))
    }

    fn run(self) -> Value {
        let kind = KINDS[self.index as usize % KINDS.len()];
        let mut after_end = Value::Null;
        let (read, write) = match kind {
            Kind::Pingpong => self.pingpong(None),
            Kind::PingpongEpoll => {
                sys::set_nonblocking(self.fd, true).expect("O_NONBLOCK");
                // SAFETY: no pointers.
                let epfd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
                self.pingpong(Some(epfd))
            }
            Kind::Duplex => thread::scope(|scope| {
                let writer = scope.spawn(|| self.writer());
                let read = self.reader();
                (read, writer.join().unwrap_or_default())
            }),
            Kind::Up if self.server => (self.reader(), End::default()),
            Kind::Up => (End::default(), self.writer()),
            Kind::Down if self.server => (End::default(), self.writer()),
            Kind::Down => (self.reader(), End::default()),
            Kind::IdleRecv | Kind::IdlePoll => {
                let (end, after) = self.idle(kind == Kind::IdlePoll);
                after_end = after;
                (end, End::default())
            }
        };
        let promised = self
            .ledger
            .entry(self.index, self.inward())
            .load(Ordering::SeqCst);
        json!({
            "index": self.index,
            "kind": format!("{kind:?}"),
            "received": read.bytes,
            "promised": promised,
            "begun": self.ledger.begun(self.index).load(Ordering::SeqCst) == 1,
            "read_end": read.how,
            "read_end_ns": read.at_ns,
            "sent": write.bytes,
            "write_end": write.how,
            "write_end_ns": write.at_ns,
            "after_end": after_end,
        })
    }
}

/// Ends the run: the test writes a line when it has killed the other side.
fn watch_for_the_kill() -> Arc<AtomicBool> {
    let killed = Arc::new(AtomicBool::new(false));
    let flag = killed.clone();
    thread::spawn(move || {
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        flag.store(true, Ordering::SeqCst);
    });
    killed
}

fn report(threads: Vec<thread::JoinHandle<Value>>, mut lost: Vec<Value>) -> ! {
    let mut connections: Vec<Value> = threads
        .into_iter()
        .map(|t| t.join().unwrap_or_else(|_| json!({"kind": "PANIC"})))
        .collect();
    connections.append(&mut lost);
    verdict::finish(json!({"ok": true, "connections": connections}), false)
}

/// `kill-server --listen ADDR --ledger FILE`
pub fn server(args: &Args) -> ! {
    let (conns, seed) = (args.number("conns", 14), args.number("seed", 1));
    let ledger = Ledger::open(args.text("ledger").expect("--ledger FILE"), conns);
    let listener = sys::listener(args.addr("listen"), 128).expect("listen");
    let killed = watch_for_the_kill();
    verdict::listening();
    let mut threads = Vec::new();
    let mut lost = Vec::new();
    let mut all = false;
    loop {
        if sys::poll(listener, libc::POLLIN, 50).unwrap_or(0) == 0 {
            if killed.load(Ordering::SeqCst) || all {
                report(threads, lost);
            }
            continue;
        }
        let fd = match sys::accept4(listener, libc::SOCK_CLOEXEC) {
            Ok(fd) => fd,
            // Gone before it was accepted: reset, and the kernel took it off the queue.
            Err(e) => {
                lost.push(json!({"kind": "unaccepted", "read_end": e.to_string()}));
                continue;
            }
        };
        let mut index = [0u8; 8];
        match sys::recv(fd, &mut index, libc::MSG_WAITALL) {
            Ok(8) => {
                let index = u64::from_le_bytes(index);
                ledger.begun(index).store(1, Ordering::SeqCst);
                let side = Side {
                    index,
                    fd,
                    server: true,
                    seed,
                    ledger,
                };
                threads.push(thread::spawn(move || side.run()));
                all = threads.len() as u64 == conns;
            }
            Ok(n) => lost.push(json!({"kind": "unheard", "received": n, "read_end": "eof"})),
            Err(e) => {
                lost.push(json!({"kind": "unheard", "received": 0, "read_end": e.to_string()}))
            }
        }
    }
}

/// `kill-client --connect ADDR --ledger FILE`
pub fn client(args: &Args) -> ! {
    let (conns, seed, addr) = (
        args.number("conns", 14),
        args.number("seed", 1),
        args.addr("connect"),
    );
    let ledger = Ledger::open(args.text("ledger").expect("--ledger FILE"), conns);
    let mut threads = Vec::new();
    let mut lost = Vec::new();
    for index in 0..conns {
        let begun = sys::connected(addr).and_then(|fd| {
            sys::send(fd, &u64::to_le_bytes(index), libc::MSG_NOSIGNAL)?;
            Ok(fd)
        });
        match begun {
            Ok(fd) => {
                let side = Side {
                    index,
                    fd,
                    server: false,
                    seed,
                    ledger,
                };
                threads.push(thread::spawn(move || side.run()));
            }
            Err(e) => lost.push(json!({"kind": "unconnected", "read_end": e.to_string()})),
        }
    }
    report(threads, lost)
}
