//! Other people's services on a side port, in the test's own process, which note what they are sent.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{PATIENCE, ports};

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

    /// What each connection has been sent so far, once there were `count` of them.
    pub fn wait_for_connections(&self, count: usize) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let heard = self.heard.lock().expect("the list").clone();
            if heard.len() >= count {
                return heard;
            }
            assert!(
                Instant::now() < deadline,
                "{count} have not come: {heard:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
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
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = ports::bound(&at).expect("the port");
        rustix::net::listen(&listener, 0).expect("listen");
        let mut queued = Vec::new();
        while !is_full(&listener) {
            // A try in vain is one more look at the queue.
            queued.extend(TcpStream::connect_timeout(&at, Duration::from_millis(300)));
            assert!(queued.len() < 20, "the queue of listen(0) does not fill");
        }
        Silent {
            _listener: listener,
            _queued: queued,
        }
    }
}

/// Whether no further connection has room in the queue of a listener: whoever then connects is not answered.
fn is_full(listener: &OwnedFd) -> bool {
    // SAFETY: all zeroes is a valid structure.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as u32;
    // SAFETY: a live structure of that length.
    let got = unsafe {
        let at = (&raw mut info).cast();
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            at,
            &mut len,
        )
    };
    assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
    // Of a listener these are the length of its queue and its limit, which is exceeded by one.
    info.tcpi_unacked > info.tcpi_sacked
}
