//! What one thread copies.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Copies pieces of `size` bytes for so long, each to another place of a buffer of four pieces: megabytes in a second.
pub fn measure(size: usize, time: Duration) -> Value {
    const PLACES: usize = 4;
    let from = vec![7u8; size];
    let mut to = vec![0u8; size * PLACES];
    let begun = Instant::now();
    let mut copies = 0u64;
    while begun.elapsed() < time {
        for place in to.chunks_exact_mut(size) {
            place.copy_from_slice(&from);
            std::hint::black_box(&mut *place);
            copies += 1;
        }
    }
    let bytes = copies as f64 * size as f64;
    json!({"mb_per_second": bytes / begun.elapsed().as_secs_f64() / 1e6})
}
