//! accept and listeners.

use super::{Ctx, Scenario, content};
use crate::sys::{self, word};
use libc::{F_GETFD, F_GETFL, FD_CLOEXEC, O_NONBLOCK, O_RDWR, SOCK_CLOEXEC, SOCK_NONBLOCK};

pub const ALL: &[Scenario] = &[
    ("accept4-flags", accept4_flags),
    ("accept-address", accept_address),
    ("accept-from-nobody", accept_from_nobody),
    ("accept-on-others", accept_on_others),
    ("order", order),
    ("closed-before-accept", closed_before_accept),
    ("listener-closed", listener_closed),
    ("listen-twice", listen_twice),
];

fn accept4_flags(ctx: &Ctx) {
    let (here, listener) = (ctx.here(), ctx.listener());
    for listener_nonblocking in [false, true] {
        sys::set_nonblocking(listener, listener_nonblocking).expect("O_NONBLOCK");
        for flags in [0, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC] {
            ctx.tell(format!("connect c {here}"));
            ctx.readable(listener);
            let fd = sys::accept4(listener, flags).expect("accept4");
            ctx.own(fd);
            let fl = sys::fcntl(fd, F_GETFL, 0).expect("F_GETFL");
            let fdfl = sys::fcntl(fd, F_GETFD, 0).expect("F_GETFD");
            ctx.log(format!(
                "flags {flags:o}: nonblocking {}, cloexec {}, for reading and writing {}",
                fl & O_NONBLOCK != 0,
                fdfl & FD_CLOEXEC != 0,
                fl & libc::O_ACCMODE == O_RDWR
            ));
            ctx.tell("close c");
        }
    }
    sys::set_nonblocking(listener, false).expect("O_NONBLOCK");
    ctx.log(format!("bad flags: {}", word(sys::accept4(listener, 0x40))));
}

fn accept_address(ctx: &Ctx) {
    let (here, listener) = (ctx.here(), ctx.listener());
    ctx.tell(format!("connect c {here}"));
    match sys::accept(listener) {
        Ok((fd, address)) => {
            ctx.own(fd);
            ctx.log(format!(
                "the address is the peer's: {}",
                ctx.tell("sockname c") == format!("Ok({address:?})")
            ));
        }
        Err(e) => ctx.log(format!("accept: {e}")),
    }
    ctx.tell(format!("connect d {here}"));
    let mut raw = sys::Raw::empty();
    raw.len = 4;
    // SAFETY: the storage has more room than we say.
    let fd = unsafe { libc::accept(listener, (&raw mut raw.storage).cast(), &mut raw.len) };
    ctx.own(fd);
    ctx.log(format!("with room for 4: {}, length {}", fd >= 0, raw.len));
}

fn accept_from_nobody(ctx: &Ctx) {
    let listener = ctx.listener();
    sys::set_nonblocking(listener, true).expect("O_NONBLOCK");
    ctx.log(format!("nonblocking: {}", word(sys::accept4(listener, 0))));
    sys::set_nonblocking(listener, false).expect("O_NONBLOCK");
    let limit = libc::timeval {
        tv_sec: 0,
        tv_usec: 20_000,
    };
    sys::setsockopt(listener, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &limit).expect("SO_RCVTIMEO");
    ctx.log(format!(
        "with SO_RCVTIMEO: {}",
        word(sys::accept4(listener, 0))
    ));
    let none = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    sys::setsockopt(listener, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &none).expect("SO_RCVTIMEO");
}

fn accept_on_others(ctx: &Ctx) {
    let (fd, _) = ctx.pair();
    ctx.log(format!("on a connection: {}", word(sys::accept4(fd, 0))));
    let fresh = sys::socket(ctx.here(), SOCK_CLOEXEC).expect("socket");
    ctx.own(fresh);
    ctx.log(format!("on a new socket: {}", word(sys::accept4(fresh, 0))));
    ctx.log(format!("on -1: {}", word(sys::accept4(-1, 0))));
    ctx.log(format!("on standard input: {}", word(sys::accept4(0, 0))));
    let accepts = sys::getsockopt::<i32>(ctx.listener(), libc::SOL_SOCKET, libc::SO_ACCEPTCONN);
    ctx.log(format!("SO_ACCEPTCONN of a listener: {}", word(accepts)));
    let accepts = sys::getsockopt::<i32>(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN);
    ctx.log(format!("SO_ACCEPTCONN of a connection: {}", word(accepts)));
    ctx.log(format!(
        "recv on a listener: {}",
        word(sys::recv(ctx.listener(), &mut [0; 4], 0))
    ));
    ctx.log(format!(
        "send on a listener: {}",
        word(sys::send(ctx.listener(), &[0; 4], libc::MSG_NOSIGNAL))
    ));
    ctx.log(format!(
        "listen on a connection: {}",
        word(sys::listen(fd, 4))
    ));
}

/// Connections come out of accept in the order in which they were made, data already on them.
fn order(ctx: &Ctx) {
    let (here, listener) = (ctx.here(), ctx.listener());
    for n in 1..=5 {
        ctx.tell(format!("connect c{n} {here}"));
        ctx.tell(format!("send c{n} {n}"));
    }
    for n in 1..=5 {
        let fd = sys::accept4(listener, 0).expect("accept4");
        ctx.own(fd);
        let mut buf = [0u8; 16];
        ctx.readable(fd);
        let got = sys::recv(fd, &mut buf, 0);
        ctx.log(format!(
            "number {n}: {}: {}",
            word(got),
            content(0, &buf[..got.unwrap_or(0)])
        ));
    }
}

fn closed_before_accept(ctx: &Ctx) {
    let (here, listener) = (ctx.here(), ctx.listener());
    ctx.tell(format!("connect c {here}"));
    ctx.tell("send c 100");
    ctx.tell("close c");
    let fd = sys::accept4(listener, 0).expect("accept4");
    ctx.own(fd);
    let mut buf = [0u8; 200];
    let got = sys::recv(fd, &mut buf, libc::MSG_WAITALL);
    ctx.log(format!(
        "{}: {}",
        word(got),
        content(0, &buf[..got.unwrap_or(0)])
    ));
    ctx.log(format!("then: {}", word(sys::recv(fd, &mut buf, 0))));
}

fn listener_closed(ctx: &Ctx) {
    let at = ctx.spare(0);
    let listener = sys::listener(at, 8).expect("listen");
    ctx.log(format!("connect: {}", ctx.tell(format!("connect a {at}"))));
    let fd = sys::accept4(listener, 0).expect("accept4");
    ctx.own(fd);
    ctx.log(format!("connect: {}", ctx.tell(format!("connect b {at}"))));
    ctx.log(format!("close: {}", word(sys::close(listener))));
    ctx.log(format!("connect: {}", ctx.tell(format!("connect c {at}"))));
    // The accepted one lives on, the one that waited in the queue is reset.
    ctx.sent(fd, "a", 10);
    ctx.tell("poll b 1");
    ctx.log(format!("not accepted: {}", ctx.tell("recv b 1")));
    ctx.log(format!("accept: {}", word(sys::accept4(listener, 0))));
}

fn listen_twice(ctx: &Ctx) {
    let at = ctx.spare(1);
    let listener = sys::listener(at, 1).expect("listen");
    ctx.own(listener);
    ctx.log(format!("listen again: {}", word(sys::listen(listener, 16))));
    ctx.log(format!("a second listener: {}", word(sys::listener(at, 1))));
    ctx.log(format!("connect: {}", ctx.tell(format!("connect a {at}"))));
    ctx.log(format!("close: {}", ctx.close(listener)));
    let again = sys::listener(at, 1).expect("listen");
    ctx.own(again);
    ctx.log(format!(
        "listens again, connect: {}",
        ctx.tell(format!("connect b {at}"))
    ));
    ctx.log(format!(
        "accepts: {}",
        sys::accept4(again, 0).map(|fd| ctx.own(fd)).is_ok()
    ));
}
