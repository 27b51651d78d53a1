//! How many queue pairs connections have, how long those stay, and how much memory is registered for them.

use crate::common::bare;
use crate::guest::{Guest, Remote};
use crate::net;
use crate::steps::{Client, Server, Way, counted, counts, queue_pairs, with};

const HERE: Guest = Guest::A;
const THERE: Guest = Guest::B;
const CONNECTIONS: u64 = 40;

/// Asserts how many queue pairs a program has, by its own count and by the kernel's.
fn has_queue_pairs(program: &Remote, count: u64) {
    counted(program, &[("qps_now", count)]);
    if !bare() {
        let pairs = queue_pairs(program);
        let of_device = pairs.get(&net::rdma_device(0)).copied().unwrap_or_default();
        assert_eq!(of_device as u64, count, "{program}: {pairs:?}");
    }
}

#[test]
fn connections_share_queue_pairs() {
    for (settings, pairs) in [
        ("NACC_SOR_CONN_PER_QP=1", CONNECTIONS),
        ("NACC_SOR_CONN_PER_QP=32", CONNECTIONS.div_ceil(32)),
        ("NACC_SOR_CONN_PER_QP=1024", 1),
    ] {
        // The connecting side decides.
        let server = Server::start(THERE, &Way::default());
        let words = format!("open 10.5.0.2 {CONNECTIONS} talk 20000");
        let client = server.client(HERE, &with(settings), &words);
        counted(&client.program, &[("connected_rdma", CONNECTIONS)]);
        counted(&server.program, &[("accepted_rdma", CONNECTIONS)]);
        for program in [&client.program, &server.program] {
            has_queue_pairs(program, pairs);
            if let Some(counters) = program.counters() {
                let bytes = counters.get("mr_bytes_now");
                println!("{settings}: {pairs} queue pairs, {bytes} bytes of registered memory");
            }
        }
        client.finish();
    }
}

/// Of two connections that are closed before the next is opened. (Queue pairs are not counted as they are made: soft
/// iWARP needs a second try now and then.)
#[test]
fn empty_queue_pairs_are_kept_as_long_as_they_are_to_be() {
    let server = Server::start(THERE, &Way::default());
    let start = |settings| {
        let words = "open 10.5.0.2 2 talk 20000 pause close pause open 10.5.0.2 1 talk 20000";
        server.client(HERE, &with(settings), words)
    };
    let never = start("NACC_SOR_QP_IDLE_S=-1");
    let later = start("NACC_SOR_QP_IDLE_S=1");
    let at_once = start("NACC_SOR_QP_IDLE_S=0");
    let all: [&Client; 3] = [&never, &later, &at_once];
    for client in all {
        // While it is used it stays, whatever the setting.
        has_queue_pairs(&client.program, 1);
        client.go_on();
    }
    for client in [&later, &at_once] {
        counts(&client.program, &[("qps_now", 0), ("links_now", 0)]);
    }
    has_queue_pairs(&never.program, 1);
    counts(&server.program, &[("qps_now", 1)]);
    for client in all {
        client.go_on();
    }
    for (client, made) in [(never, 1), (later, 2), (at_once, 2)] {
        counted(
            &client.program,
            &[("connected_rdma", 3), ("links_opened", made)],
        );
        client.finish();
    }
    counted(&server.program, &[("accepted_rdma", 9)]);
}

const K: u64 = 1 << 10;

/// What a pool has that has grown to this number of regions, and never shrunk.
fn grown(regions: u64, smallest: u64, largest: u64) -> u64 {
    (0..regions).map(|n| (smallest << n).min(largest)).sum()
}

#[test]
fn registered_memory_grows_by_doubling_and_is_given_back() {
    let way = with(
        "NACC_SOR_CONN_PER_QP=1 NACC_SOR_QP_IDLE_S=0 NACC_RDMA_MR_MIN_INC_SIZE=32K \
         NACC_RDMA_MR_MAX_INC_SIZE=256K NACC_RING_SIZE=64K",
    );
    let server = Server::start(THERE, &way);
    let words = "open 10.5.0.2 1 pause open 10.5.0.2 30 pause talk 100000 pause close";
    let client = server.client(HERE, &way, words);
    let both = [&client.program, &server.program];
    for most in [128 * K, u64::MAX] {
        for program in both {
            let Some(counters) = program.counters() else {
                continue;
            };
            let get = |name| counters.get(name);
            let [regions, bytes, used] = ["mrs_now", "mr_bytes_now", "mr_bytes_used"].map(get);
            assert!(regions >= 1 && bytes <= most, "{counters:#?}");
            assert_eq!(bytes, grown(regions, 32 * K, 256 * K), "{counters:#?}");
            // Two rings, and the messages.
            assert_eq!(used, get("qps_now") * 48 * K, "{counters:#?}");
        }
        client.go_on();
    }
    // Rings have grown with use.
    for program in both {
        if let Some(counters) = program.counters() {
            let used = counters.get("mr_bytes_used");
            assert!(used > 31 * 48 * K, "{counters:#?}");
        }
    }
    client.go_on();
    // The smallest region is kept for the next connection.
    let least = [
        ("mr_bytes_used", 0),
        ("mrs_now", 1),
        ("mr_bytes_now", 32 * K),
    ];
    for program in both {
        counts(program, &least);
    }
    client.finish();
}

/// Memory is counted for all devices of a process together.
#[test]
fn two_devices_have_registered_memory() {
    let _devices = [HERE, THERE].map(|guest| net::add_device(guest, 1));
    let way = with("NACC_SOR_QP_IDLE_S=0");
    let server = Server::start(THERE, &Way::default());
    let words = "open 10.5.0.2 1 pause open 10.6.0.2 1 pause close";
    let client = server.client(HERE, &way, words);
    let both = [&client.program, &server.program];
    for devices in [1, 2] {
        for program in both {
            counted(program, &[("mr_bytes_used", devices * 48 * K)]);
        }
        client.go_on();
    }
    for program in both {
        // One of the smallest regions for each.
        counts(program, &[("mr_bytes_used", 0), ("mr_bytes_now", 32 * K)]);
    }
    client.finish();
}

/// Runs what follows with a limit on locked memory that holds for it.
fn limited(bytes: &'static str) -> Way {
    Way {
        before: match bytes {
            "16K" => "setpriv --bounding-set -ipc_lock prlimit --memlock=16384",
            "128K" => "setpriv --bounding-set -ipc_lock prlimit --memlock=131072",
            other => panic!("{other}"),
        },
        settings: "NACC_SOR_CONN_PER_QP=1",
        ..Way::default()
    }
}

/// The one sentence that a program has in its log, whatever else it did.
fn says_once(program: &Remote, limit: &str) {
    if bare() {
        return;
    }
    let log = program.errors();
    assert_eq!(log.lines().count(), 1, "{program}: {log}");
    for words in [limit, "RLIMIT_MEMLOCK", "ulimit -l unlimited"] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

#[test]
fn a_client_that_may_lock_too_little_uses_tcp() {
    let server = Server::start(THERE, &Way::default());
    let words = "open 10.5.0.2 3 talk 300000 open fd05::2 2 talk 300000";
    let client = server.client(HERE, &limited("16K"), words);
    counted(
        &client.program,
        &[
            ("connected_tcp", 5),
            ("fallback_locked_memory", 5),
            ("qps_now", 0),
        ],
    );
    says_once(&client.program, "16 KiB");
    counts(
        &server.program,
        &[("accepted_tcp", 5), ("qps_now", 0), ("links_now", 0)],
    );
    assert_eq!(server.program.errors(), "");
    client.finish();
}

#[test]
fn a_server_that_may_lock_too_little_uses_tcp() {
    let server = Server::start(THERE, &limited("16K"));
    let words = "open 10.5.0.2 3 talk 300000 open fd05::2 2 talk 300000";
    let client = server.client(HERE, &Way::default(), words);
    counted(
        &client.program,
        &[
            ("connected_tcp", 5),
            ("fallback_peer_refused", 5),
            ("qps_now", 0),
            ("carriers_lost", 0),
        ],
    );
    counted(&server.program, &[("accepted_tcp", 5), ("qps_now", 0)]);
    says_once(&server.program, "16 KiB");
    client.finish();
}

/// Where a further link is too much, connections share those that there are, whatever `NACC_SOR_CONN_PER_QP` says.
#[test]
fn locked_memory_that_runs_out() {
    let (all, some) = (with("NACC_SOR_CONN_PER_QP=1"), limited("128K"));
    for (server, client) in [(&all, &some), (&some, &all)] {
        let limits_client = !client.before.is_empty();
        let server = Server::start(THERE, server);
        let words = "open 10.5.0.2 6 talk 100000 open 10.5.0.2 1 talk 100000";
        let client = server.client(HERE, client, words);
        let whole = [("connected_rdma", 7), ("carriers_lost", 0)];
        counted(&client.program, &whole);
        // Three would fit but for the room to grow.
        let made = client.program.counters().map_or(0, |c| c.get("qps_now"));
        assert!(bare() || (1..=2).contains(&made), "{made}");
        for program in [&client.program, &server.program] {
            has_queue_pairs(program, made);
        }
        let limited = match limits_client {
            true => &client.program,
            false => &server.program,
        };
        says_once(limited, "128 KiB");
        client.finish();
    }
}
