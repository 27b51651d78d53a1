//! The scenarios of tests/differential, actor a in guest a and b in guest b: over the RDMA devices as over
//! kernel TCP between the same guests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netacc_differential::counters::Counters;
use netacc_differential::host::{Carrier, Host, Process};
use netacc_differential::{random, suite};

use crate::common::netacc_ss;
use crate::guest::{self, Guest, Remote};

/// As many random scenarios as CI has time for.
const RANDOM: std::ops::Range<u64> = 1..16;

/// The files of scenarios that CI has time for; with the long tests of failures all of them are run.
const USUAL: [&str; 5] = ["basics/", "processes/", "found/", "ends/", "resets/"];

struct Guests;

struct Actor(Remote);

fn guest(actor: &str) -> Guest {
    match actor {
        "a" => Guest::local(),
        _ => Guest::peer(),
    }
}

impl Process for Actor {
    fn counters(&mut self) -> Option<Counters> {
        let (tool, pid) = (netacc_ss(), self.0.pid());
        let shown = format!("{} --counters -p {pid}", tool.display());
        let output = self.0.guest().run(&shown);
        // A process that never used TCP, or has ended, has none.
        (output.code == 0).then(|| Counters::parse(pid, &output.out))
    }
}

impl Host for Guests {
    fn start(&self, actor: &str, preloaded: bool, control: SocketAddr) -> Box<dyn Process> {
        let command = self.command(actor, preloaded, control);
        Box::new(Actor(guest(actor).spawn(&command)))
    }

    fn control(&self) -> IpAddr {
        Guest::local().address(2).into()
    }

    fn here(&self, actor: &str) -> (Ipv4Addr, Ipv6Addr) {
        let guest = guest(actor);
        (guest.address(0), guest.address6(0))
    }

    fn port(&self) -> u16 {
        guest::port()
    }

    fn settle(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// All connections share one ring: beyond this a send takes less than it is given.
    fn room(&self) -> u64 {
        10_000
    }
}

#[test]
fn the_same_as_over_tcp() {
    let mut scenarios = suite::load_all().unwrap_or_else(|why| panic!("{why}"));
    if !cfg!(feature = "lab_failures") {
        scenarios.retain(|scenario| USUAL.iter().any(|file| scenario.name.starts_with(file)));
    }
    let known = suite::known().unwrap_or_else(|why| panic!("{why}"));
    let failures = suite::failures(&Guests, &scenarios, Carrier::Verbs, &known);
    let (count, all) = (failures.len(), scenarios.len());
    let text = failures.join("\n");
    assert!(count == 0, "{count} of {all} scenarios:\n\n{text}");
}

#[test]
fn random_scenarios() {
    let (_, found) = random::run(&Guests, Carrier::Verbs, RANDOM, None);
    assert!(found.is_none(), "{}", found.unwrap_or_default());
}
