//! Receiving: read, readv, recv, recvfrom, recvmsg.

use std::cell::Cell;

use parking_lot::MutexGuard;

use super::wait::Wait;
use super::{Inner, Role, Socket};
use crate::conn::leftover::Leftover;
use crate::conn::user_buf::UserBuf;
use crate::control::heirs;
use crate::link::record::Kind;
use crate::real::sys::Errno;
use crate::stats;

/// What became of a data call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// So many bytes.
    Done(usize),
    /// So many bytes, and the rest of the buffers is the kernel's affair: the caller passes the call on for it.
    Partly(usize),
    /// The kernel's affair: the caller passes the call on.
    Kernel,
}

/// One receiving call.
struct Call<'a> {
    buf: &'a mut UserBuf,
    flags: i32,
    /// Bytes asked for.
    want: usize,
    copied: usize,
}

impl Call<'_> {
    fn attempt(&mut self, inner: &mut Inner, nonblocking: bool) -> Option<Result<Outcome, Errno>> {
        let low_water = inner.low_water;
        let exactly = heirs::may_hold(inner.forks);
        let stats = inner.stats;
        let conn = match &mut inner.role {
            Role::Connected(conn) => &mut **conn,
            Role::Connecting(_) if nonblocking => return Some(Err(Errno::AGAIN)),
            Role::Connecting(_) => return None,
            Role::Leftover(left) => return Some(Ok(self.leftover(left))),
            _ => return Some(Ok(self.by_kernel())),
        };
        if conn.is_being_resent() {
            // What was there a moment ago is there again at once, even for a call that does not wait.
            return None;
        }
        if conn.rx_left && conn.rx.is_empty() && !conn.rx_fin {
            inner.reads();
            return Some(Ok(self.by_kernel()));
        }
        let target = match self.flags & libc::MSG_WAITALL {
            0 => low_water.min(self.want),
            _ => self.want,
        }
        .max(1);
        let peek = self.flags & libc::MSG_PEEK != 0;
        let ended = conn.rx_fin || conn.rx_shut || conn.error.is_some();
        if peek {
            let enough = conn.rx.len() >= target || ended || nonblocking;
            if enough && (!conn.rx.is_empty() || self.want == 0 && ended) {
                // As the kernel: MSG_TRUNC tells how much there is, and copies nothing.
                let seen = match self.flags & libc::MSG_TRUNC {
                    0 => conn.rx.peek(self.buf, self.want),
                    _ => conn.rx.len().min(self.want),
                };
                return Some(self.nowhere(seen).unwrap_or(Ok(Outcome::Done(seen))));
            }
        } else if !conn.rx.is_empty() && self.copied < self.want {
            let out = (self.flags & libc::MSG_TRUNC == 0).then_some(&mut *self.buf);
            let n = conn.rx.take(out, self.want - self.copied, &conn.link.slots);
            self.copied += n;
            let told = conn.took(n);
            if let Some(grant) = told.or_else(|| exactly.then(|| conn.tell_exactly()).flatten()) {
                conn.link
                    .send_control(conn.id, Kind::Window, &grant.to_le_bytes());
            }
            if let Some(stats) = stats {
                stats::bump(&stats.rx_bytes, n as u64);
                stats::bump(&stats.rx_msgs, u64::from(n > 0 && self.copied == n));
                stats.show_queues(conn.rx.len(), conn.windows.read_by_peer());
            }
        }
        if self.copied >= target || self.want == 0 && !conn.rx.is_empty() {
            let done = Ok(Outcome::Done(self.copied));
            return Some(self.nowhere(self.copied).unwrap_or(done));
        }
        if ended && conn.rx.is_empty() {
            if self.copied > 0 {
                return Some(Ok(Outcome::Done(self.copied)));
            }
            // As the kernel: after the peer's FIN the end is reported, not the error behind it.
            return Some(match conn.error {
                Some(_) if !conn.rx_fin => Err(conn.error.take().unwrap_or(Errno::CONNRESET)),
                _ => Ok(Outcome::Done(0)),
            });
        }
        if conn.rx_left && conn.rx.is_empty() {
            inner.reads();
            return Some(Ok(self.by_kernel()));
        }
        if nonblocking {
            return Some(if self.copied > 0 {
                Ok(Outcome::Done(self.copied))
            } else {
                Err(Errno::AGAIN)
            });
        }
        None
    }

    /// There is something to read, and nothing of it could be copied because its place is nowhere.
    #[inline]
    fn nowhere(&self, copied: usize) -> Option<Result<Outcome, Errno>> {
        (copied == 0 && self.buf.has_null()).then_some(Err(Errno::FAULT))
    }

    /// The connection has left its link: what is wanted beyond `copied` comes from the kernel.
    fn by_kernel(&self) -> Outcome {
        match self.copied {
            0 => Outcome::Kernel,
            copied if copied == self.want => Outcome::Done(copied),
            copied => Outcome::Partly(copied),
        }
    }

    fn leftover(&mut self, left: &mut Leftover) -> Outcome {
        if left.is_empty() {
            return self.by_kernel();
        }
        let n = left.len().min(self.want - self.copied);
        match self.flags & libc::MSG_TRUNC {
            0 => left.peek(self.buf, n),
            _ => {
                self.buf.skip(n);
                n
            }
        };
        if self.flags & libc::MSG_PEEK == 0 {
            left.skip(n);
        }
        self.copied += n;
        self.by_kernel()
    }
}

impl Socket {
    /// Receives into `buf`. `inner` is the socket's lock, taken by the caller.
    ///
    /// # Errors
    /// As recv(2).
    #[inline]
    pub fn receive(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        buf: &mut UserBuf,
        flags: i32,
    ) -> Result<Outcome, Errno> {
        let nonblocking = inner.nonblocking || flags & libc::MSG_DONTWAIT != 0;
        if buf.has_null() && flags & libc::MSG_TRUNC == 0 {
            buf.end_at_null();
        }
        let mut call = Call {
            want: buf.left(),
            buf,
            flags,
            copied: 0,
        };
        if flags & (libc::MSG_OOB | libc::MSG_ERRQUEUE) != 0 {
            return unusual(&inner, flags);
        }
        if matches!(inner.role, Role::Leftover(_)) {
            inner.reads();
            let result = call.attempt(&mut inner, nonblocking);
            inner.share_low_water();
            self.leave_if_read(inner);
            return result.unwrap_or(Ok(Outcome::Kernel));
        }
        // What is there already may do; if not, the link may have more.
        if let Role::Connected(conn) = &inner.role
            && conn.rx.len() < call.want.max(1)
            && !conn.rx_fin
            && (conn.link.pending() || conn.rx.is_empty() && conn.link.is_remote())
        {
            let source = conn.link.source();
            let look = || {
                source.poll(None);
            };
            inner = self.unlocked(inner, look).ok_or(Errno::BADF)?;
        }
        if let Some(result) = call.attempt(&mut inner, nonblocking) {
            return result;
        }
        let begun = Cell::new(false);
        let timeout = match nonblocking {
            // For what is being sent again only, and not for long.
            true => inner.conn().map(|conn| conn.grace()),
            false => inner.receive_timeout,
        };
        let wait = Wait {
            timeout,
            begun: Some(&begun),
            ..Wait::default()
        };
        let waited = self.wait_until(inner, wait, |inner| {
            let result = call.attempt(inner, nonblocking);
            begun.set(call.copied > 0);
            result
        });
        match waited {
            Err(Errno::AGAIN | Errno::INTR) if call.copied > 0 => Ok(Outcome::Done(call.copied)),
            other => other,
        }
    }
}

/// Out-of-band data and the error queue, both of which are always empty here. Answered as the kernel
/// answers when it has none; all other flags that recv does not know it ignores, as the kernel.
fn unusual(inner: &Inner, flags: i32) -> Result<Outcome, Errno> {
    match &inner.role {
        Role::Connected(conn) if conn.rx_left => Ok(Outcome::Kernel),
        Role::Connected(_) if flags & libc::MSG_OOB != 0 => Err(Errno::INVAL),
        Role::Connected(_) => Err(Errno::AGAIN),
        _ => Ok(Outcome::Kernel),
    }
}
