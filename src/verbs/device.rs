//! RDMA devices: one object for each that this process uses, shared by all that is made on it.

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;
use rdma_sys::{
    ibv_async_event, ibv_context, ibv_mtu, ibv_pd, ibv_port_attr, ibv_port_state, rdma_cm_id,
};
use rustix::fd::BorrowedFd;

use super::api::Api;
pub use super::async_event::AsyncEvent;
use super::async_event::read;
use super::cm::{CmId, OWN_TOKEN};
use super::error::{Error, check, last_errno, made};
use super::guard::{self, Inside, Owner};
use super::probe::{self, Found};
use crate::real::sys::{self, Errno};

/// Every device in use. Kept until [`Device::retire`], so that finding out what a device can happens
/// once.
static DEVICES: Mutex<Vec<Arc<Device>>> = Mutex::new(Vec::new());

/// The addresses of the contexts of all that live, of devices that are not in use any more as well. Locked after
/// [`DEVICES`].
static LIVING: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// What a device can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Its name, as in `/sys/class/infiniband`.
    pub name: String,
    /// Work requests that one queue of a queue pair can hold.
    pub max_qp_wr: u32,
    /// Completions that one queue can hold.
    pub max_cqe: u32,
    /// Queue pairs.
    pub max_qp: u32,
    /// Memory regions.
    pub max_mr: u32,
    /// Bytes of the largest memory region.
    pub max_mr_size: u64,
    /// Pieces of memory that one work request can name. (Ours name one: some devices can do no more in
    /// a receive, whatever they say here.)
    pub max_sge: u32,
    /// Bytes that a work request can carry in itself: what the device takes of the
    /// [`INLINE_WANTED`](super::probe::INLINE_WANTED) that we want.
    pub max_inline: u32,
    /// Whether it does RDMA writes with immediate data.
    pub write_imm: bool,
}

/// What a port is like now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Whether it is up.
    pub active: bool,
    /// Bytes of payload in a packet at most.
    pub mtu: u32,
}

/// A device in use, and the protection domain for all that this process makes on it.
pub struct Device {
    context: NonNull<ibv_context>,
    pd: NonNull<ibv_pd>,
    attributes: Attributes,
    /// Keeps librdmacm from closing the context while something of ours is on it, and is told when the
    /// device is removed.
    pin: CmId,
    removed: AtomicBool,
    owner: Owner,
}

// SAFETY: verbs may be called from all threads.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// The device that `id` is bound to: after `AddressResolved`, of a `ConnectRequest`, or after
    /// [`CmId::bind`] to an address of it. The first time it finds out what the device can, which takes
    /// some milliseconds.
    ///
    /// To be asked as soon as an id has a device, whether anything is to be made on it or not: librdmacm has opened
    /// it by then, and the removal of a device for which there is no such object waits for ever.
    ///
    /// # Errors
    /// [`Error::OtherDevice`] while `id` has no device; the libraries'.
    pub fn of(id: &CmId) -> Result<Arc<Device>, Error> {
        let context = id.context().ok_or(Error::OtherDevice)?;
        let mut devices = DEVICES.lock();
        if let Some(known) = devices.iter().find(|device| device.context == context) {
            return Ok(known.clone());
        }
        // One that is being removed may still be bound to.
        if !is_present(context) {
            let living = LIVING.lock();
            if !living.contains(&context.addr().get()) {
                // Perhaps it was opened only after its removal had been told: nobody else will close it.
                // SAFETY: the id keeps the context, and nothing but ids is on it.
                unsafe { guard::close_context(context) };
            }
            return Err(Error::Call {
                call: "using an RDMA device",
                errno: Errno::NODEV,
            });
        }
        let device = Arc::new(Self::begin(context, id)?);
        devices.push(device.clone());
        Ok(device)
    }

    fn begin(context: NonNull<ibv_context>, id: &CmId) -> Result<Device, Error> {
        let api = id.channel().api();
        let local = id.local_address().ok_or(Error::OtherDevice)?;
        let pin = CmId::create(id.channel(), OWN_TOKEN)?;
        pin.bind(&local.with_port(0))?;
        if pin.context() != Some(context) {
            return Err(Error::OtherDevice);
        }
        let _inside = Inside::enter();
        // SAFETY: a context that lives.
        let pd = made("ibv_alloc_pd", unsafe {
            api.ibv_alloc_pd(context.as_ptr())
        })?;
        let known = probe::probe(api, context, pd).and_then(|found| query(api, context, found));
        let attributes = match known {
            Ok(attributes) => attributes,
            Err(error) => {
                // SAFETY: nothing is left on it.
                unsafe { api.ibv_dealloc_pd(pd.as_ptr()) };
                return Err(error);
            }
        };
        tracing::info!(
            device = attributes.name.as_str(),
            max_inline = attributes.max_inline,
            write_imm = attributes.write_imm,
            "RDMA device in use"
        );
        LIVING.lock().push(context.addr().get());
        Ok(Device {
            context,
            pd,
            attributes,
            pin,
            removed: AtomicBool::new(false),
            owner: Owner::this_process(),
        })
    }

    /// What it can.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// How one of its ports is (counted from 1; see [`CmId::port`]).
    ///
    /// # Errors
    /// `EINVAL` if there is no such port; the provider's.
    pub fn port(&self, port: u8) -> Result<Port, Error> {
        let _inside = Inside::enter();
        // SAFETY: an all-zero value of this struct of numbers is valid.
        let mut attributes: ibv_port_attr = unsafe { core::mem::zeroed() };
        // SAFETY: a context that lives. The exported function fills in the first members of the struct,
        // which it knows under another name.
        check("ibv_query_port", unsafe {
            self.api()
                .ibv_query_port(self.context.as_ptr(), port, (&raw mut attributes).cast())
        })?;
        Ok(Port {
            active: attributes.state == ibv_port_state::IBV_PORT_ACTIVE,
            mtu: match attributes.active_mtu {
                mtu @ ibv_mtu::IBV_MTU_256..=ibv_mtu::IBV_MTU_4096 => 128 << mtu,
                _ => 0,
            },
        })
    }

    /// The next thing that happened, if any: to be asked whenever
    /// [`async_fd`](Self::async_fd) is readable. Never waits.
    ///
    /// # Errors
    /// The kernel's, other than that there is none: `EIO` for example when the device is gone.
    pub fn next_async_event(&self) -> Result<Option<AsyncEvent>, Error> {
        let _inside = Inside::enter();
        loop {
            let mut raw = MaybeUninit::<ibv_async_event>::uninit();
            // SAFETY: a context that lives, whose descriptor does not block, and room for an event.
            let result = unsafe {
                self.api()
                    .ibv_get_async_event(self.context.as_ptr(), raw.as_mut_ptr())
            };
            if result != 0 {
                return match last_errno() {
                    Errno::AGAIN | Errno::INTR => Ok(None),
                    errno => Err(Error::Call {
                        call: "ibv_get_async_event",
                        errno,
                    }),
                };
            }
            // SAFETY: an event that was just got; its object waits for the acknowledgement before it
            // goes, which comes once.
            unsafe {
                let event = read(raw.as_ptr());
                self.api().ibv_ack_async_event(raw.as_mut_ptr());
                if event.is_some() {
                    return Ok(event);
                }
            }
        }
    }

    /// Readable when there is something for [`next_async_event`](Self::next_async_event).
    pub fn async_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the context lives as long as the borrow.
        sys::borrow(unsafe { (*self.context.as_ptr()).async_fd })
    }

    /// The device has failed: nothing new is made on it under this object, which goes when the last thing
    /// on it does. The next [`Device::of`] begins anew. (A device that is removed is retired already when
    /// [`DeviceGone`](super::cm::EventKind::DeviceGone) comes.)
    pub fn retire(&self) {
        let gone = {
            let mut devices = DEVICES.lock();
            let at = devices
                .iter()
                .position(|device| device.context == self.context);
            at.map(|at| devices.swap_remove(at))
        };
        // Outside the lock, for it may be the last one.
        drop(gone);
    }

    /// Whether `id` is what keeps it open.
    pub(super) fn is_pinned_by(&self, id: *mut rdma_cm_id) -> bool {
        self.pin.as_ptr() == id
    }

    /// The name of its file in `/dev/infiniband`.
    pub(super) fn character_device(&self) -> &[u8] {
        // SAFETY: an open context's device lives as long as it.
        let device = unsafe { &*(*self.context.as_ptr()).device };
        bytes(&device.dev_name)
    }

    /// Whether it is still there.
    pub(super) fn is_present(&self) -> bool {
        is_present(self.context)
    }

    /// The opened libraries.
    pub fn api(&self) -> &'static Api {
        self.pin.channel().api()
    }

    pub(super) fn context(&self) -> *mut ibv_context {
        self.context.as_ptr()
    }

    pub(super) fn pd(&self) -> *mut ibv_pd {
        self.pd.as_ptr()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return;
        }
        let _inside = Inside::enter();
        // SAFETY: everything made on the device holds it, so nothing is left. The context is
        // librdmacm's, which may close it as soon as the pin is gone.
        unsafe {
            self.api().ibv_dealloc_pd(self.pd.as_ptr());
            let mut living = LIVING.lock();
            let own = self.context.addr().get();
            if let Some(at) = living.iter().position(|context| *context == own) {
                living.swap_remove(at);
            }
            let is_removed = *self.removed.get_mut() || !is_present(self.context);
            if is_removed && !living.contains(&own) {
                // The soft devices' drivers wait with the removal until nobody has the device open, and
                // librdmacm closes it late (when it next misses a device) or never (when none is left).
                guard::close_context(self.context);
            }
        }
    }
}

/// Takes the devices of which `is_gone` is true out of use: they are being removed, nothing new is made
/// on them.
pub(super) fn gone(is_gone: impl Fn(&Device) -> bool) -> Vec<Arc<Device>> {
    let mut devices = DEVICES.lock();
    let gone: Vec<_> = devices.extract_if(.., |device| is_gone(device)).collect();
    for device in &gone {
        device.removed.store(true, Ordering::Relaxed);
    }
    gone
}

impl core::fmt::Debug for Device {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Device").field(&self.attributes).finish()
    }
}

fn query(api: &Api, context: NonNull<ibv_context>, found: Found) -> Result<Attributes, Error> {
    // SAFETY: an all-zero value of this struct of numbers is valid.
    let mut raw: rdma_sys::ibv_device_attr = unsafe { core::mem::zeroed() };
    // SAFETY: a context that lives.
    check("ibv_query_device", unsafe {
        api.ibv_query_device(context.as_ptr(), &raw mut raw)
    })?;
    // SAFETY: an opened context's device lives as long as it, with its name in a fixed field.
    let device = unsafe { &*(*context.as_ptr()).device };
    let positive = |number: i32| u32::try_from(number).unwrap_or(0);
    Ok(Attributes {
        name: String::from_utf8_lossy(bytes(&device.name)).into_owned(),
        max_qp_wr: positive(raw.max_qp_wr),
        max_cqe: positive(raw.max_cqe),
        max_qp: positive(raw.max_qp),
        max_mr: positive(raw.max_mr),
        max_mr_size: raw.max_mr_size,
        max_sge: positive(raw.max_sge),
        max_inline: found.max_inline,
        write_imm: found.write_imm,
    })
}

/// Whether the device of an open context is still there.
fn is_present(context: NonNull<ibv_context>) -> bool {
    // SAFETY: an open context's device lives as long as it.
    let device = unsafe { &*(*context.as_ptr()).device };
    rustix::fs::access(bytes(&device.dev_path), rustix::fs::Access::EXISTS).is_ok()
}

/// A C string in a field of fixed size.
fn bytes(field: &[core::ffi::c_char]) -> &[u8] {
    // SAFETY: characters and bytes are the same.
    let bytes = unsafe { core::slice::from_raw_parts(field.as_ptr().cast::<u8>(), field.len()) };
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}
