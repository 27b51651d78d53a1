//! Headers of the records in a link's ring.

use netacc::link::record::{ALIGN, HEADER, Header, Kind, span};
use netacc::link::stamp::Stamp;
use netacc::link::ways::{Grant, Open};
use proptest::prelude::*;

const KINDS: [Kind; 14] = [
    Kind::Data,
    Kind::Fin,
    Kind::Reset,
    Kind::Window,
    Kind::Close,
    Kind::HandBack,
    Kind::Want,
    Kind::Recall,
    Kind::Returned,
    Kind::Resent,
    Kind::Open,
    Kind::Grant,
    Kind::Stand,
    Kind::Stood,
];

/// Bytes that get past the first looks more often than any bytes would.
fn nearly() -> impl Strategy<Value = [u8; HEADER]> {
    (0..5000u32, any::<u32>(), 0..15u8, any::<[u8; 7]>()).prop_map(|(len, conn, kind, stamp)| {
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&len.to_le_bytes());
        bytes[4..8].copy_from_slice(&conn.to_le_bytes());
        bytes[8] = kind;
        bytes[9..].copy_from_slice(&stamp);
        bytes
    })
}

/// What is accepted is within bounds and says just what its bytes say.
fn judge(bytes: [u8; HEADER], max: usize) -> Result<(), TestCaseError> {
    let Ok(header) = Header::parse(bytes, max) else {
        return Ok(());
    };
    prop_assert!(header.len as usize <= max.max(12));
    let is_short = matches!(header.kind, Kind::Window | Kind::Open | Kind::Grant);
    prop_assert!(is_short || header.len as usize <= max.max(8));
    prop_assert!(header.span() >= HEADER + header.len as usize);
    prop_assert!(header.span().is_multiple_of(ALIGN));
    prop_assert_eq!(header.encode(), bytes);
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_a_sane_header_or_an_error(bytes: [u8; HEADER], max in 0..1usize << 24) {
        judge(bytes, max)?;
    }

    #[test]
    fn bytes_that_look_good_are_a_sane_header_or_an_error(bytes in nearly(), max in 0..5000usize) {
        judge(bytes, max)?;
    }

    #[test]
    fn a_header_is_understood_as_it_was_meant(kind in prop::sample::select(&KINDS), conn: u32, len in 1..1u32 << 24) {
        let len = match kind {
            Kind::Data | Kind::Returned => len,
            Kind::Window | Kind::Open => 8,
            Kind::Grant => 12,
            Kind::Close => 8 * (len % 2),
            _ => 0,
        };
        let header = Header { len, conn, kind, stamp: Stamp::now() };
        prop_assert_eq!(Header::parse(header.encode(), len as usize), Ok(header));
        prop_assert_eq!(header.span(), span(len as usize));
        if matches!(kind, Kind::Data | Kind::Returned) {
            prop_assert!(Header::parse(header.encode(), len as usize - 1).is_err());
        }
    }

    #[test]
    fn what_ways_are_told_is_understood_as_it_was_meant(way: u16, port: u16, total: u32, window: u32) {
        let open = Open { way, port, window };
        prop_assert_eq!(Open::parse(open.encode()), open);
        let grant = Grant { way, door: port, total, window };
        prop_assert_eq!(Grant::parse(grant.encode()), grant);
        prop_assert_eq!(grant.closes(), window == 0);
    }
}
