//! The RDMA libraries' descriptors and the application. This program has the preload library's hooks in the
//! place of the C library's functions, so that both the application's calls, which the tests make, and the
//! libraries' own come to them.

use std::os::fd::{AsRawFd, RawFd};

use libc::{c_int, c_uint, c_ulong, c_void, epoll_event, size_t, ssize_t};
use netacc::fdtable::{self, Entry};

use super::device::device_descriptors;
use super::ends::Pair;
use super::processes::exchange;

macro_rules! hooked {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) -> $result:ty;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C-unwind" fn $name($($argument: $kind),*) -> $result {
                // SAFETY: as promised by the caller.
                unsafe { netacc::hooks::$name($($argument),*) }
            }
        )*

        /// Names and addresses of what is above.
        const HOOKED: &[(&str, *const c_void)] = &[
            $((concat!(stringify!($name), "\0"), $name as *const c_void)),*
        ];
    };
}

hooked! {
    fn read(fd: c_int, buffer: *mut c_void, length: size_t) -> ssize_t;
    fn write(fd: c_int, buffer: *const c_void, length: size_t) -> ssize_t;
    fn close(fd: c_int) -> c_int;
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    fn dup(fd: c_int) -> c_int;
    fn dup2(fd: c_int, to: c_int) -> c_int;
    fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int;
    fn epoll_create1(flags: c_int) -> c_int;
    fn epoll_ctl(set: c_int, operation: c_int, fd: c_int, event: *mut epoll_event) -> c_int;
}

#[test]
fn the_libraries_calls_come_to_the_hooks() {
    for (name, address) in HOOKED {
        // SAFETY: a name with its end; what is found first in the program's scope is what the libraries
        // get.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr().cast()) };
        assert_eq!(found.cast_const(), *address, "{name}");
    }
}

/// Makes calls on `fd` as an application would that has got the number wrong, and asserts that each says
/// that there is no such descriptor.
fn is_not_there(fd: RawFd) {
    let mut bytes = [0u8; 8];
    let at = bytes.as_mut_ptr();
    let mut event = epoll_event { events: 0, u64: 0 };
    // SAFETY: eight bytes to read from and to write to, and an event.
    unsafe {
        let set = epoll_create1(libc::EPOLL_CLOEXEC);
        assert!(set >= 0);
        let calls: [(&str, &mut dyn FnMut() -> isize); 9] = [
            ("read", &mut || read(fd, at.cast(), 8)),
            ("write", &mut || write(fd, at.cast(), 8)),
            ("close", &mut || close(fd) as isize),
            ("dup", &mut || dup(fd) as isize),
            ("dup2", &mut || dup2(fd, 99) as isize),
            ("dup2 onto it", &mut || dup2(set, fd) as isize),
            ("fcntl", &mut || fcntl(fd, libc::F_GETFL, 0) as isize),
            ("ioctl", &mut || {
                ioctl(fd, libc::FIONREAD, at as usize) as isize
            }),
            ("epoll_ctl", &mut || {
                epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event) as isize
            }),
        ];
        for (name, call) in calls {
            *libc::__errno_location() = 0;
            assert_eq!(call(), -1, "{name} of {fd}");
            assert_eq!(*libc::__errno_location(), libc::EBADF, "{name} of {fd}");
        }
        assert_eq!(close(set), 0);
    }
}

/// Everything that a connection needs still works: one that stands, and the making of another.
fn goes_on(pair: &Pair) {
    exchange(pair, b"on the one that was there");
    pair.connector.cq.arm(false).unwrap();
    exchange(&Pair::connect(), b"on a new one");
}

#[test]
fn the_application_cannot_touch_the_libraries_descriptors() {
    let pair = Pair::connect();
    let all = device_descriptors();
    // The channels of events and of both ends' completions, the device's two, and memory.
    assert!(all.len() >= 6, "{all:?}");
    for (fd, _) in &all {
        is_not_there(*fd);
    }
    assert_eq!(device_descriptors(), all);
    goes_on(&pair);
}

/// As a program does that becomes a daemon, in two ways.
#[test]
fn an_application_that_closes_everything_leaves_them_open() {
    let pair = Pair::connect();
    let all = device_descriptors();
    let closing: [fn(); 2] = [
        || {
            // SAFETY: nothing else of this program is open but what is its own at this moment.
            assert_eq!(unsafe { close_range(3, c_uint::MAX, 0) }, 0);
        },
        || {
            for fd in 3..1 << 15 {
                // SAFETY: as above.
                unsafe { close(fd) };
            }
        },
    ];
    for close_all in closing {
        let file = std::fs::File::open("/dev/null").unwrap();
        let own = file.as_raw_fd();
        std::mem::forget(file);
        close_all();
        assert!(!std::path::Path::new(&format!("/proc/self/fd/{own}")).exists());
        assert_eq!(device_descriptors(), all);
        goes_on(&pair);
    }
    for (fd, target) in all {
        let entry = fdtable::get(fd);
        assert!(matches!(entry, Some(Entry::Internal)), "{fd}: {target}");
    }
}
