//! libibverbs and librdmacm, opened at run time: the preload library must load on machines that have
//! neither. Each entry of the table is checked against rdma-sys' declaration when this is compiled.
//!
//! Functions that are inline in C (posting, polling, arming) go through the device context's own table
//! and are used as rdma-sys has them.
//!
//! **Scope.** The libraries are opened with `RTLD_DEEPBIND`, so that their own calls of `socket`,
//! `read`, `close` and `malloc` go to the C library and not to our hooks, nor to an allocator that the
//! application brought. libibverbs loads its providers without that flag, therefore they are opened here
//! before it does: it then finds them already loaded. Where that cannot be (a sanitizer refuses the
//! flag, or the application itself uses libibverbs) everything works too, only the libraries'
//! descriptors are not protected from the application: see [`Api::hides`].

use core::ffi::{CStr, c_int, c_uint, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};
use std::ffi::CString;

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

/// How the libraries are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Their own calls go to the C library.
    Own,
    /// Their own calls go where the application's do. For sanitizers, which refuse anything else.
    Applications,
}

/// The opened libraries.
pub struct Api {
    functions: Functions,
    /// Whether the libraries' own calls go to the C library.
    deep: bool,
    /// The files of the providers of which the same is true.
    deep_providers: Vec<CString>,
    owner: Owner,
}

impl core::fmt::Debug for Api {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Api").field("deep", &self.deep).finish()
    }
}

static OPENED: AtomicPtr<Api> = AtomicPtr::new(core::ptr::null_mut());

/// The libraries, opened at the first call. Later calls ignore `scope`.
///
/// It loads files and may take milliseconds: not for a thread of the application's.
///
/// # Errors
/// [`Error::Library`] and [`Error::TooOld`] when they cannot be used; [`Error::Forked`] in a process that
/// was forked from one that had them open: they keep their devices in static variables.
pub fn open(scope: Scope) -> Result<&'static Api, Error> {
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
    let made = Box::into_raw(Box::new(load(scope)?));
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

fn load(scope: Scope) -> Result<Api, Error> {
    let mut flags = libc::RTLD_NOW | libc::RTLD_LOCAL;
    // Once the application has loaded them their scope is settled.
    let fresh = [&VERBS, &CM]
        .iter()
        .all(|source| !is_loaded(source.library));
    let deep = scope == Scope::Own && fresh;
    if deep {
        flags |= libc::RTLD_DEEPBIND;
    }
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
    let deep_providers = if deep {
        load_providers(functions.ibv_reg_mr as *const c_void, flags)
    } else {
        Vec::new()
    };
    // The table's functions live as long as the process.
    core::mem::forget(libraries);
    Ok(Api {
        functions,
        deep,
        deep_providers,
        owner: Owner::this_process(),
    })
}

fn is_loaded(library: &str) -> bool {
    // SAFETY: loads nothing.
    unsafe { Library::open(Some(library), libc::RTLD_LAZY | libc::RTLD_NOLOAD) }.is_ok()
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

/// Opens libibverbs' providers, which lie in a folder beside the library that `function` is in.
/// Those of which that folder is not true are loaded by libibverbs itself.
fn load_providers(function: *const c_void, flags: c_int) -> Vec<CString> {
    let Some(library) = file_of(function) else {
        return Vec::new();
    };
    let library = library.to_bytes();
    let folder = match library.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => [&library[..slash], b"/libibverbs"].concat(),
        None => return Vec::new(),
    };
    let mut loaded = Vec::new();
    for name in super::sysfs::entries(&folder) {
        let path = [&folder[..], b"/", name.as_bytes()].concat();
        let Ok(path) = CString::new(path) else {
            continue;
        };
        if !name.as_bytes().ends_with(b".so") {
            continue;
        }
        let Ok(text) = path.to_str() else { continue };
        // SAFETY: a provider of libibverbs registers itself when it is loaded, and is never unloaded.
        if let Ok(provider) = unsafe { Library::open(Some(text), flags) } {
            core::mem::forget(provider);
            loaded.push(path);
        }
    }
    loaded
}

/// The file that a function's code is in, as the dynamic linker opened it.
fn file_of(function: *const c_void) -> Option<&'static CStr> {
    // SAFETY: an all-zero Dl_info is one of null pointers.
    let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: any address may be asked for.
    let found = unsafe { libc::dladdr(function, &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the dynamic linker's own string for an object that is never unloaded.
    Some(unsafe { CStr::from_ptr(info.dli_fname) })
}

impl Api {
    /// Whether librdmacm's descriptors can be hidden from the application.
    pub(super) fn hides_cm(&self) -> bool {
        self.deep
    }

    /// Whether the descriptors of a device can be hidden from the application. The hooks refuse a
    /// hidden descriptor to whoever comes through them, which must not be the device's own provider:
    /// the soft devices' ring their doorbell with write(2).
    pub(super) fn hides(&self, provider_function: *const c_void) -> bool {
        self.deep
            && file_of(provider_function)
                .is_some_and(|file| self.deep_providers.iter().any(|known| **known == *file))
    }
}
