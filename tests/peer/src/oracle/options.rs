//! Socket options, fcntl, ioctl, and the file calls that a socket answers or refuses.

use super::{Ctx, Scenario, content};
use crate::sys::{self, word};
use libc::{IPPROTO_TCP, SOL_SOCKET, c_int};
use std::os::fd::AsRawFd;

pub const ALL: &[Scenario] = &[
    ("plain-options", plain_options),
    ("strange-options", strange_options),
    ("tcp-info", tcp_info),
    ("fionread", fionread),
    ("fionbio", fionbio),
    ("siocoutq", siocoutq),
    ("status-flags", status_flags),
    ("file-calls", file_calls),
    ("sendfile", sendfile),
    ("splice", splice),
];

const PLAIN: [(&str, c_int, c_int); 10] = [
    ("TCP_NODELAY", IPPROTO_TCP, libc::TCP_NODELAY),
    ("TCP_QUICKACK", IPPROTO_TCP, libc::TCP_QUICKACK),
    ("TCP_CORK", IPPROTO_TCP, libc::TCP_CORK),
    ("TCP_KEEPIDLE", IPPROTO_TCP, libc::TCP_KEEPIDLE),
    ("TCP_KEEPINTVL", IPPROTO_TCP, libc::TCP_KEEPINTVL),
    ("TCP_KEEPCNT", IPPROTO_TCP, libc::TCP_KEEPCNT),
    ("TCP_USER_TIMEOUT", IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    ("SO_KEEPALIVE", SOL_SOCKET, libc::SO_KEEPALIVE),
    ("SO_OOBINLINE", SOL_SOCKET, libc::SO_OOBINLINE),
    ("SO_PRIORITY", SOL_SOCKET, libc::SO_PRIORITY),
];

fn plain_options(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    for (name, level, option) in PLAIN {
        let set = sys::setsockopt(fd, level, option, &1i32);
        ctx.log(format!(
            "{name}: {} {}",
            word(set),
            word(sys::getsockopt::<i32>(fd, level, option))
        ));
        if option == libc::TCP_CORK && level == IPPROTO_TCP {
            sys::setsockopt(fd, level, option, &0i32).expect("TCP_CORK");
        }
    }
    for (name, option) in [
        ("SO_TYPE", libc::SO_TYPE),
        ("SO_DOMAIN", libc::SO_DOMAIN),
        ("SO_PROTOCOL", libc::SO_PROTOCOL),
    ] {
        ctx.log(format!(
            "{name}: {}",
            word(sys::getsockopt::<i32>(fd, SOL_SOCKET, option))
        ));
    }
    for (name, option) in [
        ("SO_RCVBUF", libc::SO_RCVBUF),
        ("SO_SNDBUF", libc::SO_SNDBUF),
    ] {
        let set = sys::setsockopt(fd, SOL_SOCKET, option, &30_000i32);
        ctx.log(format!(
            "{name}: {} {}",
            word(set),
            word(sys::getsockopt::<i32>(fd, SOL_SOCKET, option))
        ));
    }
    ctx.log(format!("still sends: {}", word(sys::send(fd, b"abc", 0))));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 3"))
    ));
}

fn strange_options(ctx: &Ctx) {
    let (fd, _) = ctx.pair();
    ctx.log(format!(
        "no such option: {}",
        word(sys::getsockopt::<i32>(fd, SOL_SOCKET, 9999))
    ));
    ctx.log(format!(
        "no such level: {}",
        word(sys::getsockopt::<i32>(fd, 9999, 1))
    ));
    ctx.log(format!(
        "set no such option: {}",
        word(sys::setsockopt(fd, IPPROTO_TCP, 9999, &1i32))
    ));
    ctx.log(format!(
        "set too short: {}",
        word(sys::setsockopt(fd, SOL_SOCKET, libc::SO_KEEPALIVE, &1u8))
    ));
    let mut value = [0xffu8; 4];
    let mut len = 2;
    // SAFETY: two of four live bytes.
    let r = sys::check(unsafe {
        libc::getsockopt(
            fd,
            SOL_SOCKET,
            libc::SO_TYPE,
            value.as_mut_ptr().cast(),
            &mut len,
        )
    } as isize);
    ctx.log(format!(
        "get with room for 2: {}, length {len}, {value:?}",
        word(r)
    ));
    ctx.log(format!("SO_ERROR: {}", word(sys::so_error(fd))));
    ctx.log(format!(
        "set SO_ERROR: {}",
        word(sys::setsockopt(fd, SOL_SOCKET, libc::SO_ERROR, &1i32))
    ));
    ctx.log(format!("of -1: {}", word(sys::so_error(-1))));
    ctx.log(format!("of standard input: {}", word(sys::so_error(0))));
}

fn tcp_info(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let state = |fd| {
        sys::getsockopt::<libc::tcp_info>(fd, IPPROTO_TCP, libc::TCP_INFO)
            .map(|info| info.tcpi_state)
    };
    ctx.log(format!("state of a connection: {}", word(state(fd))));
    ctx.log(format!(
        "state of a listener: {}",
        word(state(ctx.listener()))
    ));
    ctx.tell(format!("close {id}"));
    ctx.readable(fd);
    ctx.log(format!(
        "state when the peer has closed: {}",
        word(state(fd))
    ));
}

fn ioctl(fd: i32, request: libc::Ioctl, value: &mut c_int) -> sys::Res<usize> {
    // SAFETY: only requests that read or write one int are used.
    sys::check(unsafe { libc::ioctl(fd, request, value as *mut c_int) } as isize)
}

fn fionread(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let unread = |fd| {
        let mut n = -1;
        format!("{} {n}", word(ioctl(fd, libc::FIONREAD, &mut n))).replace("-1", &n.to_string())
    };
    let mut n = -1;
    ctx.log(format!(
        "at first: {} {n}",
        word(ioctl(fd, libc::FIONREAD, &mut n))
    ));
    ctx.sent(fd, &id, 10);
    let mut n = -1;
    let r = ioctl(fd, libc::FIONREAD, &mut n);
    ctx.log(format!("with 10 there: {} {n}", word(r)));
    let _ = sys::recv(fd, &mut [0; 4], 0);
    let r = ioctl(fd, libc::FIONREAD, &mut n);
    ctx.log(format!("after 4: {} {n}", word(r)));
    let _ = sys::recv(fd, &mut [0; 4], libc::MSG_PEEK);
    let r = ioctl(fd, libc::FIONREAD, &mut n);
    ctx.log(format!("after a peek: {} {n}", word(r)));
    ctx.log(format!("on a listener: {}", unread(ctx.listener())));
}

fn fionbio(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.log(format!("on: {}", word(ioctl(fd, libc::FIONBIO, &mut 1))));
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 4], 0))));
    let nonblocking = sys::fcntl(fd, libc::F_GETFL, 0).is_ok_and(|fl| fl & libc::O_NONBLOCK != 0);
    ctx.log(format!("F_GETFL says so: {nonblocking}"));
    ctx.log(format!("off: {}", word(ioctl(fd, libc::FIONBIO, &mut 0))));
    ctx.tell(format!("later 20 send {id} 4"));
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 4], 0))));
}

fn siocoutq(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    ctx.log(format!("send: {}", word(sys::send(fd, &[1; 1000], 0))));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 1000"))
    ));
    let mut n = -1;
    for _ in 0..sys::PATIENCE_MS {
        ioctl(fd, libc::TIOCOUTQ, &mut n).expect("SIOCOUTQ");
        if n == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    ctx.log(format!("not acknowledged: {n}"));
    let mut mark = -1;
    let r = ioctl(fd, 0x8905, &mut mark);
    ctx.log(format!("SIOCATMARK: {} {mark}", word(r)));
}

fn status_flags(ctx: &Ctx) {
    let (fd, _) = ctx.pair();
    let show = |fd| {
        sys::fcntl(fd, libc::F_GETFL, 0)
            .map(|fl| format!("{fl:o}"))
            .unwrap_or_default()
    };
    ctx.log(format!("at first: {}", show(fd)));
    ctx.log(format!("set: {}", word(sys::set_nonblocking(fd, true))));
    ctx.log(format!("then: {}", show(fd)));
    ctx.log(format!("recv: {}", word(sys::recv(fd, &mut [0; 4], 0))));
    ctx.log(format!("unset: {}", word(sys::set_nonblocking(fd, false))));
    ctx.log(format!("then: {}", show(fd)));
    ctx.log(format!(
        "FD_CLOEXEC: {}",
        word(sys::fcntl(fd, libc::F_GETFD, 0))
    ));
    ctx.log(format!(
        "no such command: {}",
        word(sys::fcntl(fd, 9999, 0))
    ));
    let born = sys::socket(ctx.here(), libc::SOCK_NONBLOCK).expect("socket");
    ctx.own(born);
    ctx.log(format!(
        "born nonblocking: {}, {}",
        show(born),
        word(sys::fcntl(born, libc::F_GETFD, 0))
    ));
}

fn file_calls(ctx: &Ctx) {
    let (fd, _) = ctx.pair();
    let log = |name: &str, r: isize| ctx.log(format!("{name}: {}", word(sys::check(r))));
    // SAFETY: no pointers.
    log("lseek", unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) }
        as isize);
    // SAFETY: no pointers.
    log("fsync", unsafe { libc::fsync(fd) } as isize);
    // SAFETY: no pointers.
    log("ftruncate", unsafe { libc::ftruncate(fd, 0) } as isize);
    // SAFETY: all zeroes is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a live stat.
    log("fstat", unsafe { libc::fstat(fd, &mut stat) } as isize);
    let socket = stat.st_mode & libc::S_IFMT == libc::S_IFSOCK;
    ctx.log(format!("is a socket: {socket}"));
    // SAFETY: no pointers.
    ctx.log(format!("isatty: {}", unsafe { libc::isatty(fd) }));
}

fn sendfile(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    // SAFETY: a name that ends in zero.
    let file = ctx.own(unsafe { libc::memfd_create(c"data".as_ptr(), libc::MFD_CLOEXEC) });
    let data: Vec<u8> = (0..10_000).map(super::puppet::byte).collect();
    sys::write(file, &data).expect("write");
    // SAFETY: no pointers.
    unsafe { libc::lseek(file, 100, libc::SEEK_SET) };
    let mut offset: libc::off_t = 2000;
    // SAFETY: a live offset.
    let n = sys::check(unsafe { libc::sendfile(fd, file, &mut offset, 3000) });
    // SAFETY: no pointers.
    let at = unsafe { libc::lseek(file, 0, libc::SEEK_CUR) };
    ctx.log(format!(
        "with offset: {}, offset {offset}, position {at}",
        word(n)
    ));
    // SAFETY: a null offset is allowed: the file's position counts.
    let n = sys::check(unsafe { libc::sendfile(fd, file, std::ptr::null_mut(), 50_000) });
    // SAFETY: no pointers.
    let at = unsafe { libc::lseek(file, 0, libc::SEEK_CUR) };
    ctx.log(format!("without: {}, position {at}", word(n)));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 12900"))
    ));
    ctx.sent(fd, &id, 10);
    let mut buf = [0; 10];
    let n = sys::recv(fd, &mut buf, 0);
    ctx.log(format!("and back: {}: {}", word(n), content(0, &buf)));
}

fn splice(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let (reader, writer) = std::io::pipe().expect("pipe");
    let (r, w) = (reader.as_raw_fd(), writer.as_raw_fd());
    ctx.sent(fd, &id, 100);
    let none = std::ptr::null_mut;
    // SAFETY: null offsets, as pipes and sockets want.
    let n = sys::check(unsafe { libc::splice(fd, none(), w, none(), 100, 0) });
    let mut buf = [0; 100];
    let got = sys::read(r, &mut buf);
    ctx.log(format!(
        "from the socket: {}, {}: {}",
        word(n),
        word(got),
        content(0, &buf)
    ));
    sys::write(w, &buf).expect("write");
    // SAFETY: as above.
    let n = sys::check(unsafe { libc::splice(r, none(), fd, none(), 100, 0) });
    ctx.log(format!("to the socket: {}", word(n)));
    ctx.log(format!(
        "the other end: {}",
        ctx.tell(format!("recv {id} 100"))
    ));
}
