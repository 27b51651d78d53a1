//! Epoll sets inside an epoll set.
//!
//! The kernel watches the inner descriptor as ever; the inner set's bell, registered in it, makes it
//! readable. But a bell says "look", not "ready": before an event of an inner set reaches the
//! application, the inner set is asked whether it would really report something.

use libc::epoll_event;
use parking_lot::Mutex;
use rustix::fd::RawFd;

use super::epoll::EpollSet;
use crate::fdtable::{self, Entry};

struct Inner {
    epfd: RawFd,
    set: &'static EpollSet,
    data: u64,
}

/// The sets that are in another.
#[derive(Default)]
pub struct Nested {
    inner: Mutex<Vec<Inner>>,
}

impl Nested {
    /// epoll_ctl(2) with the epoll set `set`, known as `epfd`.
    pub fn note(&self, op: i32, epfd: RawFd, set: &'static EpollSet, event: Option<&epoll_event>) {
        let mut inner = self.inner.lock();
        inner.retain(|i| i.epfd != epfd);
        if op != libc::EPOLL_CTL_DEL
            && let Some(event) = event
        {
            inner.push(Inner {
                epfd,
                set,
                data: event.u64,
            });
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.inner.lock().is_empty()
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.inner.lock().clear();
    }

    /// Has each take back what its bell said for nothing.
    pub fn ask_all(&self) {
        for i in self.inner.lock().iter() {
            if fdtable::is(i.epfd, Entry::Epoll(i.set)) && i.set.has_bells() {
                i.set.has_news(i.epfd);
            }
        }
    }

    /// Removes the events of inner sets that have nothing to report from the first `count`; returns
    /// how many are left.
    pub fn without_idle(&self, events: &mut [epoll_event], count: usize) -> usize {
        let inner = self.inner.lock();
        if inner.is_empty() {
            return count;
        }
        let mut kept = 0;
        for at in 0..count {
            let data = events[at].u64;
            let idle = inner.iter().any(|i| {
                i.data == data
                    && fdtable::is(i.epfd, Entry::Epoll(i.set))
                    && i.set.has_bells()
                    && !i.set.has_news(i.epfd)
            });
            if !idle {
                events[kept] = events[at];
                kept += 1;
            }
        }
        kept
    }
}
