//! The counters' page: written in one process, read in another.

mod page_process;

use std::mem::offset_of;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;

use netacc::stats::reader::{FormatError, PageError, Snapshot, Store};
use netacc::stats::{
    self, CONN_SLOTS, ConnState, ConnStats, DeviceStats, Fabric, LINK_SLOTS, LinkState, LinkStats,
    Mode, Page, Reason, add, bump,
};
use page_process::{PageProcess, page_path};
use proptest::prelude::*;

fn read(process: &PageProcess) -> Snapshot {
    Store::default().page(process.pid).expect("a page")
}

/// One link with one connection, and some counters.
fn count_a_little() {
    stats::init();
    let global = stats::global();
    add(global.connected(Mode::Shm), 3);
    add(global.fallback(Reason::SidePortForeign), 2);
    let link = LinkStats::claim();
    link.set_state(LinkState::Up);
    link.fabric.store(Fabric::Shm as u32, Relaxed);
    link.peer_pid.store(77, Relaxed);
    bump(&link.tx_bytes, 1000);
    let conn = ConnStats::claim(9);
    conn.set_state(ConnState::Established);
    conn.set_mode(Mode::Shm, Reason::None);
    conn.set_link(Some(link));
    conn.set_addresses(
        "127.0.0.1:6379".parse().unwrap(),
        "127.0.0.2:40000".parse().unwrap(),
    );
    bump(&conn.rx_bytes, 512);
    bump(&conn.rx_bytes, 512);
    bump(&conn.rx_msgs, 2);
    bump(&conn.tx_bytes, 100);
    bump(&conn.tx_msgs, 1);
    bump(&conn.window_stalls, 3);
    bump(&conn.ring_stalls, 4);
    conn.show_queues(50, 30);
}

#[test]
fn what_is_counted_is_seen_from_outside() {
    let process = PageProcess::after(&[count_a_little]);
    let page = read(&process);
    assert_eq!(page.pid, process.pid);
    assert_eq!(page.version, env!("CARGO_PKG_VERSION"));
    assert!(page.start_time > 0 && page.created_ns > 0);
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", process.pid)).unwrap();
    assert_eq!(page.comm, comm.trim_end());

    assert_eq!(page.counter("connected_shm"), Some(3));
    assert_eq!(page.counter("accepted_shm"), Some(0));
    assert_eq!(page.counter("no_such_counter"), None);
    assert_eq!(page.fallback(Reason::SidePortForeign), 2);
    assert_eq!(page.fallback(Reason::Forked), 0);

    let [link] = &page.links[..] else {
        panic!("{:?}", page.links)
    };
    assert_eq!(link.state, Some(LinkState::Up));
    assert_eq!(link.fabric, Some(Fabric::Shm));
    assert_eq!((link.peer_pid, link.tx_bytes), (77, 1000));

    let [conn] = &page.conns[..] else {
        panic!("{:?}", page.conns)
    };
    assert_eq!(conn.state, Some(ConnState::Established));
    assert_eq!(
        (conn.mode, conn.reason),
        (Some(Mode::Shm), Some(Reason::None))
    );
    assert_eq!(
        (conn.fd, conn.link, conn.rx_bytes),
        (9, Some(link.slot), 1024)
    );
    assert_eq!((conn.tx_msgs, conn.rx_msgs), (1, 2));
    assert_eq!((conn.tx_queue, conn.rx_queue), (70, 50));
    assert_eq!((conn.window_stalls, conn.ring_stalls), (3, 4));
    assert_eq!(conn.local, Some("127.0.0.1:6379".parse().unwrap()));
    assert_eq!(conn.peer, Some("127.0.0.2:40000".parse().unwrap()));
}

#[test]
fn only_the_user_may_look() {
    use std::os::unix::fs::PermissionsExt;
    let process = PageProcess::after(&[count_a_little]);
    let file = page_path(process.pid);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(Path::new(&file)), 0o600);
    assert_eq!(mode(Path::new(&file).parent().unwrap()), 0o700);
}

#[test]
fn addresses_of_all_families() {
    fn set() {
        stats::init();
        let v4 = "10.1.2.3:80".parse().unwrap();
        let v6 = "[2001:db8::1]:443".parse().unwrap();
        ConnStats::claim(1).set_addresses(v6, v6);
        ConnStats::claim(2).set_addresses(v6, v4);
        ConnStats::claim(3);
    }
    let process = PageProcess::after(&[set]);
    let page = read(&process);
    let ends: Vec<_> = page
        .conns
        .iter()
        .map(|conn| (conn.local, conn.peer))
        .collect();
    let v6 = Some("[2001:db8::1]:443".parse().unwrap());
    let mapped = Some("[::ffff:10.1.2.3]:80".parse().unwrap());
    assert_eq!(ends, [(v6, v6), (v6, mapped), (None, None)]);
}

#[test]
fn a_released_links_numbers_stay_in_the_totals() {
    fn two_links() {
        stats::init();
        let ended = LinkStats::claim();
        bump(&ended.rx_records, 5);
        let living = LinkStats::claim();
        bump(&living.rx_records, 7);
        ended.release();
    }
    let process = PageProcess::after(&[two_links]);
    let page = read(&process);
    assert_eq!(page.links.len(), 1);
    assert_eq!(page.counter("rx_records"), Some(12));
}

#[test]
fn work_requests_and_their_records_stay_in_the_totals() {
    fn three_links() {
        stats::init();
        // Only links with work requests have records that are divided by them.
        for (records, work) in [(5, 0), (40, 4), (7, 2)] {
            let link = LinkStats::claim();
            bump(&link.tx_records, records);
            bump(&link.work_requests, work);
            bump(&link.doorbells, work / 2);
            if work == 4 {
                link.release();
            }
        }
    }
    let process = PageProcess::after(&[three_links]);
    let page = read(&process);
    assert_eq!(page.counter("tx_records"), Some(52));
    assert_eq!(page.counter("rdma_records"), Some(47));
    assert_eq!(page.counter("work_requests"), Some(6));
    assert_eq!(page.counter("doorbells"), Some(3));
}

#[test]
fn queue_pairs_name_their_devices() {
    fn devices() {
        stats::init();
        let first = DeviceStats::named("mlx5_0");
        let second = DeviceStats::named("mlx5_1");
        assert_eq!(DeviceStats::named("mlx5_0").index(), first.index());
        add(&second.qps_now, 3);
        let link = LinkStats::claim();
        link.set_carrier(7, first.index());
        link.set_carrier(9, second.index());
        LinkStats::claim().set_carrier(0, None);
        // More than there is room for, and a name that is too long.
        for n in 0..20_u8 {
            let name = [b'a' + n; 100];
            DeviceStats::named(std::str::from_utf8(&name).unwrap());
        }
    }
    let process = PageProcess::after(&[devices]);
    let page = read(&process);
    let device = page.device_of(&page.links[0]).unwrap();
    assert_eq!((device.name.as_str(), device.qps_now), ("mlx5_1", 3));
    assert_eq!(page.links[0].qp_number, Some(9));
    assert_eq!(page.links[0].carriers, 2);
    assert_eq!(page.links[1].qp_number, None);
    assert_eq!(page.device_of(&page.links[1]), None);
    assert_eq!(page.devices.len(), 16);
    assert_eq!(page.devices[2].name, "a".repeat(63));
}

#[test]
fn the_configuration_is_told_in_whole_lines() {
    fn short() {
        stats::init();
        stats::set_config("NACC_A\t1\tdefault\nNACC_B\tx y\t/etc/netacc.conf:3\n");
    }
    fn long() {
        let mut text = [b'\n'; 5000];
        text[..4090].fill(b'x');
        text[10] = b'\t';
        text[20] = b'\t';
        text[30] = b'\n';
        // Cut within this one.
        text[4091..4900].fill(b'y');
        stats::set_config(std::str::from_utf8(&text).unwrap());
    }
    let mut process = PageProcess::new(&[short, long]);
    process.step();
    let page = read(&process);
    let [first, second] = &page.config[..] else {
        panic!("{:?}", page.config)
    };
    assert_eq!(
        (&*first.name, &*first.value, &*first.source),
        ("NACC_A", "1", "default")
    );
    assert_eq!(
        (&*second.value, &*second.source),
        ("x y", "/etc/netacc.conf:3")
    );
    process.step();
    let page = read(&process);
    assert_eq!(page.config.len(), 1, "{:?}", page.config);
    assert_eq!(page.config[0].name, "x".repeat(10));
}

#[test]
fn a_full_table_gives_spare_slots_and_recovers() {
    fn fill() {
        stats::init();
        for index in 0..CONN_SLOTS {
            let conn = ConnStats::claim(index as i32);
            assert_eq!(conn.index(), Some(index));
        }
        for _ in 0..100 {
            let spare = ConnStats::claim(-1);
            assert_eq!(spare.index(), None);
            bump(&spare.tx_bytes, 1);
            spare.release();
        }
        let links: [_; LINK_SLOTS] = std::array::from_fn(|_| LinkStats::claim());
        let spare = LinkStats::claim();
        assert_eq!(
            (links[LINK_SLOTS - 1].index(), spare.index()),
            (Some(LINK_SLOTS - 1), None)
        );
        spare.release();
        links[5].release();
        assert_eq!(LinkStats::claim().index(), Some(5));
    }
    let process = PageProcess::after(&[fill]);
    let page = read(&process);
    assert_eq!(
        (page.conns.len(), page.links.len()),
        (CONN_SLOTS, LINK_SLOTS)
    );
    assert!(page.conns.iter().all(|conn| conn.fd == conn.slot as i32));
}

#[test]
fn a_full_or_read_only_dev_shm_costs_no_more_than_the_view() {
    /// Everything counted here must be written without a signal, whether there is memory or not.
    fn count_with(mount_options: &std::ffi::CStr) {
        // SAFETY: system calls with strings that end in zero; they concern this child alone.
        let mounted = unsafe {
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let (none, data) = (c"none".as_ptr(), mount_options.as_ptr().cast());
            let shm = c"/dev/shm".as_ptr();
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), none, private, data) == 0
                && libc::mount(none, shm, c"tmpfs".as_ptr(), 0, data) == 0
        };
        // SAFETY: no arguments, cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        assert!(mounted || !root);
        if !mounted {
            return;
        }
        stats::init();
        let mut seen = 0;
        for fd in 0..2 * CONN_SLOTS as i32 {
            let conn = ConnStats::claim(fd);
            bump(&conn.tx_bytes, 1);
            seen += usize::from(conn.index().is_some());
            bump(&LinkStats::claim().tx_bytes, 1);
        }
        // Private memory shows all, a file as far as it has memory.
        assert_eq!(seen == CONN_SLOTS, !stats::is_shared());
        assert!(seen > 0);
    }
    PageProcess::after(&[|| count_with(c"size=4k")]);
    PageProcess::after(&[|| count_with(c"size=24k")]);
    PageProcess::after(&[|| count_with(c"size=32k")]);
    PageProcess::after(&[|| count_with(c"size=64k")]);
    PageProcess::after(&[|| count_with(c"size=256k")]);
    PageProcess::after(&[|| count_with(c"mode=000,nr_inodes=1")]);
}

#[test]
fn before_init_nothing_is_made_and_counting_is_allowed() {
    fn count_early() {
        add(&stats::global().sleeps, 1);
        let conn = ConnStats::claim(3);
        assert_eq!((conn.index(), stats::is_shared()), (None, false));
        bump(&conn.tx_bytes, 1);
        conn.release();
    }
    fn init() {
        stats::init();
        assert_eq!(
            (stats::is_shared(), stats::global().sleeps.load(Relaxed)),
            (true, 0)
        );
    }
    let mut process = PageProcess::after(&[count_early, init]);
    let error = Store::default().page(process.pid).unwrap_err();
    assert!(matches!(error, PageError::NotNetacc { .. }), "{error}");
    process.step();
    assert_eq!(read(&process).conns, []);
}

#[test]
fn removed_at_exit() {
    let mut process = PageProcess::new(&[count_a_little, stats::remove_at_exit, count_a_little]);
    process.step();
    assert!(Path::new(&page_path(process.pid)).exists());
    process.step();
    assert!(!Path::new(&page_path(process.pid)).exists());
    // Other threads may still be counting while the process exits.
    process.step();
}

#[test]
fn the_page_of_a_dead_process_is_removed_when_seen() {
    for reap in [true, false] {
        let mut process = PageProcess::after(&[count_a_little]);
        assert!(Path::new(&page_path(process.pid)).exists());
        process.kill(reap);
        let shown = Store::default().pages();
        let is_it = |page: &Snapshot| page.pid == process.pid;
        assert!(!shown.iter().flatten().any(is_it), "reaped: {reap}");
        assert!(
            !Path::new(&page_path(process.pid)).exists(),
            "reaped: {reap}"
        );
    }
}

/// A store of the test's own with one file, named `pid`.
fn store_with(pid: u32, bytes: &[u8]) -> (tempfile::TempDir, Store, std::path::PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(
        Path::new(&page_path(pid))
            .parent()
            .unwrap()
            .file_name()
            .unwrap(),
    );
    std::fs::create_dir(&dir).unwrap();
    let file = dir.join(pid.to_string());
    std::fs::write(&file, bytes).unwrap();
    let store = Store::at(root.path());
    (root, store, file)
}

#[test]
fn the_page_of_an_earlier_process_of_the_same_number_is_removed() {
    let mut bytes = VALID.clone();
    bytes[offset_of!(Page, header.start_time) + 6] ^= 1;
    let (_root, store, file) = store_with(std::process::id(), &bytes);
    assert!(store.pages().is_empty());
    assert!(!file.exists());
}

#[test]
fn pages_of_another_pid_namespace_are_left_alone() {
    let mut bytes = VALID.clone();
    bytes[offset_of!(Page, header.pid_namespace)] ^= 1;
    bytes[offset_of!(Page, header.start_time)] ^= 1;
    let (_root, store, file) = store_with(std::process::id(), &bytes);
    assert!(store.pages().is_empty());
    assert!(file.exists());
}

#[test]
fn a_file_that_is_no_page_is_an_error_for_a_living_process() {
    let (_root, store, file) = store_with(std::process::id(), b"something quite different");
    let shown = store.pages();
    let [Err(error)] = &shown[..] else {
        panic!("{shown:?}")
    };
    assert!(
        error.to_string().contains("not a page of NetACC"),
        "{error}"
    );
    assert!(file.exists());
}

#[test]
fn a_forks_child_counts_for_itself() {
    /// Leaves its grandchild's number in the link's `peer_pid`.
    fn fork_again() {
        count_a_little();
        add(&stats::global().sleeps, 5);
        let link = LinkStats::claim();
        let conn = ConnStats::claim(4);
        // SAFETY: the child does nothing but system calls and atomics.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: a system call.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            stats::after_fork_in_child();
            // What was claimed before the fork stays usable, and touches nobody's page.
            bump(&conn.tx_bytes, 1_000_000);
            conn.release();
            stats::init();
            bump(&conn.tx_bytes, 1_000_000);
            conn.release();
            let own = ConnStats::claim(5);
            assert_eq!(own.index(), Some(0));
            add(&stats::global().sleeps, 7);
            add(&stats::global().wakes_sent, 1);
            // SAFETY: a system call.
            unsafe { libc::pause() };
        }
        link.peer_pid.store(pid.cast_unsigned(), Relaxed);
    }
    let process = PageProcess::after(&[fork_again]);
    let grandchild = read(&process).links[1].peer_pid;
    // The grandchild's page appears once it has run; it says by `wakes_sent` that it is done.
    let theirs = loop {
        match Store::default().page(grandchild) {
            Ok(page) if page.counter("wakes_sent") == Some(1) => break page,
            _ => std::thread::yield_now(),
        }
    };
    assert_eq!(theirs.counter("sleeps"), Some(7));
    assert_eq!(
        theirs.conns.iter().map(|conn| conn.fd).collect::<Vec<_>>(),
        [5]
    );
    assert!(theirs.links.is_empty());
    let ours = read(&process);
    assert_eq!(ours.counter("sleeps"), Some(5));
    assert_eq!(
        ours.conns
            .iter()
            .map(|conn| conn.tx_bytes)
            .collect::<Vec<_>>(),
        [100, 0]
    );
    drop(process);
    let _ = std::fs::remove_file(page_path(grandchild));
}

/// A real page of this moment, made to look like this process's own.
static VALID: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let process = PageProcess::after(&[count_a_little]);
    std::fs::read(page_path(process.pid)).unwrap()
});

#[test]
fn headers_of_other_releases_are_refused_in_words() {
    let mut bytes = VALID.clone();
    bytes[offset_of!(Page, header.layout)] = 99;
    let error = Snapshot::parse(&bytes).unwrap_err();
    assert!(
        matches!(error, FormatError::OtherLayout { layout: 99, .. }),
        "{error}"
    );
    let mut bytes = VALID.clone();
    bytes[offset_of!(Page, header.conn_slots)] ^= 1;
    assert!(matches!(
        Snapshot::parse(&bytes),
        Err(FormatError::Damaged { .. })
    ));
    assert_eq!(Snapshot::parse(&[]), Err(FormatError::Unfinished));
    assert_eq!(Snapshot::parse(&[7; 4000]), Err(FormatError::NotAPage));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_page_cut_short_or_too_long_is_an_error(len in 0..VALID.len() + 100) {
        let mut bytes = VALID.clone();
        bytes.resize(len, 0);
        prop_assert_eq!(Snapshot::parse(&bytes).is_ok(), len == VALID.len());
    }

    #[test]
    fn a_damaged_header_never_panics(
        edits in prop::collection::vec((0..size_of::<[u64; 32]>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = VALID.clone();
        edits.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        let _ = Snapshot::parse(&bytes);
    }

    #[test]
    fn any_bytes_after_the_header_are_shown(noise in prop::collection::vec(any::<u8>(), 1..5000)) {
        let mut bytes = VALID.clone();
        let body = offset_of!(Page, global);
        let len = bytes.len() - body;
        let noise = noise.iter().cycle().take(len);
        bytes.splice(body.., noise.copied());
        let page = Snapshot::parse(&bytes).expect("the header is whole");
        prop_assert!(page.conns.len() <= CONN_SLOTS && page.links.len() <= LINK_SLOTS);
    }
}
