//! Raw system calls that our hooks never see, and the descriptors that belong to the library.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
pub use rustix::io::Errno;

use super::orig;
use crate::socket::addr::Address;

/// Sets the calling thread's `errno`.
pub fn set_errno(value: i32) {
    // SAFETY: __errno_location always returns a valid pointer to the calling thread's errno.
    unsafe { *libc::__errno_location() = value }
}

/// The calling thread's `errno`.
pub fn errno() -> i32 {
    // SAFETY: as in `set_errno`.
    unsafe { *libc::__errno_location() }
}

/// The error that the last failed libc call left behind.
pub fn last_error() -> Errno {
    Errno::from_raw_os_error(errno())
}

/// A descriptor that the application only knows by number, borrowed for one system call.
pub fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the kernel checks the number; a stale one gives EBADF, as it would the application.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// A descriptor of the library's own: kept out of the low numbers, closed by a raw system call and
/// listed in [`crate::fdtable`] so that the application cannot close it.
#[derive(Debug)]
pub struct InternalFd(RawFd);

impl InternalFd {
    /// Takes `fd` over and moves it high (see [`high_floor`]). When the process has no high numbers
    /// left it stays where it is.
    pub fn adopt(fd: OwnedFd) -> Self {
        let low = fd.into_raw_fd();
        let raw = match rustix::io::fcntl_dupfd_cloexec(borrow(low), high_floor()) {
            Ok(high) => {
                close(low);
                high.into_raw_fd()
            }
            Err(_) => low,
        };
        crate::fdtable::set_internal(raw);
        InternalFd(raw)
    }

    /// A further number for `fd`.
    ///
    /// # Errors
    /// `EMFILE`, `EBADF`.
    pub fn duplicate(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let raw = rustix::io::fcntl_dupfd_cloexec(fd, high_floor())?.into_raw_fd();
        crate::fdtable::set_internal(raw);
        Ok(InternalFd(raw))
    }

    /// Takes back what was [left](Self::leave).
    pub fn take_back(raw: RawFd) -> Self {
        InternalFd(raw)
    }

    /// Leaves the descriptor, open and listed as the library's own, to whoever will close it.
    pub fn leave(self) -> RawFd {
        let raw = self.0;
        core::mem::forget(self);
        raw
    }
}

impl AsFd for InternalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(self.0)
    }
}

impl AsRawFd for InternalFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Drop for InternalFd {
    fn drop(&mut self) {
        crate::fdtable::clear_internal(self.0);
        close(self.0);
    }
}

/// Moves a descriptor high, out of the application's way; it is in no table.
pub fn raise(fd: OwnedFd) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(&fd, high_floor()).unwrap_or(fd)
}

/// Closes a number without passing through the hooks. One that is not open, as another thread's may be in a forked child,
/// is no error.
pub fn close(fd: RawFd) {
    let kept = errno();
    // SAFETY: no pointers; the callers own the number that they close.
    unsafe { orig::syscall(libc::SYS_close, fd as usize, 0, 0, 0, 0, 0) };
    set_errno(kept);
}

/// The lowest number for the library's own descriptors: three quarters up the soft limit, so that
/// the low numbers stay the application's and `select` users keep theirs below 1,024; but not higher
/// than need be, for each fork copies the table of descriptors up to the highest one (12,000 numbers
/// cost it a quarter of its time), and so do we.
fn high_floor() -> RawFd {
    const HIGHEST: RawFd = 1536;
    let limit = last_number() + 1;
    (limit - limit / 4).min(HIGHEST)
}

/// The last number for the library's own descriptors, unless there are very many.
pub fn last_number() -> RawFd {
    const HIGH_ENOUGH: u64 = 16 << 10;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.unwrap_or(HIGH_ENOUGH).clamp(1, HIGH_ENOUGH) as RawFd - 1
}

/// Closes all numbers from `first` to `last`, which the caller owns.
pub fn close_all(first: RawFd, last: RawFd) {
    let kept = errno();
    // SAFETY: as for `close`.
    let closed = first < last
        && unsafe {
            orig::syscall(
                libc::SYS_close_range,
                first as usize,
                last as usize,
                0,
                0,
                0,
                0,
            )
        } == 0;
    set_errno(kept);
    if !closed {
        (first..=last).for_each(close);
    }
}

/// Sleeps for so many nanoseconds; no point at which a thread can be cancelled.
pub fn nap(nanoseconds: u64) {
    let _ = rustix::event::poll(&mut [], Some(&timespec(nanoseconds)));
}

/// Monotonic time in nanoseconds.
pub fn now_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Which of `events` (and errors and hang-ups) poll(2) shows of `fd` now. Never waits, and is no point at which a thread
/// can be cancelled.
pub fn poll_mask(fd: RawFd, events: i16) -> i16 {
    if fd < 0 {
        return 0;
    }
    let events = PollFlags::from_bits_retain(events as u16);
    poll_one(borrow(fd), events, 0).map_or(0, |found| found.bits() as i16)
}

/// Waits so many nanoseconds at most until `fd` has one of these events, errors and ends among them. Returns those that it
/// has; no point at which a thread can be cancelled.
///
/// # Errors
/// `EINTR`; others of poll(2).
pub fn poll_one(
    fd: BorrowedFd<'_>,
    events: PollFlags,
    nanoseconds: u64,
) -> Result<PollFlags, Errno> {
    let mut one = [PollFd::from_borrowed_fd(fd, events)];
    rustix::event::poll(&mut one, Some(&timespec(nanoseconds)))?;
    Ok(one[0].revents())
}

fn timespec(nanoseconds: u64) -> Timespec {
    Timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as i64,
        tv_nsec: (nanoseconds % 1_000_000_000) as i64,
    }
}

/// A socket option; what the kernel does not tell of it is zero.
///
/// # Errors
/// The kernel's, of getsockopt(2).
///
/// # Safety
/// Any bytes are a value of `T`.
pub unsafe fn socket_option<T>(fd: RawFd, level: i32, name: i32) -> Result<T, Errno> {
    let _errno = crate::log::ErrnoGuard::new();
    let mut value = core::mem::MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    let at = value.as_mut_ptr().cast();
    // SAFETY: so much room, and its length.
    match unsafe { orig::getsockopt(fd, level, name, at, &raw mut len) } {
        // SAFETY: by the contract.
        0 => Ok(unsafe { value.assume_init() }),
        _ => Err(last_error()),
    }
}

/// A socket option that is a number.
pub fn int_option(fd: RawFd, level: i32, name: i32) -> Option<i32> {
    // SAFETY: an integer.
    unsafe { socket_option(fd, level, name) }.ok()
}

/// TCP_INFO of a socket of the kernel's; what the kernel does not tell is zero.
pub fn tcp_info(fd: RawFd) -> Option<libc::tcp_info> {
    // SAFETY: integers.
    unsafe { socket_option(fd, libc::IPPROTO_TCP, libc::TCP_INFO) }.ok()
}

/// Adds one to an eventfd, waking whoever sleeps on it.
pub fn signal(fd: BorrowedFd<'_>) {
    // One that is full is rung already. Nothing else keeps a bell from being rung twice in a row.
    let ring = || rustix::io::write(fd, &1u64.to_ne_bytes());
    if !matches!(ring(), Ok(_) | Err(Errno::AGAIN)) {
        let _ = ring();
    }
}

/// Sends SIGPIPE to the calling thread, as the kernel does on a write to a broken stream.
pub fn raise_sigpipe() {
    // SAFETY: the calling thread exists; the signal's disposition is the application's affair.
    unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGPIPE) };
}

/// bind(2), unseen by the hooks.
///
/// # Errors
/// The kernel's.
pub fn bind(fd: BorrowedFd<'_>, address: &Address) -> Result<(), Errno> {
    address_call(libc::SYS_bind, fd, address)
}

/// connect(2), unseen by the hooks.
///
/// # Errors
/// The kernel's; `EINPROGRESS` on a non-blocking socket.
pub fn connect(fd: BorrowedFd<'_>, address: &Address) -> Result<(), Errno> {
    address_call(libc::SYS_connect, fd, address)
}

fn address_call(call: libc::c_long, fd: BorrowedFd<'_>, address: &Address) -> Result<(), Errno> {
    let (ptr, len) = address.as_ptr();
    let kept = errno();
    // SAFETY: pointer and length describe a socket address.
    if unsafe {
        orig::syscall(
            call,
            fd.as_raw_fd() as usize,
            ptr as usize,
            len as usize,
            0,
            0,
            0,
        )
    } == 0
    {
        return Ok(());
    }
    let error = last_error();
    set_errno(kept);
    Err(error)
}

/// Breaks an established or half-made TCP connection off and leaves its socket as new, options and
/// all: connect(2) with AF_UNSPEC.
pub fn disconnect(fd: RawFd) {
    let kept = errno();
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as u16,
        sa_data: [0; 14],
    };
    let (at, len) = (&raw const nowhere as usize, size_of::<libc::sockaddr>());
    // SAFETY: a valid address of the given length.
    unsafe { orig::syscall(libc::SYS_connect, fd as usize, at, len, 0, 0, 0) };
    set_errno(kept);
}
