//! Completion queues: where the device says what has become of work requests, and the descriptor by
//! which a sleeping thread learns that it has said something.
//!
//! To sleep without missing anything: [`Cq::arm`], [`Cq::poll`] once more, and only if that finds
//! nothing wait for the descriptor; afterwards [`Cq::take_events`], then poll again.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use rdma_sys::{ibv_comp_channel, ibv_cq, ibv_wc};
use rustix::fd::{AsFd, BorrowedFd};

pub use super::completion::{Completion, Failure, Work};
use super::device::Device;
use super::error::{self, Error, check, made};
use super::guard::{self, Inside, Owner};
use crate::real::sys::{self, Errno};

/// Events are acknowledged by the dozen: each acknowledgement takes a mutex.
const ACKNOWLEDGE_AT: u32 = 64;

/// A completion queue with an event channel of its own.
pub struct Cq {
    device: Arc<Device>,
    raw: NonNull<ibv_cq>,
    channel: NonNull<ibv_comp_channel>,
    /// Events taken and not acknowledged.
    taken: AtomicU32,
    owner: Owner,
}

// SAFETY: verbs may be called from all threads; a provider has its own lock in each queue.
unsafe impl Send for Cq {}
// SAFETY: as above.
unsafe impl Sync for Cq {}

impl Cq {
    /// Makes a queue for at least `capacity` completions: as many as all work requests that can be
    /// outstanding on its queue pairs, for an overrun is fatal. `vector` chooses the interrupt that
    /// serves it, modulo what the device has.
    ///
    /// # Errors
    /// `EINVAL` when the device has no queue that large (see
    /// [`Attributes::max_cqe`](super::device::Attributes)); `EMFILE`; [`Error::LockedMemory`].
    pub fn create(device: &Arc<Device>, capacity: u32, vector: u32) -> Result<Cq, Error> {
        let _inside = Inside::enter();
        let (api, context) = (device.api(), device.context());
        // SAFETY: a context that lives.
        let channel = made("ibv_create_comp_channel", unsafe {
            api.ibv_create_comp_channel(context)
        })?;
        // SAFETY: just made; libibverbs takes the number from this field at each use. A context has at
        // least one completion vector.
        let raw = unsafe {
            let fd = &raw mut (*channel.as_ptr()).fd;
            *fd = guard::raise(*fd);
            let vectors = (*context).num_comp_vectors.max(1);
            let vector = (vector % vectors as u32) as i32;
            let entries = i32::try_from(capacity).unwrap_or(i32::MAX);
            let nothing = core::ptr::null_mut();
            let raw = api.ibv_create_cq(context, entries, nothing, channel.as_ptr(), vector);
            made("ibv_create_cq", raw)
        };
        let raw = match raw {
            Ok(raw) => raw,
            Err(error) => {
                // SAFETY: the channel has no queue.
                unsafe { api.ibv_destroy_comp_channel(channel.as_ptr()) };
                let bytes = capacity as usize * size_of::<ibv_wc>();
                return Err(error::pinning("a completion queue", bytes, error));
            }
        };
        Ok(Cq {
            device: device.clone(),
            raw,
            channel,
            taken: AtomicU32::new(0),
            owner: Owner::this_process(),
        })
    }

    /// How many completions it holds.
    pub fn capacity(&self) -> u32 {
        // SAFETY: a queue that lives.
        unsafe { (*self.raw.as_ptr()).cqe as u32 }
    }

    /// Takes completions out, in the order in which they happened; returns how many. Never waits, and
    /// makes no system call as long as nothing fails. (hns takes the queue pair of a failed request down
    /// here.)
    ///
    /// # Errors
    /// The provider's; the queue is then of no further use.
    #[inline]
    pub fn poll(&self, into: &mut [Completion]) -> Result<usize, Error> {
        let room = i32::try_from(into.len()).unwrap_or(i32::MAX);
        // SAFETY: a queue that lives, and room for as many completions: `Completion` is an `ibv_wc`.
        let count = guard::inside(|| unsafe {
            rdma_sys::ibv_poll_cq(self.raw.as_ptr(), room, into.as_mut_ptr().cast())
        });
        usize::try_from(count).map_err(|_| Error::Call {
            call: "ibv_poll_cq",
            errno: error::errno(count),
        })
    }

    /// Has the next completion make the descriptor readable; with `solicited_only`, the next one that
    /// its sender asked an event for, or that is an error. What has completed before makes no event:
    /// poll once more before sleeping.
    ///
    /// Soft iWARP's receives never count as solicited (Linux 6.12, `siw_rqe_complete`): whoever may sleep
    /// on such a device arms for all.
    ///
    /// # Errors
    /// The provider's.
    pub fn arm(&self, solicited_only: bool) -> Result<(), Error> {
        // The soft devices arm by a system call.
        let _inside = Inside::enter();
        // SAFETY: a queue that lives.
        let result =
            unsafe { rdma_sys::ibv_req_notify_cq(self.raw.as_ptr(), i32::from(solicited_only)) };
        check("ibv_req_notify_cq", result)
    }

    /// Takes up to `most` events in; after the last one the descriptor is no longer readable. Returns how many
    /// there were. An event disarms the queue.
    ///
    /// # Errors
    /// The kernel's, other than that there is none.
    pub fn take_events(&self, most: u32) -> Result<u32, Error> {
        let _inside = Inside::enter();
        let api = self.device.api();
        let mut count = 0;
        let end = loop {
            if count == most {
                break Ok(count);
            }
            let (mut cq, mut context) = (core::ptr::null_mut(), core::ptr::null_mut());
            // SAFETY: a channel that lives and is not blocking; the only queue on it is this one.
            let result = unsafe {
                api.ibv_get_cq_event(self.channel.as_ptr(), &raw mut cq, &raw mut context)
            };
            if result != 0 {
                break match error::last_errno() {
                    Errno::AGAIN | Errno::INTR => Ok(count),
                    errno => Err(Error::Call {
                        call: "ibv_get_cq_event",
                        errno,
                    }),
                };
            }
            count += 1;
        };
        if count > 0 && self.taken.fetch_add(count, Ordering::AcqRel) + count >= ACKNOWLEDGE_AT {
            self.acknowledge();
        }
        end
    }

    fn acknowledge(&self) {
        let count = self.taken.swap(0, Ordering::AcqRel);
        if count > 0 {
            // SAFETY: a queue that lives, and as many events as were taken from it.
            unsafe {
                self.device
                    .api()
                    .ibv_ack_cq_events(self.raw.as_ptr(), count)
            };
        }
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_cq {
        self.raw.as_ptr()
    }
}

impl AsFd for Cq {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel lives as long as the borrow.
        sys::borrow(unsafe { (*self.channel.as_ptr()).fd })
    }
}

impl Drop for Cq {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return;
        }
        let _inside = Inside::enter();
        // libibverbs waits for them, and nobody else will.
        self.acknowledge();
        let api = self.device.api();
        // SAFETY: the last user; queue pairs hold the queue, so none is left.
        unsafe {
            api.ibv_destroy_cq(self.raw.as_ptr());
            api.ibv_destroy_comp_channel(self.channel.as_ptr());
        }
    }
}

impl core::fmt::Debug for Cq {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Cq")
            .field("capacity", &self.capacity())
            .field("fd", &self.as_fd())
            .finish()
    }
}
