//! The end of the process: what it has written to links to other hosts is still in its own memory, or in its
//! device's queues, which end with it, and so is what found no room in a ring. The kernel would deliver it all the
//! same, so the process waits, for a short while, until its peers have everything.
//!
//! The thread that exits takes no lock (it may hold one: signal handlers exit, too): the control thread does
//! the work.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::control::{heirs, shelf};
use crate::link::overdrafts;
use crate::real::sys::{self, now_ns};
use crate::socket::hand_back;

/// How long the end of a process is held up at most, in nanoseconds: a peer that does not answer is not
/// waited for for ever.
const PATIENCE_NS: u64 = 2_000_000_000;
/// Pauses between looks: short at first.
const PAUSES_NS: (u64, u64) = (20_000, 1_000_000);

static AWAITED: AtomicBool = AtomicBool::new(false);
static SETTLED: AtomicBool = AtomicBool::new(false);
static EXEC: AtomicBool = AtomicBool::new(false);

/// Whether a thread waits for peers to have everything.
pub fn is_awaited() -> bool {
    AWAITED.load(Ordering::Acquire) && !SETTLED.load(Ordering::Relaxed)
}

/// Whether it waits because another program is to replace this one: what nobody has read is for that, or stays if it
/// cannot be run.
pub fn is_exec() -> bool {
    EXEC.load(Ordering::Relaxed)
}

/// They have.
pub fn settled() {
    SETTLED.store(true, Ordering::Release);
}

/// Waits until peers have what this process wrote.
pub fn finish() {
    if crate::fork::is_stranger() {
        return;
    }
    let Some(runtime) = crate::runtime::started() else {
        return;
    };
    let at_stake = runtime.network.was_used()
        || overdrafts::any()
        || heirs::may_hold(0)
        || hand_back::may_owe_peers()
        || shelf::is_in_use();
    if !at_stake || AWAITED.swap(true, Ordering::AcqRel) {
        return;
    }
    runtime.ring_io();
    let deadline = now_ns() + PATIENCE_NS;
    let mut pause = PAUSES_NS.0;
    while !SETTLED.load(Ordering::Acquire) && now_ns() < deadline {
        sys::nap(pause);
        pause = (2 * pause).min(PAUSES_NS.1);
    }
    // More may be written: exit handlers of the application's come after ours.
    reset();
}

fn reset() {
    AWAITED.store(false, Ordering::Release);
    SETTLED.store(false, Ordering::Release);
}

/// The same, before another program replaces this one.
pub fn finish_before_exec() {
    EXEC.store(true, Ordering::Relaxed);
    finish();
    EXEC.store(false, Ordering::Relaxed);
}

/// A forked child has its own end.
pub fn reset_after_fork() {
    reset();
}
