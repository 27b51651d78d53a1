//! Pieces of a pool's memory.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use std::sync::Arc;

use rdma_sys::ibv_sge;
use rustix::fd::AsFd;

use super::error::Error;
use super::pool::{Chunk, Pool};
use crate::mapping::Mapping;

/// Where a peer may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteAddress {
    /// The address in the peer's process.
    pub address: u64,
    /// The key for it.
    pub rkey: u32,
}

/// Registered memory, given back to its pool when dropped.
///
/// The peer and the device write to it whenever they like, so it is only ever a pointer.
#[derive(Debug)]
pub struct Region {
    pool: Arc<Pool>,
    chunk: Arc<Chunk>,
    offset: usize,
    len: usize,
}

// SAFETY: plain shared memory behind a pointer, which is the caller's to use.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// `len` bytes of `chunk` from `offset` on, which are taken.
    pub(super) fn new(pool: Arc<Pool>, chunk: Arc<Chunk>, offset: usize, len: usize) -> Region {
        Region {
            pool,
            chunk,
            offset,
            len,
        }
    }

    /// How many bytes there are: a power of two times the pool's unit.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a region has a unit at least.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        // SAFETY: the region lies in its chunk's mapping.
        unsafe { self.chunk.mapping.base().add(self.offset) }
    }

    /// Where a peer may write to it: its first byte, and the key.
    pub fn remote(&self) -> RemoteAddress {
        RemoteAddress {
            address: self.base().as_ptr() as u64,
            rkey: self.chunk.mr.rkey(),
        }
    }

    /// The pool that it is of.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Some of its bytes, for a work request; `None` if they do not all lie in it.
    pub(super) fn sge(&self, offset: usize, len: usize) -> Option<ibv_sge> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        Some(ibv_sge {
            addr: self.base().as_ptr() as u64 + offset as u64,
            length: u32::try_from(len).ok()?,
            lkey: self.chunk.mr.lkey(),
        })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.chunk.owner.is_here() {
            self.pool.free(&self.chunk, self.offset, self.len);
        }
    }
}

/// A region that is mapped a second time, twice in a row, so that bytes that go over its end lie in one
/// piece for this process. The device knows it once, at [`Region::remote`].
#[derive(Debug)]
pub struct RingRegion {
    // A forked child must leave it alone.
    mapping: ManuallyDrop<Mapping>,
    region: Region,
}

impl RingRegion {
    /// Maps `region`.
    ///
    /// # Errors
    /// The kernel's, of mmap(2).
    pub fn map(region: Region) -> Result<RingRegion, Error> {
        let memfd = region.chunk.memfd.as_fd();
        let mapping =
            Mapping::ring(memfd, region.offset, region.len).map_err(|errno| Error::Call {
                call: "mmap",
                errno,
            })?;
        Ok(RingRegion {
            mapping: ManuallyDrop::new(mapping),
            region,
        })
    }

    /// The first byte; twice [`Region::len`] bytes are mapped from here.
    pub fn base(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    /// The region, as the device knows it.
    pub fn region(&self) -> &Region {
        &self.region
    }
}

impl Drop for RingRegion {
    fn drop(&mut self) {
        if self.region.chunk.owner.is_here() {
            // SAFETY: once, and nothing uses it afterwards.
            unsafe { ManuallyDrop::drop(&mut self.mapping) };
        }
    }
}
