//! Becomes the program.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::program::Failure;
use crate::quoted;

/// Whether whoever started us ignores SIGPIPE. Rust's runtime ignores it before `main`, but the
/// program must inherit what we did.
static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_sigpipe() {
    // SAFETY: an all-zero sigaction is a valid value, and the call only fills it.
    let ignored = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), &mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    };
    SIGPIPE_WAS_IGNORED.store(ignored, Relaxed);
}

// SAFETY: the loader calls the functions of this section once, before main; `note_sigpipe` needs
// nothing that main would have set up.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

/// Replaces this process by the program at `path`, with `variables` added to the environment.
/// Returns only if that fails.
///
/// std's `Command::exec` is not used, as it resets the signal mask and SIGPIPE.
pub fn replace_self(path: &Path, command: &[OsString], variables: &[(&str, OsString)]) -> Failure {
    for (name, value) in variables {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var(name, value) };
    }
    // What came from the command line or the environment has no NUL inside.
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).unwrap_or_default();
    let file = c_string(path.as_os_str());
    let arguments: Vec<CString> = command.iter().map(|argument| c_string(argument)).collect();
    let mut pointers: Vec<_> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let (old, now) = (libc::SIG_DFL, libc::SIG_IGN);
    let disposition = if SIGPIPE_WAS_IGNORED.load(Relaxed) {
        now
    } else {
        old
    };
    // SAFETY: `file` is NUL-terminated; `pointers` is a NULL-ended array of such strings; all live on.
    // `path` holds a slash, so that execvp does not search; unlike execv it runs a script without
    // "#!" by the shell, as a shell would.
    unsafe {
        libc::signal(libc::SIGPIPE, disposition);
        libc::execvp(file.as_ptr(), pointers.as_ptr());
    }
    let error = std::io::Error::last_os_error();
    let name = quoted(path.as_os_str());
    match error.raw_os_error() {
        Some(libc::ENOENT) => Failure::new(
            127,
            format!(
                "cannot run {name}: the interpreter or loader that it names is not there. Install that."
            ),
        ),
        Some(libc::EACCES) => Failure::new(
            126,
            format!(
                "cannot run {name}: {error}. Check its permissions and how its file system is mounted."
            ),
        ),
        Some(libc::E2BIG) => Failure::new(
            126,
            format!("cannot run {name}: {error}. Shorten the arguments or the environment."),
        ),
        _ => Failure::new(
            126,
            format!("cannot run {name}: {error}. Check that it runs without netacc_run."),
        ),
    }
}
