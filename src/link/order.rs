//! Taking in what several links have, in the order in which it was sent.
//!
//! Links that are polled one after the other would show a process the answer before its cause: what
//! was sent on the first link just after the look at it, then what somebody sent on the second *because*
//! of that. The kernel's ready list never does.

use std::sync::Arc;

use super::Link;
use super::stamp::Stamp;
use crate::poll::waiter::Waiter;
use crate::sync::{Ordering, fence};

/// Takes in what `links` have, as [`Link::poll`] does for one. Returns whether there was anything.
#[inline]
pub fn poll_all<'a, I>(links: I, me: Option<&'static Waiter>) -> bool
where
    I: Iterator<Item = &'a Arc<Link>> + Clone,
{
    let mut one = links.clone();
    match (one.next(), one.next()) {
        (None, _) => false,
        (Some(only), None) => only.poll(me),
        _ => links.clone().any(|link| link.pending()) && poll_several(links, me),
    }
}

fn poll_several<'a, I>(links: I, me: Option<&'static Waiter>) -> bool
where
    I: Iterator<Item = &'a Arc<Link>> + Clone,
{
    let mut any = false;
    loop {
        let progress = poll_up_to(Stamp::now(), links.clone(), me);
        any |= progress;
        // Whoever found a link's lock taken relies on us to have looked after it was free.
        fence(Ordering::SeqCst);
        if !links.clone().any(|link| link.pending()) {
            return any;
        }
        if !progress {
            // Taken in by others, or the clocks of two processors disagree: then in any order.
            return links.fold(any, |any, link| link.poll(me) | any);
        }
    }
}

/// Merges the records that were sent before `now`. All that led to one of them is in a ring already.
fn poll_up_to<'a, I>(now: Stamp, links: I, me: Option<&'static Waiter>) -> bool
where
    I: Iterator<Item = &'a Arc<Link>> + Clone,
{
    let mut heads: Vec<(Stamp, &Arc<Link>)> = links
        .filter(|link| link.pending())
        .map(|link| (link.head().unwrap_or(now), link))
        .collect();
    let mut any = false;
    loop {
        // Few links have news at a time, and each comes up once for every change of the sender.
        let earliest = |heads: &[(Stamp, &Arc<Link>)]| {
            (0..heads.len()).reduce(|a, b| match heads[a].0.is_after(heads[b].0) {
                true => b,
                false => a,
            })
        };
        let Some(at) = earliest(&heads) else {
            return any;
        };
        let (_, link) = heads.swap_remove(at);
        let until = match earliest(&heads) {
            Some(next) if now.is_after(heads[next].0) => heads[next].0,
            _ => now,
        };
        any |= link.poll_until(until, me);
        if let Some(head) = link.head()
            && now.is_after(head)
            && head.is_after(until)
        {
            heads.push((head, link));
        }
    }
}
