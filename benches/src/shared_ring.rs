//! Two processes, one page: the least time in which a message can go there and back.

use std::io::{Error, Result};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::trips;

const MOST: usize = 4096;
/// The counter on which the other process ends.
const OVER: u64 = u64::MAX;

/// One direction: a message, and how many there have been.
#[repr(C, align(64))]
struct Way {
    count: AtomicU64,
    message: [u8; MOST],
}

#[repr(C)]
struct Shared {
    there: Way,
    back: Way,
}

/// Messages of `size` bytes for so long. Both processes spin: neither ever sleeps.
///
/// # Errors
/// The kernel's, or a size above [`MOST`].
pub fn measure(size: usize, time: Duration) -> Result<Value> {
    if size > MOST {
        return Err(Error::other(format!("--size {size}: at most {MOST}")));
    }
    // SAFETY: a fresh mapping, which is all zeros: a valid `Shared`.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<Shared>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    let shared = page.cast::<Shared>();
    // SAFETY: there is one thread.
    match unsafe { libc::fork() } {
        -1 => Err(Error::last_os_error()),
        0 => {
            answer(shared, size);
            // SAFETY: ends the child, which has nothing to clean up.
            unsafe { libc::_exit(0) }
        }
        child => {
            let found = ask(shared, size, time);
            let mut status = 0;
            // SAFETY: our own child; a pointer to a variable.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            found
        }
    }
}

/// Waits until `way` has message `wanted`: false if it is over.
fn wait(way: *const Way, wanted: u64) -> bool {
    // SAFETY: mapped, and only ever used as an atomic.
    let count = unsafe { &(*way).count };
    loop {
        match count.load(Ordering::Acquire) {
            OVER => return false,
            now if now == wanted => return true,
            _ => std::hint::spin_loop(),
        }
    }
}

fn publish(way: *const Way, count: u64) {
    // SAFETY: as above.
    unsafe { &(*way).count }.store(count, Ordering::Release);
}

fn answer(shared: *mut Shared, size: usize) {
    let mut have = [0u8; MOST];
    // SAFETY: pointers into the mapping; each message is written before its count, and read after it.
    unsafe {
        let (there, back) = (&raw const (*shared).there, &raw mut (*shared).back);
        let mut number = 1;
        while wait(there, number) {
            ptr::copy_nonoverlapping(
                (&raw const (*there).message).cast(),
                have.as_mut_ptr(),
                size,
            );
            ptr::copy_nonoverlapping(have.as_ptr(), (&raw mut (*back).message).cast(), size);
            publish(back, number);
            number += 1;
        }
    }
}

fn ask(shared: *mut Shared, size: usize, time: Duration) -> Result<Value> {
    let message = [7u8; MOST];
    let mut have = [0u8; MOST];
    let mut number = 0;
    let trip = || {
        number += 1;
        // SAFETY: as in `answer`, the other way round.
        unsafe {
            let (there, back) = (&raw mut (*shared).there, &raw const (*shared).back);
            ptr::copy_nonoverlapping(message.as_ptr(), (&raw mut (*there).message).cast(), size);
            publish(there, number);
            wait(back, number);
            ptr::copy_nonoverlapping((&raw const (*back).message).cast(), have.as_mut_ptr(), size);
        }
        match have[..size] == message[..size] {
            true => Ok(()),
            false => Err(Error::other("another message came back")),
        }
    };
    let found = trips::measure(time, trip);
    // SAFETY: a pointer into the mapping.
    publish(unsafe { &raw const (*shared).there }, OVER);
    found
}
