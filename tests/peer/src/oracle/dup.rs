//! Several descriptors of one connection.

use super::{Ctx, Scenario};
use crate::sys::{self, word};
use libc::{F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, FD_CLOEXEC, O_CLOEXEC, O_NONBLOCK};

pub const ALL: &[Scenario] = &[
    ("dup-shares", dup_shares),
    ("dup2-over", dup2_over),
    ("dup3", dup3),
    ("dupfd", dupfd),
    ("dup-flags", dup_flags),
    ("dup-shutdown", dup_shutdown),
    ("dup-of-listener", dup_of_listener),
];

fn recv(ctx: &Ctx, name: &str, fd: i32) {
    ctx.readable(fd);
    ctx.log(format!(
        "{name}: {}",
        word(sys::recv(fd, &mut [0; 100], libc::MSG_DONTWAIT))
    ));
}

fn dup(fd: i32) -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::dup(fd) }
}

fn dup_shares(ctx: &Ctx) {
    let (one, id) = ctx.pair();
    let two = dup(one);
    ctx.own(two);
    ctx.log(format!("the next number: {}", two == one + 1));
    ctx.sent(one, &id, 10);
    ctx.log(format!(
        "through one: {}",
        word(sys::recv(one, &mut [0; 4], 0))
    ));
    ctx.log(format!(
        "through two: {}",
        word(sys::recv(two, &mut [0; 100], 0))
    ));
    ctx.log(format!(
        "send: {}, {}",
        word(sys::send(one, b"ab", 0)),
        word(sys::send(two, b"cd", 0))
    ));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 4"))
    ));
    ctx.log(format!(
        "same peer: {}",
        sys::getpeername(one) == sys::getpeername(two)
    ));
    ctx.log(format!("close one: {}", ctx.close(one)));
    ctx.log(format!("one is gone: {}", word(sys::send(one, b"x", 0))));
    ctx.sent(two, &id, 5);
    recv(ctx, "two still reads", two);
    ctx.log(format!(
        "two still sends: {}",
        word(sys::send(two, b"ef", 0))
    ));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 2"))
    ));
    ctx.log(format!("close two: {}", ctx.close(two)));
    ctx.log(format!(
        "now the other end sees the end: {}",
        ctx.tell(format!("drain {id}"))
    ));
}

fn dup2_over(ctx: &Ctx) {
    let (one, a) = ctx.pair();
    let (two, b) = ctx.pair();
    // SAFETY: no pointers; both descriptors are ours.
    let r = unsafe { libc::dup2(one, two) };
    ctx.log(format!("dup2 over a connection: {}", r == two));
    ctx.log(format!(
        "that one has ended: {}",
        ctx.tell(format!("drain {b}"))
    ));
    ctx.sent(two, &a, 6);
    recv(ctx, "the number now reads the first", two);
    ctx.log(format!("close: {}", ctx.close(one)));
    ctx.log(format!("send: {}", word(sys::send(two, b"abc", 0))));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {a} 3"))
    ));
    // SAFETY: as above.
    let r = unsafe { libc::dup2(two, two) };
    ctx.log(format!("dup2 onto itself: {}", r == two));
    // SAFETY: as above; standard input is open.
    let r = unsafe { libc::dup2(0, two) };
    ctx.log(format!("dup2 of a file over it: {}", r == two));
    ctx.log(format!("the other end: {}", ctx.tell(format!("drain {a}"))));
    ctx.log(format!(
        "it is no socket: {}",
        word(sys::send(two, b"x", 0))
    ));
    // SAFETY: as above.
    let r = unsafe { libc::dup2(-1, two) };
    ctx.log(format!("dup2 of -1: {}", word(sys::check(r as isize))));
}

fn dup3(ctx: &Ctx) {
    let (one, id) = ctx.pair();
    // SAFETY: no pointers; 500 is free.
    let r = unsafe { libc::dup3(one, 500, O_CLOEXEC) };
    ctx.own(500);
    ctx.log(format!("dup3 to 500: {r}"));
    ctx.log(format!(
        "cloexec: {}",
        sys::fcntl(500, F_GETFD, 0) == Ok(FD_CLOEXEC)
    ));
    ctx.sent(500, &id, 7);
    recv(ctx, "reads", 500);
    // SAFETY: as above.
    let same = sys::check(unsafe { libc::dup3(one, one, 0) } as isize);
    ctx.log(format!("onto itself: {}", word(same)));
    // SAFETY: as above.
    let flags = sys::check(unsafe { libc::dup3(one, 501, O_NONBLOCK) } as isize);
    ctx.log(format!("wrong flags: {}", word(flags)));
}

fn dupfd(ctx: &Ctx) {
    let (one, id) = ctx.pair();
    let plain = sys::fcntl(one, F_DUPFD, 600).expect("F_DUPFD");
    let cloexec = sys::fcntl(one, F_DUPFD_CLOEXEC, 600).expect("F_DUPFD_CLOEXEC");
    ctx.own(plain);
    ctx.own(cloexec);
    ctx.log(format!("{plain} and {cloexec}"));
    for fd in [plain, cloexec] {
        ctx.log(format!(
            "cloexec: {}",
            sys::fcntl(fd, F_GETFD, 0) == Ok(FD_CLOEXEC)
        ));
    }
    ctx.sent(one, &id, 3);
    for fd in [plain, cloexec, one] {
        ctx.log(format!("reads: {}", word(sys::recv(fd, &mut [0; 1], 0))));
    }
    ctx.close(one);
    ctx.close(plain);
    ctx.log(format!(
        "the last one sends: {}",
        word(sys::send(cloexec, b"x", 0))
    ));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 1"))
    ));
}

fn dup_flags(ctx: &Ctx) {
    let (one, _) = ctx.pair();
    let two = dup(one);
    ctx.own(two);
    sys::set_nonblocking(one, true).expect("O_NONBLOCK");
    let shared = sys::fcntl(two, F_GETFL, 0).is_ok_and(|fl| fl & O_NONBLOCK != 0);
    ctx.log(format!("O_NONBLOCK is shared: {shared}"));
    ctx.log(format!("recv: {}", word(sys::recv(two, &mut [0; 1], 0))));
    sys::fcntl(two, libc::F_SETFD, FD_CLOEXEC).expect("F_SETFD");
    sys::fcntl(one, libc::F_SETFD, 0).expect("F_SETFD");
    let flags = [one, two].map(|fd| sys::fcntl(fd, F_GETFD, 0).unwrap_or(-1));
    ctx.log(format!("FD_CLOEXEC is not: {flags:?}"));
}

fn dup_shutdown(ctx: &Ctx) {
    let (one, id) = ctx.pair();
    let two = dup(one);
    ctx.own(two);
    ctx.log(format!(
        "shutdown through one: {}",
        word(sys::shutdown(one, libc::SHUT_WR))
    ));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("drain {id}"))
    ));
    ctx.log(format!(
        "send through two: {}",
        word(sys::send(two, b"x", libc::MSG_NOSIGNAL))
    ));
    ctx.sent(two, &id, 4);
    recv(ctx, "two still reads", two);
}

fn dup_of_listener(ctx: &Ctx) {
    let at = ctx.spare(2);
    let one = sys::listener(at, 8).expect("listen");
    let two = dup(one);
    ctx.own(two);
    ctx.log(format!("close one: {}", word(sys::close(one))));
    ctx.log(format!("connect: {}", ctx.tell(format!("connect c {at}"))));
    let fd = sys::accept4(two, 0).expect("accept4");
    ctx.own(fd);
    ctx.sent(fd, "c", 9);
    recv(ctx, "accepted through two", fd);
    ctx.close(two);
    ctx.log(format!("connect: {}", ctx.tell(format!("connect d {at}"))));
}
