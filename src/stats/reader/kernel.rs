//! What the kernel says of the sockets that it carries itself: the page knows their ends and why, not how they stand.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::{fs, io};

use super::Snapshot;
use crate::stats::codes::{ConnState, Mode};
use crate::stats::reason::Reason;

/// One line of `/proc/net/tcp` or `/proc/net/tcp6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The socket's inode.
    pub inode: u64,
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// As `ss` names it.
    pub state: &'static str,
    /// Bytes sent that the peer has not acknowledged.
    pub tx_queue: u64,
    /// Bytes that nobody has read, of a listener connections that nobody has accepted.
    pub rx_queue: u64,
}

/// The lines of such a table's text that can be read.
pub fn lines(table: &str) -> impl Iterator<Item = Line> {
    table.lines().filter_map(line)
}

/// Adds to the connections of `page` that are the kernel's what `/proc` below `proc` says of them. Where that may not be
/// seen, nothing.
pub(super) fn ask(proc: &Path, page: &mut Snapshot) {
    let kernels = |mode, state| mode == Some(Mode::Tcp) && state != Some(ConnState::Listening);
    if !page.conns.iter().any(|conn| kernels(conn.mode, conn.state)) {
        return;
    }
    let process = proc.join(page.pid.to_string());
    let lines: HashMap<u64, Line> = ["net/tcp", "net/tcp6"]
        .iter()
        .filter_map(|name| fs::read_to_string(process.join(name)).ok())
        .flat_map(|text| lines(&text).collect::<Vec<_>>())
        .map(|line| (line.inode, line))
        .collect();
    for conn in &mut page.conns {
        if !kernels(conn.mode, conn.state) {
            continue;
        }
        let inode = inode_of(&process.join("fd").join(conn.fd.to_string()));
        let Some(line) = inode.ok().flatten().and_then(|inode| lines.get(&inode)) else {
            continue;
        };
        // The number may stand for another socket by now. (One that was handed back came by the side port, perhaps.)
        let same = conn.reason == Some(Reason::HandedBack)
            || conn.peer.is_none_or(|peer| peer.port() == line.peer.port());
        if !same {
            continue;
        }
        conn.kernel_state = Some(line.state);
        (conn.tx_queue, conn.rx_queue) = (line.tx_queue, line.rx_queue);
        if conn.local.is_none_or(|local| local.port() == 0) {
            conn.local = Some(line.local);
        }
    }
}

/// The inode of the socket that a link of `/proc/PID/fd` names.
fn inode_of(link: &Path) -> io::Result<Option<u64>> {
    let target = fs::read_link(link)?;
    let target = target.to_string_lossy();
    let inode = target
        .strip_prefix("socket:[")
        .and_then(|rest| rest.strip_suffix(']'));
    Ok(inode.and_then(|inode| inode.parse().ok()))
}

fn line(text: &str) -> Option<Line> {
    let mut fields = text.split_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let peer = address(fields.next()?)?;
    let state = state(u8::from_str_radix(fields.next()?, 16).ok()?)?;
    let (tx, rx) = fields.next()?.split_once(':')?;
    let queue = |hex| u64::from_str_radix(hex, 16).ok();
    Some(Line {
        inode: fields.nth(4)?.parse().ok()?,
        local,
        peer,
        state,
        tx_queue: queue(tx)?,
        rx_queue: queue(rx)?,
    })
}

/// An address in words of 32 bits as they lie in memory, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| {
        let hex = ip.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The names of `ss`.
fn state(code: u8) -> Option<&'static str> {
    let names = [
        "ESTAB",
        "SYN-SENT",
        "SYN-RECV",
        "FIN-WAIT-1",
        "FIN-WAIT-2",
        "TIME-WAIT",
        "UNCONN",
        "CLOSE-WAIT",
        "LAST-ACK",
        "LISTEN",
        "CLOSING",
    ];
    names.get(usize::from(code).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_own_lines() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(at).unwrap();
        let text = fs::read_to_string("/proc/self/net/tcp").unwrap();
        let found: Vec<_> = lines(&text).collect();
        let one = |local, state| {
            found
                .iter()
                .filter(|l| l.local == local && l.state == state)
                .count()
        };
        assert_eq!(one(at, "LISTEN"), 1, "{text}");
        let client = client.local_addr().unwrap();
        assert_eq!(one(client, "ESTAB"), 1, "{text}");
        assert!(found.iter().any(|l| l.local == client && l.peer == at));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_of_both_families() {
        let shown = |text| address(text).map(|address| address.to_string());
        assert_eq!(shown("0100007F:1F90").as_deref(), Some("127.0.0.1:8080"));
        let v6 = "B80D0120000000000000000001000000:01BB";
        assert_eq!(shown(v6).as_deref(), Some("[2001:db8::1]:443"));
        assert_eq!(shown("0100007F"), None);
        assert_eq!(shown("01:1"), None);
    }

    proptest! {
        #[test]
        fn any_line_parses_or_not(text in "\\PC{0,200}") {
            let _ = line(&text);
            let _ = address(&text);
        }
    }
}
