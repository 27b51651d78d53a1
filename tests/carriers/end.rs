//! One end of a link: connections, what they have sent and received, and who hears of the carrier's end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use netacc::conn::Conn;
use netacc::conn::user_buf::{UserBuf, single};
use netacc::fabric::FabricKind;
use netacc::fabric::plain::Plain;
use netacc::fabric::remote::{self, Hub, Remote, RingSizes};
use netacc::link::{Link, Terms};
use netacc::real::sys::Errno;
use netacc::socket::recv::Outcome;
use netacc::socket::{Role, Socket};

use crate::memory::Device;

pub const CONNS: usize = 3;
const WINDOW: u64 = 40_000;

/// What an end says of itself.
#[derive(Default)]
pub struct News {
    deferred: Mutex<Vec<Arc<Remote>>>,
    lost: AtomicBool,
    losses: AtomicU64,
}

impl Hub for News {
    fn defer(&self, remote: &Arc<Remote>) {
        self.deferred.lock().unwrap().push(remote.clone());
    }

    fn lost(&self, _remote: &Arc<Remote>) {
        self.lost.store(true, Ordering::Relaxed);
        self.losses.fetch_add(1, Ordering::Relaxed);
    }
}

impl News {
    /// The carrier broke since this was last asked.
    pub fn take_lost(&self) -> bool {
        self.lost.swap(false, Ordering::Relaxed)
    }

    /// How often it broke.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }
}

/// See the module.
pub struct End {
    pub news: &'static News,
    pub remote: Arc<Remote>,
    pub link: Arc<Link>,
    pub devices: [Arc<Device>; 2],
    sockets: Vec<&'static Socket>,
    /// Bytes of each connection that were sent, and received.
    pub sent: [u64; CONNS],
    pub received: [u64; CONNS],
    seed: u64,
}

impl End {
    pub fn new(number: usize, seed: u64, sizes: RingSizes) -> End {
        let news: &'static News = Box::leak(Box::default());
        let remote = Remote::new(news, FabricKind::Tcp, sizes, &Plain).expect("memory");
        let terms = Terms::unnamed(WINDOW);
        let link = Link::new(Box::new(remote::End(remote.clone())), terms);
        remote.attach(&link);
        let sockets = (0..CONNS as u32).map(|id| {
            let socket = Socket::new(libc::AF_INET, true);
            assert!(link.open_as(id, socket));
            socket.lock().role = Role::Connected(Box::new(Conn::new(link.clone(), id)));
            socket
        });
        End {
            news,
            sockets: sockets.collect(),
            remote,
            link,
            devices: [1, 2].map(|device| Device::new(2 * device + number)),
            sent: [0; CONNS],
            received: [0; CONNS],
            seed,
        }
    }

    /// Sends up to `max` bytes of `conn`, or what there is room for. As an event loop does, it waits for word of
    /// room if there was none.
    pub fn send(&mut self, conn: usize, max: usize) {
        let writable = {
            let mut inner = self.sockets[conn].lock();
            let mask = inner.conn().expect("a connection").poll_mask(1);
            mask & libc::EPOLLOUT as u32 != 0
        };
        if max == 0 || !writable {
            return;
        }
        let bytes = pattern(self.seed, conn, self.sent[conn], max);
        let iov = single(bytes.as_ptr().cast(), max);
        // SAFETY: one valid buffer.
        let mut cursor = unsafe { UserBuf::new(&iov, 1) };
        let socket = self.sockets[conn];
        match socket.transmit(socket.lock(), &mut cursor, libc::MSG_NOSIGNAL) {
            Ok(Outcome::Done(n)) => self.sent[conn] += n as u64,
            Err(Errno::AGAIN) => {}
            other => panic!("connection {conn} cannot send: {other:?}"),
        }
    }

    /// Receives up to `max` bytes of `conn`, which the end with `seed` has sent.
    pub fn receive(&mut self, conn: usize, max: usize, seed: u64) {
        let mut bytes = vec![0; max];
        let iov = single(bytes.as_mut_ptr().cast(), max);
        // SAFETY: one valid buffer.
        let mut cursor = unsafe { UserBuf::new(&iov, 1) };
        let socket = self.sockets[conn];
        match socket.receive(socket.lock(), &mut cursor, 0) {
            Ok(Outcome::Done(n)) => {
                let due = pattern(seed, conn, self.received[conn], n);
                assert!(n > 0 && due == bytes[..n], "other bytes than were sent");
                self.received[conn] += n as u64;
            }
            Err(Errno::AGAIN) => {}
            other => panic!("connection {conn} cannot receive: {other:?}"),
        }
    }

    /// Bytes of `conn` that have arrived, read or not.
    pub fn arrived(&self, conn: usize) -> u64 {
        let mut inner = self.sockets[conn].lock();
        let unread = inner.conn().expect("a connection").rx.len();
        self.received[conn] + unread as u64
    }

    /// The I/O thread's turn.
    pub fn flush(&self) {
        let deferred = std::mem::take(&mut *self.news.deferred.lock().unwrap());
        for remote in deferred {
            remote.flush();
        }
    }

    pub fn poll(&self) {
        self.link.poll(None);
        assert!(!self.link.is_dead(), "an honest peer was turned away");
    }

    /// The link is over.
    pub fn end(&self) {
        self.link.retire(Errno::CONNRESET, false);
        for socket in &self.sockets {
            socket.discard();
        }
        self.news.deferred.lock().unwrap().clear();
    }
}

/// The bytes from `offset` on of what the end with `seed` sends on `conn`: which of them are where tells any
/// that are lost, doubled or out of order.
/// What the end with `seed` sends on `conn` from `offset` on.
pub fn pattern(seed: u64, conn: usize, offset: u64, len: usize) -> Vec<u8> {
    let key = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (conn as u64) << 60;
    let byte = |at: u64| {
        let word = ((at / 8) ^ key).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (word >> (at % 8 * 8)) as u8
    };
    (offset..offset + len as u64).map(byte).collect()
}
