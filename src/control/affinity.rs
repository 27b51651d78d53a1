//! Which processors the I/O threads run on.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::config::Affinity;
use crate::real::sys::Errno;

/// Binds the calling thread, number `index` of `count` I/O threads, as `NACC_AFFINITY` says. Where that cannot be, it
/// runs wherever it may.
pub(super) fn bind(affinity: &Affinity, index: usize, count: usize) {
    let bound = processors(affinity, index, count).and_then(|set| match set {
        None => Ok(()),
        Some(set) => sched_setaffinity(None, &set),
    });
    if let Err(error) = bound {
        tracing::warn!(target: "netacc::config", "NACC_AFFINITY: an I/O thread cannot be bound to its processors: {error}");
    }
}

/// The processors for that thread; `None`: those that it has.
fn processors(affinity: &Affinity, index: usize, count: usize) -> Result<Option<CpuSet>, Errno> {
    let own = match affinity {
        Affinity::Anywhere => return Ok(None),
        Affinity::On(list) => list.iter().map(|&number| usize::from(number)).collect(),
        Affinity::Each | Affinity::EachIfRoom => {
            let set = sched_getaffinity(None)?;
            let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|n| set.is_set(*n)).collect();
            if *affinity == Affinity::EachIfRoom && allowed.len() <= count {
                return Ok(None);
            }
            // Processes are not to meet all on the first processor.
            let first = std::process::id() as usize;
            vec![allowed[(first + index) % allowed.len()]]
        }
    };
    let mut set = CpuSet::new();
    own.into_iter().for_each(|number: usize| set.set(number));
    Ok(Some(set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(affinity: &Affinity, index: usize, count: usize) -> Option<Vec<usize>> {
        let set = processors(affinity, index, count).unwrap()?;
        Some((0..CpuSet::MAX_CPU).filter(|n| set.is_set(*n)).collect())
    }

    #[test]
    fn each_thread_has_a_processor_that_it_may_run_on() {
        let set = sched_getaffinity(None).unwrap();
        let allowed = set.count() as usize;
        let all: std::collections::BTreeSet<_> = (0..allowed)
            .map(|index| numbers(&Affinity::Each, index, allowed).unwrap())
            .inspect(|own| assert!(own.len() == 1 && set.is_set(own[0])))
            .collect();
        assert_eq!(all.len(), allowed, "no two have the same");
    }

    #[test]
    fn threads_that_would_fill_the_machine_are_not_bound() {
        let allowed = sched_getaffinity(None).unwrap().count() as usize;
        assert_eq!(numbers(&Affinity::EachIfRoom, 0, allowed), None);
        assert_eq!(numbers(&Affinity::Anywhere, 0, 1), None);
        if allowed > 1 {
            assert_eq!(
                numbers(&Affinity::EachIfRoom, 0, allowed - 1),
                numbers(&Affinity::Each, 0, 1)
            );
        }
    }

    #[test]
    fn a_list_is_for_all_threads() {
        let affinity = Affinity::On(vec![1, 5]);
        assert_eq!(numbers(&affinity, 3, 4), Some(vec![1, 5]));
    }
}
