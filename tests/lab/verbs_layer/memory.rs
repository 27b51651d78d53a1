//! The pool of registered memory.

use std::process::Command;
use std::sync::Arc;

use netacc::verbs::cm::CmId;
use netacc::verbs::device::Device;
use netacc::verbs::pool::{Pool, PoolSizes, PoolStats, RingRegion};
use netacc::verbs::{Error, qp};

use super::ends::{CONNECTOR, Events, Pair, invited, own_address};

const K: usize = 1 << 10;

fn device() -> Arc<Device> {
    let events = Events::new();
    let id = CmId::create(&events.channel, CONNECTOR).unwrap();
    id.bind(&own_address(0)).unwrap();
    Device::of(&id).unwrap()
}

fn stats(registered: usize, regions: u64, allocated: usize) -> PoolStats {
    PoolStats {
        registered: registered as u64,
        regions,
        allocated: allocated as u64,
    }
}

#[test]
fn the_pool_grows_by_doubling_and_gives_back() {
    let pool = Pool::new(&device(), PoolSizes::new(4 * K, 16 * K, 64 * K));
    assert_eq!(pool.stats(), stats(0, 0, 0), "nothing before it is needed");
    let mut held = Vec::new();
    let mut registered = Vec::new();
    for _ in 0..30 {
        held.push(pool.allocate(8 * K).unwrap());
        registered.push(pool.stats().registered as usize / K);
    }
    registered.dedup();
    assert_eq!(registered, [16, 48, 112, 176, 240]);
    assert_eq!(pool.stats(), stats(240 * K, 5, 240 * K));
    let first = held.remove(0);
    let at = first.remote();
    drop(first);
    let again = pool.allocate(5000).unwrap();
    assert_eq!(
        again.remote(),
        at,
        "what is free is used before more is registered"
    );
    assert_eq!(again.len(), 8 * K);
    drop(again);
    held.clear();
    assert_eq!(
        pool.stats(),
        stats(16 * K, 1, 0),
        "one spare of the smallest size"
    );
    pool.trim();
    assert_eq!(pool.stats(), stats(0, 0, 0));

    let large = pool.allocate(100 * K).unwrap();
    assert_eq!(
        pool.stats(),
        stats(128 * K, 1, 128 * K),
        "larger than the maximum"
    );
    drop(large);
    assert_eq!(pool.stats(), stats(0, 0, 0));
    let rkeys = |count: usize| -> Vec<u32> {
        let regions: Vec<_> = (0..count).map(|_| pool.allocate(16 * K).unwrap()).collect();
        regions.iter().map(|region| region.remote().rkey).collect()
    };
    let keys = rkeys(3);
    assert_ne!(keys[0], keys[1], "regions of their own");
    assert_eq!(keys[1], keys[2]);
}

#[test]
fn a_ring_is_mapped_twice_and_the_device_writes_into_both() {
    let mut pair = Pair::connect();
    let pool = pair.acceptor.memory.pool().clone();
    // Not at the chunk's beginning.
    let _before = pool.allocate(16 * K).unwrap();
    let ring = RingRegion::map(pool.allocate(16 * K).unwrap()).unwrap();
    let len = ring.region().len();
    pair.there = [
        &ring.region().remote().address.to_le_bytes()[..],
        &ring.region().remote().rkey.to_le_bytes(),
    ]
    .concat();
    let write = |offset: usize, bytes: &'static [u8]| qp::SendOp {
        wr_id: 1,
        verb: qp::Verb::Write(invited(&pair.there, offset)),
        payload: qp::Payload::Bytes(bytes),
        signaled: true,
        solicited: false,
    };
    // Across the end in two pieces, as the device wants it.
    let ops = [write(len - 3, b"abc"), write(0, b"defg")];
    pair.connector.qp.post(&ops).unwrap();
    let done = qp::SendOp {
        verb: qp::Verb::Send,
        ..write(0, b"x")
    };
    pair.connector.qp.post(&[done]).unwrap();
    pair.acceptor.success();
    // SAFETY: twice the length is mapped; the device is done.
    let seen: Vec<u8> = (0..7)
        .map(|i| unsafe { ring.base().add(len - 3 + i).read_volatile() })
        .collect();
    assert_eq!(seen, b"abcdefg", "in one piece");
}

#[test]
fn threads_share_a_pool() {
    let pool = Pool::new(&device(), PoolSizes::new(4 * K, 16 * K, 64 * K));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let pool = &pool;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut held = Vec::new();
                for _ in 0..200 {
                    if held.len() > 6 || random.bool() && !held.is_empty() {
                        held.swap_remove(random.usize(..held.len()));
                    } else {
                        held.push(pool.allocate(random.usize(1..32 * K)).unwrap());
                    }
                }
            });
        }
    });
    let left = pool.stats();
    assert_eq!(left.allocated, 0);
    assert!(left.regions <= 1, "{left:?}");
}

/// What this program runs again for, without the right to lock as much memory as it likes.
const LIMITED: &str = "NACC_TEST_LIMITED";

#[test]
fn too_little_locked_memory_is_said_in_a_sentence() {
    if std::env::var_os(LIMITED).is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "verbs_layer::memory::too_little_locked_memory_is_said_in_a_sentence";
        // The kernel lets a process with this capability lock what it likes.
        let out = Command::new("setpriv")
            .args(["--bounding-set", "-ipc_lock", "prlimit"])
            .arg(format!("--memlock={}", 256 * K))
            .arg(this)
            .args(["--exact", name, "--nocapture"])
            .env(LIMITED, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{out:?}");
        assert!(text.contains("said as it should be"), "it ran: {text}");
        return;
    }
    let pool = Pool::new(&device(), PoolSizes::new(16 * K, 16 * K, 128 * K));
    let mut held = Vec::new();
    let error = loop {
        match pool.allocate(16 * K) {
            Ok(region) => held.push(region),
            Err(error) => break error,
        }
        assert!(held.len() <= 16, "more than the limit");
    };
    // 16 + 32 + 64, and where the doubled 128 does not fit, what is needed, to the end.
    println!("{:?}: {error}", pool.stats());
    assert!(held.len() >= 12, "{}", held.len());
    assert!(
        matches!(error, Error::LockedMemory { limit: 256, .. }),
        "{error:?}"
    );
    for word in [
        "16 KiB",
        "256 KiB",
        "ulimit -l unlimited",
        "LimitMEMLOCK=infinity",
    ] {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    held.pop();
    drop(pool.allocate(1).unwrap());
    println!("said as it should be");
}
