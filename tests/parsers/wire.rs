//! Frames of the control protocol.

use netacc::control::wire::{
    Answer, Door, Frame, Hello, Host, LONGEST_REPLY, MAX_DOORS, MAX_FRAME, NotAFrame, PREFIX,
    Parsed, VERDICT_LEN, Verdict,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn hello() -> impl Strategy<Value = Hello> {
    let numbers = (
        any::<(u16, u16)>(),
        any::<u64>(),
        any::<u32>(),
        any::<u64>(),
    );
    let names = (any::<[u8; 16]>(), any::<u64>(), any::<[u8; 16]>());
    let wanted = any::<[u8; 32]>().prop_map(|name| Some(name).filter(|name| *name != [0; 32]));
    let wanted = prop_oneof![Just(None), wanted];
    (numbers, names, vec(any::<u8>(), 0..=8), wanted).prop_map(
        |((versions, capabilities, pid, window), (boot_id, net_ns, process), fabrics, wanted)| {
            Hello {
                oldest: versions.0.min(versions.1),
                newest: versions.0.max(versions.1),
                capabilities,
                host: Host { boot_id, net_ns },
                process,
                pid,
                window,
                fabrics,
                wanted,
            }
        },
    )
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Yes),
        Just(Verdict::Plain),
        Just(Verdict::Version),
        Just(Verdict::Fabric),
        Just(Verdict::Resources),
        Just(Verdict::Route)
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    let numbers = (
        any::<u16>(),
        any::<u8>(),
        any::<u64>(),
        any::<u64>(),
        any::<u32>(),
    );
    let doors = prop::collection::vec(any::<Door>(), 0..=MAX_DOORS);
    (
        verdict(),
        numbers,
        any::<[u8; 16]>(),
        any::<[u8; 32]>(),
        doors,
    )
        .prop_map(
            |(verdict, (version, fabric, capabilities, window, pid), token, rendezvous, doors)| {
                Answer {
                    version,
                    verdict,
                    fabric,
                    capabilities,
                    window,
                    pid,
                    token,
                    rendezvous,
                    doors,
                }
            },
        )
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        hello().prop_map(Frame::Hello),
        answer().prop_map(Frame::Answer),
        any::<(u8, u32, [u8; 16], u64)>().prop_map(|(version, conn, token, window)| Frame::Open {
            version: version.into(),
            conn,
            token,
            window
        }),
        any::<[u8; 32]>().prop_map(|process| Frame::Elsewhere { process }),
        (verdict(), any::<u64>()).prop_map(|(verdict, window)| Frame::Verdict { verdict, window }),
        any::<[u8; 16]>().prop_map(|token| Frame::Attach { token }),
        any::<u64>().prop_map(|serial| Frame::Claim { serial }),
        any::<u64>().prop_map(|unread| Frame::Estate { unread }),
        any::<u64>().prop_map(|ring_size| Frame::Segment { ring_size }),
        any::<u8>().prop_map(|slot| Frame::Bell { slot }),
        any::<(u32, [u8; 16])>().prop_map(|(conn, token)| Frame::Stand { conn, token }),
    ]
}

/// Bytes that get past the first looks: a good prefix with any kind and any length.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    (0..14u8, any::<u8>(), 0..200u16, vec(any::<u8>(), 0..200)).prop_map(
        |(kind, version, len, rest)| {
            let mut bytes = b"NACC".to_vec();
            bytes.extend([kind, version]);
            bytes.extend(len.to_le_bytes());
            bytes.extend(rest);
            bytes
        },
    )
}

/// What holds for any bytes: a frame lies within them, and parses again from its own bytes alone.
fn judge(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(Parsed::Frame(frame, len)) = Frame::parse(bytes) {
        prop_assert!((PREFIX..=MAX_FRAME.min(bytes.len())).contains(&len));
        prop_assert_eq!(
            Frame::parse(&bytes[..len]),
            Ok(Parsed::Frame(frame.clone(), len))
        );
        let again = frame.encode();
        prop_assert_eq!(Frame::parse(&again), Ok(Parsed::Frame(frame, again.len())));
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_a_frame_a_beginning_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
        judge(&bytes)?;
    }

    #[test]
    fn bytes_after_a_good_beginning_are_a_frame_a_beginning_or_an_error(bytes in nearly()) {
        judge(&bytes)?;
    }

    #[test]
    fn a_damaged_frame_is_a_frame_a_beginning_or_an_error(frame in frame(), at: prop::sample::Index, flip in 1..=255u8) {
        let mut bytes = frame.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        judge(&bytes)?;
        if at < 4 {
            prop_assert_eq!(Frame::parse(&bytes), Err(NotAFrame));
        }
    }

    #[test]
    fn a_frame_is_understood_as_it_was_meant(frame in frame(), after in vec(any::<u8>(), 0..40)) {
        let mut bytes = frame.encode();
        let len = bytes.len();
        prop_assert!(len <= MAX_FRAME);
        if matches!(frame, Frame::Verdict { .. }) {
            prop_assert_eq!(len, VERDICT_LEN);
        }
        if matches!(frame, Frame::Elsewhere { .. }) {
            prop_assert_eq!(len, LONGEST_REPLY);
        }
        for part in 0..len {
            prop_assert_eq!(Frame::parse(&bytes[..part]), Ok(Parsed::Incomplete));
        }
        bytes.extend(after);
        prop_assert_eq!(Frame::parse(&bytes), Ok(Parsed::Frame(frame, len)));
    }

    /// Newer peers may say more in a hello; nobody may say less than its kind does, or more elsewhere.
    #[test]
    fn a_frame_of_another_length_is_none(frame in frame(), more in 1..20u16, less: bool) {
        let mut bytes = frame.encode();
        let len = bytes.len() as u16;
        let changed = if less { len.saturating_sub(more).max(PREFIX as u16 - 1) } else { len + more };
        bytes[6..8].copy_from_slice(&changed.to_le_bytes());
        bytes.resize(usize::from(changed).max(PREFIX), 0);
        match (frame, less) {
            (Frame::Hello(hello), false) => {
                prop_assert_eq!(Frame::parse(&bytes), Ok(Parsed::Frame(Frame::Hello(hello), changed.into())));
            }
            _ => prop_assert_eq!(Frame::parse(&bytes), Err(NotAFrame)),
        }
    }
}
