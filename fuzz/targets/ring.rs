//! A peer that writes what it likes into the shared ring, moves its cursors anywhere, and changes bytes while they are read.

#![no_main]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use netacc::conn::Conn;
use netacc::fabric::Fabric;
use netacc::fabric::shm::Shm;
use netacc::link::record::{HEADER, span};
use netacc::link::{Link, Terms};
use netacc::real::sys::Errno;
use netacc::socket::{Role, Socket};

const RING: usize = 16 << 10;
const WINDOW: u64 = 6000;
const CONNS: u32 = 3;

/// What the peer does.
#[derive(Arbitrary, Debug)]
enum Step {
    /// A record with this header, and a payload as long as it says, if a ring holds that.
    Record {
        kind: u8,
        conn: u8,
        len: u16,
        fill: u8,
    },
    /// A header whose length is only claimed.
    Claim { kind: u8, conn: u32, len: u32 },
    /// Any bytes.
    Bytes(Vec<u8>),
    /// The cursor goes there, and not where the records end.
    Cursor(u64),
    /// The cursor goes so far on or back.
    Off(i16),
    /// What was written is published, and taken in.
    Publish,
    /// The application reads so much.
    Read { conn: u8, most: u16 },
    /// The application sends so much.
    Send { conn: u8, len: u16 },
}

struct World {
    link: Arc<Link>,
    peer: Arc<Shm>,
    written: u64,
    sockets: Vec<&'static Socket>,
}

impl World {
    fn new() -> World {
        let (ours, peer) = Shm::pair(RING).expect("shared memory");
        let terms = Terms {
            // Giving back is the control thread's work, and there is none.
            resends: false,
            ..Terms::unnamed(WINDOW)
        };
        let link = Link::new(Box::new(ours), terms);
        let sockets = (0..CONNS).map(|id| {
            let socket = Socket::new(libc::AF_INET, true);
            assert!(link.open_as(id, socket));
            socket.lock().role = Role::Connected(Box::new(Conn::new(link.clone(), id)));
            socket
        });
        let sockets = sockets.collect();
        World {
            link,
            peer: Arc::new(peer),
            written: 0,
            sockets,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(RING)];
        // SAFETY: the ring is mapped twice, so that `RING` bytes follow any place in it.
        unsafe {
            core::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.peer.tx().at(self.written),
                bytes.len(),
            );
        }
        self.written = self.written.wrapping_add(bytes.len() as u64);
    }

    fn record(&mut self, kind: u8, conn: u32, len: u32, payload: usize, fill: u8) {
        let mut bytes = vec![0; span(payload)];
        bytes[0..4].copy_from_slice(&len.to_le_bytes());
        bytes[4..8].copy_from_slice(&conn.to_le_bytes());
        bytes[8] = kind;
        bytes[HEADER..HEADER + payload].fill(fill);
        self.write(&bytes);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Record {
                kind,
                conn,
                len,
                fill,
            } => {
                let len = usize::from(len) % (RING / 8 + 64);
                self.record(kind % 16, u32::from(conn % 6), len as u32, len, fill);
            }
            Step::Claim { kind, conn, len } => self.record(kind, conn, len, 0, 0),
            Step::Bytes(bytes) => self.write(&bytes),
            Step::Cursor(to) => self.written = to,
            Step::Off(by) => self.written = self.written.wrapping_add_signed(by.into()),
            Step::Publish => {
                self.peer.publish(self.written);
                self.link.poll(None);
            }
            Step::Read { conn, most } => {
                let socket = self.sockets[usize::from(conn) % self.sockets.len()];
                let mut inner = socket.lock();
                if let Some(conn) = inner.conn() {
                    let n = conn.rx.take(None, most.into(), &self.link.slots);
                    conn.took(n);
                }
            }
            Step::Send { conn, len } => {
                use netacc::conn::user_buf::{UserBuf, single};
                let bytes = vec![7u8; usize::from(len).max(1)];
                let iov = single(bytes.as_ptr().cast(), bytes.len());
                // SAFETY: one valid buffer.
                let mut cursor = unsafe { UserBuf::new(&iov, 1) };
                let socket = self.sockets[usize::from(conn) % self.sockets.len()];
                let inner = socket.lock();
                if matches!(inner.role, Role::Connected(_)) {
                    let _ = socket.transmit(
                        inner,
                        &mut cursor,
                        libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
                    );
                }
            }
        }
        for socket in &self.sockets {
            if let Some(conn) = socket.lock().conn() {
                assert!(
                    conn.rx.len() as u64 <= WINDOW,
                    "more is kept than the window"
                );
                let _ = (conn.poll_mask(1), conn.credit());
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.link.retire(Errno::CONNRESET, false);
        for socket in &self.sockets {
            socket.discard();
        }
    }
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (restless, steps) = input;
    let mut world = World::new();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if restless {
            // Flips bits of the ring all the time, headers that are being read among them.
            let (peer, over) = (world.peer.clone(), &over);
            scope.spawn(move || {
                let ring = peer.tx();
                for at in (0..RING as u64).step_by(HEADER / 2).cycle() {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    // SAFETY: a byte of the ring, which both ends may write.
                    unsafe { ring.at(at).write_volatile(ring.at(at).read_volatile() ^ 1) };
                }
            });
        }
        steps.into_iter().for_each(|step| world.step(step));
        over.store(true, Ordering::Relaxed);
    });
});
