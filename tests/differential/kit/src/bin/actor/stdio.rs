//! The C library's streams on a socket.

use crate::world::{Ctx, Out, Res};
use netacc_differential::pattern;
use std::ffi::CString;
use std::ptr::null_mut;

unsafe extern "C" {
    fn dprintf(fd: i32, format: *const libc::c_char, ...) -> i32;
}

/// Makes the call if it is of this family.
pub fn call(ctx: &Ctx) -> Res<Option<Out>> {
    let out = match ctx.call.verb.as_str() {
        "fdopen" => {
            let mode = text(ctx, 1)?;
            // SAFETY: a string that ends.
            let file = unsafe { libc::fdopen(ctx.fd(0)?, mode.as_ptr()) };
            if file.is_null() {
                return Ok(Some(Out::of(-1)));
            }
            for name in &ctx.call.binds {
                ctx.keep_stream(name, file);
            }
            // SAFETY: it was opened just now.
            Out::of(unsafe { libc::fileno(file) }.into())
        }
        "fprintf" => {
            let text = text(ctx, 1)?;
            // SAFETY: an open stream, and a string for its one conversion.
            let ret =
                unsafe { libc::fprintf(ctx.stream(&ctx.word(0)?)?, c"%s".as_ptr(), text.as_ptr()) };
            Out::of(ret.into())
        }
        "dprintf" => {
            let (fd, text) = (ctx.fd(0)?, text(ctx, 1)?);
            // SAFETY: strings, an int and a double for its conversions.
            let ret = unsafe {
                dprintf(
                    fd,
                    c"%s %d %.1f %s%s%s".as_ptr(),
                    text.as_ptr(),
                    7,
                    2.5,
                    c"a".as_ptr(),
                    c"b".as_ptr(),
                    c"c".as_ptr(),
                )
            };
            Out::of(ret.into())
        }
        // By the C library's own standard output.
        "puts" => {
            let text = text(ctx, 0)?;
            // SAFETY: a string; all streams.
            let ret = unsafe {
                libc::puts(text.as_ptr());
                libc::fflush(null_mut())
            };
            Out::of(ret.into())
        }
        "fflush" => {
            // SAFETY: an open stream.
            Out::of(unsafe { libc::fflush(ctx.stream(&ctx.word(0)?)?) }.into())
        }
        "fclose" => {
            // SAFETY: an open stream; the scenario does not use it again.
            Out::of(unsafe { libc::fclose(ctx.stream(&ctx.word(0)?)?) }.into())
        }
        "fgets" | "fread" => {
            let (file, n) = (ctx.stream(&ctx.word(0)?)?, ctx.int(1)? as usize);
            let mut buffer = vec![0u8; n];
            let at = buffer.as_mut_ptr();
            let got = if ctx.call.verb == "fread" {
                // SAFETY: room for n bytes.
                unsafe { libc::fread(at.cast(), 1, n, file) }
            } else {
                // SAFETY: as above.
                let end = unsafe { libc::fgets(at.cast(), n as i32, file) };
                let length = || buffer.iter().position(|&b| b == 0).unwrap_or(n);
                if end.is_null() { 0 } else { length() }
            };
            Out::of(got as i64).with(pattern::show(&buffer[..got]))
        }
        _ => return Ok(None),
    };
    Ok(Some(out))
}

fn text(ctx: &Ctx, i: usize) -> Res<CString> {
    match ctx.arg(i)? {
        netacc_differential::lang::Arg::Text(bytes) => {
            CString::new(bytes.clone()).map_err(|e| e.to_string())
        }
        other => Err(format!("'{other}' is no string")),
    }
}
