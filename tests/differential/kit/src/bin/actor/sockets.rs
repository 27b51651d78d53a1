//! Sockets come and go: socket, bind, listen, accept, connect, names, shutdown, close.

use crate::args::Raw;
use crate::sys;
use crate::world::{Ctx, Out, Res};
use netacc_differential::lang::Arg;

/// Makes the call if it is of this family.
pub fn call(ctx: &Ctx) -> Res<Option<Out>> {
    let out = match ctx.call.verb.as_str() {
        "socket" => {
            let (domain, kind) = (ctx.flags(0)?, ctx.flags(1)?);
            let protocol = ctx.flags(2)?;
            // SAFETY: takes numbers.
            Out::of(unsafe { sys::socket(domain, kind, protocol) }.into())
        }
        "bind" => {
            let fd = ctx.fd(0)?;
            let at = ctx.address(1, fd)?;
            let len = ctx.int_or(2, at.len.into())? as u32;
            // SAFETY: the storage is larger than any length of an address.
            let ret = unsafe { sys::bind(fd, at.as_ptr(), len) };
            told(ctx, fd, Out::of(ret.into()))
        }
        "listen" => {
            let fd = ctx.fd(0)?;
            // SAFETY: takes numbers.
            let ret = unsafe { sys::listen(fd, ctx.int(1)? as i32) };
            told(ctx, fd, Out::of(ret.into()))
        }
        "connect" => {
            let fd = ctx.fd(0)?;
            let to = ctx.address(1, fd)?;
            let len = ctx.int_or(2, to.len.into())? as u32;
            // SAFETY: the storage is larger than any length of an address.
            let ret = unsafe { sys::connect(fd, to.as_ptr(), len) };
            Out::of(ret.into())
        }
        "accept" | "accept4" => accept(ctx)?,
        "getsockname" | "getpeername" => name(ctx)?,
        "shutdown" => {
            // SAFETY: takes numbers.
            Out::of(unsafe { sys::shutdown(ctx.fd(0)?, ctx.flags(1)?) }.into())
        }
        // SAFETY: the scenario's descriptors are nobody else's.
        "close" => Out::of(unsafe { sys::close(ctx.fd(0)?) }.into()),
        _ => return Ok(None),
    };
    Ok(Some(out))
}

/// Tells the runner at which port the socket is now. Asks the kernel, not what is under test.
fn told(ctx: &Ctx, fd: i32, mut out: Out) -> Out {
    if out.ret == 0
        && let Ok(name) = ctx.word(0)
    {
        // SAFETY: only for the time of these calls.
        let socket = unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) };
        let at = rustix::net::getsockname(socket);
        if let Ok(at) = at.and_then(std::net::SocketAddr::try_from) {
            let family = if at.is_ipv4() { 4 } else { 6 };
            out.side.push(format!("at {name} {} {family}", at.port()));
        }
    }
    out
}

/// `accept(l [, addr])`, `accept4(l [, addr], flags)`.
fn accept(ctx: &Ctx) -> Res<Out> {
    let fd = ctx.fd(0)?;
    let wanted = matches!(ctx.call.args.get(1), Some(Arg::Word(word)) if word == "addr");
    let mut from = Raw::room();
    let (addr, len) = if wanted {
        (from.as_mut_ptr(), &raw mut from.len)
    } else {
        (std::ptr::null_mut(), std::ptr::null_mut())
    };
    let ret = match ctx.call.verb.as_str() {
        // SAFETY: room for any address, and its length, or neither.
        "accept" => unsafe { sys::accept(fd, addr, len) },
        _ => {
            let flags = ctx.flags(if wanted { 2 } else { 1 })?;
            // SAFETY: as above.
            unsafe { sys::accept4(fd, addr, len, flags) }
        }
    };
    let out = Out::of(ret.into());
    Ok(if wanted {
        out.with_if_ok(|| from.show())
    } else {
        out
    })
}

/// `getsockname(c [, length])`
fn name(ctx: &Ctx) -> Res<Out> {
    let fd = ctx.fd(0)?;
    let mut at = Raw::room();
    at.len = ctx.int_or(1, at.len.into())? as u32;
    let (addr, len) = (at.as_mut_ptr(), &raw mut at.len);
    let ret = match ctx.call.verb.as_str() {
        // SAFETY: room for any address, and its length.
        "getsockname" => unsafe { sys::getsockname(fd, addr, len) },
        // SAFETY: as above.
        _ => unsafe { sys::getpeername(fd, addr, len) },
    };
    Ok(Out::of(ret.into()).with_if_ok(|| at.show()))
}
