//! poll, ppoll, select, pselect.

use super::{Ctx, Scenario, bits};
use crate::sys::{self, word};
use libc::{POLLIN, POLLOUT, POLLRDHUP, c_int, pollfd, timespec, timeval};

pub const ALL: &[Scenario] = &[
    ("poll", poll),
    ("poll-many", poll_many),
    ("poll-ends", poll_ends),
    ("ppoll", ppoll),
    ("select", select),
    ("select-blocks", select_blocks),
    ("select-errors", select_errors),
];

fn show(ctx: &Ctx, name: &str, fd: i32, events: i16, ms: c_int) {
    let r = sys::poll(fd, events, ms).map_or_else(|e| e.to_string(), |b| bits(b.into()));
    ctx.log(format!("{name}: {r}"));
}

fn poll(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    show(ctx, "at first", fd, POLLIN | POLLOUT | POLLRDHUP, 0);
    show(ctx, "reading only", fd, POLLIN, 0);
    show(ctx, "reading, for a while", fd, POLLIN, 20);
    ctx.sent(fd, &id, 5);
    show(ctx, "with data", fd, POLLIN | POLLOUT, -1);
    show(ctx, "only by its other name", fd, libc::POLLRDNORM, 0);
    show(ctx, "no interest", fd, 0, 0);
    let _ = sys::recv(fd, &mut [0; 10], 0);
    ctx.tell(format!("later 20 send {id} 5"));
    show(ctx, "waiting", fd, POLLIN, -1);
}

fn poll_many(ctx: &Ctx) {
    let (a, ida) = ctx.pair();
    let (b, _) = ctx.pair();
    let closed = sys::fcntl(0, libc::F_DUPFD, 700).expect("F_DUPFD");
    sys::close(closed).expect("close");
    let mut fds = [a, b, -1, closed, ctx.listener()].map(|fd| pollfd {
        fd,
        events: POLLIN,
        revents: 77,
    });
    for turn in ["at first", "with data"] {
        // SAFETY: five live entries.
        let n = sys::check(unsafe { libc::poll(fds.as_mut_ptr(), 5, 0) } as isize);
        let words: Vec<String> = fds.iter().map(|p| bits(p.revents.into())).collect();
        ctx.log(format!("{turn}: {}: {words:?}", word(n)));
        ctx.sent(a, &ida, 5);
        if turn == "with data" {
            break;
        }
    }
    // SAFETY: none is read.
    let n = sys::check(unsafe { libc::poll(std::ptr::null_mut(), 0, 5) } as isize);
    ctx.log(format!("of none: {}", word(n)));
}

fn poll_ends(ctx: &Ctx) {
    let all = POLLIN | POLLOUT | POLLRDHUP;
    let (fd, id) = ctx.pair();
    ctx.tell(format!("shutdown {id} 1"));
    show(ctx, "half closed", fd, POLLRDHUP, sys::PATIENCE_MS);
    show(ctx, "half closed", fd, all, 0);
    sys::shutdown(fd, libc::SHUT_WR).expect("shutdown");
    show(ctx, "both halves", fd, 0, sys::PATIENCE_MS);
    show(ctx, "both halves", fd, all, 0);
    let (fd, id) = ctx.pair();
    ctx.tell(format!("reset {id}"));
    show(ctx, "reset", fd, 0, sys::PATIENCE_MS);
    show(ctx, "reset", fd, all, 0);
    let (fd, _) = ctx.pair();
    sys::shutdown(fd, libc::SHUT_WR).expect("shutdown");
    show(ctx, "our half only", fd, all, 0);
}

fn ppoll(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let mut entry = pollfd {
        fd,
        events: POLLIN,
        revents: 0,
    };
    let short = timespec {
        tv_sec: 0,
        tv_nsec: 300_000,
    };
    // SAFETY: live structures; a null mask leaves signals alone.
    let r = sys::check(unsafe { libc::ppoll(&mut entry, 1, &short, std::ptr::null()) } as isize);
    ctx.log(format!(
        "below a millisecond: {}, the limit is left alone: {}",
        word(r),
        short.tv_nsec == 300_000
    ));
    ctx.tell(format!("later 20 send {id} 5"));
    // SAFETY: a null limit waits for ever.
    let r = sys::check(
        unsafe { libc::ppoll(&mut entry, 1, std::ptr::null(), std::ptr::null()) } as isize,
    );
    ctx.log(format!(
        "waiting: {}: {}",
        word(r),
        bits(entry.revents.into())
    ));
    let bad = timespec {
        tv_sec: 0,
        tv_nsec: 2_000_000_000,
    };
    // SAFETY: as above.
    let r = sys::check(unsafe { libc::ppoll(&mut entry, 1, &bad, std::ptr::null()) } as isize);
    ctx.log(format!("a wrong limit: {}", word(r)));
}

/// select on one descriptor: "result r w e".
fn select_one(fd: i32, limit_ms: i64, pselect: bool) -> String {
    // SAFETY: all zeroes is an empty set; the descriptor is below FD_SETSIZE; all pointers are live.
    unsafe {
        let mut sets: [libc::fd_set; 3] = std::mem::zeroed();
        for set in &mut sets {
            libc::FD_SET(fd, set);
        }
        let [r, w, e] = &mut sets;
        let n = if pselect {
            let limit = timespec {
                tv_sec: limit_ms / 1000,
                tv_nsec: limit_ms % 1000 * 1_000_000,
            };
            libc::pselect(fd + 1, r, w, e, &limit, std::ptr::null())
        } else {
            let mut limit = timeval {
                tv_sec: limit_ms / 1000,
                tv_usec: limit_ms % 1000 * 1000,
            };
            libc::select(fd + 1, r, w, e, &mut limit)
        };
        let n = sys::check(n as isize);
        let [r, w, e] = sets.map(|set| libc::FD_ISSET(fd, &set));
        format!("{}, readable {r}, writable {w}, exceptional {e}", word(n))
    }
}

fn select(ctx: &Ctx) {
    for pselect in [false, true] {
        let (fd, id) = ctx.pair();
        ctx.log(format!("at first: {}", select_one(fd, 0, pselect)));
        ctx.sent(fd, &id, 5);
        ctx.log(format!("with data: {}", select_one(fd, 1000, pselect)));
        let _ = sys::recv(fd, &mut [0; 10], 0);
        ctx.tell(format!("close {id}"));
        ctx.readable(fd);
        ctx.log(format!("closed: {}", select_one(fd, 1000, pselect)));
        let (fd, id) = ctx.pair();
        ctx.tell(format!("reset {id}"));
        ctx.readable(fd);
        ctx.log(format!("reset: {}", select_one(fd, 1000, pselect)));
    }
}

fn select_blocks(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let none = std::ptr::null_mut;
    // SAFETY: as in `select_one`.
    let run = |limit: *mut timeval| unsafe {
        let mut set: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(fd, &mut set);
        let n = sys::check(libc::select(fd + 1, &mut set, none(), none(), limit) as isize);
        format!("{}, readable {}", word(n), libc::FD_ISSET(fd, &set))
    };
    let mut limit = timeval {
        tv_sec: 0,
        tv_usec: 20_000,
    };
    ctx.log(format!("for a while: {}", run(&mut limit)));
    ctx.log(format!("time left: {} {}", limit.tv_sec, limit.tv_usec));
    ctx.tell(format!("later 20 send {id} 5"));
    ctx.log(format!("without limit: {}", run(std::ptr::null_mut())));
    let mut limit = timeval {
        tv_sec: 10_000,
        tv_usec: 0,
    };
    let got = run(&mut limit);
    ctx.log(format!(
        "at once: {got}, most of the time left: {}",
        limit.tv_sec >= 5_000
    ));
}

fn select_errors(ctx: &Ctx) {
    let closed = sys::fcntl(0, libc::F_DUPFD, 700).expect("F_DUPFD");
    sys::close(closed).expect("close");
    ctx.log(format!(
        "a closed descriptor: {}",
        &select_one(closed, 0, false)[..5]
    ));
    let none = std::ptr::null_mut;
    let mut limit = timeval {
        tv_sec: 0,
        tv_usec: 1000,
    };
    // SAFETY: null sets are allowed.
    let r = sys::check(unsafe { libc::select(0, none(), none(), none(), &mut limit) } as isize);
    ctx.log(format!("of none: {}", word(r)));
    let mut limit = timeval {
        tv_sec: -1,
        tv_usec: 0,
    };
    // SAFETY: as above.
    let r = sys::check(unsafe { libc::select(0, none(), none(), none(), &mut limit) } as isize);
    ctx.log(format!("a wrong limit: {}", word(r)));
    // SAFETY: as above.
    let r = sys::check(unsafe { libc::select(-1, none(), none(), none(), &mut limit) } as isize);
    ctx.log(format!("a wrong count: {}", word(r)));
}
