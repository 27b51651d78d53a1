//! Blocking calls: time-outs, signals, other threads.

use super::{Ctx, Scenario, content};
use crate::sys::{self, word};
use libc::{SOL_SOCKET, c_int};
use std::time::Duration;

pub const ALL: &[Scenario] = &[
    ("blocked-recv", blocked_recv),
    ("recv-timeout", recv_timeout),
    ("send-timeout", send_timeout),
    ("full-nonblocking", full_nonblocking),
    ("interrupted", interrupted),
    ("shutdown-wakes", shutdown_wakes),
    ("two-threads", two_threads),
];

fn blocked_recv(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    for n in [1usize, 100, 40_000] {
        ctx.tell(format!("later 15 send {id} {n}"));
        let mut buf = vec![0; n];
        let got = sys::recv(fd, &mut buf, libc::MSG_WAITALL);
        ctx.log(format!("{}: {}", word(got), content(0, &buf)));
    }
    ctx.tell(format!("later 15 shutdown {id} 1"));
    ctx.log(format!(
        "blocked at the end: {}",
        word(sys::read(fd, &mut [0; 10]))
    ));
}

fn limit(fd: i32, option: c_int, ms: i64) {
    let time = libc::timeval {
        tv_sec: ms / 1000,
        tv_usec: ms % 1000 * 1000,
    };
    sys::setsockopt(fd, SOL_SOCKET, option, &time).expect("a time limit");
}

fn recv_timeout(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    limit(fd, libc::SO_RCVTIMEO, 20);
    let set =
        sys::getsockopt::<libc::timeval>(fd, SOL_SOCKET, libc::SO_RCVTIMEO).expect("SO_RCVTIMEO");
    ctx.log(format!("set: {} s {} us", set.tv_sec, set.tv_usec));
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 4], 0))));
    ctx.log(format!("read: {}", word(sys::read(fd, &mut [0; 4]))));
    ctx.sent(fd, &id, 2);
    ctx.log(format!(
        "waiting for all of 4, 2 there: {}",
        word(sys::recv(fd, &mut [0; 4], libc::MSG_WAITALL))
    ));
    limit(fd, libc::SO_RCVTIMEO, 0);
    ctx.tell(format!("later 40 send {id} 4"));
    ctx.log(format!(
        "without limit: {}",
        word(sys::recv(fd, &mut [0; 4], 0))
    ));
}

/// Sends until the socket takes no more; how much it took.
fn fill(fd: i32) -> (usize, sys::Errno) {
    let mut total = 0;
    loop {
        match sys::send(fd, &[0; 16384], libc::MSG_NOSIGNAL) {
            Ok(n) => total += n,
            Err(e) => return (total, e),
        }
    }
}

fn send_timeout(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    limit(fd, libc::SO_SNDTIMEO, 30);
    let (total, e) = fill(fd);
    ctx.log(format!("took some: {}, then {e}", total > 0));
    let answer = ctx.tell(format!("recv {id} {total}"));
    ctx.log(format!(
        "the other end gets it all: {}",
        answer.starts_with(&format!("{total} "))
    ));
    ctx.log(format!(
        "room again: {}",
        word(sys::send(fd, &[0; 1000], 0))
    ));
}

fn full_nonblocking(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    sys::set_nonblocking(fd, true).expect("O_NONBLOCK");
    let (total, e) = fill(fd);
    ctx.log(format!("took some: {}, then {e}", total > 0));
    // What is on its way may make room: full is when it stays full.
    let mut all = total;
    while [50, 0].map(|ms| sys::poll(fd, libc::POLLOUT, ms)) != [Ok(0); 2] {
        all += fill(fd).0;
    }
    ctx.log("not writable");
    let answer = ctx.tell(format!("recv {id} {all}"));
    ctx.log(format!(
        "the other end gets it all: {}",
        answer.starts_with(&format!("{all} "))
    ));
    ctx.log(format!(
        "writable: {}",
        word(sys::poll(fd, libc::POLLOUT, sys::PATIENCE_MS))
    ));
    ctx.log(format!("send: {}", word(sys::send(fd, &[0; 1000], 0))));
}

extern "C" fn nothing(_: c_int) {}

/// What a call gives during which a signal comes. It comes again and again: the first one may come before the call
/// has begun to wait.
fn alarmed<T: std::fmt::Display>(flags: c_int, call: impl FnOnce() -> sys::Res<T>) -> String {
    // SAFETY: the handler does nothing, and the structure is fully set.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as libc::sighandler_t;
        action.sa_flags = flags;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
    }
    ring_every(Duration::from_millis(20));
    let result = word(call());
    ring_every(Duration::ZERO);
    result
}

/// Has SIGALRM come so often, or no longer.
fn ring_every(pause: Duration) {
    let pause = libc::timeval {
        tv_sec: 0,
        tv_usec: pause.as_micros() as libc::suseconds_t,
    };
    let timer = libc::itimerval {
        it_interval: pause,
        it_value: pause,
    };
    // SAFETY: a live timer; what was set before is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
}

fn interrupted(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let recv = |flags| sys::recv(fd, &mut [0; 4], flags);
    let poll = || sys::poll(fd, libc::POLLIN, -1);
    ctx.log(format!("recv: {}", alarmed(0, || recv(0))));
    ctx.log(format!("poll: {}", alarmed(0, poll)));
    ctx.log(format!(
        "poll, restarting: {}",
        alarmed(libc::SA_RESTART, poll)
    ));
    ctx.log(format!(
        "accept: {}",
        alarmed(0, || sys::accept4(ctx.listener(), 0))
    ));
    ctx.tell(format!("later 60 send {id} 4"));
    ctx.log(format!(
        "recv, restarting: {}",
        alarmed(libc::SA_RESTART, || recv(0))
    ));
    ctx.sent(fd, &id, 2);
    ctx.log(format!(
        "waiting for all of 4, 2 there: {}",
        alarmed(0, || recv(libc::MSG_WAITALL))
    ));
    limit(fd, libc::SO_RCVTIMEO, 60_000);
    ctx.log(format!(
        "restarting, with a time limit: {}",
        alarmed(libc::SA_RESTART, || recv(0))
    ));
}

/// shutdown by one thread wakes another that is blocked in recv.
fn shutdown_wakes(ctx: &Ctx) {
    let (fd, _) = ctx.pair();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        sys::shutdown(fd, libc::SHUT_RD)
    });
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 4], 0))));
    ctx.log(format!(
        "shutdown: {}",
        other.join().map_or_else(|_| "PANIC".to_string(), word)
    ));
}

/// Two threads blocked in recv on one socket: each byte goes to exactly one of them.
fn two_threads(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn(move || {
                let mut got = Vec::new();
                let mut buf = [0; 100];
                while let Ok(n @ 1..) = sys::recv(fd, &mut buf, 0) {
                    got.extend_from_slice(&buf[..n]);
                }
                got
            })
        })
        .collect();
    for _ in 0..50 {
        ctx.tell(format!("send {id} 200"));
    }
    ctx.tell(format!("shutdown {id} 1"));
    let mut all: Vec<u8> = readers
        .into_iter()
        .flat_map(|r| r.join().unwrap_or_default())
        .collect();
    let mut expected: Vec<u8> = (0..10_000).map(super::puppet::byte).collect();
    all.sort_unstable();
    expected.sort_unstable();
    ctx.log(format!(
        "{} bytes, the right ones: {}",
        all.len(),
        all == expected
    ));
}
