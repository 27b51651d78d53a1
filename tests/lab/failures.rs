//! What goes wrong between two machines while traffic flows: the applications see a pause, if that, and every
//! byte arrives once and in order. What ends by itself ends as over TCP.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::common::{With, peer_command};
use crate::faults::Fault;
use crate::guest::{Guest, Remote, port};
use crate::net;
use crate::transfer::Transfer;

const BOTH: [Guest; 2] = [Guest::A, Guest::B];
/// Shorter than any time limit on the way: nobody gives anything up.
const SHORT: Duration = Duration::from_millis(300);
/// Longer than devices try again (3 to 4 s), and than peers are waited for (4 s).
const LONG: Duration = Duration::from_secs(8);

/// Traffic that meets `faults`, one after the other, each for so long: it goes on after each.
fn meets(faults: &[(Fault, Duration)]) -> Transfer {
    let transfer = Transfer::start(6, 1);
    for (fault, time) in faults {
        let undo = fault.begin(&transfer);
        sleep(*time);
        fault.end(undo);
        let tally = transfer.wait_for_more(1 << 20);
        println!("after {fault:?} for {time:?}: {tally:?}");
    }
    transfer
}

#[test]
fn short_cuts_break_nothing() {
    let transfer = meets(&BOTH.map(|guest| (Fault::Mute(guest), SHORT)));
    assert_eq!(transfer.tally().lost, 0);
    transfer.finish();
}

/// An interface that is down has no routes: a device may give up at once.
#[test]
fn interfaces_go_down_for_a_moment() {
    meets(&BOTH.map(|guest| (Fault::LinkDown(guest), SHORT))).finish();
}

#[test]
fn cables_are_pulled() {
    for guest in BOTH {
        for fault in [Fault::LinkDown(guest), Fault::Mute(guest)] {
            let transfer = meets(&[(fault, LONG)]);
            assert!(transfer.tally().lost > 0, "{fault:?} was not noticed");
            transfer.wait_until("a queue pair again", |now| now.resumed > 0);
            transfer.wait_for_more(1 << 20);
            transfer.finish();
        }
    }
}

#[test]
fn packets_are_lost() {
    let time = Duration::from_secs(4);
    let faults = BOTH.map(|guest| [1, 5].map(|percent| (Fault::Loss(guest, percent), time)));
    meets(faults.as_flattened()).finish();
}

/// Traffic whose link loses its queue pair by what `remove` takes away, goes on by its stream, and gets another queue
/// pair when that is there again.
fn outlives<T>(remove: impl FnOnce(&Transfer) -> T) {
    let transfer = Transfer::start(6, 1);
    let removed = remove(&transfer);
    transfer.wait_until("the loss", |now| now.lost > 0);
    transfer.wait_for_more(4 << 20);
    drop(removed);
    transfer.wait_until("a queue pair again", |now| now.resumed > 0);
    transfer.wait_for_more(4 << 20);
    transfer.finish();
}

#[test]
fn devices_are_removed() {
    for guest in BOTH {
        outlives(|transfer| Fault::NoDevice(guest).begin(transfer));
    }
}

#[test]
fn both_devices_are_removed() {
    outlives(|transfer| BOTH.map(|guest| Fault::NoDevice(guest).begin(transfer)));
}

/// Only the queue pair is needed while it works.
#[test]
fn the_control_connection_stalls() {
    let transfer = Transfer::start(6, 1);
    for guest in BOTH {
        let dead = net::port_dead(guest, 0, transfer.port + 20_000);
        transfer.wait_for_more(1 << 20);
        sleep(LONG);
        let tally = transfer.wait_for_more(1 << 20);
        assert_eq!(tally.lost, 0);
        drop(dead);
        transfer.wait_for_more(1 << 20);
    }
    transfer.finish();
}

#[test]
fn programs_stop_and_go_on() {
    let stops = BOTH.map(|guest| (Fault::Stopped(guest), LONG));
    let transfer = meets(&stops);
    assert!(transfer.tally().lost > 0, "nobody gave the other up");
    transfer.wait_until("a queue pair again", |now| now.resumed > 0);
    transfer.wait_for_more(1 << 20);
    transfer.finish();
}

/// Each connection of the survivor has ended by an error that contains one of `errors`.
fn survives(program: &Remote, errors: &[&str]) {
    let verdict = program.verdict();
    assert_eq!(verdict["ok"], false, "{verdict:#}");
    let told = verdict["errors"].as_array().expect("errors");
    assert_eq!(Some(told.len() as u64), verdict["connections"].as_u64());
    for error in told {
        let text = error.as_str().expect("text");
        assert!(errors.iter().any(|e| text.contains(e)), "{verdict:#}");
    }
}

#[test]
fn a_killed_peer_ends_connections() {
    for victim in BOTH {
        let transfer = Transfer::start(6, 1);
        let (dead, survivor) = match victim == Guest::local() {
            true => (&transfer.client, &transfer.server),
            false => (&transfer.server, &transfer.client),
        };
        dead.kill(libc::SIGKILL);
        // An end of the stream, too: then it is the write that fails.
        survives(survivor, &["ECONNRESET", "EPIPE"]);
    }
}

/// Nobody tells the survivor: only the machine that is there again does. No stream looks complete.
#[test]
fn a_peer_that_boots_anew_resets_connections() {
    let transfer = Transfer::start(6, 1);
    Guest::peer().reboot();
    survives(&transfer.client, &["ECONNRESET"]);
}

/// What a process has written before its end arrives, as over TCP.
#[test]
fn a_process_ends_after_its_last_write() {
    let (here, there) = (Guest::local(), Guest::peer());
    for (sender, receiver) in [(here, there), (there, here)] {
        for end in ["exit", "_exit"] {
            let at = format!("{}:{}", receiver.address(0), port());
            let role = |role: &str, words: &[&str]| {
                let mut command: Command = peer_command(role, With::Library);
                command
                    .args(words)
                    .args(["--conns", "4", "--total", "3000000"]);
                command
            };
            let receiving = receiver.spawn(&role("parting-receiver", &["--listen", &at, "--hold"]));
            receiving.wait_for(|line| line == "listening");
            let sending = sender.spawn(&role("parting-sender", &["--connect", &at, "--end", end]));
            assert_eq!(sending.wait(), 0, "{}", sending.errors());
            let verdict = receiving.verdict();
            assert_eq!(verdict["ok"], true, "{end} in {sender:?}: {verdict:#}");
            if let Some(counters) = receiving.counters() {
                assert_eq!(counters.get("accepted_rdma"), 4, "{counters:#?}");
            }
        }
    }
}
