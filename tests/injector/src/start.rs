//! Starts the program to be traced.

use std::ffi::CString;
use std::io;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execvp, fork};

/// Starts it, traced from its first system call on, together with all that it will start.
///
/// # Errors
/// There is no such program; processes may not be traced here.
pub fn start(program: &[String]) -> io::Result<Pid> {
    let words = program.iter().map(|word| CString::new(word.as_str()));
    let words = words.collect::<Result<Vec<_>, _>>()?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // The tracer must be there before calls stop, or they would fail.
            let _ = nix::sys::signal::raise(Signal::SIGSTOP);
            let error = match stop_at_calls() {
                Ok(()) => {
                    execvp(&words[0], &words).map_or_else(|error| error, |never| match never {})
                }
                Err(error) => error,
            };
            eprintln!("netacc-test-injector: {}: {error}", program[0]);
            // SAFETY: nothing of the parent's is to be done at the end of this copy of it.
            unsafe { libc::_exit(127) }
        }
        ForkResult::Parent { child } => {
            match waitpid(child, Some(WaitPidFlag::WUNTRACED))? {
                WaitStatus::Stopped(..) => {}
                other => return Err(io::Error::other(format!("{other:?}"))),
            }
            ptrace::seize(child, options())?;
            kill(child, Signal::SIGCONT)?;
            Ok(child)
        }
    }
}

fn options() -> Options {
    Options::PTRACE_O_TRACESECCOMP
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEEXIT
        | Options::PTRACE_O_EXITKILL
}

/// From here on each system call of this process, and of all that come of it, asks the tracer first.
fn stop_at_calls() -> nix::Result<()> {
    let mut program = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_TRACE,
    }];
    let filter = libc::sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: a filter of one instruction, which lives until the call is over.
    unsafe {
        nix::errno::Errno::result(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        nix::errno::Errno::result(libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const filter,
        ))?;
    }
    Ok(())
}
