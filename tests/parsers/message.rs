//! What the ends of a link to another host tell each other: messages, and news in immediate data.

use netacc::fabric::rdma::channel::Greeting;
use netacc::fabric::remote::message::{
    Immediate, MESSAGE, Message, Progress, RING_SIZES, RemoteRing,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn ring() -> impl Strategy<Value = RemoteRing> {
    let orders = RING_SIZES.start().ilog2()..=RING_SIZES.end().ilog2();
    (any::<u64>(), any::<u32>(), orders).prop_map(|(addr, rkey, order)| RemoteRing {
        addr,
        rkey,
        size: 1 << order,
    })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<(u64, u64)>(), ring()).prop_map(|((got, freed), ring)| Message::Resume {
            got,
            freed,
            ring
        }),
        any::<(u64, u64)>()
            .prop_map(|(produced, freed)| Message::Progress(Progress { produced, freed })),
        ring().prop_map(Message::Offer),
        any::<u64>().prop_map(Message::Switch),
        any::<u64>().prop_map(Message::Ping),
        any::<u64>().prop_map(Message::Pong),
        Just(Message::Broken),
    ]
}

/// What is accepted says just what its bytes say, and offers no ring that cannot be.
fn judge(bytes: &[u8; MESSAGE]) -> Result<(), TestCaseError> {
    let Ok((message, taken)) = Message::parse(bytes) else {
        return Ok(());
    };
    prop_assert_eq!(message.encode(taken), *bytes);
    if let Message::Resume { ring, .. } | Message::Offer(ring) = message {
        prop_assert!(ring.size.is_power_of_two() && RING_SIZES.contains(&ring.size));
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes: [u8; MESSAGE]) {
        judge(&bytes)?;
    }

    /// A good kind, the rest any bytes, many of them zero.
    #[test]
    fn bytes_that_look_good_are_a_message_or_an_error(
        kind in 0..9u8, taken: u32, words in vec(prop_oneof![Just(0u32), any::<u32>(), (8..30u32).prop_map(|n| 1 << n)], 8)
    ) {
        let mut bytes = [0; MESSAGE];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&taken.to_le_bytes());
        for (place, word) in bytes[8..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        judge(&bytes)?;
    }

    #[test]
    fn a_message_is_understood_as_it_was_meant(message in message(), taken: u32) {
        prop_assert_eq!(Message::parse(&message.encode(taken)), Ok((message, taken)));
    }

    #[test]
    fn a_damaged_message_is_another_or_an_error(message in message(), at in 0..MESSAGE, flip in 1..=255u8) {
        let mut bytes = message.encode(0);
        bytes[at] ^= flip;
        judge(&bytes)?;
        prop_assert_ne!(Message::parse(&bytes), Ok((message, 0)));
    }

    /// Whatever 32 bits say can be said by them.
    #[test]
    fn any_bits_are_news(bits: u32) {
        let news = Immediate::parse(bits);
        prop_assert_eq!(news.encode(), bits);
        prop_assert!(u64::from(news.produced) <= Immediate::MOST_PRODUCED);
    }

    /// What was produced is told whole; of the rest no more than there is, and all of it if it is little.
    #[test]
    fn news_are_understood_as_they_were_meant(records in 0..=Immediate::MOST_PRODUCED / 16, freed: u64, taken: u32) {
        let produced = records * 16;
        let news = Immediate::of(produced, freed, taken);
        prop_assert_eq!(Immediate::parse(news.encode()), news);
        prop_assert_eq!(u64::from(news.produced), produced);
        prop_assert!(u64::from(news.freed) <= freed && news.taken <= taken);
        prop_assert!(freed - u64::from(news.freed) < 1024 || news.freed == 1023 * 1024);
        prop_assert!(news.taken == taken || news.taken == 63);
    }

    #[test]
    fn any_bytes_are_a_greeting_or_none(bytes in vec(prop_oneof![0..3u8, any::<u8>()], 0..6)) {
        if let Some(greeting) = Greeting::parse(&bytes) {
            prop_assert_eq!(&greeting.encode()[..], &bytes[..]);
            prop_assert!((8..=4096).contains(&greeting.depth));
        }
    }
}
