//! Memory regions: memory that the device may read and write.

use core::ptr::NonNull;
use std::sync::Arc;

use rdma_sys::{ibv_access_flags, ibv_mr};

use super::device::Device;
use super::error::{self, Error, made};
use super::guard::{Inside, Owner};

/// Memory that is registered with a device, for its own writes and those of peers that have the key.
#[derive(Debug)]
pub(super) struct Mr {
    raw: NonNull<ibv_mr>,
    device: Arc<Device>,
    owner: Owner,
}

// SAFETY: its numbers do not change.
unsafe impl Send for Mr {}
// SAFETY: as above.
unsafe impl Sync for Mr {}

impl Mr {
    /// Registers `len` bytes from `base` on, which pins them.
    ///
    /// # Safety
    /// The memory stays mapped as long as this object lives, and whoever reads it reckons with bytes
    /// that change at any time.
    ///
    /// # Errors
    /// [`Error::LockedMemory`]; `ENOMEM` also when the device has no more regions.
    pub(super) unsafe fn register(
        device: &Arc<Device>,
        base: NonNull<u8>,
        len: usize,
    ) -> Result<Mr, Error> {
        let _inside = Inside::enter();
        let access =
            ibv_access_flags::IBV_ACCESS_LOCAL_WRITE | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE;
        // SAFETY: the device lives; the memory is mapped, as the caller promises.
        let raw = made("ibv_reg_mr", unsafe {
            device
                .api()
                .ibv_reg_mr(device.pd(), base.as_ptr().cast(), len, access.0 as i32)
        })
        .map_err(|error| error::pinning("registering RDMA memory", len, error))?;
        Ok(Mr {
            raw,
            device: device.clone(),
            owner: Owner::this_process(),
        })
    }

    /// The key for requests of this side.
    #[inline]
    pub(super) fn lkey(&self) -> u32 {
        // SAFETY: a region that lives.
        unsafe { (*self.raw.as_ptr()).lkey }
    }

    /// The key for the peer's.
    pub(super) fn rkey(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw.as_ptr()).rkey }
    }
}

impl Drop for Mr {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return;
        }
        let _inside = Inside::enter();
        // SAFETY: its only user. Requests that still name it fail from now on.
        unsafe { self.device.api().ibv_dereg_mr(self.raw.as_ptr()) };
    }
}
