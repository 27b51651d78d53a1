//! Keeps `errno` as the application left it.

/// Puts `errno` back to what it was at [`ErrnoGuard::new`] when dropped.
pub(crate) struct ErrnoGuard(i32);

impl ErrnoGuard {
    pub(crate) fn new() -> Self {
        // SAFETY: glibc returns a valid pointer to the calling thread's errno.
        ErrnoGuard(unsafe { *libc::__errno_location() })
    }
}

impl Drop for ErrnoGuard {
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        unsafe { *libc::__errno_location() = self.0 };
    }
}
