//! Serves a text over HTTP: `GET /metrics`, and nothing else.
//!
//! All calls on sockets are raw system calls: should this tool be started with the library (LD_PRELOAD, or
//! /etc/ld.so.preload), that does not notice, so nothing here is accelerated, counted or shown.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{self, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};

/// How long a request and its answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest head of a request, bytes.
const LONGEST: usize = 8192;
/// Requests that are served at a time; more are turned away.
const AT_A_TIME: usize = 16;
/// Clients that are spoken to at a time; further ones are hung up on.
const CLIENTS: usize = 64;

const PLAIN: &str = "text/plain; charset=utf-8";

/// What is answered.
#[derive(Clone, Copy)]
pub struct Content {
    /// Its type, as in HTTP.
    pub kind: &'static str,
    /// Makes the text, anew for each request.
    pub text: fn() -> String,
}

/// Serves until the process ends.
///
/// # Errors
/// The address cannot be listened on.
pub fn serve(address: SocketAddr, content: Content) -> Result<Infallible, Errno> {
    let listener = listen(address)?;
    let at = net::getsockname(&listener)?;
    let at = SocketAddr::try_from(at).unwrap_or(address);
    eprintln!("netacc_ss: serving http://{at}/metrics");
    let busy = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match net::accept_with(&listener, SocketFlags::CLOEXEC) {
            Ok(stream) => stream,
            // Its client is gone already, or resources are short for the moment: the next one may be luckier.
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(_) => {
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        // Without a place or a thread to be had the connection is closed, and its client asks again.
        if let Some(place) = Place::take(&busy) {
            let _ = thread::Builder::new().spawn(move || answer(&stream, &place, content));
        }
    }
}

fn listen(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => net::AddressFamily::INET,
        SocketAddr::V6(_) => net::AddressFamily::INET6,
    };
    let listener = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    net::bind(&listener, &address)?;
    net::listen(&listener, 128)?;
    Ok(listener)
}

/// One of [`CLIENTS`], given back when dropped.
struct Place {
    all: Arc<AtomicUsize>,
    /// How many there were already.
    before: usize,
}

impl Place {
    fn take(busy: &Arc<AtomicUsize>) -> Option<Place> {
        let more = |n| (n < CLIENTS).then_some(n + 1);
        let taken = busy.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.ok().map(|before| Place {
            all: busy.clone(),
            before,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::AcqRel);
    }
}

fn answer(stream: &OwnedFd, place: &Place, content: Content) {
    let deadline = Instant::now() + PATIENCE;
    let head = match place.before < AT_A_TIME {
        true => read_head(stream, deadline),
        false => Err(Errno::BUSY),
    };
    let refuse = |status, why| response(status, PLAIN, why, true);
    let text = match head {
        Ok(head) => respond(&head, content),
        Err(Errno::BUSY) => refuse("503 Service Unavailable", "too many requests at once\n"),
        Err(Errno::MSGSIZE) => refuse("431 Request Header Fields Too Large", "too long\n"),
        Err(Errno::AGAIN) => refuse("408 Request Timeout", "too slow\n"),
        Err(_) => return,
    };
    if send(stream, text.as_bytes(), deadline).is_err() {
        return;
    }
    // What the client still sends is read, or closing would reset the connection before it has the answer.
    let _ = net::shutdown(stream, Shutdown::Write);
    let mut rest = [0; LONGEST];
    for _ in 0..16 {
        if !matches!(receive(stream, &mut rest, deadline), Ok(1..)) {
            break;
        }
    }
}

/// Reads up to the empty line that ends a request's head. `AGAIN`: not in time. `MSGSIZE`: it is too long.
fn read_head(stream: &OwnedFd, deadline: Instant) -> Result<String, Errno> {
    let mut head = Vec::new();
    let mut buf = [0; 1024];
    loop {
        let n = receive(stream, &mut buf, deadline)?;
        if n == 0 {
            return Err(Errno::CONNRESET);
        }
        head.extend_from_slice(&buf[..n]);
        if head.windows(4).any(|end| end == b"\r\n\r\n")
            || head.windows(2).any(|end| end == b"\n\n")
        {
            return Ok(String::from_utf8_lossy(&head).into_owned());
        }
        if head.len() > LONGEST {
            return Err(Errno::MSGSIZE);
        }
    }
}

fn receive(stream: &OwnedFd, buf: &mut [u8], deadline: Instant) -> Result<usize, Errno> {
    limit(stream, Timeout::Recv, deadline)?;
    loop {
        match net::recv(stream, &mut *buf, RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            other => return other.map(|(n, _)| n),
        }
    }
}

fn send(stream: &OwnedFd, mut text: &[u8], deadline: Instant) -> Result<(), Errno> {
    while !text.is_empty() {
        limit(stream, Timeout::Send, deadline)?;
        match net::send(stream, text, SendFlags::NOSIGNAL) {
            Ok(n) => text = &text[n..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The next call returns by the deadline, or in a moment when that is over.
fn limit(stream: &OwnedFd, which: Timeout, deadline: Instant) -> Result<(), Errno> {
    let left = deadline.saturating_duration_since(Instant::now());
    sockopt::set_socket_timeout(stream, which, Some(left.max(Duration::from_millis(1))))
}

fn respond(head: &str, content: Content) -> String {
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let request = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some("HTTP/1.0" | "HTTP/1.1")) = request else {
        return response(
            "400 Bad Request",
            PLAIN,
            "this is no HTTP/1.1 request\n",
            true,
        );
    };
    let body = match method {
        "GET" => true,
        "HEAD" => false,
        _ => {
            return response(
                "405 Method Not Allowed",
                PLAIN,
                "only GET is served\n",
                true,
            );
        }
    };
    match target.split('?').next() {
        Some("/metrics") => response("200 OK", content.kind, &(content.text)(), body),
        _ => response(
            "404 Not Found",
            PLAIN,
            "the counters are at /metrics\n",
            body,
        ),
    }
}

fn response(status: &str, kind: &str, text: &str, body: bool) -> String {
    let mut out = String::new();
    let allow = if status.starts_with("405") {
        "Allow: GET, HEAD\r\n"
    } else {
        ""
    };
    let _ = write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        text.len()
    );
    if body {
        out.push_str(text);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: Content = Content {
        kind: "text/plain",
        text: || "netacc_links 1\n".to_owned(),
    };

    fn status(head: &str) -> String {
        let text = respond(head, CONTENT);
        text.lines().next().unwrap().to_owned()
    }

    #[test]
    fn requests() {
        let full = respond("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", CONTENT);
        assert!(full.starts_with("HTTP/1.1 200 OK\r\n"), "{full}");
        assert!(full.contains("Content-Length: 15\r\n"), "{full}");
        assert!(full.ends_with("\r\n\r\nnetacc_links 1\n"), "{full}");
        assert!(respond("HEAD /metrics HTTP/1.1\r\n\r\n", CONTENT).ends_with("\r\n\r\n"));
        assert_eq!(
            status("GET /metrics?x=1 HTTP/1.0\r\n\r\n"),
            "HTTP/1.1 200 OK"
        );
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
        assert_eq!(
            status("POST /metrics HTTP/1.1\r\n\r\n"),
            "HTTP/1.1 405 Method Not Allowed"
        );
        for bad in [
            "",
            "\r\n\r\n",
            "GET\r\n",
            "GET /metrics\r\n\r\n",
            "GET /metrics HTTP/2.0\r\n\r\n",
        ] {
            assert_eq!(status(bad), "HTTP/1.1 400 Bad Request", "{bad:?}");
        }
    }

    #[test]
    fn places_are_given_back() {
        let busy = Arc::new(AtomicUsize::new(0));
        let held: Vec<_> = (0..CLIENTS).map(|_| Place::take(&busy).unwrap()).collect();
        assert!(Place::take(&busy).is_none());
        assert_eq!(held[AT_A_TIME].before, AT_A_TIME);
        drop(held);
        assert!(Place::take(&busy).is_some());
    }
}
