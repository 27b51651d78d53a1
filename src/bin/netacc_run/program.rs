//! Finds the program to run, and tells when the loader will not preload into it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use netacc::config::keys::KEYS;

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
                "cannot run {name}: no such program in PATH. Check the spelling, or give its path.{}",
                hint(command)
            ),
        ),
    })
}

/// A number is no program: whoever wrote it took an option for one that has a value.
fn hint(command: &OsStr) -> String {
    let is_number = command
        .to_str()
        .is_some_and(|word| word.parse::<f64>().is_ok());
    if !is_number {
        return String::new();
    }
    let options = KEYS.iter().filter_map(|key| key.option.as_ref());
    let alone = options.filter(|option| option.takes.value_name().is_none());
    let alone: Vec<String> = alone.map(|option| format!("-{}", option.letter)).collect();
    format!(" (Options {} take no value.)", alone.join(", "))
}

/// Why the loader will ignore `LD_PRELOAD` for the program at `path`; continues a sentence about it.
pub fn cannot_be_preloaded(path: &Path) -> Option<&'static str> {
    let file = File::open(path).ok()?;
    netacc::exec::program::obstacle(netacc::real::sys::borrow(file.as_raw_fd()))
}
