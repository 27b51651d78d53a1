//! Mapped memory that several parts of the library share: reserved address space, into which ranges of
//! a file are placed.

use core::ptr::NonNull;

use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, ProtFlags};

use crate::real::sys::Errno;

/// A mapped region, unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is plain memory; all shared access to it goes through atomics or is ordered by
// the cursors.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the region was mapped by `reserve` with this length and nothing borrows it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

impl Mapping {
    /// Reserves `len` bytes of address space in which nothing may be read or written yet.
    ///
    /// # Errors
    /// The kernel's, of mmap(2).
    pub fn reserve(len: usize) -> Result<Mapping, Errno> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                core::ptr::null_mut(),
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        NonNull::new(base.cast())
            .map(|base| Mapping { base, len })
            .ok_or(Errno::NOMEM)
    }

    /// Maps the `len` bytes of `fd` from `offset` on, shared and for reading and writing, `at` bytes
    /// into the region. All three are whole pages. A forked child does not inherit them.
    ///
    /// # Errors
    /// `EINVAL` when the range does not lie in the region; else the kernel's, of mmap(2).
    pub fn place(
        &self,
        at: usize,
        len: usize,
        fd: BorrowedFd<'_>,
        offset: usize,
    ) -> Result<(), Errno> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Errno::INVAL);
        }
        // SAFETY: [at, at + len) lies inside the region that this mapping reserved for itself.
        unsafe {
            let target = self.base.as_ptr().add(at).cast();
            rustix::mm::mmap(
                target,
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                fd,
                offset as u64,
            )?;
            // A forked child has no business in the memory of links.
            rustix::mm::madvise(target, len, rustix::mm::Advice::LinuxDontFork)?;
        }
        Ok(())
    }

    /// Maps the `len` bytes of `fd` from `offset` on, once.
    ///
    /// # Errors
    /// The kernel's, of mmap(2).
    pub fn of(fd: BorrowedFd<'_>, offset: usize, len: usize) -> Result<Mapping, Errno> {
        let mapping = Mapping::reserve(len)?;
        mapping.place(0, len, fd, offset)?;
        Ok(mapping)
    }

    /// Maps a ring of `len` bytes twice in a row, so that what crosses its end lies in one piece.
    ///
    /// # Errors
    /// The kernel's, of mmap(2).
    pub fn ring(fd: BorrowedFd<'_>, offset: usize, len: usize) -> Result<Mapping, Errno> {
        let twice = len.checked_mul(2).ok_or(Errno::INVAL)?;
        let mapping = Mapping::reserve(twice)?;
        mapping.place(0, len, fd, offset)?;
        mapping.place(len, len, fd, offset)?;
        Ok(mapping)
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }
}
