//! The frame between the application and the library: a panic ends here, whatever else unwinds passes through.
//!
//! A thread of the application's may be cancelled while it waits in one of our calls. The C library then unwinds its stack
//! by force, and `catch_unwind` aborts the process when that comes by: it may hold up nothing but Rust's own panics. So each
//! export is a few instructions that call the hook, and their *personality*, which the unwinder asks whether to stop there, says
//! yes to panics alone. A call that does not unwind pays for a `push`, a `call` and a `ret`.

use core::ffi::{c_int, c_void};

/// How the unwinder calls its phases.
const SEARCH: c_int = 1;
const HANDLER: c_int = 4;
const FORCED: c_int = 8;
/// What it wants to hear.
const FATAL: c_int = 3;
const FOUND: c_int = 6;
const INSTALL: c_int = 7;
const CONTINUE: c_int = 8;

/// By which Rust's panics are known; its runtime has written it in either way.
const RUST: [u64; 2] = [
    u64::from_le_bytes(*b"MOZ\0RUST"),
    u64::from_be_bytes(*b"MOZ\0RUST"),
];
/// The unwinder's number of RAX.
const RAX: c_int = 0;

unsafe extern "C-unwind" {
    fn _Unwind_RaiseException(exception: *mut c_void) -> c_int;
}

unsafe extern "C" {
    fn _Unwind_GetLanguageSpecificData(context: *mut c_void) -> *const c_void;
    fn _Unwind_SetGR(context: *mut c_void, register: c_int, value: usize);
    fn _Unwind_SetIP(context: *mut c_void, address: usize);
}

/// Goes on with a panic that has been caught. Returns only if nobody catches it.
///
/// # Safety
/// The exception is a panic's of this very Rust runtime.
pub unsafe fn throw(exception: *mut c_void) {
    // SAFETY: by the contract.
    unsafe { _Unwind_RaiseException(exception) };
}

/// Whether the unwinder stops at one of our frames. Where it goes on in it is the frame's "language specific data".
///
/// # Safety
/// For the unwinder alone.
pub unsafe extern "C" fn personality(
    version: c_int,
    actions: c_int,
    class: u64,
    exception: *mut c_void,
    context: *mut c_void,
) -> c_int {
    if version != 1 {
        return FATAL;
    }
    if !RUST.contains(&class) || actions & FORCED != 0 {
        return CONTINUE;
    }
    if actions & SEARCH != 0 {
        return FOUND;
    }
    if actions & HANDLER == 0 {
        return CONTINUE;
    }
    // SAFETY: the unwinder's own, in the phase in which it asks for this.
    unsafe {
        _Unwind_SetGR(context, RAX, exception as usize);
        _Unwind_SetIP(context, _Unwind_GetLanguageSpecificData(context) as usize);
    }
    INSTALL
}

/// A naked function's body that calls `$hook` with the arguments it was called with, up to six, all in general registers; a
/// panic in it goes to `$landing`, which gets the exception and the first argument, and returns what the function returns.
#[macro_export]
macro_rules! contained {
    ($name:ident, $hook:path, $landing:path) => {
        $crate::contained!($name, "", "", "8", $hook, $landing)
    };
    // The same with a seventh argument, which lies on the stack.
    (seven: $name:ident, $hook:path, $landing:path) => {
        $crate::contained!(
            $name,
            "sub rsp, 8\n.cfi_adjust_cfa_offset 8",
            "push qword ptr [rsp + 24]\n.cfi_adjust_cfa_offset 8",
            "24",
            $hook,
            $landing
        )
    };
    ($name:ident, $room:literal, $seventh:literal, $frame:literal, $hook:path, $landing:path) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            ".cfi_personality 0x1b, {personality}",
            concat!(".cfi_lsda 0x1b, .Lnetacc_landing_", stringify!($name)),
            "push rdi",
            ".cfi_adjust_cfa_offset 8",
            $room,
            $seventh,
            "call {hook}",
            concat!("add rsp, ", $frame),
            ".cfi_def_cfa_offset 8",
            "ret",
            concat!(".Lnetacc_landing_", stringify!($name), ":"),
            concat!(".cfi_def_cfa_offset 8 + ", $frame),
            concat!("mov rsi, [rsp + ", $frame, " - 8]"),
            concat!("add rsp, ", $frame),
            ".cfi_def_cfa_offset 8",
            "mov rdi, rax",
            "jmp {landing}",
            ".cfi_endproc",
            personality = sym $crate::contain::frame::personality,
            hook = sym $hook,
            landing = sym $landing,
        )
    };
}
