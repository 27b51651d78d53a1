//! Events of a device itself.

use rdma_sys::{ibv_async_event, ibv_event_type as event};

/// Something that happened to the device itself, or to what is on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsyncEvent {
    /// This queue pair is in the error state for good.
    QpFatal {
        /// Its number.
        qp_num: u32,
    },
    /// A completion queue has overrun or failed: what is on it is lost.
    CqError,
    /// The device has failed: everything on it is lost.
    DeviceFatal,
    /// A port is up.
    PortUp(u8),
    /// A port is down.
    PortDown(u8),
    /// Addresses of the device have changed.
    AddressesChanged,
}

/// What an event says; `None` if it is of no interest.
///
/// # Safety
/// The event was got and is not acknowledged.
pub(super) unsafe fn read(raw: *const ibv_async_event) -> Option<AsyncEvent> {
    // A newer library may know more kinds than the enum does: as a number, then.
    // SAFETY: by the contract; the kind says which member of the union is there.
    unsafe {
        let kind = (&raw const (*raw).event_type).cast::<u32>().read();
        let port = |raw: *const ibv_async_event| (*raw).element.port_num as u8;
        Some(match kind {
            k if k == event::IBV_EVENT_QP_FATAL as u32
                || k == event::IBV_EVENT_QP_REQ_ERR as u32
                || k == event::IBV_EVENT_QP_ACCESS_ERR as u32 =>
            {
                AsyncEvent::QpFatal {
                    qp_num: (*(*raw).element.qp).qp_num,
                }
            }
            k if k == event::IBV_EVENT_CQ_ERR as u32 => AsyncEvent::CqError,
            k if k == event::IBV_EVENT_DEVICE_FATAL as u32 => AsyncEvent::DeviceFatal,
            k if k == event::IBV_EVENT_PORT_ACTIVE as u32 => AsyncEvent::PortUp(port(raw)),
            k if k == event::IBV_EVENT_PORT_ERR as u32 => AsyncEvent::PortDown(port(raw)),
            k if k == event::IBV_EVENT_GID_CHANGE as u32 => AsyncEvent::AddressesChanged,
            _ => return None,
        })
    }
}
