//! What runs inside applications must not call the libc functions that the preload library shadows:
//! each call would come back to us. This program shadows them itself, and counts.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use netacc::config::{self, Config, LogLevel};
use netacc::log;
use netacc::stats::Reason;

static CALLS: AtomicU32 = AtomicU32::new(0);

/// Defines a libc function that counts its calls and makes the system call of that number.
macro_rules! count {
    ($name:ident, $number:ident, ($($argument:ident: $kind:ty),*) -> $result:ty) => {
        // SAFETY: the same signature as libc's on this platform, where variadic arguments are passed
        // like fixed ones; the system call takes the same arguments.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $kind),*) -> $result {
            CALLS.fetch_add(1, Relaxed);
            // SAFETY: as promised by the caller.
            unsafe { libc::syscall(libc::$number, $($argument),*) as $result }
        }
    };
}

count!(close, SYS_close, (fd: c_int) -> c_int);
count!(read, SYS_read, (fd: c_int, buffer: *mut c_void, length: usize) -> isize);
count!(write, SYS_write, (fd: c_int, buffer: *const c_void, length: usize) -> isize);
count!(writev, SYS_writev, (fd: c_int, parts: *const libc::iovec, count: c_int) -> isize);
count!(fcntl, SYS_fcntl, (fd: c_int, command: c_int, argument: usize) -> c_int);
count!(fcntl64, SYS_fcntl, (fd: c_int, command: c_int, argument: usize) -> c_int);
count!(openat, SYS_openat, (at: c_int, path: *const c_char, flags: c_int, mode: u32) -> c_int);
count!(openat64, SYS_openat, (at: c_int, path: *const c_char, flags: c_int, mode: u32) -> c_int);

/// libc's `open`, in both its names.
macro_rules! count_open {
    ($($name:ident)*) => {$(
        // SAFETY: as in `count`.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(path: *const c_char, flags: c_int, mode: u32) -> c_int {
            CALLS.fetch_add(1, Relaxed);
            // SAFETY: as promised by the caller.
            unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) as c_int }
        }
    )*};
}
count_open!(open open64);

/// libc's `poll`, which is a function of its own in both names too.
#[unsafe(no_mangle)]
// SAFETY: as in `count`.
unsafe extern "C" fn poll(fds: *mut libc::pollfd, count: libc::nfds_t, timeout: c_int) -> c_int {
    CALLS.fetch_add(1, Relaxed);
    // SAFETY: as promised by the caller; a negative time waits for ever.
    unsafe {
        let time = libc::timespec {
            tv_sec: (timeout / 1000).into(),
            tv_nsec: (timeout % 1000 * 1_000_000).into(),
        };
        let time = if timeout < 0 {
            std::ptr::null()
        } else {
            &raw const time
        };
        libc::syscall(
            libc::SYS_ppoll,
            fds,
            count,
            time,
            std::ptr::null::<c_void>(),
            0,
        ) as c_int
    }
}

/// How many of these calls `body` makes, in any thread: so this file has one test only.
fn calls(body: impl FnOnce()) -> u32 {
    let before = CALLS.load(Relaxed);
    body();
    CALLS.load(Relaxed) - before
}

#[test]
fn neither_configuration_nor_log_calls_a_shadowed_function() {
    let folder = tempfile::tempdir().unwrap();
    let (conf, log_file) = (folder.path().join("conf"), folder.path().join("log"));
    assert!(
        calls(|| std::fs::write(&conf, "NACC_SPIN_US=7\nnonsense\n").unwrap()) >= 3,
        "the count works"
    );
    // SAFETY: the only test, so nothing else reads the environment.
    unsafe { std::env::set_var("NACC_CONF", &conf) };

    let mut loaded = None;
    assert_eq!(calls(|| loaded = Some(config::load())), 0);
    let (config, diagnostics) = loaded.unwrap();
    assert_eq!((config.spin.as_micros(), diagnostics.len()), (7, 1));

    let log_file = log_file.to_str().unwrap().to_owned();
    let config = Config {
        log: LogLevel::Info,
        log_file: log_file.clone(),
        ..config
    };
    assert_eq!(calls(|| log::init(&config)), 0);
    assert_eq!(calls(|| tracing::info!(number = 1, "a line")), 0);
    std::fs::rename(&log_file, format!("{log_file}.old")).unwrap();
    assert_eq!(calls(|| tracing::info!("another")), 0);
    let peer = log::Left::ConnectionsTo("10.0.0.1:80".parse().unwrap());
    let tell = || log::fallback(Reason::SidePortRefused, peer);
    assert_eq!(calls(tell), 0);
    assert_eq!(calls(tell), 0);
    assert_eq!(
        std::fs::read_to_string(format!("{log_file}.old"))
            .unwrap()
            .lines()
            .count(),
        3,
        "the fallback is told once"
    );
}
