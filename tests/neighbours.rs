//! What the connections of a link do to each other, and to their own other end: one that nobody reads, or that writes
//! all it can, does not stop the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netacc::conn::Conn;
use netacc::conn::user_buf::{UserBuf, single};
use netacc::fabric::shm::Shm;
use netacc::link::{Link, Terms, overdrafts};
use netacc::poll::waiter::Waiter;
use netacc::real::sys::Errno;
use netacc::runtime;
use netacc::socket::recv::Outcome;
use netacc::socket::{Role, Socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const RING: usize = 16 << 10;
const WINDOW: u64 = 8 << 10;
/// Far more than it takes; only a test that fails waits for so long.
const GIVE_UP: Duration = Duration::from_secs(120);

fn link(fabric: Shm) -> Arc<Link> {
    let terms = Terms::unnamed(WINDOW);
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

/// Both ends of a link that no I/O thread looks after, and of two connections on it.
fn neighbours() -> (
    Arc<Link>,
    Arc<Link>,
    [&'static Socket; 2],
    [&'static Socket; 2],
) {
    runtime::start().expect("a runtime");
    let (ours, theirs) = Shm::pair(RING).expect("shared memory");
    let (sending, receiving) = (link(ours), link(theirs));
    let senders = [0, 1].map(|id| connection(&sending, id));
    let readers = [0, 1].map(|id| connection(&receiving, id));
    (sending, receiving, senders, readers)
}

/// What an application writes without waiting.
fn write(socket: &'static Socket, bytes: &[u8]) -> Result<Outcome, Errno> {
    let iov = single(bytes.as_ptr().cast(), bytes.len());
    // SAFETY: one valid buffer.
    let mut buf = unsafe { UserBuf::new(&iov, 1) };
    let inner = socket.lock();
    socket.transmit(inner, &mut buf, libc::MSG_DONTWAIT)
}

fn can_be_written_to(socket: &'static Socket) -> bool {
    socket.lock().poll_mask() & libc::EPOLLOUT as u32 != 0
}

fn read(socket: &'static Socket) -> Vec<u8> {
    let mut bytes = vec![0_u8; WINDOW as usize];
    let iov = single(bytes.as_mut_ptr().cast(), bytes.len());
    // SAFETY: one valid buffer.
    let mut buf = unsafe { UserBuf::new(&iov, 1) };
    let inner = socket.lock();
    let got = socket.receive(inner, &mut buf, libc::MSG_DONTWAIT);
    let Ok(Outcome::Done(len)) = got else {
        panic!("nothing to read: {got:?}");
    };
    bytes.truncate(len);
    bytes
}

/// As over the kernel, whose connections have a buffer each: whoever is told that a connection can be written to may
/// write to it, although its neighbour has filled the ring that they share since.
#[test]
fn what_can_be_written_to_takes_something() {
    let (sending, receiving, [greedy, modest], [_, reads]) = neighbours();
    assert!(can_be_written_to(modest));
    while write(greedy, b"g") == Ok(Outcome::Done(1)) {}
    assert!(!can_be_written_to(greedy));

    assert!(can_be_written_to(modest));
    assert_eq!(write(modest, b"first"), Ok(Outcome::Done(5)));
    assert!(!can_be_written_to(modest));
    assert_eq!(write(modest, b"second"), Err(Errno::AGAIN));
    assert!(sending.owes() && overdrafts::any());

    // The peer takes in what is there, which makes room; then comes what was kept.
    receiving.poll(None);
    sending.poll(None);
    receiving.poll(None);
    assert!(!sending.owes());
    // Counted for the whole process: another test may have some for a moment.
    let start = Instant::now();
    while overdrafts::any() && start.elapsed() < GIVE_UP {
        std::thread::yield_now();
    }
    assert!(!overdrafts::any());
    assert!(can_be_written_to(modest) && can_be_written_to(greedy));
    assert_eq!(write(modest, b", second"), Ok(Outcome::Done(8)));
    receiving.poll(None);
    assert_eq!(read(reads), b"first, second");
}

/// What is kept for want of room is written when a neighbour comes by: its reader is told as if it had gone at once.
#[test]
fn who_reads_what_was_kept_is_woken() {
    let (sending, receiving, [greedy, modest], _) = neighbours();
    while write(greedy, b"g") == Ok(Outcome::Done(1)) {}
    assert_eq!(write(modest, b"kept"), Ok(Outcome::Done(4)));
    receiving.poll(None);

    let reader = Waiter::take().expect("a waiter");
    reader.begin_sleep();
    receiving.fabric().set_slot(1, reader.slot());
    receiving.fabric().arm(reader.slot());
    assert!(send(&sending, 0, b'n'));
    let mut bell = [PollFd::from_borrowed_fd(reader.bell(), PollFlags::IN)];
    assert_eq!(poll(&mut bell, Some(&Timespec::default())), Ok(1));
    reader.end_sleep(|| (), || ());
    reader.put();
}

/// What is on its way to an end that closes at that moment earns a reset, as over the kernel; the other connection does
/// not, whose bytes had come and were read.
#[test]
fn bytes_that_cross_a_close_earn_a_reset() {
    let (sending, receiving, [late, early], [closes, reads]) = neighbours();
    for sender in [late, early] {
        assert_eq!(write(sender, b"x"), Ok(Outcome::Done(1)));
    }
    receiving.poll(None);
    for reader in [closes, reads] {
        assert_eq!(read(reader), b"x");
    }
    assert_eq!(write(late, b"y"), Ok(Outcome::Done(1)));
    // Nobody takes the byte in before both are closed.
    for reader in [closes, reads] {
        let farewell = reader.lock().end();
        farewell.say();
    }
    sending.poll(None);
    let error = |socket: &'static Socket| socket.lock().conn().and_then(|conn| conn.error);
    assert_eq!(error(late), Some(Errno::PIPE));
    assert_eq!(error(early), None);
    let ended = |socket: &'static Socket| socket.lock().conn().is_some_and(|conn| conn.rx_fin);
    assert!(ended(early));
    late.discard();
    early.discard();
}
