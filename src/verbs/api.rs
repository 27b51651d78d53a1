//! libibverbs and librdmacm, opened at run time: the preload library must load on machines that have
//! neither. Each entry of the table is checked against rdma-sys' declaration when this is compiled.
//!
//! Functions that are inline in C (posting, polling, arming) go through the device context's own table
//! and are used as rdma-sys has them.
//!
//! **Scope.** The libraries' own calls of `read`, `write`, `ioctl`, `close` and the like come to our hooks, as
//! those of any library do, and every call of theirs is surrounded by
//! [`Inside`](super::guard::Inside), so that the hooks know them. Opening the libraries with `RTLD_DEEPBIND`
//! would keep these calls from the hooks, but it takes the program's own `malloc` and `free` away from
//! them too: in a program that brings an allocator (redis does), the C library allocates from that one
//! what they would then give back to the C library's.

use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

use libc::sockaddr;
use libloading::os::unix::Library;
use rdma_sys::*;

use super::error::Error;
use super::guard::{Inside, Owner};

/// A library and the Debian package that has it.
struct Source {
    library: &'static str,
    package: &'static str,
}

const VERBS: Source = Source {
    library: "libibverbs.so.1",
    package: "libibverbs1 ibverbs-providers",
};
const CM: Source = Source {
    library: "librdmacm.so.1",
    package: "librdmacm1",
};

macro_rules! table {
    ($($source:ident { $(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)* })*) => {
        /// The libraries' functions, each with the contract of its manual page.
        struct Functions {
            $($($name: unsafe extern "C" fn($($arg: $ty),*) -> $ret,)*)*
        }

        // That rdma-sys declares the same types. Naming a function in a constant makes no reference to
        // its symbol in the object file: nothing is linked.
        $($(const _: () = {
            let _: unsafe extern "C" fn($($ty),*) -> $ret = rdma_sys::$name;
        };)*)*

        impl Functions {
            fn find(libraries: &Libraries) -> Result<Functions, Error> {
                Ok(Functions {
                    $($($name: {
                        // SAFETY: the symbol is the function of this prototype, as rdma-core's headers
                        // declare it for this version of the library's interface.
                        let found = unsafe {
                            libraries.of(&$source).get::<unsafe extern "C" fn($($ty),*) -> $ret>(
                                concat!(stringify!($name), "\0"),
                            )
                        };
                        *found.map_err(|_| Error::TooOld {
                            library: $source.library,
                            symbol: stringify!($name),
                        })?
                    },)*)*
                })
            }
        }

        // Not all are called through here: ibv_fork_init comes before there is an `Api`.
        #[allow(dead_code)]
        impl Api {
            $($(
            #[inline]
            pub(super) unsafe fn $name(&self, $($arg: $ty),*) -> $ret {
                // SAFETY: the caller keeps the function's contract.
                unsafe { (self.functions.$name)($($arg),*) }
            })*)*
        }
    };
}

table! {
    VERBS {
        fn ibv_query_device(context: *mut ibv_context, attributes: *mut ibv_device_attr) -> c_int;
        fn ibv_query_port(context: *mut ibv_context, port: u8, attributes: *mut _compat_ibv_port_attr) -> c_int;
        fn ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd;
        fn ibv_dealloc_pd(pd: *mut ibv_pd) -> c_int;
        fn ibv_reg_mr(pd: *mut ibv_pd, address: *mut c_void, len: usize, access: c_int) -> *mut ibv_mr;
        fn ibv_dereg_mr(mr: *mut ibv_mr) -> c_int;
        fn ibv_create_comp_channel(context: *mut ibv_context) -> *mut ibv_comp_channel;
        fn ibv_destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int;
        fn ibv_create_cq(context: *mut ibv_context, entries: c_int, cq_context: *mut c_void, channel: *mut ibv_comp_channel, vector: c_int) -> *mut ibv_cq;
        fn ibv_destroy_cq(cq: *mut ibv_cq) -> c_int;
        fn ibv_get_cq_event(channel: *mut ibv_comp_channel, cq: *mut *mut ibv_cq, cq_context: *mut *mut c_void) -> c_int;
        fn ibv_ack_cq_events(cq: *mut ibv_cq, count: c_uint) -> ();
        fn ibv_create_qp(pd: *mut ibv_pd, init: *mut ibv_qp_init_attr) -> *mut ibv_qp;
        fn ibv_destroy_qp(qp: *mut ibv_qp) -> c_int;
        fn ibv_modify_qp(qp: *mut ibv_qp, attributes: *mut ibv_qp_attr, mask: c_int) -> c_int;
        fn ibv_query_qp(qp: *mut ibv_qp, attributes: *mut ibv_qp_attr, mask: c_int, init: *mut ibv_qp_init_attr) -> c_int;
        fn ibv_get_async_event(context: *mut ibv_context, event: *mut ibv_async_event) -> c_int;
        fn ibv_ack_async_event(event: *mut ibv_async_event) -> ();
        fn ibv_fork_init() -> c_int;
    }
    CM {
        fn rdma_create_event_channel() -> *mut rdma_event_channel;
        fn rdma_destroy_event_channel(channel: *mut rdma_event_channel) -> ();
        fn rdma_create_id(channel: *mut rdma_event_channel, id: *mut *mut rdma_cm_id, context: *mut c_void, port_space: c_uint) -> c_int;
        fn rdma_destroy_id(id: *mut rdma_cm_id) -> c_int;
        fn rdma_bind_addr(id: *mut rdma_cm_id, address: *mut sockaddr) -> c_int;
        fn rdma_listen(id: *mut rdma_cm_id, backlog: c_int) -> c_int;
        fn rdma_resolve_addr(id: *mut rdma_cm_id, from: *mut sockaddr, to: *mut sockaddr, timeout_ms: c_int) -> c_int;
        fn rdma_resolve_route(id: *mut rdma_cm_id, timeout_ms: c_int) -> c_int;
        fn rdma_create_qp(id: *mut rdma_cm_id, pd: *mut ibv_pd, init: *mut ibv_qp_init_attr) -> c_int;
        fn rdma_destroy_qp(id: *mut rdma_cm_id) -> ();
        fn rdma_connect(id: *mut rdma_cm_id, parameters: *mut rdma_conn_param) -> c_int;
        fn rdma_accept(id: *mut rdma_cm_id, parameters: *mut rdma_conn_param) -> c_int;
        fn rdma_reject(id: *mut rdma_cm_id, private_data: *const c_void, len: u8) -> c_int;
        fn rdma_disconnect(id: *mut rdma_cm_id) -> c_int;
        fn rdma_get_cm_event(channel: *mut rdma_event_channel, event: *mut *mut rdma_cm_event) -> c_int;
        fn rdma_ack_cm_event(event: *mut rdma_cm_event) -> c_int;
        fn rdma_set_option(id: *mut rdma_cm_id, level: c_int, name: c_int, value: *mut c_void, len: usize) -> c_int;
    }
}

/// Whether fork needs help; rdma-core 35 and newer can tell.
type IsForkInitialized = unsafe extern "C" fn() -> ibv_fork_status;
const _: () = {
    let _: IsForkInitialized = rdma_sys::ibv_is_fork_initialized;
};

/// Both libraries, never closed.
struct Libraries {
    verbs: Library,
    cm: Library,
}

impl Libraries {
    fn of(&self, source: &Source) -> &Library {
        if core::ptr::eq(source.library, CM.library) {
            &self.cm
        } else {
            &self.verbs
        }
    }
}

/// The opened libraries.
pub struct Api {
    functions: Functions,
    owner: Owner,
}

impl core::fmt::Debug for Api {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

static OPENED: AtomicPtr<Api> = AtomicPtr::new(core::ptr::null_mut());

/// The libraries, opened at the first call.
///
/// It loads files and may take milliseconds: not for a thread of the application's.
///
/// # Errors
/// [`Error::Library`] and [`Error::TooOld`] when they cannot be used; [`Error::Forked`] in a process that
/// was forked from one that had them open: they keep their devices in static variables.
pub fn open() -> Result<&'static Api, Error> {
    // No lock: a child that is forked while another thread opens them must not hang here.
    // SAFETY: null or a leaked box.
    if let Some(api) = unsafe { OPENED.load(Ordering::Acquire).as_ref() } {
        return if api.owner.is_here() {
            Ok(api)
        } else {
            Err(Error::Forked)
        };
    }
    let _inside = Inside::enter();
    let made = Box::into_raw(Box::new(load()?));
    match OPENED.compare_exchange(
        core::ptr::null_mut(),
        made,
        Ordering::AcqRel,
        Ordering::Acquire,
    ) {
        // SAFETY: just made, and leaked from here on.
        Ok(_) => Ok(unsafe { &*made }),
        Err(first) => {
            // SAFETY: nobody else has seen it; what it holds needs no giving back.
            drop(unsafe { Box::from_raw(made) });
            // SAFETY: a leaked box.
            Ok(unsafe { &*first })
        }
    }
}

fn load() -> Result<Api, Error> {
    let flags = libc::RTLD_NOW | libc::RTLD_LOCAL;
    let get = |source: &Source| {
        // SAFETY: rdma-core's libraries do nothing when they are loaded, and are never unloaded.
        unsafe { Library::open(Some(source.library), flags) }.map_err(|error| Error::Library {
            library: source.library,
            detail: error.to_string(),
            package: source.package,
        })
    };
    let libraries = Libraries {
        verbs: get(&VERBS)?,
        cm: get(&CM)?,
    };
    let functions = Functions::find(&libraries)?;
    make_fork_safe(&libraries, &functions);
    // The table's functions live as long as the process.
    core::mem::forget(libraries);
    Ok(Api {
        functions,
        owner: Owner::this_process(),
    })
}

/// Kernels from 5.12 on give a forked child copies of pinned pages; before that the parent's pages
/// could move away from under the device, unless libibverbs is told to prevent it.
fn make_fork_safe(libraries: &Libraries, functions: &Functions) {
    // SAFETY: the symbol has this prototype in every version that has it.
    let asked = unsafe {
        libraries
            .verbs
            .get::<IsForkInitialized>("ibv_is_fork_initialized\0")
            .map(|ask| ask())
    };
    if !matches!(asked, Ok(IBV_FORK_UNNEEDED | IBV_FORK_ENABLED)) {
        // SAFETY: nothing is registered yet, as it wants.
        let result = unsafe { (functions.ibv_fork_init)() };
        if result != 0 {
            tracing::warn!(
                result,
                "ibv_fork_init failed: a fork may break RDMA connections on this kernel"
            );
        }
    }
}
