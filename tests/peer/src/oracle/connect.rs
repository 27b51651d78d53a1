//! connect, blocking and not.

use super::{Ctx, Scenario, bits};
use crate::sys::{self, word};
use libc::{POLLIN, POLLOUT, SOCK_CLOEXEC, SOCK_NONBLOCK};

pub const ALL: &[Scenario] = &[
    ("refused", refused),
    ("refused-then-again", refused_then_again),
    ("nonblocking", nonblocking),
    ("nonblocking-refused", nonblocking_refused),
    ("twice", twice),
    ("not-connected", not_connected),
    ("wrong-addresses", wrong_addresses),
    ("unconnect", unconnect),
    ("write-at-once", write_at_once),
    ("many-at-once", many_at_once),
];

fn fresh(ctx: &Ctx, flags: i32) -> i32 {
    let fd = sys::socket(ctx.here(), SOCK_CLOEXEC | flags).expect("socket");
    ctx.own(fd)
}

fn refused(ctx: &Ctx) {
    let fd = fresh(ctx, 0);
    ctx.log(format!("connect: {}", word(sys::connect(fd, ctx.spare(0)))));
    ctx.log(format!("SO_ERROR: {}", word(sys::so_error(fd))));
    ctx.log(format!("getpeername: {:?}", sys::getpeername(fd)));
}

fn refused_then_again(ctx: &Ctx) {
    let fd = fresh(ctx, 0);
    ctx.log(format!("connect: {}", word(sys::connect(fd, ctx.spare(0)))));
    ctx.log(format!(
        "connect elsewhere: {}",
        word(sys::connect(fd, ctx.there()))
    ));
    ctx.log(format!("accept: {}", ctx.tell("accept a L")));
    ctx.log(format!("send: {}", word(sys::send(fd, b"hello", 0))));
    ctx.log(format!("the other end: {}", ctx.tell("recv a 5")));
}

fn nonblocking(ctx: &Ctx) {
    let fd = fresh(ctx, SOCK_NONBLOCK);
    ctx.log(format!("connect: {}", word(sys::connect(fd, ctx.there()))));
    ctx.log(format!(
        "poll: {}",
        bits(
            sys::poll(fd, POLLOUT | POLLIN, sys::PATIENCE_MS)
                .expect("poll")
                .into()
        )
    ));
    ctx.log(format!("SO_ERROR: {}", word(sys::so_error(fd))));
    ctx.log(format!(
        "connect again: {}",
        word(sys::connect(fd, ctx.there()))
    ));
    ctx.log(format!(
        "and again: {}",
        word(sys::connect(fd, ctx.there()))
    ));
    ctx.log(format!(
        "getpeername: {}",
        sys::getpeername(fd) == Ok(Some(ctx.there()))
    ));
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 4], 0))));
    ctx.log(format!("accept: {}", ctx.tell("accept a L")));
    ctx.log(format!("send: {}", word(sys::send(fd, b"hello", 0))));
    ctx.log(format!("the other end: {}", ctx.tell("recv a 5")));
}

fn nonblocking_refused(ctx: &Ctx) {
    let fd = fresh(ctx, SOCK_NONBLOCK);
    ctx.log(format!("connect: {}", word(sys::connect(fd, ctx.spare(0)))));
    ctx.log(format!(
        "poll: {}",
        bits(
            sys::poll(fd, POLLOUT | POLLIN, sys::PATIENCE_MS)
                .expect("poll")
                .into()
        )
    ));
    ctx.log(format!("SO_ERROR: {}", word(sys::so_error(fd))));
    ctx.log(format!("SO_ERROR again: {}", word(sys::so_error(fd))));
    ctx.log(format!(
        "connect elsewhere: {}",
        word(sys::connect(fd, ctx.there()))
    ));
    ctx.log(format!(
        "poll: {}",
        bits(
            sys::poll(fd, POLLOUT, sys::PATIENCE_MS)
                .expect("poll")
                .into()
        )
    ));
    ctx.log(format!("SO_ERROR: {}", word(sys::so_error(fd))));
}

fn twice(ctx: &Ctx) {
    let (fd, _) = ctx.pair();
    ctx.log(format!(
        "connect of a connection: {}",
        word(sys::connect(fd, ctx.there()))
    ));
    ctx.log(format!(
        "bind of a connection: {}",
        word(sys::bind(fd, ctx.spare(1)))
    ));
    ctx.log(format!(
        "connect of a listener: {}",
        word(sys::connect(ctx.listener(), ctx.there()))
    ));
}

fn not_connected(ctx: &Ctx) {
    let fd = fresh(ctx, 0);
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 4], 0))));
    ctx.log(format!("read: {}", word(sys::read(fd, &mut [0; 4]))));
    ctx.log(format!(
        "send: {}",
        word(sys::send(fd, &[0; 4], libc::MSG_NOSIGNAL))
    ));
    ctx.log(format!(
        "shutdown: {}",
        word(sys::shutdown(fd, libc::SHUT_WR))
    ));
    ctx.log(format!(
        "poll: {}",
        bits(sys::poll(fd, POLLIN | POLLOUT, 0).expect("poll").into())
    ));
    ctx.log(format!("SO_ERROR: {}", word(sys::so_error(fd))));
}

fn wrong_addresses(ctx: &Ctx) {
    let fd = fresh(ctx, 0);
    let raw = sys::Raw::from(ctx.there());
    // SAFETY: less than the address's own length.
    let r = sys::check(unsafe { libc::connect(fd, raw.as_ptr(), 8) } as isize);
    ctx.log(format!("a short address: {}", word(r)));
    let other = if ctx.here().is_ipv4() {
        "[::1]:9"
    } else {
        "127.0.0.1:9"
    };
    let wrong_family = sys::connect(fd, other.parse().expect("address"));
    ctx.log(format!(
        "an address of the other family: {}",
        word(wrong_family)
    ));
    ctx.log(format!(
        "connect of -1: {}",
        word(sys::connect(-1, ctx.there()))
    ));
    ctx.log(format!(
        "connect of standard input: {}",
        word(sys::connect(0, ctx.there()))
    ));
}

/// connect to AF_UNSPEC takes a connection down, and the socket can be used again.
fn unconnect(ctx: &Ctx) {
    let fd = fresh(ctx, 0);
    ctx.log(format!("connect: {}", word(sys::connect(fd, ctx.there()))));
    ctx.log(format!("accept: {}", ctx.tell("accept a L")));
    let mut raw = sys::Raw::empty();
    raw.storage.ss_family = libc::AF_UNSPEC as u16;
    // SAFETY: a live address.
    let r = sys::check(unsafe { libc::connect(fd, raw.as_ptr(), 16) } as isize);
    ctx.log(format!("unconnect: {}", word(r)));
    ctx.log(format!("getpeername: {:?}", sys::getpeername(fd)));
    ctx.log(format!("the other end: {}", ctx.tell("recv a 1")));
    ctx.log(format!("connect: {}", word(sys::connect(fd, ctx.there()))));
    ctx.log(format!("accept: {}", ctx.tell("accept b L")));
    ctx.log(format!("send: {}", word(sys::send(fd, b"hello", 0))));
    ctx.log(format!("the other end: {}", ctx.tell("recv b 5")));
}

/// Data sent before the other side has accepted.
fn write_at_once(ctx: &Ctx) {
    let fd = fresh(ctx, 0);
    ctx.log(format!("connect: {}", word(sys::connect(fd, ctx.there()))));
    ctx.log(format!("send: {}", word(sys::send(fd, &[7; 5000], 0))));
    ctx.log(format!(
        "shutdown: {}",
        word(sys::shutdown(fd, libc::SHUT_WR))
    ));
    ctx.log(format!("accept: {}", ctx.tell("accept a L")));
    ctx.log(format!("the other end: {}", ctx.tell("drain a")));
    ctx.log(format!("its answer: {}", ctx.tell("send a 10")));
    ctx.log(format!(
        "recv: {}",
        word(sys::recv(fd, &mut [0; 10], libc::MSG_WAITALL))
    ));
}

fn many_at_once(ctx: &Ctx) {
    let there = ctx.there();
    let fds: Vec<i32> = (0..20).map(|_| fresh(ctx, SOCK_NONBLOCK)).collect();
    for &fd in &fds {
        let _ = sys::connect(fd, there);
    }
    let ready = fds
        .iter()
        .filter(|&&fd| sys::poll(fd, POLLOUT, sys::PATIENCE_MS) == Ok(POLLOUT))
        .count();
    let clean = fds
        .iter()
        .filter(|&&fd| sys::so_error(fd) == Ok(sys::Errno(0)))
        .count();
    ctx.log(format!("{ready} connected, {clean} without error"));
    for n in 0..20 {
        ctx.tell(format!("accept m{n} L"));
    }
    for &fd in &fds {
        let _ = sys::send(fd, b"x", 0);
    }
    let heard = (0..20)
        .filter(|n| ctx.tell(format!("recv m{n} 1")).starts_with("1 "))
        .count();
    ctx.log(format!("{heard} heard"));
}
