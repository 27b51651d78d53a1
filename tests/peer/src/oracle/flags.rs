//! Flags of recv and send.

use super::{Ctx, Scenario, content};
use crate::sys::{self, word};
use libc::{MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, MSG_WAITALL};

pub const ALL: &[Scenario] = &[
    ("peek", peek),
    ("waitall", waitall),
    ("waitall-at-the-end", waitall_at_the_end),
    ("dontwait", dontwait),
    ("trunc", trunc),
    ("nothing", nothing),
    ("recvfrom-sendto", recvfrom_sendto),
    ("more", more),
    ("bad-descriptors", bad_descriptors),
];

fn recv(ctx: &Ctx, fd: i32, offset: usize, room: usize, flags: i32) {
    let mut buf = vec![0; room];
    match sys::recv(fd, &mut buf, flags) {
        Ok(n) => ctx.log(format!("recv of {room}: {}", content(offset, &buf[..n]))),
        Err(e) => ctx.log(format!("recv of {room}: {e}")),
    }
}

fn peek(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.sent(fd, &id, 10);
    recv(ctx, fd, 0, 4, MSG_PEEK);
    recv(ctx, fd, 0, 20, MSG_PEEK);
    recv(ctx, fd, 0, 6, 0);
    recv(ctx, fd, 6, 20, MSG_PEEK);
    recv(ctx, fd, 6, 20, 0);
    recv(ctx, fd, 10, 20, MSG_PEEK | MSG_DONTWAIT);
    ctx.tell(format!("send {id} 100000"));
    ctx.holds(fd, 1000);
    recv(ctx, fd, 10, 100_000, MSG_WAITALL | MSG_PEEK);
    recv(ctx, fd, 10, 100_000, MSG_WAITALL);
    ctx.tell(format!("shutdown {id} 1"));
    ctx.readable(fd);
    recv(ctx, fd, 0, 10, MSG_PEEK);
    recv(ctx, fd, 0, 10, 0);
}

fn waitall(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.sent(fd, &id, 5);
    recv(ctx, fd, 0, 10, MSG_WAITALL | MSG_DONTWAIT);
    ctx.tell(format!("later 20 send {id} 10"));
    recv(ctx, fd, 0, 10, MSG_WAITALL);
    ctx.tell(format!("later 10 send {id} 5"));
    ctx.tell(format!("later 30 send {id} 5"));
    let mut buf = [0; 10];
    ctx.log(format!(
        "in two parts: {}",
        word(sys::recv(fd, &mut buf, MSG_WAITALL))
    ));
}

fn waitall_at_the_end(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.sent(fd, &id, 3);
    ctx.tell(format!("later 20 shutdown {id} 1"));
    recv(ctx, fd, 0, 10, MSG_WAITALL);
    recv(ctx, fd, 0, 10, MSG_WAITALL);
}

fn dontwait(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    recv(ctx, fd, 0, 10, MSG_DONTWAIT);
    ctx.sent(fd, &id, 3);
    recv(ctx, fd, 0, 10, MSG_DONTWAIT);
    recv(ctx, fd, 3, 10, MSG_DONTWAIT);
    ctx.log(format!(
        "send: {}",
        word(sys::send(fd, b"abc", MSG_DONTWAIT))
    ));
    ctx.log(format!("the other end: {}", ctx_recv(ctx, &id, 3)));
}

fn ctx_recv(ctx: &Ctx, id: &str, n: usize) -> String {
    ctx.tell(format!("recv {id} {n}"))
}

/// On TCP, MSG_TRUNC throws bytes away without writing to the buffer.
fn trunc(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.sent(fd, &id, 10);
    let mut buf = [0xee; 4];
    ctx.log(format!(
        "recv: {}",
        word(sys::recv(fd, &mut buf, MSG_TRUNC))
    ));
    ctx.log(format!("buffer untouched: {}", buf == [0xee; 4]));
    recv(ctx, fd, 4, 20, 0);
}

fn nothing(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.log(format!("send of nothing: {}", word(sys::send(fd, b"", 0))));
    ctx.log(format!("write of nothing: {}", word(sys::write(fd, b""))));
    ctx.sent(fd, &id, 5);
    recv(ctx, fd, 0, 0, 0);
    ctx.log(format!("read of nothing: {}", word(sys::read(fd, &mut []))));
    recv(ctx, fd, 0, 5, 0);
    recv(ctx, fd, 5, 0, MSG_DONTWAIT);
}

fn recvfrom_sendto(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.sent(fd, &id, 5);
    let mut buf = [0u8; 16];
    let mut raw = sys::Raw::empty();
    // SAFETY: buffer, address and length are live.
    let n = sys::check(unsafe {
        let addr = (&raw mut raw.storage).cast();
        libc::recvfrom(fd, buf.as_mut_ptr().cast(), 16, 0, addr, &mut raw.len)
    });
    ctx.log(format!(
        "recvfrom: {}, address of {} bytes",
        word(n),
        raw.len
    ));
    // SAFETY: a null address is allowed.
    let n = sys::check(unsafe {
        libc::recvfrom(
            fd,
            buf.as_mut_ptr().cast(),
            16,
            MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    });
    ctx.log(format!("recvfrom without address: {}", word(n)));
    let elsewhere = sys::Raw::from(ctx.spare(0));
    // SAFETY: buffer and address are live.
    let n = sys::check(unsafe {
        libc::sendto(
            fd,
            buf.as_ptr().cast(),
            5,
            0,
            elsewhere.as_ptr(),
            elsewhere.len,
        )
    });
    ctx.log(format!("sendto with an address: {}", word(n)));
    ctx.log(format!("the other end: {}", ctx_recv(ctx, &id, 5)));
}

fn more(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.log(format!(
        "send with MSG_MORE: {}",
        word(sys::send(fd, b"abc", MSG_MORE | MSG_NOSIGNAL))
    ));
    ctx.log(format!(
        "send: {}",
        word(sys::send(fd, b"def", MSG_NOSIGNAL))
    ));
    ctx.log(format!("the other end: {}", ctx_recv(ctx, &id, 6)));
    // Corked, but not for ever: the end pushes it out.
    ctx.log(format!(
        "send with MSG_MORE: {}",
        word(sys::send(fd, b"ghi", MSG_MORE))
    ));
    ctx.log(format!(
        "shutdown: {}",
        word(sys::shutdown(fd, libc::SHUT_WR))
    ));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("drain {id}"))
    ));
}

fn bad_descriptors(ctx: &Ctx) {
    let mut buf = [0; 4];
    ctx.log(format!("recv on -1: {}", word(sys::recv(-1, &mut buf, 0))));
    ctx.log(format!("send on -1: {}", word(sys::send(-1, &buf, 0))));
    ctx.log(format!(
        "recv on 19999: {}",
        word(sys::recv(19_999, &mut buf, 0))
    ));
    ctx.log(format!(
        "read on 2000000000: {}",
        word(sys::read(2_000_000_000, &mut buf))
    ));
    ctx.log(format!("close of -1: {}", word(sys::close(-1))));
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    ctx.own(ends[0]);
    ctx.own(ends[1]);
    ctx.log(format!(
        "recv on a pipe: {}",
        word(sys::recv(ends[0], &mut buf, 0))
    ));
    ctx.log(format!(
        "send on a pipe: {}",
        word(sys::send(ends[1], &buf, 0))
    ));
    ctx.log(format!(
        "shutdown of a pipe: {}",
        word(sys::shutdown(ends[1], 1))
    ));
}
