//! A link whose peer writes whatever it likes into the shared ring.

use std::sync::Arc;

use netacc::conn::Conn;
use netacc::conn::user_buf::{UserBuf, single};
use netacc::fabric::Fabric;
use netacc::fabric::shm::Shm;
use netacc::link::record::{HEADER, Header, Kind, span};
use netacc::link::stamp::Stamp;
use netacc::link::{Link, Terms};
use netacc::real::sys::Errno;
use netacc::socket::{Role, Socket};
use proptest::collection::vec;
use proptest::prelude::*;

const RING: usize = 16 << 10;
const MAX_PAYLOAD: usize = RING / 8;
const WINDOW: u64 = 6000;
const CONNS: usize = 3;

/// A record as a hostile peer may write it.
#[derive(Clone, Debug)]
struct Record {
    kind: u8,
    conn: u32,
    len: u32,
    fill: u8,
}

impl Record {
    fn sane(kind: Kind, conn: usize, len: usize, fill: u8) -> Record {
        Record {
            kind: kind as u8,
            conn: conn as u32,
            len: len as u32,
            fill,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        // A length that no ring holds is only claimed.
        let payload = (self.len as usize).min(MAX_PAYLOAD + 64);
        let mut bytes = vec![0; span(payload)];
        bytes[0..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.conn.to_le_bytes());
        bytes[8] = self.kind;
        bytes[HEADER..HEADER + payload].fill(self.fill);
        bytes
    }
}

/// What the peer knows of a connection, and what its reader is to get.
#[derive(Default)]
struct Stream {
    arrived: u64,
    granted: u64,
    ended: bool,
    unread: Vec<u8>,
}

/// A link, its connections, and the other end of its rings.
struct World {
    link: Arc<Link>,
    peer: Shm,
    written: u64,
    sockets: Vec<&'static Socket>,
    streams: Vec<Stream>,
}

impl World {
    fn new() -> World {
        let (ours, peer) = Shm::pair(RING).expect("shared memory");
        let terms = Terms {
            // What a record may open fast is another way in.
            fast: true,
            ..Terms::unnamed(WINDOW)
        };
        let link = Link::new(Box::new(ours), terms);
        let sockets = (0..CONNS as u32)
            .map(|id| {
                let socket = Socket::new(libc::AF_INET, true);
                assert!(link.open_as(id, socket));
                socket.lock().role = Role::Connected(Box::new(Conn::new(link.clone(), id)));
                socket
            })
            .collect();
        let stream = || Stream {
            granted: WINDOW,
            ..Stream::default()
        };
        World {
            link,
            peer,
            written: 0,
            sockets,
            streams: (0..CONNS).map(|_| stream()).collect(),
        }
    }

    /// Writes `bytes` behind all others, whatever that overwrites.
    fn write(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= RING);
        // SAFETY: the ring is mapped twice, so that `RING` bytes follow any place in it.
        unsafe {
            core::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.peer.tx().at(self.written),
                bytes.len(),
            )
        };
        self.written = self.written.wrapping_add(bytes.len() as u64);
    }

    fn publish(&self) {
        self.peer.publish(self.written);
    }

    fn room(&self) -> usize {
        RING - (self.written - self.peer.freed()) as usize
    }

    /// The data record if a well-behaved peer could write it now.
    fn data(&mut self, conn: usize, len: usize, fill: u8) -> bool {
        let stream = &self.streams[conn];
        let fits = stream.arrived + len as u64 <= stream.granted
            && span(len) <= self.room()
            && !stream.ended;
        if fits {
            self.write(&Record::sane(Kind::Data, conn, len, fill).bytes());
            let stream = &mut self.streams[conn];
            stream.arrived += len as u64;
            stream.unread.extend(std::iter::repeat_n(fill, len));
        }
        fits
    }

    /// Takes up to `max` bytes of `conn` as a reading application would.
    fn read(&mut self, conn: usize, max: usize) -> Result<(), TestCaseError> {
        let mut bytes = vec![0; max];
        let iov = single(bytes.as_mut_ptr().cast(), max);
        // SAFETY: one valid buffer.
        let mut cursor = unsafe { UserBuf::new(&iov, 1) };
        let mut inner = self.sockets[conn].lock();
        let end = inner.conn().expect("still a connection");
        let n = end.rx.take(Some(&mut cursor), max, &self.link.slots);
        let grant = end.took(n);
        drop(inner);
        let stream = &mut self.streams[conn];
        prop_assert!(n <= stream.unread.len(), "more than was sent");
        prop_assert!(
            stream.unread.drain(..n).eq(bytes[..n].iter().copied()),
            "other bytes than were sent"
        );
        stream.granted = grant.unwrap_or(stream.granted);
        Ok(())
    }

    /// All that was sent has been taken in, and is there to be read, or was given back to the peer at a hand-back.
    fn check_all_delivered(&mut self) -> Result<(), TestCaseError> {
        for conn in 0..CONNS {
            let given_back = (self.sockets[conn].lock().conn())
                .map(|conn| core::mem::take(&mut conn.given_back))
                .unwrap_or_default();
            let unread = &mut self.streams[conn].unread;
            prop_assert!(given_back.len() <= unread.len(), "more than was sent");
            prop_assert!(unread.drain(..given_back.len()).eq(given_back));
            let unread = self.streams[conn].unread.len();
            prop_assert_eq!(
                self.sockets[conn].lock().conn().map(|c| c.rx.len()),
                Some(unread)
            );
            self.read(conn, unread)?;
            prop_assert!(self.streams[conn].unread.is_empty());
        }
        Ok(())
    }

    /// The link is over, and every connection on it that the peer had not closed, or handed back, is broken off.
    fn check_retired(&mut self) -> Result<(), TestCaseError> {
        prop_assert!(self.link.is_dead());
        prop_assert!(!self.link.pending(), "a dead link has nothing to look at");
        for socket in &self.sockets {
            let mut inner = socket.lock();
            let conn = inner.conn().expect("still a connection");
            prop_assert!(conn.rx_left || conn.peer_closed && conn.readable(1));
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for socket in &self.sockets {
            socket.discard();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Data {
        conn: usize,
        len: usize,
        fill: u8,
    },
    /// For a connection that is not there.
    Stray {
        len: usize,
    },
    Window {
        conn: usize,
    },
    Poll,
    Read {
        conn: usize,
        max: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![1..200usize, 1..=MAX_PAYLOAD];
    prop_oneof![
        6 => (0..CONNS, len(), any::<u8>()).prop_map(|(conn, len, fill)| Step::Data { conn, len, fill }),
        1 => len().prop_map(|len| Step::Stray { len }),
        1 => (0..CONNS).prop_map(|conn| Step::Window { conn }),
        3 => Just(Step::Poll),
        4 => (0..CONNS, 0..3000usize).prop_map(|(conn, max)| Step::Read { conn, max }),
    ]
}

fn obey(world: &mut World, steps: Vec<Step>) -> Result<(), TestCaseError> {
    for step in steps {
        match step {
            Step::Data { conn, len, fill } => {
                world.data(conn, len, fill);
            }
            Step::Stray { len } if span(len) <= world.room() => {
                world.write(&Record::sane(Kind::Data, CONNS + 1, len, 9).bytes());
            }
            Step::Window { conn } if world.room() >= span(8) => {
                world.write(&Record::sane(Kind::Window, conn, 8, 0).bytes());
            }
            Step::Stray { .. } | Step::Window { .. } => {}
            Step::Poll => {
                world.publish();
                world.link.poll(None);
                prop_assert!(!world.link.is_dead(), "a good peer was turned away");
                prop_assert!(
                    world.room() >= RING / 2,
                    "unread records hold more than half of the ring"
                );
            }
            Step::Read { conn, max } => world.read(conn, max)?,
        }
    }
    Ok(())
}

/// Ways to break the protocol at once.
#[derive(Clone, Debug)]
enum Crime {
    Record(Record),
    /// Data beyond the window.
    Beyond {
        conn: usize,
    },
    /// Data after the end of the stream.
    AfterEnd {
        conn: usize,
        end: Kind,
    },
    /// A record that is not all there.
    Torn {
        conn: usize,
        missing: u64,
    },
    /// The cursor runs ahead of the ring.
    Ahead(u64),
    /// The cursor goes back.
    Back(u64),
}

fn crime() -> impl Strategy<Value = Crime> {
    let record = |kind: u8, len: u32| {
        Crime::Record(Record {
            kind,
            conn: 0,
            len,
            fill: 1,
        })
    };
    prop_oneof![
        (15..=u8::MAX).prop_map(move |kind| record(kind, 0)),
        // No way leads here, nor has one a number as high as that.
        Just(record(Kind::Open as u8, 8)),
        Just(record(Kind::Grant as u8, 12)),
        // Nothing was asked back.
        (0..=MAX_PAYLOAD as u32).prop_map(move |len| record(Kind::Returned as u8, len)),
        Just(record(0, 0)),
        Just(record(Kind::Data as u8, 0)),
        (MAX_PAYLOAD as u32 + 1..=u32::MAX).prop_map(move |len| record(Kind::Data as u8, len)),
        (
            prop::sample::select(vec![2u8, 3, 5, 6, 7, 8, 10]),
            1..=u32::MAX
        )
            .prop_map(move |(kind, len)| record(kind, len)),
        prop_oneof![0..8u32, 9..=u32::MAX].prop_map(move |len| record(Kind::Window as u8, len)),
        (0..CONNS).prop_map(|conn| Crime::Beyond { conn }),
        (
            0..CONNS,
            prop::sample::select(vec![Kind::Fin, Kind::Close, Kind::HandBack, Kind::Recall])
        )
            .prop_map(|(conn, end)| Crime::AfterEnd { conn, end }),
        (0..CONNS, 1..64u64).prop_map(|(conn, missing)| Crime::Torn { conn, missing }),
        (RING as u64 + 1..=u64::MAX / 2).prop_map(Crime::Ahead),
        (1..=RING as u64).prop_map(Crime::Back),
    ]
}

/// Commits `crime` as the next thing after all that was written; false if it cannot be done now.
fn commit(world: &mut World, crime: Crime) -> bool {
    match crime {
        Crime::Record(record) => world.write(&record.bytes()),
        Crime::Beyond { conn } => {
            while world.streams[conn].granted > world.streams[conn].arrived {
                let credit = (world.streams[conn].granted - world.streams[conn].arrived) as usize;
                if !world.data(conn, credit.min(MAX_PAYLOAD), 3) {
                    return false;
                }
            }
            world.write(&Record::sane(Kind::Data, conn, 1, 1).bytes());
        }
        Crime::AfterEnd { conn, end } => {
            world.write(&Record::sane(end, conn, 0, 0).bytes());
            world.write(&Record::sane(Kind::Data, conn, 1, 1).bytes());
        }
        Crime::Torn { conn, missing } => {
            world.write(&Record::sane(Kind::Data, conn, 48, 1).bytes());
            world.written -= missing;
        }
        Crime::Ahead(by) => world.written = world.peer.freed() + by,
        Crime::Back(by) => {
            world.publish();
            world.link.poll(None);
            if world.written == 0 {
                return false;
            }
            world.written -= by.min(world.written);
        }
    }
    world.publish();
    true
}

proptest! {
    #[test]
    fn a_violation_ends_the_link_and_loses_nothing_before_it(steps in vec(step(), 0..60), crime in crime()) {
        let mut world = World::new();
        obey(&mut world, steps)?;
        world.publish();
        world.link.poll(None);
        world.check_all_delivered()?;
        world.link.poll(None);
        // Something that nobody has looked at when the crime is committed.
        world.data(1, 100, 5);
        let ahead = matches!(crime, Crime::Ahead(_));
        if commit(&mut world, crime) {
            world.link.poll(None);
            world.check_retired()?;
            if ahead {
                // No word of a peer whose cursor lies is believed.
                world.streams[1].unread.clear();
            }
            world.check_all_delivered()?;
            world.link.poll(None);
            world.check_retired()?;
        }
    }

    #[test]
    fn a_good_peer_is_served(steps in vec(step(), 0..300)) {
        let mut world = World::new();
        obey(&mut world, steps)?;
        world.publish();
        world.link.poll(None);
        world.check_all_delivered()?;
        world.link.retire(Errno::CONNRESET, false);
        world.check_retired()?;
    }

    /// Any bytes anywhere, any cursor, again and again: whatever is made of it lies within the window.
    #[test]
    fn any_bytes_do_no_harm(rounds in vec((vec(any::<Loose>(), 0..20), cursor(), 0..4000usize), 1..8)) {
        let mut world = World::new();
        for (records, cursor, max) in rounds {
            for record in records {
                world.write(&record.0);
            }
            world.written = match cursor {
                Cursor::Honest => world.written,
                Cursor::Off(by) => world.written.wrapping_add_signed(by),
                Cursor::Any(to) => to,
            };
            world.publish();
            world.link.poll(None);
            for socket in &world.sockets {
                let mut inner = socket.lock();
                let conn = inner.conn().expect("still a connection");
                prop_assert!(conn.rx.len() as u64 <= WINDOW);
                let n = conn.rx.take(None, max, &world.link.slots);
                conn.took(n);
                let _ = (conn.poll_mask(1), conn.credit());
            }
        }
    }
}

/// Bytes of a record, good or not quite, or of none.
#[derive(Clone, Debug)]
struct Loose(Vec<u8>);

impl Arbitrary for Loose {
    type Parameters = ();
    type Strategy = BoxedStrategy<Loose>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let header = |kind: u8, conn, len: u32| {
            let mut header = Header {
                len,
                conn,
                kind: Kind::Fin,
                stamp: Stamp::now(),
            }
            .encode();
            header[8] = kind;
            header
        };
        prop_oneof![
            9 => (1..=5u8, 0..CONNS as u32 + 2, 0..600u32, any::<u64>()).prop_map(move |(kind, conn, len, word)| {
                let len = match kind {
                    1 => len.max(1),
                    4 => 8,
                    _ => 0,
                };
                let mut bytes = header(kind, conn, len).to_vec();
                bytes.extend(word.to_le_bytes());
                bytes.resize(span(len as usize), 7);
                bytes
            }),
            1 => (any::<u8>(), any::<u32>(), any::<u32>()).prop_map(move |(kind, conn, len)| header(kind, conn, len).to_vec()),
            1 => vec(any::<u8>(), 0..100),
        ]
        .prop_map(Loose)
        .boxed()
    }
}

#[derive(Clone, Debug)]
enum Cursor {
    Honest,
    Off(i64),
    Any(u64),
}

fn cursor() -> impl Strategy<Value = Cursor> {
    prop_oneof![
        8 => Just(Cursor::Honest),
        1 => (-64..64i64).prop_map(Cursor::Off),
        1 => any::<u64>().prop_map(Cursor::Any),
    ]
}
