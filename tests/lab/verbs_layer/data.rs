//! Bytes from end to end, and completions.

use std::os::fd::AsFd;

use netacc::verbs::cq::{Completion, Work};
use netacc::verbs::qp::{Payload, SendOp, Slots, Verb};

use super::ends::{MEMORY, Pair, RECEIVE_SIZE, RECEIVES, bytes, fill, invited, wait_readable};
use crate::net::Kind;

/// A byte that depends on its place.
fn pattern(i: usize) -> u8 {
    (i * 7 + (i >> 8) * 13 + 1) as u8
}

fn op(wr_id: u64, verb: Verb, payload: Payload<'_>) -> SendOp<'_> {
    SendOp {
        wr_id,
        verb,
        payload,
        signaled: false,
        solicited: false,
    }
}

/// Tells the other end of what was written: with immediate data where the device has it.
fn notice(pair: &Pair, wr_id: u64, number: u32) -> SendOp<'static> {
    let device = pair.connector.qp.device();
    let mut notice = if device.attributes().write_imm {
        let nowhere = invited(&pair.there, 0);
        op(wr_id, Verb::WriteImm(nowhere, number), Payload::Empty)
    } else {
        const NUMBERS: [[u8; 4]; 64] = {
            let mut numbers = [[0; 4]; 64];
            let mut i = 0;
            while i < 64 {
                numbers[i] = (i as u32).to_le_bytes();
                i += 1;
            }
            numbers
        };
        op(wr_id, Verb::Send, Payload::Bytes(&NUMBERS[number as usize]))
    };
    notice.signaled = true;
    notice
}

/// The number in the next notice that arrives.
fn noticed(pair: &Pair) -> u32 {
    let arrived = pair.acceptor.success();
    match arrived.work() {
        Work::ReceiveWriteImm => arrived.imm().unwrap(),
        Work::Receive => {
            assert_eq!(arrived.len(), 4);
            let at = arrived.wr_id() as usize * RECEIVE_SIZE;
            let said = bytes(&pair.acceptor.receives, at, 4);
            u32::from_le_bytes(said.try_into().unwrap())
        }
        Work::Send => panic!("{arrived:?}"),
    }
}

#[test]
fn chained_writes_and_a_notice_bring_every_byte() {
    let pair = Pair::connect();
    let (from, to) = (&pair.connector, &pair.acceptor);
    fill(&from.source, pattern);
    let inline = from.qp.max_inline() as usize;
    // Around every limit: nothing, inline and not, a packet, many packets.
    let sizes = [
        1,
        8,
        inline,
        inline + 1,
        1023,
        1024,
        4096,
        5000,
        65_537,
        100_000,
    ];
    let mut ops = Vec::new();
    let mut places = Vec::new();
    let mut at = 3;
    for (i, len) in sizes.into_iter().enumerate() {
        let remote = invited(&pair.there, at);
        let payload = Payload::Region {
            region: &from.source,
            offset: at,
            len,
        };
        ops.push(op(i as u64, Verb::Write(remote), payload));
        places.push((at, len));
        at += len + 5;
    }
    assert!(at < MEMORY);
    ops.push(op(98, Verb::Write(invited(&pair.there, 0)), Payload::Empty));
    ops.push(notice(&pair, 99, 42));
    from.qp.post(&ops).unwrap();
    assert_eq!(noticed(&pair), 42);
    let done = from.success();
    assert_eq!((done.wr_id(), done.qp_num()), (99, from.qp.number()));

    let memory = bytes(&to.memory, 0, MEMORY);
    let mut expected = vec![0; MEMORY];
    for (at, len) in places {
        for (i, byte) in expected[at..at + len].iter_mut().enumerate() {
            *byte = pattern(at + i);
        }
    }
    assert!(memory == expected, "bytes differ");
}

/// The last request of the chain makes the only completion, and frees the places of all.
#[test]
fn long_chains_signal_their_end_only() {
    let pair = Pair::connect();
    let (from, to) = (&pair.connector, &pair.acceptor);
    for round in 0..20u32 {
        let number = round % RECEIVES as u32;
        let payload = |i: usize| (round as usize * 40 + i) as u32;
        let words: Vec<[u8; 4]> = (0..40).map(|i| payload(i).to_le_bytes()).collect();
        let mut ops: Vec<SendOp<'_>> = words
            .iter()
            .enumerate()
            .map(|(i, word)| {
                let remote = invited(&pair.there, 4 * i);
                op(i as u64, Verb::Write(remote), Payload::Bytes(word))
            })
            .collect();
        ops.push(notice(&pair, 1000 + u64::from(round), number));
        from.qp.post(&ops).unwrap();
        assert_eq!(noticed(&pair), number);
        assert_eq!(from.success().wr_id(), 1000 + u64::from(round));
        assert_eq!(bytes(&to.memory, 0, 160), words.concat());
    }
}

#[test]
fn messages_and_the_other_direction() {
    let pair = Pair::connect();
    let hello = b"hello";
    let mut message = op(5, Verb::Send, Payload::Bytes(hello));
    message.signaled = true;
    // The connecting side sends first.
    pair.connector.qp.post(&[message]).unwrap();
    assert_eq!(pair.connector.success().wr_id(), 5);
    let arrived = pair.acceptor.success();
    assert_eq!(
        (arrived.work(), arrived.wr_id(), arrived.len()),
        (Work::Receive, 0, 5)
    );
    assert_eq!(bytes(&pair.acceptor.receives, 0, 5), hello);

    fill(&pair.acceptor.source, pattern);
    let whole = Payload::Region {
        region: &pair.acceptor.source,
        offset: 0,
        len: MEMORY,
    };
    let remote = invited(&pair.back, 0);
    let ops = [op(6, Verb::Write(remote), whole), message];
    pair.acceptor.qp.post(&ops).unwrap();
    assert_eq!(pair.connector.success().work(), Work::Receive);
    assert!(bytes(&pair.connector.memory, 0, MEMORY) == bytes(&pair.acceptor.source, 0, MEMORY));
    assert_eq!(pair.acceptor.success().wr_id(), 5);
}

/// What a device without immediate data does with it: refuses that request alone, at once; what comes
/// before it in the chain is done, what comes after is not, and the queue pair goes on.
#[test]
fn immediate_data_is_done_or_refused_at_once() {
    let pair = Pair::connect();
    let (from, to) = (&pair.connector, &pair.acceptor);
    let place = |i| Verb::Write(invited(&pair.there, i));
    let mut second = op(
        2,
        Verb::WriteImm(invited(&pair.there, 1), 9),
        Payload::Bytes(b"b"),
    );
    second.signaled = true;
    let ops = [
        op(1, place(0), Payload::Bytes(b"a")),
        second,
        op(3, place(2), Payload::Bytes(b"c")),
    ];
    let posted = from.qp.post(&ops);
    let (expected, number) = match Kind::of_this_run() {
        Kind::Rxe => {
            posted.unwrap();
            let arrived = to.success();
            assert_eq!(arrived.work(), Work::ReceiveWriteImm);
            assert_eq!((arrived.imm(), arrived.len()), (Some(9), 1));
            assert_eq!(from.success().wr_id(), 2);
            (b"abc", 1)
        }
        Kind::Siw => {
            let refused = posted.unwrap_err();
            println!("{refused}");
            assert_eq!(refused.index, 1);
            (b"a\0\0", 1)
        }
    };
    // Alone, too: no request before it.
    if Kind::of_this_run() == Kind::Siw {
        let refused = from.qp.post(&ops[1..]).unwrap_err();
        println!("{refused}");
        assert_eq!(refused.index, 0);
    }
    from.qp.post(&[notice(&pair, 4, number)]).unwrap();
    assert_eq!(noticed(&pair), number);
    assert_eq!(from.success().wr_id(), 4);
    assert_eq!(bytes(&to.memory, 0, 3), expected);
}

#[test]
fn requests_outside_their_memory_are_refused() {
    let pair = Pair::connect();
    let from = &pair.connector;
    let inline = vec![1; from.qp.max_inline() as usize + 1];
    let region = |offset, len| Payload::Region {
        region: &from.source,
        offset,
        len,
    };
    let first = op(
        1,
        Verb::Write(invited(&pair.there, 0)),
        Payload::Bytes(b"x"),
    );
    for payload in [
        region(0, MEMORY + 1),
        region(MEMORY, 1),
        region(usize::MAX, 2),
        Payload::Bytes(&inline),
    ] {
        let bad = op(2, Verb::Write(invited(&pair.there, 0)), payload);
        let refused = from.qp.post(&[first, bad]).unwrap_err();
        assert_eq!(refused.index, 1, "{payload:?}");
    }
    let slots = Slots::Region {
        region: &from.receives,
        offset: 0,
        size: 1 << 20,
    };
    assert_eq!(from.qp.post_receives(0, slots, 2).unwrap_err().index, 0);
    from.qp.post(&[notice(&pair, 3, 8)]).unwrap();
    assert_eq!(noticed(&pair), 8, "the queue pair goes on");
}

#[test]
fn a_full_queue_refuses_the_rest() {
    let pair = Pair::connect();
    let receives = pair.connector.qp.recv_depth() as usize;
    let slots = Slots::Region {
        region: &pair.connector.source,
        offset: 0,
        size: RECEIVE_SIZE,
    };
    let more = pair.connector.qp.post_receives(0, slots, receives + 1);
    let refused = more.unwrap_err();
    println!("{refused}");
    assert_eq!(refused.index, receives - RECEIVES);
}

/// Receives without memory are enough for writes with immediate data.
#[test]
fn empty_receives_are_for_devices_with_immediate_data() {
    let pair = Pair::connect();
    let posted = pair.acceptor.qp.post_receives(50, Slots::None, 1);
    if !pair.acceptor.qp.device().attributes().write_imm {
        println!("{posted:?}");
        return;
    }
    posted.unwrap();
    for _ in 0..RECEIVES {
        pair.connector.qp.post(&[notice(&pair, 1, 1)]).unwrap();
        assert_eq!(noticed(&pair), 1);
        pair.connector.success();
    }
    let whole = Payload::Region {
        region: &pair.connector.source,
        offset: 0,
        len: MEMORY,
    };
    let remote = invited(&pair.there, 0);
    let last = op(2, Verb::WriteImm(remote, 3), whole);
    pair.connector.qp.post(&[last]).unwrap();
    let arrived = pair.acceptor.success();
    assert_eq!((arrived.wr_id(), arrived.imm()), (50, Some(3)));
    assert_eq!(arrived.len() as usize, MEMORY);
}

#[test]
fn sleeping_for_events_misses_nothing() {
    let pair = Pair::connect();
    let (from, to) = (&pair.connector, &pair.acceptor);
    let mut found = [const { Completion::EMPTY }; 8];
    let mut reposted = 0;
    std::thread::scope(|scope| {
        let send = || {
            for round in 0..500u32 {
                from.qp.post(&[notice(&pair, 7, round % 64)]).unwrap();
                from.success();
                // Never more than there are receives.
                while bytes(&from.source, 0, 4) != round.to_le_bytes() {
                    std::thread::yield_now();
                }
            }
        };
        fill(&from.source, |_| 0xff);
        scope.spawn(send);
        let mut expected = 0u32;
        while expected < 500 {
            to.cq.arm(false).unwrap();
            let mut count = to.cq.poll(&mut found).unwrap();
            if count == 0 {
                wait_readable(to.cq.as_fd(), "a completion event");
                assert!(to.cq.take_events(u32::MAX).unwrap() > 0);
                count = to.cq.poll(&mut found).unwrap();
            }
            for arrived in &found[..count] {
                assert!(arrived.failure().is_none(), "{arrived:?}");
                to.post_receives(reposted % RECEIVES, 1);
                reposted += 1;
                for (i, byte) in expected.to_le_bytes().into_iter().enumerate() {
                    // SAFETY: within the region.
                    unsafe { from.source.base().add(i).write_volatile(byte) };
                }
                expected += 1;
            }
        }
    });
    // What is no longer wanted does not keep the descriptor readable.
    to.cq.take_events(u32::MAX).unwrap();
    assert_eq!(to.cq.take_events(u32::MAX).unwrap(), 0);
}

/// Armed for solicited events only, ordinary messages do not wake.
#[test]
fn only_solicited_messages_wake() {
    let pair = Pair::connect();
    let (from, to) = (&pair.connector, &pair.acceptor);
    to.cq.arm(true).unwrap();
    from.qp.post(&[notice(&pair, 1, 1)]).unwrap();
    from.success();
    noticed(&pair);
    assert_eq!(to.cq.take_events(u32::MAX).unwrap(), 0);
    if Kind::of_this_run() == Kind::Siw {
        // Nothing is ever solicited there.
        return;
    }
    let mut loud = notice(&pair, 2, 2);
    loud.solicited = true;
    from.qp.post(&[loud]).unwrap();
    wait_readable(to.cq.as_fd(), "a solicited event");
    assert_eq!(to.cq.take_events(u32::MAX).unwrap(), 1);
    assert_eq!(noticed(&pair), 2);
}

#[test]
fn what_is_posted_is_flushed_in_the_error_state() {
    let pair = Pair::connect();
    let from = &pair.connector;
    from.qp.to_error().unwrap();
    for _ in 0..RECEIVES {
        let completion = from.completion();
        let failure = completion.failure().expect("not a success");
        assert!(failure.is_flush(), "{failure}");
    }
    assert_eq!(from.qp.state().unwrap(), netacc::verbs::qp::State::Error);
}

/// A write to where nobody allowed it ends the connection, and says so.
#[test]
fn a_write_beyond_what_was_allowed_fails() {
    let pair = Pair::connect();
    let from = &pair.connector;
    let mut remote = invited(&pair.there, 0);
    remote.rkey ^= 0x5555;
    let mut bad = op(77, Verb::Write(remote), Payload::Bytes(b"x"));
    bad.signaled = true;
    from.qp.post(&[bad]).unwrap();
    let failed = loop {
        let completion = from.completion();
        // siw reports the write done when it is on its way; the answer flushes the receives.
        if completion.failure().is_some() {
            break completion;
        }
    };
    println!("{failed:?}: {}", failed.failure().unwrap());
    assert_eq!(bytes(&pair.acceptor.memory, 0, 1), [0]);
}
