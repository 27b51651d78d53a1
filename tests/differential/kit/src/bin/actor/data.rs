//! Bytes over sockets: the calls with one buffer, and all that a socket takes.

use crate::args::Raw;
use crate::sys;
use crate::world::{Ctx, Out, Res};
use netacc_differential::lang::Arg;
use netacc_differential::pattern;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

/// For what is waited for; the runner gives up a little later.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes the call if it is of this family.
pub fn call(ctx: &Ctx) -> Res<Option<Out>> {
    let out = match ctx.call.verb.as_str() {
        "send" | "write" | "sendto" => send(ctx)?,
        "recv" | "read" | "recvfrom" => recv(ctx)?,
        "fill" => fill(ctx)?,
        "drain" => drain(ctx)?,
        _ => return Ok(None),
    };
    Ok(Some(out))
}

/// Counts what went out of the socket's pattern.
pub fn sent(ctx: &Ctx, patterned: bool, out: Out) -> Res<Out> {
    if patterned && out.ret > 0 {
        ctx.add_sent(&ctx.word(0)?, out.ret as u64);
    }
    Ok(out)
}

fn send(ctx: &Ctx) -> Res<Out> {
    let fd = ctx.fd(0)?;
    let data = ctx.data_of(ctx.arg(1)?, &ctx.word(0)?, 0)?;
    let (at, n) = (data.bytes.as_ptr().cast(), data.bytes.len());
    let ret = match ctx.call.verb.as_str() {
        // SAFETY: n bytes are there.
        "write" => unsafe { sys::write(fd, at, n) },
        // SAFETY: as above.
        "send" => unsafe { sys::send(fd, at, n, ctx.flags(2)?) },
        _ => {
            let flags = ctx.flags(2)?;
            match ctx.call.args.get(3) {
                Some(_) => {
                    let to = ctx.address(3, fd)?;
                    // SAFETY: n bytes are there, and an address of that length.
                    unsafe { sys::sendto(fd, at, n, flags, to.as_ptr(), to.len) }
                }
                // SAFETY: n bytes are there.
                None => unsafe { sys::sendto(fd, at, n, flags, null(), 0) },
            }
        }
    };
    sent(ctx, data.patterned, Out::of(ret as i64))
}

fn recv(ctx: &Ctx) -> Res<Out> {
    let fd = ctx.fd(0)?;
    let n = ctx.int(1)? as usize;
    let mut buf = vec![0u8; n];
    let at = buf.as_mut_ptr().cast();
    let mut from = Raw::room();
    let wanted = matches!(ctx.call.args.get(3), Some(Arg::Word(word)) if word == "addr");
    let ret = match ctx.call.verb.as_str() {
        // SAFETY: room for n bytes.
        "read" => unsafe { sys::read(fd, at, n) },
        // SAFETY: as above.
        "recv" => unsafe { sys::recv(fd, at, n, ctx.flags(2)?) },
        _ => {
            let (addr, len) = if wanted {
                (from.as_mut_ptr(), &raw mut from.len)
            } else {
                (null_mut(), null_mut())
            };
            // SAFETY: room for n bytes; room for an address and its length, or neither.
            unsafe { sys::recvfrom(fd, at, n, ctx.flags(2)?, addr, len) }
        }
    };
    let out = Out::of(ret as i64);
    Ok(out.with_if_ok(|| {
        // MSG_TRUNC returns more than fits.
        let mut text = pattern::show(&buf[..n.min(ret as usize)]);
        if wanted {
            text.push_str(&format!(" from {}", from.show()));
        }
        text
    }))
}

/// Nanoseconds as C has them.
pub fn timespec(ns: i64) -> libc::timespec {
    libc::timespec {
        tv_sec: ns.div_euclid(1_000_000_000),
        tv_nsec: ns.rem_euclid(1_000_000_000),
    }
}

/// `fill(c)`, with the time for which nothing more must go: what is on its way may make room. How much goes differs,
/// so it is no part of the pattern of the socket's other sends.
fn fill(ctx: &Ctx) -> Res<Out> {
    let (fd, name) = (ctx.fd(0)?, ctx.word(0)?);
    let own = format!("{name}/fill");
    let quiet = Duration::from_nanos(ctx.time(1)?.unwrap_or(20_000_000) as u64);
    let (mut total, mut refused) = (0, 0);
    while refused < 4 {
        let data = pattern::bytes(ctx.sent(&own), 16_384);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: that many bytes are there.
        let ret = unsafe { sys::send(fd, data.as_ptr().cast(), data.len(), flags) };
        let out = Out::of(ret as i64);
        if ret >= 0 {
            ctx.add_sent(&own, ret as u64);
            total += ret;
            refused = 0;
        } else if std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN) {
            refused += 1;
            std::thread::sleep(quiet / 4);
        } else {
            return Ok(out);
        }
    }
    let mut out = Out::words("filled");
    out.side.push(format!("filled {name} {total}"));
    Ok(out)
}

/// `drain(s)`: reads until there is nothing, or the end. `drain(s, N)`: until N bytes were read, or the end.
fn drain(ctx: &Ctx) -> Res<Out> {
    let fd = ctx.fd(0)?;
    let wanted = ctx.int_or(1, -1)?;
    let deadline = Instant::now() + PATIENCE;
    let (mut total, mut breaks, mut last) = (0i64, 0, None);
    let mut buf = vec![0u8; 65_536];
    let ending = loop {
        if total == wanted {
            break "all".to_string();
        }
        let room = if wanted < 0 {
            buf.len()
        } else {
            buf.len().min((wanted - total) as usize)
        };
        // SAFETY: room for that many bytes.
        let ret = unsafe { sys::recv(fd, buf.as_mut_ptr().cast(), room, libc::MSG_DONTWAIT) };
        if ret > 0 {
            for &byte in &buf[..ret as usize] {
                breaks += u32::from(last.is_some_and(|last| !pattern::follows(last, byte)));
                last = Some(byte);
            }
            total += ret as i64;
            continue;
        }
        let out = Out::of(ret as i64).show(ctx);
        match out.as_str() {
            "0" => break "end".to_string(),
            "-1 EAGAIN" if wanted >= 0 && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            "-1 EAGAIN" => break "nothing more".to_string(),
            error => break error.to_string(),
        }
    };
    let some = if total == 0 { "nothing, " } else { "" };
    let text = match (wanted, breaks) {
        (0.., 0) if total == wanted => "drained all that was filled".to_string(),
        (0.., _) => format!("drained {total} of {wanted}, {breaks} breaks, then {ending}"),
        (_, breaks) => format!("drained: {some}{breaks} breaks, then {ending}"),
    };
    Ok(Out::words(text))
}
