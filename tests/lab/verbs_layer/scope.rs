//! Calls that the RDMA libraries make themselves: they are not the application's, and must not come to
//! the hooks. This program shadows some, and counts.

use std::cell::Cell;
use std::ffi::{c_int, c_ulong, c_void};
use std::process::Command;

use netacc::fdtable;
use netacc::verbs::api::{self, Scope};
use std::os::fd::{AsFd, AsRawFd};

use super::ends::{Events, Pair};
use super::processes::exchange;

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// Defines a libc function that counts its calls and makes the system call of that number.
macro_rules! count {
    ($name:ident, $number:ident, ($($argument:ident: $kind:ty),*) -> $result:ty) => {
        // SAFETY: the same signature as libc's on this platform, where variadic arguments are passed
        // like fixed ones; the system call takes the same arguments.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $kind),*) -> $result {
            let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
            // SAFETY: as promised by the caller.
            unsafe { libc::syscall(libc::$number, $($argument),*) as $result }
        }
    };
}

count!(write, SYS_write, (fd: c_int, buffer: *const c_void, length: usize) -> isize);
count!(read, SYS_read, (fd: c_int, buffer: *mut c_void, length: usize) -> isize);
count!(close, SYS_close, (fd: c_int) -> c_int);
count!(ioctl, SYS_ioctl, (fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int);
count!(socket, SYS_socket, (domain: c_int, kind: c_int, protocol: c_int) -> c_int);

/// How many of these calls this thread makes in `body`.
fn calls(body: impl FnOnce()) -> u32 {
    let before = CALLS.get();
    body();
    CALLS.get() - before
}

/// A connection's whole life.
fn live() {
    let pair = Pair::connect();
    exchange(&pair, b"a message");
    pair.connector.cq.arm(false).unwrap();
    pair.connector.qp.id().disconnect().unwrap();
}

/// What this program runs again for.
const SCOPE: &str = "NACC_TEST_SCOPE";

/// What a process counts that begins with `scope`.
fn begin(scope: &str) -> u32 {
    let out = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "verbs_layer::scope::calls_of_the_libraries_do_not_come_to_the_hooks",
        ])
        .arg("--nocapture")
        .env(SCOPE, scope)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{out:?}");
    let mut counts = text.lines().filter_map(|line| line.rsplit_once("calls: "));
    let (_, count) = counts.next().unwrap_or_else(|| panic!("{text}"));
    count.parse().unwrap()
}

/// From the very first call on: in a process of its own.
#[test]
fn calls_of_the_libraries_do_not_come_to_the_hooks() {
    let Ok(scope) = std::env::var(SCOPE) else {
        assert_eq!(begin("own"), 0);
        assert!(begin("application's") > 10);
        return;
    };
    let counted = if scope == "own" {
        calls(live)
    } else {
        let counted = calls(|| {
            api::open(Scope::Applications).unwrap();
            live();
        });
        // It works too; only the hooks must not refuse the libraries their own descriptors.
        let events = Events::new();
        let fd = events.channel.as_fd().as_raw_fd();
        assert!(fd >= 512 && fdtable::get(fd).is_none());
        counted
    };
    println!("calls: {counted}");
}
