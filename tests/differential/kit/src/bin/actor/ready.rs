//! poll, ppoll, select, pselect, and waiting until something is so.

use crate::data::timespec;
use crate::signals::mask;
use crate::sys;
use crate::world::{Ctx, Out, Res};
use libc::{fd_set, pollfd, timeval};
use netacc_differential::constants::poll_events;
use netacc_differential::lang::Arg;
use std::ptr::null;
use std::time::{Duration, Instant};

/// Makes the call if it is of this family.
pub fn call(ctx: &Ctx) -> Res<Option<Out>> {
    let out = match ctx.call.verb.as_str() {
        "poll" | "ppoll" => poll(ctx)?,
        "select" | "pselect" => select(ctx)?,
        "until" => until(ctx)?,
        _ => return Ok(None),
    };
    Ok(Some(out))
}

/// `poll({c: POLLIN, s: POLLOUT}, ms)`, `ppoll({...}, ms [, {blocked signals}])`
fn poll(ctx: &Ctx) -> Res<Out> {
    let (mut names, mut fds) = (Vec::new(), Vec::new());
    for entry in ctx.list(0)? {
        let Arg::Entry(name, events) = entry else {
            return Err(format!("'{entry}' is not SOCKET: EVENTS"));
        };
        let fd = match name.parse() {
            Ok(number) => number,
            Err(_) => ctx.named(name)?,
        };
        names.push(name);
        fds.push(pollfd {
            fd,
            events: ctx.int_of(events)? as i16,
            // To see that it is written.
            revents: -1,
        });
    }
    let n = fds.len() as u64;
    let limit = ctx.time(1)?;
    let ret = if ctx.call.verb == "poll" {
        let ms = limit.map_or(-1, |ns| (ns / 1_000_000) as i32);
        // SAFETY: n entries.
        unsafe { sys::poll(fds.as_mut_ptr(), n, ms) }
    } else {
        let (limit, mask) = (limit.map(timespec), mask(ctx, 2)?);
        let limit = limit.as_ref().map_or(null(), |limit| &raw const *limit);
        let mask = mask.as_ref().map_or(null(), |mask| &raw const *mask);
        // SAFETY: n entries; a time and a mask, or neither.
        unsafe { sys::ppoll(fds.as_mut_ptr(), n, limit, mask) }
    };
    Ok(Out::of(ret.into()).with_if_ok(|| {
        let ready = names.iter().zip(&fds).filter(|(_, fd)| fd.revents != 0);
        let words: Vec<String> = ready
            .map(|(name, fd)| format!("{name}: {}", poll_events(fd.revents)))
            .collect();
        format!("{{{}}}", words.join(", "))
    }))
}

/// `select({r}, {w}, {e}, ms)`, `pselect({r}, {w}, {e}, ms [, {blocked signals}])`
fn select(ctx: &Ctx) -> Res<Out> {
    let mut sets = Vec::new();
    let mut lists = Vec::new();
    let mut highest = -1;
    for i in 0..3 {
        // SAFETY: plain old data, for which zeroes are the empty set.
        let mut set: fd_set = unsafe { std::mem::zeroed() };
        let mut list = Vec::new();
        for arg in ctx.list(i)? {
            let fd = ctx.fd_of(arg)?;
            if !(0..libc::FD_SETSIZE as i32).contains(&fd) {
                return Err(format!("'{arg}' does not fit a set of descriptors"));
            }
            // SAFETY: within the set.
            unsafe { libc::FD_SET(fd, &mut set) };
            highest = highest.max(fd);
            list.push((arg.to_string(), fd));
        }
        sets.push(set);
        lists.push(list);
    }
    let at = |i: usize, sets: &mut [fd_set]| match lists[i].is_empty() {
        true => std::ptr::null_mut(),
        false => &raw mut sets[i],
    };
    let (r, w, e) = (at(0, &mut sets), at(1, &mut sets), at(2, &mut sets));
    let limit = ctx.time(3)?;
    let ret = if ctx.call.verb == "select" {
        let mut limit = limit.map(|ns| timeval {
            tv_sec: ns / 1_000_000_000,
            tv_usec: ns / 1_000 % 1_000_000,
        });
        let limit = limit.as_mut().map_or(std::ptr::null_mut(), |t| &raw mut *t);
        // SAFETY: sets that hold numbers up to the highest; a time or none.
        unsafe { sys::select(highest + 1, r, w, e, limit) }
    } else {
        let (limit, mask) = (limit.map(timespec), mask(ctx, 4)?);
        let limit = limit.as_ref().map_or(null(), |limit| &raw const *limit);
        let mask = mask.as_ref().map_or(null(), |mask| &raw const *mask);
        // SAFETY: as above, and a mask or none.
        unsafe { sys::pselect(highest + 1, r, w, e, limit, mask) }
    };
    Ok(Out::of(ret.into()).with_if_ok(|| {
        let shown = |i: usize| {
            // SAFETY: within the set.
            let is_set = |fd: i32| unsafe { libc::FD_ISSET(fd, &sets[i]) };
            let ready = lists[i].iter().filter(|(_, fd)| is_set(*fd));
            let names: Vec<&str> = ready.map(|(name, _)| name.as_str()).collect();
            format!("{{{}}}", names.join(", "))
        };
        format!("r{} w{} e{}", shown(0), shown(1), shown(2))
    }))
}

/// `until EVENTS s`: all of these show. `until bytes(N) s`: so many can be read.
fn until(ctx: &Ctx) -> Res<Out> {
    let fd = ctx.fd(0)?;
    let limit = ctx.time(2)?.unwrap_or(0);
    let deadline = Instant::now() + Duration::from_nanos(limit as u64);
    let wanted = ctx.arg(1)?;
    loop {
        let now = match wanted {
            Arg::Call(name, args) if name == "bytes" => {
                let mut there = 0i32;
                // SAFETY: writes one int.
                let ret = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut there) };
                let enough = ctx.int_of(args.first().ok_or("bytes(N)")?)?;
                if ret == 0 && i64::from(there) >= enough {
                    return Ok(Out::words("so"));
                }
                format!("{there} bytes")
            }
            events => {
                let events = ctx.int_of(events)? as i16;
                let mut one = pollfd {
                    fd,
                    events,
                    revents: 0,
                };
                // SAFETY: one entry.
                unsafe { sys::poll(&mut one, 1, 10) };
                if one.revents & events == events {
                    return Ok(Out::words("so"));
                }
                poll_events(one.revents)
            }
        };
        if Instant::now() > deadline {
            return Ok(Out::words(format!("never: {now}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
