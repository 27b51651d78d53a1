//! What completion queues give out.

use rdma_sys::{ibv_wc, ibv_wc_opcode, ibv_wc_status};

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
    /// For buffers that [`Cq::poll`](super::cq::Cq::poll) fills.
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
