//! Bytes that a peer has given back and that the kernel has no room for yet: they are sent as there is some, before
//! anything else is sent on their connection.

use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::net::SendFlags;

use super::io_thread::{Command, Control};
use crate::real::sys::{self, Errno, InternalFd};
use crate::runtime;
use crate::socket::Socket;

/// What is to be sent, by a number of its own: the application may close the connection meanwhile.
pub struct Resending {
    fd: InternalFd,
    bytes: Vec<u8>,
    sent: usize,
    socket: &'static Socket,
    serial: u64,
}

/// Sends what the kernel takes of `bytes` without waiting. Returns how much; all, if nothing can be sent any more: the
/// connection is broken off then, for whoever reads it is not to miss these in the middle.
pub fn send(to: BorrowedFd<'_>, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while sent < bytes.len() {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(to, &bytes[sent..], flags) {
            Ok(n) => sent += n,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return sent,
            Err(_) => {
                sys::disconnect(to.as_raw_fd());
                return bytes.len();
            }
        }
    }
    sent
}

impl Resending {
    /// Has the control thread send `bytes` on the connection `socket` with this number, whose descriptor is `fd`.
    pub fn begin(fd: BorrowedFd<'_>, bytes: Vec<u8>, socket: &'static Socket, serial: u64) {
        let runtime = runtime::started().ok_or(Errno::NXIO);
        match runtime.and_then(|runtime| Ok((runtime, rustix::io::fcntl_dupfd_cloexec(fd, 0)?))) {
            Ok((runtime, fd)) => runtime.command(Command::Resend(Resending {
                fd: InternalFd::adopt(fd),
                bytes,
                sent: 0,
                socket,
                serial,
            })),
            // Without it nobody could tell when there is room: rather an error than a stream with a hole.
            Err(error) => {
                tracing::warn!(target: "netacc::conn", "what a peer gave back cannot be sent again: {error}");
                sys::disconnect(fd.as_raw_fd());
                socket.all_resent(serial);
            }
        }
    }

    /// See [`Source`](super::io_thread::Source).
    pub fn interest(&self) -> EventFlags {
        EventFlags::OUT
    }

    /// Nobody will tell when there is room: rather an error than a stream with a hole.
    pub fn break_off(self, control: &mut Control) {
        sys::disconnect(self.fd.as_raw_fd());
        self.socket.all_resent(self.serial);
        control.settle_claims();
    }

    /// Sends what can be sent now; gives itself back while there is more.
    pub fn advance(mut self, control: &mut Control) -> Option<Resending> {
        self.sent += send(self.fd.as_fd(), &self.bytes[self.sent..]);
        if self.sent < self.bytes.len() {
            return Some(self);
        }
        self.socket.all_resent(self.serial);
        control.settle_claims();
        None
    }
}

impl AsFd for Resending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
