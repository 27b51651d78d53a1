//! A page's bytes as plain values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::OtherEnd;
use crate::stats::codes::{ConnState, Fabric, LinkState, Mode};
use crate::stats::layout::{
    CONN_SLOTS, ConnStats, DEVICE_SLOTS, DeviceStats, Global, LAYOUT, LINK_SLOTS, LinkStats, MAGIC,
    Page,
};
use crate::stats::reason::Reason;

/// Why bytes are not a page that this build can show.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The process is just making the page.
    #[error("its page is just being made: try again")]
    Unfinished,
    /// Something else.
    #[error("its file is not a page of NetACC")]
    NotAPage,
    /// A page of another release.
    #[error(
        "its library {version} writes page layout {layout}, this tool reads layout {LAYOUT}: use \
         the netacc_ss of that release"
    )]
    OtherLayout {
        /// Layout number found.
        layout: u32,
        /// The library's version.
        version: String,
    },
    /// The right layout number, but not its sizes.
    #[error("its page is damaged: {what} is {found}, not {expected}")]
    Damaged {
        /// Which number is wrong.
        what: &'static str,
        /// What it is.
        found: u64,
        /// What it should be.
        expected: u64,
    },
}

/// One named number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Name in `snake_case`.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// What it counts, in one sentence.
    pub meaning: &'static str,
}

/// One link. A code that this build does not know is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Number of its slot.
    pub slot: usize,
    /// Where it stands.
    pub state: Option<LinkState>,
    /// What it is made of.
    pub fabric: Option<Fabric>,
    /// The peer process, 0 if unknown.
    pub peer_pid: u32,
    /// The peer's user.
    pub peer_uid: u32,
    /// Connections that it carries now.
    pub conns_now: u64,
    /// Connections that it ever carried.
    pub conns_total: u64,
    /// Size of the ring that it sends by, bytes.
    pub ring_size: u64,
    /// Size of the ring that it receives by, bytes.
    pub rx_ring_size: u64,
    /// Number of the queue pair that carries it.
    pub qp_number: Option<u32>,
    /// Slot of that queue pair's device.
    pub device: Option<usize>,
    /// Queue pairs (or the streams in their place) that it has had.
    pub carriers: u64,
    /// Records sent.
    pub tx_records: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Publishes.
    pub tx_batches: u64,
    /// Times that a sender found no room in the ring.
    pub stalls: u64,
    /// Work requests posted for it.
    pub work_requests: u64,
    /// Posts of these, a doorbell each.
    pub doorbells: u64,
    /// Records received.
    pub rx_records: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes moved out of the ring for slow connections.
    pub spilled_bytes: u64,
}

/// One RDMA device that the process has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Number of its slot.
    pub slot: usize,
    /// Its name.
    pub name: String,
    /// Queue pairs that exist now.
    pub qps_now: u64,
    /// Memory regions registered now.
    pub mrs_now: u64,
    /// Bytes registered now.
    pub mr_bytes_now: u64,
    /// Bytes of these in use now.
    pub mr_bytes_used: u64,
}

/// One key of the configuration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    pub name: String,
    /// Its value as a configuration file would have it.
    pub value: String,
    /// Where the value came from.
    pub source: String,
}

/// One connection. A code that this build does not know is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conn {
    /// Number of its slot.
    pub slot: usize,
    /// Where it stands.
    pub state: Option<ConnState>,
    /// Where it stands if the kernel carries it, in the words of `ss`; only known once the kernel was asked
    /// ([`Store::ask_kernel`](super::Store::ask_kernel)).
    pub kernel_state: Option<&'static str>,
    /// What carries it.
    pub mode: Option<Mode>,
    /// Why it is not accelerated.
    pub reason: Option<Reason>,
    /// What the other end says of it, where that is the one that decided; only known once it was asked
    /// ([`Store::ask_other_ends`](super::Store::ask_other_ends)).
    pub other_end: Option<OtherEnd>,
    /// The application's descriptor.
    pub fd: i32,
    /// Slot of its link.
    pub link: Option<usize>,
    /// Local address, once known.
    pub local: Option<SocketAddr>,
    /// Peer's address, once known.
    pub peer: Option<SocketAddr>,
    /// Bytes sent over its link.
    pub tx_bytes: u64,
    /// Bytes received over its link.
    pub rx_bytes: u64,
    /// Writes of the application that sent something.
    pub tx_msgs: u64,
    /// Reads of the application that took something.
    pub rx_msgs: u64,
    /// Bytes sent that the peer's application is not known to have read. (It tells in steps.)
    pub tx_queue: u64,
    /// Bytes that have arrived and were not read.
    pub rx_queue: u64,
    /// Times that a write had to wait for the window.
    pub window_stalls: u64,
    /// Times that a write found no room in the link's ring.
    pub ring_stalls: u64,
}

impl Conn {
    /// The name of its state, the kernel's own where that is known.
    pub fn state_name(&self) -> &'static str {
        let own = self.state.map_or("?", ConnState::name);
        self.kernel_state.unwrap_or(own)
    }

    /// Why the kernel carries it, or a listener has no side port; `None` if there is nothing to say.
    pub fn why(&self) -> Option<Reason> {
        self.reason.filter(|reason| *reason != Reason::None)
    }
}

/// What a page said when it was read. Numbers that change together may differ by what was under
/// way at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The process.
    pub pid: u32,
    /// Its effective user when the page was made.
    pub uid: u32,
    /// Its start, clock ticks since boot, 0 if unknown.
    pub start_time: u64,
    /// Inode of its PID namespace, 0 if unknown.
    pub pid_namespace: u64,
    /// When the page was made, nanoseconds since 1970.
    pub created_ns: u64,
    /// Name of the program.
    pub comm: String,
    /// Version of the library.
    pub version: String,
    /// The oldest and the newest version of the control protocol that it speaks, if it says so.
    pub protocols: Option<(u32, u32)>,
    /// All plain counters, those of living links added.
    pub counters: Vec<Counter>,
    /// How many connections were left to kernel TCP, for every reason.
    pub fallbacks: Vec<(Reason, u64)>,
    /// The configuration in force, empty if the process has not read it yet.
    pub config: Vec<Setting>,
    /// RDMA devices that it has opened.
    pub devices: Vec<Device>,
    /// Links that exist.
    pub links: Vec<Link>,
    /// Connections that exist and have a slot.
    pub conns: Vec<Conn>,
}

impl Snapshot {
    /// Reads a page's bytes, whatever they are.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let page = copy_checked(bytes)?;
        let header = &page.header;
        let links: Vec<Link> = page.links.iter().enumerate().filter_map(link).collect();
        let counters = counters(&page.global, &links);
        let devices = page.devices.iter().enumerate().filter_map(device);
        let conns = page.conns.iter().enumerate().filter_map(conn).collect();
        let fallbacks = Reason::ALL.iter().zip(&page.global.fallbacks);
        Ok(Self {
            pid: get32(&header.pid),
            uid: get32(&header.uid),
            start_time: get(&header.start_time),
            pid_namespace: get(&header.pid_namespace),
            created_ns: get(&header.created_ns),
            comm: text(&header.comm),
            version: text(&header.version),
            protocols: match (
                get32(&header.oldest_protocol),
                get32(&header.newest_protocol),
            ) {
                (0, _) => None,
                range => Some(range),
            },
            counters,
            fallbacks: fallbacks
                .map(|(reason, count)| (*reason, get(count)))
                .collect(),
            config: config(&page.config),
            devices: devices.collect(),
            links,
            conns,
        })
    }

    /// The device that carries a link.
    pub fn device_of(&self, link: &Link) -> Option<&Device> {
        let slot = link.device?;
        self.devices.iter().find(|device| device.slot == slot)
    }

    /// The link that carries a connection.
    pub fn link_of(&self, conn: &Conn) -> Option<&Link> {
        let slot = conn.link?;
        self.links.iter().find(|link| link.slot == slot)
    }

    /// A counter by its name (as in [`Counter::name`]).
    pub fn counter(&self, name: &str) -> Option<u64> {
        let found = self.counters.iter().find(|counter| counter.name == name);
        found.map(|counter| counter.value)
    }

    /// How many connections were left to kernel TCP for `reason`.
    pub fn fallback(&self, reason: Reason) -> u64 {
        let found = self.fallbacks.iter().find(|(other, _)| *other == reason);
        found.map_or(0, |(_, count)| *count)
    }
}

/// Copies the bytes to a `Page` if they have its length and a header of this layout.
fn copy_checked(bytes: &[u8]) -> Result<Box<Page>, FormatError> {
    let word = |offset| {
        let word: Option<[u8; 8]> = bytes.get(offset..offset + 8)?.try_into().ok();
        word.map(u64::from_ne_bytes)
    };
    match word(0) {
        Some(MAGIC) => {}
        None | Some(0) => return Err(FormatError::Unfinished),
        Some(_) => return Err(FormatError::NotAPage),
    }

    let mut page = Box::<Page>::new_zeroed();
    let len = bytes.len().min(size_of::<Page>());
    // SAFETY: both are at least `len` bytes long and do not overlap; every field of `Page` is an
    // atomic integer, for which any bytes, zeros included, are a value.
    let page = unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), page.as_mut_ptr().cast::<u8>(), len);
        page.assume_init()
    };
    let header = &page.header;
    let layout = get32(&header.layout);
    if layout != LAYOUT {
        let version = text(&header.version);
        return Err(FormatError::OtherLayout { layout, version });
    }
    let sizes = [
        ("total size", get32(&header.total_size), size_of::<Page>()),
        (
            "counters' size",
            get32(&header.global_size),
            size_of::<Global>(),
        ),
        (
            "link size",
            get32(&header.link_size),
            size_of::<LinkStats>(),
        ),
        ("number of links", get32(&header.link_slots), LINK_SLOTS),
        (
            "connection size",
            get32(&header.conn_size),
            size_of::<ConnStats>(),
        ),
        (
            "number of connections",
            get32(&header.conn_slots),
            CONN_SLOTS,
        ),
        (
            "device size",
            get32(&header.device_size),
            size_of::<DeviceStats>(),
        ),
        (
            "number of devices",
            get32(&header.device_slots),
            DEVICE_SLOTS,
        ),
    ];
    let length = ("file length", bytes.len() as u64, size_of::<Page>() as u64);
    let sizes = sizes.map(|(what, found, expected)| (what, u64::from(found), expected as u64));
    for (what, found, expected) in sizes.into_iter().chain([length]) {
        if found != expected {
            return Err(FormatError::Damaged {
                what,
                found,
                expected,
            });
        }
    }
    Ok(page)
}

fn counters(global: &Global, links: &[Link]) -> Vec<Counter> {
    let sum = |field: fn(&Link) -> u64| links.iter().map(field).fold(0, u64::wrapping_add);
    let named = Global::NAMES.iter().zip(global.values());
    named
        .map(|((name, meaning), ended)| {
            let living = match *name {
                "tx_records" => sum(|link| link.tx_records),
                "tx_bytes" => sum(|link| link.tx_bytes),
                "tx_batches" => sum(|link| link.tx_batches),
                "work_requests" => sum(|link| link.work_requests),
                "doorbells" => sum(|link| link.doorbells),
                "rdma_records" => sum(|link| match link.work_requests {
                    0 => 0,
                    _ => link.tx_records,
                }),
                "rx_records" => sum(|link| link.rx_records),
                "rx_bytes" => sum(|link| link.rx_bytes),
                _ => 0,
            };
            Counter {
                name,
                value: ended.wrapping_add(living),
                meaning: meaning.trim(),
            }
        })
        .collect()
}

fn link((slot, link): (usize, &LinkStats)) -> Option<Link> {
    let state = LinkState::from_code(get32(&link.state));
    (state != Some(LinkState::Free)).then(|| Link {
        slot,
        state,
        fabric: Fabric::from_code(get32(&link.fabric)),
        peer_pid: get32(&link.peer_pid),
        peer_uid: get32(&link.peer_uid),
        conns_now: get(&link.conns_now),
        conns_total: get(&link.conns_total),
        ring_size: get(&link.ring_size),
        rx_ring_size: get(&link.rx_ring_size),
        qp_number: Some(get32(&link.qp_number)).filter(|number| *number != 0),
        device: (get32(&link.device) as usize)
            .checked_sub(1)
            .filter(|device| *device < DEVICE_SLOTS),
        carriers: get(&link.carriers),
        tx_records: get(&link.tx_records),
        tx_bytes: get(&link.tx_bytes),
        tx_batches: get(&link.tx_batches),
        stalls: get(&link.stalls),
        work_requests: get(&link.work_requests),
        doorbells: get(&link.doorbells),
        rx_records: get(&link.rx_records),
        rx_bytes: get(&link.rx_bytes),
        spilled_bytes: get(&link.spilled_bytes),
    })
}

fn device((slot, device): (usize, &DeviceStats)) -> Option<Device> {
    let name = text(&device.name);
    (!name.is_empty()).then(|| Device {
        slot,
        name,
        qps_now: get(&device.qps_now),
        mrs_now: get(&device.mrs_now),
        mr_bytes_now: get(&device.mr_bytes_now),
        mr_bytes_used: get(&device.mr_bytes_used),
    })
}

fn config(words: &[AtomicU64]) -> Vec<Setting> {
    let bytes = bytes_of(words);
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let lines = String::from_utf8_lossy(&bytes[..end]);
    let setting = |line: &str| {
        let mut fields = line.splitn(3, '\t').map(printable);
        Some(Setting {
            name: fields.next()?,
            value: fields.next()?,
            source: fields.next()?,
        })
    };
    lines.lines().filter_map(setting).collect()
}

fn conn((slot, conn): (usize, &ConnStats)) -> Option<Conn> {
    let state = ConnState::from_code(get32(&conn.state));
    let family = get32(&conn.family);
    let mode = Mode::from_code(get32(&conn.mode));
    let tx_bytes = get(&conn.tx_bytes);
    // What the kernel carries waits in its queues.
    let queued = |bytes: u64| if mode == Some(Mode::Tcp) { 0 } else { bytes };
    (state != Some(ConnState::Free)).then(|| Conn {
        slot,
        state,
        kernel_state: None,
        mode,
        reason: Reason::from_code(get32(&conn.reason)),
        other_end: None,
        fd: get32(&conn.fd).cast_signed(),
        link: (get32(&conn.link) as usize)
            .checked_sub(1)
            .filter(|link| *link < LINK_SLOTS),
        local: address(family, &conn.local_addr, &conn.local_port),
        peer: address(family, &conn.peer_addr, &conn.peer_port),
        tx_bytes,
        rx_bytes: get(&conn.rx_bytes),
        tx_msgs: get(&conn.tx_msgs),
        rx_msgs: get(&conn.rx_msgs),
        tx_queue: queued(tx_bytes.saturating_sub(get(&conn.tx_read))),
        rx_queue: queued(get(&conn.rx_unread)),
        window_stalls: get(&conn.window_stalls),
        ring_stalls: get(&conn.ring_stalls),
    })
}

fn address(family: u32, words: &[AtomicU64; 2], port: &AtomicU32) -> Option<SocketAddr> {
    let bytes = bytes_of(words);
    let ip = match family {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?)),
        6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::try_from(get32(port)).ok()?))
}

/// Text up to the first zero.
fn text(words: &[AtomicU64]) -> String {
    let bytes = bytes_of(words);
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    printable(&String::from_utf8_lossy(&bytes[..end]))
}

/// Made fit for a terminal.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(shown).collect()
}

fn bytes_of(words: &[AtomicU64]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| get(word).to_ne_bytes())
        .collect()
}

fn get(word: &AtomicU64) -> u64 {
    word.load(Relaxed)
}

fn get32(word: &AtomicU32) -> u32 {
    word.load(Relaxed)
}
