//! Reading pages of other processes. For tools and tests: uses std, allocates.
//!
//! Nothing in a page is trusted: it is read into memory of our own (never mapped, so that a file cut
//! short meanwhile does no harm), and any bytes give a [`Snapshot`] or a [`FormatError`].

pub mod kernel;
mod library;
mod other_end;
mod snapshot;

pub use library::Library;
pub use other_end::OtherEnd;
pub use snapshot::{Conn, Counter, Device, FormatError, Link, Setting, Snapshot};

use std::io::{self, Read};
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, fs::File};

use rustix::fd::{IntoRawFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::layout::Page;
use super::page::DIR_PREFIX;
use super::proc_stat;

/// Why a process cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// There is no such process.
    #[error("no process has the number {pid}")]
    NoProcess {
        /// The number asked for.
        pid: u32,
    },
    /// Its page is another user's.
    #[error("process {pid} belongs to user {uid}: ask as that user or as root")]
    OtherUser {
        /// The number asked for.
        pid: u32,
        /// The process's user.
        uid: u32,
    },
    /// It runs NetACC, but has not made a page.
    #[error(
        "process {pid} has NetACC loaded but counts nothing yet: it has neither connected nor \
         listened over TCP, or could not write to /dev/shm"
    )]
    NoPage {
        /// The number asked for.
        pid: u32,
    },
    /// It does not run NetACC.
    #[error("process {pid} does not run NetACC: start the program with netacc_run")]
    NotNetacc {
        /// The number asked for.
        pid: u32,
    },
    /// What is in the page's file is no page of ours.
    #[error("cannot show process {pid}: {source}")]
    Format {
        /// The process.
        pid: u32,
        /// What is wrong with its page.
        source: FormatError,
    },
    /// The page cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// A place where processes leave their pages.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    proc: PathBuf,
}

impl Default for Store {
    /// Where the library leaves them.
    fn default() -> Self {
        Self::at(Path::new("/dev/shm"))
    }
}

impl Store {
    /// The directory that holds the users' `netacc-UID` directories.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            proc: PathBuf::from("/proc"),
        }
    }

    /// All processes that can be seen (this user's; for root everybody's), by number. Pages of
    /// dead processes are removed on the way, unfinished ones passed over.
    pub fn pages(&self) -> Vec<Result<Snapshot, PageError>> {
        let mut found: Vec<(u32, Result<Snapshot, PageError>)> = Vec::new();
        for dir in self.directories() {
            for pid in dir.pids() {
                match self.read(&dir, pid) {
                    Ok(Some(snapshot)) => found.push((pid, Ok(snapshot))),
                    Ok(None) => {}
                    Err(error) => found.push((pid, Err(error))),
                }
            }
        }
        found.sort_by_key(|(pid, _)| *pid);
        found.into_iter().map(|(_, page)| page).collect()
    }

    /// The page of one process.
    pub fn page(&self, pid: u32) -> Result<Snapshot, PageError> {
        for dir in self.directories() {
            if let Some(snapshot) = self.read(&dir, pid)? {
                return Ok(snapshot);
            }
        }
        let path = self.proc.join(pid.to_string());
        let Ok(process) = fs::metadata(&path) else {
            return Err(PageError::NoProcess { pid });
        };
        if process.uid() != own_uid() && own_uid() != 0 {
            let uid = process.uid();
            return Err(PageError::OtherUser { pid, uid });
        }
        match self.library(pid) {
            Some(_) => Err(PageError::NoPage { pid }),
            None => Err(PageError::NotNetacc { pid }),
        }
    }

    /// Adds to the connections of `page` that kernel TCP carries what the kernel tells of them, if that may be seen.
    pub fn ask_kernel(&self, page: &mut Snapshot) {
        kernel::ask(&self.proc, page);
    }

    /// Adds to those connections of `pages` that their other ends left to the kernel why these did, if they are processes
    /// of this host that may be seen.
    pub fn ask_other_ends(&self, pages: &mut [Snapshot]) {
        let mut conns = pages.iter().flat_map(|page| &page.conns);
        if conns.any(other_end::is_asked_for) {
            let all = self.pages().into_iter().flatten().collect();
            other_end::ask(&self.proc, pages, all);
        }
    }

    /// The library's file that a process has. `None`: it has none, or that may not be seen.
    pub fn library(&self, pid: u32) -> Option<Library> {
        let maps = fs::read(self.proc.join(pid.to_string()).join("maps")).ok()?;
        Library::in_maps(&String::from_utf8_lossy(&maps))
    }

    /// `None` if there is nothing to show: no file, a dead process's, or one still being made.
    fn read(&self, dir: &UserDir, pid: u32) -> Result<Option<Snapshot>, PageError> {
        let Some((bytes, inode)) = dir.read(pid)? else {
            return Ok(None);
        };
        let parsed = Snapshot::parse(&bytes);
        let (start_time, namespace) = match &parsed {
            Ok(snapshot) => (snapshot.start_time, snapshot.pid_namespace),
            Err(_) => (0, 0),
        };
        if namespace != 0 && self.own_namespace().is_some_and(|own| own != namespace) {
            // A container's: its process numbers mean nothing here.
            return Ok(None);
        }
        if self.is_dead(pid, start_time) {
            dir.remove(pid, inode);
            return Ok(None);
        }
        match parsed {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(FormatError::Unfinished) => Ok(None),
            Err(source) => Err(PageError::Format { pid, source }),
        }
    }

    fn directories(&self) -> Vec<UserDir> {
        let own = own_uid();
        let mut uids = vec![own];
        if own == 0
            && let Ok(entries) = fs::read_dir(&self.root)
        {
            uids = entries
                .flatten()
                .filter_map(|entry| {
                    let name = entry.file_name();
                    name.to_str()?.strip_prefix(DIR_PREFIX)?.parse().ok()
                })
                .collect();
        }
        uids.into_iter()
            .filter_map(|uid| UserDir::open(&self.root, uid))
            .collect()
    }

    fn own_namespace(&self) -> Option<u64> {
        let path = self.proc.join("self/ns/pid");
        fs::metadata(path).ok().map(|stat| stat.ino())
    }

    /// Whether process `pid` that started at `start_time` (0: unknown) has ended. Only what is sure
    /// counts: without `/proc` a process that answers is alive.
    fn is_dead(&self, pid: u32, start_time: u64) -> bool {
        let Ok(signed) = i32::try_from(pid) else {
            return true;
        };
        // SAFETY: signal 0 is only a question.
        let answers = unsafe { libc::kill(signed, 0) } == 0
            || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH);
        if !answers {
            return true;
        }
        let line = fs::read(self.proc.join(pid.to_string()).join("stat")).unwrap_or_default();
        proc_stat::parse(&line)
            .is_some_and(|stat| stat.dead || (start_time != 0 && stat.start_time != start_time))
    }
}

/// One user's directory of pages, held open: what is found and removed by name is surely in it.
struct UserDir {
    fd: OwnedFd,
    path: PathBuf,
    uid: u32,
}

impl UserDir {
    /// `None` if there is none, or it is not what the library makes (somebody else's, a link).
    fn open(root: &Path, uid: u32) -> Option<Self> {
        let path = root.join(format!("{DIR_PREFIX}{uid}"));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path.as_os_str().as_bytes(), flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&fd).ok()?;
        (stat.st_uid == uid).then_some(Self { fd, path, uid })
    }

    fn pids(&self) -> Vec<u32> {
        let Ok(entries) = Dir::read_from(&self.fd) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok())
            .collect()
    }

    /// The bytes of a page (no more than one holds, and a little) and its file's inode.
    fn read(&self, pid: u32) -> Result<Option<(Vec<u8>, u64)>, PageError> {
        let failed = |source| PageError::Io {
            path: self.path.join(pid.to_string()),
            source,
        };
        let system = |error: Errno| failed(io::Error::from_raw_os_error(error.raw_os_error()));
        // Not to hang on a pipe that somebody put there.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name = pid.to_string();
        let fd = match rustix::fs::openat(&self.fd, name.as_str(), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(system(error)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(system)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !regular || stat.st_uid != self.uid {
            return Err(failed(io::Error::other(
                "not a page: of another kind or owner",
            )));
        }
        // SAFETY: `into_raw_fd` gives the descriptor up to the `File`.
        let file = unsafe { File::from_raw_fd(fd.into_raw_fd()) };
        let mut bytes = Vec::new();
        file.take(size_of::<Page>() as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Ok(Some((bytes, stat.st_ino)))
    }

    /// Removes a dead process's page, unless a new process of the same number replaced it meanwhile.
    fn remove(&self, pid: u32, inode: u64) {
        let name = pid.to_string();
        let now = rustix::fs::statat(&self.fd, name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        if now.is_ok_and(|stat| stat.st_ino == inode) {
            // If it cannot be removed it is found stale again the next time.
            let _ = rustix::fs::unlinkat(&self.fd, name.as_str(), AtFlags::empty());
        }
    }
}

fn own_uid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}
