//! The registered memory of a device: a pool that grows by chunks, each one memory region, and gives
//! them back.
//!
//! Registering costs from 100 microseconds to a second and a device has only so many regions, so memory
//! is registered in chunks: the first of `NACC_RDMA_MR_MIN_INC_SIZE` bytes, each further one twice as
//! large as the largest there is, up to `NACC_RDMA_MR_MAX_INC_SIZE`. A chunk in which nothing is taken
//! is given back; one of the smallest size is kept, so that the next connection finds it.
//!
//! A chunk is a memfd, so that a ring can be mapped a second time behind itself. All regions of a chunk
//! have its keys: a peer that may write to one of them could write to its neighbours too. (Devices that
//! restrict this further, by memory windows, are not common to all.)

use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fd::AsFd;
use rustix::fs::MemfdFlags;

use super::buddy::Buddy;
use super::device::Device;
use super::error::Error;
use super::guard::Owner;
use super::mr::Mr;
pub use super::region::{Region, RemoteAddress, RingRegion};
use crate::mapping::Mapping;
use crate::real::sys::{Errno, InternalFd};
use crate::stats::{self, DeviceStats};

const PAGE: usize = 4096;

/// Sizes of a pool, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSizes {
    /// What allocations are multiples of, times a power of two.
    pub unit: usize,
    /// The first chunk.
    pub min: usize,
    /// The size at which chunks stop growing. Only an allocation that is larger by itself gets a larger
    /// one.
    pub max: usize,
}

impl PoolSizes {
    /// From the configuration's values: each is rounded up to a power of two of at least a page, and
    /// chunks have at least one unit.
    pub fn new(unit: usize, min: usize, max: usize) -> PoolSizes {
        let power = |size: usize| {
            size.max(PAGE)
                .checked_next_power_of_two()
                .unwrap_or(1 << 31)
        };
        let unit = power(unit);
        let min = power(min).max(unit);
        PoolSizes {
            unit,
            min,
            max: power(max).max(min),
        }
    }

    /// The order of a block for `bytes` bytes: it has `unit << order`.
    fn order(&self, bytes: usize) -> Option<u32> {
        let units = bytes.max(1).div_ceil(self.unit);
        let order = units.checked_next_power_of_two()?.ilog2();
        (order <= Buddy::MAX_ORDER).then_some(order)
    }

    /// How large the next chunk is when the largest one there is has `largest` bytes (0: none), and an
    /// allocation of `wanted` bytes needs it.
    fn next_chunk(&self, largest: usize, wanted: usize) -> usize {
        let grown = match largest {
            0 => self.min,
            // One that is larger than the maximum was for a single allocation.
            largest => (2 * largest).min(self.max),
        };
        grown.max(wanted)
    }
}

/// What a pool holds at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Bytes that are registered, and so locked.
    pub registered: u64,
    /// Memory regions.
    pub regions: u64,
    /// Bytes of them that are allocated.
    pub allocated: u64,
}

/// A device's registered memory.
#[derive(Debug)]
pub struct Pool {
    device: Arc<Device>,
    sizes: PoolSizes,
    chunks: Mutex<Vec<Managed>>,
    registered: AtomicU64,
    regions: AtomicU64,
    allocated: AtomicU64,
    owner: Owner,
    /// The device's line in the stats page.
    page: &'static DeviceStats,
}

/// A chunk and what is taken of it.
#[derive(Debug)]
struct Managed {
    chunk: Arc<Chunk>,
    buddy: Buddy,
}

/// One memory region.
#[derive(Debug)]
pub(super) struct Chunk {
    // A forked child must leave them alone: neither is the mapping there, nor are the numbers its own.
    pub(super) mr: ManuallyDrop<Mr>,
    pub(super) mapping: ManuallyDrop<Mapping>,
    pub(super) memfd: ManuallyDrop<InternalFd>,
    len: usize,
    pub(super) owner: Owner,
}

impl Chunk {
    fn create(device: &Arc<Device>, len: usize) -> Result<Chunk, Error> {
        let system = |call| move |errno| Error::Call { call, errno };
        let memfd = rustix::fs::memfd_create(c"netacc-rdma", MemfdFlags::CLOEXEC)
            .map_err(system("memfd_create"))?;
        let memfd = InternalFd::adopt(memfd);
        rustix::fs::ftruncate(&memfd, len as u64).map_err(system("ftruncate"))?;
        let mapping = Mapping::of(memfd.as_fd(), 0, len).map_err(system("mmap"))?;
        // SAFETY: the mapping is dropped after the region; memory of the pool is only handed out as
        // pointers.
        let mr = unsafe { Mr::register(device, mapping.base(), len) }?;
        Ok(Chunk {
            mr: ManuallyDrop::new(mr),
            mapping: ManuallyDrop::new(mapping),
            memfd: ManuallyDrop::new(memfd),
            len,
            owner: Owner::this_process(),
        })
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return;
        }
        // SAFETY: once, and nothing uses them afterwards. The device forgets the memory before it goes.
        unsafe {
            ManuallyDrop::drop(&mut self.mr);
            ManuallyDrop::drop(&mut self.mapping);
            ManuallyDrop::drop(&mut self.memfd);
        }
    }
}

impl Pool {
    /// An empty pool; nothing is registered yet.
    pub fn new(device: &Arc<Device>, sizes: PoolSizes) -> Arc<Pool> {
        Arc::new(Pool {
            device: device.clone(),
            sizes,
            chunks: Mutex::new(Vec::new()),
            registered: AtomicU64::new(0),
            regions: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
            owner: Owner::this_process(),
            page: DeviceStats::named(&device.attributes().name),
        })
    }

    /// The device's line in the stats page.
    pub fn page(&self) -> &'static DeviceStats {
        self.page
    }

    /// Takes memory for at least `bytes` bytes, registering more if need be. It holds what was there
    /// before.
    ///
    /// # Errors
    /// [`Error::LockedMemory`] when the process may lock no more; the kernel's and the provider's.
    pub fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Region, Error> {
        let too_large = Error::Call {
            call: "allocating RDMA memory",
            errno: Errno::INVAL,
        };
        let order = self.sizes.order(bytes).ok_or(too_large)?;
        let len = self.sizes.unit << order;
        let mut chunks = self.chunks.lock();
        let found = chunks.iter_mut().find_map(|managed| {
            let first = managed.buddy.allocate(order)?;
            Some((managed.chunk.clone(), first))
        });
        let (chunk, first) = match found {
            Some(found) => found,
            None => {
                let managed = self.grow(&chunks, len)?;
                chunks.push(managed);
                let managed = chunks.last_mut();
                let found = managed.and_then(|m| Some((m.chunk.clone(), m.buddy.allocate(order)?)));
                found.ok_or(Error::Call {
                    call: "allocating RDMA memory",
                    errno: Errno::NOMEM,
                })?
            }
        };
        let shown = [&stats::global().mr_bytes_used, &self.page.mr_bytes_used];
        more(&self.allocated, shown, len as u64);
        let offset = first * self.sizes.unit;
        Ok(Region::new(self.clone(), chunk, offset, len))
    }

    fn grow(&self, chunks: &[Managed], wanted: usize) -> Result<Managed, Error> {
        let largest = chunks.iter().map(|managed| managed.chunk.len).max();
        let len = self.sizes.next_chunk(largest.unwrap_or(0), wanted);
        let chunk = match Chunk::create(&self.device, len) {
            // Where the doubled size is too much, what is needed now may still do.
            Err(Error::LockedMemory { .. }) if wanted < len => Chunk::create(&self.device, wanted)?,
            made => made?,
        };
        let shown = stats::global();
        let bytes = [&shown.mr_bytes_now, &self.page.mr_bytes_now];
        more(&self.registered, bytes, chunk.len as u64);
        more(&self.regions, [&shown.mrs_now, &self.page.mrs_now], 1);
        Ok(Managed {
            buddy: Buddy::new((chunk.len / self.sizes.unit).ilog2()),
            chunk: Arc::new(chunk),
        })
    }

    /// Takes back a region of that place and length.
    pub(super) fn free(&self, chunk: &Arc<Chunk>, offset: usize, len: usize) {
        let gone = {
            let mut chunks = self.chunks.lock();
            let at = chunks
                .iter()
                .position(|managed| Arc::ptr_eq(&managed.chunk, chunk));
            let Some(at) = at else { return };
            let (first, units) = (offset / self.sizes.unit, len / self.sizes.unit);
            chunks[at].buddy.free(first, units.ilog2());
            let shown = [&stats::global().mr_bytes_used, &self.page.mr_bytes_used];
            less(&self.allocated, shown, len as u64);
            let is_spare = |managed: &Managed| {
                managed.buddy.taken() == 0 && managed.chunk.len == self.sizes.min
            };
            let spares = chunks.iter().filter(|managed| is_spare(managed)).count();
            let is_last_spare = is_spare(&chunks[at]) && spares == 1;
            let goes = chunks[at].buddy.taken() == 0 && !is_last_spare;
            goes.then(|| chunks.swap_remove(at))
        };
        self.forget(gone);
    }

    /// Gives back the chunks in which nothing is taken, the spare one included.
    pub fn trim(&self) {
        let gone: Vec<Managed> = {
            let mut chunks = self.chunks.lock();
            chunks
                .extract_if(.., |managed| managed.buddy.taken() == 0)
                .collect()
        };
        self.forget(gone);
    }

    /// Counts chunks that were taken out, outside the lock. They go with their last region.
    fn forget(&self, gone: impl IntoIterator<Item = Managed>) {
        let shown = stats::global();
        for managed in gone {
            let bytes = [&shown.mr_bytes_now, &self.page.mr_bytes_now];
            less(&self.registered, bytes, managed.chunk.len as u64);
            less(&self.regions, [&shown.mrs_now, &self.page.mrs_now], 1);
        }
    }

    /// What it holds at the moment.
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            registered: self.registered.load(Ordering::Relaxed),
            regions: self.regions.load(Ordering::Relaxed),
            allocated: self.allocated.load(Ordering::Relaxed),
        }
    }

    /// The device that the memory is registered with.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A forked child's page knows nothing of it.
        if self.owner.is_here() {
            self.trim();
        }
    }
}

/// Adds to a count of this pool, and to those that are shown.
fn more(own: &AtomicU64, shown: [&AtomicU64; 2], n: u64) {
    own.fetch_add(n, Ordering::Relaxed);
    shown.iter().for_each(|count| stats::add(count, n));
}

/// Takes off what was added by [`more`].
fn less(own: &AtomicU64, shown: [&AtomicU64; 2], n: u64) {
    own.fetch_sub(n, Ordering::Relaxed);
    shown
        .iter()
        .for_each(|count| stats::add(count, n.wrapping_neg()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_two_that_fit_each_other() {
        let sizes = PoolSizes::new(1000, 5000, 20_000);
        let wanted = PoolSizes {
            unit: 4096,
            min: 8192,
            max: 32_768,
        };
        assert_eq!(sizes, wanted);
        let sizes = PoolSizes::new(1 << 20, 4096, 4096);
        assert_eq!(
            (sizes.min, sizes.max),
            (1 << 20, 1 << 20),
            "one unit at least"
        );
    }

    #[test]
    fn chunks_double_up_to_the_maximum() {
        let sizes = PoolSizes::new(4096, 16 << 10, 64 << 10);
        let mut largest = 0;
        let mut seen = Vec::new();
        for _ in 0..5 {
            largest = sizes.next_chunk(largest, 4096);
            seen.push(largest >> 10);
        }
        assert_eq!(seen, [16, 32, 64, 64, 64]);
        assert_eq!(sizes.next_chunk(0, 1 << 20), 1 << 20, "what is needed");
        assert_eq!(
            sizes.next_chunk(1 << 20, 4096),
            64 << 10,
            "an exception is no rule"
        );
    }

    #[test]
    fn orders_round_up() {
        let sizes = PoolSizes::new(4096, 4096, 4096);
        for (bytes, order) in [(0, 0), (1, 0), (4096, 0), (4097, 1), (12_288, 2)] {
            assert_eq!(sizes.order(bytes), Some(order), "{bytes} bytes");
        }
        assert_eq!(sizes.order(usize::MAX), None);
    }
}
