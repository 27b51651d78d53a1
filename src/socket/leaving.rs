//! Sockets whose descriptors go where this library may not be: to another process, or to the program that replaces this
//! one. The kernel alone is to serve them.

use std::time::Duration;

use parking_lot::MutexGuard;

use super::lifecycle::Farewell;
use super::wait::Wait;
use super::{Inner, Role, Socket};
use crate::poll::waiter::Wakes;
use crate::real::sys::{self, Errno};
use crate::stats::{Mode, Reason};

/// How long a connect that is under way is waited for, and a peer that has something to send again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many things can be in the way of a socket, one after the other.
const STEPS: u32 = 4;

impl Socket {
    /// Begins what [`let_out`](Self::let_out) does, where that can be had without waiting.
    pub fn begin_to_let_out(&'static self) {
        self.lock().begin_hand_back();
    }

    /// Sees to it that whoever gets the socket needs nothing but the kernel.
    pub fn let_out(&'static self) {
        for _ in 0..STEPS {
            let inner = self.lock();
            match &inner.role {
                Role::Connected(conn) if conn.is_reset() => return,
                Role::Connected(_) => self.hand_back(inner),
                Role::Connecting(_) => {
                    self.wait_while(inner, |role| matches!(role, Role::Connecting(_)));
                }
                Role::Leftover(left) if left.resends => {
                    self.wait_while(
                        inner,
                        |role| matches!(role, Role::Leftover(left) if left.resends),
                    );
                }
                Role::Leftover(left) if left.is_empty() => return,
                Role::Leftover(left) => {
                    tracing::warn!(target: "netacc::conn", "{} bytes stay with this process: their sender has closed the connection", left.len());
                    return;
                }
                Role::Orphan(_) => {
                    drop(inner);
                    self.adopt();
                }
                Role::Listening(_) => return self.share_listener(inner),
                Role::Unused | Role::Fresh | Role::Plain => return,
            }
        }
    }

    fn wait_while(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        lasts: impl Fn(&Role) -> bool,
    ) {
        let wait = Wait {
            timeout: Some(PATIENCE),
            ..Wait::default()
        };
        let over = |inner: &mut Inner| (!lasts(&inner.role)).then_some(Ok(()));
        while self.wait_until(inner, wait, over) == Err(Errno::INTR) {
            inner = self.lock();
        }
    }

    /// Another process is to accept from the listener, too. It goes on here as it is if it can: one that the application
    /// itself has made non-blocking, and accepts from. Else it is the kernel's, for both.
    pub(super) fn share_listener(&'static self, mut inner: MutexGuard<'static, Inner>) {
        let nonblocking = inner.nonblocking;
        let Role::Listening(listening) = &mut inner.role else {
            return;
        };
        if nonblocking && listening.claimed {
            return;
        }
        let side = listening.side.take();
        let _ = rustix::io::ioctl_fionbio(sys::borrow(inner.fd()), nonblocking);
        inner
            .stats
            .inspect(|page| page.set_mode(Mode::Tcp, Reason::Forked));
        let sets = self.be_plain(&mut inner);
        let mut wakes = Wakes::new(None);
        inner.wake_sleepers(&mut wakes);
        drop(inner);
        wakes.ring();
        Farewell {
            sets,
            listener: side,
            ..Farewell::default()
        }
        .say();
    }

    /// Whether it is a listener that the kernel never waits for, though the application would have it wait.
    pub fn waits_here(&self) -> bool {
        let inner = self.lock();
        matches!(inner.role, Role::Listening(_)) && !inner.nonblocking
    }
}
