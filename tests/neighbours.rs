//! A connection that nobody reads does not stop the others of its link.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netacc::conn::Conn;
use netacc::conn::user_buf::{UserBuf, single};
use netacc::fabric::shm::Shm;
use netacc::link::{Link, Terms};
use netacc::runtime;
use netacc::socket::{Role, Socket};

const RING: usize = 16 << 10;
const WINDOW: u64 = 8 << 10;
/// Far more than it takes; only a test that fails waits for so long.
const GIVE_UP: Duration = Duration::from_secs(120);

fn link(fabric: Shm) -> Arc<Link> {
    let terms = Terms {
        token: [0; 16],
        window: WINDOW,
        peer_window: WINDOW,
        peer_pid: 0,
        peer_uid: 0,
        max_conns: 8,
        msg_size: 4096,
    };
    Link::new(Box::new(fabric), terms)
}

fn connection(link: &Arc<Link>, id: u32) -> &'static Socket {
    let socket = Socket::new(libc::AF_INET, false);
    assert!(link.open_as(id, socket));
    socket.lock().role = Role::Connected(Box::new(Conn::new(link.clone(), id)));
    socket
}

fn send(link: &Link, id: u32, byte: u8) -> bool {
    let iov = single((&raw const byte).cast(), 1);
    // SAFETY: one valid buffer.
    let mut cursor = unsafe { UserBuf::new(&iov, 1) };
    link.send_data(id, &mut cursor, 1) == 1
}

/// Each of many small messages takes a whole record: they fill the ring long before the window. No
/// thread waits for them, so only the receiver's I/O thread can take them in.
#[test]
fn a_ring_full_of_records_that_nobody_waits_for_is_emptied() {
    let runtime = runtime::start().expect("a runtime");
    let (ours, theirs) = Shm::pair(RING).expect("shared memory");
    let (sending, receiving) = (link(ours), link(theirs));
    runtime.serve(&sending, 0);
    runtime.serve(&receiving, 0);
    let sender = connection(&sending, 0);
    let neglected = connection(&receiving, 0);
    for n in 0..WINDOW {
        while !send(&sending, 0, n as u8) {
            let start = Instant::now();
            let full = {
                let _locked = sender.lock();
                sending.wait_for_room(sender)
            };
            while full && sending.is_full() {
                assert!(
                    start.elapsed() < GIVE_UP,
                    "the ring is full since message {n}, and nobody empties it"
                );
                std::thread::yield_now();
            }
        }
    }
    // The I/O thread may be in the middle of it: then nobody waits for it here either.
    let start = Instant::now();
    let arrived = || {
        neglected
            .lock()
            .conn()
            .map_or(0, |conn| conn.rx.len() as u64)
    };
    while arrived() < WINDOW && start.elapsed() < GIVE_UP {
        receiving.poll(None);
        std::thread::yield_now();
    }
    assert_eq!(arrived(), WINDOW);
    sender.discard();
    neglected.discard();
}
