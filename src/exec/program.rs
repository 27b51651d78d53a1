//! Whether the loader preloads libraries into a program.

use core::ffi::CStr;

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RawMode};

use crate::real::sys;

/// What sort of program a file is.
#[derive(Debug, PartialEq, Eq)]
enum Elf {
    /// Not ELF: a script.
    No,
    /// A 64-bit program of this machine that names a loader.
    Dynamic,
    /// One that names no loader.
    Static,
    /// Of another machine or word size.
    Foreign,
}

fn read_exact(file: BorrowedFd<'_>, into: &mut [u8], at: u64) -> bool {
    rustix::io::pread(file, &mut *into, at) == Ok(into.len())
}

impl Elf {
    fn read(file: BorrowedFd<'_>) -> Elf {
        const HEADER: usize = 64;
        const EM_X86_64: u16 = 62;
        const EM_AARCH64: u16 = 183;
        const PT_INTERP: u32 = 3;
        let mut header = [0; HEADER];
        if !read_exact(file, &mut header, 0) || !header.starts_with(b"\x7fELF") {
            return Elf::No;
        }
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let machine = if cfg!(target_arch = "aarch64") {
            EM_AARCH64
        } else {
            EM_X86_64
        };
        // EI_CLASS: 64 bits; EI_DATA: little-endian.
        if header[4] != 2 || header[5] != 1 || word(18) != machine {
            return Elf::Foreign;
        }
        let mut offset = [0; 8];
        offset.copy_from_slice(&header[32..40]);
        let (start, size, count) = (
            u64::from_le_bytes(offset),
            u64::from(word(54)),
            u64::from(word(56)),
        );
        for index in 0..count {
            let mut kind = [0; 4];
            let at = start.saturating_add(index * size);
            if read_exact(file, &mut kind, at) && u32::from_le_bytes(kind) == PT_INTERP {
                return Elf::Dynamic;
            }
        }
        Elf::Static
    }
}

/// Why the loader ignores `LD_PRELOAD` for a program; continues a sentence about it.
pub fn obstacle(file: BorrowedFd<'_>) -> Option<&'static str> {
    let meta = rustix::fs::fstat(file).ok()?;
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    let elf = Elf::read(file);
    // The kernel ignores these bits of a script.
    if elf != Elf::No {
        let mode = Mode::from_raw_mode(meta.st_mode as RawMode);
        if mode.contains(Mode::SUID) && meta.st_uid != user.as_raw() {
            return Some("is set-user-id, so the loader ignores LD_PRELOAD");
        }
        if mode.contains(Mode::SGID) && meta.st_gid != group.as_raw() {
            return Some("is set-group-id, so the loader ignores LD_PRELOAD");
        }
        if !user.is_root() && has_capabilities(file) {
            return Some("has file capabilities, so the loader ignores LD_PRELOAD");
        }
    }
    match elf {
        Elf::Static => Some("is statically linked, so no library can be preloaded"),
        Elf::Foreign => Some("is built for another kind of machine than the NetACC library"),
        Elf::Dynamic | Elf::No => None,
    }
}

fn has_capabilities(file: BorrowedFd<'_>) -> bool {
    // SAFETY: the name is NUL-terminated, and a size of 0 only asks for the attribute's length.
    let length = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            c"security.capability".as_ptr(),
            core::ptr::null_mut(),
            0,
        )
    };
    length > 0
}

/// What a call of the exec family names.
#[derive(Clone, Copy)]
pub enum Program<'a> {
    /// A file.
    Path(&'a CStr),
    /// A file, or a name to look for in PATH.
    Search(&'a CStr),
    /// A file seen from a directory, or an open one if the path is empty.
    At(BorrowedFd<'a>, &'a CStr),
}

impl Program<'_> {
    fn open(&self) -> Option<OwnedFd> {
        match *self {
            Program::Path(path) => open(path),
            Program::At(file, path) if path.is_empty() => {
                rustix::io::fcntl_dupfd_cloexec(file, 0).ok()
            }
            Program::At(directory, path) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                rustix::fs::openat(directory, path, flags, Mode::empty()).ok()
            }
            Program::Search(name) if name.to_bytes().contains(&b'/') => open(name),
            Program::Search(name) => open(CStr::from_bytes_with_nul(&search(name)?).ok()?),
        }
    }

    /// Whether it can be run at all, as far as can be seen: callers try several names.
    pub fn is_there(&self) -> bool {
        match *self {
            Program::Path(path) => may_run(path),
            Program::Search(name) if name.to_bytes().contains(&b'/') => may_run(name),
            Program::Search(name) => search(name).is_some(),
            Program::At(..) => true,
        }
    }

    /// Whether the library will be in it, given that environment. Of what cannot be read nothing is known: most programs
    /// will do.
    ///
    /// # Safety
    /// `environment` must be null or as execve(2) wants it.
    pub unsafe fn is_preloaded(&self, environment: *const *const libc::c_char) -> bool {
        // SAFETY: by the contract.
        if !unsafe { preloads_us(environment) } {
            return false;
        }
        let Some(file) = self.open() else {
            return true;
        };
        use rustix::fd::AsFd;
        let file = match interpreter(file.as_fd()) {
            Some(interpreter) => interpreter,
            None => file,
        };
        obstacle(file.as_fd()).is_none()
    }
}

fn open(path: &CStr) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty()).ok()
}

/// Whether the process may run a file, with the rights that it has at the moment.
fn may_run(path: &CStr) -> bool {
    let _errno = crate::log::ErrnoGuard::new();
    // SAFETY: a string.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) == 0 }
}

/// The file that execvp(3) would run, with its NUL.
fn search(name: &CStr) -> Option<Vec<u8>> {
    // SAFETY: a name with its NUL; what it points to stays while nobody changes the environment, as for execvp itself.
    let path = unsafe {
        let path = libc::getenv(c"PATH".as_ptr());
        match path.is_null() {
            true => c"/bin:/usr/bin",
            false => CStr::from_ptr(path),
        }
    };
    path.to_bytes().split(|&c| c == b':').find_map(|directory| {
        let mut full = Vec::with_capacity(directory.len() + name.to_bytes().len() + 2);
        full.extend_from_slice(if directory.is_empty() {
            b"."
        } else {
            directory
        });
        full.push(b'/');
        full.extend_from_slice(name.to_bytes_with_nul());
        let path = CStr::from_bytes_with_nul(&full).ok()?;
        may_run(path).then_some(full)
    })
}

/// The program that runs a script.
fn interpreter(script: BorrowedFd<'_>) -> Option<OwnedFd> {
    let mut line = [0; 256];
    let n = rustix::io::pread(script, &mut line[..255], 0).ok()?;
    let line = line[..n].strip_prefix(b"#!")?;
    let line = line.split(|&c| c == b'\n').next()?.trim_ascii_start();
    let path = line.split(|&c| matches!(c, b' ' | b'\t' | 0)).next()?;
    let mut path = path.to_vec();
    path.push(0);
    open(CStr::from_bytes_with_nul(&path).ok()?)
}

/// Whether an environment names this library in LD_PRELOAD.
unsafe fn preloads_us(environment: *const *const libc::c_char) -> bool {
    if environment.is_null() {
        return false;
    }
    let mut at = environment;
    // SAFETY: a list of strings that ends with null, by the caller's contract.
    unsafe {
        while !(*at).is_null() {
            let entry = CStr::from_ptr(*at).to_bytes();
            if let Some(libraries) = entry.strip_prefix(b"LD_PRELOAD=") {
                let ours = our_name();
                let mut libraries = libraries.split(|&c| matches!(c, b':' | b' '));
                return libraries.any(|library| name_of(library) == ours);
            }
            at = at.add(1);
        }
    }
    false
}

/// The last part of a path.
fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|&c| c == b'/').next().unwrap_or(path)
}

/// The name of the file that this library was loaded from.
fn our_name() -> &'static [u8] {
    let mut info = libc::Dl_info {
        dli_fname: core::ptr::null(),
        dli_fbase: core::ptr::null_mut(),
        dli_sname: core::ptr::null(),
        dli_saddr: core::ptr::null_mut(),
    };
    let here = our_name as *const () as *const libc::c_void;
    // SAFETY: room for the answer; the name lives as long as the library, which is never unloaded.
    unsafe {
        match libc::dladdr(here, &mut info) != 0 && !info.dli_fname.is_null() {
            true => name_of(CStr::from_ptr(info.dli_fname).to_bytes()),
            false => b"libnetacc-preload.so",
        }
    }
}

/// The calling process's environment.
pub fn environment() -> *const *const libc::c_char {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    // SAFETY: the C library's pointer; changes to it are the application's affair.
    unsafe { environ }
}

/// Whether a number is open and stays so over exec.
pub fn survives(fd: rustix::fd::RawFd) -> bool {
    rustix::io::fcntl_getfd(sys::borrow(fd))
        .is_ok_and(|flags| !flags.contains(rustix::io::FdFlags::CLOEXEC))
}
