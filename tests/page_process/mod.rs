//! A child process that counts: forked from the test, it runs given steps one by one on demand.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

use netacc::stats;

/// Ended and reaped when dropped.
pub struct PageProcess {
    pub pid: u32,
    orders: File,
    answers: File,
    reaped: bool,
}

impl PageProcess {
    /// Forks a child that starts clean and waits for [`PageProcess::step`]. The steps may only do
    /// what is allowed between fork and exec: no allocation, no locks.
    pub fn new(steps: &'static [fn()]) -> Self {
        let (orders_out, orders_in) = pipe();
        let (answers_out, answers_in) = pipe();
        // SAFETY: the child does nothing but system calls and atomics.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "cannot fork");
        if pid == 0 {
            // SAFETY: system calls on the pipes' ends, with one-byte buffers of our own.
            unsafe {
                // Without the parent's ends of the pipes, the parent's end is seen as end of file.
                libc::close(orders_in);
                libc::close(answers_out);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                stats::after_fork_in_child();
                let mut byte = 0_u8;
                for step in steps {
                    if libc::read(orders_out, (&raw mut byte).cast(), 1) != 1 {
                        break;
                    }
                    // A failed assertion must not go on as a second test harness.
                    if std::panic::catch_unwind(step).is_err() {
                        libc::_exit(1);
                    }
                    libc::write(answers_in, (&raw const byte).cast(), 1);
                }
                libc::read(orders_out, (&raw mut byte).cast(), 1);
                libc::_exit(0);
            }
        }
        // SAFETY: the child's ends, then our own, which the `File`s take over.
        unsafe {
            libc::close(orders_out);
            libc::close(answers_in);
            Self {
                pid: pid.cast_unsigned(),
                orders: File::from_raw_fd(orders_in),
                answers: File::from_raw_fd(answers_out),
                reaped: false,
            }
        }
    }

    /// A child that has done its first step.
    #[allow(dead_code, reason = "not every test file needs it")]
    pub fn after(step: &'static [fn()]) -> Self {
        let mut process = Self::new(step);
        process.step();
        process
    }

    /// Lets the child do its next step and waits until it is done.
    pub fn step(&mut self) {
        self.orders
            .write_all(&[1])
            .expect("the child waits for orders");
        self.answers
            .read_exact(&mut [0])
            .expect("the child finished its step");
    }

    /// Kills the child, without a chance to clean up, and waits until it is dead; `reap` or
    /// leave a zombie.
    #[allow(dead_code, reason = "not every test file needs it")]
    pub fn kill(&mut self, reap: bool) {
        // SAFETY: our own child, not reaped yet; a null status and a zeroed siginfo are allowed.
        unsafe {
            libc::kill(self.pid.cast_signed(), libc::SIGKILL);
            let mut info = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOWAIT;
            assert_eq!(libc::waitid(libc::P_PID, self.pid, &mut info, flags), 0);
            if reap {
                libc::waitpid(self.pid.cast_signed(), std::ptr::null_mut(), 0);
                self.reaped = true;
            }
        }
    }
}

impl Drop for PageProcess {
    fn drop(&mut self) {
        if !self.reaped {
            // SAFETY: our own child, not reaped yet.
            unsafe {
                libc::kill(self.pid.cast_signed(), libc::SIGKILL);
                libc::waitpid(self.pid.cast_signed(), std::ptr::null_mut(), 0);
            }
        }
        // What a killed child could not do. A file that is not there is fine.
        let _ = std::fs::remove_file(page_path(self.pid));
    }
}

/// Where the library puts the page of process `pid` of this user.
pub fn page_path(pid: u32) -> String {
    // SAFETY: no arguments, cannot fail.
    let uid = unsafe { libc::geteuid() };
    format!("/dev/shm/netacc-{uid}/{pid}")
}

fn pipe() -> (i32, i32) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(made, 0);
    (ends[0], ends[1])
}
