//! The preload library: every symbol of the table, exported under libc's name, and the variadic ones that need all
//! their arguments. Nothing else is here, so that tests, benches and tools can link the core without interposing
//! themselves.

#[cfg(target_arch = "x86_64")]
mod variadic;

use libc::*;

macro_rules! exports {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        $(
            /// # Safety
            /// The contract of the libc function of this name.
            #[unsafe(no_mangle)]
            pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> $ret {
                // SAFETY: the caller's contract.
                unsafe { netacc::hooks::$name($($arg),*) }
            }
        )*
    };
}

netacc::for_each_symbol!(exports);

/// When the library is loaded it looks whether its program was left anything, or named listeners, and does nothing else.
#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = {
    extern "C" fn loaded() {
        netacc::exec::legacy::read();
        netacc::hooks::activation::begin();
    }
    loaded
};
