//! Snapshots as JSON. docs/netacc_ss.schema.json describes it, and a test compares the two: whoever reads it relies on the
//! names.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use netacc::stats::reader::{self, Library, Snapshot};
use netacc::stats::{Mode, Reason};
use serde::Serialize;

use crate::args::View;
use crate::totals::Totals;
use crate::view;

/// Raised when a name changes its meaning or goes; names are added without.
const FORMAT: u32 = 1;

/// All that is printed.
#[derive(Serialize)]
pub struct Report<'a> {
    format: u32,
    netacc_ss: &'static str,
    /// Seconds since 1970.
    time: f64,
    processes: Vec<Process<'a>>,
    /// What they have counted together.
    #[serde(skip_serializing_if = "Option::is_none")]
    totals: Option<Sums>,
    /// A sentence for each process that could not be shown.
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Sums {
    processes: usize,
    counters: BTreeMap<&'static str, u64>,
    connections_now: BTreeMap<String, u64>,
    fallbacks: Vec<Fallback>,
}

impl<'a> Report<'a> {
    /// What `view` shows of these processes.
    pub fn new(
        pages: &'a [(Snapshot, Option<Library>)],
        problems: Vec<String>,
        view: View,
    ) -> Self {
        let processes = pages
            .iter()
            .map(|(page, library)| process(page, library.as_ref(), view));
        Self {
            format: FORMAT,
            netacc_ss: env!("CARGO_PKG_VERSION"),
            time: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |time| time.as_secs_f64()),
            processes: processes.collect(),
            totals: view.wants(View::Cnt).then(|| sums(pages)),
            problems,
        }
    }

    /// It as text.
    pub fn text(&self) -> String {
        // Maps with keys that are strings, and numbers: nothing that can fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// Parts that the view leaves out are left out.
#[derive(Serialize)]
struct Process<'a> {
    pid: u32,
    uid: u32,
    comm: &'a str,
    /// Seconds since 1970.
    counting_since: f64,
    library: LibraryInfo<'a>,
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Vec<Link<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<Vec<Conn<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counters: Option<BTreeMap<&'a str, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections_now: Option<BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallbacks: Option<Vec<Fallback>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<Vec<Setting<'a>>>,
}

#[derive(Serialize)]
struct LibraryInfo<'a> {
    version: &'a str,
    path: Option<String>,
    replaced: bool,
}

#[derive(Serialize)]
struct Protocol {
    oldest: u32,
    newest: u32,
}

#[derive(Serialize)]
struct Link<'a> {
    link: usize,
    state: Option<String>,
    fabric: Option<String>,
    device: Option<&'a str>,
    qp: Option<u32>,
    peer_pid: u32,
    peer_uid: u32,
    connections: u64,
    connections_total: u64,
    tx_bytes: u64,
    rx_bytes: u64,
    tx_records: u64,
    rx_records: u64,
    tx_batches: u64,
    work_requests: u64,
    doorbells: u64,
    carriers: u64,
    stalls: u64,
    spilled_bytes: u64,
    tx_ring_bytes: u64,
    rx_ring_bytes: u64,
}

#[derive(Serialize)]
struct Conn<'a> {
    fd: i32,
    state: Option<String>,
    kernel_state: Option<String>,
    mode: Option<String>,
    local: Option<Address>,
    peer: Option<Address>,
    link: Option<usize>,
    device: Option<&'a str>,
    qp: Option<u32>,
    rx_queue: u64,
    tx_queue: u64,
    rx_bytes: u64,
    tx_bytes: u64,
    rx_messages: u64,
    tx_messages: u64,
    window_stalls: u64,
    ring_stalls: u64,
    reason: Option<Why>,
    other_end: Option<OtherEnd>,
}

#[derive(Serialize)]
struct OtherEnd {
    pid: u32,
    reason: Why,
}

#[derive(Serialize)]
struct Address {
    address: String,
    port: u16,
}

#[derive(Serialize)]
struct Why {
    code: u16,
    name: &'static str,
    sentence: &'static str,
}

#[derive(Serialize)]
struct Fallback {
    #[serde(flatten)]
    reason: Why,
    count: u64,
}

#[derive(Serialize)]
struct Memory<'a> {
    devices: Vec<Device<'a>>,
    registered_bytes: u64,
    used_bytes: u64,
    regions: u64,
    spilled_bytes: u64,
    unread_bytes: u64,
}

#[derive(Serialize)]
struct Device<'a> {
    name: &'a str,
    qps: u64,
    regions: u64,
    registered_bytes: u64,
    used_bytes: u64,
}

#[derive(Serialize)]
struct Setting<'a> {
    key: &'a str,
    value: &'a str,
    source: &'a str,
}

fn process<'a>(page: &'a Snapshot, library: Option<&Library>, view: View) -> Process<'a> {
    let counts = view.wants(View::Cnt);
    let links = || {
        page.links
            .iter()
            .filter(|link| view != View::Qp || link.carriers > 0)
    };
    Process {
        pid: page.pid,
        uid: page.uid,
        comm: &page.comm,
        counting_since: page.created_ns as f64 / 1e9,
        library: LibraryInfo {
            version: &page.version,
            path: library.map(|library| library.path.display().to_string()),
            replaced: library.is_some_and(|library| library.replaced),
        },
        protocol: page
            .protocols
            .map(|(oldest, newest)| Protocol { oldest, newest }),
        links: (view.wants(View::Link) || view == View::Qp)
            .then(|| links().map(|it| link(page, it)).collect()),
        connections: view
            .wants(View::Sock)
            .then(|| page.conns.iter().map(|it| conn(page, it)).collect()),
        memory: view.wants(View::Mem).then(|| memory(page)),
        counters: counts.then(|| {
            page.counters
                .iter()
                .map(|counter| (counter.name, counter.value))
                .collect()
        }),
        connections_now: counts.then(|| {
            let modes = [Mode::Loop, Mode::Shm, Mode::Rdma, Mode::Tcp];
            modes
                .map(|mode| (lower(mode.name()), view::now(page, mode)))
                .into()
        }),
        fallbacks: counts.then(|| fallbacks(&page.fallbacks)),
        configuration: view
            .wants(View::Cfg)
            .then(|| page.config.iter().map(setting).collect()),
    }
}

/// Those that occurred.
fn fallbacks(all: &[(Reason, u64)]) -> Vec<Fallback> {
    let some = all.iter().filter(|(_, count)| *count > 0);
    some.map(|(reason, count)| Fallback {
        reason: why(*reason),
        count: *count,
    })
    .collect()
}

fn sums(pages: &[(Snapshot, Option<Library>)]) -> Sums {
    let pages: Vec<&Snapshot> = pages.iter().map(|(page, _)| page).collect();
    let all = Totals::of(&pages);
    let now = all.now.iter();
    Sums {
        processes: all.processes,
        counters: all.counters.into_iter().collect(),
        connections_now: now
            .map(|(mode, count)| (lower(mode.name()), *count))
            .collect(),
        fallbacks: fallbacks(&all.fallbacks),
    }
}

fn link<'a>(page: &'a Snapshot, link: &reader::Link) -> Link<'a> {
    Link {
        link: link.slot,
        state: link.state.map(|state| lower(state.name())),
        fabric: link.fabric.map(|fabric| lower(fabric.name())),
        device: page.device_of(link).map(|device| device.name.as_str()),
        qp: link.qp_number,
        peer_pid: link.peer_pid,
        peer_uid: link.peer_uid,
        connections: link.conns_now,
        connections_total: link.conns_total,
        tx_bytes: link.tx_bytes,
        rx_bytes: link.rx_bytes,
        tx_records: link.tx_records,
        rx_records: link.rx_records,
        tx_batches: link.tx_batches,
        work_requests: link.work_requests,
        doorbells: link.doorbells,
        carriers: link.carriers,
        stalls: link.stalls,
        spilled_bytes: link.spilled_bytes,
        tx_ring_bytes: link.ring_size,
        rx_ring_bytes: link.rx_ring_size,
    }
}

fn conn<'a>(page: &'a Snapshot, conn: &reader::Conn) -> Conn<'a> {
    let link = page.link_of(conn);
    let device = link.and_then(|link| page.device_of(link));
    let mode = conn.mode.filter(|mode| *mode != Mode::Undecided);
    Conn {
        fd: conn.fd,
        state: conn.state.map(|state| lower(state.name())),
        kernel_state: conn.kernel_state.map(lower),
        mode: mode.map(|mode| lower(mode.name())),
        local: conn.local.map(address),
        peer: conn.peer.map(address),
        link: conn.link,
        device: device.map(|device| device.name.as_str()),
        qp: link.and_then(|link| link.qp_number),
        rx_queue: conn.rx_queue,
        tx_queue: conn.tx_queue,
        rx_bytes: conn.rx_bytes,
        tx_bytes: conn.tx_bytes,
        rx_messages: conn.rx_msgs,
        tx_messages: conn.tx_msgs,
        window_stalls: conn.window_stalls,
        ring_stalls: conn.ring_stalls,
        reason: conn.why().map(why),
        other_end: conn.other_end.map(|end| OtherEnd {
            pid: end.pid,
            reason: why(end.reason),
        }),
    }
}

fn memory(page: &Snapshot) -> Memory<'_> {
    let count = |name: &str| page.counter(name).unwrap_or(0);
    let devices = page.devices.iter().map(|device| Device {
        name: &device.name,
        qps: device.qps_now,
        regions: device.mrs_now,
        registered_bytes: device.mr_bytes_now,
        used_bytes: device.mr_bytes_used,
    });
    Memory {
        devices: devices.collect(),
        registered_bytes: count("mr_bytes_now"),
        used_bytes: count("mr_bytes_used"),
        regions: count("mrs_now"),
        spilled_bytes: count("spilled_bytes"),
        unread_bytes: page
            .conns
            .iter()
            .map(|conn| conn.rx_queue)
            .fold(0, u64::wrapping_add),
    }
}

fn setting(setting: &reader::Setting) -> Setting<'_> {
    Setting {
        key: &setting.name,
        value: &setting.value,
        source: &setting.source,
    }
}

fn address(address: SocketAddr) -> Address {
    Address {
        address: address.ip().to_string(),
        port: address.port(),
    }
}

fn why(reason: Reason) -> Why {
    Why {
        code: reason as u16,
        name: reason.name(),
        sentence: reason.sentence(),
    }
}

fn lower(name: &str) -> String {
    name.to_ascii_lowercase()
}
