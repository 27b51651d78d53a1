//! Scatter and gather: every iovec is filled, every one is sent.

use super::puppet::byte;
use super::{Ctx, Scenario, content};
use crate::sys::{self, word};

pub const ALL: &[Scenario] = &[
    ("readv", readv),
    ("writev", writev),
    ("recvmsg", recvmsg),
    ("sendmsg", sendmsg),
    ("many-messages", many_messages),
    ("odd-iovecs", odd_iovecs),
    ("long-vectors", long_vectors),
];

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(byte).collect()
}

fn readv(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.sent(fd, &id, 20);
    let mut buf = [0u8; 108];
    let n = sys::readv(fd, &sys::iovecs(&mut buf, &[3, 0, 5, 100]));
    ctx.log(format!(
        "of 20, into 3, 0, 5, 100: {}: {}",
        word(n),
        content(0, &buf[..20])
    ));
    ctx.sent(fd, &id, 20);
    let mut buf = [0u8; 10];
    let n = sys::readv(fd, &sys::iovecs(&mut buf, &[3, 7]));
    ctx.log(format!(
        "of 20, into 3, 7: {}: {}",
        word(n),
        content(20, &buf)
    ));
    let n = sys::readv(fd, &sys::iovecs(&mut buf, &[3, 7]));
    ctx.log(format!("the rest: {}: {}", word(n), content(30, &buf)));
}

fn writev(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let mut data = pattern(1000);
    let n = sys::writev(fd, &sys::iovecs(&mut data, &[1, 0, 99, 900]));
    ctx.log(format!("1, 0, 99, 900: {}", word(n)));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 1000"))
    ));
}

fn recvmsg(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.sent(fd, &id, 20);
    for flags in [libc::MSG_PEEK, 0, libc::MSG_DONTWAIT] {
        let mut buf = [0u8; 30];
        let mut name = [0u8; 128];
        let mut control = [0u8; 64];
        let mut iov = sys::iovecs(&mut buf, &[4, 0, 26]);
        let mut msg = sys::msghdr(&mut iov);
        msg.msg_name = name.as_mut_ptr().cast();
        msg.msg_namelen = 128;
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = 64;
        msg.msg_flags = -1;
        let n = sys::recvmsg(fd, &mut msg, flags);
        let out = match n {
            Ok(_) => format!(
                "name {}, control {}, flags {:x}",
                msg.msg_namelen, msg.msg_controllen, msg.msg_flags
            ),
            Err(_) => String::new(),
        };
        ctx.log(format!(
            "{}: {} {out}",
            word(n),
            content(0, &buf[..n.unwrap_or(0)])
        ));
    }
    ctx.tell(format!("shutdown {id} 1"));
    ctx.readable(fd);
    let mut buf = [0u8; 4];
    let mut iov = sys::iovecs(&mut buf, &[4]);
    let mut msg = sys::msghdr(&mut iov);
    ctx.log(format!(
        "at the end: {}",
        word(sys::recvmsg(fd, &mut msg, 0))
    ));
}

fn sendmsg(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let mut data = pattern(500);
    let mut iov = sys::iovecs(&mut data, &[100, 0, 399, 1]);
    ctx.log(format!(
        "sendmsg: {}",
        word(sys::sendmsg(fd, &sys::msghdr(&mut iov), libc::MSG_NOSIGNAL))
    ));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 500"))
    ));
    let msg = sys::msghdr(&mut []);
    ctx.log(format!(
        "sendmsg of no iovec: {}",
        word(sys::sendmsg(fd, &msg, 0))
    ));
}

fn many_messages(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let mut data = pattern(30);
    let (one, two) = data.split_at_mut(10);
    let mut iov_one = sys::iovecs(one, &[4, 6]);
    let mut iov_two = sys::iovecs(two, &[20]);
    let mut messages = [
        libc::mmsghdr {
            msg_hdr: sys::msghdr(&mut iov_one),
            msg_len: 0,
        },
        libc::mmsghdr {
            msg_hdr: sys::msghdr(&mut iov_two),
            msg_len: 0,
        },
    ];
    // SAFETY: two live messages.
    let n = sys::check(unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), 2, 0) } as isize);
    ctx.log(format!(
        "sendmmsg: {}: {} and {}",
        word(n),
        messages[0].msg_len,
        messages[1].msg_len
    ));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 30"))
    ));
    ctx.sent(fd, &id, 30);
    // SAFETY: as above; no time limit.
    let n =
        sys::check(
            unsafe { libc::recvmmsg(fd, messages.as_mut_ptr(), 2, 0, std::ptr::null_mut()) }
                as isize,
        );
    ctx.log(format!(
        "recvmmsg: {}: {} and {}",
        word(n),
        messages[0].msg_len,
        messages[1].msg_len
    ));
    ctx.log(content(0, &data));
}

fn odd_iovecs(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.log(format!("readv of none: {}", word(sys::readv(fd, &[]))));
    ctx.log(format!("writev of none: {}", word(sys::writev(fd, &[]))));
    let mut data = pattern(1025);
    let too_many = sys::iovecs(&mut data, &[1; 1025]);
    ctx.log(format!(
        "writev of 1025: {}",
        word(sys::writev(fd, &too_many))
    ));
    ctx.log(format!(
        "readv of 1025: {}",
        word(sys::readv(fd, &too_many))
    ));
    ctx.log(format!(
        "writev of 1024: {}",
        word(sys::writev(fd, &too_many[..1024]))
    ));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 1024"))
    ));
    let mut byte = [0u8; 1];
    let pread = |offset| {
        // SAFETY: one live byte.
        sys::check(unsafe { libc::pread(fd, byte.as_mut_ptr().cast(), 1, offset) })
    };
    ctx.log(format!("pread: {}", word([0].map(pread)[0])));
}

fn long_vectors(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.tell(format!("later 0 send {id} 300000"));
    let mut buf = vec![0u8; 300_000];
    let mut iov = sys::iovecs(&mut buf, &[1, 65_535, 131_072, 3, 103_389]);
    let n = sys::recvmsg(fd, &mut sys::msghdr(&mut iov), libc::MSG_WAITALL);
    ctx.log(format!(
        "recvmsg, waiting for all: {}: {}",
        word(n),
        content(0, &buf)
    ));
    ctx.tell(format!("later 0 drain {id} 300000"));
    let mut iov = sys::iovecs(&mut buf, &[1, 65_535, 131_072, 3, 103_389]);
    ctx.log(format!(
        "blocking sendmsg: {}",
        word(sys::sendmsg(fd, &sys::msghdr(&mut iov), 0))
    ));
}
