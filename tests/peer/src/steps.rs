//! Connections that are opened, used and closed one step after the other, at the pace of whoever signals.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;

use crate::args::Args;
use crate::{sys, verdict};

/// `steps-server --port PORT [--workers N]`: sends back what comes, at all addresses of both families. Says whom it has
/// accepted. With workers, which it forks once it listens, these accept, and it does not.
pub fn server(args: &Args) -> ! {
    let port = args.number("port", 0) as u16;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind");
    let workers = args.number("workers", 0);
    for _ in 0..workers {
        // SAFETY: no other thread of this program holds a lock.
        if unsafe { libc::fork() } == 0 {
            // SAFETY: no worker outlives a server that is killed.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            serve(&listener);
        }
    }
    verdict::listening();
    if workers == 0 {
        serve(&listener);
    }
    loop {
        thread::park();
    }
}

fn serve(listener: &TcpListener) -> ! {
    loop {
        let (connection, peer) = listener.accept().expect("accept");
        let local = connection.local_addr().expect("getsockname");
        println!("accepted {} {local}", peer.ip());
        thread::spawn(move || echo(connection));
    }
}

fn echo(mut connection: TcpStream) {
    let mut buffer = vec![0; 65_536];
    while let Ok(n @ 1..) = connection.read(&mut buffer) {
        if connection.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

/// `steps-client --port PORT --steps STEPS`, which are words:
///
/// * `open ADDRESS N`: N more connections to the server at that address
/// * `talk BYTES`: so many bytes on each connection, all at once, and all of them back
/// * `close`: ends all connections
/// * `fork BYTES`: the same, while there is a forked child that opens a connection of its own
/// * `heir BYTES`: a forked child talks on each connection, then this process again
/// * `pause`: says so, with a number, and waits for SIGUSR1
pub fn client(args: &Args) -> ! {
    let port = args.number("port", 0) as u16;
    let go_on = block_signal();
    let mut words = args.text("steps").expect("--steps").split_whitespace();
    let (mut connections, mut pauses) = (Vec::new(), 0);
    while let Some(word) = words.next() {
        let mut next = || words.next().expect("a word more");
        match word {
            "open" => {
                let to = SocketAddr::new(next().parse().expect("an address"), port);
                let count: usize = number(next());
                connections.extend((0..count).map(|_| open(to)));
            }
            "talk" => talk(&mut connections, number(next())),
            "close" => connections.clear(),
            "fork" => with_a_child(&mut connections, number(next())),
            "heir" => by_a_child(&mut connections, number(next())),
            "pause" => {
                pauses += 1;
                println!("pause {pauses}");
                let mut signal = 0;
                // SAFETY: a set of one signal that is blocked, and room for its number.
                assert_eq!(unsafe { libc::sigwait(&go_on, &mut signal) }, 0);
            }
            other => panic!("'{other}' is no step"),
        }
    }
    std::process::exit(0);
}

fn number(word: &str) -> usize {
    word.parse()
        .unwrap_or_else(|_| panic!("'{word}' is no number"))
}

/// SIGUSR1, blocked from now on: one that comes early waits.
fn block_signal() -> libc::sigset_t {
    // SAFETY: a set is plain bytes, made by the first call; the other thread so far needs no signal.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR1);
        assert_eq!(
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()),
            0
        );
        set
    }
}

fn open(to: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect(to).unwrap_or_else(|e| panic!("{to}: {e}"));
    let local = connection.local_addr().expect("getsockname");
    let peer = connection.peer_addr().expect("getpeername");
    println!("open {} {peer}", local.ip());
    connection
}

/// A connection's turn.
struct Turn<'a> {
    connection: &'a mut TcpStream,
    bytes: Vec<u8>,
    sent: usize,
    received: usize,
}

impl Turn<'_> {
    fn interest(&self) -> libc::pollfd {
        let out = if self.sent < self.bytes.len() {
            libc::POLLOUT
        } else {
            0
        };
        let back = if self.received < self.bytes.len() {
            libc::POLLIN
        } else {
            0
        };
        libc::pollfd {
            fd: self.connection.as_raw_fd(),
            events: out | back,
            revents: 0,
        }
    }

    /// Writes and reads what can be.
    fn advance(&mut self, buffer: &mut [u8]) {
        let some = |result: std::io::Result<usize>| match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Ok(0) => panic!("the end"),
            other => other.expect("a connection that works"),
        };
        let rest = &self.bytes[self.sent..];
        if !rest.is_empty() {
            self.sent += some(self.connection.write(rest));
        }
        let left = self.bytes.len() - self.received;
        if left > 0 {
            let most = left.min(buffer.len());
            let n = some(self.connection.read(&mut buffer[..most]));
            let wanted = &self.bytes[self.received..self.received + n];
            assert!(
                wanted == &buffer[..n],
                "wrong bytes after {}",
                self.received
            );
            self.received += n;
        }
    }
}

fn talk(connections: &mut [TcpStream], size: usize) {
    let mut turns: Vec<Turn> = connections
        .iter_mut()
        .map(|connection| {
            connection.set_nonblocking(true).expect("O_NONBLOCK");
            let bytes = std::iter::repeat_with(|| fastrand::u8(..))
                .take(size)
                .collect();
            Turn {
                connection,
                bytes,
                sent: 0,
                received: 0,
            }
        })
        .collect();
    let mut buffer = vec![0; 65_536];
    loop {
        let mut fds: Vec<_> = turns.iter().map(Turn::interest).collect();
        if fds.iter().all(|fd| fd.events == 0) {
            break;
        }
        // SAFETY: as many entries as are said.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) };
        assert!(ready > 0, "poll: {}", sys::errno());
        for (turn, fd) in turns.iter_mut().zip(&fds) {
            if fd.revents != 0 {
                turn.advance(&mut buffer);
            }
        }
    }
    for connection in connections {
        connection.set_nonblocking(false).expect("O_NONBLOCK");
    }
}

/// A child talks on what it has inherited.
fn by_a_child(connections: &mut [TcpStream], size: usize) {
    // SAFETY: no other thread of this program holds a lock.
    let child = unsafe { libc::fork() };
    if child == 0 {
        talk(connections, size);
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(7) };
    }
    assert_eq!(ended(child), 7);
}

/// The exit code of our own child.
fn ended(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: our own child, and room for its status.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "{status:x}");
    libc::WEXITSTATUS(status)
}

fn with_a_child(connections: &mut Vec<TcpStream>, size: usize) {
    let first = connections[0].peer_addr().expect("getpeername");
    let (mut here, mut there) = std::os::unix::net::UnixStream::pair().expect("socketpair");
    // SAFETY: no other thread of this program holds a lock.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(here);
        connections.clear();
        let mut own = [open(first)];
        talk(&mut own, size);
        there.write_all(b"x").expect("a parent");
        // Until the parent has talked.
        there.read_exact(&mut [0]).expect("a parent");
        talk(&mut own, size);
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(7) };
    }
    drop(there);
    talk(connections, size);
    here.read_exact(&mut [0]).expect("a child that talks");
    talk(connections, size);
    here.write_all(b"x").expect("a child");
    assert_eq!(ended(child), 7);
    talk(connections, size);
}
