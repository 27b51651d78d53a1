//! epoll: level, edge, one-shot, exclusive; several sets, duplicates, changes while waiting.

use super::{Ctx, Scenario, bits};
use crate::sys::{self, word};
use libc::{
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET, EPOLLIN, EPOLLONESHOT, EPOLLOUT,
    EPOLLRDHUP,
};

pub const ALL: &[Scenario] = &[
    ("level", level),
    ("edge", edge),
    ("edge-write", edge_write),
    ("oneshot", oneshot),
    ("hang-up", hang_up),
    ("reset", reset),
    ("listener", listener),
    ("ctl-errors", ctl_errors),
    ("two-sets", two_sets),
    ("duplicate", duplicate),
    ("nested", nested),
    ("few-at-a-time", few_at_a_time),
    ("closed-in-set", closed_in_set),
    ("unconnected", unconnected),
    ("connecting", connecting),
    ("exclusive", exclusive),
];

/// A fresh epoll set.
pub fn set(ctx: &Ctx) -> i32 {
    // SAFETY: no pointers.
    let epfd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    ctx.own(epfd)
}

/// epoll_ctl(2), with `data` as the event's.
pub fn ctl(epfd: i32, op: i32, fd: i32, events: i32, data: u64) -> sys::Res<usize> {
    let mut event = libc::epoll_event {
        events: events as u32,
        u64: data,
    };
    // SAFETY: a live event.
    sys::check(unsafe { libc::epoll_ctl(epfd, op, fd, &mut event) } as isize)
}

/// Waits up to `ms`; the events in words, in the order of their data.
pub fn wait(epfd: i32, ms: i32) -> String {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
    // SAFETY: room for 16 events.
    match sys::check(unsafe { libc::epoll_wait(epfd, events.as_mut_ptr(), 16, ms) } as isize) {
        Ok(n) => show(&events[..n]),
        Err(e) => e.to_string(),
    }
}

/// Events in words, in the order of their data.
pub fn show(events: &[libc::epoll_event]) -> String {
    let mut words: Vec<String> = events
        .iter()
        .map(|e| format!("{}={}", { e.u64 }, bits(e.events as i32)))
        .collect();
    words.sort();
    if words.is_empty() {
        "nothing".to_string()
    } else {
        words.join(" ")
    }
}

fn level(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let ep = set(ctx);
    ctx.log(format!(
        "add: {}",
        word(ctl(
            ep,
            EPOLL_CTL_ADD,
            fd,
            EPOLLIN | EPOLLOUT | EPOLLRDHUP,
            1
        ))
    ));
    ctx.log(format!("at first: {}", wait(ep, 0)));
    ctx.sent(fd, &id, 10);
    ctx.log(format!("with data: {}", wait(ep, 0)));
    let _ = sys::recv(fd, &mut [0; 4], 0);
    ctx.log(format!("some read: {}", wait(ep, 0)));
    let _ = sys::recv(fd, &mut [0; 10], 0);
    ctx.log(format!("all read: {}", wait(ep, 0)));
    ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN, 2).expect("MOD");
    ctx.log(format!("reading only: {}", wait(ep, 0)));
    ctx.tell(format!("later 20 send {id} 5"));
    ctx.log(format!("waiting: {}", wait(ep, -1)));
    ctl(ep, EPOLL_CTL_MOD, fd, 0, 3).expect("MOD");
    ctx.log(format!("interested in nothing: {}", wait(ep, 0)));
    ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN, 4).expect("MOD");
    ctx.log(format!("interested again: {}", wait(ep, 0)));
    ctx.log(format!("del: {}", word(ctl(ep, EPOLL_CTL_DEL, fd, 0, 0))));
    ctx.log(format!("gone: {}", wait(ep, 0)));
}

fn edge(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let ep = set(ctx);
    ctx.sent(fd, &id, 10);
    ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, 1).expect("ADD");
    ctx.log(format!("there before: {}", wait(ep, 0)));
    ctx.log(format!("told once: {}", wait(ep, 20)));
    let _ = sys::recv(fd, &mut [0; 4], 0);
    ctx.log(format!("reading some is no edge: {}", wait(ep, 20)));
    ctx.tell(format!("send {id} 5"));
    ctx.log(format!("new data is: {}", wait(ep, sys::PATIENCE_MS)));
    ctx.holds(fd, 11);
    let _ = sys::recv(fd, &mut [0; 100], 0);
    ctx.log(format!("all read: {}", wait(ep, 20)));
    ctx.tell(format!("later 20 send {id} 5"));
    ctx.log(format!("waiting: {}", wait(ep, -1)));
    ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLET, 2).expect("MOD");
    ctx.log(format!("MOD arms again: {}", wait(ep, 0)));
    ctx.log(format!("once: {}", wait(ep, 0)));
    ctx.tell(format!("shutdown {id} 1"));
    ctx.log(format!(
        "the end is an edge: {}",
        wait(ep, sys::PATIENCE_MS)
    ));
    ctx.log(format!("once: {}", wait(ep, 20)));
}

fn edge_write(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    sys::set_nonblocking(fd, true).expect("O_NONBLOCK");
    let ep = set(ctx);
    ctl(ep, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLET, 1).expect("ADD");
    ctx.log(format!("at first: {}", wait(ep, 0)));
    ctx.log(format!("once: {}", wait(ep, 20)));
    let mut total = 0;
    loop {
        while let Ok(n) = sys::send(fd, &[0; 10_000], 0) {
            total += n;
        }
        // As long as what is on its way makes room, it is not full.
        if wait(ep, 50) == "nothing" {
            break;
        }
    }
    let answer = ctx.tell(format!("recv {id} {total}"));
    ctx.log(format!(
        "the other end gets it all: {}",
        answer.starts_with(&format!("{total} "))
    ));
    ctx.log(format!("room is an edge: {}", wait(ep, sys::PATIENCE_MS)));
}

fn oneshot(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let ep = set(ctx);
    ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLONESHOT, 1).expect("ADD");
    ctx.log(format!("at first: {}", wait(ep, 0)));
    ctx.sent(fd, &id, 5);
    ctx.log(format!("with data: {}", wait(ep, sys::PATIENCE_MS)));
    ctx.log(format!("only once: {}", wait(ep, 20)));
    ctx.sent(fd, &id, 10);
    ctx.log(format!("more data: {}", wait(ep, 20)));
    ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT, 2).expect("MOD");
    ctx.log(format!("armed again: {}", wait(ep, 0)));
    ctx.tell(format!("close {id}"));
    ctx.log(format!("the end, disarmed: {}", wait(ep, 20)));
    ctl(
        ep,
        EPOLL_CTL_MOD,
        fd,
        EPOLLIN | EPOLLRDHUP | EPOLLONESHOT,
        3,
    )
    .expect("MOD");
    ctx.log(format!("armed: {}", wait(ep, sys::PATIENCE_MS)));
}

fn hang_up(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let ep = set(ctx);
    ctl(ep, EPOLL_CTL_ADD, fd, EPOLLRDHUP, 1).expect("ADD");
    ctx.log(format!("at first: {}", wait(ep, 0)));
    ctx.sent(fd, &id, 5);
    ctx.log(format!("data: {}", wait(ep, 0)));
    ctx.tell(format!("shutdown {id} 1"));
    ctx.log(format!("half closed: {}", wait(ep, sys::PATIENCE_MS)));
    ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 2).expect("MOD");
    ctx.log(format!("all interests: {}", wait(ep, sys::PATIENCE_MS)));
    sys::shutdown(fd, libc::SHUT_WR).expect("shutdown");
    ctx.log(format!("both halves: {}", wait(ep, sys::PATIENCE_MS)));
    ctl(ep, EPOLL_CTL_MOD, fd, 0, 3).expect("MOD");
    ctx.log(format!("no interest: {}", wait(ep, sys::PATIENCE_MS)));
}

fn reset(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let ep = set(ctx);
    ctl(
        ep,
        EPOLL_CTL_ADD,
        fd,
        EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
        1,
    )
    .expect("ADD");
    ctx.log(format!("at first: {}", wait(ep, 0)));
    ctx.tell(format!("reset {id}"));
    ctx.log(format!("reset: {}", wait(ep, sys::PATIENCE_MS)));
    ctl(ep, EPOLL_CTL_MOD, fd, 0, 2).expect("MOD");
    ctx.log(format!("no interest: {}", wait(ep, 0)));
    ctx.log(format!("SO_ERROR: {}", word(sys::so_error(fd))));
    ctx.log(format!("after SO_ERROR: {}", wait(ep, 0)));
}

fn listener(ctx: &Ctx) {
    let (here, listener) = (ctx.here(), ctx.listener());
    for (flags, name) in [(EPOLLIN, "a"), (EPOLLIN | EPOLLET, "b")] {
        let ep = set(ctx);
        ctl(ep, EPOLL_CTL_ADD, listener, flags, 1).expect("ADD");
        ctx.log(format!("nobody: {}", wait(ep, 0)));
        ctx.tell(format!("connect {name} {here}"));
        ctx.log(format!("somebody: {}", wait(ep, sys::PATIENCE_MS)));
        ctx.log(format!("still: {}", wait(ep, 20)));
        let fd = sys::accept4(listener, 0).expect("accept4");
        ctx.own(fd);
        ctx.log(format!("accepted: {}", wait(ep, 0)));
        ctl(ep, EPOLL_CTL_DEL, listener, 0, 0).expect("DEL");
    }
}

fn ctl_errors(ctx: &Ctx) {
    let (fd, _) = ctx.pair();
    let ep = set(ctx);
    ctx.log(format!(
        "MOD of a stranger: {}",
        word(ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN, 1))
    ));
    ctx.log(format!(
        "DEL of a stranger: {}",
        word(ctl(ep, EPOLL_CTL_DEL, fd, EPOLLIN, 1))
    ));
    ctx.log(format!(
        "ADD: {}",
        word(ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1))
    ));
    ctx.log(format!(
        "ADD again: {}",
        word(ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1))
    ));
    ctx.log(format!(
        "ADD of -1: {}",
        word(ctl(ep, EPOLL_CTL_ADD, -1, EPOLLIN, 1))
    ));
    ctx.log(format!(
        "ADD to -1: {}",
        word(ctl(-1, EPOLL_CTL_ADD, fd, EPOLLIN, 1))
    ));
    ctx.log(format!(
        "ADD to a socket: {}",
        word(ctl(fd, EPOLL_CTL_ADD, ep, EPOLLIN, 1))
    ));
    ctx.log(format!(
        "no such operation: {}",
        word(ctl(ep, 9, fd, EPOLLIN, 1))
    ));
    // SAFETY: DEL needs no event.
    let r = sys::check(
        unsafe { libc::epoll_ctl(ep, EPOLL_CTL_DEL, fd, std::ptr::null_mut()) } as isize,
    );
    ctx.log(format!("DEL without event: {}", word(r)));
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: the kernel refuses a maximum of 0.
    let r = sys::check(unsafe { libc::epoll_wait(ep, &mut event, 0, 0) } as isize);
    ctx.log(format!("wait for none: {}", word(r)));
    // SAFETY: a live event.
    let r = sys::check(unsafe { libc::epoll_wait(fd, &mut event, 1, 0) } as isize);
    ctx.log(format!("wait on a socket: {}", word(r)));
}

fn two_sets(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let (one, two) = (set(ctx), set(ctx));
    ctl(one, EPOLL_CTL_ADD, fd, EPOLLIN, 1).expect("ADD");
    ctl(two, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET, 2).expect("ADD");
    ctx.sent(fd, &id, 5);
    ctx.log(format!("one: {}", wait(one, 0)));
    ctx.log(format!("two: {}", wait(two, 0)));
    ctx.log(format!("one: {}", wait(one, 0)));
    ctx.log(format!("two: {}", wait(two, 0)));
    ctl(one, EPOLL_CTL_DEL, fd, 0, 0).expect("DEL");
    ctx.tell(format!("send {id} 5"));
    ctx.log(format!("two: {}", wait(two, sys::PATIENCE_MS)));
    ctx.log(format!("one: {}", wait(one, 0)));
}

/// A set holds an open socket, not a number: it stays in the set until its last descriptor closes.
fn duplicate(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let ep = set(ctx);
    // SAFETY: no pointers.
    let copy = unsafe { libc::dup(fd) };
    ctx.own(copy);
    ctx.log(format!(
        "add: {}",
        word(ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1))
    ));
    ctx.log(format!(
        "add the copy: {}",
        word(ctl(ep, EPOLL_CTL_ADD, copy, EPOLLIN, 2))
    ));
    ctx.sent(fd, &id, 5);
    ctx.log(format!("both: {}", wait(ep, 0)));
    ctl(ep, EPOLL_CTL_DEL, copy, 0, 0).expect("DEL");
    ctx.close(fd);
    ctx.log(format!("the first number is closed: {}", wait(ep, 0)));
    ctx.close(copy);
    ctx.log(format!("both are: {}", wait(ep, 0)));
}

fn nested(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let (inner, outer) = (set(ctx), set(ctx));
    ctl(inner, EPOLL_CTL_ADD, fd, EPOLLIN, 1).expect("ADD");
    ctl(outer, EPOLL_CTL_ADD, inner, EPOLLIN, 2).expect("ADD");
    ctx.log(format!("at first: {}", wait(outer, 0)));
    ctx.tell(format!("later 20 send {id} 5"));
    ctx.log(format!("waiting: {}", wait(outer, -1)));
    ctx.log(format!("inner: {}", wait(inner, 0)));
    ctx.log(format!(
        "poll of the set: {}",
        word(sys::poll(inner, libc::POLLIN, 0))
    ));
    let _ = sys::recv(fd, &mut [0; 100], 0);
    ctx.log(format!(
        "all read: {}, poll {}",
        wait(outer, 0),
        word(sys::poll(inner, libc::POLLIN, 0))
    ));
    ctx.tell(format!("later 20 send {id} 5"));
    ctx.log(format!(
        "poll of the set: {}",
        word(sys::poll(inner, libc::POLLIN, -1))
    ));
}

/// With room for one event, nobody is left out.
fn few_at_a_time(ctx: &Ctx) {
    let ep = set(ctx);
    for n in 0..4u64 {
        let (fd, id) = ctx.pair();
        ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, n).expect("ADD");
        ctx.sent(fd, &id, 1);
    }
    let mut seen = [false; 4];
    for _ in 0..4 {
        let mut event = libc::epoll_event { events: 0, u64: 9 };
        // SAFETY: room for one event.
        if unsafe { libc::epoll_wait(ep, &mut event, 1, 0) } == 1 {
            seen[event.u64 as usize] = true;
        }
    }
    ctx.log(format!("seen: {seen:?}"));
    ctx.log(format!("all: {}", wait(ep, 0)));
}

fn closed_in_set(ctx: &Ctx) {
    let (old, a) = ctx.pair();
    let ep = set(ctx);
    ctl(ep, EPOLL_CTL_ADD, old, EPOLLIN, 1).expect("ADD");
    ctx.sent(old, &a, 5);
    ctx.close(old);
    ctx.log(format!("closed: {}", wait(ep, 0)));
    let (new, b) = ctx.pair();
    ctx.sent(new, &b, 5);
    ctx.log(format!(
        "same number: {}, not in the set: {}",
        new == old,
        wait(ep, 0)
    ));
    ctx.log(format!(
        "add: {}",
        word(ctl(ep, EPOLL_CTL_ADD, new, EPOLLIN, 2))
    ));
    ctx.log(format!("in the set: {}", wait(ep, 0)));
}

fn unconnected(ctx: &Ctx) {
    let fd = sys::socket(ctx.here(), libc::SOCK_NONBLOCK).expect("socket");
    ctx.own(fd);
    let ep = set(ctx);
    ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 1).expect("ADD");
    ctx.log(format!("a new socket: {}", wait(ep, 0)));
}

/// Added to the set before it connects, as Go and libuv do.
fn connecting(ctx: &Ctx) {
    let fd = sys::socket(ctx.here(), libc::SOCK_NONBLOCK).expect("socket");
    ctx.own(fd);
    let ep = set(ctx);
    ctl(
        ep,
        EPOLL_CTL_ADD,
        fd,
        EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
        1,
    )
    .expect("ADD");
    wait(ep, 0);
    ctx.log(format!("connect: {}", word(sys::connect(fd, ctx.there()))));
    ctx.log(format!("connected: {}", wait(ep, sys::PATIENCE_MS)));
    ctx.log(format!("accept: {}", ctx.tell("accept a L")));
    ctx.tell("send a 5");
    let event = wait(ep, sys::PATIENCE_MS);
    ctx.log(format!("data: {}", event.contains("IN")));
    ctx.holds(fd, 5);
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 10], 0))));
}

fn exclusive(ctx: &Ctx) {
    let (here, listener) = (ctx.here(), ctx.listener());
    let (one, two) = (set(ctx), set(ctx));
    for ep in [one, two] {
        let r = ctl(
            ep,
            EPOLL_CTL_ADD,
            listener,
            EPOLLIN | libc::EPOLLEXCLUSIVE,
            1,
        );
        ctx.log(format!("add: {}", word(r)));
    }
    let r = ctl(one, EPOLL_CTL_MOD, listener, EPOLLIN, 1);
    ctx.log(format!("MOD: {}", word(r)));
    ctx.tell(format!("connect a {here}"));
    ctx.log(format!("one: {}", wait(one, sys::PATIENCE_MS)));
    let fd = sys::accept4(listener, 0).expect("accept4");
    ctx.own(fd);
    ctx.log(format!("accepted: {} {}", wait(one, 0), wait(two, 0)));
    for ep in [one, two] {
        ctl(ep, EPOLL_CTL_DEL, listener, 0, 0).expect("DEL");
    }
}
