//! What the two ends of a carrier tell each other: messages, immediate data, the greeting of a queue pair.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netacc::fabric::rdma::channel::Greeting;
use netacc::fabric::remote::message::{Immediate, MESSAGE, Message};

fuzz_target!(|bytes: &[u8]| {
    if let Some(greeting) = Greeting::parse(bytes) {
        assert_eq!(&greeting.encode()[..], bytes);
    }
    if let Some(&bits) = bytes.first_chunk() {
        let bits = u32::from_le_bytes(bits);
        assert_eq!(Immediate::parse(bits).encode(), bits);
    }
    if let Some(bytes) = bytes.first_chunk::<MESSAGE>()
        && let Ok((message, taken)) = Message::parse(bytes)
    {
        assert_eq!(
            Message::parse(&message.encode(taken)).ok(),
            Some((message, taken))
        );
    }
});
