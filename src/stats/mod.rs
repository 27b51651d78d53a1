//! Counters in a shared page per process, readable from outside while the process runs or hangs.
//!
//! The writing side runs inside applications: it allocates nothing, makes raw system calls only,
//! and never fails. [`init`] makes the page when the process first uses TCP; until then, and when
//! no memory can be had, everything counts into memory that nobody looks at, so callers check
//! nothing:
//!
//! ```
//! use netacc::stats::{self, ConnState, ConnStats, Mode, Reason};
//!
//! stats::init();
//! stats::add(&stats::global().spins_won, 1);
//! let conn = ConnStats::claim(7);
//! conn.set_state(ConnState::Established);
//! conn.set_mode(Mode::Tcp, Reason::SidePortRefused);
//! stats::add(stats::global().fallback(Reason::SidePortRefused), 1);
//! stats::bump(&conn.tx_bytes, 512);
//! conn.release();
//! stats::remove_at_exit();
//! ```

mod codes;
mod layout;
mod page;
mod proc_stat;
pub mod reader;
mod reason;
mod slots;
mod table;

pub use codes::{ConnState, Fabric, LinkState, Mode};
pub use layout::{
    CONN_SLOTS, ConnStats, DeviceStats, Global, Header, LINK_SLOTS, LinkStats, MAGIC, Page, add,
    bump,
};
pub use reason::Reason;

use core::ffi::CStr;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU32};

use table::Zeroed;

/// Where pages are kept.
const ROOT: &CStr = c"/dev/shm";

/// What everything counts into until there is a page.
#[unsafe(link_section = ".bss.netacc_tables")]
static EMPTY: Zeroed<Page> = Zeroed::new();
/// The page in use. Points to [`EMPTY`] or to a mapping that is never unmapped.
static PAGE: AtomicPtr<Page> = AtomicPtr::new(EMPTY.as_ptr());

/// [`init`] was not called in this process.
const UNMADE: u32 = 0;
/// A thread is in [`init`].
const MAKING: u32 = 1;
/// The page is a file.
const SHARED: u32 = 2;
/// There is a page but no file, or not even a page.
const PRIVATE: u32 = 3;
static STAGE: AtomicU32 = AtomicU32::new(UNMADE);
/// The process that made the page: a vfork's child shares our memory but must not remove our file.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Makes this process's page, if there is none yet. Call it before the first listen or connect.
///
/// When another thread is making it, waits for that thread a little, so that what the caller counts
/// next is not lost; not for ever, because the caller may be a signal handler on top of it.
pub fn init() {
    if STAGE.load(Acquire) < SHARED {
        init_slowly();
    }
}

#[cold]
fn init_slowly() {
    if STAGE
        .compare_exchange(UNMADE, MAKING, AcqRel, Acquire)
        .is_err()
    {
        for _ in 0..2000 {
            if STAGE.load(Acquire) != MAKING {
                return;
            }
            // SAFETY: no arguments; only yields the processor.
            unsafe { libc::sched_yield() };
        }
        return;
    }
    let stage = match page::make(ROOT) {
        Some(made) => {
            OWNER.store(page::pid(), Relaxed);
            PAGE.store(made.page.as_ptr(), Release);
            table::start(made.backed);
            if made.shared { SHARED } else { PRIVATE }
        }
        None => PRIVATE,
    };
    STAGE.store(stage, Release);
}

/// Lets go of the parent's page. Call it in the child of a fork, before anything is counted; the
/// child gets a page of its own at its next [`init`]. Slots claimed by the parent may still be
/// written and released: nothing comes of it.
pub fn after_fork_in_child() {
    let made = PAGE.swap(EMPTY.as_ptr(), AcqRel);
    if let Some(made) = NonNull::new(made)
        && STAGE.load(Relaxed) == SHARED
    {
        // SAFETY: in stage SHARED the pointer is a made page's, and a fork's child has one thread.
        unsafe { page::detach(made) };
    }
    table::reset();
    STAGE.store(UNMADE, Release);
}

/// Removes this process's page from the file system. Counting stays allowed. Call it at exit.
pub fn remove_at_exit() {
    if STAGE.load(Acquire) == SHARED && OWNER.load(Relaxed) == page::pid() {
        page::remove(ROOT);
    }
}

/// Whether the page can be seen from outside: `false` before [`init`], and where `/dev/shm` cannot
/// be used.
pub fn is_shared() -> bool {
    STAGE.load(Acquire) == SHARED
}

/// Shows the configuration in force: a line for each key, its name, value and source between tabs. What is beyond the
/// page's room is left out, in whole lines.
pub fn set_config(lines: &str) {
    let mut room = lines.as_bytes();
    if room.len() > layout::CONFIG_SIZE {
        let whole = room[..layout::CONFIG_SIZE]
            .iter()
            .rposition(|&b| b == b'\n');
        room = &room[..whole.map_or(0, |end| end + 1)];
    }
    layout::store_text(&page().config, room);
}

/// The process's counters.
#[inline]
pub fn global() -> &'static Global {
    &page().global
}

#[inline]
fn page() -> &'static Page {
    // SAFETY: always EMPTY or a mapping of a whole page, both valid for ever and made of atomics.
    unsafe { &*PAGE.load(Acquire) }
}
