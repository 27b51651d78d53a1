//! Descriptors that this process has taken out of another one (pidfd_getfd). What that process has on a link the kernel does
//! not know, so it is claimed as by a child: whoever has the descriptor may.

use core::ffi::CStr;

use rustix::fd::{OwnedFd, RawFd};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::identity::is_rendezvous;
use super::passing;
use super::wire::Name;
use crate::conn::leftover::Leftover;
use crate::fdtable::Entry;
use crate::fork;
use crate::real::sys::{self, Errno};
use crate::socket::orphan::claim_shown;
use crate::socket::{Role, Socket, leaving, lifecycle};

/// How many processes are asked, each the parent of the one before: a forked child's connections may be on a link of its
/// parent's.
const GENERATIONS: usize = 8;

/// The process that a pidfd stands for, as this one's /proc shows it.
pub fn process_of(pidfd: RawFd) -> Option<i32> {
    let path = format!("/proc/self/fdinfo/{pidfd}\0");
    let text = contents(&path)?;
    let line = lines(&text).find_map(|line| line.strip_prefix(b"Pid:"))?;
    number(line.trim_ascii())
}

/// This process has taken `fd` out of the process `pid`: has the connection go on in the kernel, for both.
pub fn taken(fd: RawFd, pid: i32) {
    let socket = sys::borrow(fd);
    let (Ok(domain), Ok(kind)) = (sockopt::socket_domain(socket), sockopt::socket_type(socket))
    else {
        return;
    };
    let tcp =
        [AddressFamily::INET, AddressFamily::INET6].contains(&domain) && kind == SocketType::STREAM;
    if !tcp {
        return;
    }
    let by = leaving::deadline();
    for owner in owners(pid) {
        match claim_shown(owner, fd).and_then(|claim| claim.wait(by)) {
            Ok(unread) if unread.is_empty() => return,
            Ok(unread) => return read_first(fd, i32::from(domain.as_raw()), unread),
            // It knows no such connection.
            Err(Errno::CONNRESET | Errno::PIPE | Errno::CONNREFUSED) => {}
            Err(error) => {
                tracing::warn!(target: "netacc::conn", "a connection of process {pid} cannot be had: {error}");
                // Better an error than a stream with a hole.
                if let Ok(broken) = leaving::broken() {
                    leaving::replace(fd, &broken);
                }
                return;
            }
        }
    }
}

/// `unread` is to be read before anything that the kernel has.
fn read_first(fd: RawFd, domain: i32, unread: Vec<u8>) {
    fork::become_heir();
    let nonblocking = rustix::fs::fcntl_getfl(sys::borrow(fd))
        .is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
    let socket = Socket::new(domain, nonblocking);
    {
        let mut inner = socket.lock();
        inner.role = Role::Leftover(Leftover::new(unread));
        inner.fds.push(fd);
    }
    lifecycle::install(fd, Entry::Socket(socket));
}

/// Connections to the rendezvous of a process and of those that it descends from, the nearest first.
fn owners(pid: i32) -> Vec<OwnedFd> {
    let family: Vec<i32> = core::iter::successors(Some(pid), |pid| parent_of(*pid))
        .take(GENERATIONS)
        .collect();
    let mut owners: Vec<(usize, OwnedFd)> = rendezvous()
        .iter()
        .filter_map(|name| {
            let (unix, whose) = passing::visit(name).ok()?;
            let whose = whose.pid?.as_raw_nonzero().get();
            let at = family.iter().position(|pid| *pid == whose)?;
            Some((at, unix))
        })
        .collect();
    owners.sort_by_key(|(at, _)| *at);
    owners.into_iter().map(|(_, unix)| unix).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    let text = contents(&format!("/proc/{pid}/stat\0"))?;
    // A program's name may have anything in it.
    let end = text.iter().rposition(|&c| c == b')')?;
    let mut fields = text[end + 1..]
        .split(|&c| c == b' ')
        .filter(|f| !f.is_empty());
    number(fields.nth(1)?).filter(|parent| *parent > 1)
}

/// All rendezvous of this host and network namespace.
fn rendezvous() -> Vec<Name> {
    let text = contents("/proc/net/unix\0").unwrap_or_default();
    let name = |line: &[u8]| {
        let at = line.iter().rposition(|&c| c == b'@')?;
        let name = Name::try_from(&line[at + 1..]).ok()?;
        is_rendezvous(&name).then_some(name)
    };
    let mut all: Vec<Name> = lines(&text).filter_map(name).collect();
    // Connections to one are shown by its name, too.
    all.sort_unstable();
    all.dedup();
    all
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&c| c == b'\n')
}

fn number(digits: &[u8]) -> Option<i32> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

/// All of a file of /proc; `path` with its NUL.
fn contents(path: &str) -> Option<Vec<u8>> {
    let path = CStr::from_bytes_with_nul(path.as_bytes()).ok()?;
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let file = sys::raise(file);
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match rustix::io::read(&file, &mut piece) {
            Ok(0) => return Some(all),
            Ok(n) => all.extend_from_slice(&piece[..n]),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}
