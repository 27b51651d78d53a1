//! Work requests as libibverbs wants them, on the stack.

use core::mem::MaybeUninit;

use rdma_sys::{ibv_recv_wr, ibv_send_flags, ibv_send_wr, ibv_sge, ibv_wr_opcode};

use super::error::{self, code};
use super::region::{Region, RemoteAddress};
use crate::real::sys::Errno;

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

impl Payload<'_> {
    /// How many bytes they are.
    pub fn size(&self) -> usize {
        match self {
            Payload::Empty => 0,
            Payload::Bytes(bytes) => bytes.len(),
            Payload::Region { len, .. } => *len,
        }
    }
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

/// Memory for receives.
#[derive(Debug, Clone, Copy)]
pub enum Slots<'a> {
    /// None: for writes with immediate data. Devices without these may refuse such receives.
    None,
    /// The receive with index `i` gets `size` bytes of the region from `offset + i * size` on. They must
    /// stay allocated until the receive has completed, or the queue pair is gone.
    Region {
        /// The memory.
        region: &'a Region,
        /// Where in it the first one begins.
        offset: usize,
        /// How long each is.
        size: usize,
    },
}

impl Slots<'_> {
    /// The piece of the receive with that index, if it has one; `Some(None)` if that does not lie in
    /// the region.
    pub(super) fn piece(&self, index: usize) -> Option<Option<ibv_sge>> {
        match *self {
            Slots::None => None,
            Slots::Region {
                region,
                offset,
                size,
            } => {
                let at = index
                    .checked_mul(size)
                    .and_then(|at| at.checked_add(offset));
                Some(at.and_then(|at| region.sge(at, size)))
            }
        }
    }
}

/// A piece to be filled in.
pub(super) const NO_PIECE: ibv_sge = ibv_sge {
    addr: 0,
    length: 0,
    lkey: 0,
};

/// A receive to be filled in.
pub(super) const NO_RECEIVE: ibv_recv_wr = ibv_recv_wr {
    wr_id: 0,
    next: core::ptr::null_mut(),
    sg_list: core::ptr::null_mut(),
    num_sge: 0,
};

/// What a call that posts has done, of `count` requests that lie in a row from `first` on.
///
/// `refused` must be looked at whatever the result is: libsiw answers 0 if it has refused a request but
/// then rung the doorbell for those before it.
pub(super) fn outcome<T>(
    result: i32,
    first: *mut T,
    refused: *mut T,
    count: usize,
) -> Result<(), Refused> {
    let errno = match code(result) {
        Ok(()) if refused.is_null() => return Ok(()),
        Ok(()) => Errno::INVAL,
        Err(errno) => errno,
    };
    let index = match refused.is_null() {
        true => count,
        false => (refused as usize).wrapping_sub(first as usize) / size_of::<T>(),
    };
    Err(Refused {
        index: index.min(count),
        errno,
    })
}

/// Requests that were not posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("work request {index} was refused: {}", error::text(*.errno))]
pub struct Refused {
    /// The first that was not posted; those before it were. When it is the number of all requests, they
    /// are in the queue but the doorbell failed: the queue pair is of no further use.
    pub index: usize,
    /// Why: `ENOMEM` if the queue is full, `EINVAL` if the request does not lie in its memory or the
    /// device does not do such a thing, `EIO` or others if the queue pair is in the error state.
    pub errno: Errno,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_told_in_all_the_ways_of_providers() {
        let mut chain = [0u64; 4];
        let first = chain.as_mut_ptr();
        let third = first.wrapping_add(2);
        let nothing = core::ptr::null_mut();
        assert_eq!(outcome(0, first, nothing, 4), Ok(()));
        let refused = |index, errno| Err(Refused { index, errno });
        assert_eq!(
            outcome(libc::ENOMEM, first, third, 4),
            refused(2, Errno::NOMEM)
        );
        assert_eq!(
            outcome(-libc::EINVAL, first, third, 4),
            refused(2, Errno::INVAL)
        );
        assert_eq!(outcome(0, first, third, 4), refused(2, Errno::INVAL), "siw");
        assert_eq!(
            outcome(libc::EIO, first, nothing, 4),
            refused(4, Errno::IO),
            "doorbell"
        );
    }
}
