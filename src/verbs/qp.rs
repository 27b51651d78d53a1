//! Queue pairs: posting work. Nothing on this path allocates, waits or takes a lock of ours.

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use std::sync::Arc;

use rdma_sys::{
    ibv_qp, ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_init_attr, ibv_qp_state, ibv_send_wr,
};

use super::cm::CmId;
use super::cq::Cq;
use super::device::Device;
use super::error::{self, Error, check};
use super::guard::{Inside, Owner};
use super::probe;
use super::wr::{self, NO_PIECE, NO_RECEIVE, outcome};
pub use super::wr::{Payload, Refused, SendOp, Slots, Verb};
use crate::real::sys::Errno;

/// Requests that reach the device with one doorbell at most: a longer chain rings once for each so many.
pub const MAX_CHAIN: usize = 16;

/// What a queue pair is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QpSetup {
    /// Send requests that may be outstanding.
    pub send_depth: u32,
    /// Receives that may be posted.
    pub recv_depth: u32,
    /// Bytes that a request may carry in itself; no more than the device's
    /// [`max_inline`](super::device::Attributes).
    pub max_inline: u32,
}

/// The state of a queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Made, or on its way to being connected.
    Connecting,
    /// Ready to send.
    Ready,
    /// Being shut down in order.
    Draining,
    /// Failed, or taken down: everything posted is flushed.
    Error,
}

/// A reliable connected queue pair. It holds what it is made on.
pub struct QueuePair {
    raw: NonNull<ibv_qp>,
    max_inline: u32,
    depths: (u32, u32),
    // Dropped after the queue pair itself is destroyed; the id last, for it is the one that the
    // connection manager knows.
    device: Arc<Device>,
    send_cq: Arc<Cq>,
    recv_cq: Arc<Cq>,
    id: Arc<CmId>,
    owner: Owner,
}

// SAFETY: verbs may be called from all threads; a provider has its own lock in each queue.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

impl QueuePair {
    /// Makes the queue pair of `id`, which must be bound to the device that the queues are of. Both
    /// queues must have room for all that can complete on them.
    ///
    /// # Errors
    /// [`Error::OtherDevice`]; [`Error::LockedMemory`]; `EINVAL` if the device does not do that much.
    pub fn create(
        id: &Arc<CmId>,
        send_cq: &Arc<Cq>,
        recv_cq: &Arc<Cq>,
        setup: QpSetup,
    ) -> Result<QueuePair, Error> {
        let device = send_cq.device();
        let is_its = id.context().map(NonNull::as_ptr) == Some(device.context());
        if !is_its || !Arc::ptr_eq(device, recv_cq.device()) {
            return Err(Error::OtherDevice);
        }
        let (send, receive) = (setup.send_depth, setup.recv_depth);
        let mut init = probe::init(
            send_cq.as_ptr(),
            recv_cq.as_ptr(),
            send,
            receive,
            setup.max_inline,
        );
        let _inside = Inside::enter();
        let _lock = id.channel().lock();
        // SAFETY: an id, a protection domain and queues that live, all of one device.
        let made = check("rdma_create_qp", unsafe {
            device
                .api()
                .rdma_create_qp(id.as_ptr(), device.pd(), &raw mut init)
        });
        made.map_err(|error| {
            let bytes = (send as usize + receive as usize) * size_of::<ibv_send_wr>();
            error::pinning("a queue pair", bytes, error)
        })?;
        // SAFETY: an id that lives.
        let raw = NonNull::new(unsafe { (*id.as_ptr()).qp }).ok_or(Error::OtherDevice)?;
        Ok(QueuePair {
            raw,
            // Some providers report more than was asked for, some nothing.
            max_inline: setup.max_inline,
            depths: (
                init.cap.max_send_wr.max(send),
                init.cap.max_recv_wr.max(receive),
            ),
            device: device.clone(),
            send_cq: send_cq.clone(),
            recv_cq: recv_cq.clone(),
            id: id.clone(),
            owner: Owner::this_process(),
        })
    }

    /// Posts requests, in order, with one doorbell for each [`MAX_CHAIN`] of them.
    ///
    /// Memory that the requests name must stay allocated until they have completed, or the queue pair
    /// is gone.
    ///
    /// # Errors
    /// Which request was refused first, and why; those after it were not posted either. The queue pair
    /// goes on as before.
    pub fn post(&self, ops: &[SendOp<'_>]) -> Result<(), Refused> {
        for (batch, chunk) in ops.chunks(MAX_CHAIN).enumerate() {
            self.post_chain(chunk).map_err(|refused| Refused {
                index: batch * MAX_CHAIN + refused.index,
                ..refused
            })?;
        }
        Ok(())
    }

    fn post_chain(&self, ops: &[SendOp<'_>]) -> Result<(), Refused> {
        let mut requests = [const { MaybeUninit::<ibv_send_wr>::uninit() }; MAX_CHAIN];
        let mut pieces = [NO_PIECE; MAX_CHAIN];
        let mut count = 0;
        for (op, (request, piece)) in ops.iter().zip(requests.iter_mut().zip(&mut pieces)) {
            if wr::write(op, self.max_inline, request, piece).is_none() {
                break;
            }
            count += 1;
        }
        // What does not lie in its memory is refused; what comes before it is posted, as a provider
        // would do.
        let sound = if count == ops.len() {
            Ok(())
        } else {
            Err(Refused {
                index: count,
                errno: Errno::INVAL,
            })
        };
        if count == 0 {
            return sound;
        }
        let first = requests.as_mut_ptr().cast::<ibv_send_wr>();
        for index in 1..count {
            // SAFETY: the first `count` requests are written.
            unsafe { (*first.add(index - 1)).next = first.add(index) };
        }
        let _inside = Inside::enter();
        let mut refused = core::ptr::null_mut();
        // SAFETY: a queue pair that lives and a chain of written requests, whose pieces lie in `pieces`,
        // in memory that was checked, or (inline) in slices that live until the call is over.
        let result = unsafe { rdma_sys::ibv_post_send(self.raw.as_ptr(), first, &raw mut refused) };
        outcome(result, first, refused, count)?;
        sound
    }

    /// Posts `count` receives with the numbers `wr_id`, `wr_id + 1`, and so on.
    ///
    /// # Errors
    /// As of [`post`](Self::post).
    pub fn post_receives(&self, wr_id: u64, slots: Slots<'_>, count: usize) -> Result<(), Refused> {
        for from in (0..count).step_by(MAX_CHAIN) {
            self.post_receive_chain(wr_id, slots, from, count.min(from + MAX_CHAIN))?;
        }
        Ok(())
    }

    fn post_receive_chain(
        &self,
        wr_id: u64,
        slots: Slots<'_>,
        from: usize,
        to: usize,
    ) -> Result<(), Refused> {
        let mut requests = [NO_RECEIVE; MAX_CHAIN];
        let mut pieces = [NO_PIECE; MAX_CHAIN];
        let places = requests.iter_mut().zip(&mut pieces);
        for (index, (request, place)) in (from..to).zip(places) {
            request.wr_id = wr_id.wrapping_add(index as u64);
            if let Some(piece) = slots.piece(index) {
                *place = piece.ok_or(Refused {
                    index: from,
                    errno: Errno::INVAL,
                })?;
                request.sg_list = &raw mut *place;
                request.num_sge = 1;
            }
        }
        let first = requests.as_mut_ptr();
        for index in 1..to - from {
            // SAFETY: there are `MAX_CHAIN` requests, and `to - from` is no more.
            unsafe { (*first.add(index - 1)).next = first.add(index) };
        }
        let _inside = Inside::enter();
        let mut refused = core::ptr::null_mut();
        // SAFETY: a queue pair that lives and a chain of requests whose pieces lie in `pieces`, in
        // memory that was checked.
        let result = unsafe { rdma_sys::ibv_post_recv(self.raw.as_ptr(), first, &raw mut refused) };
        outcome(result, first, refused, to - from).map_err(|refused| Refused {
            index: from + refused.index,
            ..refused
        })
    }

    /// Takes the queue pair down: everything posted completes as flushed.
    ///
    /// # Errors
    /// The provider's.
    pub fn to_error(&self) -> Result<(), Error> {
        let _inside = Inside::enter();
        probe::to_error(self.device.api(), self.raw).map_err(|errno| Error::Call {
            call: "ibv_modify_qp",
            errno,
        })
    }

    /// The device's view of its state.
    ///
    /// # Errors
    /// The provider's.
    pub fn state(&self) -> Result<State, Error> {
        let _inside = Inside::enter();
        // SAFETY: all zero is valid for these structs of pointers and numbers.
        let (mut attributes, mut init) = unsafe {
            (
                core::mem::zeroed::<ibv_qp_attr>(),
                core::mem::zeroed::<ibv_qp_init_attr>(),
            )
        };
        let mask = ibv_qp_attr_mask::IBV_QP_STATE.0 as i32;
        // SAFETY: a queue pair that lives, and room for the answers.
        check("ibv_query_qp", unsafe {
            self.device.api().ibv_query_qp(
                self.raw.as_ptr(),
                &raw mut attributes,
                mask,
                &raw mut init,
            )
        })?;
        Ok(match attributes.qp_state {
            ibv_qp_state::IBV_QPS_RESET
            | ibv_qp_state::IBV_QPS_INIT
            | ibv_qp_state::IBV_QPS_RTR => State::Connecting,
            ibv_qp_state::IBV_QPS_RTS => State::Ready,
            ibv_qp_state::IBV_QPS_SQD => State::Draining,
            _ => State::Error,
        })
    }

    /// Its number, as completions and events carry it.
    pub fn number(&self) -> u32 {
        // SAFETY: a queue pair that lives.
        unsafe { (*self.raw.as_ptr()).qp_num }
    }

    /// Bytes that a request may carry in itself.
    #[inline]
    pub fn max_inline(&self) -> u32 {
        self.max_inline
    }

    /// Send requests that may be outstanding: at least what was asked for.
    pub fn send_depth(&self) -> u32 {
        self.depths.0
    }

    /// Receives that may be posted: at least what was asked for.
    pub fn recv_depth(&self) -> u32 {
        self.depths.1
    }

    /// The connection that it is of.
    pub fn id(&self) -> &Arc<CmId> {
        &self.id
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Where its send requests complete.
    pub fn send_cq(&self) -> &Arc<Cq> {
        &self.send_cq
    }

    /// Where its receives complete.
    pub fn recv_cq(&self) -> &Arc<Cq> {
        &self.recv_cq
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return;
        }
        let _inside = Inside::enter();
        let _lock = self.id.channel().lock();
        // SAFETY: its only user; the id lives. What has completed stays in the queues and may still be
        // polled.
        unsafe { self.device.api().rdma_destroy_qp(self.id.as_ptr()) };
    }
}

impl core::fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("QueuePair")
            .field("number", &self.number())
            .field("depths", &self.depths)
            .field("max_inline", &self.max_inline)
            .finish()
    }
}
