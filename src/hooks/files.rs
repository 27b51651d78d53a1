//! Files and pipes to and from a stream: sendfile and splice.

use libc::{c_int, c_uint, off_t, size_t, ssize_t};

use super::{Found, fail, find, give, recv, send};
use crate::real::orig;
use crate::real::sys::{self, Errno};
use crate::socket::Role;

/// Bytes that go through a buffer of ours at a time.
const PIECE: usize = 64 << 10;

/// Whether `fd` is a connection on a link, or has bytes that came by one.
///
/// # Errors
/// Why the application may not use it.
fn is_accelerated(fd: c_int) -> Result<bool, Errno> {
    match find(fd) {
        Found::Socket(_, mut inner) => {
            inner.writes();
            Ok(match &inner.role {
                Role::Connected(_) => true,
                Role::Leftover(left) => !left.is_over(),
                _ => false,
            })
        }
        Found::Kernel => Ok(false),
        Found::Refused(error) => Err(error),
    }
}

pub unsafe fn sendfile(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
    let result = match is_accelerated(out) {
        // SAFETY: the caller's contract is that of the original.
        Ok(false) => return unsafe { orig::sendfile(out, input, offset, count) },
        // SAFETY: `offset` is null or valid by the caller's contract.
        Ok(true) => unsafe { copy_file(out, input, offset, count) },
        Err(error) => Err(error),
    };
    give(result)
}

pub unsafe fn sendfile64(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
    // SAFETY: off_t has 64 bits here; the same function.
    unsafe { sendfile(out, input, offset, count) }
}

/// Whether `fd` is open for `mode`, `O_RDONLY` or `O_WRONLY`.
fn may(fd: c_int, mode: c_int) -> bool {
    // SAFETY: no argument.
    let flags = unsafe { orig::fcntl(fd, libc::F_GETFL, 0) };
    flags >= 0
        && flags & libc::O_PATH == 0
        && [mode, libc::O_RDWR].contains(&(flags & libc::O_ACCMODE))
}

/// The calling thread cannot be cancelled meanwhile: in sendfile(2), other than in send(2), it never can.
struct Uncancelled(c_int);

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

impl Uncancelled {
    fn new() -> Self {
        /// PTHREAD_CANCEL_DISABLE of Linux's C libraries.
        const DISABLE: c_int = 1;
        let mut old = 0;
        // SAFETY: room for the former state.
        unsafe { pthread_setcancelstate(DISABLE, &mut old) };
        Uncancelled(old)
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // SAFETY: the former state; the new one is not asked for.
        unsafe { pthread_setcancelstate(self.0, core::ptr::null_mut()) };
    }
}

/// sendfile(2) onto a link: the file's pages go through a buffer of ours. With `offset`, the file's
/// own position stays; without, it moves by what was sent.
unsafe fn copy_file(
    out: c_int,
    input: c_int,
    offset: *mut off_t,
    count: usize,
) -> Result<ssize_t, Errno> {
    /// The kernel moves no more in one call.
    const MOST: usize = 0x7fff_f000;
    if !may(input, libc::O_RDONLY) {
        return Err(Errno::BADF);
    }
    if isize::try_from(count).is_err() {
        return Err(Errno::INVAL);
    }
    let count = count.min(MOST);
    let file = sys::borrow(input);
    let start = if offset.is_null() {
        rustix::fs::seek(file, rustix::fs::SeekFrom::Current(0)).map_err(|_| Errno::INVAL)?
    } else {
        // SAFETY: by the caller's contract.
        u64::try_from(unsafe { *offset }).map_err(|_| Errno::INVAL)?
    };
    let mut buf = vec![0u8; PIECE.min(count)];
    let _whole = Uncancelled::new();
    let mut done = 0;
    let mut failed = None;
    while done < count {
        let want = buf.len().min(count - done);
        let got = match rustix::io::pread(file, &mut buf[..want], start + done as u64) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) => {
                failed = Some(error);
                break;
            }
        };
        // SAFETY: `got` bytes of our own buffer.
        let sent = unsafe { send(out, buf.as_ptr().cast(), got, 0) };
        if sent < 0 {
            failed = Some(sys::last_error());
            break;
        }
        done += sent as usize;
        if (sent as usize) < got {
            break;
        }
    }
    if done == 0
        && let Some(error) = failed
    {
        return Err(error);
    }
    if offset.is_null() {
        let _ = rustix::fs::seek(file, rustix::fs::SeekFrom::Start(start + done as u64));
    } else {
        // SAFETY: by the caller's contract.
        unsafe { *offset += done as off_t };
    }
    Ok(done as ssize_t)
}

pub unsafe fn splice(
    input: c_int,
    off_in: *mut i64,
    out: c_int,
    off_out: *mut i64,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    let result = match (is_accelerated(input), is_accelerated(out)) {
        (Ok(false), Ok(false)) => {
            // SAFETY: the caller's contract is that of the original.
            return unsafe { orig::splice(input, off_in, out, off_out, len, flags) };
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
        _ if flags & !SPLICE_FLAGS != 0 => Err(Errno::INVAL),
        _ if len == 0 => Ok(0),
        _ if !may(input, libc::O_RDONLY) || !may(out, libc::O_WRONLY) => Err(Errno::BADF),
        // One end must be a pipe, and neither end here has positions.
        (Ok(true), Ok(true)) => Err(Errno::INVAL),
        (Ok(true), _) if !off_out.is_null() => Err(Errno::SPIPE),
        (_, Ok(true)) if !off_in.is_null() => Err(Errno::SPIPE),
        _ if !off_in.is_null() || !off_out.is_null() => Err(Errno::INVAL),
        (Ok(true), Ok(false)) => from_stream(input, out, len, flags),
        (Ok(false), Ok(true)) => to_stream(input, out, len, flags),
    };
    match result {
        Ok(n) => n as ssize_t,
        Err(error) => fail::<ssize_t>(error),
    }
}

/// All flags that splice(2) knows.
const SPLICE_FLAGS: c_uint =
    libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;

/// Waits for `events` on `fd`, or looks only.
fn ready(fd: c_int, events: i16, wait: bool) -> Result<(), Errno> {
    let mut poll = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    match unsafe { super::poll(&mut poll, 1, if wait { -1 } else { 0 }) } {
        0 => Err(Errno::AGAIN),
        n if n < 0 => Err(sys::last_error()),
        _ => Ok(()),
    }
}

/// Bytes unread in the pipe `fd`; `EINVAL` if it is not a pipe.
fn in_pipe(fd: c_int) -> Result<usize, Errno> {
    // F_GETPIPE_SZ is answered by pipes alone.
    rustix::pipe::fcntl_getpipe_size(sys::borrow(fd)).map_err(|_| Errno::INVAL)?;
    rustix::io::ioctl_fionread(sys::borrow(fd)).map(|n| n as usize)
}

/// splice(2) from a stream to a pipe: looks at the bytes, and takes from the stream what the pipe took.
fn from_stream(input: c_int, pipe: c_int, len: usize, flags: c_uint) -> Result<usize, Errno> {
    in_pipe(pipe)?;
    ready(pipe, libc::POLLOUT, flags & libc::SPLICE_F_NONBLOCK == 0)?;
    let mut buf = vec![0u8; len.min(PIECE)];
    // SAFETY: our own buffer.
    let seen = unsafe { recv(input, buf.as_mut_ptr().cast(), buf.len(), libc::MSG_PEEK) };
    if seen <= 0 {
        return if seen == 0 {
            Ok(0)
        } else {
            Err(sys::last_error())
        };
    }
    let mut moved = 0;
    // A pipe that polls writable takes PIPE_BUF bytes without waiting.
    for piece in buf[..seen as usize].chunks(libc::PIPE_BUF) {
        if moved > 0 && ready(pipe, libc::POLLOUT, false).is_err() {
            break;
        }
        match rustix::io::write(sys::borrow(pipe), piece) {
            Ok(n) => moved += n,
            Err(error) if moved == 0 => return Err(error),
            Err(_) => break,
        }
    }
    // SAFETY: with MSG_TRUNC the bytes go nowhere; the buffer is ours all the same.
    unsafe {
        recv(
            input,
            buf.as_mut_ptr().cast(),
            moved,
            libc::MSG_TRUNC | libc::MSG_DONTWAIT,
        )
    };
    Ok(moved)
}

/// splice(2) from a pipe to a stream.
fn to_stream(pipe: c_int, out: c_int, len: usize, flags: c_uint) -> Result<usize, Errno> {
    in_pipe(pipe)?;
    ready(pipe, libc::POLLIN, flags & libc::SPLICE_F_NONBLOCK == 0)?;
    let waits = match find(out) {
        Found::Socket(_, inner) => !inner.nonblocking,
        _ => return Err(Errno::BADF),
    };
    ready(out, libc::POLLOUT, waits)?;
    let mut buf = vec![0u8; len.min(PIECE).min(in_pipe(pipe)?.max(1))];
    let got = rustix::io::read(sys::borrow(pipe), &mut buf)?;
    let mut sent = 0;
    while sent < got {
        // SAFETY: our own buffer.
        let n = unsafe { send(out, buf[sent..].as_ptr().cast(), got - sent, 0) };
        match n {
            n if n >= 0 => sent += n as usize,
            // The bytes have left the pipe: they must go.
            _ if sys::last_error() == Errno::AGAIN => ready(out, libc::POLLOUT, true)?,
            _ if sent > 0 => break,
            _ => return Err(sys::last_error()),
        }
    }
    Ok(sent)
}
