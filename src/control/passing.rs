//! Frames with descriptors over Unix sockets (SCM_RIGHTS).

use core::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::real::sys::{Errno, InternalFd};

/// Descriptors that one message may carry.
const MAX_FDS: usize = 2;

/// Sends `bytes` with `fds` in one message, without waiting.
///
/// # Errors
/// The kernel's, of sendmsg(2).
pub fn send(to: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(fds));
    let iov = [rustix::io::IoSlice::new(bytes)];
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match rustix::net::sendmsg(to, &iov, &mut control, flags)? {
        n if n == bytes.len() => Ok(()),
        _ => Err(Errno::AGAIN),
    }
}

/// Receives up to `bytes.len()` bytes and the descriptors that came with them, without waiting.
/// Returns the count (0: the peer has closed).
///
/// # Errors
/// The kernel's, of recvmsg(2).
pub fn receive(from: impl AsFd, bytes: &mut [u8]) -> Result<(usize, Vec<InternalFd>), Errno> {
    let (n, fds) = receive_unlisted(from, bytes)?;
    Ok((n, fds.into_iter().map(InternalFd::adopt).collect()))
}

/// The same, for a process that shares its parent's tables: nothing is put into them.
///
/// # Errors
/// The kernel's, of recvmsg(2).
pub fn receive_unlisted(from: impl AsFd, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [rustix::io::IoSliceMut::new(bytes)];
    let got = rustix::net::recvmsg(
        from,
        &mut iov,
        &mut control,
        RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((got.bytes, fds))
}
