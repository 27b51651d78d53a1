//! How far each side of a connection may send beyond what the other's application has read.
//!
//! The receiver grants stream offsets. It begins with a window that fits the ring; `SO_RCVBUF` makes it smaller. A
//! sender that used its window up and still waits after a while says so ([`Kind::Want`](crate::link::record::Kind)),
//! and gets one twice as large, up to [`MOST`]: two programs that both write much before they read must not wait for each
//! other when a kernel's buffers would have taken it all.

use std::sync::atomic::{AtomicU64, Ordering};

/// The largest window that a waiting sender gets, in bytes: about what the kernel's send and receive buffers hold together
/// on one host.
const MOST: u64 = 4 << 20;
/// Bytes that all windows of a process together may have been widened by.
const MOST_OF_ALL: u64 = 512 << 20;
/// The smallest window, in bytes: the kernel's own least buffer.
const LEAST: u64 = 2304;

static WIDENED: AtomicU64 = AtomicU64::new(0);

/// The windows of one connection, in stream offsets from 0.
pub struct Windows {
    receive: u64,
    arrived: u64,
    taken: u64,
    granted: u64,
    send: u64,
    sent: u64,
    allowed: u64,
    wants: bool,
    widened: u64,
}

impl Windows {
    /// Those of the link: `receive` bytes for the peer's stream, `send` for ours.
    pub fn new(receive: u64, send: u64) -> Self {
        Windows {
            receive,
            arrived: 0,
            taken: 0,
            granted: receive,
            send,
            sent: 0,
            allowed: send,
            wants: false,
            widened: 0,
        }
    }

    /// The receive window that fits a buffer of `bytes` (SO_RCVBUF as the kernel reports it) on a link with windows of
    /// `most`.
    pub fn fitting(bytes: u64, most: u64) -> u64 {
        bytes.max(LEAST).min(most)
    }

    /// Before anything was received: the peer is told of this window and no other.
    pub fn begin_receiving(&mut self, window: u64) {
        self.receive = window;
        self.granted = window;
    }

    /// Before anything was sent: the peer's window for our stream, as it says (at most that of the link).
    pub fn begin_sending(&mut self, window: u64) {
        self.send = Self::fitting(window, self.send);
        self.allowed = self.send;
    }

    /// The application has set its receive buffer: what is granted from now on follows.
    pub fn set_receiving(&mut self, window: u64) {
        self.receive = window;
    }

    /// The receive window, in bytes.
    pub fn receiving(&self) -> u64 {
        self.receive
    }

    /// So much has arrived. False if it is more than was granted.
    pub fn arrived(&mut self, n: usize) -> bool {
        self.arrived += n as u64;
        self.arrived <= self.granted
    }

    /// The application took `n` bytes. Returns a new grant when it is time to send one: a quarter of the window was
    /// taken.
    pub fn took(&mut self, n: usize) -> Option<u64> {
        self.taken += n as u64;
        let grant = self.taken + self.receive;
        if grant.saturating_sub(self.granted) < self.receive / 4 {
            return None;
        }
        self.granted = grant;
        Some(grant)
    }

    /// A grant that tells exactly how much the application has taken, if the last one does not.
    pub fn exact(&mut self) -> Option<u64> {
        let grant = self.taken + self.receive;
        (grant > self.granted).then(|| {
            self.granted = grant;
            grant
        })
    }

    /// Doubles the receive window. Returns the new grant, if there may be one.
    pub fn widen(&mut self) -> Option<u64> {
        let more = self.receive.min(MOST.saturating_sub(self.receive));
        if more == 0 || crate::memory::is_short() {
            return None;
        }
        if WIDENED.fetch_add(more, Ordering::Relaxed) + more > MOST_OF_ALL {
            WIDENED.fetch_sub(more, Ordering::Relaxed);
            return None;
        }
        self.widened += more;
        self.receive += more;
        self.granted = self.granted.max(self.taken + self.receive);
        Some(self.granted)
    }

    /// The peer grants sending up to `to`.
    pub fn on_grant(&mut self, to: u64) {
        if to > self.allowed {
            // A doubled window is granted by one more window at least; an ordinary grant is less.
            if core::mem::take(&mut self.wants) && to - self.allowed >= self.send {
                self.send = (2 * self.send).min(MOST.max(self.send));
            }
            self.allowed = to;
        }
    }

    /// It was said to the peer that more is wanted: the next grant may be of a wider window.
    pub fn wants(&mut self) {
        self.wants = true;
    }

    /// Whether that has been said, and nothing was granted since.
    pub fn is_wanting(&self) -> bool {
        self.wants
    }

    /// Up to where the peer lets us send.
    pub fn allowed(&self) -> u64 {
        self.allowed
    }

    /// Bytes that may be sent now.
    pub fn credit(&self) -> u64 {
        self.allowed - self.sent
    }

    /// Whether so much may be sent that poll says so. Any grant does: the peer gives in quarters of a window that only it
    /// knows, and the smallest is this.
    pub fn is_roomy(&self) -> bool {
        self.credit() >= LEAST / 4
    }

    /// Bytes that the peer can hold unread, at most.
    pub fn most_unread(&self) -> u64 {
        self.sent.min(self.send.max(MOST))
    }

    /// `n` bytes were sent.
    pub fn sent(&mut self, n: usize) {
        self.sent += n as u64;
    }

    /// Whether the peer was sent more than it reports in one step, and has not been seen to take it.
    pub fn is_behind(&self) -> bool {
        self.unacknowledged() >= self.send / 4
    }

    /// Bytes that have arrived and were sent.
    pub fn moved(&self) -> u64 {
        self.arrived + self.sent
    }

    /// How many bytes have arrived.
    pub fn received(&self) -> u64 {
        self.arrived
    }

    /// Whether more than `offset` bytes were sent.
    pub fn has_sent_beyond(&self, offset: u64) -> bool {
        self.sent > offset
    }

    /// Bytes sent that the peer's application is known to have read.
    pub fn read_by_peer(&self) -> u64 {
        self.allowed.saturating_sub(self.send).min(self.sent)
    }

    /// Bytes sent that the peer has not been seen to take, at most (it reports in steps).
    pub fn unacknowledged(&self) -> u64 {
        (self.sent + self.send).saturating_sub(self.allowed)
    }
}

/// A forked child has no connection of its parent's.
pub fn reset_after_fork() {
    WIDENED.store(0, Ordering::Relaxed);
}

impl Drop for Windows {
    fn drop(&mut self) {
        WIDENED.fetch_sub(self.widened, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_renewed_by_quarters() {
        let mut windows = Windows::new(1000, 1000);
        assert!(windows.arrived(1000));
        assert_eq!(windows.took(249), None);
        assert_eq!(windows.took(1), Some(1250));
        assert!(!windows.arrived(251));
    }

    #[test]
    fn what_was_taken_can_be_told_exactly() {
        let mut windows = Windows::new(1000, 1000);
        assert!(windows.arrived(1000));
        assert_eq!(windows.took(100), None);
        assert_eq!(windows.exact(), Some(1100));
        assert_eq!(windows.exact(), None);
        let mut peer = Windows::new(1000, 1000);
        peer.sent(100);
        assert_eq!(peer.unacknowledged(), 100);
        peer.on_grant(1100);
        assert_eq!(peer.unacknowledged(), 0);
    }

    #[test]
    fn a_smaller_buffer_takes_nothing_back() {
        let mut windows = Windows::new(100_000, 1);
        windows.set_receiving(4000);
        assert_eq!(windows.took(90_000), None);
        assert_eq!(windows.took(7000), Some(101_000));
    }

    #[test]
    fn windows_are_widened_up_to_a_limit() {
        let mut windows = Windows::new(1 << 20, 1 << 20);
        assert_eq!(windows.widen(), Some(2 << 20));
        assert_eq!(windows.widen(), Some(4 << 20));
        assert_eq!(windows.widen(), None);
        windows.wants();
        windows.on_grant(2 << 20);
        windows.sent(2 << 20);
        assert_eq!(windows.unacknowledged(), 2 << 20);
        assert_eq!(windows.credit(), 0);
    }
}
