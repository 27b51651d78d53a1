//! Peers that say what cannot be, and carriers that keep what they have not sent.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use netacc::conn::Violation;
use netacc::fabric::remote::carrier::{Batch, Carrier, Piece, Posted, RingSource};
use netacc::fabric::remote::message::{Immediate, Message, Progress, RemoteRing};
use netacc::fabric::remote::{FIRST_RING, RingSizes};
use netacc::fabric::stream::{Stream, StreamCarrier};
use netacc::link::record::{Header, Kind, span};
use netacc::link::stamp::Stamp;
use netacc::real::sys::InternalFd;

use crate::end::{End, pattern};
use crate::memory::{Device, Source};
use crate::wire::{Manner, Plug, Way, Wire};

const MOST: usize = 64 << 10;

fn end() -> End {
    End::new(0, 7, RingSizes { most: MOST })
}

/// `end` begins a carrier; its number, and the wire.
fn begin(end: &End, manner: Manner) -> (u32, Arc<Mutex<Wire>>) {
    let id = end.remote.next_carrier();
    let wire = wire(end, manner);
    let begun = end.remote.begin(id, Plug::new(&wire, 0));
    begun.expect("memory");
    (id, wire)
}

/// An end with rings of up to `most` bytes whose first carrier, of messages, stands.
fn begun(most: usize) -> (End, u32, Arc<Mutex<Wire>>) {
    let end = End::new(0, 7, RingSizes { most });
    let (id, wire) = begin(&end, Manner::Messages);
    resume(&end, id, 0, FIRST_RING).expect("an honest word");
    (end, id, wire)
}

fn wire(end: &End, manner: Manner) -> Arc<Mutex<Wire>> {
    Arc::new(Mutex::new(Wire {
        manner,
        room: 100,
        ways: [Way::default(), Way::default()],
        ids: [0, 0],
        devices: [end.devices[0].clone(), end.devices[0].clone()],
    }))
}

fn ring(size: usize) -> RemoteRing {
    RemoteRing {
        addr: 0,
        rkey: 0,
        size: size as u32,
    }
}

fn resume(end: &End, id: u32, got: u64, size: usize) -> Result<(), Violation> {
    let ring = ring(size);
    let message = Message::Resume {
        got,
        freed: 0,
        ring,
    };
    end.remote.hear(id, message)
}

#[test]
fn a_ring_of_another_size_than_was_agreed_is_refused() {
    for (size, is_right) in [
        (FIRST_RING / 2, false),
        (FIRST_RING, true),
        (MOST, true),
        (2 * MOST, false),
    ] {
        for manner in [Manner::Stream, Manner::Messages] {
            let mut end = end();
            end.send(0, 5_000);
            let (id, _wire) = begin(&end, manner);
            assert_eq!(resume(&end, id, 0, size).is_ok(), is_right, "{size}");
            end.end();
        }
    }
    for (size, is_right) in [
        (FIRST_RING, false),
        (2 * FIRST_RING, true),
        (MOST, true),
        (2 * MOST, false),
    ] {
        let (end, id, _wire) = begun(MOST);
        let heard = end.remote.hear(id, Message::Offer(ring(size)));
        assert_eq!(heard.is_ok(), is_right, "{size}");
        end.end();
    }
}

#[test]
fn a_larger_ring_is_asked_for_before_the_first_is_full() {
    let (mut end, _, wire) = begun(MOST);
    end.send(0, FIRST_RING / 4);
    assert_eq!(asked(&wire), 0);
    end.send(0, FIRST_RING / 3);
    end.flush();
    assert_eq!(asked(&wire), 1);
    end.end();
}

#[test]
fn a_still_larger_ring_is_asked_for_after_the_switch_is_announced() {
    let (mut end, id, wire) = begun(4 * MOST);
    end.send(0, 3 * FIRST_RING / 4);
    let offer = Message::Offer(ring(4 * FIRST_RING));
    end.remote.hear(id, offer).expect("it was asked for");
    // Nothing goes for a while, and the second ring is more than half full when it goes on.
    let sent = wire.lock().unwrap().ways[0].packets.len();
    wire.lock().unwrap().room = sent;
    (0..3).for_each(|conn| end.send(conn, 20_000));
    wire.lock().unwrap().room = 100;
    end.flush();
    assert_eq!(
        words(&wire),
        ["full", "switch"],
        "the peer offers one ring at a time"
    );
    end.send(0, 100);
    end.flush();
    assert_eq!(words(&wire), ["full", "switch", "full"]);
    end.end();
}

#[test]
fn what_is_given_back_between_two_carriers_is_told_on_the_second() {
    const PIECE: usize = 1000;
    let end = end();
    let (first, wire) = begin(&end, Manner::Stream);
    resume(&end, first, 0, FIRST_RING).expect("an honest word");
    let mut written = 0;
    for piece in 0..12 {
        let header = Header {
            len: PIECE as u32,
            conn: 0,
            kind: Kind::Data,
            stamp: Stamp::now(),
        };
        let mut record = header.encode().to_vec();
        record.extend(pattern(9, 0, (piece * PIECE) as u64, PIECE));
        record.resize(span(PIECE), 0);
        end.remote.place(first, written, &record).expect("room");
        written += record.len() as u64;
        let news = Progress {
            produced: written,
            freed: 0,
        };
        end.remote
            .hear(first, Message::Progress(news))
            .expect("an honest word");
    }
    drop(wire);
    let (second, wire) = begin(&end, Manner::Stream);
    // Taken in only now: more than half of the ring is not kept there for a reader who does not come.
    end.poll();
    resume(&end, second, 0, FIRST_RING).expect("an honest word");
    let wire = wire.lock().unwrap();
    let told = wire.ways[0]
        .packets
        .iter()
        .filter_map(|packet| match packet {
            crate::wire::Packet::Message(Message::Progress(news)) => Some(news.freed),
            _ => None,
        });
    let freed = told.max().expect("nothing else will ever tell it");
    assert!(written - freed <= FIRST_RING as u64 / 2);
    drop(wire);
    end.end();
}

#[test]
fn an_offer_that_could_not_be_taken_up_is_looked_at_again() {
    let (mut end, id, wire) = begun(4 * MOST);
    end.send(0, 3 * FIRST_RING / 4);
    let offer = Message::Offer(ring(4 * FIRST_RING));
    end.remote.hear(id, offer).expect("it was asked for");
    end.devices[0]
        .is_out_of_memory
        .store(true, Ordering::Relaxed);
    (0..3).for_each(|conn| end.send(conn, 10_000));
    end.flush();
    assert_eq!(words(&wire), ["full"]);
    end.devices[0]
        .is_out_of_memory
        .store(false, Ordering::Relaxed);
    end.remote.grow_again();
    end.poll();
    (0..3).for_each(|conn| end.send(conn, 10_000));
    end.flush();
    assert_eq!(words(&wire)[..2], ["full", "switch"]);
    end.end();
}

/// What was said of rings, one word after the other.
fn words(wire: &Arc<Mutex<Wire>>) -> Vec<&'static str> {
    let wire = wire.lock().unwrap();
    let word = |packet: &crate::wire::Packet| match packet {
        crate::wire::Packet::Message(Message::Full(_)) => Some("full"),
        crate::wire::Packet::Message(Message::Switch(_)) => Some("switch"),
        _ => None,
    };
    wire.ways[0].packets.iter().filter_map(word).collect()
}

/// How often a larger ring was asked for.
fn asked(wire: &Arc<Mutex<Wire>>) -> usize {
    let wire = wire.lock().unwrap();
    let packets = wire.ways[0].packets.iter();
    let asks = |p: &&crate::wire::Packet| matches!(p, crate::wire::Packet::Message(Message::Full(most)) if *most == MOST as u64);
    packets.filter(asks).count()
}

#[test]
fn rings_are_no_larger_than_either_end_wants() {
    for (asked, offered) in [
        (u64::MAX, Some(MOST)),
        (MOST as u64, Some(MOST)),
        (32 << 10, Some(32 << 10)),
        (FIRST_RING as u64, None),
        (0, None),
        (40_000, None),
    ] {
        let (end, id, wire) = begun(MOST);
        let heard = end.remote.hear(id, Message::Full(asked));
        heard.expect("anybody may ask");
        let wire = wire.lock().unwrap();
        let offer = wire.ways[0].packets.iter().find_map(|packet| match packet {
            crate::wire::Packet::Message(Message::Offer(ring)) => Some(ring.size as usize),
            _ => None,
        });
        assert_eq!(offer, offered, "{asked}");
        drop(wire);
        end.end();
    }
}

#[test]
fn bytes_that_the_mirror_no_longer_holds_are_not_sent() {
    let mut end = end();
    end.send(0, 3_000);
    let (id, _first) = begin(&end, Manner::Messages);
    // Its mirror is made of the device's memory, and holds what follows.
    let written = 3_000u64.next_multiple_of(16);
    let got = [written + 16, written + 32];
    let taken = got
        .iter()
        .find(|got| resume(&end, id, **got, FIRST_RING).is_ok());
    let got = *taken.expect("the end of what was written");
    // Words of long ago, which a network may deliver late: they cost the carrier on which they come.
    for stale in [0, got - 16] {
        let (id, late) = begin(&end, Manner::Messages);
        resume(&end, id, stale, FIRST_RING).expect("no crime");
        assert!(end.remote.is_broken(), "{stale}");
        drop(late);
    }
    let (id, second) = begin(&end, Manner::Messages);
    assert!(resume(&end, id, got, FIRST_RING).is_ok());
    assert!(!end.remote.is_broken());
    drop(second);
    end.end();
}

#[test]
fn cursors_beyond_all_measure_end_the_link() {
    for produced in [u64::MAX, u64::MAX - 15, 1 << 63, FIRST_RING as u64 + 16] {
        let end = end();
        let (id, _wire) = begin(&end, Manner::Immediate);
        resume(&end, id, 0, FIRST_RING).expect("an honest word");
        let progress = Progress {
            produced,
            freed: u64::MAX,
        };
        let heard = end.remote.hear(id, Message::Progress(progress));
        heard.expect("it is for the link to check");
        end.link.poll(None);
        assert!(end.link.is_dead(), "{produced:x}");
        end.remote.hear_immediate(id, Immediate::parse(u32::MAX));
        end.link.poll(None);
        end.end();
    }
    // Both before the link looks.
    let end = end();
    let (id, _wire) = begin(&end, Manner::Immediate);
    resume(&end, id, 0, FIRST_RING).expect("an honest word");
    let progress = Progress {
        produced: u64::MAX,
        freed: 0,
    };
    let heard = end.remote.hear(id, Message::Progress(progress));
    heard.expect("it is for the link to check");
    end.remote.hear_immediate(id, Immediate::parse(0x0001_0000));
    end.remote.hear_immediate(id, Immediate::parse(u32::MAX));
    end.link.poll(None);
    assert!(end.link.is_dead());
    end.end();
}

#[test]
fn a_link_that_is_over_takes_no_carrier() {
    let end = end();
    end.remote.shut();
    let (begun, expected) = (wire(&end, Manner::Messages), wire(&end, Manner::Messages));
    let id = end.remote.next_carrier();
    let _ = end.remote.begin(id, Plug::new(&begun, 0));
    let id = end.remote.next_carrier();
    let taken = end.remote.expect(id, Plug::new(&expected, 0));
    assert_eq!(taken, Ok(()));
    for wire in [begun, expected] {
        assert!(wire.lock().unwrap().ways[0].is_closed);
        assert_eq!(Arc::strong_count(&wire), 1, "it is kept");
    }
    assert_eq!(end.devices[0].leased(), 0);
    end.end();
}

#[test]
fn a_frame_keeps_its_mirror_until_it_is_sent() {
    let device = Device::new(3);
    let mirror = Arc::new(Source(device.clone()).ring(MOST).expect("memory"));
    // SAFETY: the whole ring, which nobody else uses.
    unsafe { mirror.memory.base.write_bytes(0x5a, MOST) };
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    let small = 4096;
    // SAFETY: an option of an integer.
    let set = unsafe {
        libc::setsockopt(
            ours.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            (&raw const small).cast(),
            size_of_val(&small) as u32,
        )
    };
    assert_eq!(set, 0);
    let stream = Stream::new(InternalFd::adopt(ours.into()));
    let mut carrier = StreamCarrier::new(stream.clone(), 1, Box::new(|| ()));
    let piece = Piece {
        mirror: &mirror,
        offset: 0,
        to: 0,
        rkey: 0,
        len: MOST as u32,
    };
    let progress = Progress {
        produced: MOST as u64,
        freed: 0,
    };
    let mut batch = Batch {
        pieces: &[Some(piece)],
        progress,
    };
    assert_eq!(carrier.post(&mut batch), Posted::Done);
    assert!(stream.is_blocked(), "a part of it has to wait");
    // The link believes that the peer has it; then it closes the carrier.
    drop(mirror);
    carrier.close();
    drop(carrier);
    assert_eq!(device.leased(), 1);
    theirs.set_nonblocking(true).expect("an option");
    let (mut frame, mut bytes) = (Vec::new(), [0; 4096]);
    while stream.is_blocked() || frame.len() < 48 + MOST {
        while let Ok(got @ 1..) = theirs.read(&mut bytes) {
            frame.extend_from_slice(&bytes[..got]);
        }
        assert_ne!(stream.go_on(), Posted::Failed);
    }
    assert_eq!(frame.len(), 48 + MOST);
    assert!(frame[48..].iter().all(|&byte| byte == 0x5a), "other bytes");
    assert_eq!(device.leased(), 0);
}
