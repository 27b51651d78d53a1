//! Other people's services on a side port, in the test's own process, which note what they are sent.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How a service treats whoever connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// Answers like Redis and its Sentinel do to what is no command.
    Redis,
    /// Answers like a web server does to what is no request.
    Http,
    /// Accepts, reads and says nothing.
    Mute,
    /// Closes at once.
    Closer,
    /// Sends garbage without being asked, without end.
    Garbage,
}

/// A service that runs until the test's end.
pub struct Service {
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Service {
    /// Listens on 127.0.0.1.
    pub fn start(port: u16, manner: Manner) -> Service {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the service's port");
        let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let all = heard.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let all = all.clone();
                std::thread::spawn(move || serve(stream, manner, &all));
            }
        });
        Service { heard }
    }

    /// What each connection has been sent so far.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().expect("the list").clone()
    }
}

fn serve(mut stream: TcpStream, manner: Manner, all: &Mutex<Vec<Vec<u8>>>) {
    let mine = {
        let mut all = all.lock().expect("the list");
        all.push(Vec::new());
        all.len() - 1
    };
    if manner == Manner::Closer {
        return;
    }
    if manner == Manner::Garbage {
        let mut out = stream.try_clone().expect("a second handle");
        std::thread::spawn(move || {
            let mut rng = fastrand::Rng::new();
            let mut noise = [0u8; 1000];
            // Until it closes.
            while out.write_all(&noise).is_ok() {
                rng.fill(&mut noise);
            }
        });
    }
    let mut buf = [0u8; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buf) {
        all.lock().expect("the list")[mine].extend_from_slice(&buf[..n]);
        // Redis answers a wrong length with an error and closes; a web server too.
        let answer: &[u8] = match manner {
            Manner::Redis => b"-ERR unknown command\r\n",
            Manner::Http => {
                b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            }
            _ => continue,
        };
        if stream.write_all(answer).is_err() || manner == Manner::Http {
            break;
        }
    }
}

/// A listener that never accepts and whose queue is full: the kernel drops every SYN that comes.
pub struct Silent {
    _listener: OwnedFd,
    _queued: Vec<TcpStream>,
}

impl Silent {
    /// Listens on 127.0.0.1 and fills its own queue.
    pub fn start(port: u16) -> Silent {
        let addr = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()),
            },
            sin_zero: [0; 8],
        };
        // SAFETY: the address is live and its length right; the new descriptor has one owner.
        let listener = unsafe {
            let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
            let len = size_of::<libc::sockaddr_in>() as u32;
            let bound = libc::bind(fd, (&raw const addr).cast(), len);
            let listening = libc::listen(fd, 0);
            assert_eq!(
                (bound, listening),
                (0, 0),
                "{}",
                std::io::Error::last_os_error()
            );
            OwnedFd::from_raw_fd(fd)
        };
        let at = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_millis(300)) {
            queued.push(stream);
            assert!(queued.len() < 20, "the queue of listen(0) does not fill");
        }
        Silent {
            _listener: listener,
            _queued: queued,
        }
    }
}
