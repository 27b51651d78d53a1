//! dprintf(3), its checked form, and the exec family's members that take any number of arguments of any type: a function that does so cannot be
//! written in Rust. These gather their arguments into a `va_list`, as a C compiler would, and go on as vdprintf(3) and execv(3).

use core::arch::naked_asm;

/// Lays the registers that may hold arguments out on the stack, as the x86-64 ABI has it: a `va_list` at the stack
/// pointer, the registers 0x20 bytes above it. `$gp` bytes of the general ones are taken by named arguments; `$list` is
/// the register for the list, the next argument of `$target`.
macro_rules! gather {
    ($name:ident, $gp:literal, $list:literal, $target:path) => {
        /// # Safety
        /// The contract of the libc function of this name.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C-unwind" fn $name() {
            naked_asm!(
                ".cfi_startproc",
                "sub rsp, 0xd8",
                ".cfi_adjust_cfa_offset 0xd8",
                "mov [rsp + 0x20], rdi",
                "mov [rsp + 0x28], rsi",
                "mov [rsp + 0x30], rdx",
                "mov [rsp + 0x38], rcx",
                "mov [rsp + 0x40], r8",
                "mov [rsp + 0x48], r9",
                "test al, al",
                "je 2f",
                "movaps [rsp + 0x50], xmm0",
                "movaps [rsp + 0x60], xmm1",
                "movaps [rsp + 0x70], xmm2",
                "movaps [rsp + 0x80], xmm3",
                "movaps [rsp + 0x90], xmm4",
                "movaps [rsp + 0xa0], xmm5",
                "movaps [rsp + 0xb0], xmm6",
                "movaps [rsp + 0xc0], xmm7",
                "2:",
                concat!("mov dword ptr [rsp], ", $gp),
                "mov dword ptr [rsp + 4], 48",
                "lea rax, [rsp + 0xe0]",
                "mov [rsp + 8], rax",
                "lea rax, [rsp + 0x20]",
                "mov [rsp + 16], rax",
                concat!("mov ", $list, ", rsp"),
                "call {target}",
                "add rsp, 0xd8",
                ".cfi_adjust_cfa_offset -0xd8",
                "ret",
                ".cfi_endproc",
                target = sym $target,
            )
        }
    };
}

/// The hooks of those that end here, and what a call returns whose hook panicked: see the exports.
macro_rules! targets {
    ($($name:ident $hook:path;)*) => {
        mod of {
            $(pub mod $name {
                use core::ffi::{c_int, c_void};

                pub unsafe extern "C" fn landing(exception: *mut c_void, first: usize) -> c_int {
                    // SAFETY: the unwinder has stopped here with a panic of ours.
                    unsafe { netacc::contain::failed(stringify!($name), exception, first) }
                }
            })*
        }

        $(#[unsafe(naked)]
        unsafe extern "C-unwind" fn $name() {
            netacc::contained!($name, $hook, of::$name::landing)
        })*
    };
}

targets! {
    vexecl netacc::hooks::vexecl;
    vexeclp netacc::hooks::vexeclp;
    vexecle netacc::hooks::vexecle;
}

gather!(execl, "8", "rsi", vexecl);
gather!(execlp, "8", "rsi", vexeclp);
gather!(execle, "8", "rsi", vexecle);
gather!(dprintf, "16", "rdx", crate::vdprintf);
gather!(__dprintf_chk, "24", "rcx", crate::__vdprintf_chk);
