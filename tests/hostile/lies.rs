//! Peers that lie in each field of what they say before there is a link, and in each state.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use netacc::control::identity::random;
use netacc::control::passing;
use netacc::control::wire::{Answer, Frame, Hello, Verdict};

use crate::common::bare;
use crate::peer::{Linked, WINDOW, ask, bell, connect, frame, hear, hello, say, visit};
use crate::victim::Victim;

/// Hellos, each with a lie, and whether they may be promised a link.
fn hellos() -> Vec<(Hello, bool)> {
    let honest = hello();
    let mut all = vec![
        (
            Hello {
                oldest: 3,
                newest: 9,
                ..honest.clone()
            },
            false,
        ),
        (
            Hello {
                oldest: 0,
                newest: 0,
                ..honest.clone()
            },
            false,
        ),
        (
            Hello {
                oldest: 0,
                newest: u16::MAX,
                ..honest.clone()
            },
            true,
        ),
        (
            Hello {
                capabilities: u64::MAX,
                ..honest.clone()
            },
            true,
        ),
        (
            Hello {
                pid: u32::MAX,
                ..honest.clone()
            },
            true,
        ),
        (
            Hello {
                pid: 0,
                ..honest.clone()
            },
            true,
        ),
        (
            Hello {
                process: [0; 16],
                ..honest.clone()
            },
            true,
        ),
        (
            Hello {
                fabrics: vec![],
                ..honest.clone()
            },
            false,
        ),
        (
            Hello {
                fabrics: vec![0, 255, 9, 77, 128, 6, 200, 90],
                ..honest.clone()
            },
            false,
        ),
        // A process with itself: nobody else is.
        (
            Hello {
                fabrics: vec![1],
                ..honest.clone()
            },
            false,
        ),
        // Another process is meant, which does not exist; and something else's address.
        (
            Hello {
                wanted: Some(*b"netacc-10123456789abcdef01234567"),
                ..honest.clone()
            },
            false,
        ),
        (
            Hello {
                wanted: Some(*b"@/tmp/.X11-unix/X0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
                ..honest.clone()
            },
            false,
        ),
    ];
    for window in [0, 1, 1023, 1 << 41, u64::MAX] {
        all.push((
            Hello {
                window,
                ..honest.clone()
            },
            false,
        ));
    }
    let mut elsewhere = honest.clone();
    elsewhere.host.net_ns += 1;
    all.push((elsewhere, false));
    let mut nowhere = honest;
    nowhere.host = netacc::control::wire::Host::default();
    all.push((nowhere, false));
    all
}

#[test]
fn a_hello_that_lies_is_declined_or_comes_to_nothing() {
    if bare() {
        return;
    }
    let victim = Victim::new();
    for (hello, may_be) in hellos() {
        let shown = format!("{hello:?}");
        let answer = ask(victim.side_port(), hello);
        let promised = answer.is_some_and(|answer| answer.verdict == Verdict::Yes);
        assert_eq!(promised, may_be, "{shown}");
    }
    let whole = Frame::Hello(hello()).encode();
    // Cut, and with a length that says so. (A hello of version 1 ends before the last field.)
    let first_version = whole.len() - 32;
    for cut in 8..whole.len() {
        let mut short = whole[..cut].to_vec();
        short[6..8].copy_from_slice(&(cut as u16).to_le_bytes());
        let is_heard = !say(victim.side_port(), &short).is_empty();
        assert_eq!(is_heard, cut == first_version, "{cut}");
    }
    let twice = [&whole[..], &whole[..]].concat();
    assert_eq!(say(victim.side_port(), &twice), b"");
    for field in 8..whole.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[field] = byte;
            let mut stream = connect(victim.side_port());
            stream.write_all(&bytes).expect("connected");
        }
    }
    victim.comes_through();
}

#[test]
fn what_belongs_elsewhere_is_turned_away() {
    if bare() {
        return;
    }
    let victim = Victim::new();
    let token = random();
    let conn = 5;
    let answer = Answer {
        version: 2,
        verdict: Verdict::Yes,
        fabric: 2,
        capabilities: 3,
        window: WINDOW,
        pid: 1,
        token,
        rendezvous: [b'x'; 32],
        doors: vec![([0xff; 16], 1)],
    };
    let frames = [
        Frame::Answer(answer),
        Frame::Elsewhere { process: [7; 32] },
        Frame::Verdict {
            verdict: Verdict::Yes,
            window: WINDOW,
        },
        Frame::Attach { token },
        Frame::Segment {
            ring_size: u64::MAX,
        },
        Frame::Bell { slot: 255 },
        Frame::Claim { serial: u64::MAX },
        Frame::Estate { unread: u64::MAX },
        Frame::Heir { serial: 0 },
        Frame::Stand { conn, token },
    ];
    for frame in &frames {
        assert_eq!(say(victim.side_port(), &frame.encode()), b"", "{frame:?}");
    }
    // After an answer nothing more is to be said.
    for frame in &frames {
        let said = [Frame::Hello(hello()).encode(), frame.encode()].concat();
        let _ = say(victim.side_port(), &said);
    }
    // At the rendezvous, with descriptors and without.
    for frame in frames.iter().chain([&Frame::Hello(hello())]) {
        for passed in 0..=2 {
            let answer = ask(victim.side_port(), hello()).expect("an answer");
            let unix = visit(&answer);
            let bells: Vec<OwnedFd> = (0..passed).map(|_| bell()).collect();
            let bells: Vec<_> = bells.iter().map(AsFd::as_fd).collect();
            let _ = passing::send(unix.as_fd(), &frame.encode(), &bells);
            // (Who claims what it shows no proof of is told that it is not so.)
            while let Some((said, fds)) = hear(&unix) {
                assert!(
                    matches!(frame, Frame::Claim { .. } | Frame::Heir { .. }),
                    "{frame:?}"
                );
                assert!(fds.is_empty(), "{said:?}");
            }
        }
    }
    victim.comes_through();
}

#[test]
fn memory_is_for_who_was_promised_it_once() {
    if bare() {
        return;
    }
    let victim = Victim::new();
    let attach = |token, bells: &[&OwnedFd]| {
        let answer = ask(victim.side_port(), hello()).expect("an answer");
        let unix = visit(&answer);
        let token = Option::unwrap_or(token, answer.token);
        let bells: Vec<_> = bells.iter().map(AsFd::as_fd).collect();
        passing::send(unix.as_fd(), &Frame::Attach { token }.encode(), &bells).expect("sent");
        (hear(&unix).map(|(frame, _)| frame), token)
    };
    let good = bell();
    let (reading, writing) = rustix::pipe::pipe().expect("a pipe");
    let file = OwnedFd::from(std::fs::File::open("/dev/zero").expect("a file"));
    let (got, token) = attach(None, &[&good]);
    assert!(matches!(got, Some(Frame::Segment { .. })));
    // The same name again, another, none; no bell, and what is none.
    assert_eq!(attach(Some(token), &[&good]).0, None);
    assert_eq!(attach(Some(random()), &[&good]).0, None);
    assert_eq!(attach(None, &[]).0, None);
    for no_bell in [&reading, &writing, &file] {
        assert_eq!(attach(None, &[no_bell]).0, None);
    }
    victim.comes_through();
}

#[test]
fn bells_that_are_none_are_not_rung() {
    if bare() {
        return;
    }
    let victim = Victim::new();
    let linked = Linked::with(victim.side_port());
    let (reading, writing) = rustix::pipe::pipe().expect("a pipe");
    for slot in 0..=255 {
        let frame = Frame::Bell { slot }.encode();
        // As fast as it takes them.
        while passing::send(linked.unix.as_fd(), &frame, &[writing.as_fd()]).is_err() {
            std::thread::yield_now();
        }
    }
    drop((reading, writing));
    let (verdict, _stream) = linked.open(0, WINDOW);
    assert!(matches!(
        verdict,
        Some(Frame::Verdict {
            verdict: Verdict::Yes,
            ..
        })
    ));
    drop(linked);
    victim.comes_through();
}

#[test]
fn a_connection_is_opened_once_and_within_the_link() {
    if bare() {
        return;
    }
    let victim = Victim::new();
    let linked = Linked::with(victim.side_port());
    let mut kept = Vec::new();
    let yes = |frame: &Option<Frame>| {
        matches!(
            frame,
            Some(Frame::Verdict {
                verdict: Verdict::Yes,
                ..
            })
        )
    };
    for (conn, window, expected) in [
        (0, WINDOW, true),
        (0, WINDOW, false),
        (9, 0, true),
        (10, u64::MAX, true),
        (70_000, WINDOW, false),
        (u32::MAX, WINDOW, false),
    ] {
        let (verdict, stream) = linked.open(conn, window);
        assert_eq!(yes(&verdict), expected, "{conn} {window}: {verdict:?}");
        kept.push(stream);
    }
    // The name of no link: who it is says so, and after that nothing is left to be said.
    let mut stream = connect(victim.side_port());
    let open = Frame::Open {
        version: 2,
        conn: 1,
        token: random(),
        window: WINDOW,
    };
    for round in 0..2 {
        let _ = stream.write_all(&open.encode());
        let said = frame(&mut stream);
        assert_eq!(
            matches!(said, Some(Frame::Elsewhere { .. })),
            round == 0,
            "{said:?}"
        );
    }
    // To stand behind a connection that is not afloat.
    let stand = Frame::Stand {
        conn: 0,
        token: linked.token,
    };
    assert_eq!(say(victim.side_port(), &stand.encode()), b"");
    drop((kept, stream, linked));
    victim.comes_through();
}
