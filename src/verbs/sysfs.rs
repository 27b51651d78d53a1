//! What the file system tells of RDMA devices before a library is loaded for them.

use core::mem::MaybeUninit;
use std::ffi::CString;

use rustix::fd::IntoRawFd;
use rustix::fs::{Mode, OFlags, RawDir};

/// The names in a folder, without `.` and `..`; none if it cannot be read.
fn entries(folder: &[u8]) -> Vec<CString> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::open(folder, flags, Mode::empty()) else {
        return Vec::new();
    };
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut names = Vec::new();
    let mut read = RawDir::new(&fd, &mut buffer);
    while let Some(Ok(entry)) = read.next() {
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    crate::real::sys::close(fd.into_raw_fd());
    names
}

/// Whether this host (this network namespace) has an RDMA device at all. Where it has none there is no
/// reason to load the RDMA libraries.
pub fn devices_present() -> bool {
    !entries(b"/sys/class/infiniband").is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_listed_and_a_missing_one_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("one"), "").unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(entries(path.as_bytes()), [c"one".to_owned()]);
        assert!(entries(b"/nowhere/at/all").is_empty());
    }
}
