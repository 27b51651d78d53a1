//! What changed between two looks at the same processes, for each second.

use std::collections::HashMap;
use std::net::SocketAddr;

use netacc::stats::reader::{Conn, Link, Snapshot};

/// What moves, for each second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Bytes sent.
    pub tx_bytes: f64,
    /// Bytes received.
    pub rx_bytes: f64,
    /// Messages sent: records of a link, writes of a connection.
    pub tx_msgs: f64,
    /// Messages received: records of a link, reads of a connection.
    pub rx_msgs: f64,
    /// Times that a sender found no room.
    pub stalls: f64,
    /// Work requests.
    pub work_requests: f64,
}

impl Rate {
    /// What tables are sorted by: bytes both ways, then messages.
    pub fn weight(&self) -> (f64, f64) {
        (self.tx_bytes + self.rx_bytes, self.tx_msgs + self.rx_msgs)
    }

    /// Of both together.
    pub fn plus(self, other: Rate) -> Rate {
        Rate {
            tx_bytes: self.tx_bytes + other.tx_bytes,
            rx_bytes: self.rx_bytes + other.rx_bytes,
            tx_msgs: self.tx_msgs + other.tx_msgs,
            rx_msgs: self.rx_msgs + other.rx_msgs,
            stalls: self.stalls + other.stalls,
            work_requests: self.work_requests + other.work_requests,
        }
    }
}

/// Counts at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    tx_bytes: u64,
    rx_bytes: u64,
    tx_msgs: u64,
    rx_msgs: u64,
    stalls: u64,
    work_requests: u64,
}

impl Counts {
    fn of_link(link: &Link) -> Counts {
        Counts {
            tx_bytes: link.tx_bytes,
            rx_bytes: link.rx_bytes,
            tx_msgs: link.tx_records,
            rx_msgs: link.rx_records,
            stalls: link.stalls,
            work_requests: link.work_requests,
        }
    }

    fn of_conn(conn: &Conn) -> Counts {
        Counts {
            tx_bytes: conn.tx_bytes,
            rx_bytes: conn.rx_bytes,
            tx_msgs: conn.tx_msgs,
            rx_msgs: conn.rx_msgs,
            stalls: conn.window_stalls + conn.ring_stalls,
            work_requests: 0,
        }
    }

    /// A count that went down began anew.
    fn since(&self, before: &Counts, seconds: f64) -> Rate {
        let rate = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now) as f64 / seconds;
        Rate {
            tx_bytes: rate(self.tx_bytes, before.tx_bytes),
            rx_bytes: rate(self.rx_bytes, before.rx_bytes),
            tx_msgs: rate(self.tx_msgs, before.tx_msgs),
            rx_msgs: rate(self.rx_msgs, before.rx_msgs),
            stalls: rate(self.stalls, before.stalls),
            work_requests: rate(self.work_requests, before.work_requests),
        }
    }
}

/// A process of this number and start.
type Process = (u32, u64);
/// A link: its process, its slot, its peer.
type LinkKey = (Process, usize, u32);
/// A connection: its process, its slot, its ends.
type ConnKey = (Process, usize, Option<SocketAddr>, Option<SocketAddr>);

/// What was counted at the last look.
#[derive(Default)]
pub struct Before {
    processes: HashMap<Process, ()>,
    links: HashMap<LinkKey, Counts>,
    conns: HashMap<ConnKey, Counts>,
}

/// Rates of what is there now.
pub struct Rates<'a> {
    /// Links, the busiest first.
    pub links: Vec<(&'a Snapshot, &'a Link, Rate)>,
    /// Connections, the busiest first. (Listeners are not among them.)
    pub conns: Vec<(&'a Snapshot, &'a Conn, Rate)>,
    /// All links together.
    pub total: Rate,
}

impl Before {
    /// Compares with `pages`, taken `seconds` later, which are remembered in its place. What a process that was there
    /// before has got since counts from 0; of one that is new nothing is known yet.
    pub fn rates<'a>(&mut self, pages: &'a [Snapshot], seconds: f64) -> Rates<'a> {
        let mut now = Before::default();
        let mut rates = Rates {
            links: Vec::new(),
            conns: Vec::new(),
            total: Rate::default(),
        };
        for page in pages {
            let process = (page.pid, page.start_time);
            now.processes.insert(process, ());
            let is_new = !self.processes.contains_key(&process);
            let rate = |counts: Counts, before: Option<&Counts>| match before {
                Some(before) => counts.since(before, seconds),
                None if is_new => Rate::default(),
                None => counts.since(&Counts::default(), seconds),
            };
            for link in &page.links {
                let (key, counts) = ((process, link.slot, link.peer_pid), Counts::of_link(link));
                let rate = rate(counts, self.links.get(&key));
                now.links.insert(key, counts);
                rates.total = rates.total.plus(rate);
                rates.links.push((page, link, rate));
            }
            for conn in page.conns.iter().filter(|conn| is_stream(conn)) {
                let key = (process, conn.slot, conn.local, conn.peer);
                let counts = Counts::of_conn(conn);
                let rate = rate(counts, self.conns.get(&key));
                now.conns.insert(key, counts);
                rates.conns.push((page, conn, rate));
            }
        }
        let order = |a: &Rate, b: &Rate| b.weight().partial_cmp(&a.weight());
        rates
            .links
            .sort_by(|a, b| order(&a.2, &b.2).unwrap_or(std::cmp::Ordering::Equal));
        rates
            .conns
            .sort_by(|a, b| order(&a.2, &b.2).unwrap_or(std::cmp::Ordering::Equal));
        *self = now;
        rates
    }
}

fn is_stream(conn: &Conn) -> bool {
    conn.state != Some(netacc::stats::ConnState::Listening)
}
