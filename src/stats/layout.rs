//! The page's layout: what the library writes and `reader` reads.
//!
//! Everything is a fixed-size atomic integer, so that any bytes at all are a valid page, zeroed
//! memory is an empty one, and a reader in another process needs no lock. Change anything here and
//! [`LAYOUT`] must change too.

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::codes::{ConnState, LinkState, Mode};
use super::reason::Reason;

/// First eight bytes of a finished page.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"NetACCst");
/// Version of this layout.
pub const LAYOUT: u32 = 7;
/// Reasons that a page has room for: a library that knows more of them has the same layout.
pub const REASON_SLOTS: usize = 64;
const _: () = assert!(Reason::COUNT <= REASON_SLOTS);
/// RDMA devices that a page can show.
pub const DEVICE_SLOTS: usize = 16;
/// Bytes of [`Page::config`].
pub const CONFIG_SIZE: usize = 4096;
/// Links that a page can show.
pub const LINK_SLOTS: usize = 2048;
/// Connections that a page can show; more are counted in [`Global`] only.
pub const CONN_SLOTS: usize = 4096;

/// Adds `n` to a counter that several threads may write at once.
#[inline]
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

/// Adds `n` to a counter whose only writer is the caller (it holds the lock that guards it):
/// a plain load and store, several times cheaper than [`add`].
#[inline]
pub fn bump(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// Who wrote the page and in which layout. Written once, the magic last.
#[repr(C, align(64))]
pub struct Header {
    /// [`MAGIC`] once the page is ready to be read.
    pub magic: AtomicU64,
    /// [`LAYOUT`].
    pub layout: AtomicU32,
    /// Number of reasons that the writer knows.
    pub reasons: AtomicU32,
    /// Size of the whole page, bytes.
    pub total_size: AtomicU32,
    /// Size of [`Global`], bytes.
    pub global_size: AtomicU32,
    /// Size of one [`LinkStats`], bytes.
    pub link_size: AtomicU32,
    /// Number of link slots.
    pub link_slots: AtomicU32,
    /// Size of one [`ConnStats`], bytes.
    pub conn_size: AtomicU32,
    /// Number of connection slots.
    pub conn_slots: AtomicU32,
    /// The process, as it sees itself in its PID namespace.
    pub pid: AtomicU32,
    /// Its effective user when the page was made.
    pub uid: AtomicU32,
    /// Its start, clock ticks since boot (field 22 of `/proc/PID/stat`), 0 if unknown.
    pub start_time: AtomicU64,
    /// Inode of its PID namespace, 0 if unknown.
    pub pid_namespace: AtomicU64,
    /// When the page was made, nanoseconds since 1970.
    pub created_ns: AtomicU64,
    /// Name of the program as in `/proc/PID/comm`, padded with zeros.
    pub comm: [AtomicU64; 2],
    /// Version of the library, padded with zeros.
    pub version: [AtomicU64; 4],
    /// The oldest version of the control protocol that it speaks, 0 if it does not say.
    pub oldest_protocol: AtomicU32,
    /// The newest.
    pub newest_protocol: AtomicU32,
    /// Size of one [`DeviceStats`], bytes.
    pub device_size: AtomicU32,
    /// Number of device slots.
    pub device_slots: AtomicU32,
}

impl Header {
    /// Says how a page of this layout is laid out. (The magic comes when all else is there.)
    pub fn tell_layout(&self) {
        let set = |field: &AtomicU32, value: usize| field.store(value as u32, Relaxed);
        set(&self.layout, LAYOUT as usize);
        set(&self.reasons, Reason::COUNT);
        set(&self.total_size, size_of::<Page>());
        set(&self.global_size, size_of::<Global>());
        set(&self.link_size, size_of::<LinkStats>());
        set(&self.link_slots, LINK_SLOTS);
        set(&self.conn_size, size_of::<ConnStats>());
        set(&self.conn_slots, CONN_SLOTS);
        set(&self.device_size, size_of::<DeviceStats>());
        set(&self.device_slots, DEVICE_SLOTS);
    }
}

/// Declares [`Global`] and the table of its counters' names and meanings.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters of the whole process, since its page was made.
        ///
        /// What links and connections count on the data path is counted in their own slots; the
        /// `tx_` and `rx_` counters here take up a link's numbers when its slot is released, and the
        /// reader adds those of living links.
        #[repr(C, align(64))]
        pub struct Global {
            $($(#[doc = $doc])+ pub $name: AtomicU64,)+
            /// Connections left to kernel TCP, by [`Reason`].
            pub fallbacks: [AtomicU64; REASON_SLOTS],
        }

        impl Global {
            /// Name and meaning of every plain counter, in the order of [`Global::values`].
            pub const NAMES: &[(&'static str, &'static str)] =
                &[$((stringify!($name), concat!($($doc),+)),)+];

            /// The present values of the plain counters.
            pub fn values(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$name.load(Relaxed),)+]
            }
        }
    };
}

counters! {
    /// Connections that this process opened and that became LOOP.
    connected_loop,
    /// Connections that this process opened and that became SHM.
    connected_shm,
    /// Connections that this process opened and that became RDMA.
    connected_rdma,
    /// Connections that this process opened and that stayed kernel TCP.
    connected_tcp,
    /// Connections that this process accepted as LOOP.
    accepted_loop,
    /// Connections that this process accepted as SHM.
    accepted_shm,
    /// Connections that this process accepted as RDMA.
    accepted_rdma,
    /// Connections that this process accepted as kernel TCP.
    accepted_tcp,
    /// Of those that this process opened, the ones opened fast (NACC_FAST_CONNECT).
    connected_fast,
    /// Of those that this process accepted, the ones opened fast.
    accepted_fast,
    /// Connections opened fast that came to have a kernel's connection behind them.
    fast_stood,
    /// Connections closed, of every mode.
    conns_closed,
    /// Connections that left their link for the kernel's connection behind them.
    handed_back,
    /// Links made.
    links_opened,
    /// Links that another process asked for and that could not be made here.
    links_failed,
    /// Hellos sent.
    hellos_sent,
    /// Hellos received.
    hellos_received,
    /// Callers at a side port that were turned away because they did not speak the protocol.
    hellos_rejected,
    /// Peers found to be another service on port + 20000 (NACC_SIDE_PORT_OFFSET).
    foreign_peers,
    /// Looks at kernel descriptors while polling (a system call each).
    kernel_polls,
    /// Calls of epoll_wait on sets that hold sockets served by the library (no other sets, no poll or select).
    epoll_waits,
    /// Times that a thread slept in the kernel because nothing was ready.
    sleeps,
    /// Bells rung for sleeping threads, of a peer or of this process (a system call each).
    wakes_sent,
    /// Sleeps in epoll_wait that a bell ended.
    wakes_received,
    /// Spins that ended with something ready.
    spins_won,
    /// Spins that ended with nothing and led to sleep.
    spins_lost,
    /// Bytes moved out of a ring because their connection did not read them in time.
    spilled_bytes,
    /// Writes that had to wait for their connection's window.
    window_stalls,
    /// Times that a sender found no room in the link's ring.
    ring_full_stalls,
    /// Records sent over links.
    tx_records,
    /// Bytes of streams sent over links.
    tx_bytes,
    /// Publishes: batches of records made visible to a peer at once.
    tx_batches,
    /// Records received over links.
    rx_records,
    /// Bytes of streams received over links.
    rx_bytes,
    /// Work requests posted to send queues.
    work_requests,
    /// Posts to send queues: chains of work requests, a doorbell each.
    doorbells,
    /// Messages between the ends of RDMA links that carried no stream.
    messages_sent,
    /// Queue pairs (or the streams in their place) that broke under a link.
    carriers_lost,
    /// Links that went on after that.
    carriers_resumed,
    /// Queue pairs that exist now.
    qps_now,
    /// Queue pairs ever made.
    qps_made,
    /// Memory regions registered now.
    mrs_now,
    /// Bytes registered now.
    mr_bytes_now,
    /// Bytes of registered memory in use by rings now.
    mr_bytes_used,
    /// Records sent over links that had a queue pair: divided by work_requests, the messages of one work request.
    rdma_records,
    /// Callers at a side port or at the rendezvous that were let go of unheard, for too many came at once.
    turned_away,
    /// Defects of NetACC's own that it has noticed; what they touched was reset (the log says more). After 16 of them the process is left to kernel TCP.
    internal_faults,
}

impl Global {
    /// The counter of connections that this process opened in `mode`.
    pub fn connected(&self, mode: Mode) -> &AtomicU64 {
        match mode {
            Mode::Loop => &self.connected_loop,
            Mode::Shm => &self.connected_shm,
            Mode::Rdma => &self.connected_rdma,
            Mode::Tcp | Mode::Undecided => &self.connected_tcp,
        }
    }

    /// The counter of connections that this process accepted in `mode`.
    pub fn accepted(&self, mode: Mode) -> &AtomicU64 {
        match mode {
            Mode::Loop => &self.accepted_loop,
            Mode::Shm => &self.accepted_shm,
            Mode::Rdma => &self.accepted_rdma,
            Mode::Tcp | Mode::Undecided => &self.accepted_tcp,
        }
    }

    /// The counter of connections left to kernel TCP for `reason`.
    pub fn fallback(&self, reason: Reason) -> &AtomicU64 {
        &self.fallbacks[reason as usize]
    }
}

/// What the page tells of one link.
///
/// The sender's and the receiver's counters lie on cache lines of their own: each is written under
/// its own lock.
#[repr(C, align(64))]
pub struct LinkStats {
    /// A [`LinkState`].
    pub state: AtomicU32,
    /// A [`super::Fabric`].
    pub fabric: AtomicU32,
    /// The peer process, 0 if unknown.
    pub peer_pid: AtomicU32,
    /// The peer's user.
    pub peer_uid: AtomicU32,
    /// Connections that it carries now.
    pub conns_now: AtomicU64,
    /// Connections that it ever carried.
    pub conns_total: AtomicU64,
    /// Size of the ring that it sends by, bytes.
    pub ring_size: AtomicU64,
    /// Size of the ring that it receives by, bytes.
    pub rx_ring_size: AtomicU64,
    /// Number of the queue pair that carries it, 0 for none.
    pub qp_number: AtomicU32,
    /// Index of that queue pair's device plus one, 0 for none.
    pub device: AtomicU32,
    /// Queue pairs (or the streams in their place) that it has had, one after the other.
    pub carriers: AtomicU64,

    /// Records sent.
    pub tx_records: AtomicU64,
    /// Bytes of streams sent.
    pub tx_bytes: AtomicU64,
    /// Publishes: each makes a batch of records visible to the peer.
    pub tx_batches: AtomicU64,
    /// Times that a sender found no room in the ring.
    pub stalls: AtomicU64,
    /// Work requests posted for it.
    pub work_requests: AtomicU64,
    /// Posts of these: chains, a doorbell each.
    pub doorbells: AtomicU64,
    _pad_tx: [AtomicU64; 2],

    /// Records received.
    pub rx_records: AtomicU64,
    /// Bytes of streams received.
    pub rx_bytes: AtomicU64,
    /// Bytes moved out of the ring for slow connections.
    pub spilled_bytes: AtomicU64,
    _pad_rx: [AtomicU64; 5],
}

impl LinkStats {
    /// Sets where the link stands.
    pub fn set_state(&self, state: LinkState) {
        self.state.store(state as u32, Relaxed);
    }

    /// Says what carries it from now on: queue pair `number` of `device`, or neither (0, `None`) for a stream.
    pub fn set_carrier(&self, number: u32, device: Option<usize>) {
        self.qp_number.store(number, Relaxed);
        let device = device.map_or(0, |index| index as u32 + 1);
        self.device.store(device, Relaxed);
        add(&self.carriers, 1);
    }

    /// Empties a slot that the caller has claimed.
    pub(super) fn clear(&self) {
        let narrow = [
            &self.state,
            &self.fabric,
            &self.peer_pid,
            &self.peer_uid,
            &self.qp_number,
            &self.device,
        ];
        narrow.iter().for_each(|word| word.store(0, Relaxed));
        let words = [
            &self.conns_now,
            &self.conns_total,
            &self.ring_size,
            &self.rx_ring_size,
            &self.carriers,
            &self.work_requests,
            &self.doorbells,
            &self.tx_records,
            &self.tx_bytes,
            &self.tx_batches,
            &self.stalls,
            &self.rx_records,
            &self.rx_bytes,
            &self.spilled_bytes,
        ];
        words.iter().for_each(|word| word.store(0, Relaxed));
    }
}

/// What the page tells of one connection. The counters that data moves share one cache line.
#[repr(C, align(64))]
pub struct ConnStats {
    /// A [`ConnState`].
    pub state: AtomicU32,
    /// A [`Mode`].
    pub mode: AtomicU32,
    /// A [`Reason`].
    pub reason: AtomicU32,
    /// The application's descriptor.
    pub fd: AtomicU32,
    /// Index of the link's slot plus one, 0 for none.
    pub link: AtomicU32,
    /// 4 or 6 once the addresses are set, 0 before.
    pub family: AtomicU32,
    /// Local port.
    pub local_port: AtomicU32,
    /// Peer's port.
    pub peer_port: AtomicU32,
    /// Local address; an IPv4 one is in the first four bytes.
    pub local_addr: [AtomicU64; 2],
    /// Peer's address, likewise.
    pub peer_addr: [AtomicU64; 2],

    /// Bytes sent.
    pub tx_bytes: AtomicU64,
    /// Bytes received.
    pub rx_bytes: AtomicU64,
    /// Writes of the application that sent something.
    pub tx_msgs: AtomicU64,
    /// Reads of the application that took something.
    pub rx_msgs: AtomicU64,
    /// Bytes that have arrived and were not read yet.
    pub rx_unread: AtomicU64,
    /// Bytes that the peer's application is known to have read. (It tells in steps.)
    pub tx_read: AtomicU64,
    /// Times that a write had to wait for the window.
    pub window_stalls: AtomicU64,
    /// Times that a write found no room in the link's ring.
    pub ring_stalls: AtomicU64,
}

impl ConnStats {
    /// Sets where the connection stands.
    pub fn set_state(&self, state: ConnState) {
        self.state.store(state as u32, Relaxed);
    }

    /// Sets what carries the connection, and why if that is kernel TCP.
    pub fn set_mode(&self, mode: Mode, reason: Reason) {
        self.reason.store(reason as u32, Relaxed);
        self.mode.store(mode as u32, Relaxed);
    }

    /// Says how many bytes wait to be read, and how many of ours the peer is known to have read.
    #[inline]
    pub fn show_queues(&self, unread: usize, read_by_peer: u64) {
        self.rx_unread.store(unread as u64, Relaxed);
        self.tx_read.store(read_by_peer, Relaxed);
    }

    /// Sets both ends' addresses (a listener gives an unspecified peer).
    pub fn set_addresses(&self, local: SocketAddr, peer: SocketAddr) {
        let v4 = local.is_ipv4() && peer.is_ipv4();
        store_ip(&self.local_addr, local.ip(), v4);
        store_ip(&self.peer_addr, peer.ip(), v4);
        self.local_port.store(u32::from(local.port()), Relaxed);
        self.peer_port.store(u32::from(peer.port()), Relaxed);
        self.family.store(if v4 { 4 } else { 6 }, Relaxed);
    }

    /// Empties a slot that the caller has claimed.
    pub(super) fn clear(&self) {
        let narrow = [
            &self.state,
            &self.mode,
            &self.reason,
            &self.fd,
            &self.link,
            &self.family,
            &self.local_port,
            &self.peer_port,
        ];
        narrow.iter().for_each(|word| word.store(0, Relaxed));
        let wide = [
            &self.tx_bytes,
            &self.rx_bytes,
            &self.tx_msgs,
            &self.rx_msgs,
            &self.rx_unread,
            &self.tx_read,
            &self.window_stalls,
            &self.ring_stalls,
        ];
        wide.iter().for_each(|word| word.store(0, Relaxed));
        store_text(&self.local_addr, &[]);
        store_text(&self.peer_addr, &[]);
    }
}

/// What the page tells of one RDMA device that the process has opened.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct DeviceStats {
    /// Its name, padded with zeros; empty for a free slot.
    pub name: [AtomicU64; 8],
    /// Queue pairs that exist now.
    pub qps_now: AtomicU64,
    /// Memory regions registered now.
    pub mrs_now: AtomicU64,
    /// Bytes registered now.
    pub mr_bytes_now: AtomicU64,
    /// Bytes of these in use by rings and messages now.
    pub mr_bytes_used: AtomicU64,
    _pad: [AtomicU64; 4],
}

/// The whole page: what is always used first, then the slots, which cost memory only when used.
#[repr(C, align(64))]
pub struct Page {
    /// Who wrote it.
    pub header: Header,
    /// Counters of the process.
    pub global: Global,
    /// RDMA devices.
    pub devices: [DeviceStats; DEVICE_SLOTS],
    /// The configuration in force, padded with zeros: a line for each key, its name, value and source between tabs.
    pub config: [AtomicU64; CONFIG_SIZE / 8],
    /// Links.
    pub links: [LinkStats; LINK_SLOTS],
    /// Connections.
    pub conns: [ConnStats; CONN_SLOTS],
}

/// Spreads `text` over `words` in memory order, cut or padded with zeros.
pub(super) fn store_text(words: &[AtomicU64], text: &[u8]) {
    for (index, word) in words.iter().enumerate() {
        let mut bytes = [0; 8];
        let rest = text.get(index * 8..).unwrap_or_default();
        let n = rest.len().min(8);
        bytes[..n].copy_from_slice(&rest[..n]);
        word.store(u64::from_ne_bytes(bytes), Relaxed);
    }
}

/// Stores an address, an IPv4 one as itself or, beside an IPv6 one, mapped.
fn store_ip(words: &[AtomicU64; 2], ip: IpAddr, v4: bool) {
    match ip {
        IpAddr::V4(ip) if v4 => store_text(words, &ip.octets()),
        IpAddr::V4(ip) => store_text(words, &ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => store_text(words, &ip.octets()),
    }
}
