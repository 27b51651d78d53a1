//! Signals: what is done with them, and which have come.

use crate::epoll::signals;
use crate::world::{Ctx, Out, Res};
use netacc_differential::constants;
use netacc_differential::lang::Arg;
use std::cell::Cell;
use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, Ordering};

thread_local! {
    /// The signals that this thread has handled since its last answer, a bit each.
    static SEEN: Cell<u64> = const { Cell::new(0) };
}

/// The socket on which the handler `send(c)` sends.
static SENDS_ON: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note(signal: i32) {
    SEEN.set(SEEN.get() | 1 << signal);
}

extern "C" fn send(signal: i32) {
    note(signal);
    // SAFETY: one byte; errno is given back, as handlers must.
    unsafe {
        let errno = *libc::__errno_location();
        libc::send(
            SENDS_ON.load(Ordering::Relaxed),
            c"!".as_ptr().cast(),
            1,
            libc::MSG_NOSIGNAL,
        );
        *libc::__errno_location() = errno;
    }
}

fn set(signal: i32, handler: libc::sighandler_t, flags: i32) -> i32 {
    // SAFETY: zeroes are an empty mask and no flags.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: the handlers above do only what handlers may.
    unsafe { libc::sigaction(signal, &action, null_mut()) }
}

/// At the start: SIGPIPE is seen, and kills nobody.
pub fn begin() {
    set(libc::SIGPIPE, note as *const () as usize, 0);
}

/// The signals since the last answer, for the trace.
pub fn seen() -> String {
    let seen = SEEN.take();
    let names: Vec<String> = (1..64)
        .filter(|signal| seen & 1 << signal != 0)
        .map(constants::signal)
        .collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("\tseen {}", names.join(" ")),
    }
}

/// Argument `i` as a mask: the signals of a list, `null` or nothing for none.
pub fn mask(ctx: &Ctx, i: usize) -> Res<Option<libc::sigset_t>> {
    match ctx.call.args.get(i) {
        Some(Arg::List(list)) => Ok(Some(set_of(&signals(ctx, list)?))),
        _ => Ok(None),
    }
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: zeroes are a valid set; the calls take a set and numbers.
    unsafe {
        let mut set = zeroed();
        libc::sigemptyset(&mut set);
        for &signal in signals {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

/// Blocks every signal for the calling thread, or none.
pub fn block_all(block: bool) {
    // SAFETY: zeroes are a valid set.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut set);
        if block {
            libc::sigfillset(&mut set);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &set, null_mut());
    }
}

/// Makes the call if it is of this family.
pub fn call(ctx: &Ctx) -> Res<Option<Out>> {
    let out = match ctx.call.verb.as_str() {
        "signal" => signal(ctx)?,
        // `sigmask(block, {SIGUSR1})`
        "sigmask" => {
            let how = match ctx.word(0)?.as_str() {
                "block" => libc::SIG_BLOCK,
                "unblock" => libc::SIG_UNBLOCK,
                other => return Err(format!("'{other}' is neither block nor unblock")),
            };
            let set = set_of(&signals(ctx, ctx.list(1)?)?);
            // SAFETY: a set.
            Out::of(unsafe { libc::pthread_sigmask(how, &set, null_mut()) }.into())
        }
        "alarm" => {
            let us = ctx.time(0)?.unwrap_or(0) / 1_000;
            let timer = libc::itimerval {
                it_interval: libc::timeval {
                    tv_sec: 0,
                    tv_usec: 0,
                },
                it_value: libc::timeval {
                    tv_sec: us / 1_000_000,
                    tv_usec: us % 1_000_000,
                },
            };
            // SAFETY: a timer. The libc crate lacks setitimer's name for it.
            let ret = unsafe { libc::syscall(libc::SYS_setitimer, 0, &raw const timer, 0) };
            Out::of(ret)
        }
        _ => return Ok(None),
    };
    Ok(Some(out))
}

/// `signal(SIGUSR1, handler|restart|ignore|default|send(c))`
fn signal(ctx: &Ctx) -> Res<Out> {
    let number = ctx.flags(0)?;
    let noted = note as *const () as usize;
    let ret = match ctx.arg(1)? {
        Arg::Word(word) => match word.as_str() {
            "handler" => set(number, noted, 0),
            "restart" => set(number, noted, libc::SA_RESTART),
            "ignore" => set(number, libc::SIG_IGN, 0),
            "default" => set(number, libc::SIG_DFL, 0),
            other => return Err(format!("'{other}' is nothing to do with a signal")),
        },
        Arg::Call(name, args) if name == "send" => {
            let fd = ctx.fd_of(args.first().ok_or("send(SOCKET)")?)?;
            SENDS_ON.store(fd, Ordering::Relaxed);
            set(number, send as *const () as usize, libc::SA_RESTART)
        }
        other => return Err(format!("'{other}' is nothing to do with a signal")),
    };
    Ok(Out::of(ret.into()))
}
