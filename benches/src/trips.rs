//! Times of round trips.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Makes round trips for so long: how many in a second, and what half of them, 99 of 100 and 999 of 1000 took at most, in
/// microseconds.
///
/// # Errors
/// The first of `trip`.
pub fn measure<E>(time: Duration, mut trip: impl FnMut() -> Result<(), E>) -> Result<Value, E> {
    const WARM_UP: usize = 100;
    for _ in 0..WARM_UP {
        trip()?;
    }
    let mut took = Vec::new();
    let begun = Instant::now();
    let mut last = begun;
    while last - begun < time {
        trip()?;
        let now = Instant::now();
        took.push((now - last).as_nanos() as u64);
        last = now;
    }
    took.sort_unstable();
    let microseconds = |permille: usize| took[(took.len() - 1) * permille / 1000] as f64 / 1e3;
    Ok(json!({
        "per_second": took.len() as f64 / (last - begun).as_secs_f64(),
        "p50_us": microseconds(500), "p99_us": microseconds(990), "p999_us": microseconds(999),
    }))
}
