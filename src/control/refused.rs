//! Whose hello this process has answered with no, and why: the connections that then come from there by the application's own
//! port are left to the kernel for that reason.
//!
//! Of another host that is the best that can be said: there the client's own page cannot be read. (On this host it can:
//! `netacc_ss` asks at the other end.) Addresses stand for hosts, and a process there may be without NetACC all the same;
//! with it, it would have the same answer.

use core::net::IpAddr;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

use super::wire::Verdict;
use crate::stats::Reason;

/// So many are remembered; one more takes the place of the oldest.
const MOST: usize = 64;

/// What was answered to one address.
#[derive(Clone, Copy)]
struct Answered {
    ip: IpAddr,
    reason: Reason,
    until_ns: u64,
}

/// The answers of a process.
pub struct Refused {
    /// How many there are: usually none, and then nobody takes the lock.
    count: AtomicUsize,
    /// Nobody waits for it (it may be held by a thread that a fork has left behind): who does not get it does without.
    answers: Mutex<[Option<Answered>; MOST]>,
}

/// Those of this process.
pub static REFUSED: Refused = Refused::new();

impl Refused {
    const fn new() -> Refused {
        Refused {
            count: AtomicUsize::new(0),
            answers: Mutex::new([None; MOST]),
        }
    }

    /// A hello from `ip` to our address `local` was answered so; that is remembered until `until_ns`.
    pub fn note(&self, ip: IpAddr, local: IpAddr, verdict: Verdict, until_ns: u64) {
        let reason = match verdict {
            Verdict::Version => Some(Reason::VersionMismatch),
            Verdict::Fabric => Some(Reason::NoCommonFabric),
            Verdict::Route => Some(Reason::NoRdmaRoute),
            Verdict::Resources => Some(Reason::ResourceLimit),
            // A rule of ours, which is looked at for each connection.
            Verdict::Yes | Verdict::Plain => None,
        };
        let (ip, local) = (ip.to_canonical(), local.to_canonical());
        let is_worth_it = reason.is_some() || self.count.load(Relaxed) > 0;
        if ip == local || !is_worth_it {
            return;
        }
        let Some(mut answers) = self.answers.try_lock() else {
            return;
        };
        let old = answers
            .iter_mut()
            .find(|place| place.is_some_and(|answer| answer.ip == ip));
        let answered = reason.map(|reason| Answered {
            ip,
            reason,
            until_ns,
        });
        match old {
            Some(place) => *place = answered,
            None if answered.is_some() => {
                let oldest = answers
                    .iter_mut()
                    .min_by_key(|place| place.map_or(0, |answer| answer.until_ns));
                if let Some(place) = oldest {
                    *place = answered;
                }
            }
            None => {}
        }
        self.count.store(answers.iter().flatten().count(), Relaxed);
    }

    /// Why connections from `ip` come by the kernel's door, if that is known; `now` tells the time if it matters.
    pub fn why(&self, ip: IpAddr, now: fn() -> u64) -> Option<Reason> {
        if self.count.load(Relaxed) == 0 {
            return None;
        }
        let (ip, now) = (ip.to_canonical(), now());
        let answers = self.answers.try_lock()?;
        let mut known = answers.iter().flatten();
        let known = known.find(|answer| answer.ip == ip && now < answer.until_ns);
        known.map(|answer| answer.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 1));

    fn peer(number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        IpAddr::from([10, 1, high, low])
    }

    #[test]
    fn an_answer_is_known_for_its_time_and_until_another_one() {
        let refused = Refused::new();
        assert_eq!(refused.why(peer(1), || 0), None);
        refused.note(peer(1), HERE, Verdict::Version, 100);
        assert_eq!(refused.why(peer(1), || 99), Some(Reason::VersionMismatch));
        assert_eq!(refused.why(peer(1), || 100), None);
        assert_eq!(refused.why(peer(2), || 50), None);
        let IpAddr::V4(plain) = peer(1) else {
            unreachable!()
        };
        let mapped = IpAddr::V6(plain.to_ipv6_mapped());
        assert_eq!(refused.why(mapped, || 99), Some(Reason::VersionMismatch));
        refused.note(peer(1), HERE, Verdict::Route, 200);
        assert_eq!(refused.why(peer(1), || 150), Some(Reason::NoRdmaRoute));
        refused.note(peer(1), HERE, Verdict::Yes, 300);
        assert_eq!(refused.why(peer(1), || 150), None);
    }

    #[test]
    fn of_this_host_and_of_rules_nothing_is_remembered() {
        let refused = Refused::new();
        refused.note(HERE, HERE, Verdict::Fabric, 100);
        refused.note(peer(1), HERE, Verdict::Plain, 100);
        refused.note(peer(1), HERE, Verdict::Yes, 100);
        assert_eq!(refused.count.load(Relaxed), 0);
        assert_eq!(refused.why(HERE, || 0), None);
    }

    #[test]
    fn the_oldest_gives_its_place() {
        let refused = Refused::new();
        for number in 0..=MOST as u16 {
            let until = 1000 + u64::from(number);
            refused.note(peer(number), HERE, Verdict::Fabric, until);
        }
        assert_eq!(refused.count.load(Relaxed), MOST);
        assert_eq!(refused.why(peer(0), || 0), None);
        for number in [1, MOST as u16] {
            assert_eq!(
                refused.why(peer(number), || 0),
                Some(Reason::NoCommonFabric)
            );
        }
    }

    #[test]
    fn who_cannot_look_does_without() {
        let refused = Refused::new();
        refused.note(peer(1), HERE, Verdict::Fabric, 100);
        let held = refused.answers.lock();
        assert_eq!(refused.why(peer(1), || 0), None);
        refused.note(peer(2), HERE, Verdict::Fabric, 100);
        drop(held);
        assert_eq!(refused.why(peer(1), || 0), Some(Reason::NoCommonFabric));
    }
}
