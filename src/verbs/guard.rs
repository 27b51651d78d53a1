//! What surrounds calls into the RDMA libraries, and who may make them.

use core::cell::Cell;
use core::ffi::c_int;
use core::ptr::NonNull;

use rdma_sys::ibv_context;
use rustix::fd::{FromRawFd, OwnedFd, RawFd};

use crate::fdtable::{self, Entry};
use crate::fork;
use crate::log::ErrnoGuard;
use crate::real::sys::InternalFd;

thread_local! {
    /// Whether a call into the RDMA libraries is on this thread's stack. No destructor: threads call
    /// until their very end.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a call into the RDMA libraries. Their own calls come to the hooks like the
/// application's, and only this tells them apart: what is internal (see [`crate::fdtable`]) is theirs to
/// use and to close. (A thread that they started themselves would not be known by it; none of them
/// starts one for what is used here.)
pub(crate) fn is_inside() -> bool {
    INSIDE.get()
}

/// Marks this thread during `call`, and no more than that: for what is called too often for an [`Inside`]
/// and reaches the kernel in a provider's rare cases only, by ioctl(2), which is no cancellation point.
#[inline]
pub(super) fn inside<T>(call: impl FnOnce() -> T) -> T {
    INSIDE.with(|inside| {
        let before = inside.replace(true);
        let result = call();
        inside.set(before);
        result
    })
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

/// glibc's value, which the libc crate does not have.
const PTHREAD_CANCEL_DISABLE: c_int = 1;

/// While it lives this thread counts as [inside](is_inside) and cannot be cancelled, and its `errno` comes
/// back at the end.
///
/// The libraries take locks and then call write(2), which is a cancellation point (a doorbell of the
/// software devices is one, for example): a thread that were cancelled there would leave them locked.
pub(super) struct Inside {
    cancel_state: c_int,
    was_inside: bool,
    _errno: ErrnoGuard,
}

impl Inside {
    #[inline]
    pub(super) fn enter() -> Inside {
        let _errno = ErrnoGuard::new();
        let mut cancel_state = 0;
        // SAFETY: changes the calling thread only; the old state goes to a local variable.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut cancel_state) };
        Inside {
            cancel_state,
            was_inside: INSIDE.replace(true),
            _errno,
        }
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        INSIDE.set(self.was_inside);
        // SAFETY: as in `enter`; the state is the one that was found there.
        unsafe { pthread_setcancelstate(self.cancel_state, core::ptr::null_mut()) };
    }
}

/// The process that an object of the libraries belongs to. A forked child has a copy of the object but
/// not the device's side of it, and its descriptors are closed or another's: it must leave it alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner(u32);

impl Owner {
    pub(super) fn this_process() -> Owner {
        Owner(fork::generation())
    }

    /// Whether the caller is the process that made the object.
    #[inline]
    pub(super) fn is_here(self) -> bool {
        self.0 == fork::generation()
    }
}

/// Takes a descriptor that a library made out of the application's way: out of the low numbers, and
/// marked, so that the application can neither use nor close it, and a forked child closes it. It no longer
/// blocks. Returns its new number, which goes where the library keeps it. The mark goes when the library
/// closes the number, which comes to the hooks.
pub(super) fn raise(fd: RawFd) -> RawFd {
    // SAFETY: the caller has the number from the library that owns it, and puts the new one there.
    let raised = InternalFd::adopt(unsafe { OwnedFd::from_raw_fd(fd) });
    if let Ok(flags) = rustix::fs::fcntl_getfl(&raised) {
        let _ = rustix::fs::fcntl_setfl(&raised, flags | rustix::fs::OFlags::NONBLOCK);
    }
    raised.leave()
}

/// [Raises](raise) the descriptors of a device, if that is not done yet.
///
/// # Safety
/// The context lives, and until this was done once no other thread uses it.
pub(super) unsafe fn raise_context(context: NonNull<ibv_context>) {
    // SAFETY: by the contract. libibverbs and its providers take both numbers from these fields at each
    // use.
    unsafe {
        let context = context.as_ptr();
        for fd in [&raw mut (*context).cmd_fd, &raw mut (*context).async_fd] {
            if fdtable::fits(*fd) && !fdtable::is(*fd, Entry::Internal) {
                *fd = raise(*fd);
            }
        }
    }
}

/// Closes the descriptors of a device under the library, which does not notice: what it does with the
/// device from now on no longer reaches the kernel.
///
/// # Safety
/// The context lives, and nobody else uses it.
pub(super) unsafe fn close_context(context: NonNull<ibv_context>) {
    // SAFETY: by the contract.
    unsafe {
        let context = context.as_ptr();
        for fd in [&raw mut (*context).cmd_fd, &raw mut (*context).async_fd] {
            if *fd >= 0 {
                fdtable::clear_internal(*fd);
                crate::real::sys::close(*fd);
                *fd = -1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::EventfdFlags;
    use rustix::fd::IntoRawFd;

    use super::*;
    use crate::hooks;
    use crate::real::sys;

    /// A descriptor as the libraries have them: an eventfd that counts 1.
    fn raised() -> RawFd {
        raise(
            rustix::event::eventfd(1, EventfdFlags::CLOEXEC)
                .unwrap()
                .into_raw_fd(),
        )
    }

    /// What comes of calls on it, as they come to the hooks.
    fn use_up(fd: RawFd) -> [isize; 5] {
        let mut number = 0u64;
        let at = &raw mut number;
        // SAFETY: eight bytes to read from and to write to.
        unsafe {
            [
                hooks::read(fd, at.cast(), 8),
                hooks::write(fd, at.cast(), 8),
                hooks::fcntl(fd, libc::F_GETFD, 0) as isize,
                hooks::ioctl(fd, libc::FIONBIO, at as usize) as isize,
                hooks::close(fd) as isize,
            ]
        }
    }

    #[test]
    fn calls_reach_a_raised_descriptor_from_inside_only() {
        let fd = raised();
        assert_eq!(use_up(fd), [-1; 5]);
        assert_eq!(sys::errno(), libc::EBADF);
        let inside = Inside::enter();
        assert_eq!(use_up(fd), [8, 8, libc::FD_CLOEXEC as isize, 0, 0]);
        drop(inside);
    }

    #[test]
    fn the_mark_goes_when_the_library_closes_the_number() {
        // Nobody's number: no other test opens it meanwhile.
        let fd = fdtable::CAPACITY as RawFd - 1;
        fdtable::set_internal(fd);
        // SAFETY: there is no such descriptor.
        unsafe {
            assert_eq!(hooks::close(fd), -1);
            assert!(fdtable::is(fd, Entry::Internal));
            assert_eq!(inside(|| hooks::close(fd)), -1);
        }
        assert!(fdtable::get(fd).is_none());
    }

    #[test]
    fn sockets_that_are_made_inside_are_the_kernels() {
        let make = || {
            // SAFETY: no pointers.
            let fd = unsafe { hooks::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
            let is_plain = fdtable::get(fd).is_none();
            // SAFETY: just made.
            assert_eq!(unsafe { hooks::close(fd) }, 0);
            is_plain
        };
        assert!(!make());
        assert!(inside(make));
    }

    #[test]
    fn what_is_inside_ends_with_the_outermost_call() {
        assert!(!is_inside());
        let outer = Inside::enter();
        drop(Inside::enter());
        assert!(inside(is_inside));
        assert!(is_inside());
        let elsewhere = std::thread::spawn(is_inside);
        assert!(!elsewhere.join().unwrap());
        drop(outer);
        assert!(!is_inside());
    }

    #[test]
    fn a_forked_child_owns_nothing_and_has_no_raised_descriptor() {
        let (owner, fd) = (Owner::this_process(), raised());
        // SAFETY: the child calls nothing that another thread could hold a lock of, and exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let is_open = rustix::io::fcntl_getfd(sys::borrow(fd)).is_ok();
            let right = !owner.is_here() && Owner::this_process().is_here() && !is_open;
            // SAFETY: ends the child without the test program's own exit.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        let mut status = -1;
        // SAFETY: our own child, and room for its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child found something amiss");
        assert!(owner.is_here());
        assert!(rustix::io::fcntl_getfd(sys::borrow(fd)).is_ok());
        inside(|| assert_eq!(use_up(fd)[4], 0));
    }
}
