//! What comes on a side port: hellos, answers, opens, verdicts.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netacc::control::wire::{Frame, Parsed};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Parsed::Frame(frame, len)) = Frame::parse(bytes) {
        assert!(len <= bytes.len());
        // What it says can be said; and says the same again. (Of a longer hello the rest is not known.)
        let again = frame.encode();
        match Frame::parse(&again) {
            Ok(Parsed::Frame(same, all)) => assert!(same == frame && all == again.len()),
            other => panic!("{other:?} of what {frame:?} says"),
        }
    }
});
