//! Random scenarios over a carrier.

use crate::compare::{AGAIN, Verdict, compare};
use crate::generate::{groups, scenario};
use crate::host::{Carrier, Host};
use crate::shrink::shrink;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What CI runs, as many of them as it has time for.
const USUAL: Range<u64> = 1..150;
const TIME: Duration = Duration::from_secs(20);

/// The seeds to run and until when: `NACC_RANDOM_SEEDS=FROM..TO`, all of them, or the usual ones for a while, which
/// `parts` share.
///
/// # Panics
/// The variable is not FROM..TO.
pub fn seeds(parts: u32) -> (Range<u64>, Option<Instant>) {
    match std::env::var("NACC_RANDOM_SEEDS") {
        Ok(text) => (
            range(&text).unwrap_or_else(|| panic!("NACC_RANDOM_SEEDS='{text}' is not FROM..TO")),
            None,
        ),
        Err(_) => (USUAL, Some(Instant::now() + TIME / parts)),
    }
}

/// `FROM..TO`
pub fn range(text: &str) -> Option<Range<u64>> {
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}

/// Runs the scenarios of `seeds`, until `end` if there is one: how many, and of the first that differs a text
/// with as little of it as shows it.
pub fn run(
    host: &dyn Host,
    carrier: Carrier,
    seeds: Range<u64>,
    end: Option<Instant>,
) -> (u64, Option<String>) {
    let (next, count) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let over = end.is_some_and(|end| Instant::now() > end);
        if seed >= seeds.end || over || found.lock().expect("the find").is_some() {
            return;
        }
        let text = match compare(
            host,
            &scenario(seed, &groups(seed, host.room())),
            carrier,
            AGAIN,
        ) {
            Ok(Verdict::Different(diff)) => diff,
            Ok(_) => {
                count.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Err(why) => panic!("seed {seed} makes no sense: {why}"),
        };
        found.lock().expect("the find").get_or_insert((seed, text));
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(work);
        }
    });
    let find = found.into_inner().expect("the find");
    let text = find.map(|(seed, diff)| {
        let small = shrink(host, &groups(seed, host.room()), carrier, &diff, |some| scenario(seed, some));
        let over = carrier.name();
        let small_diff = match compare(host, &small, carrier, 0) {
            Ok(Verdict::Different(diff)) => diff,
            _ => diff,
        };
        format!(
            "seed {seed} over {over}:\n{small_diff}\nas a scenario:\n{small}\nagain: cargo run -p netacc-differential -- \
             random {seed}..{} --over {over}\n",
            seed + 1
        )
    });
    (count.into_inner(), text)
}
