//! Addresses of both ends.

use super::{Ctx, Scenario};
use crate::sys::{self, word};

pub const ALL: &[Scenario] = &[
    ("both-ends", both_ends),
    ("short-room", short_room),
    ("no-peer", no_peer),
    ("after-the-end", after_the_end),
    ("bound-before-connect", bound_before_connect),
];

fn both_ends(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let (local, peer) = (sys::getsockname(fd), sys::getpeername(fd));
    let listening = if ctx.connects {
        ctx.there()
    } else {
        ctx.here()
    };
    let named = if ctx.connects { peer } else { local };
    ctx.log(format!(
        "the accepting end has the listener's address: {}",
        named == Ok(Some(listening))
    ));
    ctx.log(format!(
        "mirrored: {}",
        ctx.tell(format!("peername {id}")) == format!("{local:?}")
    ));
    ctx.log(format!(
        "mirrored: {}",
        ctx.tell(format!("sockname {id}")) == format!("{peer:?}")
    ));
}

fn short_room(ctx: &Ctx) {
    let (fd, _) = ctx.pair();
    for room in [0u32, 2, 8, 128] {
        let mut raw = sys::Raw::empty();
        raw.len = room;
        // SAFETY: the storage has at least `room` bytes.
        let r =
            sys::check(
                unsafe { libc::getpeername(fd, (&raw mut raw.storage).cast(), &mut raw.len) }
                    as isize,
            );
        let family = if room == 0 { 0 } else { raw.storage.ss_family };
        ctx.log(format!(
            "room for {room}: {}, length {}, family {family}",
            word(r),
            raw.len
        ));
    }
}

fn no_peer(ctx: &Ctx) {
    let fd = sys::socket(ctx.here(), libc::SOCK_CLOEXEC).expect("socket");
    ctx.own(fd);
    ctx.log(format!(
        "getpeername of a new socket: {:?}",
        sys::getpeername(fd)
    ));
    ctx.log(format!(
        "getsockname has port 0: {}",
        sys::getsockname(fd).is_ok_and(|a| a.is_some_and(|a| a.port() == 0))
    ));
    ctx.log(format!(
        "getpeername of a listener: {:?}",
        sys::getpeername(ctx.listener())
    ));
    ctx.log(format!(
        "getsockname of a listener: {}",
        sys::getsockname(ctx.listener()) == Ok(Some(ctx.here()))
    ));
    ctx.log(format!("getpeername of -1: {:?}", sys::getpeername(-1)));
}

fn after_the_end(ctx: &Ctx) {
    let (fd, id) = ctx.pair();
    let before = sys::getpeername(fd);
    ctx.tell(format!("close {id}"));
    ctx.readable(fd);
    ctx.log(format!(
        "the peer has closed: same name: {}",
        sys::getpeername(fd) == before
    ));
    ctx.log(format!(
        "shutdown: {}",
        word(sys::shutdown(fd, libc::SHUT_RDWR))
    ));
}

fn bound_before_connect(ctx: &Ctx) {
    let fd = sys::socket(ctx.here(), libc::SOCK_CLOEXEC).expect("socket");
    ctx.own(fd);
    let mut any = ctx.here();
    any.set_port(0);
    ctx.log(format!("bind: {}", word(sys::bind(fd, any))));
    let bound = sys::getsockname(fd);
    ctx.log(format!("connect: {}", word(sys::connect(fd, ctx.there()))));
    ctx.log(format!(
        "kept its address: {}",
        sys::getsockname(fd) == bound
    ));
    ctx.log(format!("accept: {}", ctx.tell("accept b L")));
    ctx.log(format!(
        "the other end sees it: {}",
        ctx.tell("peername b") == format!("{bound:?}")
    ));
}
