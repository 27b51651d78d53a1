//! Servers that fork a child for each connection and leave it to that: inetd, sshd, PostgreSQL, Python's socketserver.
//!
//! Such a connection is [handed back](super::hand_back) before the child can use it, so its place on a link is never worth
//! what it costs both ends. A listener whose connections all go that way is the kernel's alone after a few: its side port
//! is closed, so that peers find that out with their first look, and the forks have less to copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Inner, Role, Socket};
use crate::control::io_thread::Command;
use crate::control::listener::Closing;
use crate::log::{self, Left};
use crate::real::sys;
use crate::runtime;
use crate::stats::{Mode, Reason};

/// So many in a row are a habit.
const ENOUGH: u32 = 4;

/// Connections of one listener that its process never read or wrote, and a child has, since the last that it served itself.
#[derive(Default)]
pub struct Given(AtomicU32);

impl Given {
    /// Whether there were enough of them.
    pub fn is_habit(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= ENOUGH
    }
}

impl Inner {
    /// A child has it, or may: counted once, with those of the same listener.
    pub fn went_to_child(&mut self) {
        let Role::Connected(conn) = &self.role else {
            return;
        };
        let was_used = conn.was_used();
        if let Some(given) = self.given.take() {
            match was_used {
                true => given.0.store(0, Ordering::Relaxed),
                false => _ = given.0.fetch_add(1, Ordering::Relaxed),
            }
        }
    }

    /// It ends here, and no child has it.
    pub fn was_served_here(&mut self) {
        if let Some(given) = self.given.take() {
            given.0.store(0, Ordering::Relaxed);
        }
    }

    /// Where connections of this listener are counted, if all of them go to children: it is to be left to the kernel after
    /// this call. (Not one that others have, too: they may serve theirs themselves.)
    pub fn gives_away(&self) -> bool {
        match &self.role {
            Role::Listening(listening) => {
                let given = &listening.given;
                let own = listening.side.as_ref().is_some_and(|side| side.is_own());
                own && !listening.leaves && given.is_habit()
            }
            _ => false,
        }
    }
}

impl Socket {
    /// It is a listener that [gives its connections away](Inner::gives_away): it is the kernel's alone, once those are
    /// accepted who know that they are connected.
    pub(super) fn leave_to_children(&'static self) {
        let mut inner = self.lock();
        if !inner.gives_away() {
            return;
        }
        let (nonblocking, fd) = (inner.nonblocking, inner.fd());
        let Role::Listening(listening) = &mut inner.role else {
            return;
        };
        let _ = rustix::io::ioctl_fionbio(sys::borrow(fd), nonblocking);
        listening.leaves = listening.has_ready();
        let waits = listening.leaves;
        let side = listening.side.clone();
        let reason = Reason::ServedByChildren;
        inner.stats.inspect(|page| page.set_mode(Mode::Tcp, reason));
        if let Some(side) = &side {
            log::fallback(reason, Left::Listener(side.local.to_std()));
            // Also for the children, who have it only because it was open.
            side.stop();
        }
        match side.filter(|_| waits) {
            Some(side) => runtime::get().command(Command::Unlisten(Closing::new(side))),
            None => self.stop_serving(inner),
        }
    }
}

/// Where the connections of a listener are counted.
pub type Count = Arc<Given>;
