//! What can go wrong between two machines.

use crate::guest::Guest;
use crate::net::{self, Kind, Undo};
use crate::transfer::Transfer;

/// Something that goes wrong, until it is dropped.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The interface is down.
    LinkDown(Guest),
    /// Nothing of what a guest sends arrives.
    Mute(Guest),
    /// So many of a hundred packets that a guest sends do not arrive.
    Loss(Guest, u32),
    /// The RDMA device is removed.
    NoDevice(Guest),
    /// The program does not run.
    Stopped(Guest),
}

impl Fault {
    /// It is so from now on.
    pub fn begin(self, transfer: &Transfer) -> Undo {
        match self {
            Fault::LinkDown(guest) => net::link_down(guest, 0),
            Fault::Mute(guest) => net::netem(guest, 0, "loss 100%"),
            Fault::Loss(guest, percent) => net::netem(guest, 0, &format!("loss {percent}%")),
            Fault::NoDevice(guest) => net::remove_device(guest, 0),
            Fault::Stopped(guest) => {
                let program = match guest == Guest::local() {
                    true => &transfer.client,
                    false => &transfer.server,
                };
                let pid = program.pid();
                net::with_undo(
                    guest,
                    &format!("kill -STOP {pid}"),
                    format!("kill -CONT {pid}"),
                )
            }
        }
    }

    /// It is over.
    ///
    /// Soft RoCE sends nothing of its connection manager any more once it tried to while the interface was down:
    /// its queue pair for that is in the error state, and stays there. A new device has a new one.
    pub fn end(self, undo: Undo) {
        drop(undo);
        if let (Fault::LinkDown(guest), Kind::Rxe) = (self, Kind::of_this_run()) {
            drop(net::remove_device(guest, 0));
        }
    }
}
