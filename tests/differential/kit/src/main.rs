//! Runs scenarios by hand: `netacc-differential run FILE [--scenario NAME] [--over CARRIER] [--show]`.

use netacc_differential::compare::{AGAIN, Verdict, compare};
use netacc_differential::host::{Carrier, Here, Host};
use netacc_differential::lang::Scenario;
use netacc_differential::run::{self, Pace};
use netacc_differential::{generate, random, suite};
use std::process::ExitCode;

const USAGE: &str = "usage: netacc-differential run FILE [--scenario NAME] [--over CARRIER] [--show]
       netacc-differential random FROM..TO [--over CARRIER] [--print]
  --scenario NAME  only this one
  --over CARRIER   tcp, tcp-one, shm, loop, mixed-a, mixed-b or mixed; all but the first two if not given
  --show           print the trace of one run instead of comparing
  --print          print the scenarios of these seeds instead of running them
Build before: `make build; cargo build --workspace`, and set NACC_TEST_LIB to the release library.";

/// The word after `name`.
fn option(words: &[String], name: &str) -> Option<String> {
    let at = words.iter().position(|word| word == name)?;
    words.get(at + 1).cloned()
}

fn one(scenario: &Scenario, carrier: Carrier, show: bool) -> Result<bool, String> {
    let title = format!("{} over {}", scenario.name, carrier.name());
    if show || carrier.oracle() == carrier {
        let trace = run::run(&Here, scenario, carrier, Pace::USUAL)?;
        println!("## {title}\n{}\n", trace.lines.join("\n"));
        return Ok(true);
    }
    match compare(&Here, scenario, carrier, AGAIN)? {
        Verdict::Same => println!("{title}: same"),
        Verdict::Skipped(why) => println!("{title}: skipped: {why}"),
        Verdict::Different(diff) => {
            println!("{title}: DIFFERENT\n{diff}");
            return Ok(false);
        }
    }
    Ok(true)
}

fn random_scenarios(seeds: &str, words: &[String]) -> Result<bool, String> {
    let seeds = random::range(seeds).ok_or_else(|| format!("'{seeds}' is not FROM..TO"))?;
    let carriers = match option(words, "--over") {
        Some(name) => Carrier::named(&name),
        None => Carrier::HERE.to_vec(),
    };
    for carrier in carriers {
        if words.iter().any(|word| word == "--print") {
            for seed in seeds.clone() {
                println!(
                    "{}",
                    generate::scenario(seed, &generate::groups(seed, Here.room()))
                );
            }
            return Ok(true);
        }
        let (count, text) = random::run(&Here, carrier, seeds.clone(), None);
        println!("{count} random scenarios over {}: same", carrier.name());
        if let Some(text) = text {
            println!("DIFFERENT: {text}");
            return Ok(false);
        }
    }
    Ok(true)
}

fn main_or_error() -> Result<bool, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [verb, file, ..] = words.as_slice() else {
        return Err(USAGE.to_string());
    };
    if verb == "random" {
        return random_scenarios(file, &words);
    }
    if verb != "run" {
        return Err(USAGE.to_string());
    }
    let mut scenarios = suite::load(file.as_ref())?;
    if let Some(name) = option(&words, "--scenario") {
        scenarios.retain(|s| s.name == name || s.name.ends_with(&format!("/{name}")));
    }
    let carriers = match option(&words, "--over") {
        Some(name) => Carrier::named(&name),
        None => Carrier::HERE.to_vec(),
    };
    if scenarios.is_empty() || carriers.is_empty() {
        return Err(format!("no such scenario or no such carrier\n{USAGE}"));
    }
    let show = words.iter().any(|word| word == "--show");
    let mut all_same = true;
    for scenario in &scenarios {
        for &carrier in &carriers {
            all_same &= one(scenario, carrier, show)?;
        }
    }
    Ok(all_same)
}

fn main() -> ExitCode {
    match main_or_error() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("netacc-differential: {why}");
            ExitCode::from(2)
        }
    }
}
