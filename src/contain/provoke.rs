//! Faults on demand, for tests: `NACC_PROVOKE=PLACE[:N]` has the library panic the Nth time that it comes to a place of
//! that name (the first time), and every time after that if N ends in `+`. Never in a release: it needs the feature `faults`.

use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;

struct Order {
    place: String,
    pass: u32,
    goes_on: bool,
}

fn order() -> Option<&'static Order> {
    static ORDER: OnceLock<Option<Order>> = OnceLock::new();
    let read = || {
        let told = std::env::var("NACC_PROVOKE").ok()?;
        let (place, pass) = told.split_once(':').unwrap_or((&told, "1"));
        Some(Order {
            place: place.to_string(),
            pass: pass.trim_end_matches('+').parse().ok()?,
            goes_on: pass.ends_with('+'),
        })
    };
    ORDER.get_or_init(read).as_ref()
}

/// Panics if that was ordered.
pub fn at(place: &str) {
    static PASSES: AtomicU32 = AtomicU32::new(0);
    let Some(order) = order().filter(|order| order.place == place) else {
        return;
    };
    let pass = PASSES.fetch_add(1, Ordering::Relaxed) + 1;
    if pass == order.pass || order.goes_on && pass > order.pass {
        panic!("provoked in {place}");
    }
}
