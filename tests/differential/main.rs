//! Indistinguishable from kernel TCP: scenarios of socket calls show the same over every carrier as over
//! the kernel. The README beside this file tells how to write one.

use netacc_differential::host::{Carrier, Here};
use netacc_differential::random;
use netacc_differential::suite::{failures, known, load_all};

fn all_over(carrier: Carrier) {
    let scenarios = load_all().unwrap_or_else(|why| panic!("{why}"));
    assert!(!scenarios.is_empty(), "no scenarios");
    let known = known().unwrap_or_else(|why| panic!("{why}"));
    let failures = failures(&Here, &scenarios, carrier, &known);
    let (count, all) = (failures.len(), scenarios.len());
    assert!(
        count == 0,
        "{count} of {all} scenarios:\n\n{}",
        failures.join("\n")
    );
}

/// Random scenarios, as many as there is time for; `NACC_RANDOM_SEEDS=FROM..TO` runs others, all of them.
fn random_over(carriers: &[Carrier]) {
    for &carrier in carriers {
        let (seeds, end) = random::seeds(carriers.len() as u32);
        let (count, found) = random::run(&Here, carrier, seeds, end);
        assert!(found.is_none(), "{}", found.unwrap_or_default());
        assert!(
            count > 0,
            "no random scenario was run over {}",
            carrier.name()
        );
    }
}

#[test]
fn random_scenarios_over_shared_memory() {
    random_over(&[Carrier::Shm]);
}

#[test]
fn random_scenarios_within_a_process() {
    random_over(&[Carrier::Loop]);
}

#[test]
fn random_scenarios_with_a_bare_peer() {
    random_over(&[Carrier::MixedA, Carrier::MixedB]);
}

#[test]
fn two_processes_that_share_memory() {
    all_over(Carrier::Shm);
}

#[test]
fn one_process_that_talks_to_itself() {
    all_over(Carrier::Loop);
}

#[test]
fn a_bare_server() {
    all_over(Carrier::MixedA);
}

#[test]
fn a_bare_client() {
    all_over(Carrier::MixedB);
}

/// The oracle against itself: what the scenarios leave to chance would differ here too.
#[test]
fn the_kernel_agrees_with_itself() {
    all_over(Carrier::Tcp);
    all_over(Carrier::TcpOne);
}

#[test]
fn known_differences_are_of_scenarios_that_exist() {
    let names: Vec<String> = load_all()
        .unwrap_or_else(|why| panic!("{why}"))
        .into_iter()
        .map(|scenario| scenario.name)
        .collect();
    let known = known().unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(known.strangers(&names), Vec::<String>::new());
}
