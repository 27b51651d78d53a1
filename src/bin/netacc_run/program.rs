//! Finds the program to run, and tells when the loader will not preload into it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::quoted;

/// Why a program cannot be run, with the exit code that `env` has for it.
#[derive(Debug)]
pub struct Failure {
    /// 126: there, but cannot be run; 127: not there.
    pub code: i32,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure of that code and message.
    pub fn new(code: i32, message: String) -> Self {
        Failure { code, message }
    }
}

/// Finds `command` as execvp(3) does: a name with a slash is a path, others are looked for in `PATH`.
/// The result holds a slash.
pub fn find(command: &OsStr) -> Result<PathBuf, Failure> {
    let name = quoted(command);
    let candidates: Vec<PathBuf> = if command.as_bytes().contains(&b'/') {
        vec![command.into()]
    } else if command.is_empty() {
        Vec::new()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
        // An empty entry is the working directory.
        std::env::split_paths(&path)
            .map(|folder| Path::new(".").join(folder).join(command))
            .collect()
    };
    let mut refused = None;
    for candidate in candidates {
        match std::fs::metadata(&candidate) {
            Ok(found) if found.is_dir() => {
                refused.get_or_insert(format!(
                    "cannot run {name}: it is a directory. Name a program."
                ));
            }
            Ok(found) if found.permissions().mode() & 0o111 == 0 => {
                let at = candidate.display();
                refused.get_or_insert(format!(
                    "cannot run {name}: {at} is not executable. Make it so with chmod +x, or check the name."
                ));
            }
            Ok(_) => return Ok(candidate),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                refused.get_or_insert(format!(
                    "cannot run {name}: {e} on the way to {}. Check the folders' permissions.",
                    candidate.display()
                ));
            }
            Err(_) => {}
        }
    }
    Err(match refused {
        Some(message) => Failure::new(126, message),
        None if command.as_bytes().contains(&b'/') => Failure::new(
            127,
            format!("cannot run {name}: there is no such file. Check the path."),
        ),
        None => Failure::new(
            127,
            format!(
                "cannot run {name}: no such program in PATH. Check the spelling, or give its path."
            ),
        ),
    })
}

/// Why the loader will ignore `LD_PRELOAD` for the program at `path`; continues a sentence about it.
pub fn cannot_be_preloaded(path: &Path) -> Option<&'static str> {
    let file = File::open(path).ok()?;
    let meta = file.metadata().ok()?;
    // SAFETY: these calls only return a number.
    let (user, group) = unsafe { (libc::getuid(), libc::getgid()) };
    let elf = Elf::read(&file);
    // The kernel ignores these bits of a script.
    if elf != Elf::No {
        if meta.mode() & libc::S_ISUID != 0 && meta.uid() != user {
            return Some("is set-user-id, so the loader ignores LD_PRELOAD");
        }
        if meta.mode() & libc::S_ISGID != 0 && meta.gid() != group {
            return Some("is set-group-id, so the loader ignores LD_PRELOAD");
        }
        if user != 0 && has_capabilities(&file) {
            return Some("has file capabilities, so the loader ignores LD_PRELOAD");
        }
    }
    match elf {
        Elf::Static => Some("is statically linked, so no library can be preloaded"),
        Elf::Foreign => Some("is built for another kind of machine than the NetACC library"),
        Elf::Dynamic | Elf::No => None,
    }
}

fn has_capabilities(file: &File) -> bool {
    // SAFETY: the name is NUL-terminated, and a size of 0 only asks for the attribute's length.
    let length = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            c"security.capability".as_ptr(),
            std::ptr::null_mut(),
            0,
        )
    };
    length > 0
}

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

impl Elf {
    fn read(file: &File) -> Elf {
        const HEADER: usize = 64;
        const EM_X86_64: u16 = 62;
        const EM_AARCH64: u16 = 183;
        const PT_INTERP: u32 = 3;
        let mut header = [0; HEADER];
        if file.read_exact_at(&mut header, 0).is_err() || !header.starts_with(b"\x7fELF") {
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
            if file.read_exact_at(&mut kind, at).is_ok() && u32::from_le_bytes(kind) == PT_INTERP {
                return Elf::Dynamic;
            }
        }
        Elf::Static
    }
}
