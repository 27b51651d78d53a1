//! What a process leaves to the program that is to run with its descriptors, if this library will be in that program,
//! too: which of them are connections on a link of another process, which have bytes that nobody has read, and which
//! are listeners that do not wait in the kernel. It is written into a file in memory with a number that both know, and
//! read when the library is loaded.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::Arc;

use rustix::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::FdFlags;
use rustix::process::Uid;

use crate::conn::leftover::Leftover;
use crate::control::listener::{Bequest, SideListener};
use crate::fdtable::{self, Entry};
use crate::fork;
use crate::real::sys::{self, Errno};
use crate::socket::addr::Address;
use crate::socket::leaving::cookie;
use crate::socket::orphan::Orphan;
use crate::socket::{Listening, Role, Socket};

/// The numbers that the file can have: one below the usual limit on open files and above what most programs use, and the
/// last one there is, or that we would use.
fn numbers() -> [RawFd; 2] {
    [1001, sys::last_number()]
}

/// Whether it can have this one.
pub fn is_number(fd: RawFd) -> bool {
    numbers().contains(&fd)
}

const MAGIC: [u8; 8] = *b"NACCLGC2";

/// Nobody changes it.
const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW);
/// More than that is no legacy, in bytes.
const MOST: u64 = 1 << 30;

/// What a descriptor is.
pub enum What {
    /// A connection on a link of the process that leaves it, or of one before.
    Orphan(Orphan),
    /// The kernel's, after these bytes.
    Leftover(Vec<u8>),
    /// A listener that the kernel never waits for, and its side port, if the program gets that too.
    Listener(Option<Bequest>),
}

/// One descriptor.
pub struct Item {
    /// Its number in the program.
    pub fd: RawFd,
    /// The kernel's name of its socket.
    pub cookie: u64,
    /// AF_INET or AF_INET6.
    pub domain: i32,
    /// As the application set it.
    pub nonblocking: bool,
    /// A listener that waits in the kernel as others have set it: see [`crate::socket::foreign`].
    pub foreign: bool,
    /// SO_RCVTIMEO and SO_SNDTIMEO.
    pub timeouts: [Option<Duration>; 2],
    /// The addresses that the application knows, if they are not the kernel's.
    pub addresses: [Option<Address>; 2],
    /// What it is.
    pub what: What,
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, number: u64) {
        self.put(&number.to_le_bytes());
    }

    fn address(&mut self, address: Option<Address>) {
        let mut space = [0; ADDRESS];
        let len = address.map_or(0, |address| {
            let (from, len) = address.as_ptr();
            // SAFETY: an address of that length, which fits.
            unsafe {
                from.cast::<u8>()
                    .copy_to_nonoverlapping(space.as_mut_ptr(), len as usize);
            }
            len
        });
        self.number(u64::from(len));
        self.put(&space);
    }

    fn item(&mut self, item: &Item) {
        self.number(item.fd as u64);
        self.number(item.cookie);
        self.number(item.domain as u64);
        self.number(u64::from(item.nonblocking) | u64::from(item.foreign) << 1);
        for time in item.timeouts {
            self.number(time.map_or(u64::MAX, |t| {
                t.as_nanos().min(u128::from(u64::MAX - 1)) as u64
            }));
        }
        for address in item.addresses {
            self.address(address);
        }
        match &item.what {
            What::Orphan(orphan) => {
                self.number(0);
                self.put(&orphan.rendezvous);
                self.number(u64::from(orphan.uid.as_raw()));
                self.number(orphan.serial);
                self.number(orphan.will as u64);
            }
            What::Leftover(bytes) => {
                self.number(1);
                self.number(bytes.len() as u64);
                self.put(bytes);
            }
            What::Listener(side) => {
                self.number(2);
                self.number(side.map_or(u64::MAX, |side| side.fd as u64));
                self.address(side.map(|side| side.local));
                self.number(side.map_or(0, |side| side.backlog));
                let shelf = side.and_then(|side| side.shelf).unwrap_or([-1; 2]);
                shelf.iter().for_each(|&fd| self.number(fd as u64));
            }
        }
    }
}

const ADDRESS: usize = size_of::<libc::sockaddr_in6>();

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn address(&mut self) -> Option<Option<Address>> {
        let len = self.number()? as libc::socklen_t;
        let space = self.array::<ADDRESS>()?;
        let len = len.min(ADDRESS as libc::socklen_t);
        // SAFETY: so many bytes.
        Some(unsafe { Address::read(space.as_ptr().cast(), len) })
    }

    fn item(&mut self) -> Option<Item> {
        let time = |nanos: u64| (nanos != u64::MAX).then(|| Duration::from_nanos(nanos));
        let (fd, cookie, domain) = (self.number()?, self.number()?, self.number()?);
        let manner = self.number()?;
        Some(Item {
            fd: fd as RawFd,
            cookie,
            domain: domain as i32,
            nonblocking: manner & 1 != 0,
            foreign: manner & 2 != 0,
            timeouts: [time(self.number()?), time(self.number()?)],
            addresses: [self.address()?, self.address()?],
            what: match self.number()? {
                0 => What::Orphan(Orphan {
                    rendezvous: self.array()?,
                    uid: Uid::from_raw(self.number()? as u32),
                    serial: self.number()?,
                    will: self.number()? as RawFd,
                }),
                1 => {
                    let len = self.number()? as usize;
                    What::Leftover(self.take(len)?.to_vec())
                }
                2 => {
                    let (fd, local, backlog) = (self.number()?, self.address()?, self.number()?);
                    let fd = RawFd::try_from(fd).ok();
                    let shelf = [self.number()?, self.number()?].map(|fd| fd as RawFd);
                    let shelf = (shelf[0] >= 0).then_some(shelf);
                    What::Listener(fd.zip(local).map(|(fd, local)| Bequest {
                        fd,
                        local,
                        backlog,
                        shelf,
                    }))
                }
                _ => return None,
            },
        })
    }
}

/// A legacy under its number; taken away when dropped.
pub struct Legacy {
    memory: OwnedFd,
    number: RawFd,
    listed: bool,
}

impl Legacy {
    /// Writes it where the program will find it; `held` are descriptors that the program is to hold for as long as it
    /// lives.
    ///
    /// # Errors
    /// The kernel's; `EEXIST` if all its numbers are in use.
    pub fn write(items: &[Item], held: &[RawFd]) -> Result<Legacy, Errno> {
        let mut writer = Writer::default();
        writer.put(&MAGIC);
        writer.number(held.len() as u64);
        held.iter().for_each(|&fd| writer.number(fd as u64));
        writer.number(items.len() as u64);
        items.iter().for_each(|item| writer.item(item));
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create(c"netacc-legacy", flags)?;
        let memory = sys::raise(memory);
        let mut rest = &writer.0[..];
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&memory, rest)?..];
        }
        rustix::fs::fcntl_add_seals(&memory, SEALS)?;
        // Another one, of which a program has its own descriptor by now, is in nobody's way.
        for number in numbers() {
            if is_legacy(sys::borrow(number)) {
                sys::close(number);
            }
        }
        for number in numbers() {
            let numbered = rustix::io::fcntl_dupfd_cloexec(&memory, number)?;
            if numbered.as_raw_fd() == number {
                rustix::io::fcntl_setfd(&numbered, FdFlags::empty())?;
                return Ok(Legacy {
                    memory,
                    number: numbered.into_raw_fd(),
                    listed: false,
                });
            }
        }
        Err(Errno::EXIST)
    }

    /// The application may not know of it; not for a process that shares its parent's tables.
    pub fn list(&mut self) {
        fdtable::set_internal(self.number);
        self.listed = true;
    }
}

impl Drop for Legacy {
    fn drop(&mut self) {
        let same =
            |a: rustix::fs::Stat, b: rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        if let (Ok(ours), Ok(there)) = (
            rustix::fs::fstat(&self.memory),
            rustix::fs::fstat(sys::borrow(self.number)),
        ) && same(ours, there)
        {
            if self.listed {
                fdtable::clear_internal(self.number);
            }
            sys::close(self.number);
        }
    }
}

fn is_legacy(file: BorrowedFd<'_>) -> bool {
    let mut magic = [0; MAGIC.len()];
    // Only files in memory have any.
    rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS))
        && rustix::io::pread(file, &mut magic, 0) == Ok(MAGIC.len())
        && magic == MAGIC
}

/// Reads what the process's former program, or the one that started it, has left. Called when the library is loaded.
#[unsafe(link_section = ".text.netacc_hooks")]
pub fn read() {
    // Whoever starts a program with the rights of another user is not to be believed.
    // SAFETY: no pointers.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return;
    }
    // A system call or two in programs that were left nothing.
    let Some(number) = numbers().into_iter().find(|&n| is_legacy(sys::borrow(n))) else {
        return;
    };
    let _errno = crate::log::ErrnoGuard::new();
    let bytes = contents(sys::borrow(number));
    sys::close(number);
    let mut reader = Reader(bytes.get(MAGIC.len()..).unwrap_or_default());
    if take_over(&mut reader).is_none() {
        tracing::warn!(target: "netacc::conn", "what this program was left by another NetACC cannot be understood");
    }
}

/// Whether it is a file in memory.
fn is_memory(fd: RawFd) -> bool {
    rustix::fs::fcntl_get_seals(sys::borrow(fd)).is_ok()
}

/// All that is in a file in memory.
pub fn contents(file: BorrowedFd<'_>) -> Vec<u8> {
    let size = rustix::fs::fstat(file).map_or(0, |file| file.st_size as u64);
    let mut bytes = vec![0; size.min(MOST) as usize];
    let read = rustix::io::pread(file, &mut bytes, 0).unwrap_or(0);
    bytes.truncate(read);
    bytes
}

fn take_over(reader: &mut Reader<'_>) -> Option<()> {
    let held = (0..reader.number()?)
        .map(|_| reader.number().map(|fd| fd as RawFd))
        .collect::<Option<Vec<_>>>()?;
    let items = (0..reader.number()?)
        .map(|_| reader.item())
        .collect::<Option<Vec<_>>>()?;
    fork::become_heir();
    for &fd in &held {
        // Not for the programs that this one starts, unless they are left something, too.
        if rustix::io::fcntl_setfd(sys::borrow(fd), FdFlags::CLOEXEC).is_ok() {
            fdtable::set_internal(fd);
            fork::hold_fd(fd);
        }
    }
    let mut sockets = HashMap::new();
    for mut item in items {
        if let What::Orphan(orphan) = &mut item.what
            && !(held.contains(&orphan.will) && is_memory(orphan.will))
        {
            orphan.will = -1;
        }
        // The number may have been closed on the way here.
        if fdtable::fits(item.fd) && cookie(item.fd) == Some(item.cookie) {
            let fd = item.fd;
            let socket = *sockets.entry(item.cookie).or_insert_with(|| item.socket());
            socket.lock().fds.push(fd);
            fdtable::set(fd, Entry::Socket(socket));
        }
    }
    Some(())
}

impl Item {
    fn socket(self) -> &'static Socket {
        let socket = Socket::new(self.domain, self.nonblocking);
        let mut inner = socket.lock();
        [inner.receive_timeout, inner.send_timeout] = self.timeouts;
        [inner.local, inner.remote] = self.addresses;
        inner.role = match self.what {
            What::Orphan(orphan) => Role::Orphan(orphan.into()),
            What::Leftover(bytes) => Role::Leftover(Leftover::new(bytes)),
            What::Listener(side) => {
                let side = side.and_then(|side| SideListener::taken_over(&side, socket));
                Role::Listening(Box::new(Listening {
                    foreign: self.foreign,
                    untried: self.foreign && side.is_none(),
                    ..Listening::new(side.map(Arc::new))
                }))
            }
        };
        drop(inner);
        socket
    }
}
