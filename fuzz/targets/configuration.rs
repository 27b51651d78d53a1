//! netacc.conf: any file is read, and every mistake in it has a line, a sentence and a remedy.

#![no_main]

use std::ffi::CString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use netacc::config::{self, Origin};

/// The file that the configuration is read from.
static PLACE: LazyLock<Mutex<File>> = LazyLock::new(|| {
    let name = CString::new("netacc.conf").expect("no NUL");
    // SAFETY: a name with its NUL.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), 0) };
    assert!(fd >= 0, "memory for a file");
    // SAFETY: there is one thread.
    unsafe { std::env::set_var("NACC_CONF", format!("/proc/self/fd/{fd}")) };
    // SAFETY: just made, and nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    assert!(file.as_raw_fd() == fd);
    Mutex::new(file)
});

fuzz_target!(|bytes: &[u8]| {
    let mut file = PLACE.lock().expect("one thread");
    file.set_len(0).expect("memory");
    file.rewind().expect("memory");
    file.write_all(bytes).expect("memory");
    let (loaded, warnings) = config::load();
    assert!(loaded.mr_min_inc_size <= loaded.mr_max_inc_size);
    assert!(loaded.window_size <= loaded.ring_size / 2);
    match config::check(None, &[]) {
        Ok(config) => assert!(config == loaded && warnings.is_empty()),
        Err(problems) => {
            for problem in &problems {
                assert!(
                    matches!(problem.origin, Origin::File { line: 1.., .. }),
                    "{problem:?}"
                );
                assert!(!problem.sentence.is_empty() && !problem.remedy.is_empty());
            }
            assert_eq!(problems, warnings);
        }
    }
});
