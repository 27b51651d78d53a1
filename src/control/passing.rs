//! Frames with descriptors over Unix sockets (SCM_RIGHTS).

use core::mem::MaybeUninit;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::{Pid, Uid};

use super::identity::is_rendezvous;
use super::wire::Name;
use crate::config::ShmPeers;
use crate::real::sys::{self, Errno, InternalFd};

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

/// Whether what a peer has passed as a bell can be one: an eventfd, and what else has no file, is of no kind. (How it is to be
/// written to is its owner's affair, who may sleep in reading it.)
pub fn is_bell(fd: &InternalFd) -> bool {
    const KIND: u32 = 0o170_000;
    rustix::fs::fstat(fd).is_ok_and(|found| found.st_mode & KIND == 0)
}

/// Who made a Unix socket's other end, as the kernel tells it.
pub struct Maker {
    /// The process; `None` if it is in another PID namespace, where it has no number that means anything here.
    pub pid: Option<Pid>,
    /// Its effective user, as this user namespace knows it.
    pub uid: Uid,
}

/// The user that stands for all those that a user namespace does not know (/proc/sys/kernel/overflowuid).
const NOBODY_KNOWN: u32 = 65534;

impl Maker {
    /// Whether memory is shared with it.
    pub fn is_shared_with(&self, peers: ShmPeers) -> bool {
        match peers {
            ShmPeers::SameUser => self.is_of_our_user(),
            ShmPeers::SameUserNamespace => {
                self.is_of_our_user() || self.knows_the_same_users().unwrap_or(false)
            }
            ShmPeers::Any => true,
        }
    }

    /// Whether users have the same numbers there as here. (Which namespace another user's process is in may not be asked;
    /// how the namespace's users are called outside of it may. Both are read as from this process's own.)
    fn knows_the_same_users(&self) -> Option<bool> {
        let pid = self.pid?.as_raw_nonzero();
        let theirs = users_of(&std::format!("/proc/{pid}/uid_map"))?;
        let ours = users_of("/proc/self/uid_map")?;
        Some(theirs == ours)
    }

    /// Whether it is of the same user as this process.
    pub fn is_of_our_user(&self) -> bool {
        let stands_for_many = self.pid.is_none() && self.uid.as_raw() == NOBODY_KNOWN;
        self.uid == rustix::process::geteuid() && !stands_for_many
    }
}

/// The numbers that a user namespace gives its users; `None`: they cannot be read, or are too many to be compared.
fn users_of(map: &str) -> Option<Vec<u8>> {
    use rustix::fs::{Mode, OFlags};
    const MOST: usize = 4096;
    let file = rustix::fs::open(map, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = vec![0; MOST];
    let read = rustix::io::read(&file, &mut text[..]).ok()?;
    text.truncate(read);
    (1..MOST).contains(&read).then_some(text)
}

/// Who made the other end of the Unix socket `of`. (rustix's own `socket_peercred` has no room for a process without number.)
///
/// # Errors
/// The kernel's, of getsockopt(2).
pub fn maker(of: impl AsFd) -> Result<Maker, Errno> {
    let fd = of.as_fd().as_raw_fd();
    // SAFETY: integers.
    let found: libc::ucred =
        unsafe { sys::socket_option(fd, libc::SOL_SOCKET, libc::SO_PEERCRED) }?;
    Ok(Maker {
        pid: Pid::from_raw(found.pid),
        uid: Uid::from_raw(found.uid),
    })
}

/// Comes to the rendezvous `to`, without waiting: the connection, which is in no table, and whose process it is.
///
/// # Errors
/// The kernel's: nobody is there (any more), or `EAGAIN`: too many come at once.
pub fn visit(to: &Name) -> Result<(OwnedFd, Maker), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let unix = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let unix = sys::raise(unix);
    rustix::net::connect(&unix, &SocketAddrUnix::new_abstract_name(to)?)?;
    let whose = maker(&unix)?;
    Ok((unix, whose))
}

/// Passes a connection that has said `hello` to the process for which it is.
///
/// # Errors
/// The process is gone, is another user's, or there is no such process.
pub fn pass_on(fd: &InternalFd, hello: &[u8], to: &Name) -> Result<(), Errno> {
    if !is_rendezvous(to) {
        return Err(Errno::INVAL);
    }
    let (unix, whose) = visit(to)?;
    if whose.uid != rustix::process::geteuid() {
        return Err(Errno::PERM);
    }
    send(unix.as_fd(), hello, &[fd.as_fd()])
}
