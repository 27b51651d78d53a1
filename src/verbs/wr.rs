//! Work requests as libibverbs wants them, on the stack.

use core::mem::MaybeUninit;

use rdma_sys::{ibv_send_flags, ibv_send_wr, ibv_sge, ibv_wr_opcode};

use super::pool::{Region, RemoteAddress};

/// What a send request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Writes to the peer's memory, unnoticed by it.
    Write(RemoteAddress),
    /// Writes to the peer's memory and uses up a receive of it, which gets this number.
    WriteImm(RemoteAddress, u32),
    /// Sends a message into a receive of the peer.
    Send,
}

/// What bytes a send request carries.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// None.
    Empty,
    /// These, copied into the request when it is posted: at most
    /// [`max_inline`](super::qp::QueuePair::max_inline).
    Bytes(&'a [u8]),
    /// `len` bytes of registered memory from `offset` on. If they fit they are copied into the request;
    /// else the device reads them until the request has completed.
    Region {
        /// The memory.
        region: &'a Region,
        /// Where in it they begin.
        offset: usize,
        /// How many there are.
        len: usize,
    },
}

/// One request for the send queue.
#[derive(Debug, Clone, Copy)]
pub struct SendOp<'a> {
    /// The number that its completion carries.
    pub wr_id: u64,
    /// What it does.
    pub verb: Verb,
    /// With what bytes.
    pub payload: Payload<'a>,
    /// Whether it makes a completion if it succeeds. Its place in the queue, and those of all before
    /// it, are free again only when a signaled request has completed: signal one in a few.
    pub signaled: bool,
    /// Whether it wakes a peer whose completion queue is armed for solicited events only. Of no effect
    /// on plain writes, and on none at all on soft iWARP (see [`Cq::arm`](super::cq::Cq::arm)).
    pub solicited: bool,
}

/// Writes one request, without its link to the next; `None` if it does not lie in its region or is
/// inline and too long. `sge` must stay where it is until the request is posted.
pub(super) fn write(
    op: &SendOp<'_>,
    max_inline: u32,
    request: &mut MaybeUninit<ibv_send_wr>,
    sge: &mut ibv_sge,
) -> Option<()> {
    let mut flags = 0;
    if op.signaled {
        flags |= ibv_send_flags::IBV_SEND_SIGNALED.0;
    }
    if op.solicited {
        flags |= ibv_send_flags::IBV_SEND_SOLICITED.0;
    }
    let pieces = match op.payload {
        Payload::Empty | Payload::Bytes([]) | Payload::Region { len: 0, .. } => 0,
        Payload::Bytes(bytes) => {
            if bytes.len() > max_inline as usize {
                return None;
            }
            flags |= ibv_send_flags::IBV_SEND_INLINE.0;
            *sge = ibv_sge {
                addr: bytes.as_ptr() as u64,
                length: bytes.len() as u32,
                lkey: 0,
            };
            1
        }
        Payload::Region {
            region,
            offset,
            len,
        } => {
            if len <= max_inline as usize {
                flags |= ibv_send_flags::IBV_SEND_INLINE.0;
            }
            *sge = region.sge(offset, len)?;
            1
        }
    };
    // SAFETY: all zero is valid for this struct of pointers and numbers.
    let mut raw: ibv_send_wr = unsafe { core::mem::zeroed() };
    raw.wr_id = op.wr_id;
    raw.sg_list = &raw mut *sge;
    raw.num_sge = pieces;
    raw.send_flags = flags;
    let mut to = |remote: RemoteAddress| {
        raw.wr.rdma = rdma_sys::rdma_t {
            remote_addr: remote.address,
            rkey: remote.rkey,
        };
    };
    raw.opcode = match op.verb {
        Verb::Write(remote) => {
            to(remote);
            ibv_wr_opcode::IBV_WR_RDMA_WRITE
        }
        Verb::WriteImm(remote, number) => {
            to(remote);
            raw.imm_data_invalidated_rkey_union.imm_data = number.to_be();
            ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM
        }
        Verb::Send => ibv_wr_opcode::IBV_WR_SEND,
    };
    request.write(raw);
    Some(())
}

/// A write of no bytes to nowhere.
pub(super) fn write_of_nothing(opcode: ibv_wr_opcode::Type) -> ibv_send_wr {
    // SAFETY: all zero is valid for this struct of pointers and numbers.
    let mut raw: ibv_send_wr = unsafe { core::mem::zeroed() };
    raw.opcode = opcode;
    raw.send_flags = ibv_send_flags::IBV_SEND_SIGNALED.0;
    raw
}
