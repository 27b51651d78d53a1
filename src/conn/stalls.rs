//! Connections whose senders have used up their windows, but for less than poll calls room. The control thread looks at them now and then: one that has
//! not been given any more since the last look asks for a wider window.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::link::Link;
use crate::link::record::Kind;
use crate::socket::{Inner, Role, Socket};

/// Time between looks: a reader that is at work has given more by then.
const PACE: Duration = Duration::from_millis(20);

/// A socket, its life, and up to where it could send when it was last looked at.
type Stall = (&'static Socket, u64, u64);

static STALLS: Mutex<Vec<Stall>> = Mutex::new(Vec::new());
/// The control thread looks.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// `socket` of this life may send up to `allowed`, and has. Called under its lock.
pub fn note(socket: &'static Socket, life: u64, allowed: u64) {
    {
        let mut stalls = STALLS.lock();
        if stalls
            .iter()
            .any(|(s, l, _)| core::ptr::eq(*s, socket) && *l == life)
        {
            return;
        }
        stalls.push((socket, life, allowed));
    }
    if !WATCHED.swap(true, Ordering::AcqRel)
        && let Some(runtime) = crate::runtime::started()
    {
        runtime.ring_io();
    }
}

/// When the control thread looks next.
#[derive(Default)]
pub struct Watch {
    next: Option<u64>,
}

impl Watch {
    /// Looks, if it is time. Returns the time until the next look.
    pub fn look(&mut self) -> Option<Duration> {
        if !WATCHED.load(Ordering::Acquire) {
            return None;
        }
        let now = crate::real::sys::now_ns();
        let next = *self.next.get_or_insert(now + PACE.as_nanos() as u64);
        if now < next {
            return Some(Duration::from_nanos(next - now));
        }
        // Not under its lock: it is taken under sockets' locks.
        let stalls = core::mem::take(&mut *STALLS.lock());
        let still: Vec<Stall> = stalls
            .into_iter()
            .filter_map(|(socket, life, allowed)| {
                socket
                    .look_at_stall(life, allowed)
                    .map(|now| (socket, life, now))
            })
            .collect();
        let mut list = STALLS.lock();
        list.extend(still);
        if list.is_empty() {
            WATCHED.store(false, Ordering::Release);
            self.next = None;
            return None;
        }
        self.next = Some(now + PACE.as_nanos() as u64);
        Some(PACE)
    }
}

impl Inner {
    /// Its window for sending is used up.
    pub fn note_stall(&self, socket: &'static Socket) {
        // An application that limits its send buffer wants to wait.
        if let Role::Connected(conn) = &self.role
            && !self.send_buffer_is_set
        {
            note(socket, self.life, conn.windows.allowed());
        }
    }
}

impl Socket {
    /// A look at a stall that began when it could send up to `allowed`. `None` when there is nothing to look for any
    /// more, else up to where it can send now.
    fn look_at_stall(&'static self, life: u64, allowed: u64) -> Option<u64> {
        let mut inner = self.lock();
        if inner.life != life {
            return None;
        }
        let Role::Connected(conn) = &mut inner.role else {
            return None;
        };
        let windows = &mut conn.windows;
        if windows.is_roomy() || windows.is_wanting() || conn.tx_shut || conn.tx_left {
            return None;
        }
        if windows.allowed() == allowed {
            windows.wants();
            conn.link.send_control(conn.id, Kind::Want, &[]);
            conn.link.fabric().notify_io();
        }
        Some(windows.allowed())
    }

    /// The peer of connection `id` wants a wider window. Called under the link's `rx` lock.
    pub fn wanted(&'static self, link: &Link, id: u32) {
        let mut inner = self.lock();
        if let Some(conn) = inner.conn()
            && conn.id == id
            && core::ptr::eq(&*conn.link, link)
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
    unsafe {
        STALLS.data_ptr().write(Vec::new());
        while STALLS.is_locked() {
            STALLS.force_unlock();
        }
    }
    WATCHED.store(false, Ordering::Relaxed);
}
