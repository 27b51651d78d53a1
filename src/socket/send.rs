//! Sending: write, writev, send, sendto, sendmsg, sendfile.

use std::cell::Cell;

use parking_lot::MutexGuard;

use super::recv::Outcome;
use super::wait::Wait;
use super::{Inner, Role, Socket};
use crate::conn::user_buf::UserBuf;
use crate::fabric::network;
use crate::poll::waiter::Wakes;
use crate::real::sys::{self, Errno};
use crate::stats;

/// Flags that are carried; a call with others is not.
pub const FLAGS: i32 = libc::MSG_DONTWAIT
    | libc::MSG_NOSIGNAL
    | libc::MSG_MORE
    | libc::MSG_EOR
    | libc::MSG_CONFIRM
    | libc::MSG_DONTROUTE;

struct Call<'a> {
    buf: &'a mut UserBuf,
    sent: usize,
    /// The connection counted as one that can be written to when the call came.
    promised: bool,
}

impl Call<'_> {
    fn attempt(
        &mut self,
        socket: &'static Socket,
        inner: &mut Inner,
        nonblocking: bool,
    ) -> Option<Result<Outcome, Errno>> {
        let stats = inner.stats;
        let conn = match &mut inner.role {
            Role::Connected(conn) => conn,
            Role::Connecting(_) if nonblocking => return Some(Err(Errno::AGAIN)),
            Role::Connecting(_) => return None,
            // What the peer gave back goes first.
            Role::Leftover(left) if left.resends && !nonblocking => return None,
            Role::Leftover(left) if left.resends => return Some(Err(Errno::AGAIN)),
            _ => return Some(Ok(self.by_kernel())),
        };
        if conn.error.is_some() || conn.tx_shut {
            // After a part was sent the error is for the next call.
            return Some(match self.sent {
                0 => Err(conn.error.take().unwrap_or(Errno::PIPE)),
                sent => Ok(Outcome::Done(sent)),
            });
        }
        if conn.tx_left {
            // Until it has left nobody knows what is to be sent before.
            return match (nonblocking, self.sent) {
                (false, _) => None,
                (true, 0) => Some(Err(Errno::AGAIN)),
                (true, sent) => Some(Ok(Outcome::Done(sent))),
            };
        }
        if self.buf.left() == 0 {
            return Some(match self.buf.has_null() {
                true => Err(Errno::FAULT),
                false => Ok(Outcome::Done(0)),
            });
        }
        if conn.peer_closed {
            // The first write into a closed socket succeeds; the reset that it earns fails the next.
            self.sent += self.buf.left();
            let events = conn.on_reset(Errno::CONNRESET);
            let mut wakes = Wakes::new(None);
            inner.announce(socket, events, &mut wakes);
            wakes.ring();
            return Some(Ok(Outcome::Done(self.sent)));
        }
        self.promised |= conn.writable();
        loop {
            let credit = conn.credit();
            let n = match self.buf.left().min(credit) {
                0 => 0,
                max => conn.link.send_data(conn.id, self.buf, max),
            };
            conn.sent(n);
            if let Some(stats) = stats {
                stats::bump(&stats.tx_bytes, n as u64);
                stats::bump(&stats.tx_msgs, u64::from(self.sent == 0 && n > 0));
            }
            self.sent += n;
            if self.buf.left() == 0 {
                return Some(Ok(Outcome::Done(self.sent)));
            }
            conn.tx_blocked = true;
            if conn.credit() == 0 {
                stats::add(&stats::global().window_stalls, 1);
                if let Some(stats) = stats {
                    stats::bump(&stats.window_stalls, 1);
                }
                break;
            }
            conn.awaits_ring = conn.link.wait_for_room(socket);
            if let Some(stats) = stats {
                stats::bump(&stats.ring_stalls, 1);
            }
            if conn.awaits_ring {
                break;
            }
        }
        if !conn.windows.is_roomy() {
            inner.note_stall(socket);
        }
        if nonblocking {
            return Some(if self.sent > 0 {
                Ok(Outcome::Done(self.sent))
            } else {
                Err(Errno::AGAIN)
            });
        }
        None
    }

    /// The connection has left its link: what is not sent yet goes over the kernel's.
    fn by_kernel(&self) -> Outcome {
        match self.sent {
            0 => Outcome::Kernel,
            sent => Outcome::Partly(sent),
        }
    }

    /// Poll has promised that something can be written, and its neighbours have filled the link's ring since.
    fn overdraw(&mut self, inner: &mut Inner) -> Result<Outcome, Errno> {
        let Role::Connected(conn) = &mut inner.role else {
            return Err(Errno::AGAIN);
        };
        if conn.tx_left {
            return Err(Errno::AGAIN);
        }
        let n = match conn.credit() {
            0 => return Err(Errno::AGAIN),
            credit => conn.link.overdraw(conn.id, self.buf, credit),
        };
        conn.sent(n);
        if let Some(stats) = inner.stats {
            stats::bump(&stats.tx_bytes, n as u64);
            stats::bump(&stats.tx_msgs, 1);
        }
        Ok(Outcome::Done(n))
    }
}

impl Socket {
    /// Sends from `buf`. `inner` is the socket's lock, taken by the caller.
    ///
    /// # Errors
    /// As send(2), SIGPIPE included.
    #[inline]
    pub fn transmit(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        buf: &mut UserBuf,
        flags: i32,
    ) -> Result<Outcome, Errno> {
        if flags & !FLAGS != 0
            && let Role::Connected(conn) = &inner.role
            && !conn.is_reset()
        {
            // Urgent data, MSG_ZEROCOPY and its notifications: the kernel's.
            let nonblocking = inner.nonblocking || flags & libc::MSG_DONTWAIT != 0;
            self.hand_back(inner, nonblocking)?;
            return Ok(Outcome::Kernel);
        }
        if matches!(&inner.role, Role::Leftover(left) if !left.resends) {
            inner.writes();
            return Ok(Outcome::Kernel);
        }
        let nonblocking = inner.nonblocking || flags & libc::MSG_DONTWAIT != 0;
        if buf.has_null() {
            buf.end_at_null();
        }
        // A peer that has closed or reset the connection counts from then on, not from when somebody looks.
        if let Role::Connected(conn) = &inner.role
            && (conn.link.pending() || conn.link.is_remote() && network::is_unlooked())
        {
            let link = conn.link.clone();
            let look = || match link.is_remote() {
                true => network::glance(),
                false => link.glance(),
            };
            inner = self.unlocked(inner, look).ok_or(Errno::BADF)?;
        }
        let mut call = Call {
            buf,
            sent: 0,
            promised: false,
        };
        let mut attempt = call.attempt(self, &mut inner, nonblocking);
        if let Some(Err(Errno::AGAIN)) = attempt
            && let Some(link) = inner.link().filter(|link| link.is_remote())
        {
            // News of room lies with the device until somebody looks.
            let look = || {
                network::flush();
                link.source().poll(None);
            };
            inner = self.unlocked(inner, look).ok_or(Errno::BADF)?;
            attempt = call.attempt(self, &mut inner, nonblocking);
        }
        if let Some(Err(Errno::AGAIN)) = attempt
            && call.promised
        {
            attempt = Some(call.overdraw(&mut inner));
        }
        let result = match attempt {
            Some(result) => {
                drop(inner);
                result
            }
            None => {
                let begun = Cell::new(false);
                let wait = Wait {
                    timeout: inner.send_timeout,
                    begun: Some(&begun),
                    ..Wait::default()
                };
                self.wait_until(inner, wait, |inner| {
                    let result = call.attempt(self, inner, false);
                    begun.set(call.sent > 0);
                    result
                })
            }
        };
        match result {
            Err(Errno::AGAIN | Errno::INTR) if call.sent > 0 => Ok(Outcome::Done(call.sent)),
            Err(Errno::PIPE) => {
                if flags & libc::MSG_NOSIGNAL == 0 {
                    sys::raise_sigpipe();
                }
                Err(Errno::PIPE)
            }
            other => other,
        }
    }
}
