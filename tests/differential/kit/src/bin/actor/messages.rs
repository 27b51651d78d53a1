//! Bytes over sockets: the calls with vectors and messages.

use crate::args::{Data, Raw};
use crate::data::{sent, timespec};
use crate::sys;
use crate::world::{Ctx, Out, Res};
use netacc_differential::constants::msg_flags;
use netacc_differential::lang::Arg;
use netacc_differential::pattern;
use std::ptr::null_mut;

/// Makes the call if it is of this family.
pub fn call(ctx: &Ctx) -> Res<Option<Out>> {
    let out = match ctx.call.verb.as_str() {
        "writev" | "sendmsg" => sendmsg(ctx)?,
        "readv" | "recvmsg" => recvmsg(ctx)?,
        "sendmmsg" => sendmmsg(ctx)?,
        "recvmmsg" => recvmmsg(ctx)?,
        _ => return Ok(None),
    };
    Ok(Some(out))
}

/// The parts of a vector, and whether all are the socket's pattern.
fn parts(ctx: &Ctx, list: &[Arg], before: &mut u64) -> Res<(Vec<Vec<u8>>, bool)> {
    let (mut all, mut patterned) = (Vec::new(), !list.is_empty());
    for arg in &ctx.items(list)? {
        let Data {
            bytes,
            patterned: one,
        } = ctx.data_of(arg, &ctx.word(0)?, *before)?;
        *before += if one { bytes.len() as u64 } else { 0 };
        patterned &= one;
        all.push(bytes);
    }
    Ok((all, patterned))
}

fn vectors(buffers: &mut [Vec<u8>]) -> Vec<libc::iovec> {
    let vector = |buffer: &mut Vec<u8>| libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    buffers.iter_mut().map(vector).collect()
}

fn message(vectors: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: plain old data, for which zeroes are valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len();
    message
}

/// `writev(c, {data, ...})`, `sendmsg(c, {data, ...}, flags)`.
fn sendmsg(ctx: &Ctx) -> Res<Out> {
    let fd = ctx.fd(0)?;
    let (mut buffers, patterned) = parts(ctx, ctx.list(1)?, &mut 0)?;
    let mut iov = vectors(&mut buffers);
    let ret = if ctx.call.verb == "writev" {
        // SAFETY: the vectors name buffers that live on.
        unsafe { sys::writev(fd, iov.as_ptr(), iov.len() as i32) }
    } else {
        let message = message(&mut iov);
        // SAFETY: as above.
        unsafe { sys::sendmsg(fd, &message, ctx.flags(2)?) }
    };
    sent(ctx, patterned, Out::of(ret as i64))
}

/// Empty buffers of the sizes in a list.
fn rooms(ctx: &Ctx, list: &[Arg]) -> Res<Vec<Vec<u8>>> {
    let room = |arg| ctx.int_of(arg).map(|n| vec![0; n as usize]);
    ctx.items(list)?.iter().map(room).collect()
}

/// The first `n` bytes of buffers that were filled one after the other.
fn joined(buffers: &[Vec<u8>], n: usize) -> String {
    let mut all = buffers.concat();
    all.truncate(n);
    pattern::show(&all)
}

/// `readv(s, {sizes})`, `recvmsg(s, {sizes}, flags [, control bytes])`: shows `msg_flags` and control messages.
fn recvmsg(ctx: &Ctx) -> Res<Out> {
    let fd = ctx.fd(0)?;
    let mut buffers = rooms(ctx, ctx.list(1)?)?;
    let mut iov = vectors(&mut buffers);
    if ctx.call.verb == "readv" {
        // SAFETY: the vectors name buffers that live on.
        let ret = unsafe { sys::readv(fd, iov.as_ptr(), iov.len() as i32) };
        let out = Out::of(ret as i64);
        return Ok(out.with_if_ok(|| joined(&buffers, ret as usize)));
    }
    let mut message = message(&mut iov);
    let mut from = Raw::room();
    message.msg_name = from.as_mut_ptr().cast();
    message.msg_namelen = from.len;
    let mut control = vec![0u64; (ctx.int_or(3, 0)? as usize).div_ceil(8)];
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = ctx.int_or(3, 0)? as usize;
    // SAFETY: as above; room for a name and for control messages as told.
    let ret = unsafe { sys::recvmsg(fd, &mut message, ctx.flags(2)?) };
    let out = Out::of(ret as i64);
    Ok(out.with_if_ok(|| {
        let mut text = joined(&buffers, ret as usize);
        text.push_str(&format!(" flags {}", msg_flags(message.msg_flags)));
        from.len = message.msg_namelen;
        if from.len != 0 {
            text.push_str(&format!(" from {}", from.show()));
        }
        for (level, kind, value) in controls(&message) {
            text.push_str(&format!(" control {level}/{kind}={value:?}"));
        }
        text
    }))
}

/// The control messages: level, type and value as 32-bit numbers.
fn controls(message: &libc::msghdr) -> Vec<(i32, i32, Vec<i32>)> {
    let mut all = Vec::new();
    // SAFETY: the header describes its own control buffer, as the call left it.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !at.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return whole headers; the data follow it, as long as it says.
        unsafe {
            let header = at.read_unaligned();
            let head = libc::CMSG_LEN(0) as usize;
            let words = header.cmsg_len.saturating_sub(head as _) / 4;
            let data = libc::CMSG_DATA(at).cast::<i32>();
            let value = (0..words).map(|i| data.add(i).read_unaligned());
            all.push((header.cmsg_level, header.cmsg_type, value.collect()));
            at = libc::CMSG_NXTHDR(message, at);
        }
    }
    all
}

/// `sendmmsg(c, {{data, ...}, ...}, flags)`: shows each message's length.
fn sendmmsg(ctx: &Ctx) -> Res<Out> {
    let fd = ctx.fd(0)?;
    let mut before = 0;
    let (mut buffers, mut patterned) = (Vec::new(), true);
    for one in &ctx.items(ctx.list(1)?)? {
        let Arg::List(list) = one else {
            return Err(format!("'{one}' is no list of a message's parts"));
        };
        let (part, all) = parts(ctx, list, &mut before)?;
        buffers.push(part);
        patterned &= all;
    }
    let mut iov: Vec<_> = buffers.iter_mut().map(|part| vectors(part)).collect();
    let mut messages: Vec<_> = iov
        .iter_mut()
        .map(|iov| libc::mmsghdr {
            msg_hdr: message(iov),
            msg_len: 0,
        })
        .collect();
    let n = messages.len() as u32;
    // SAFETY: the messages name vectors and buffers that live on.
    let ret = unsafe { sys::sendmmsg(fd, messages.as_mut_ptr(), n, ctx.flags(2)?) };
    let out = Out::of(ret.into());
    let lengths: Vec<u32> = messages
        .iter()
        .take(ret.max(0) as usize)
        .map(|m| m.msg_len)
        .collect();
    if patterned {
        ctx.add_sent(&ctx.word(0)?, lengths.iter().map(|&n| u64::from(n)).sum());
    }
    Ok(out.with_if_ok(|| format!("lengths {lengths:?}")))
}

/// `recvmmsg(s, {{sizes}, ...}, flags, timeout)`
fn recvmmsg(ctx: &Ctx) -> Res<Out> {
    let fd = ctx.fd(0)?;
    let mut buffers = Vec::new();
    for one in &ctx.items(ctx.list(1)?)? {
        let Arg::List(list) = one else {
            return Err(format!("'{one}' is no list of sizes"));
        };
        buffers.push(rooms(ctx, list)?);
    }
    let mut iov: Vec<_> = buffers.iter_mut().map(|part| vectors(part)).collect();
    let mut messages: Vec<_> = iov
        .iter_mut()
        .map(|iov| libc::mmsghdr {
            msg_hdr: message(iov),
            msg_len: 0,
        })
        .collect();
    let n = messages.len() as u32;
    let mut limit = match ctx.call.args.get(3) {
        Some(_) => ctx.time(3)?.map(timespec),
        None => None,
    };
    let limit = limit.as_mut().map_or(null_mut(), |limit| &raw mut *limit);
    // SAFETY: the messages name vectors and buffers that live on.
    let ret = unsafe { sys::recvmmsg(fd, messages.as_mut_ptr(), n, ctx.flags(2)?, limit) };
    let out = Out::of(ret.into());
    Ok(out.with_if_ok(|| {
        let got = messages.iter().zip(&buffers).take(ret as usize);
        let texts: Vec<String> = got
            .map(|(m, buffers)| {
                let (data, flags) = (joined(buffers, m.msg_len as usize), m.msg_hdr.msg_flags);
                format!("{} {data} flags {}", m.msg_len, msg_flags(flags))
            })
            .collect();
        format!("[{}]", texts.join(", "))
    }))
}
