//! The unwinder, found when it is first called.
//!
//! What unwinds a panic, or a thread that is cancelled, lies in libgcc_s. Linked in the ordinary way, every program that is
//! started would load that library, for what never happens in most of them: half of what loading this one costs. So the
//! functions that Rust's runtime calls are defined here, each a jump to libgcc_s's own, which the first call looks up. It is
//! that very library and no copy of it: a program's exceptions and cancelled threads pass through our frames with the
//! unwinder that the program has. (Where Rust calls one that is not here, the linker names libgcc_s as before.)

use core::arch::global_asm;
use core::ffi::{CStr, c_int, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

macro_rules! jumps {
    ($($index:literal $name:literal)*) => {
        const NAMES: &[&str] = &[$(concat!($name, "\0")),*];
        $(
            global_asm!(
                concat!(".globl ", $name),
                concat!(".hidden ", $name),
                concat!(".type ", $name, ", @function"),
                concat!($name, ":"),
                concat!("mov rax, [rip + {found} + 8 * ", $index, "]"),
                "test rax, rax",
                "jz 2f",
                "jmp rax",
                "2:",
                concat!("push ", $index),
                "jmp netacc_find_unwinder",
                concat!(".size ", $name, ", . - ", $name),
                found = sym FOUND,
            );
        )*
    };
}

jumps! {
    0 "_Unwind_Backtrace"
    1 "_Unwind_DeleteException"
    2 "_Unwind_GetDataRelBase"
    3 "_Unwind_GetIP"
    4 "_Unwind_GetIPInfo"
    5 "_Unwind_GetLanguageSpecificData"
    6 "_Unwind_GetRegionStart"
    7 "_Unwind_GetTextRelBase"
    8 "_Unwind_RaiseException"
    9 "_Unwind_Resume"
    10 "_Unwind_SetGR"
    11 "_Unwind_SetIP"
}

// On top of the stack is the index, below it where to return to: the function is entered as if it had been called there.
global_asm!(
    "netacc_find_unwinder:",
    "push rdi",
    "push rsi",
    "push rdx",
    "push rcx",
    "push r8",
    "push r9",
    "mov rdi, [rsp + 48]",
    "call {find}",
    "pop r9",
    "pop r8",
    "pop rcx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "add rsp, 8",
    "jmp rax",
    find = sym find,
);

/// Where the functions are, null until they are called.
static FOUND: [AtomicPtr<c_void>; NAMES.len()] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; NAMES.len()];

/// Looks the function of this index up.
extern "C" fn find(index: usize) -> *const c_void {
    let name = NAMES[index].as_ptr().cast();
    // SAFETY: names with their NULs. The library stays loaded: nobody closes it.
    let function = unsafe {
        let library = libc::dlopen(c"libgcc_s.so.1".as_ptr(), libc::RTLD_LAZY);
        match library.is_null() {
            true => core::ptr::null_mut(),
            false => libc::dlsym(library, name),
        }
    };
    if function.is_null() {
        return none as *const c_void;
    }
    FOUND[index].store(function, Ordering::Relaxed);
    function
}

/// For a machine without the library: nothing can be unwound (`_URC_FATAL_PHASE1_ERROR`).
extern "C" fn none() -> c_int {
    3
}

const _: () = {
    let mut at = 0;
    while at < NAMES.len() {
        assert!(CStr::from_bytes_with_nul(NAMES[at].as_bytes()).is_ok());
        at += 1;
    }
};
