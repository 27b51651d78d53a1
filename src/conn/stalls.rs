//! Connections whose senders have used up their windows, but for less than poll calls room. The control thread looks at
//! them now and then: one that has not been given any more for a while asks for a wider window.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::link::Link;
use crate::link::record::Kind;
use crate::real::sys::now_ns;
use crate::socket::{Inner, Role, Socket};
use crate::sync;

/// How long a sender is left to wait: a reader that is at work has given more by then, and a program that wants to see a
/// sender wait has seen it. In nanoseconds.
const PATIENCE_NS: u64 = 3_000_000_000;

/// A sender that may not send.
struct Stall {
    socket: &'static Socket,
    life: u64,
    /// Up to where it could send when it was last looked at, and when that was.
    allowed: u64,
    since: u64,
}

impl Stall {
    fn due(&self) -> u64 {
        self.since + PATIENCE_NS
    }
}

static STALLS: Mutex<Vec<Stall>> = Mutex::new(Vec::new());
/// When the control thread looks next, in [`now_ns`] time.
static NEXT: AtomicU64 = AtomicU64::new(u64::MAX);

fn note(stall: Stall) {
    let due = stall.due();
    {
        let mut stalls = STALLS.lock();
        let same = |s: &Stall| core::ptr::eq(s.socket, stall.socket) && s.life == stall.life;
        if stalls.iter().any(same) {
            return;
        }
        stalls.push(stall);
    }
    if NEXT.fetch_min(due, Ordering::AcqRel) > due
        && let Some(runtime) = crate::runtime::started()
    {
        runtime.ring_io();
    }
}

/// Looks, if it is time. Returns the time until the next look.
pub fn look() -> Option<Duration> {
    if NEXT.load(Ordering::Acquire) == u64::MAX {
        return None;
    }
    let now = now_ns();
    // Not under its lock: it is taken under sockets' locks.
    let mut stalls = core::mem::take(&mut *STALLS.lock());
    stalls.retain_mut(|stall| stall.due() > now || stall.socket.look_at_stall(stall, now));
    let mut list = STALLS.lock();
    list.append(&mut stalls);
    let next = list.iter().map(Stall::due).min().unwrap_or(u64::MAX);
    NEXT.store(next, Ordering::Release);
    (next != u64::MAX).then(|| Duration::from_nanos(next.saturating_sub(now)))
}

impl Inner {
    /// Its window for sending is used up.
    pub fn note_stall(&self, socket: &'static Socket) {
        // An application that limits its send buffer wants to wait.
        if let Role::Connected(conn) = &self.role
            && !self.send_buffer_is_set
        {
            note(Stall {
                socket,
                life: self.life,
                allowed: conn.windows.allowed(),
                since: now_ns(),
            });
        }
    }
}

impl Socket {
    /// A look at a stall that lasts. Returns whether to look again.
    fn look_at_stall(&'static self, stall: &mut Stall, now: u64) -> bool {
        let mut inner = self.lock();
        if inner.life != stall.life {
            return false;
        }
        let Role::Connected(conn) = &mut inner.role else {
            return false;
        };
        let windows = &mut conn.windows;
        if windows.is_roomy() || windows.is_wanting() || conn.tx_shut || conn.tx_left {
            return false;
        }
        if windows.allowed() == stall.allowed {
            windows.wants();
            conn.link.send_control(conn.id, Kind::Want, &[]);
            conn.link.fabric().notify_io();
        }
        stall.allowed = conn.windows.allowed();
        stall.since = now;
        true
    }

    /// The peer of connection `id` wants a wider window. Called under the link's `rx` lock.
    pub fn wanted(&'static self, link: &Link, id: u32) {
        let mut inner = self.lock();
        if let Some(conn) = inner.conn_on(link, id)
            && let Some(grant) = conn.on_want()
        {
            link.send_control(id, Kind::Window, &grant.to_le_bytes());
        }
    }
}

/// For a forked child: no connection of its parent's is its own.
///
/// # Safety
/// No other thread may run.
pub unsafe fn reset_after_fork() {
    // SAFETY: by the contract; the old list leaks.
    unsafe { sync::empty(&STALLS) };
    if NEXT.load(Ordering::Relaxed) != u64::MAX {
        NEXT.store(u64::MAX, Ordering::Relaxed);
    }
}
