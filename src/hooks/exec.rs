//! The exec family and what starts programs: see [`crate::exec`].

use core::ffi::CStr;

use libc::{FILE, c_char, c_int, pid_t, posix_spawn_file_actions_t, posix_spawnattr_t};
use parking_lot::Mutex;

use crate::exec::program::{Program, environment};
use crate::exec::{Action, Departure};
use crate::real::orig;
use crate::real::sys;

type Strings = *const *const c_char;

/// A name that the caller gives; null is for the original to refuse.
unsafe fn name<'a>(path: *const c_char) -> Option<&'a CStr> {
    // SAFETY: null or a string, by the caller's contract.
    (!path.is_null()).then(|| unsafe { CStr::from_ptr(path) })
}

unsafe fn replacing(program: Option<Program<'_>>, environment: Strings) -> Option<Departure> {
    // SAFETY: the caller's contract.
    program.map(|program| unsafe { Departure::replacing(&program, environment) })
}

pub unsafe fn execve(path: *const c_char, argv: Strings, envp: Strings) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let _departure = replacing(name(path).map(Program::Path), envp);
        orig::execve(path, argv, envp)
    }
}

pub unsafe fn execv(path: *const c_char, argv: Strings) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let _departure = replacing(name(path).map(Program::Path), environment());
        orig::execv(path, argv)
    }
}

pub unsafe fn execvp(file: *const c_char, argv: Strings) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let _departure = replacing(name(file).map(Program::Search), environment());
        orig::execvp(file, argv)
    }
}

pub unsafe fn execvpe(file: *const c_char, argv: Strings, envp: Strings) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let _departure = replacing(name(file).map(Program::Search), envp);
        orig::execvpe(file, argv, envp)
    }
}

pub unsafe fn fexecve(fd: c_int, argv: Strings, envp: Strings) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let program = (fd >= 0).then(|| Program::At(sys::borrow(fd), c""));
        let _departure = replacing(program, envp);
        orig::fexecve(fd, argv, envp)
    }
}

pub unsafe fn execveat(
    directory: c_int,
    path: *const c_char,
    argv: Strings,
    envp: Strings,
    flags: c_int,
) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let program = match directory {
            libc::AT_FDCWD => name(path).map(Program::Path),
            ..0 => None,
            directory => name(path).map(|path| Program::At(sys::borrow(directory), path)),
        };
        let _departure = replacing(program, envp);
        orig::execveat(directory, path, argv, envp, flags)
    }
}

/// What file actions do to a program's numbers: whose actions, and what.
static ACTIONS: Mutex<Vec<(usize, Action)>> = Mutex::new(Vec::new());

/// A forked child may have copied them while they were locked.
pub fn reset_after_fork() {
    // SAFETY: fork leaves the child with this thread only.
    unsafe { crate::sync::empty(&ACTIONS) };
}

/// `actions` do that, besides what they did before.
fn note(actions: *mut posix_spawn_file_actions_t, action: Action) {
    if crate::fork::may_serve() {
        ACTIONS.lock().push((actions as usize, action));
    }
}

/// Nothing is known of `actions` any more.
fn forget(actions: *mut posix_spawn_file_actions_t) {
    let mut all = ACTIONS.lock();
    all.retain(|(whose, _)| *whose != actions as usize);
}

pub unsafe fn posix_spawn_file_actions_init(actions: *mut posix_spawn_file_actions_t) -> c_int {
    // Others may have been at the same place, and not been destroyed.
    forget(actions);
    // SAFETY: the caller's contract is that of the original.
    unsafe { orig::posix_spawn_file_actions_init(actions) }
}

pub unsafe fn posix_spawn_file_actions_adddup2(
    actions: *mut posix_spawn_file_actions_t,
    fd: c_int,
    to: c_int,
) -> c_int {
    note(actions, Action::Duplicate(fd, to));
    // SAFETY: the caller's contract is that of the original.
    unsafe { orig::posix_spawn_file_actions_adddup2(actions, fd, to) }
}

pub unsafe fn posix_spawn_file_actions_addclose(
    actions: *mut posix_spawn_file_actions_t,
    fd: c_int,
) -> c_int {
    note(actions, Action::Close(fd, fd));
    // SAFETY: the caller's contract is that of the original.
    unsafe { orig::posix_spawn_file_actions_addclose(actions, fd) }
}

pub unsafe fn posix_spawn_file_actions_addclosefrom_np(
    actions: *mut posix_spawn_file_actions_t,
    from: c_int,
) -> c_int {
    note(actions, Action::Close(from, c_int::MAX));
    // SAFETY: the caller's contract is that of the original.
    unsafe { orig::posix_spawn_file_actions_addclosefrom_np(actions, from) }
}

pub unsafe fn posix_spawn_file_actions_destroy(actions: *mut posix_spawn_file_actions_t) -> c_int {
    forget(actions);
    // SAFETY: the caller's contract is that of the original.
    unsafe { orig::posix_spawn_file_actions_destroy(actions) }
}

unsafe fn beside(
    program: Option<Program<'_>>,
    envp: Strings,
    actions: *const posix_spawn_file_actions_t,
) -> Option<Departure> {
    let all = ACTIONS.lock();
    let ours = all.iter().filter(|(whose, _)| *whose == actions as usize);
    let ours: Vec<Action> = ours.map(|(_, action)| *action).collect();
    drop(all);
    // SAFETY: the caller's contract.
    program.map(|program| unsafe { Departure::beside(&program, envp, &ours) })
}

pub unsafe fn posix_spawn(
    pid: *mut pid_t,
    path: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attributes: *const posix_spawnattr_t,
    argv: *const *mut c_char,
    envp: *const *mut c_char,
) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let _departure = beside(name(path).map(Program::Path), envp.cast(), actions);
        orig::posix_spawn(pid, path, actions, attributes, argv, envp)
    }
}

pub unsafe fn posix_spawnp(
    pid: *mut pid_t,
    file: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attributes: *const posix_spawnattr_t,
    argv: *const *mut c_char,
    envp: *const *mut c_char,
) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let _departure = beside(name(file).map(Program::Search), envp.cast(), actions);
        orig::posix_spawnp(pid, file, actions, attributes, argv, envp)
    }
}

/// What system(3) and popen(3) run.
const SHELL: Program<'static> = Program::Path(c"/bin/sh");

pub unsafe fn system(command: *const c_char) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let program = (!command.is_null()).then_some(SHELL);
        let mut departure = beside(program, environment(), core::ptr::null());
        if let Some(departure) = &mut departure {
            departure.goes_on();
        }
        orig::system(command)
    }
}

pub unsafe fn popen(command: *const c_char, mode: *const c_char) -> *mut FILE {
    // SAFETY: the caller's contract is that of the original.
    unsafe {
        let _departure = beside(Some(SHELL), environment(), core::ptr::null());
        orig::popen(command, mode)
    }
}

pub unsafe fn daemon(keep_directory: c_int, keep_streams: c_int) -> c_int {
    if !crate::fork::may_serve() {
        // SAFETY: no pointers.
        return unsafe { orig::daemon(keep_directory, keep_streams) };
    }
    // The C library's parent would end without a word to its peers.
    // SAFETY: plain system calls on constants; the child goes on with this thread only, as the original's.
    unsafe {
        match libc::fork() {
            -1 => return -1,
            0 => {}
            _ => super::_exit(0),
        }
        if libc::setsid() < 0 {
            return -1;
        }
        if keep_directory == 0 {
            libc::chdir(c"/".as_ptr());
        }
        if keep_streams == 0 {
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            if null < 0 {
                return -1;
            }
            for stream in 0..=2 {
                super::dup2(null, stream);
            }
            if null > 2 {
                super::close(null);
            }
        }
        0
    }
}

/// A `va_list` of the x86-64 ABI.
#[cfg(target_arch = "x86_64")]
#[repr(C)]
pub struct Arguments {
    general: u32,
    floating: u32,
    stack: *const usize,
    registers: *const u8,
}

#[cfg(target_arch = "x86_64")]
impl Arguments {
    /// The next one, a pointer.
    unsafe fn next(&mut self) -> *const c_char {
        /// Bytes of all registers that hold arguments of that kind.
        const REGISTERS: u32 = 48;
        // SAFETY: the caller knows that there is one more.
        unsafe {
            if self.general < REGISTERS {
                let at = self.registers.add(self.general as usize).cast::<usize>();
                self.general += 8;
                return at.read() as *const c_char;
            }
            let value = self.stack.read();
            self.stack = self.stack.add(1);
            value as *const c_char
        }
    }

    /// All up to null, and that.
    unsafe fn list(&mut self) -> Vec<*const c_char> {
        let mut all = Vec::new();
        loop {
            // SAFETY: the list ends with null, by the contract of execl(3).
            let next = unsafe { self.next() };
            all.push(next);
            if next.is_null() {
                return all;
            }
        }
    }
}

/// execl(3).
#[cfg(target_arch = "x86_64")]
pub unsafe extern "C-unwind" fn vexecl(path: *const c_char, list: *mut Arguments) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe { execv(path, (*list).list().as_ptr()) }
}

/// execlp(3).
#[cfg(target_arch = "x86_64")]
pub unsafe extern "C-unwind" fn vexeclp(file: *const c_char, list: *mut Arguments) -> c_int {
    // SAFETY: the caller's contract is that of the original.
    unsafe { execvp(file, (*list).list().as_ptr()) }
}

/// execle(3).
#[cfg(target_arch = "x86_64")]
pub unsafe extern "C-unwind" fn vexecle(path: *const c_char, list: *mut Arguments) -> c_int {
    // SAFETY: the caller's contract is that of the original: the environment follows the list.
    unsafe {
        let arguments = (*list).list();
        let envp = (*list).next().cast();
        execve(path, arguments.as_ptr(), envp)
    }
}
