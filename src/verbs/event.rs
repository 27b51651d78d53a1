//! Events of connections.

use core::ptr::NonNull;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use rdma_sys::rdma_cm_event_type as event_type;
use rdma_sys::{rdma_cm_event, rdma_cm_id, rdma_conn_param, rdma_event_channel};
use rustix::fd::{AsFd, BorrowedFd};

use super::api::Api;
use super::cm::OWN_TOKEN;
use super::device::{self, Device};
use super::error::{Error, errno, made};
use super::guard::{self, Inside, Owner};
use super::id::CmId;
use super::private_data::PrivateData;
use crate::real::sys::{self, Errno};

/// Where events of connections arrive.
pub struct EventChannel {
    api: &'static Api,
    raw: NonNull<rdma_event_channel>,
    /// Held in every call on the channel and its ids.
    calls: Mutex<()>,
    owner: Owner,
}

// SAFETY: librdmacm may be called from all threads; `calls` keeps calls on one channel's ids apart.
unsafe impl Send for EventChannel {}
// SAFETY: as above.
unsafe impl Sync for EventChannel {}

/// What happened to an id.
#[derive(Debug)]
pub struct Event {
    /// The token of the id; of a [`EventKind::ConnectRequest`], that of the listener.
    pub token: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen to an id. Statuses are as the device or the kernel gives them: negative error codes,
/// or reasons of the transport's own.
#[derive(Debug)]
pub enum EventKind {
    /// The peer's address leads to a device: [`CmId::resolve_route`] is next.
    AddressResolved,
    /// It does not.
    AddressError(Errno),
    /// A path is known: the queue pair and [`CmId::connect`] are next.
    RouteResolved,
    /// No path was found.
    RouteError(Errno),
    /// Somebody wants to connect. Dropping the id refuses.
    ConnectRequest {
        /// The connection's own id, on the listener's channel, without a token yet.
        id: CmId,
        /// What the peer said; `None` if it is not in our form.
        data: Option<PrivateData>,
    },
    /// Connecting failed half-way.
    ConnectError(i32),
    /// The peer's host does not answer.
    Unreachable(i32),
    /// The peer refused, or nobody listens there. On InfiniBand and RoCE this comes even after
    /// `Established` if the peer's process ended before it had noticed that the connection stands: then
    /// it means the same as `Disconnected`.
    Rejected {
        /// The transport's reason. InfiniBand and RoCE: 28 is the application's refusal, 8 that nobody
        /// listens. iWARP: `-ECONNRESET` or `-ECONNREFUSED` for all.
        status: i32,
        /// What the peer said.
        data: Option<PrivateData>,
    },
    /// The connection stands.
    Established {
        /// What the accepting side said, on the connecting side.
        data: Option<PrivateData>,
    },
    /// The peer has disconnected, or its process has ended.
    Disconnected,
    /// The id's device is being removed: the connection is over.
    DeviceRemoval,
    /// A device is being removed. Everything on it is to be dropped, this reference too: the removal may
    /// wait for it. Its token is [`OWN_TOKEN`].
    DeviceGone(Arc<Device>),
    /// The address of the id has moved to another device.
    AddressChange,
    /// The queue pair has left the time in which late packets may arrive.
    TimewaitExit,
}

impl EventChannel {
    /// Opens a channel; its descriptor is non-blocking and out of the application's way.
    ///
    /// # Errors
    /// librdmacm's: `ENODEV` on a host without RDMA device, for example.
    pub fn create(api: &'static Api) -> Result<Arc<EventChannel>, Error> {
        let _inside = Inside::enter();
        // SAFETY: no precondition.
        let raw = made("rdma_create_event_channel", unsafe {
            api.rdma_create_event_channel()
        })?;
        // SAFETY: just made; librdmacm takes the number from this field at each use.
        unsafe {
            let fd = &raw mut (*raw.as_ptr()).fd;
            *fd = guard::raise(*fd);
        }
        Ok(Arc::new(EventChannel {
            api,
            raw,
            calls: Mutex::new(()),
            owner: Owner::this_process(),
        }))
    }

    /// The opened libraries.
    pub fn api(&self) -> &'static Api {
        self.api
    }

    /// For calls that are made elsewhere, with the lock held.
    pub(super) fn as_ptr(&self) -> *mut rdma_event_channel {
        self.raw.as_ptr()
    }

    /// Keeps other threads' calls on this channel's ids out.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.calls.lock()
    }

    /// The next event, if one has arrived.
    ///
    /// # Errors
    /// The kernel's, other than that there is none.
    pub fn next_event(self: &Arc<Self>) -> Result<Option<Event>, Error> {
        let _inside = Inside::enter();
        loop {
            match self.take_event()? {
                Taken::None => return Ok(None),
                Taken::Event(event) => return Ok(Some(event)),
                Taken::Removal(pin) => {
                    let gone = device::gone(|device| device.is_pinned_by(pin));
                    if let Some(device) = gone.into_iter().next() {
                        return Ok(Some(Event {
                            token: OWN_TOKEN,
                            kind: EventKind::DeviceGone(device),
                        }));
                    }
                }
                Taken::Other => {}
            }
        }
    }

    fn take_event(self: &Arc<Self>) -> Result<Taken, Error> {
        let _lock = self.lock();
        let mut raw = core::ptr::null_mut();
        // SAFETY: a channel that lives, and a place for the event.
        let result = unsafe { self.api.rdma_get_cm_event(self.raw.as_ptr(), &raw mut raw) };
        if result != 0 {
            let error = Error::last("rdma_get_cm_event");
            return match error.errno() {
                Some(Errno::AGAIN | Errno::INTR) => Ok(Taken::None),
                _ => Err(error),
            };
        }
        // SAFETY: an event that was just got: it and its id live until it is acknowledged, which nobody
        // else does.
        let taken = unsafe { self.read(&*raw) };
        // SAFETY: once for each event. Destroying an id waits until all its events are acknowledged.
        unsafe { self.api.rdma_ack_cm_event(raw) };
        Ok(taken)
    }

    /// Copies what an event says.
    ///
    /// # Safety
    /// The event is not acknowledged yet.
    unsafe fn read(self: &Arc<Self>, event: &rdma_cm_event) -> Taken {
        let status = event.status;
        let errno = || errno(status);
        // SAFETY: connections of RDMA_PS_TCP have this kind of parameters in every event.
        let data = || unsafe { read_private(&event.param.conn) };
        let kind = match event.event {
            event_type::RDMA_CM_EVENT_ADDR_RESOLVED => EventKind::AddressResolved,
            event_type::RDMA_CM_EVENT_ADDR_ERROR => EventKind::AddressError(errno()),
            event_type::RDMA_CM_EVENT_ROUTE_RESOLVED => EventKind::RouteResolved,
            event_type::RDMA_CM_EVENT_ROUTE_ERROR => EventKind::RouteError(errno()),
            event_type::RDMA_CM_EVENT_CONNECT_REQUEST => {
                let Some(raw) = NonNull::new(event.id) else {
                    return Taken::Other;
                };
                let id = CmId::new(raw, self);
                // SAFETY: a request names the listener, which waits for this event's acknowledgement
                // before it goes.
                let token = unsafe { (*event.listen_id).context } as u64;
                let kind = EventKind::ConnectRequest { id, data: data() };
                return Taken::Event(Event { token, kind });
            }
            event_type::RDMA_CM_EVENT_CONNECT_ERROR => EventKind::ConnectError(status),
            event_type::RDMA_CM_EVENT_UNREACHABLE => EventKind::Unreachable(status),
            event_type::RDMA_CM_EVENT_REJECTED => EventKind::Rejected {
                status,
                data: data(),
            },
            event_type::RDMA_CM_EVENT_ESTABLISHED => EventKind::Established { data: data() },
            event_type::RDMA_CM_EVENT_DISCONNECTED => EventKind::Disconnected,
            event_type::RDMA_CM_EVENT_DEVICE_REMOVAL => EventKind::DeviceRemoval,
            event_type::RDMA_CM_EVENT_ADDR_CHANGE => EventKind::AddressChange,
            event_type::RDMA_CM_EVENT_TIMEWAIT_EXIT => EventKind::TimewaitExit,
            _ => return Taken::Other,
        };
        // SAFETY: the id waits for this event's acknowledgement before it goes.
        let token = unsafe { (*event.id).context } as u64;
        match (token, kind) {
            (OWN_TOKEN, EventKind::DeviceRemoval) => Taken::Removal(event.id),
            (OWN_TOKEN, _) => Taken::Other,
            (token, kind) => Taken::Event(Event { token, kind }),
        }
    }
}

/// What a look for an event has found.
enum Taken {
    /// There is none.
    None,
    /// One that somebody waits for.
    Event(Event),
    /// The device of this id, one of the layer's own, is being removed. Only a number by now.
    Removal(*mut rdma_cm_id),
    /// Nobody's business.
    Other,
}

/// What the peer said with its request, answer or refusal.
///
/// # Safety
/// The parameters are those of an event that is not acknowledged yet.
unsafe fn read_private(parameters: &rdma_conn_param) -> Option<PrivateData> {
    if parameters.private_data.is_null() {
        return None;
    }
    let len = usize::from(parameters.private_data_len);
    // SAFETY: librdmacm points to as many bytes in the event.
    let bytes = unsafe { core::slice::from_raw_parts(parameters.private_data.cast::<u8>(), len) };
    PrivateData::unpack(bytes)
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel lives as long as the borrow.
        sys::borrow(unsafe { (*self.raw.as_ptr()).fd })
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return;
        }
        let _inside = Inside::enter();
        // SAFETY: all ids of the channel hold a reference to it, so none is left.
        unsafe { self.api.rdma_destroy_event_channel(self.raw.as_ptr()) };
    }
}

impl core::fmt::Debug for EventChannel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("EventChannel").field(&self.as_fd()).finish()
    }
}
