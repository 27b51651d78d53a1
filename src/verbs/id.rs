//! Connections and listeners.

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use std::sync::Arc;

use libc::sockaddr;
use rdma_sys::{ibv_context, rdma_cm_id, rdma_conn_param, rdma_port_space};

use super::api::Api;
#[cfg(doc)]
use super::cm::OWN_TOKEN;
use super::error::{Error, check};
use super::event::EventChannel;
use super::guard::{self, Inside, Owner};
use super::private_data::Packed;
use crate::real::sys::Errno;
use crate::socket::addr::Address;

/// How often the device sends again before it gives a connection up. 7 would mean "for ever" to some
/// devices (soft RoCE among them), and a dead peer would then never show; 6 shows it in seconds.
const RETRY_COUNT: u8 = 6;

/// How often the device sends again to a peer that has posted no receive: 7 is for ever. Credits keep
/// us from ever sending then; but a notification may overtake the accepting side's very first receives
/// on a device that is slow to take them in, and that must not end the connection.
const RNR_RETRY_COUNT: u8 = 7;

/// RDMA reads that either side may have outstanding. None are ever made; but some iWARP devices do not
/// connect with 0 (and take 1 themselves), while 1 suits all.
const READS: u8 = 1;

const RDMA_OPTION_ID: i32 = 0;
const RDMA_OPTION_ID_ACK_TIMEOUT: i32 = 3;

/// A connection, or a listener, as librdmacm knows it.
///
/// A [`QueuePair`](super::qp::QueuePair) that is made on it holds it, so that it goes after the queue
/// pair.
pub struct CmId {
    raw: NonNull<rdma_cm_id>,
    channel: Arc<EventChannel>,
    owner: Owner,
}

// SAFETY: as of `EventChannel`.
unsafe impl Send for CmId {}
// SAFETY: as of `EventChannel`.
unsafe impl Sync for CmId {}

impl CmId {
    /// A new id, whose events carry `token` (any value but [`OWN_TOKEN`]).
    ///
    /// # Errors
    /// librdmacm's.
    pub fn create(channel: &Arc<EventChannel>, token: u64) -> Result<CmId, Error> {
        let _inside = Inside::enter();
        let _lock = channel.lock();
        let mut raw = core::ptr::null_mut();
        // SAFETY: a channel that lives; the context is a number that nobody dereferences.
        check("rdma_create_id", unsafe {
            channel.api().rdma_create_id(
                channel.as_ptr(),
                &raw mut raw,
                token as *mut _,
                rdma_port_space::RDMA_PS_TCP,
            )
        })?;
        let raw = NonNull::new(raw).ok_or(Error::Call {
            call: "rdma_create_id",
            errno: Errno::NOMEM,
        })?;
        Ok(CmId::new(raw, channel))
    }

    /// Takes over an id of `channel`.
    pub(super) fn new(raw: NonNull<rdma_cm_id>, channel: &Arc<EventChannel>) -> CmId {
        CmId {
            raw,
            channel: channel.clone(),
            owner: Owner::this_process(),
        }
    }

    /// Listens at `address`; port 0 lets librdmacm choose one, which [`local_address`](Self::local_address)
    /// then tells. The unspecified address listens on all devices.
    ///
    /// # Errors
    /// `EADDRINUSE`, `ENODEV` (the address is not that of an RDMA device), and librdmacm's others.
    pub fn listen(
        channel: &Arc<EventChannel>,
        token: u64,
        address: &Address,
        backlog: i32,
    ) -> Result<CmId, Error> {
        let id = CmId::create(channel, token)?;
        id.bind(address)?;
        id.call("rdma_listen", |api, raw| {
            // SAFETY: an id that lives and is bound.
            unsafe { api.rdma_listen(raw, backlog) }
        })?;
        Ok(id)
    }

    /// Binds the id to a local address, and to its device if it is not the unspecified one.
    ///
    /// # Errors
    /// `ENODEV` when the address is not that of an RDMA device; librdmacm's others.
    pub fn bind(&self, address: &Address) -> Result<(), Error> {
        let mut address = SocketAddress::new(address);
        self.call("rdma_bind_addr", |api, raw| {
            // SAFETY: an id that lives and an address of its family's size.
            unsafe { api.rdma_bind_addr(raw, address.as_mut_ptr()) }
        })
    }

    /// Looks for the device that leads to `to`, from the local address `from` if given: ends in
    /// `AddressResolved` or `AddressError`.
    ///
    /// # Errors
    /// librdmacm's.
    pub fn resolve_address(
        &self,
        from: Option<&Address>,
        to: &Address,
        timeout_ms: i32,
    ) -> Result<(), Error> {
        let mut from = from.map(SocketAddress::new);
        let mut to = SocketAddress::new(to);
        let from = from
            .as_mut()
            .map_or(core::ptr::null_mut(), SocketAddress::as_mut_ptr);
        self.call("rdma_resolve_addr", |api, raw| {
            // SAFETY: an id that lives and addresses of their families' sizes.
            unsafe { api.rdma_resolve_addr(raw, from, to.as_mut_ptr(), timeout_ms) }
        })
    }

    /// Looks for a path to the resolved address: ends in `RouteResolved` or `RouteError`.
    ///
    /// # Errors
    /// [`Error::OtherDevice`] before the address is resolved; librdmacm's.
    pub fn resolve_route(&self, timeout_ms: i32) -> Result<(), Error> {
        self.context().ok_or(Error::OtherDevice)?;
        self.call("rdma_resolve_route", |api, raw| {
            // SAFETY: an id that lives and has a device.
            unsafe { api.rdma_resolve_route(raw, timeout_ms) }
        })
    }

    /// Shortens or lengthens the time after which the device sends again, to about
    /// 4 microseconds * 2^`exponent`. Before the connection is made; iWARP devices have no such time.
    ///
    /// # Errors
    /// librdmacm's.
    pub fn set_ack_timeout(&self, mut exponent: u8) -> Result<(), Error> {
        self.call("rdma_set_option", |api, raw| {
            // SAFETY: an id that lives and a value of one byte, as this option has.
            unsafe {
                api.rdma_set_option(
                    raw,
                    RDMA_OPTION_ID,
                    RDMA_OPTION_ID_ACK_TIMEOUT,
                    (&raw mut exponent).cast(),
                    1,
                )
            }
        })
    }

    /// Connects with `data` for the other side: ends in `Established`, `Rejected`, `Unreachable` or
    /// `ConnectError`. The queue pair has been made, and its receives are posted.
    ///
    /// Soft iWARP makes its TCP connection within this call: it takes a round trip to a peer that
    /// answers, and to one that does not as long as the kernel tries. Call it for peers that have just
    /// been heard of.
    ///
    /// # Errors
    /// [`Error::PrivateData`] if there is too much of it; librdmacm's; from soft iWARP also
    /// `ECONNREFUSED` and the like, where others send an event.
    pub fn connect(&self, data: &[u8]) -> Result<(), Error> {
        let packed = Packed::new(data)?;
        self.needs_queue_pair("rdma_connect")?;
        self.call("rdma_connect", |api, raw| {
            let mut parameters = parameters(&packed);
            // SAFETY: an id that lives and has a queue pair; the data outlives the call.
            unsafe { api.rdma_connect(raw, &raw mut parameters) }
        })
    }

    /// Accepts a request, with `data` for the other side: ends in `Established`, or `Disconnected`.
    /// The queue pair has been made, and its receives are posted.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect).
    pub fn accept(&self, data: &[u8]) -> Result<(), Error> {
        let packed = Packed::new(data)?;
        self.needs_queue_pair("rdma_accept")?;
        self.call("rdma_accept", |api, raw| {
            let mut parameters = parameters(&packed);
            // SAFETY: as in `connect`.
            unsafe { api.rdma_accept(raw, &raw mut parameters) }
        })
    }

    /// Refuses a request, with `data` for the other side.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect).
    pub fn reject(&self, data: &[u8]) -> Result<(), Error> {
        let packed = Packed::new(data)?;
        self.call("rdma_reject", |api, raw| {
            let bytes = packed.bytes();
            // SAFETY: an id that lives; the data outlives the call.
            unsafe { api.rdma_reject(raw, bytes.as_ptr().cast(), bytes.len() as u8) }
        })
    }

    /// Ends the connection: work that is outstanding completes, or is flushed, and both sides get
    /// `Disconnected`. On InfiniBand and RoCE nothing is flushed before this call, not even when the
    /// peer is gone.
    ///
    /// # Errors
    /// librdmacm's, `EINVAL` for example if there is no connection.
    pub fn disconnect(&self) -> Result<(), Error> {
        self.context().ok_or(Error::OtherDevice)?;
        self.call("rdma_disconnect", |api, raw| {
            // SAFETY: an id that lives and has a device.
            unsafe { api.rdma_disconnect(raw) }
        })
    }

    /// Changes what the id's events carry (any value but [`OWN_TOKEN`]): an accepted connection's id
    /// starts with that of the listener.
    pub fn set_token(&self, token: u64) {
        let _lock = self.channel.lock();
        // SAFETY: an id that lives; nobody else reads or writes the field without the lock.
        unsafe { (*self.raw.as_ptr()).context = token as *mut _ };
    }

    /// The local address, once there is one.
    pub fn local_address(&self) -> Option<Address> {
        let _lock = self.channel.lock();
        // SAFETY: an id that lives; both members of the union are plain bytes, large enough for any
        // address.
        unsafe { read_address(&raw const (*self.raw.as_ptr()).route.addr.src_addr_union) }
    }

    /// The peer's address, once there is one.
    pub fn peer_address(&self) -> Option<Address> {
        let _lock = self.channel.lock();
        // SAFETY: as in `local_address`.
        unsafe { read_address(&raw const (*self.raw.as_ptr()).route.addr.dst_addr_union) }
    }

    /// The port of the device, counted from 1; 0 while there is no device.
    pub fn port(&self) -> u8 {
        let _lock = self.channel.lock();
        // SAFETY: an id that lives.
        unsafe { (*self.raw.as_ptr()).port_num }
    }

    /// The channel of its events.
    pub fn channel(&self) -> &Arc<EventChannel> {
        &self.channel
    }

    /// The device, once there is one. librdmacm has opened it with the call or the event that told which
    /// one it is; who asks first takes its descriptors out of the application's way.
    pub(super) fn context(&self) -> Option<NonNull<ibv_context>> {
        let _lock = self.channel.lock();
        // SAFETY: an id that lives.
        let context = NonNull::new(unsafe { (*self.raw.as_ptr()).verbs })?;
        // SAFETY: the id keeps the device open. One thread opens devices, and does it here before it
        // makes anything on a device that others could use.
        unsafe { guard::raise_context(context) };
        Some(context)
    }

    /// For calls that this file does not make itself, under the channel's lock.
    pub(super) fn as_ptr(&self) -> *mut rdma_cm_id {
        self.raw.as_ptr()
    }

    fn needs_queue_pair(&self, call: &'static str) -> Result<(), Error> {
        let _lock = self.channel.lock();
        // SAFETY: an id that lives.
        if unsafe { (*self.raw.as_ptr()).qp.is_null() } {
            let errno = Errno::INVAL;
            return Err(Error::Call { call, errno });
        }
        Ok(())
    }

    fn call(
        &self,
        call: &'static str,
        f: impl FnOnce(&Api, *mut rdma_cm_id) -> i32,
    ) -> Result<(), Error> {
        let _inside = Inside::enter();
        let _lock = self.channel.lock();
        check(call, f(self.channel.api(), self.raw.as_ptr()))
    }
}

impl Drop for CmId {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return;
        }
        let _inside = Inside::enter();
        let _lock = self.channel.lock();
        // SAFETY: the id's last user; a queue pair would hold it. All its events are acknowledged, for
        // that happens under the lock.
        unsafe { self.channel.api().rdma_destroy_id(self.raw.as_ptr()) };
    }
}

impl core::fmt::Debug for CmId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CmId")
            .field("local", &self.local_address())
            .field("peer", &self.peer_address())
            .finish()
    }
}

fn parameters(packed: &Packed) -> rdma_conn_param {
    let bytes = packed.bytes();
    rdma_conn_param {
        private_data: bytes.as_ptr().cast(),
        private_data_len: bytes.len() as u8,
        responder_resources: READS,
        initiator_depth: READS,
        flow_control: 0,
        retry_count: RETRY_COUNT,
        rnr_retry_count: RNR_RETRY_COUNT,
        srq: 0,
        qp_num: 0,
    }
}

/// An address as librdmacm wants it: IPv4 where it is IPv4 in IPv6's form, which devices do not know.
struct SocketAddress(Address);

impl SocketAddress {
    fn new(address: &Address) -> SocketAddress {
        SocketAddress(super::reach::unmapped(address))
    }

    fn as_mut_ptr(&mut self) -> *mut sockaddr {
        match &mut self.0 {
            Address::V4(a) => (&raw mut *a).cast(),
            Address::V6(a) => (&raw mut *a).cast(),
        }
    }
}

/// Reads the address in one of an id's two unions; `None` if it is of no family that we know.
///
/// # Safety
/// `from` points to a sockaddr_storage.
unsafe fn read_address<T>(from: *const T) -> Option<Address> {
    let mut copy = MaybeUninit::<libc::sockaddr_storage>::uninit();
    // SAFETY: by the contract; the copy has room for any address.
    unsafe {
        copy.write(from.cast::<libc::sockaddr_storage>().read_unaligned());
        let len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        Address::read(copy.as_ptr().cast(), len)
    }
}
