//! Claiming and releasing the page's slots for links and connections.
//!
//! A claim never fails: when the table is full (or memory is), the caller gets a spare slot that
//! nobody reads, so that counting on the data path needs no check.

use core::cell::UnsafeCell;
use core::mem::{MaybeUninit, offset_of};
use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use parking_lot::Mutex;

use super::layout::{
    CONN_SLOTS, ConnStats, DeviceStats, LINK_SLOTS, LinkStats, Page, add, store_text,
};
use super::slots::Slots;
use super::{codes::ConnState, codes::LinkState, page};

static LINKS: Slots<{ LINK_SLOTS / 64 }> = Slots::new();
static CONNS: Slots<{ CONN_SLOTS / 64 }> = Slots::new();
/// Bytes of the page that have memory behind them; 0 when there is no page.
static BACKED: AtomicUsize = AtomicUsize::new(0);

/// Several spare slots: threads that share one would slow each other down.
const SPARES: usize = 16;
static SPARE_LINK: Zeroed<LinkStats> = Zeroed::new();
static SPARE_DEVICE: Zeroed<DeviceStats> = Zeroed::new();
/// Held while a device looks for its slot.
static NAMING: Mutex<()> = Mutex::new(());
#[unsafe(link_section = ".bss.netacc_tables")]
static SPARE_CONNS: Zeroed<[ConnStats; SPARES]> = Zeroed::new();
static NEXT_SPARE: AtomicUsize = AtomicUsize::new(0);

/// Begins to hand out the slots of a new page, whose first `backed` bytes have memory.
pub(super) fn start(backed: usize) {
    BACKED.store(backed, Release);
}

/// Hands out spare slots only, until [`start`]. Only for a process with one thread.
pub(super) fn reset() {
    BACKED.store(0, Release);
    // SAFETY: fork leaves the child with this thread only.
    unsafe { crate::sync::renew(&NAMING, ()) };
    LINKS.reset();
    CONNS.reset();
}

impl LinkStats {
    /// Takes a slot for a new link, with all counters zero and state `Opening`.
    pub fn claim() -> &'static LinkStats {
        // A page is put in place before it is said to be backed, hence is seen after that.
        let slot = match BACKED.load(Acquire) {
            0 => None,
            _ => LINKS.claim(),
        };
        let link = slot
            .and_then(|slot| super::page().links.get(slot))
            .unwrap_or(SPARE_LINK.get());
        link.clear();
        link.set_state(LinkState::Opening);
        link
    }

    /// Gives the slot back; what the link counted goes to the process's totals.
    pub fn release(&self) {
        let Some(slot) = self.index() else { return };
        let global = super::global();
        let totals = [
            (&global.tx_records, &self.tx_records),
            (&global.tx_bytes, &self.tx_bytes),
            (&global.tx_batches, &self.tx_batches),
            (&global.work_requests, &self.work_requests),
            (&global.doorbells, &self.doorbells),
            (&global.rx_records, &self.rx_records),
            (&global.rx_bytes, &self.rx_bytes),
        ];
        self.set_state(LinkState::Free);
        if self.work_requests.load(Relaxed) > 0 {
            add(&global.rdma_records, self.tx_records.load(Relaxed));
        }
        for (total, counted) in totals {
            add(total, counted.load(Relaxed));
        }
        LINKS.release(slot);
    }

    /// The slot's number, or `None` for a spare slot or one of a page from before a fork.
    pub fn index(&self) -> Option<usize> {
        index_in(&super::page().links, self)
    }
}

impl ConnStats {
    /// Takes a slot for a new connection of descriptor `fd`, with all counters zero and state
    /// `Connecting`.
    pub fn claim(fd: i32) -> &'static ConnStats {
        let conn = claim_conn().unwrap_or_else(|| {
            let spare = NEXT_SPARE.fetch_add(1, Relaxed) % SPARES;
            &SPARE_CONNS.get()[spare]
        });
        conn.clear();
        conn.fd.store(fd.cast_unsigned(), Relaxed);
        conn.set_state(ConnState::Connecting);
        conn
    }

    /// Gives the slot back.
    pub fn release(&self) {
        if let Some(slot) = self.index() {
            self.set_state(ConnState::Free);
            CONNS.release(slot);
        }
    }

    /// Says which link carries the connection, `None` for none.
    pub fn set_link(&self, link: Option<&LinkStats>) {
        let number = link.and_then(LinkStats::index).map_or(0, |index| index + 1);
        self.link.store(number as u32, Relaxed);
    }

    /// The slot's number, or `None` for a spare slot or one of a page from before a fork.
    pub fn index(&self) -> Option<usize> {
        index_in(&super::page().conns, self)
    }
}

impl DeviceStats {
    /// The slot of the RDMA device of this name: the one that it has, or a free one. Slots of devices are never given
    /// back; what is beyond the table has a spare one.
    pub fn named(name: &str) -> &'static DeviceStats {
        if BACKED.load(Acquire) == 0 {
            return SPARE_DEVICE.get();
        }
        let mut bytes = [0; NAME];
        let len = name.len().min(NAME - 1);
        bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[index * 8..][..8]);
            u64::from_ne_bytes(word)
        };
        let is = |slot: &DeviceStats, named: bool| {
            let mut words = slot.name.iter().enumerate();
            words.all(|(index, own)| own.load(Relaxed) == if named { word(index) } else { 0 })
        };
        let _naming = NAMING.lock();
        let slots = &super::page().devices;
        if let Some(slot) = slots.iter().find(|slot| is(slot, true)) {
            return slot;
        }
        match slots.iter().find(|slot| is(slot, false)) {
            Some(slot) => {
                store_text(&slot.name, &bytes);
                slot
            }
            None => SPARE_DEVICE.get(),
        }
    }

    /// The slot's number, or `None` for the spare slot or one of a page from before a fork.
    pub fn index(&self) -> Option<usize> {
        index_in(&super::page().devices, self)
    }
}

/// Bytes of a device's name in its slot.
const NAME: usize = 64;

fn claim_conn() -> Option<&'static ConnStats> {
    let backed = BACKED.load(Acquire);
    if backed == 0 {
        return None;
    }
    let page = super::page();
    let slot = CONNS.claim()?;
    let end = offset_of!(Page, conns) + (slot + 1) * size_of::<ConnStats>();
    if end > backed {
        match page::back(NonNull::from(page), backed, end) {
            Some(now) => BACKED.fetch_max(now, AcqRel),
            None => {
                CONNS.release(slot);
                return None;
            }
        };
    }
    page.conns.get(slot)
}

/// Which element of `slots` `slot` is, if any.
fn index_in<T>(slots: &[T], slot: &T) -> Option<usize> {
    let offset = (&raw const *slot as usize).checked_sub(slots.as_ptr() as usize)?;
    let index = offset / size_of::<T>();
    (index < slots.len()).then_some(index)
}

/// A static that starts as zero bytes and so costs nothing in the library's file.
pub(super) struct Zeroed<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: only made for the page's types (see below), which consist of atomics.
unsafe impl<T> Sync for Zeroed<T> {}

/// Types made of atomic integers alone: zero bytes are a value, and any thread may write them.
trait Atomics {}
impl Atomics for Page {}
impl Atomics for LinkStats {}
impl Atomics for DeviceStats {}
impl Atomics for [ConnStats; SPARES] {}

#[expect(
    private_bounds,
    reason = "the types it may be made for are listed above and nowhere else"
)]
impl<T: Atomics> Zeroed<T> {
    /// All bytes zero.
    pub(super) const fn new() -> Self {
        Self(UnsafeCell::new(MaybeUninit::zeroed()))
    }

    /// Where it is.
    pub(super) const fn as_ptr(&'static self) -> *mut T {
        self.0.get().cast()
    }

    fn get(&'static self) -> &'static T {
        // SAFETY: zero bytes are a valid value of a type of atomics, which only `&` refers to.
        unsafe { &*self.as_ptr() }
    }
}
