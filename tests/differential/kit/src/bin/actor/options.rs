//! getsockopt, setsockopt, ioctl, fcntl.

use crate::sys;
use crate::world::{Ctx, Out, Res};
use libc::{linger, timeval};
use netacc_differential::constants;
use netacc_differential::lang::Arg;

/// Makes the call if it is of this family.
pub fn call(ctx: &Ctx) -> Res<Option<Out>> {
    let out = match ctx.call.verb.as_str() {
        "setsockopt" => set(ctx)?,
        "getsockopt" => get(ctx)?,
        "ioctl" => ioctl(ctx)?,
        "fcntl" => fcntl(ctx)?,
        _ => return Ok(None),
    };
    Ok(Some(out))
}

/// How the value of an option is laid out.
enum Kind {
    Int,
    Time,
    Linger,
    Bytes,
    Error,
    TcpInfo,
}

fn kind(ctx: &Ctx) -> Res<Kind> {
    let (level, name) = (ctx.flags(1)?, ctx.flags(2)?);
    Ok(match (level, name) {
        (libc::SOL_SOCKET, libc::SO_LINGER) => Kind::Linger,
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) => Kind::Time,
        (libc::SOL_SOCKET, libc::SO_ERROR) => Kind::Error,
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE) => Kind::Bytes,
        (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER) => Kind::Bytes,
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION | libc::TCP_ULP) => Kind::Bytes,
        (libc::IPPROTO_TCP, libc::TCP_INFO) => Kind::TcpInfo,
        _ => Kind::Int,
    })
}

/// The bytes of a value.
fn raw<T>(value: &T) -> Vec<u8> {
    // SAFETY: plain numbers without padding.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }.to_vec()
}

/// `setsockopt(c, LEVEL, NAME, value [, length])`; times in milliseconds, a linger as `{on, seconds}`.
fn set(ctx: &Ctx) -> Res<Out> {
    let fd = ctx.fd(0)?;
    let mut value = match (kind(ctx)?, ctx.arg(3)?) {
        (_, Arg::Text(text)) => text.clone(),
        // A filter that lets everything pass.
        (_, Arg::Word(word)) if word == "accept_all" => return attach(ctx, fd),
        (Kind::Linger, Arg::List(parts)) => {
            let part = |i: usize| ctx.int_of(parts.get(i).unwrap_or(&Arg::Int(0)));
            raw(&linger {
                l_onoff: part(0)? as i32,
                l_linger: part(1)? as i32,
            })
        }
        (Kind::Time, _) => {
            let us = ctx.time(3)?.unwrap_or(0) / 1_000;
            raw(&timeval {
                tv_sec: us.div_euclid(1_000_000),
                tv_usec: us.rem_euclid(1_000_000),
            })
        }
        (_, arg) => raw(&(ctx.int_of(arg)? as i32)),
    };
    let length = ctx.int_or(4, value.len() as i64)?;
    value.resize(value.len().max(length.max(0) as usize), 0);
    let (level, name) = (ctx.flags(1)?, ctx.flags(2)?);
    // SAFETY: at least that many bytes are there; a length below zero is refused.
    let ret = unsafe { sys::setsockopt(fd, level, name, value.as_ptr().cast(), length as u32) };
    Ok(Out::of(ret.into()))
}

fn attach(ctx: &Ctx, fd: i32) -> Res<Out> {
    let mut code = libc::sock_filter {
        // BPF_RET of the constant k: all of the packet.
        code: 0x06,
        jt: 0,
        jf: 0,
        k: u32::MAX,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut code,
    };
    let (level, name) = (ctx.flags(1)?, ctx.flags(2)?);
    let length = size_of::<libc::sock_fprog>() as u32;
    // SAFETY: a program of one instruction.
    let ret = unsafe { sys::setsockopt(fd, level, name, (&raw const program).cast(), length) };
    Ok(Out::of(ret.into()))
}

/// `getsockopt(c, LEVEL, NAME [, length])`
fn get(ctx: &Ctx) -> Res<Out> {
    let fd = ctx.fd(0)?;
    let kind = kind(ctx)?;
    let usual = match kind {
        Kind::Int | Kind::Error => 4,
        Kind::Linger => 8,
        Kind::Time => 16,
        Kind::Bytes => 64,
        Kind::TcpInfo => size_of::<libc::tcp_info>(),
    };
    let room = ctx.int_or(3, usual as i64)?;
    let mut value = vec![0u8; room.max(256) as usize];
    let mut length = room as u32;
    let (level, name) = (ctx.flags(1)?, ctx.flags(2)?);
    // SAFETY: room for as many bytes as it says, or more.
    let ret = unsafe { sys::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &mut length) };
    let mut out = Out::of(ret.into());
    if ret < 0 {
        return Ok(out);
    }
    let number = |at: usize| {
        let bytes: [u8; 4] = std::array::from_fn(|i| value[at + i]);
        i32::from_ne_bytes(bytes)
    };
    out.value = Some(number(0).into());
    let shown = match kind {
        Kind::Error if number(0) == 0 => "no error".to_string(),
        Kind::Error => constants::errno(number(0)),
        Kind::Linger => format!("{{{}, {}}}", number(0), number(4)),
        Kind::Time => {
            let long = |at| i64::from(number(at)) + (i64::from(number(at + 4)) << 32);
            format!("{} us", long(0) * 1_000_000 + long(8))
        }
        // The state of the connection; the rest are measurements.
        Kind::TcpInfo => format!("state {}", value[0]),
        Kind::Bytes => {
            let text = &value[..length as usize];
            let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
            netacc_differential::pattern::show(&text[..end])
        }
        Kind::Int if length == 4 => number(0).to_string(),
        Kind::Int => format!("{:?}", &value[..length as usize]),
    };
    let shown = match kind {
        _ if length as usize == usual => shown,
        Kind::Bytes => shown,
        _ => format!("{shown} of length {length}"),
    };
    Ok(out.with(shown))
}

/// `ioctl(c, FIONREAD)` shows the number; `ioctl(c, FIONBIO, 1)`.
fn ioctl(ctx: &Ctx) -> Res<Out> {
    let (fd, request) = (ctx.fd(0)?, ctx.int(1)?);
    let given = ctx.int_or(2, 0)?;
    let mut value = given as i32;
    // SAFETY: each of these requests reads or writes one int.
    let ret = unsafe { libc::ioctl(fd, request as libc::c_ulong, &raw mut value) };
    let mut out = Out::of(ret.into());
    if ctx.call.args.len() > 2 || ret < 0 {
        return Ok(out);
    }
    out.value = Some(value.into());
    Ok(out.with(value.to_string()))
}

/// `fcntl(c, F_GETFL)`, `fcntl(c, F_SETFL, O_NONBLOCK)`, ...
fn fcntl(ctx: &Ctx) -> Res<Out> {
    let (fd, command) = (ctx.fd(0)?, ctx.flags(1)?);
    let arg = ctx.int_or(2, 0)?;
    // SAFETY: these commands take a number.
    let ret = unsafe { libc::fcntl(fd, command, arg) };
    Ok(Out::of(ret.into()))
}
