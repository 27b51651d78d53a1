//! The preload library: every symbol of the table, exported under libc's name, and the variadic ones that need all
//! their arguments. Nothing else is here, so that tests, benches and tools can link the core without interposing
//! themselves.

#[cfg(target_arch = "x86_64")]
mod unwind;
#[cfg(target_arch = "x86_64")]
mod variadic;

use libc::*;

/// An application is not to end because the library finds no memory.
#[global_allocator]
static MEMORY: netacc::memory::Allocator = netacc::memory::Allocator;

macro_rules! exports {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        /// Each symbol's hook, as the C library would call it, and what a call returns whose hook panicked.
        #[allow(non_snake_case, unused_imports, clippy::wildcard_imports)]
        mod of {
            $(
                pub mod $name {
                    use libc::*;

                    #[unsafe(link_section = ".text.netacc_hooks")]
                    pub unsafe extern "C-unwind" fn hook($($arg: $ty),*) -> $ret {
                        netacc::contain::provoked(stringify!($name));
                        // SAFETY: the caller's contract.
                        unsafe { netacc::hooks::$name($($arg),*) }
                    }

                    #[cfg(target_arch = "x86_64")]
                    pub unsafe extern "C" fn landing(exception: *mut c_void, first: usize) -> $ret {
                        // SAFETY: the unwinder has stopped here with a panic of ours.
                        unsafe { netacc::contain::failed(stringify!($name), exception, first) }
                    }
                }
            )*
        }

        $(export!($name($($arg: $ty),*) -> $ret);)*
    };
}

#[cfg(target_arch = "x86_64")]
macro_rules! export {
    // The only one with more arguments than there are registers for.
    (syscall($($arg:ident: $ty:ty),*) -> $ret:ty) => {
        export!(syscall, netacc::contained!(seven: syscall, of::syscall::hook, of::syscall::landing), ($($arg: $ty),*) -> $ret);
    };
    ($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty) => {
        export!($name, netacc::contained!($name, of::$name::hook, of::$name::landing), ($($arg: $ty),*) -> $ret);
    };
    ($name:ident, $body:expr, ($($arg:ident: $ty:ty),*) -> $ret:ty) => {
        /// # Safety
        /// The contract of the libc function of this name.
        // Together with what most calls need: a short-lived process maps each part of the code that it comes to.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.netacc_hooks")]
        pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> $ret {
            $body
        }
    };
}

/// (The frames that catch panics are written for one kind of processor.)
#[cfg(not(target_arch = "x86_64"))]
macro_rules! export {
    ($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty) => {
        /// # Safety
        /// The contract of the libc function of this name.
        #[unsafe(no_mangle)]
        #[unsafe(link_section = ".text.netacc_hooks")]
        pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> $ret {
            // SAFETY: the caller's contract.
            unsafe { of::$name::hook($($arg),*) }
        }
    };
}

netacc::for_each_symbol!(exports);

/// When the library is loaded it looks whether its program was left anything, or named listeners, and does nothing else.
#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = {
    #[unsafe(link_section = ".text.netacc_hooks")]
    extern "C" fn loaded() {
        netacc::contain::begin();
        netacc::contain::catch("the start", || {
            netacc::exec::legacy::read();
            netacc::hooks::activation::begin();
        });
    }
    loaded
};

/// An ELF note, for who wants to know the version of the file (`netacc_run --check`, `readelf -n`).
#[repr(C)]
struct Note {
    name_size: u32,
    text_size: u32,
    kind: u32,
    name: [u8; 8],
    text: [u8; 32],
}

#[used]
#[unsafe(link_section = ".note.netacc")]
static VERSION: Note = {
    let mut note = Note {
        name_size: netacc::VERSION_NOTE.len() as u32,
        text_size: 32,
        kind: 1,
        name: [0; 8],
        text: [0; 32],
    };
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let mut at = 0;
    while at < version.len() {
        note.text[at] = version[at];
        at += 1;
    }
    at = 0;
    while at < netacc::VERSION_NOTE.len() {
        note.name[at] = netacc::VERSION_NOTE[at];
        at += 1;
    }
    note
};
