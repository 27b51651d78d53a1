//! Finding out what a device does not tell: how much it takes inline, and whether it writes with
//! immediate data. By trying, on a queue pair that never connects; never by the device's name.

use core::ptr::NonNull;

use rdma_sys::{
    ibv_context, ibv_cq, ibv_pd, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_init_attr,
    ibv_qp_state, ibv_qp_type, ibv_wr_opcode,
};

use super::api::Api;
use super::error::{Error, code, made};
use super::wr;

/// The most inline data that we want: beyond this a copy by the processor costs more than the device's
/// own fetch.
pub const INLINE_WANTED: u32 = 256;

/// What to try, downwards: 96 is eRDMA's limit, 80 siw's.
const INLINE_TRIES: [u32; 12] = [
    INLINE_WANTED,
    224,
    192,
    160,
    128,
    112,
    96,
    80,
    64,
    32,
    16,
    0,
];

/// Work requests on the trial queue pair, and completions that they can make.
const DEPTH: u32 = 4;

/// What was found.
pub(super) struct Found {
    pub(super) max_inline: u32,
    pub(super) write_imm: bool,
}

/// Tries a device out.
///
/// # Errors
/// The provider's, if it makes no queue pair at all.
pub(super) fn probe(
    api: &Api,
    context: NonNull<ibv_context>,
    pd: NonNull<ibv_pd>,
) -> Result<Found, Error> {
    let nothing = core::ptr::null_mut();
    // SAFETY: a context that lives.
    let cq = made("ibv_create_cq", unsafe {
        let entries = 2 * DEPTH as i32;
        api.ibv_create_cq(context.as_ptr(), entries, nothing, core::ptr::null_mut(), 0)
    })?;
    let found = try_inline(api, pd, cq).map(|(qp, max_inline)| {
        let write_imm = try_write_imm(api, qp);
        // SAFETY: its only user.
        unsafe { api.ibv_destroy_qp(qp.as_ptr()) };
        Found {
            max_inline,
            write_imm,
        }
    });
    // SAFETY: no queue pair is left on it.
    unsafe { api.ibv_destroy_cq(cq.as_ptr()) };
    found
}

/// A queue pair with as much inline room as the device gives.
fn try_inline(
    api: &Api,
    pd: NonNull<ibv_pd>,
    cq: NonNull<ibv_cq>,
) -> Result<(NonNull<ibv_qp>, u32), Error> {
    let mut last = Error::OtherDevice;
    for max_inline in INLINE_TRIES {
        let mut init = init(cq.as_ptr(), cq.as_ptr(), DEPTH, DEPTH, max_inline);
        // SAFETY: a protection domain and queues that live.
        match made("ibv_create_qp", unsafe {
            api.ibv_create_qp(pd.as_ptr(), &raw mut init)
        }) {
            Ok(qp) => return Ok((qp, max_inline)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What a queue pair is made with.
pub(super) fn init(
    send_cq: *mut ibv_cq,
    recv_cq: *mut ibv_cq,
    send_depth: u32,
    recv_depth: u32,
    max_inline: u32,
) -> ibv_qp_init_attr {
    // SAFETY: all zero is valid for this struct of pointers and numbers.
    let mut init: ibv_qp_init_attr = unsafe { core::mem::zeroed() };
    init.send_cq = send_cq;
    init.recv_cq = recv_cq;
    init.qp_type = ibv_qp_type::IBV_QPT_RC;
    // Some devices refuse an empty queue.
    init.cap.max_send_wr = send_depth.max(1);
    init.cap.max_recv_wr = recv_depth.max(1);
    // A receive with more than one piece is too much for some devices, and nothing of ours has more.
    init.cap.max_send_sge = 1;
    init.cap.max_recv_sge = 1;
    init.cap.max_inline_data = max_inline;
    init
}

/// Whether the device writes with immediate data. In the error state requests may be posted (they are
/// flushed), so a provider that refuses this kind and takes a plain write cannot do it.
fn try_write_imm(api: &Api, qp: NonNull<ibv_qp>) -> bool {
    if to_error(api, qp).is_err() {
        // A refusal at run time will tell.
        return true;
    }
    let accepted = |opcode| {
        let mut request = wr::write_of_nothing(opcode);
        let mut refused = core::ptr::null_mut();
        // SAFETY: a queue pair that lives, and one request without memory. It goes nowhere.
        let result =
            unsafe { rdma_sys::ibv_post_send(qp.as_ptr(), &raw mut request, &raw mut refused) };
        result == 0 && refused.is_null()
    };
    let plain = accepted(ibv_wr_opcode::IBV_WR_RDMA_WRITE);
    let with_imm = accepted(ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM);
    // A provider that takes neither in this state says nothing about the kind.
    with_imm || !plain
}

/// Puts a queue pair into the error state.
pub(super) fn to_error(api: &Api, qp: NonNull<ibv_qp>) -> Result<(), crate::real::sys::Errno> {
    // SAFETY: all zero is valid for this struct of numbers.
    let mut attributes: ibv_qp_attr = unsafe { core::mem::zeroed() };
    attributes.qp_state = ibv_qp_state::IBV_QPS_ERR;
    let mask = ibv_qp_attr_mask::IBV_QP_STATE.0 as i32;
    // SAFETY: a queue pair that lives.
    code(unsafe { api.ibv_modify_qp(qp.as_ptr(), &raw mut attributes, mask) })
}
