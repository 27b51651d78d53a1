//! Descriptors as such: dup, close_range, pipes, files, sendfile, splice, and raw system calls.

use crate::sys;
use crate::world::{Ctx, Out, Res};
use netacc_differential::lang::Arg;
use netacc_differential::pattern;
use std::ptr::null_mut;

unsafe extern "C" {
    fn closefrom(first: i32);
}

/// Makes the call if it is of this family.
pub fn call(ctx: &Ctx) -> Res<Option<Out>> {
    let out = match ctx.call.verb.as_str() {
        // SAFETY: these take numbers; the scenario's descriptors are nobody else's.
        "dup" => Out::of(unsafe { sys::dup(ctx.fd(0)?) }.into()),
        // SAFETY: as above.
        "dup2" => Out::of(unsafe { sys::dup2(ctx.fd(0)?, ctx.fd(1)?) }.into()),
        // SAFETY: as above.
        "dup3" => Out::of(unsafe { sys::dup3(ctx.fd(0)?, ctx.fd(1)?, ctx.flags(2)?) }.into()),
        "close_range" => {
            let (first, last) = (ctx.fd(0)?, ctx.fd(1)?);
            // SAFETY: as above.
            let ret = unsafe { sys::close_range(first as u32, last as u32, ctx.flags(2)?) };
            Out::of(ret.into())
        }
        "pipe" | "pipe2" => {
            let mut ends = [-1; 2];
            // SAFETY: room for two numbers.
            let ret = unsafe { libc::pipe2(ends.as_mut_ptr(), ctx.flags(0)?) };
            pair(ret, ends)
        }
        "socketpair" => {
            let mut ends = [-1; 2];
            // SAFETY: room for two numbers.
            let ret =
                unsafe { libc::socketpair(ctx.flags(0)?, ctx.flags(1)?, 0, ends.as_mut_ptr()) };
            pair(ret, ends)
        }
        "closefrom" => {
            // SAFETY: as above.
            unsafe { closefrom(ctx.fd(0)?) };
            Out::words("done")
        }
        "tmpfile" => tmpfile(ctx)?,
        "sendfile" => sendfile(ctx)?,
        "splice" => {
            let (from, to, n) = (ctx.fd(0)?, ctx.fd(1)?, ctx.int(2)? as usize);
            // SAFETY: no offsets.
            let ret =
                unsafe { sys::splice(from, null_mut(), to, null_mut(), n, ctx.flags(3)? as u32) };
            Out::of(ret as i64)
        }
        "fsync" => {
            // SAFETY: takes a number.
            Out::of(unsafe { libc::fsync(ctx.fd(0)?) }.into())
        }
        "lseek" => {
            let (fd, offset) = (ctx.fd(0)?, ctx.int(1)?);
            // SAFETY: takes numbers.
            Out::of(unsafe { libc::lseek(fd, offset, libc::SEEK_SET) })
        }
        "fstat" => fstat(ctx)?,
        "isatty" => {
            // SAFETY: takes a number.
            Out::of(unsafe { libc::isatty(ctx.fd(0)?) }.into())
        }
        "syscall" => syscall(ctx)?,
        "raw" => {
            sys::be_raw(ctx.int(0)? != 0);
            Out::words("so")
        }
        _ => return Ok(None),
    };
    Ok(Some(out))
}

fn pair(ret: i32, ends: [i32; 2]) -> Out {
    let mut out = Out::of(ret.into()).with_if_ok(|| format!("{} {}", ends[0], ends[1]));
    out.fds = ends.to_vec();
    out
}

/// `t = tmpfile(data)`: a file in memory that holds the data, at its beginning.
fn tmpfile(ctx: &Ctx) -> Res<Out> {
    // SAFETY: a name that ends.
    let fd = unsafe { libc::memfd_create(c"differential".as_ptr(), 0) };
    let out = Out::of(fd.into());
    if let (0.., Some(arg)) = (fd, ctx.call.args.first()) {
        let data = ctx.data_of(arg, "a file", 0)?.bytes;
        // SAFETY: that many bytes are there.
        let ret = unsafe { libc::pwrite(fd, data.as_ptr().cast(), data.len(), 0) };
        if ret != data.len() as isize {
            return Err("the file cannot be written".to_string());
        }
    }
    Ok(out)
}

/// `sendfile(c, t, offset or null, count)`: shows the offset after it.
fn sendfile(ctx: &Ctx) -> Res<Out> {
    let (to, from, n) = (ctx.fd(0)?, ctx.fd(1)?, ctx.int(3)? as usize);
    if ctx.word(2)? == "null" {
        // SAFETY: no offset.
        return Ok(Out::of(
            unsafe { sys::sendfile(to, from, null_mut(), n) } as i64
        ));
    }
    let mut offset = ctx.int(2)?;
    // SAFETY: one offset.
    let ret = unsafe { sys::sendfile(to, from, &mut offset, n) };
    Ok(Out::of(ret as i64).with_if_ok(|| format!("offset {offset}")))
}

/// What kind of file the descriptor is.
fn fstat(ctx: &Ctx) -> Res<Out> {
    // SAFETY: plain old data, for which zeroes are valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: room for it.
    let ret = unsafe { libc::fstat(ctx.fd(0)?, &mut stat) };
    Ok(Out::of(ret.into()).with_if_ok(|| {
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFSOCK => "a socket",
            libc::S_IFREG => "a file",
            libc::S_IFIFO => "a pipe",
            _ => "something else",
        };
        kind.to_string()
    }))
}

/// `syscall(SYS_sendto, c, "data", flags)`: names are descriptors, a string is its address and length, `room(N)`
/// room for N bytes, which are shown.
fn syscall(ctx: &Ctx) -> Res<Out> {
    let number = ctx.int(0)?;
    let mut words: Vec<i64> = Vec::new();
    let mut room: Option<Vec<u8>> = None;
    for arg in &ctx.call.args[1..] {
        match arg {
            Arg::Int(n) => words.push(*n),
            Arg::Text(text) => words.extend([text.as_ptr() as i64, text.len() as i64]),
            Arg::Call(name, args) if name == "room" => {
                let n = ctx.int_of(args.first().ok_or("room(N)")?)?;
                let buffer = room.insert(vec![0; n as usize]);
                words.extend([buffer.as_mut_ptr() as i64, n]);
            }
            word => words.push(match ctx.fd_of(word) {
                Ok(fd) => fd.into(),
                Err(_) => ctx.int_of(word)?,
            }),
        }
    }
    words.resize(6, 0);
    // SAFETY: pointers come with the length of what they point to.
    let ret = unsafe {
        libc::syscall(
            number, words[0], words[1], words[2], words[3], words[4], words[5],
        )
    };
    let out = Out::of(ret);
    Ok(match room {
        Some(buffer) => out.with_if_ok(|| pattern::show(&buffer[..ret as usize])),
        None => out,
    })
}
