//! Descriptor numbers that come back: nothing of the old connection may cling to them.

use super::{Ctx, Scenario, content};
use crate::sys::{self, word};

pub const ALL: &[Scenario] = &[
    ("reused-by-connection", reused_by_connection),
    ("reused-by-pipe", reused_by_pipe),
    ("closed-by-syscall", closed_by_syscall),
    ("closed-by-range", closed_by_range),
    ("closed-by-stdio", closed_by_stdio),
    ("stdio-reads-and-writes", stdio_reads_and_writes),
    ("many-generations", many_generations),
];

fn pipe() -> [i32; 2] {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    ends
}

/// The number `old` has just been closed by whatever means: a pipe takes it, and works as a pipe.
fn pipe_takes(ctx: &Ctx, old: i32, id: &str) {
    let ends = pipe();
    ctx.own(ends[0]);
    ctx.own(ends[1]);
    ctx.log(format!("a pipe takes the number: {}", ends[0] == old));
    ctx.log(format!(
        "write: {}",
        word(sys::write(ends[1], b"through the pipe"))
    ));
    let mut buf = [0; 100];
    ctx.log(format!("read: {}", word(sys::read(ends[0], &mut buf))));
    ctx.log(format!("recv: {}", word(sys::recv(ends[0], &mut buf, 0))));
    ctx.log(format!("getpeername: {:?}", sys::getpeername(ends[0])));
    ctx.log(format!(
        "the other end of the old one: {}",
        ctx.tell(format!("drain {id}"))
    ));
}

fn reused_by_connection(ctx: &Ctx) {
    let (old, a) = ctx.pair();
    ctx.sent(old, &a, 100);
    let _ = sys::recv(old, &mut [0; 100], 0);
    sys::set_nonblocking(old, true).expect("O_NONBLOCK");
    ctx.close(old);
    let (new, b) = ctx.pair();
    ctx.log(format!("the same number: {}", new == old));
    let blocking = sys::fcntl(new, libc::F_GETFL, 0).is_ok_and(|fl| fl & libc::O_NONBLOCK == 0);
    ctx.log(format!("blocking: {blocking}"));
    ctx.log(format!(
        "nothing to read: {}",
        word(sys::recv(new, &mut [0; 4], libc::MSG_DONTWAIT))
    ));
    ctx.sent(new, &b, 20);
    let mut buf = [0; 100];
    let n = sys::recv(new, &mut buf, 0);
    ctx.log(format!(
        "{}: {}",
        word(n),
        content(0, &buf[..n.unwrap_or(0)])
    ));
    ctx.log(format!("the old one: {}", ctx.tell(format!("drain {a}"))));
}

fn reused_by_pipe(ctx: &Ctx) {
    let (old, id) = ctx.pair();
    ctx.close(old);
    pipe_takes(ctx, old, &id);
}

fn closed_by_syscall(ctx: &Ctx) {
    let (old, id) = ctx.pair();
    // SAFETY: the descriptor is ours.
    let r = sys::check(unsafe { libc::syscall(libc::SYS_close, old) } as isize);
    ctx.disown(old);
    ctx.log(format!("close: {}", word(r)));
    pipe_takes(ctx, old, &id);
}

fn closed_by_range(ctx: &Ctx) {
    let (old, id) = ctx.pair();
    // SAFETY: the one descriptor of the range is ours.
    let r = sys::check(unsafe { libc::close_range(old as u32, old as u32, 0) } as isize);
    ctx.disown(old);
    ctx.log(format!("close: {}", word(r)));
    pipe_takes(ctx, old, &id);
}

fn closed_by_stdio(ctx: &Ctx) {
    let (old, id) = ctx.pair();
    // SAFETY: the stream is opened and closed here, once.
    let r = unsafe {
        let stream = libc::fdopen(old, c"r+".as_ptr());
        libc::fclose(stream)
    };
    ctx.disown(old);
    ctx.log(format!("fclose: {r}"));
    pipe_takes(ctx, old, &id);
}

/// stdio on a connection.
fn stdio_reads_and_writes(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.sent(fd, &id, 50);
    let mut buf = [0u8; 50];
    // SAFETY: the buffers are live, the stream is closed once.
    let (got, put, closed) = unsafe {
        let stream = libc::fdopen(fd, c"r+".as_ptr());
        libc::setvbuf(stream, std::ptr::null_mut(), libc::_IONBF, 0);
        let got = libc::fread(buf.as_mut_ptr().cast(), 1, 50, stream);
        let put = libc::fwrite(buf.as_ptr().cast(), 1, 50, stream);
        (got, put, libc::fclose(stream))
    };
    ctx.disown(fd);
    ctx.log(format!(
        "fread {got}: {}; fwrite {put}; fclose {closed}",
        content(0, &buf)
    ));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("drain {id}"))
    ));
}

/// One number, many connections in turn, each with data left unread or unsent in its own way.
fn many_generations(ctx: &Ctx) {
    let mut numbers = std::collections::BTreeSet::new();
    let mut right = 0;
    for turn in 0..30usize {
        let (fd, id) = ctx.pair();
        numbers.insert(fd);
        ctx.sent(fd, &id, 10 + turn);
        let mut buf = [0; 5];
        if sys::recv(fd, &mut buf, 0) == Ok(5) && content(0, &buf).ends_with("right") {
            right += 1;
        }
        ctx.close(fd);
        ctx.tell(format!("close {id}"));
    }
    ctx.log(format!(
        "{right} right, {} number(s)",
        if ctx.two_processes { numbers.len() } else { 1 }
    ));
}
