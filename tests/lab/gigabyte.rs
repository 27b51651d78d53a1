//! A gigabyte in each direction, every byte of it checked, while something else goes wrong every second: ten
//! times, each with failures of its own that follow from a seed.

use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::PATIENCE;
use crate::faults::Fault;
use crate::guest::Guest;
use crate::transfer::{Tally, Transfer};

/// Connections that share the link.
const CONNECTIONS: u32 = 8;
/// From one failure to the next.
const SECOND: Duration = Duration::from_secs(1);

/// How much is carried in each direction, in bytes, if `LAB_MEGABYTES` does not say otherwise.
const GIGABYTE: u64 = 1_000_000_000;

fn amount() -> u64 {
    std::env::var("LAB_MEGABYTES").map_or(GIGABYTE, |text| {
        let number = text.parse::<u64>();
        number.unwrap_or_else(|e| panic!("LAB_MEGABYTES is '{text}': {e}")) * 1_000_000
    })
}

/// What goes wrong next, and for how long.
fn failure(rng: &mut fastrand::Rng) -> (Fault, Duration) {
    let guest = match rng.bool() {
        true => Guest::A,
        false => Guest::B,
    };
    let (fault, most) = match rng.u8(..4) {
        0 => (Fault::LinkDown(guest), 200),
        1 => (Fault::Mute(guest), 300),
        2 => (Fault::Loss(guest, rng.u32(1..=10)), 500),
        _ => (Fault::NoDevice(guest), 200),
    };
    (fault, Duration::from_millis(rng.u64(20..=most)))
}

/// Says something even if the test passes.
fn tell(line: &str) {
    // What `println` writes is for whoever has to find out what went wrong.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The traffic of one seed, from its beginning to its end.
fn carried(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let wanted = amount();
    let transfer = Transfer::start(CONNECTIONS, seed);
    let start = Instant::now();
    let (mut failures, mut next) = (0, start);
    let (mut last, mut moved) = ([0; 2], start);
    loop {
        // Seldom: to look costs a guest more than to carry a megabyte.
        if failures % 4 == 0 {
            let tally = transfer.tally();
            println!("{:?}, {failures} failures: {tally:?}", start.elapsed());
            match tally.received.map(|bytes| bytes >= wanted) {
                [true, true] => break,
                [true, false] => transfer.has_enough(Guest::local()),
                [false, true] => transfer.has_enough(Guest::peer()),
                [false, false] => {}
            }
            if tally.received != last {
                (last, moved) = (tally.received, Instant::now());
            }
            assert!(moved.elapsed() < PATIENCE, "nothing arrives any more");
        }
        sleep(next.saturating_duration_since(Instant::now()));
        next = Instant::now() + SECOND;
        let (fault, time) = failure(&mut rng);
        println!("{:?}: {fault:?} for {time:?}", start.elapsed());
        let undo = fault.begin(&transfer);
        sleep(time);
        fault.end(undo);
        failures += 1;
    }
    let time = start.elapsed().as_secs_f64();
    let Tally { lost, resumed, .. } = transfer.tally();
    let [client, server] = transfer.finish();
    assert!(client.min(server) >= wanted);
    // With less there may be too few failures for that.
    let replaced = lost > 0 && resumed > 0;
    assert!(replaced || wanted < GIGABYTE, "no carrier was replaced");
    tell(&format!(
        "seed {seed}: {server} bytes one way, {client} the other, {failures} failures, {lost} carriers lost, \
         {resumed} queue pairs again, {time:.0} s"
    ));
}

macro_rules! seeds {
    ($($name:ident $seed:literal)*) => {
        $(
            #[test]
            fn $name() {
                carried($seed);
            }
        )*
    };
}

seeds! {
    seed_01 1
    seed_02 2
    seed_03 3
    seed_04 4
    seed_05 5
    seed_06 6
    seed_07 7
    seed_08 8
    seed_09 9
    seed_10 10
}
