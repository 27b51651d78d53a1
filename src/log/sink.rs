//! Where lines go: standard error or a file, by raw system calls that neither our hooks nor std's locks see.

use std::ffi::CString;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{BorrowedFd, IntoRawFd};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Our descriptors stay above those that applications expect to get or close.
const LOWEST_FD: i32 = 1000;

/// Nothing open.
const NONE: i32 = -1;

/// The open log. An application may close any descriptor at any time, and then use its number for
/// something else, so the log remembers which file it means and looks before each line.
pub(super) struct Sink {
    /// The log file; `None`: standard error.
    path: Option<CString>,
    fd: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
}

impl Sink {
    /// A log to the file at `path`, or to standard error.
    pub(super) fn new(path: Option<CString>) -> Self {
        let sink = Sink {
            fd: AtomicI32::new(if path.is_some() {
                NONE
            } else {
                libc::STDERR_FILENO
            }),
            path,
            device: AtomicU64::new(0),
            inode: AtomicU64::new(0),
        };
        if sink.path.is_some() {
            sink.open();
        } else if let Some(stat) = stat(libc::STDERR_FILENO) {
            sink.remember(&stat);
        }
        sink
    }

    /// Writes a line with one system call. A line that cannot be written is lost: a log must never
    /// harm the program.
    pub(super) fn write(&self, line: &[u8]) {
        let fd = self.fd.load(Relaxed);
        let stat = stat(fd);
        let fd = match &stat {
            Some(stat) if self.is_ours(stat) => fd,
            // Programs point their standard error elsewhere, but a socket there is a connection of theirs.
            Some(stat) if self.path.is_none() && kind(stat) != FileType::Socket => fd,
            _ if self.path.is_some() => self.open(),
            _ => NONE,
        };
        // On a pipe that nobody reads, a write would kill the program with SIGPIPE.
        if fd == NONE || stat.is_some_and(|stat| is_stream(&stat) && is_broken(fd)) {
            return;
        }
        // SAFETY: at worst the number was closed since the look above, and the kernel says EBADF.
        let file = unsafe { BorrowedFd::borrow_raw(fd) };
        while let Err(Errno::INTR) = rustix::io::write(file, line) {}
    }

    /// Opens the file and gives its descriptor, or `NONE`. A descriptor that was lost is not closed: its
    /// number is the application's by now.
    fn open(&self) -> i32 {
        self.fd.store(NONE, Relaxed);
        let Some(path) = &self.path else { return NONE };
        // NONBLOCK, so that a FIFO without a reader is an error instead of a wait.
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::CLOEXEC
            | OFlags::NONBLOCK
            | OFlags::NOCTTY;
        let Ok(low) = rustix::fs::open(path.as_c_str(), flags, Mode::from_raw_mode(0o644)) else {
            return NONE;
        };
        let high = rustix::io::fcntl_dupfd_cloexec(&low, LOWEST_FD);
        let fd = match high {
            Ok(high) => {
                // SAFETY: `into_raw_fd` gave up the owner. Dropping it instead might call libc's
                // `close`, which we hook.
                unsafe { rustix::io::close(low.into_raw_fd()) };
                high.into_raw_fd()
            }
            // The limit of open files is lower than that.
            Err(_) => low.into_raw_fd(),
        };
        if let Some(stat) = stat(fd) {
            self.remember(&stat);
            self.fd.store(fd, Relaxed);
        }
        fd
    }

    fn remember(&self, stat: &Stat) {
        self.device.store(stat.st_dev, Relaxed);
        self.inode.store(stat.st_ino, Relaxed);
    }

    fn is_ours(&self, stat: &Stat) -> bool {
        stat.st_dev == self.device.load(Relaxed) && stat.st_ino == self.inode.load(Relaxed)
    }
}

fn stat(fd: i32) -> Option<Stat> {
    if fd == NONE {
        return None;
    }
    // SAFETY: only asked about; the kernel says EBADF if nothing is open there.
    rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(fd) }).ok()
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_stream(stat: &Stat) -> bool {
    matches!(kind(stat), FileType::Fifo | FileType::Socket)
}

/// Whether the other end of a pipe or socket is gone.
fn is_broken(fd: i32) -> bool {
    // SAFETY: only asked about, as in `stat`.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut asked = [PollFd::from_borrowed_fd(file, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut asked, Some(&now)).is_err()
        || asked[0]
            .revents()
            .intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)
}
