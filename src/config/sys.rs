//! The outside world without std's I/O: its calls would come back through our own hooks, and its
//! environment lock can be held by another thread at a fork.

use std::ffi::CStr;

use rustix::fd::{IntoRawFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// A larger file is not a configuration file.
const LARGEST_FILE: usize = 64 * 1024;

unsafe extern "C" {
    /// glibc's `getenv` that finds nothing in a set-user-id program.
    fn secure_getenv(name: *const std::ffi::c_char) -> *const std::ffi::c_char;
}

/// Why a file could not be read.
pub(super) enum ReadError {
    /// There is none.
    Missing,
    /// It is a directory, a pipe, a device.
    NotAFile,
    /// It is larger than any configuration.
    TooLarge,
    /// The kernel said so.
    Os(Errno),
}

/// The environment variable `name`; an empty one counts as unset. In a set-user-id program, whose
/// caller must not choose files for it, there are none.
pub(super) fn environment(name: &CStr) -> Option<Vec<u8>> {
    // SAFETY: `name` is NUL-terminated. The result is NULL or a NUL-terminated string, copied at
    // once; a program that changes its environment in another thread meanwhile breaks every getenv.
    let bytes = unsafe {
        let value = secure_getenv(name.as_ptr());
        if value.is_null() {
            return None;
        }
        CStr::from_ptr(value).to_bytes().to_vec()
    };
    (!bytes.is_empty()).then_some(bytes)
}

/// Reads the whole of a small regular file (or of a character device, for `/dev/null`).
pub(super) fn read_file(path: &CStr) -> Result<Vec<u8>, ReadError> {
    // NONBLOCK, so that a FIFO does not hold the program up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => ReadError::Missing,
        other => ReadError::Os(other),
    })?;
    let result = read_all(&file);
    close(file);
    result
}

fn read_all(file: &OwnedFd) -> Result<Vec<u8>, ReadError> {
    let stat = rustix::fs::fstat(file).map_err(ReadError::Os)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile && kind != FileType::CharacterDevice {
        return Err(ReadError::NotAFile);
    }
    let mut bytes = vec![0; LARGEST_FILE + 1];
    let mut filled = 0;
    loop {
        match rustix::io::read(file, &mut bytes[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(ReadError::Os(errno)),
        }
        if filled > LARGEST_FILE {
            return Err(ReadError::TooLarge);
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Closes by a raw system call: dropping an `OwnedFd` would call libc's `close`, which we hook.
fn close(file: OwnedFd) {
    // SAFETY: the descriptor is ours, and `into_raw_fd` gave up its owner.
    unsafe { rustix::io::close(file.into_raw_fd()) };
}
