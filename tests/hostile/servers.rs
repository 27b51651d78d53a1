//! A server that lies to the honest client that connects to it: the client's connection is kernel TCP then, and whole.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use netacc::control::identity::random;
use netacc::control::wire::{Answer, Frame, Verdict};

use crate::common::{bare, ports};
use crate::peer::{WINDOW, frame};
use crate::victim::serve;

/// Echoes, by the kernel's TCP.
fn echo(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = [0; 65536];
                let mut stream = stream;
                while let Ok(n @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// What is said on a connection to the side port after the hello; then it is kept open or closed.
type Lie = Box<dyn Fn(&mut TcpStream) + Send>;

fn answer(change: impl Fn(&mut Answer) + Send + 'static) -> Lie {
    Box::new(move |stream| {
        let mut answer = Answer {
            version: 2,
            verdict: Verdict::Yes,
            fabric: 2,
            capabilities: 3,
            window: WINDOW,
            pid: 1,
            token: random(),
            rendezvous: *b"netacc-10123456789abcdef01234567",
            doors: Vec::new(),
        };
        change(&mut answer);
        let _ = stream.write_all(&Frame::Answer(answer).encode());
    })
}

fn bytes(bytes: Vec<u8>) -> Lie {
    Box::new(move |stream| drop(stream.write_all(&bytes)))
}

/// An abstract address that is not a rendezvous of NetACC's.
const SOMEBODY: [u8; 32] = *b"another service's own address 01";

#[test]
fn an_answer_that_lies_leaves_the_client_to_the_kernel() {
    if bare() {
        return;
    }
    // Somebody else's socket, of this very user: it is not to be visited because an answer says so.
    let address = UnixAddress::from_abstract_name(SOMEBODY).expect("a name");
    let bystander = UnixListener::bind_addr(&address).expect("a listener");
    let lies: Vec<Lie> = vec![
        answer(|_| ()),
        answer(|a| a.rendezvous = SOMEBODY),
        answer(|a| a.rendezvous = [0; 32]),
        answer(|a| a.version = 0),
        answer(|a| a.version = u16::MAX),
        answer(|a| a.window = 0),
        answer(|a| a.window = u64::MAX),
        answer(|a| a.fabric = 0),
        // It cannot be the client itself that has answered.
        answer(|a| a.fabric = 1),
        answer(|a| a.fabric = 3),
        answer(|a| a.fabric = 4),
        answer(|a| a.fabric = 255),
        answer(|a| a.doors = vec![([0xff; 16], 65535); 4]),
        answer(|a| a.verdict = Verdict::Plain),
        answer(|a| a.verdict = Verdict::Resources),
        bytes(
            Frame::Verdict {
                verdict: Verdict::Yes,
                window: WINDOW,
            }
            .encode(),
        ),
        bytes(Frame::Elsewhere { process: SOMEBODY }.encode()),
        bytes(
            Frame::Segment {
                ring_size: u64::MAX,
            }
            .encode(),
        ),
        bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        bytes(Vec::new()),
        bytes((0..192).map(|_| fastrand::u8(..)).collect()),
    ];
    for lie in lies {
        let port = ports::pair();
        echo(port);
        let side = TcpListener::bind((Ipv4Addr::LOCALHOST, port + ports::SIDE)).expect("free");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for mut stream in side.incoming().flatten() {
                if frame(&mut stream).is_some() {
                    count.fetch_add(1, Ordering::Relaxed);
                    lie(&mut stream);
                    kept.push(stream);
                }
            }
        });
        assert_eq!(serve(port, 2), ["whole"; 2]);
        assert!(asked.load(Ordering::Relaxed) > 0, "nobody has asked");
    }
    rustix::io::ioctl_fionbio(bystander.as_fd(), true).expect("an option");
    assert!(bystander.accept().is_err(), "a stranger was visited");
}
