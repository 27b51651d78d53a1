//! Compares a scenario's trace over a carrier with the oracle's.

use crate::host::{Carrier, Host};
use crate::lang::{Action, Arg, Scenario};
use crate::run::{Pace, Trace, run};

/// How often a scenario that differs is run again before it is believed.
pub const AGAIN: u32 = 5;
/// And how much slower.
const SLOWER: u32 = 10;

/// How the text begins when not the traces differ, but the way that the connections went.
pub const MISROUTED: &str = "equal, but ";

/// What a comparison found.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Equal traces, and connections were accelerated as expected.
    Same,
    /// It cannot run over this carrier: why.
    Skipped(String),
    /// What differs, for people.
    Different(String),
}

/// Why the scenario cannot be run over the carrier.
fn unsuited(scenario: &Scenario, carrier: Carrier) -> Option<String> {
    for line in &scenario.header {
        if let Some(rest) = line.strip_prefix("skip ") {
            let (name, why) = rest.split_once(':').unwrap_or((rest, "no reason"));
            if Carrier::named(name.trim()).contains(&carrier) {
                return Some(why.trim().to_string());
            }
        }
    }
    let ends = |step: &crate::lang::Step| match &step.action {
        Action::Call(call) => match (call.verb.as_str(), call.args.as_slice()) {
            ("exit" | "_exit" | "abort" | "setrlimit", _) => true,
            ("kill", [_, Arg::Word(signal)]) => {
                ["SIGKILL", "SIGTERM", "SIGSTOP"].contains(&signal.as_str())
            }
            _ => false,
        },
        _ => false,
    };
    (carrier.one_process() && scenario.steps.iter().any(ends))
        .then(|| "what one actor does to its process would hit the other".to_string())
}

/// What is wrong with how the connections went, by the library's counters.
fn misrouted(scenario: &Scenario, carrier: Carrier, trace: &Trace) -> Option<String> {
    let plain = scenario
        .header
        .iter()
        .find_map(|line| line.strip_prefix("expect plain:"));
    let sum = |one: &dyn Fn(&crate::counters::Counters) -> u64| -> u64 {
        trace.counters.iter().map(one).sum()
    };
    if crate::bare() || trace.counters.is_empty() {
        return None;
    }
    let (accelerated, kernel) = (sum(&|c| c.accelerated()), sum(&|c| c.kernel()));
    match plain.map(str::trim) {
        _ if !carrier.accelerates() => (accelerated > 0)
            .then(|| format!("{accelerated} connections accelerated with a bare peer")),
        Some("any") => None,
        Some(reason) => (sum(&|c| c.fallbacks(&[reason])) == 0)
            .then(|| format!("nothing was left to the kernel for the reason '{reason}'")),
        None if !trace.connected => None,
        None if accelerated > 0 && kernel == 0 => None,
        None => {
            let all = format!("{:#?}", trace.counters);
            let counted = all
                .lines()
                .map(str::trim)
                .filter(|line| !line.ends_with(": 0,"));
            let reasons: Vec<&str> = counted.filter(|line| line.contains("fallback_")).collect();
            let reasons = reasons.join(" ");
            Some(format!(
                "{accelerated} connections accelerated, {kernel} left to the kernel: {reasons}"
            ))
        }
    }
}

/// Runs the scenario over the carrier and over its oracle, once: the difference.
///
/// # Errors
/// The scenario makes no sense.
pub fn once(
    host: &dyn Host,
    scenario: &Scenario,
    carrier: Carrier,
    pace: Pace,
) -> Result<Option<String>, String> {
    let expected = run(host, scenario, carrier.oracle(), pace)?;
    let got = run(host, scenario, carrier, pace)?;
    if expected.lines != got.lines {
        return Ok(Some(diff(&expected.lines, &got.lines, carrier)));
    }
    Ok(misrouted(scenario, carrier, &got).map(|why| format!("{MISROUTED}{why}\n")))
}

/// Runs the scenario over the carrier and over its oracle; a difference counts only if it stays when all
/// is done slowly, `again` times.
///
/// # Errors
/// The scenario makes no sense.
pub fn compare(
    host: &dyn Host,
    scenario: &Scenario,
    carrier: Carrier,
    again: u32,
) -> Result<Verdict, String> {
    if let Some(why) = unsuited(scenario, carrier) {
        return Ok(Verdict::Skipped(why));
    }
    let mut found = once(host, scenario, carrier, Pace::USUAL)?;
    let slowly = Pace {
        slower: SLOWER,
        ..Pace::USUAL
    };
    for _ in 0..again {
        if found.is_some() {
            found = once(host, scenario, carrier, slowly)?;
        }
    }
    Ok(found.map_or(Verdict::Same, Verdict::Different))
}

/// The two traces as one text: they have a line a step, unless one ends earlier.
fn diff(expected: &[String], got: &[String], carrier: Carrier) -> String {
    let mut out = format!("--- {}\n+++ {}\n", carrier.oracle().name(), carrier.name());
    for i in 0..expected.len().max(got.len()) {
        match (expected.get(i), got.get(i)) {
            (Some(a), Some(b)) if a == b => out.push_str(&format!(" {a}\n")),
            (a, b) => {
                for (sign, line) in [('-', a), ('+', b)] {
                    if let Some(line) = line {
                        out.push_str(&format!("{sign}{line}\n"));
                    }
                }
            }
        }
    }
    out
}
