//! The C library's streams on a socket, and what prints to a descriptor: it would read and write inside, unseen.

use core::ffi::{CStr, c_char};

use libc::{FILE, c_int, c_void, size_t, ssize_t};

use super::give;
use crate::fdtable::{self, Entry};
use crate::real::orig;
use crate::real::sys::{self, Errno};
use crate::verbs;

unsafe extern "C" {
    fn vasprintf(text: *mut *mut c_char, format: *const c_char, args: *mut c_void) -> c_int;
    fn fopencookie(
        cookie: *mut c_void,
        mode: *const c_char,
        functions: CookieFunctions,
    ) -> *mut FILE;
}

/// glibc's cookie_io_functions_t.
#[repr(C)]
struct CookieFunctions {
    read: Option<unsafe extern "C" fn(*mut c_void, *mut c_char, size_t) -> ssize_t>,
    write: Option<unsafe extern "C" fn(*mut c_void, *const c_char, size_t) -> ssize_t>,
    seek: Option<unsafe extern "C" fn(*mut c_void, *mut i64, c_int) -> c_int>,
    close: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
}

/// The beginning of glibc's FILE (struct _IO_FILE, unchanged since 1997), up to the number that
/// fileno(3) returns.
#[repr(C)]
struct FileHead {
    flags: c_int,
    pointers: [*mut c_void; 13],
    fileno: c_int,
}

unsafe extern "C" fn cookie_read(cookie: *mut c_void, buf: *mut c_char, len: size_t) -> ssize_t {
    // SAFETY: stdio's own buffer.
    unsafe { super::read(cookie as usize as c_int, buf.cast(), len) }
}

unsafe extern "C" fn cookie_write(cookie: *mut c_void, buf: *const c_char, len: size_t) -> ssize_t {
    // SAFETY: stdio's own buffer. Zero is how a cookie reports an error.
    unsafe { super::write(cookie as usize as c_int, buf.cast(), len).max(0) }
}

unsafe extern "C" fn cookie_close(cookie: *mut c_void) -> c_int {
    // SAFETY: no pointers.
    unsafe { super::close(cookie as usize as c_int) }
}

/// fdopen(3). The C library reads and writes a stream's descriptor inside, unseen: the stream of a
/// TCP socket gets our functions instead.
pub unsafe fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
    match fdtable::get(fd) {
        Some(Entry::Socket(_)) if !mode.is_null() => {}
        Some(Entry::Internal) if !verbs::is_inside() => {
            sys::set_errno(libc::EBADF);
            return core::ptr::null_mut();
        }
        // SAFETY: the caller's contract is that of the original.
        _ => return unsafe { orig::fdopen(fd, mode) },
    }
    // SAFETY: a string by the caller's contract.
    let known = unsafe { CStr::from_ptr(mode) }
        .to_bytes()
        .first()
        .is_some_and(|c| b"rwa".contains(c));
    if !known {
        sys::set_errno(libc::EINVAL);
        return core::ptr::null_mut();
    }
    let functions = CookieFunctions {
        read: Some(cookie_read),
        write: Some(cookie_write),
        seek: None,
        close: Some(cookie_close),
    };
    // SAFETY: the functions live as long as the library; the stream is fresh, and its head has this
    // shape in every glibc.
    unsafe {
        let stream = fopencookie(fd as usize as *mut c_void, mode, functions);
        if let Some(head) = stream.cast::<FileHead>().as_mut() {
            head.fileno = fd;
        }
        stream
    }
}

/// vdprintf(3): the C library would write inside, unseen.
pub unsafe fn vdprintf(fd: c_int, format: *const c_char, args: *mut c_void) -> c_int {
    if !matches!(fdtable::get(fd), Some(Entry::Socket(_))) {
        // SAFETY: the caller's contract is that of the original.
        return unsafe { orig::vdprintf(fd, format, args) };
    }
    let mut text = core::ptr::null_mut();
    // SAFETY: a format and its arguments by the caller's contract, and room for a pointer.
    let length = unsafe { vasprintf(&mut text, format, args) };
    if length < 0 {
        return -1;
    }
    // SAFETY: the text that was made just now, which is given back.
    unsafe {
        let result = write_all(fd, text, length as usize);
        libc::free(text.cast());
        give(result.map(|()| length))
    }
}

/// Writes `len` bytes at `text`.
///
/// # Errors
/// As write(2); some may be written then.
///
/// # Safety
/// They are there.
unsafe fn write_all(fd: c_int, text: *const c_char, len: usize) -> Result<(), Errno> {
    let mut done = 0;
    while done < len {
        // SAFETY: within the text.
        let n = unsafe { super::write(fd, text.add(done).cast(), len - done) };
        if n < 0 {
            return Err(sys::last_error());
        }
        done += n as usize;
    }
    Ok(())
}

/// The form of programs that were built with checks: of the format, which for a socket of ours is as it is.
pub unsafe fn __vdprintf_chk(
    fd: c_int,
    flag: c_int,
    format: *const c_char,
    args: *mut c_void,
) -> c_int {
    match fdtable::get(fd) {
        // SAFETY: the caller's contract.
        Some(Entry::Socket(_)) => unsafe { vdprintf(fd, format, args) },
        // SAFETY: the caller's contract is that of the original.
        _ => unsafe { orig::__vdprintf_chk(fd, flag, format, args) },
    }
}
