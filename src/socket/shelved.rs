//! Connections that were told that they are connected and that nobody has accepted, on their way from one process of a
//! listener to another: see [`crate::control::shelf`].

use super::{Role, Socket};
use crate::conn::leftover::Leftover;
use crate::control::shelf::Progress;
use crate::stats::{ConnStats, Mode, Reason};

impl Socket {
    /// It was told that it is connected, nobody has accepted it, and it is being handed back for other processes: how far that
    /// has come.
    pub fn progress_to_shelf(&'static self) -> Progress {
        let on = match &self.lock().role {
            Role::Connected(conn) if !conn.is_reset() => Some((conn.link.clone(), conn.id)),
            _ => None,
        };
        if let Some((link, id)) = on {
            link.source().poll(None);
            self.leave_link(&link, id);
        }
        match &self.lock().role {
            Role::Connected(conn) if !conn.is_reset() => Progress::OnLink,
            Role::Leftover(left) if left.resends => Progress::OnLink,
            Role::Leftover(left) => Progress::Kernels(left.copy().take_all()),
            Role::Plain => Progress::Kernels(Vec::new()),
            _ => Progress::Gone,
        }
    }

    /// A connection of the kernel's that another process has taken in for this one: `unread` is to be read first.
    pub fn was_on_shelf(&'static self, unread: Vec<u8>) {
        let mut inner = self.lock();
        if !unread.is_empty() {
            let mut left = Leftover::new(unread);
            // Its peer has closed it, or the kernel would have these bytes.
            left.is_last = true;
            inner.role = Role::Leftover(left);
        }
        let page = inner.stats.get_or_insert_with(|| ConnStats::claim(-1));
        page.set_mode(Mode::Tcp, Reason::HandedBack);
    }
}
