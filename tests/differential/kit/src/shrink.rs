//! The least of a scenario that still differs, by leaving out what is not needed (delta debugging).

use crate::compare::{MISROUTED, once};
use crate::host::{Carrier, Host};
use crate::lang::Scenario;
use crate::run::{Pace, run};
use std::time::{Duration, Instant};

/// Enough for what is left to be short.
const LIMIT: Duration = Duration::from_secs(60);

/// Steps that hang are no reason to wait long here.
const HASTY: Pace = Pace {
    slower: 1,
    limit: Duration::from_secs(2),
    until: Duration::from_secs(1),
};

/// The smallest part of `items` found for which `differs` holds, as it does for all of them.
fn least<T: Clone>(items: &[T], differs: impl Fn(&[T]) -> bool) -> Vec<T> {
    let deadline = Instant::now() + LIMIT;
    let mut kept = items.to_vec();
    let mut size = kept.len() / 2;
    while size > 0 {
        let mut at = 0;
        let before = kept.len();
        while at < kept.len() && Instant::now() < deadline {
            let mut fewer = kept.clone();
            fewer.drain(at..(at + size).min(kept.len()));
            if differs(&fewer) {
                kept = fewer;
            } else {
                at += size;
            }
        }
        if size > 1 {
            size /= 2;
        } else if kept.len() == before {
            break;
        }
    }
    kept
}

/// Does it differ again and again, in the same way, while the oracle agrees with itself?
fn differs(host: &dyn Host, scenario: &Scenario, carrier: Carrier) -> bool {
    let twice = || -> Result<bool, String> {
        for _ in 0..2 {
            match once(host, scenario, carrier, HASTY)? {
                Some(text) if text.starts_with(MISROUTED) => return Ok(false),
                Some(_) => {}
                None => return Ok(false),
            }
        }
        let oracle = carrier.oracle();
        let lines = run(host, scenario, oracle, HASTY)?.lines;
        let stuck = |line: &String| line.ends_with("hangs") || line.contains("-> never");
        Ok(!lines.iter().any(stuck) && lines == run(host, scenario, oracle, HASTY)?.lines)
    };
    // A scenario that makes no sense any more shows nothing.
    twice().unwrap_or(false)
}

/// A scenario in groups of steps, as few of them as still differ over the carrier, as `text` tells.
pub fn shrink(
    host: &dyn Host,
    groups: &[Vec<String>],
    carrier: Carrier,
    text: &str,
    scenario: impl Fn(&[Vec<String>]) -> Scenario,
) -> Scenario {
    // With fewer steps there are many ways to be left to the kernel.
    if text.starts_with(MISROUTED) {
        return scenario(groups);
    }
    let by_groups = least(groups, |some| differs(host, &scenario(some), carrier));
    // What is waited for stays with what is waited for: without, chance would decide.
    let mut lines: Vec<Vec<String>> = Vec::new();
    for line in by_groups.concat() {
        match lines.last_mut() {
            Some(last) if line.contains(": until ") => last.push(line),
            _ => lines.push(vec![line]),
        }
    }
    let by_lines = least(&lines, |some| differs(host, &scenario(some), carrier));
    scenario(&by_lines)
}

#[cfg(test)]
mod tests {
    use super::least;

    #[test]
    fn what_is_needed_stays() {
        let all: Vec<u32> = (0..40).collect();
        let needs = |some: &[u32]| some.contains(&3) && some.contains(&38);
        assert_eq!(least(&all, needs), [3, 38]);
    }
}
