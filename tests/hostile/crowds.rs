//! Those who do not speak the protocol, and very many of them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::common::{PATIENCE, bare};
use crate::peer::{connect, hello, say};
use crate::victim::{DESCRIPTORS, Victim, serve};
use netacc::control::wire::Frame;

/// The beginning of a TLS handshake (a ClientHello's record and handshake headers, version, random).
fn tls() -> Vec<u8> {
    let mut bytes = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    bytes.extend((0..505u16).map(|n| n as u8));
    bytes
}

#[test]
fn clients_of_other_services_are_turned_away_at_once() {
    if bare() {
        return;
    }
    let victim = Victim::new();
    let garbage: Vec<u8> = (0..4096).map(|_| fastrand::u8(..)).collect();
    let before = victim.count("hellos_rejected");
    let said: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &tls(),
        b"*1\r\n$4\r\nPING\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        &garbage,
        b"NAC!",
    ];
    for bytes in said {
        assert_eq!(say(victim.side_port(), bytes), b"", "{bytes:?}");
    }
    assert_eq!(victim.count("hellos_rejected"), before + said.len() as u64);
    victim.comes_through();
}

#[test]
fn scanners_come_and_go() {
    if bare() {
        return;
    }
    let victim = Victim::new();
    for round in 0..500 {
        let stream = connect(victim.side_port());
        match round % 3 {
            // Connected, and nothing more.
            0 => {}
            // Broken off.
            1 => sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("an option"),
            // Half closed, and the other half soon after.
            _ => stream.shutdown(std::net::Shutdown::Write).expect("open"),
        }
    }
    victim.comes_through();
}

#[test]
fn who_speaks_a_byte_at_a_time_is_not_waited_for() {
    if bare() {
        return;
    }
    let victim = Victim::new();
    let start = Instant::now();
    let mut slow: Vec<TcpStream> = (0..200).map(|_| connect(victim.side_port())).collect();
    let bytes = Frame::Hello(hello()).encode();
    // A whole hello would take them twenty seconds.
    let mut at = 0;
    while !slow.is_empty() {
        slow.retain_mut(|stream| {
            let mut byte = [0];
            stream.set_nonblocking(true).expect("an option");
            let over = matches!(stream.read(&mut byte), Ok(0))
                || stream.write_all(&bytes[at..=at]).is_err();
            !over
        });
        assert!(start.elapsed() < PATIENCE, "{} are waited for", slow.len());
        at = (at + 1).min(bytes.len() - 2);
        std::thread::sleep(Duration::from_millis(150));
    }
    victim.comes_through();
}

/// A connection to `port` from one of many addresses of this host, which says nothing. The kernel is not waited for long: it
/// lets those go on trying for whom it has no room.
fn half_open(port: u16, number: u32) -> Option<OwnedFd> {
    use rustix::net::{bind, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).ok()?;
    // It leaves nothing behind when it is closed.
    sockopt::set_socket_linger(&fd, Some(Duration::ZERO)).ok()?;
    let from = Ipv4Addr::new(127, 0, (number >> 8) as u8 & 15, number as u8 | 1);
    bind(&fd, &SocketAddr::from((from, 0))).ok()?;
    match connect(&fd, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            let soon = Timespec {
                tv_sec: 0,
                tv_nsec: 5_000_000,
            };
            poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&soon)).ok()?;
        }
        Err(_) => return None,
    }
    Some(fd)
}

#[test]
fn a_hundred_thousand_half_open_connections_take_nothing_from_the_application() {
    const ALL: u32 = 100_000;
    /// So many stay open here at a time.
    const KEPT: usize = 4_000;
    if bare() {
        return;
    }
    let victim = Victim::new();
    let side_port = victim.side_port();
    let mut kept = std::collections::VecDeque::new();
    let mut made = 0;
    for number in 0..ALL {
        made += u32::from(half_open(side_port, number).is_some_and(|fd| {
            kept.push_back(fd);
            true
        }));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        if number % 10_000 == 5_000 {
            // A sixteenth of what the application may have, beside what it had.
            assert!(victim.descriptors() < DESCRIPTORS as usize / 2);
            let kernel = victim.port;
            let mut own = connect(kernel);
            own.write_all(b"by its own port").expect("connected");
            let mut echo = [0; 15];
            own.read_exact(&mut echo).expect("the echo");
            assert_eq!(&echo, b"by its own port");
        }
    }
    assert!(made > ALL / 2, "{made}");
    assert!(victim.count("turned_away") > 1000);
    assert_eq!(serve(victim.port, 2), ["whole"; 2]);
    drop(kept);
    victim.comes_through();
}
