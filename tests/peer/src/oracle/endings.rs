//! Ends of connections: half-close, reset, broken pipe, process exit.

use super::puppet::Remote;
use super::{Ctx, Scenario, bits};
use crate::sys::{self, word};
use libc::{MSG_NOSIGNAL, POLLIN, POLLOUT, POLLRDHUP, SHUT_RD, SHUT_RDWR, SHUT_WR};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

pub const ALL: &[Scenario] = &[
    ("half-close", half_close),
    ("closed-by-peer", closed_by_peer),
    ("broken-pipe", broken_pipe),
    ("shutdown-read", shutdown_read),
    ("shutdown-both", shutdown_both),
    ("reset-by-unread-data", reset_by_unread_data),
    ("reset-by-linger", reset_by_linger),
    ("reset-after-data", reset_after_data),
    ("we-reset", we_reset),
    ("close-after-data", close_after_data),
    ("exit-after-data", exit_after_data),
    ("killed", killed),
    ("linger-on-close", linger_on_close),
];

static SIGPIPES: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    SIGPIPES.fetch_add(1, SeqCst);
}

/// What a call gives, and how many SIGPIPEs came with it.
fn counted(call: impl FnOnce() -> sys::Res<usize>) -> String {
    // SAFETY: the handler only adds to an atomic.
    unsafe { libc::signal(libc::SIGPIPE, count as *const () as libc::sighandler_t) };
    SIGPIPES.store(0, SeqCst);
    let r = word(call());
    // SAFETY: back to ignoring.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    format!("{r}, {} SIGPIPE", SIGPIPES.load(SeqCst))
}

/// Readiness, once there is something beyond writability.
fn settled(ctx: &Ctx, fd: i32) {
    settled_with(ctx, fd, POLLIN | POLLRDHUP);
}

/// Readiness, once there is one of `events`.
fn settled_with(ctx: &Ctx, fd: i32, events: i16) {
    let _ = sys::poll(fd, events, sys::PATIENCE_MS);
    let now = sys::poll(fd, POLLIN | POLLOUT | POLLRDHUP, 0);
    ctx.log(format!("poll: {}", bits(now.unwrap_or(0).into())));
}

fn half_close(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.log(format!("send: {}", word(sys::send(fd, b"question", 0))));
    ctx.log(format!("shutdown: {}", word(sys::shutdown(fd, SHUT_WR))));
    ctx.log(format!(
        "shutdown again: {}",
        word(sys::shutdown(fd, SHUT_WR))
    ));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("drain {id}"))
    ));
    ctx.sent(fd, &id, 1000);
    settled(ctx, fd);
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 2000], 0))));
    ctx.log(format!("its close: {}", ctx.tell(format!("close {id}"))));
    settled(ctx, fd);
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 2000], 0))));
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 2000], 0))));
    ctx.log(format!("wrong how: {}", word(sys::shutdown(fd, 7))));
}

/// The peer has closed all: reading ends, the first write is taken, its reset breaks the pipe.
fn closed_by_peer(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.tell(format!("send {id} 10"));
    ctx.tell(format!("close {id}"));
    // The end may come after the data.
    settled_with(ctx, fd, POLLRDHUP);
    ctx.log(format!(
        "recv: {}",
        word(sys::recv(fd, &mut [0; 100], libc::MSG_WAITALL))
    ));
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 100], 0))));
    ctx.log(format!("SO_ERROR: {}", word(sys::so_error(fd))));
    ctx.log(format!(
        "first send: {}",
        counted(|| sys::send(fd, b"x", 0))
    ));
    let _ = sys::poll(fd, 0, sys::PATIENCE_MS);
    settled(ctx, fd);
    ctx.log(format!(
        "second send: {}",
        counted(|| sys::send(fd, b"x", 0))
    ));
    ctx.log(format!(
        "third send: {}",
        counted(|| sys::send(fd, b"x", 0))
    ));
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 100], 0))));
    ctx.log(format!("SO_ERROR: {}", word(sys::so_error(fd))));
}

fn broken_pipe(ctx: &Ctx) {
    let (fd, _) = ctx.pair();
    ctx.log(format!("shutdown: {}", word(sys::shutdown(fd, SHUT_WR))));
    ctx.log(format!("send: {}", counted(|| sys::send(fd, b"x", 0))));
    ctx.log(format!(
        "send without signal: {}",
        counted(|| sys::send(fd, b"x", MSG_NOSIGNAL))
    ));
    ctx.log(format!("write: {}", counted(|| sys::write(fd, b"x"))));
    let mut byte = [0u8];
    let iov = sys::iovecs(&mut byte, &[1]);
    ctx.log(format!("writev: {}", counted(|| sys::writev(fd, &iov))));
    ctx.log(format!(
        "write of nothing: {}",
        counted(|| sys::write(fd, b""))
    ));
}

fn shutdown_read(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.log(format!("shutdown: {}", word(sys::shutdown(fd, SHUT_RD))));
    settled(ctx, fd);
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 4], 0))));
    ctx.log(format!("send: {}", word(sys::send(fd, b"abc", 0))));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 3"))
    ));
}

fn shutdown_both(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.log(format!("shutdown: {}", word(sys::shutdown(fd, SHUT_RDWR))));
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 4], 0))));
    ctx.log(format!(
        "send: {}",
        word(sys::send(fd, b"abc", MSG_NOSIGNAL))
    ));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("drain {id}"))
    ));
    ctx.tell(format!("close {id}"));
    settled(ctx, fd);
    // Nothing but this tells when the peer's end has come as well.
    let mut again = sys::shutdown(fd, SHUT_RDWR);
    for _ in 0..sys::PATIENCE_MS {
        if again.is_err() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
        again = sys::shutdown(fd, SHUT_RDWR);
    }
    ctx.log(format!("shutdown again: {}", word(again)));
}

fn after_reset(ctx: &Ctx, fd: i32) {
    settled(ctx, fd);
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 100], 0))));
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 100], 0))));
    ctx.log(format!("SO_ERROR: {}", word(sys::so_error(fd))));
    ctx.log(format!("send: {}", counted(|| sys::send(fd, b"x", 0))));
    ctx.log(format!(
        "getpeername: {}",
        sys::getpeername(fd).map_or_else(|e| e.to_string(), |_| "ok".to_string())
    ));
    ctx.log(format!("shutdown: {}", word(sys::shutdown(fd, SHUT_RDWR))));
}

fn reset_by_unread_data(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.log(format!("send: {}", word(sys::send(fd, b"never read", 0))));
    ctx.log(format!(
        "the other end holds it: {}",
        ctx.tell(format!("poll {id} 1"))
    ));
    ctx.log(format!("its close: {}", ctx.tell(format!("close {id}"))));
    after_reset(ctx, fd);
}

fn reset_by_linger(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.log(format!("its close: {}", ctx.tell(format!("reset {id}"))));
    after_reset(ctx, fd);
    let (fd, id) = ctx.pair();
    ctx.log(format!("its close: {}", ctx.tell(format!("reset {id}"))));
    settled(ctx, fd);
    ctx.log(format!("SO_ERROR first: {}", word(sys::so_error(fd))));
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 100], 0))));
    let (fd, id) = ctx.pair();
    ctx.log(format!("its close: {}", ctx.tell(format!("reset {id}"))));
    settled(ctx, fd);
    ctx.log(format!(
        "send first: {}",
        counted(|| sys::send(fd, b"x", 0))
    ));
    ctx.log(format!(
        "send again: {}",
        counted(|| sys::send(fd, b"x", 0))
    ));
}

/// Data that had arrived before the reset.
fn reset_after_data(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.sent(fd, &id, 10);
    ctx.log(format!("its close: {}", ctx.tell(format!("reset {id}"))));
    let _ = sys::poll(fd, 0, sys::PATIENCE_MS);
    after_reset(ctx, fd);
}

fn we_reset(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let set = sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
    ctx.log(format!("SO_LINGER: {}", word(set)));
    ctx.log(format!("close: {}", ctx.close(fd)));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 1"))
    ));
    let (fd, id) = ctx.pair();
    ctx.sent(fd, &id, 10);
    ctx.log(format!("close with unread data: {}", ctx.close(fd)));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 1"))
    ));
}

fn close_after_data(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.log(format!("send: {}", word(sys::send(fd, &[9; 50_000], 0))));
    ctx.log(format!("close: {}", ctx.close(fd)));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("drain {id}"))
    ));
}

/// A connection to a process of its own, that the scenario ends.
fn own_process(ctx: &Ctx) -> (i32, Remote) {
    let mut remote = Remote::start();
    let fd = if ctx.connects {
        let at = ctx.spare(3);
        assert_eq!(remote.tell(&format!("listen L {at}")), "ok");
        let fd = sys::connected(at).expect("connect");
        assert_eq!(remote.tell("accept x L"), "ok");
        fd
    } else {
        assert_eq!(remote.tell(&format!("connect x {}", ctx.here())), "ok");
        sys::accept4(ctx.listener(), 0).expect("accept4")
    };
    (ctx.own(fd), remote)
}

/// A process that sends and calls _exit at once: everything arrives, then the end.
fn exit_after_data(ctx: &Ctx) {
    if !ctx.two_processes {
        return;
    }
    for n in [1, 1000, 40_000, 60_000] {
        let (fd, mut remote) = own_process(ctx);
        remote.tell(&format!("send-and-exit x {n}"));
        let mut buf = vec![0; 100_000];
        let got = sys::recv(fd, &mut buf, libc::MSG_WAITALL);
        ctx.log(format!(
            "{}, {}",
            word(got),
            super::content(0, &buf[..got.unwrap_or(0)])
        ));
        ctx.log(format!("then: {}", word(sys::recv(fd, &mut buf, 0))));
        ctx.close(fd);
    }
}

/// SIGKILL while we are blocked in recv: what it had sent, then the end.
fn killed(ctx: &Ctx) {
    if !ctx.two_processes {
        return;
    }
    let (fd, mut remote) = own_process(ctx);
    remote.tell("send x 1000");
    let killer = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        remote.kill();
        drop(remote);
    });
    ctx.log(format!(
        "recv: {}",
        word(sys::recv(fd, &mut [0; 5000], libc::MSG_WAITALL))
    ));
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 5000], 0))));
    settled(ctx, fd);
    let _ = killer.join();
}

fn linger_on_close(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 5,
    };
    let set = sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
    ctx.log(format!("SO_LINGER: {}", word(set)));
    ctx.log(format!("send: {}", word(sys::send(fd, &[9; 5000], 0))));
    ctx.log(format!("close: {}", ctx.close(fd)));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("drain {id}"))
    ));
}
