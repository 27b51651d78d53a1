//! Ports for tests: free themselves, with the port 20000 above free too, and both outside the range
//! from which the kernel takes ports for outgoing connections.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::proc;

/// How far above a port its side port is.
pub const SIDE: u16 = 20_000;
/// Ports below this are other people's.
const FIRST: u16 = 2_000;

/// The kernel's range for outgoing connections.
fn ephemeral() -> (u16, u16) {
    let text =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    (
        numbers.next().unwrap_or(32_768),
        numbers.next().unwrap_or(60_999),
    )
}

/// Whether any server could have the port now. Not all programs set SO_REUSEADDR: connections of servers that have
/// ended a short time ago count too.
fn free(port: u16) -> bool {
    // A program that is being started inherits all descriptors until it runs: these would keep the port taken.
    let _none_starts = proc::nothing_starts();
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    bound(&v4).is_ok() && bound(&v6).is_ok()
}

/// A socket at that address, which does not listen yet.
///
/// # Errors
/// The address is taken.
pub fn bound(at: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, at)?;
    Ok(socket)
}

/// The next number for this process; processes that run at once start at different places.
fn next(count: u16, span: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() % 97 * u32::from(span / 97);
    let number = start + NEXT.fetch_add(u32::from(count), Ordering::Relaxed);
    (number % u32::from(span)) as u16
}

/// The first of `count` consecutive ports that are free together with their side ports.
pub fn pairs(count: u16) -> u16 {
    let (low, high) = ephemeral();
    let below = low.saturating_sub(SIDE + count);
    // A machine with a wide range leaves no room below it: then any free pair must do.
    let span = if below > FIRST + 1_000 {
        below - FIRST
    } else {
        u16::MAX - SIDE - count - FIRST
    };
    for _ in 0..1_000 {
        let base = FIRST + next(count, span);
        if (base..base + count).all(|port| free(port) && free(port + SIDE)) {
            return base;
        }
    }
    panic!("no {count} free ports with free ports {SIDE} above, outside {low} to {high}");
}

/// One port, free together with its side port.
pub fn pair() -> u16 {
    pairs(1)
}

/// A free port so high that it has no side port.
pub fn without_side() -> u16 {
    let (_, high) = ephemeral();
    let first = if high < 64_000 { high + 1 } else { 45_536 };
    for _ in 0..1_000 {
        let port = first + next(1, u16::MAX - first);
        if free(port) {
            return port;
        }
    }
    panic!("no free port above {first}");
}

/// Whether some program listens on `port`, found out without connecting to it.
pub fn is_listening(port: u16) -> bool {
    let local = format!(":{port:04X}");
    let listens = |table: &str| {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        text.lines().any(|line| {
            let mut words = line.split_whitespace();
            let address = words.nth(1).unwrap_or_default();
            // The state after the remote address: 0A is LISTEN.
            address.ends_with(&local) && words.nth(1) == Some("0A")
        })
    };
    listens("/proc/net/tcp") || listens("/proc/net/tcp6")
}
