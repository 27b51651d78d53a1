//! epoll.

use crate::data::timespec;
use crate::signals::mask;
use crate::sys;
use crate::world::{Ctx, Out, Res};
use libc::epoll_event;
use netacc_differential::constants::epoll_events;
use netacc_differential::lang::Arg;
use std::ptr::null;

/// Makes the call if it is of this family.
pub fn call(ctx: &Ctx) -> Res<Option<Out>> {
    let out = match ctx.call.verb.as_str() {
        // SAFETY: takes a number.
        "epoll_create" => Out::of(unsafe { libc::epoll_create(ctx.flags(0)?) }.into()),
        // SAFETY: as above.
        "epoll_create1" => Out::of(unsafe { sys::epoll_create1(ctx.flags(0)?) }.into()),
        "epoll_ctl" => ctl(ctx)?,
        "epoll_wait" | "epoll_pwait" | "epoll_pwait2" => wait(ctx)?,
        _ => return Ok(None),
    };
    Ok(Some(out))
}

/// `epoll_ctl(e, ADD, c, EPOLLIN|EPOLLET [, name])`: events of it are shown under the name, its own if none.
fn ctl(ctx: &Ctx) -> Res<Out> {
    let (set, op, fd) = (ctx.fd(0)?, ctx.flags(1)?, ctx.fd(2)?);
    let name = match ctx.call.args.get(4) {
        Some(name) => name.to_string(),
        None => ctx.word(2)?,
    };
    let mut event = epoll_event {
        events: ctx.int_or(3, 0)? as u32,
        u64: ctx.tag(&name),
    };
    let at = match ctx.call.args.get(3) {
        Some(_) => &raw mut event,
        None => std::ptr::null_mut(),
    };
    // SAFETY: one event, or none.
    Ok(Out::of(unsafe { sys::epoll_ctl(set, op, fd, at) }.into()))
}

/// `epoll_wait(e, max, ms)`, `epoll_pwait(e, max, ms, {blocked signals})`: events in the order of their names.
fn wait(ctx: &Ctx) -> Res<Out> {
    let (set, max) = (ctx.fd(0)?, ctx.flags(1)?);
    let mut events = vec![epoll_event { events: 0, u64: 0 }; max.max(1) as usize];
    let (limit, at) = (ctx.time(2)?, events.as_mut_ptr());
    let mask = mask(ctx, 3)?;
    let mask = mask.as_ref().map_or(null(), |mask| &raw const *mask);
    let ms = limit.map_or(-1, |ns| (ns / 1_000_000) as i32);
    let ret = match ctx.call.verb.as_str() {
        // SAFETY: room for that many events.
        "epoll_wait" => unsafe { sys::epoll_wait(set, at, max, ms) },
        // SAFETY: and a mask or none.
        "epoll_pwait" => unsafe { sys::epoll_pwait(set, at, max, ms, mask) },
        _ => {
            let limit = limit.map(timespec);
            let limit = limit.as_ref().map_or(null(), |limit| &raw const *limit);
            // SAFETY: and a time or none.
            unsafe { sys::epoll_pwait2(set, at, max, limit, mask) }
        }
    };
    Ok(Out::of(ret.into()).with_if_ok(|| {
        let seen = events.iter().take(ret as usize);
        let mut words: Vec<String> = seen
            .map(|event| format!("{}: {}", ctx.tagged(event.u64), epoll_events(event.events)))
            .collect();
        words.sort();
        format!("{{{}}}", words.join(", "))
    }))
}

/// The signals of a list.
pub fn signals(ctx: &Ctx, list: &[Arg]) -> Res<Vec<i32>> {
    list.iter()
        .map(|arg| ctx.int_of(arg).map(|n| n as i32))
        .collect()
}
