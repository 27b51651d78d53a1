//! Completion queues: where the device says what has become of work requests, and the descriptor by
//! which a sleeping thread learns that it has said something.
//!
//! To sleep without missing anything: [`Cq::arm`], [`Cq::poll`] once more, and only if that finds
//! nothing wait for the descriptor; afterwards [`Cq::take_events`], then poll again.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use rdma_sys::{ibv_comp_channel, ibv_cq, ibv_wc, ibv_wc_opcode, ibv_wc_status};
use rustix::fd::{AsFd, BorrowedFd};

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
            *fd = guard::raise(*fd, device.hides());
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
                unsafe {
                    guard::expose((*channel.as_ptr()).fd);
                    api.ibv_destroy_comp_channel(channel.as_ptr());
                }
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

    /// Takes completions out, in the order in which they happened; returns how many. Never waits and
    /// makes no system call on any known device.
    ///
    /// # Errors
    /// The provider's; the queue is then of no further use.
    #[inline]
    pub fn poll(&self, into: &mut [Completion]) -> Result<usize, Error> {
        let room = i32::try_from(into.len()).unwrap_or(i32::MAX);
        // SAFETY: a queue that lives, and room for as many completions: `Completion` is an `ibv_wc`.
        let count =
            unsafe { rdma_sys::ibv_poll_cq(self.raw.as_ptr(), room, into.as_mut_ptr().cast()) };
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

    /// Takes the events in, so that the descriptor is no longer readable; returns how many there were.
    /// An event disarms the queue.
    ///
    /// # Errors
    /// The kernel's, other than that there is none.
    pub fn take_events(&self) -> Result<u32, Error> {
        let _inside = Inside::enter();
        let api = self.device.api();
        let mut count = 0;
        let end = loop {
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
            guard::expose((*self.channel.as_ptr()).fd);
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

/// What has become of a work request.
#[repr(transparent)]
pub struct Completion(ibv_wc);

/// What kind of work a completion is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A send, RDMA write, or anything else of the send queue.
    Send,
    /// A receive that a message came into.
    Receive,
    /// A receive that an RDMA write with immediate data used up.
    ReceiveWriteImm,
}

/// Why a work request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The `ibv_wc_status`.
    pub status: u32,
    /// The vendor's own code.
    pub vendor: u32,
}

impl Completion {
    /// For buffers that [`Cq::poll`] fills.
    pub const EMPTY: Completion = Completion(ibv_wc {
        wr_id: 0,
        status: ibv_wc_status::IBV_WC_SUCCESS,
        opcode: ibv_wc_opcode::IBV_WC_SEND,
        vendor_err: 0,
        byte_len: 0,
        imm_data_invalidated_rkey_union: rdma_sys::imm_data_invalidated_rkey_union_t {
            imm_data: 0,
        },
        qp_num: 0,
        src_qp: 0,
        wc_flags: 0,
        pkey_index: 0,
        slid: 0,
        sl: 0,
        dlid_path_bits: 0,
    });

    /// The number that the work request was given.
    #[inline]
    pub fn wr_id(&self) -> u64 {
        self.0.wr_id
    }

    /// The number of the queue pair.
    #[inline]
    pub fn qp_num(&self) -> u32 {
        self.0.qp_num
    }

    /// Whether it failed, and why. Of a failed request only this, `wr_id` and `qp_num` mean anything.
    #[inline]
    pub fn failure(&self) -> Option<Failure> {
        (self.0.status != ibv_wc_status::IBV_WC_SUCCESS).then_some(Failure {
            status: self.0.status,
            vendor: self.0.vendor_err,
        })
    }

    /// What kind of work it was.
    #[inline]
    pub fn work(&self) -> Work {
        match self.0.opcode {
            ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM => Work::ReceiveWriteImm,
            opcode if opcode & ibv_wc_opcode::IBV_WC_RECV != 0 => Work::Receive,
            _ => Work::Send,
        }
    }

    /// Of a receive, how many bytes came: the message's, or those that the RDMA write wrote.
    #[inline]
    pub fn len(&self) -> u32 {
        self.0.byte_len
    }

    /// Whether no bytes came.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of a receive, the immediate data that came, if any.
    #[inline]
    pub fn imm(&self) -> Option<u32> {
        const WITH_IMM: u32 = rdma_sys::ibv_wc_flags::IBV_WC_WITH_IMM.0;
        // SAFETY: all members of the union are numbers of the same size.
        let data = unsafe { self.0.imm_data_invalidated_rkey_union.imm_data };
        (self.0.wc_flags & WITH_IMM != 0).then_some(u32::from_be(data))
    }
}

impl core::fmt::Debug for Completion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut shown = f.debug_struct("Completion");
        shown
            .field("wr_id", &self.wr_id())
            .field("qp_num", &self.qp_num());
        match self.failure() {
            Some(failure) => shown.field("failure", &failure),
            None => shown
                .field("work", &self.work())
                .field("len", &self.len())
                .field("imm", &self.imm()),
        };
        shown.finish()
    }
}

impl Failure {
    /// Whether the request was merely in the queue when the queue pair failed, or was taken down.
    pub fn is_flush(self) -> bool {
        self.status == ibv_wc_status::IBV_WC_WR_FLUSH_ERR
    }

    /// Whether the peer did not answer in time.
    pub fn is_timeout(self) -> bool {
        matches!(
            self.status,
            ibv_wc_status::IBV_WC_RETRY_EXC_ERR | ibv_wc_status::IBV_WC_RNR_RETRY_EXC_ERR
        )
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let name = match self.status {
            ibv_wc_status::IBV_WC_LOC_LEN_ERR => "local length error",
            ibv_wc_status::IBV_WC_LOC_QP_OP_ERR => "local queue pair operation error",
            ibv_wc_status::IBV_WC_LOC_PROT_ERR => "local protection error",
            ibv_wc_status::IBV_WC_WR_FLUSH_ERR => "flushed",
            ibv_wc_status::IBV_WC_BAD_RESP_ERR => "bad response",
            ibv_wc_status::IBV_WC_LOC_ACCESS_ERR => "local access error",
            ibv_wc_status::IBV_WC_REM_INV_REQ_ERR => "remote invalid request",
            ibv_wc_status::IBV_WC_REM_ACCESS_ERR => "remote access error",
            ibv_wc_status::IBV_WC_REM_OP_ERR => "remote operation error",
            ibv_wc_status::IBV_WC_RETRY_EXC_ERR => "the peer does not answer",
            ibv_wc_status::IBV_WC_RNR_RETRY_EXC_ERR => "the peer has no receive posted",
            ibv_wc_status::IBV_WC_REM_ABORT_ERR => "remote abort",
            ibv_wc_status::IBV_WC_FATAL_ERR => "fatal device error",
            ibv_wc_status::IBV_WC_RESP_TIMEOUT_ERR => "response timeout",
            ibv_wc_status::IBV_WC_GENERAL_ERR => "general error",
            _ => "other error",
        };
        write!(
            f,
            "{name} (status {}, vendor code {:#x})",
            self.status, self.vendor
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(change: impl FnOnce(&mut ibv_wc)) -> Completion {
        let mut completion = Completion::EMPTY;
        change(&mut completion.0);
        completion
    }

    #[test]
    fn completions_tell_what_they_are_of() {
        assert_eq!(size_of::<Completion>(), size_of::<ibv_wc>());
        let write = completion(|wc| wc.opcode = ibv_wc_opcode::IBV_WC_RDMA_WRITE);
        assert_eq!((write.work(), write.imm()), (Work::Send, None));
        let message = completion(|wc| {
            wc.opcode = ibv_wc_opcode::IBV_WC_RECV;
            wc.byte_len = 16;
        });
        assert_eq!((message.work(), message.len()), (Work::Receive, 16));
        let written = completion(|wc| {
            wc.opcode = ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM;
            wc.wc_flags = rdma_sys::ibv_wc_flags::IBV_WC_WITH_IMM.0;
            wc.imm_data_invalidated_rkey_union.imm_data = 7u32.to_be();
        });
        assert_eq!(
            (written.work(), written.imm()),
            (Work::ReceiveWriteImm, Some(7))
        );
    }

    #[test]
    fn failures_speak() {
        let failed = completion(|wc| {
            wc.status = ibv_wc_status::IBV_WC_RETRY_EXC_ERR;
            wc.vendor_err = 0x81;
        });
        let failure = failed.failure().unwrap();
        assert!(failure.is_timeout() && !failure.is_flush());
        assert_eq!(
            failure.to_string(),
            "the peer does not answer (status 12, vendor code 0x81)"
        );
        assert!(Completion::EMPTY.failure().is_none());
    }
}
