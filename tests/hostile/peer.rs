//! A peer that speaks the protocol, as far as it likes to.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netacc::control::identity::{Identity, random};
use netacc::control::passing;
use netacc::control::wire::{Answer, Frame, Hello, MAX_FRAME, Parsed, Verdict};
use netacc::fabric::shm::{End, Segment, Shm};
use netacc::real::sys::InternalFd;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

/// Longer than the victim waits for anybody.
const PATIENCE: Duration = Duration::from_secs(60);
/// The window that honest peers have.
pub const WINDOW: u64 = 256 << 10;
const SHM: u8 = 2;

/// A connection to `port`.
pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let stream = stream.expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// A hello as an honest process of this host would say it.
pub fn hello() -> Hello {
    Hello {
        oldest: 1,
        newest: 2,
        capabilities: 3,
        host: Identity::read().host,
        process: random(),
        pid: std::process::id(),
        window: WINDOW,
        fabrics: vec![SHM],
        wanted: None,
    }
}

/// Says `bytes` on a connection of its own, and reads until the other end has had enough.
pub fn say(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(port);
    // It may be closed before all is said.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// The frame that `stream` says next; none if it ends, or says anything else.
pub fn frame(stream: &mut TcpStream) -> Option<Frame> {
    let mut bytes = Vec::new();
    loop {
        let mut more = [0; MAX_FRAME];
        let n = stream.read(&mut more).ok().filter(|n| *n > 0)?;
        bytes.extend(&more[..n]);
        match Frame::parse(&bytes).ok()? {
            Parsed::Frame(frame, _) => return Some(frame),
            Parsed::Incomplete => {}
        }
    }
}

/// The answer to `hello`.
pub fn ask(port: u16, hello: Hello) -> Option<Answer> {
    let mut stream = connect(port);
    stream.write_all(&Frame::Hello(hello).encode()).ok()?;
    match frame(&mut stream)? {
        Frame::Answer(answer) => Some(answer),
        _ => None,
    }
}

/// An eventfd.
pub fn bell() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd")
}

/// The other end of the rendezvous that `answer` names.
pub fn visit(answer: &Answer) -> OwnedFd {
    let (unix, _) = passing::visit(&answer.rendezvous).expect("the rendezvous");
    unix
}

/// What comes over `unix`; nothing once the other end has hung up.
pub fn hear(unix: &OwnedFd) -> Option<(Frame, Vec<InternalFd>)> {
    let mut ready = [PollFd::new(unix, PollFlags::IN)];
    let limit = rustix::event::Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    poll(&mut ready, Some(&limit)).expect("poll");
    let mut bytes = [0; MAX_FRAME];
    let (n, fds) = passing::receive(unix, &mut bytes).ok()?;
    match Frame::parse(&bytes[..n]).ok()? {
        Parsed::Frame(frame, _) => Some((frame, fds)),
        Parsed::Incomplete => None,
    }
}

/// A link with the victim, made as an honest peer would.
pub struct Linked {
    /// Its memory.
    pub shm: Shm,
    /// Its name.
    pub token: [u8; 16],
    /// Where the victim hears of bells.
    pub unix: OwnedFd,
    side_port: u16,
}

impl Linked {
    /// With who listens there.
    pub fn with(side_port: u16) -> Linked {
        let answer = ask(side_port, hello()).expect("an answer");
        assert_eq!(answer.verdict, Verdict::Yes);
        let unix = visit(&answer);
        let token = answer.token;
        let attach = Frame::Attach { token }.encode();
        passing::send(unix.as_fd(), &attach, &[bell().as_fd()]).expect("sent");
        let Some((Frame::Segment { ring_size }, fds)) = hear(&unix) else {
            panic!("no memory");
        };
        let [memory, io_bell] = <[InternalFd; 2]>::try_from(fds).expect("memory and a bell");
        let segment = Segment::map(memory.as_fd(), ring_size as usize).expect("memory");
        let pass = InternalFd::duplicate(unix.as_fd()).expect("a descriptor");
        Linked {
            shm: Shm::with_peer(segment, End::Connector, io_bell, pass),
            token,
            unix,
            side_port,
        }
    }

    /// Asks to be its connection `conn`; what was said to that, on a connection that is to be kept.
    pub fn open(&self, conn: u32, window: u64) -> (Option<Frame>, TcpStream) {
        let mut stream = connect(self.side_port);
        let open = Frame::Open {
            version: 2,
            conn,
            token: self.token,
            window,
        };
        let _ = stream.write_all(&open.encode());
        (frame(&mut stream), stream)
    }

    /// Whether the victim has given it up, sooner or later.
    pub fn is_given_up(&self) -> bool {
        loop {
            match hear(&self.unix) {
                // It passes its bells.
                Some((Frame::Bell { .. }, _)) => {}
                _ => return true,
            }
        }
    }
}
