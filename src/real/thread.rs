//! Threads of the library's own. Those of the standard library take memory that ends the process if there is none.

use core::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::sys::Errno;

type Body = Box<dyn FnOnce() + Send>;

/// Starts a thread that nobody waits for, with a stack of so many bytes. No signal reaches it.
///
/// # Errors
/// `EAGAIN` when there can be no further thread; `ENOMEM`.
pub fn spawn(stack: usize, body: impl FnOnce() + Send + 'static) -> Result<(), Errno> {
    let body: *mut Body = Box::into_raw(Box::new(Box::new(body)));
    // SAFETY: plain libc calls on valid objects; the new thread is the only one that has the body from then on.
    let result = unsafe {
        let mut attributes = core::mem::zeroed();
        let mut all = core::mem::zeroed();
        let mut old = core::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_attr_init(&mut attributes);
        libc::pthread_attr_setstacksize(&mut attributes, stack);
        libc::pthread_attr_setdetachstate(&mut attributes, libc::PTHREAD_CREATE_DETACHED);
        let mut thread = core::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
        let result = libc::pthread_create(&mut thread, &attributes, run, body.cast());
        libc::pthread_sigmask(libc::SIG_SETMASK, &old, core::ptr::null_mut());
        libc::pthread_attr_destroy(&mut attributes);
        result
    };
    if result != 0 {
        // SAFETY: there is no thread that has it.
        drop(unsafe { Box::from_raw(body) });
        return Err(Errno::from_raw_os_error(result));
    }
    Ok(())
}

extern "C" fn run(body: *mut c_void) -> *mut c_void {
    let _ = rustix::thread::set_name(c"netacc-io");
    // SAFETY: `spawn` left it to this thread.
    let body = unsafe { Box::from_raw(body.cast::<Body>()) };
    // A thread that panics ends by itself.
    let _ = catch_unwind(AssertUnwindSafe(body));
    core::ptr::null_mut()
}
