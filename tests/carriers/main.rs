//! Links to other hosts whose carriers break at any moment: every byte arrives once and in order, and no
//! memory is used after it was given back.
//!
//! Both ends are in this process, and so is what carries them: everything that happens is one step after the
//! other, chosen by a seed, so that a failure can be repeated (`NACC_TEST_SEED=N`).

mod end;
mod memory;
mod wire;
mod world;

use world::{Faults, World};

/// The seeds of a test, or the one that is asked for.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("NACC_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("NACC_TEST_SEED is a number")],
        Err(_) => (1..=count).collect(),
    }
}

/// What has happened in all runs of a test.
#[derive(Default)]
struct Seen {
    broken: u64,
    resumed: u64,
    switches: u64,
    bytes: u64,
}

fn run(count: u64, steps: u32, faults: Faults) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds(count) {
        let mut world = World::new(seed, faults);
        for _ in 0..steps {
            world.step();
        }
        world.calm();
        seen.broken += world.broken;
        seen.resumed += world.resumed;
        seen.switches += world.switches();
        seen.bytes += world.received();
        world.end();
    }
    println!(
        "{} carriers broke, {} began, {} switches of rings, {} bytes",
        seen.broken, seen.resumed, seen.switches, seen.bytes
    );
    seen
}

#[test]
fn a_link_without_faults_keeps_its_carrier() {
    let seen = run(20, 4_000, Faults::NONE);
    assert_eq!((seen.broken, seen.resumed), (0, 20), "one carrier each");
    assert!(seen.switches > 0 && seen.bytes > 1 << 20);
}

#[test]
fn carriers_break_at_any_moment() {
    let seen = run(100, 3_000, Faults::SOME);
    assert!(seen.broken > 100 && seen.resumed > 200, "nothing was tried");
    assert!(seen.switches > 50, "rings must grow meanwhile");
}

#[test]
fn carriers_hardly_ever_hold() {
    let seen = run(60, 4_000, Faults::MANY);
    assert!(seen.broken > 3_000, "nothing was tried");
}

#[test]
fn carriers_that_bring_nothing_leave_nothing() {
    let mut world = World::new(1, Faults::NONE);
    for _ in 0..1_000 {
        world.step();
    }
    // From here on nobody reads.
    for _ in 0..100 {
        world.replace();
    }
    let leased = world.leased();
    assert!(leased <= 4, "{leased} rings after 100 carriers");
    world.calm();
    world.end();
}
