//! The application's buffers: one cursor over an iovec array, for both directions.

use core::ffi::c_void;

use libc::iovec;

/// A cursor over the buffers of one call.
pub struct UserBuf {
    iov: *const iovec,
    count: usize,
    offset: usize,
    left: usize,
    null: bool,
}

impl UserBuf {
    /// A cursor over `count` buffers.
    ///
    /// # Safety
    /// `iov` must point to `count` iovecs whose buffers are valid for the direction of the call, and
    /// stay so while the cursor lives: the contract of readv(2) and writev(2). Buffers that are null are not
    /// copied to or from after [`end_at_null`](Self::end_at_null).
    pub unsafe fn new(iov: *const iovec, count: usize) -> Self {
        let (mut left, mut null) = (0usize, false);
        for i in 0..count {
            // SAFETY: by the contract.
            let one = unsafe { &*iov.add(i) };
            left = left.saturating_add(one.iov_len);
            null |= one.iov_base.is_null() && one.iov_len > 0;
        }
        UserBuf {
            iov,
            count,
            offset: 0,
            left,
            null,
        }
    }

    /// Whether it has, or had before [`end_at_null`](Self::end_at_null), a buffer that is nowhere (a null pointer).
    #[inline]
    pub fn has_null(&self) -> bool {
        self.null
    }

    /// Ends before the first buffer that is nowhere: the kernel, too, goes as far as it can.
    #[cold]
    pub fn end_at_null(&mut self) {
        let mut left = 0;
        for i in 0..self.count {
            // SAFETY: `iov` points to `count` valid iovecs by the contract of `new`.
            let one = unsafe { &*self.iov.add(i) };
            if one.iov_base.is_null() && one.iov_len > 0 {
                self.count = i;
                break;
            }
            left += one.iov_len;
        }
        self.left = left - self.offset;
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
