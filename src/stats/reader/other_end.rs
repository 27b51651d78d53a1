//! Why the other end of a connection says that the kernel carries it.
//!
//! A connection that came by the application's own port was left to the kernel at its other end, for a reason that only
//! that process knows. If it is one of this host whose page may be read, its reason is to be had there.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Conn, Snapshot, kernel};
use crate::stats::codes::ConnState;
use crate::stats::reason::Reason;

/// What the process at the other end says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherEnd {
    /// That process.
    pub pid: u32,
    /// Why it left the connection to the kernel.
    pub reason: Reason,
}

/// A connection of this host: the inode of its network namespace, and its addresses as one end sees them.
type Ends = (u64, SocketAddr, SocketAddr);

/// Whether the reason of `conn` is only that its other end decided.
pub(super) fn is_asked_for(conn: &Conn) -> bool {
    conn.state != Some(ConnState::Listening) && conn.why().is_some_and(leaves_it_to_the_peer)
}

fn leaves_it_to_the_peer(reason: Reason) -> bool {
    matches!(reason, Reason::ClientWithoutNetacc | Reason::PeerRefused)
}

/// Adds to the connections of `pages` what their other ends, among `all`, say of them.
pub(super) fn ask(proc: &Path, pages: &mut [Snapshot], mut all: Vec<Snapshot>) {
    let conns = pages.iter().flat_map(|page| &page.conns);
    let asked = conns.filter(|conn| is_asked_for(conn));
    let ours: HashSet<_> = asked.filter_map(|conn| conn.local.map(plain)).collect();
    let leads_here = |conn: &Conn| conn.peer.is_some_and(|peer| ours.contains(&plain(peer)));
    all.retain(|page| page.conns.iter().any(leads_here));

    let mut found: HashMap<Ends, OtherEnd> = HashMap::new();
    for page in &mut all {
        let Some(namespace) = network_of(proc, page.pid) else {
            continue;
        };
        // The port that the kernel has chosen is not in the page.
        kernel::ask(proc, page);
        let told = page.conns.iter().filter_map(|conn| {
            let (reason, pid) = (conn.why()?, page.pid);
            let ends = (namespace, plain(conn.peer?), plain(conn.local?));
            (conn.state != Some(ConnState::Listening)).then_some((ends, OtherEnd { pid, reason }))
        });
        found.extend(told);
    }
    for page in pages {
        let Some(namespace) = network_of(proc, page.pid) else {
            continue;
        };
        for conn in page.conns.iter_mut().filter(|conn| is_asked_for(conn)) {
            let (Some(local), Some(peer)) = (conn.local, conn.peer) else {
                continue;
            };
            let other = found.get(&(namespace, plain(local), plain(peer)));
            // A server that refuses, and its client that therefore came as any other: the server's reason is the one.
            conn.other_end = other.copied().filter(|other| {
                other.reason != Reason::ClientWithoutNetacc && conn.reason != Some(other.reason)
            });
        }
    }
}

fn network_of(proc: &Path, pid: u32) -> Option<u64> {
    let path = proc.join(pid.to_string()).join("ns/net");
    std::fs::metadata(path).ok().map(|stat| stat.ino())
}

/// An address that one end may know as IPv4 and the other as IPv6.
fn plain(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
