//! The application's buffers: one cursor over an iovec array, for both directions.

use core::ffi::c_void;

use libc::iovec;

/// A cursor over the buffers of one call.
pub struct UserBuf {
    iov: *const iovec,
    count: usize,
    offset: usize,
    left: usize,
}

impl UserBuf {
    /// A cursor over `count` buffers.
    ///
    /// # Safety
    /// `iov` must point to `count` iovecs whose buffers are valid for the direction of the call, and
    /// stay so while the cursor lives: the contract of readv(2) and writev(2).
    pub unsafe fn new(iov: *const iovec, count: usize) -> Self {
        // SAFETY: by the contract.
        let left = (0..count).fold(0usize, |sum, i| {
            // SAFETY: by the contract.
            sum.saturating_add(unsafe { (*iov.add(i)).iov_len })
        });
        UserBuf {
            iov,
            count,
            offset: 0,
            left,
        }
    }

    /// Bytes not yet copied.
    #[inline]
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next piece that lies in one buffer, at most `max` bytes, and moves past it.
    fn next(&mut self, max: usize) -> Option<(*mut u8, usize)> {
        while self.count > 0 {
            // SAFETY: `iov` points to `count` valid iovecs by the contract of `new`.
            let current = unsafe { &*self.iov };
            let room = current.iov_len - self.offset;
            if room == 0 {
                self.iov = self.iov.wrapping_add(1);
                self.count -= 1;
                self.offset = 0;
                continue;
            }
            let n = room.min(max);
            let at = current.iov_base.cast::<u8>().wrapping_add(self.offset);
            self.offset += n;
            self.left -= n;
            return (n > 0).then_some((at, n));
        }
        None
    }

    /// Copies `data` into the buffers; returns how much found room.
    pub fn fill(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let Some((at, n)) = self.next(data.len() - done) else {
                break;
            };
            // SAFETY: `at` is writable for `n` bytes by the contract of `new`; the source holds at
            // least `n` more; the ring and the application's memory do not overlap.
            unsafe { core::ptr::copy_nonoverlapping(data.as_ptr().add(done), at, n) };
            done += n;
        }
        done
    }

    /// Copies exactly `n` bytes (at most [`left`](Self::left)) out of the buffers to `to`.
    ///
    /// # Safety
    /// `to` must be valid for `n` bytes of writing.
    pub unsafe fn drain(&mut self, to: *mut u8, n: usize) {
        let mut done = 0;
        while done < n {
            let Some((at, piece)) = self.next(n - done) else {
                break;
            };
            // SAFETY: source by the contract of `new`, target by this function's.
            unsafe { core::ptr::copy_nonoverlapping(at, to.add(done), piece) };
            done += piece;
        }
    }

    /// The buffers' parts that are not copied yet, for a call of the kernel's.
    pub fn rest(&self) -> Vec<iovec> {
        let mut rest: Vec<iovec> = (0..self.count)
            // SAFETY: `iov` points to `count` valid iovecs by the contract of `new`.
            .map(|i| unsafe { *self.iov.add(i) })
            .collect();
        if let Some(first) = rest.first_mut() {
            first.iov_base = first.iov_base.wrapping_byte_add(self.offset);
            first.iov_len -= self.offset;
        }
        rest
    }

    /// Moves past `n` bytes without copying: they go nowhere.
    pub fn skip(&mut self, n: usize) {
        let mut done = 0;
        while done < n {
            let Some((_, piece)) = self.next(n - done) else {
                break;
            };
            done += piece;
        }
    }
}

/// One buffer as an iovec.
pub fn single(buf: *const c_void, len: usize) -> iovec {
    iovec {
        iov_base: buf.cast_mut(),
        iov_len: len,
    }
}
