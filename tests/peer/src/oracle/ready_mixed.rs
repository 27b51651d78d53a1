//! Sockets among other descriptors, and waiting threads that others disturb.

use super::ready_epoll::{ctl, set, show, wait};
use super::{Ctx, Scenario, bits};
use crate::sys::{self, word};
use libc::{
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET, EPOLLIN, EPOLLOUT, POLLIN, pollfd,
};
use std::thread;
use std::time::Duration;

pub const ALL: &[Scenario] = &[
    ("pipe-beside", pipe_beside),
    ("poll-pipe-beside", poll_pipe_beside),
    ("timer-beside", timer_beside),
    ("event-from-thread", event_from_thread),
    ("added-while-waiting", added_while_waiting),
    ("changed-while-waiting", changed_while_waiting),
    ("two-waiters", two_waiters),
    ("pwait", pwait),
    ("pwait-signal", pwait_signal),
    ("busy-and-idle", busy_and_idle),
];

fn pipe(ctx: &Ctx) -> (i32, i32) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    (ctx.own(ends[0]), ctx.own(ends[1]))
}

/// Does something on another thread in a moment.
fn soon(f: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        f();
    })
}

fn pipe_beside(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let (reader, writer) = pipe(ctx);
    let ep = set(ctx);
    ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1).expect("ADD");
    ctl(ep, EPOLL_CTL_ADD, reader, EPOLLIN, 2).expect("ADD");
    ctx.log(format!("at first: {}", wait(ep, 0)));
    let other = soon(move || _ = sys::write(writer, b"x"));
    ctx.log(format!("the pipe wakes: {}", wait(ep, -1)));
    let _ = other.join();
    ctx.sent(fd, &id, 5);
    ctx.log(format!("both: {}", wait(ep, 0)));
    let _ = sys::read(reader, &mut [0; 10]);
    let _ = sys::recv(fd, &mut [0; 10], 0);
    ctx.tell(format!("later 20 send {id} 5"));
    ctx.log(format!("the socket wakes: {}", wait(ep, -1)));
}

fn poll_pipe_beside(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let (reader, writer) = pipe(ctx);
    let poll = |ms| {
        let mut fds = [fd, reader].map(|fd| pollfd {
            fd,
            events: POLLIN,
            revents: 0,
        });
        // SAFETY: two live entries.
        let n = sys::check(unsafe { libc::poll(fds.as_mut_ptr(), 2, ms) } as isize);
        format!(
            "{}: {} {}",
            word(n),
            bits(fds[0].revents.into()),
            bits(fds[1].revents.into())
        )
    };
    ctx.log(format!("at first: {}", poll(0)));
    let other = soon(move || _ = sys::write(writer, b"x"));
    ctx.log(format!("the pipe wakes: {}", poll(-1)));
    let _ = other.join();
    let _ = sys::read(reader, &mut [0; 10]);
    ctx.tell(format!("later 20 send {id} 5"));
    ctx.log(format!("the socket wakes: {}", poll(-1)));
}

fn timer_beside(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let ep = set(ctx);
    // SAFETY: no pointers; then a live timer value.
    let timer = unsafe {
        let timer = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC);
        let mut value: libc::itimerspec = std::mem::zeroed();
        value.it_value.tv_nsec = 20_000_000;
        libc::timerfd_settime(timer, 0, &value, std::ptr::null_mut());
        ctx.own(timer)
    };
    ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1).expect("ADD");
    ctl(ep, EPOLL_CTL_ADD, timer, EPOLLIN, 2).expect("ADD");
    ctx.log(format!("waiting: {}", wait(ep, -1)));
    ctx.sent(fd, &id, 1);
    ctx.log(format!("both: {}", wait(ep, 0)));
}

fn event_from_thread(ctx: &Ctx) {
    let (fd, _) = ctx.pair();
    let ep = set(ctx);
    // SAFETY: no pointers.
    let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    ctx.own(event);
    ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET, 1).expect("ADD");
    ctl(ep, EPOLL_CTL_ADD, event, EPOLLIN | EPOLLET, 2).expect("ADD");
    for turn in 1..=3 {
        let other = soon(move || _ = sys::write(event, &1u64.to_ne_bytes()));
        ctx.log(format!("turn {turn}: {}", wait(ep, -1)));
        let _ = other.join();
    }
}

/// A socket with data, added by another thread, wakes a thread that already waits.
fn added_while_waiting(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let ep = set(ctx);
    ctx.sent(fd, &id, 5);
    let other = soon(move || _ = ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1));
    ctx.log(format!("waiting: {}", wait(ep, -1)));
    let _ = other.join();
}

fn changed_while_waiting(ctx: &Ctx) {
    let (fd, _) = ctx.pair();
    let ep = set(ctx);
    ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1).expect("ADD");
    let other = soon(move || _ = ctl(ep, EPOLL_CTL_MOD, fd, EPOLLOUT, 2));
    ctx.log(format!("waiting: {}", wait(ep, -1)));
    let _ = other.join();
    ctl(ep, EPOLL_CTL_DEL, fd, 0, 0).expect("DEL");
    ctx.log(format!("removed: {}", wait(ep, 20)));
}

/// Two threads wait in two sets for one socket, level-triggered: both wake.
fn two_waiters(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let sets = [set(ctx), set(ctx)];
    for ep in sets {
        ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1).expect("ADD");
    }
    let waiters = sets.map(|ep| thread::spawn(move || wait(ep, -1)));
    ctx.tell(format!("later 30 send {id} 5"));
    for waiter in waiters {
        ctx.log(format!("woken: {}", waiter.join().unwrap_or_default()));
    }
}

fn pwait(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let ep = set(ctx);
    ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1).expect("ADD");
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
    let short = libc::timespec {
        tv_sec: 0,
        tv_nsec: 200_000,
    };
    let wait2 = |events: &mut [libc::epoll_event; 4], limit: *const libc::timespec| {
        // SAFETY: room for four events; the limit is live or null; no mask.
        let n = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                ep,
                events.as_mut_ptr(),
                4,
                limit,
                0usize,
                8usize,
            )
        };
        sys::check(n as isize)
    };
    ctx.log(format!(
        "pwait2, below a millisecond: {}",
        word(wait2(&mut events, &short))
    ));
    ctx.tell(format!("later 20 send {id} 5"));
    // SAFETY: room for four events; no mask.
    let n = unsafe { libc::epoll_pwait(ep, events.as_mut_ptr(), 4, -1, std::ptr::null()) };
    ctx.log(format!(
        "pwait: {n}: {}",
        show(&events[..n.max(0) as usize])
    ));
    let n = wait2(&mut events, std::ptr::null());
    ctx.log(format!(
        "pwait2: {}: {}",
        word(n),
        show(&events[..n.unwrap_or(0)])
    ));
}

extern "C" fn nothing(_: i32) {}

/// A blocked signal that the call's mask lets in ends the wait; one that came before, too.
fn pwait_signal(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let ep = set(ctx);
    ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1).expect("ADD");
    // SAFETY: signal sets of our own, a handler that does nothing, room for one event.
    unsafe {
        let (mut blocked, mut open): (libc::sigset_t, libc::sigset_t) =
            (std::mem::zeroed(), std::mem::zeroed());
        libc::sigemptyset(&mut blocked);
        libc::sigemptyset(&mut open);
        libc::sigaddset(&mut blocked, libc::SIGUSR1);
        libc::signal(libc::SIGUSR1, nothing as *const () as libc::sighandler_t);
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, &blocked, &mut before);
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1);
        let n = sys::check(libc::epoll_pwait(ep, &mut event, 1, -1, &open) as isize);
        ctx.log(format!("a pending signal: {}", word(n)));
        let n = sys::check(libc::epoll_pwait(ep, &mut event, 1, 0, &blocked) as isize);
        ctx.log(format!("none: {}", word(n)));
        ctx.sent(fd, &id, 5);
        libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1);
        let n = sys::check(libc::epoll_wait(ep, &mut event, 1, -1) as isize);
        ctx.log(format!("blocked, and data: {}", word(n)));
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
    }
}

/// A connection that is always ready does not hide another that becomes ready.
fn busy_and_idle(ctx: &Ctx) {
    let (busy, a) = ctx.pair();
    let (idle, b) = ctx.pair();
    let ep = set(ctx);
    ctl(ep, EPOLL_CTL_ADD, busy, EPOLLIN, 1).expect("ADD");
    ctl(ep, EPOLL_CTL_ADD, idle, EPOLLIN, 2).expect("ADD");
    ctx.sent(busy, &a, 5);
    ctx.tell(format!("later 20 send {b} 5"));
    let mut turns = 0;
    while turns < sys::PATIENCE_MS && wait(ep, -1) != "1=IN 2=IN" {
        turns += 1;
        thread::sleep(Duration::from_millis(1));
    }
    ctx.log(format!("both are seen: {}", turns < sys::PATIENCE_MS));
}
