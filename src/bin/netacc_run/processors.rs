//! Whether the I/O threads may run where `NACC_AFFINITY` wants them.

use netacc::config::{Affinity, Config};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::check::{Finding, ok, warning};

/// What is to be said of the processors that were named, if some were.
pub fn of_io_threads(config: &Config) -> Option<Finding> {
    let Affinity::On(wanted) = &config.affinity else {
        return None;
    };
    let set = sched_getaffinity(None).ok()?;
    let allowed = (0..CpuSet::MAX_CPU).filter(|number| set.is_set(*number));
    let allowed: Vec<u16> = allowed
        .filter_map(|number| number.try_into().ok())
        .collect();
    Some(judge(wanted, &allowed))
}

fn judge(wanted: &[u16], allowed: &[u16]) -> Finding {
    const MATTER: &str = "processors";
    let (there, missing): (Vec<u16>, Vec<u16>) =
        wanted.iter().partition(|number| allowed.contains(number));
    let (there, missing) = (ranges(&there), ranges(&missing));
    if missing.is_empty() {
        return ok(MATTER, format!("the I/O threads run on {there}"));
    }
    let instead = match there.is_empty() {
        true => "the I/O threads will run anywhere".to_owned(),
        false => format!("the I/O threads will run on {there} alone"),
    };
    let allowed = ranges(allowed);
    warning(
        MATTER,
        format!(
            "NACC_AFFINITY names {missing}, which this machine does not have or a program started here may not use: \
             {instead}. Name some of {allowed} (cpu:{allowed})."
        ),
    )
}

/// Numbers as NACC_AFFINITY has them: `0-3,7`.
fn ranges(numbers: &[u16]) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let runs = sorted.chunk_by(|a, b| a + 1 == *b);
    let texts = runs.map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(wanted: &[u16], allowed: &[u16]) -> String {
        judge(wanted, allowed).to_string()
    }

    #[test]
    fn processors_that_are_not_there_are_warned_of() {
        assert_eq!(
            said(&[1, 0], &[0, 1, 3]),
            "ok       processors: the I/O threads run on 0-1"
        );
        let none = said(&[999], &[0, 1, 3]);
        assert!(none.starts_with("warning  processors: NACC_AFFINITY names 999, which"));
        assert!(
            none.contains("will run anywhere. Name some of 0-1,3 (cpu:0-1,3)."),
            "{none}"
        );
        let some = said(&[1, 2, 7], &[0, 1]);
        assert!(
            some.contains("names 2,7,") && some.contains("will run on 1 alone"),
            "{some}"
        );
    }

    #[test]
    fn only_a_list_names_processors() {
        let mut config = Config::default();
        assert!(of_io_threads(&config).is_none());
        config.affinity = Affinity::Each;
        assert!(of_io_threads(&config).is_none());
        config.affinity = Affinity::On(vec![u16::MAX]);
        assert!(
            of_io_threads(&config)
                .unwrap()
                .to_string()
                .contains("names 65535,")
        );
    }
}
