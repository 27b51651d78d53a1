//! Which program this is, for settings that are one program's.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::sys;

unsafe extern "C" {
    /// glibc's copy of the pointer to the last part of `argv[0]`.
    static program_invocation_short_name: *const c_char;
}

/// The kernel cuts the name of a process off after so many bytes.
const COMM: usize = 15;

/// The names of a program: that of its process, which for a script is the script's, and the base name by which it was
/// started. No names: of no program in particular.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    comm: Vec<u8>,
    invoked: Vec<u8>,
}

impl Program {
    /// The program of this process.
    pub fn current() -> Program {
        let mut comm = sys::read_file(c"/proc/self/comm").unwrap_or_default();
        if comm.last() == Some(&b'\n') {
            comm.pop();
        }
        // SAFETY: the loader sets it before any code of ours runs; the program may change what it points to (a title
        // for ps), but it stays a string.
        let invoked = unsafe {
            let name = program_invocation_short_name;
            if name.is_null() {
                Vec::new()
            } else {
                CStr::from_ptr(name).to_bytes().to_vec()
            }
        };
        Program { comm, invoked }
    }

    /// The program that is started by the path or name `command`.
    pub fn of(command: &OsStr) -> Program {
        let name = Path::new(command).file_name().unwrap_or(command).as_bytes();
        Program {
            comm: name[..name.len().min(COMM)].to_vec(),
            invoked: name.to_vec(),
        }
    }

    /// Whether `name` is one of its names. A `*` at its end stands for anything.
    pub fn is(&self, name: &str) -> bool {
        let own = |own: &[u8]| match name.strip_suffix('*') {
            Some(start) => own.starts_with(start.as_bytes()),
            None => own == name.as_bytes(),
        };
        // Where the whole name is to be had, that is asked: it is not if the program has given itself a title.
        let whole = self.invoked.starts_with(&self.comm);
        let cut = || self.comm.len() == COMM && !whole && name.as_bytes().starts_with(&self.comm);
        let named = |n: &Vec<u8>| !n.is_empty() && own(n);
        named(&self.comm) || named(&self.invoked) || cut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_the_names_of_its_file_and_its_process() {
        let program = Program::of(OsStr::new("/usr/bin/redis-server"));
        assert!(program.is("redis-server") && program.is("redis*") && program.is("*"));
        assert!(!program.is("redis") && !program.is("redis-server2") && !program.is(""));
        assert!(!Program::default().is("") && !Program::default().is("*"));
    }

    #[test]
    fn a_process_whose_name_the_kernel_has_cut_off_is_known_by_what_is_left() {
        let mut program = Program::of(OsStr::new("prometheus-node-exporter"));
        program.invoked = b"a title".to_vec();
        assert!(program.is("prometheus-node-exporter") && program.is("prometheus*"));
        assert!(!program.is("prometheus"));
        let known = Program::of(OsStr::new("prometheus-node-exporter"));
        assert!(known.is("prometheus-node-exporter"));
        assert!(!known.is("prometheus-node-importer"));
    }

    #[test]
    fn this_process_is_the_one_that_its_files_name_says() {
        let path = std::env::current_exe().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(Program::current().is(&name));
    }
}
