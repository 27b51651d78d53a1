//! Follows the processes, counts the library's calls, and fails those that are to fail.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::calls::{self, Call, Manner};
use crate::fault::Fault;
use crate::image::{Image, process_of};
use crate::report::{self, Held, Report};

/// How many words above the stack pointer are looked at for who called libc. (What makes a thread is deep inside.)
const DEPTH: u64 = 160;

/// What is known of a process.
#[derive(Default)]
struct Process {
    image: Option<Image>,
    /// Whether nothing was mapped since the last look for the library.
    looked: bool,
    held: Option<Held>,
    /// Whether its memory is its parent's: it was made by vfork, and has not run its program yet.
    borrowed: bool,
}

/// See the module.
pub struct Tracer<'a> {
    libraries: &'a [String],
    faults: &'a [Fault],
    /// How often each fault's calls were come to.
    seen: Vec<u64>,
    processes: HashMap<i32, Process>,
    threads: HashMap<i32, i32>,
    /// Threads whose call is carried out and is then to give this error.
    pending: HashMap<i32, Errno>,
    report: Report,
}

impl<'a> Tracer<'a> {
    /// Nothing is traced yet.
    pub fn new(libraries: &'a [String], faults: &'a [Fault]) -> Self {
        Tracer {
            libraries,
            faults,
            seen: vec![0; faults.len()],
            processes: HashMap::new(),
            threads: HashMap::new(),
            pending: HashMap::new(),
            report: Report::default(),
        }
    }

    /// What there was.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Until all processes have ended, or for so many seconds.
    ///
    /// # Errors
    /// Of wait(2).
    pub fn run(&mut self, first: Pid, seconds: u32) -> io::Result<()> {
        static OVER: AtomicBool = AtomicBool::new(false);
        extern "C" fn over(_signal: i32) {
            OVER.store(true, Ordering::Relaxed);
        }
        let action = SigAction::new(SigHandler::Handler(over), SaFlags::empty(), SigSet::empty());
        // SAFETY: all that the handler does is to store a number; it also interrupts a wait.
        unsafe { sigaction(Signal::SIGALRM, &action) }?;
        nix::unistd::alarm::set(seconds);
        self.threads.insert(first.as_raw(), first.as_raw());
        while !OVER.load(Ordering::Relaxed) {
            match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(status) => self.take(status),
                Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The kernel kills them when their tracer ends.
        self.give_up();
        Ok(())
    }

    fn take(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::Exited(pid, code) => self.over(pid, format!("exit {code}")),
            WaitStatus::Signaled(pid, signal, _) => self.over(pid, signal.to_string()),
            WaitStatus::PtraceEvent(pid, signal, event) => self.event(pid, signal, event),
            WaitStatus::PtraceSyscall(pid) => {
                if let Some(error) = self.pending.remove(&pid.as_raw()) {
                    answer(pid, error, false);
                }
                go_on(pid, None);
            }
            WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal)),
            _ => {}
        }
    }

    fn event(&mut self, pid: Pid, signal: Signal, event: i32) {
        match event {
            libc::PTRACE_EVENT_SECCOMP => self.call(pid),
            libc::PTRACE_EVENT_VFORK => {
                if let Ok(child) = ptrace::getevent(pid) {
                    self.processes.entry(child as i32).or_default().borrowed = true;
                }
                go_on(pid, None);
            }
            libc::PTRACE_EVENT_EXEC => {
                let process = process_of(pid.as_raw());
                self.processes.insert(process, Process::default());
                go_on(pid, None);
            }
            libc::PTRACE_EVENT_EXIT => {
                let process = self.process_of(pid);
                let known = self.processes.entry(process).or_default();
                // The first of its threads sees it as it was.
                if !known.borrowed {
                    known.held.get_or_insert_with(|| Held::of(process));
                }
                go_on(pid, None);
            }
            // A process that was stopped by a signal stays so until the next one.
            libc::PTRACE_EVENT_STOP if signal != Signal::SIGTRAP => {
                // SAFETY: no memory is touched.
                unsafe { libc::ptrace(libc::PTRACE_LISTEN, pid.as_raw(), 0, 0) };
            }
            _ => go_on(pid, None),
        }
    }

    fn process_of(&mut self, thread: Pid) -> i32 {
        let thread = thread.as_raw();
        *self
            .threads
            .entry(thread)
            .or_insert_with(|| process_of(thread))
    }

    fn over(&mut self, pid: Pid, how: String) {
        self.threads.remove(&pid.as_raw());
        self.pending.remove(&pid.as_raw());
        // Threads end too; a process is over when its first one is.
        if let Some(process) = self.processes.remove(&pid.as_raw()) {
            self.report
                .ended
                .push((process.held.unwrap_or_default(), how));
        }
    }

    fn give_up(&mut self) {
        let live: HashSet<i32> = self.threads.values().copied().collect();
        for process in live {
            let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
            let calls: Vec<String> = tasks
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|task| std::fs::read_to_string(task.path().join("syscall")).ok())
                .map(|text| text.split(' ').next().unwrap_or_default().to_string())
                .collect();
            let command = report::command(process);
            self.report
                .hung
                .push(format!("{command}, in calls {}", calls.join(" ")));
        }
    }

    /// A thread is about to make a call.
    fn call(&mut self, pid: Pid) {
        let Ok(registers) = ptrace::getregs(pid) else {
            return go_on(pid, None);
        };
        let number = registers.orig_rax as i64;
        let process = self.process_of(pid);
        let known = self.processes.entry(process).or_default();
        if known.image.is_none() && !known.looked {
            known.image = Image::find(process, self.libraries);
            known.looked = true;
        }
        if number == libc::SYS_mmap {
            known.looked = false;
        }
        let site = known
            .image
            .as_ref()
            .and_then(|image| site(pid, &registers, image));
        let Some(site) = site else {
            return go_on(pid, None);
        };
        let Some(call) = calls::numbered(number) else {
            *self.report.unknown.entry(number).or_default() += 1;
            return go_on(pid, None);
        };
        let nth = self.report.count(call, site);
        match self.is_to_fail(call, site, nth) {
            Some(error) if call.manner == Manner::Done => {
                self.pending.insert(pid.as_raw(), error);
                let _ = ptrace::syscall(pid, None);
            }
            Some(error) => {
                answer(pid, error, true);
                go_on(pid, None);
            }
            None => go_on(pid, None),
        }
    }

    fn is_to_fail(&mut self, call: &Call, site: u64, nth: u64) -> Option<Errno> {
        for (fault, seen) in self.faults.iter().zip(&mut self.seen) {
            if fault.call.number != call.number || fault.site.is_some_and(|only| only != site) {
                continue;
            }
            *seen += 1;
            if fault.hits(if fault.site.is_some() { nth } else { *seen }) {
                self.report.failed += 1;
                return Some(fault.error);
            }
        }
        None
    }
}

/// The site of the library's that makes this call, if it is the library's.
fn site(pid: Pid, registers: &libc::user_regs_struct, image: &Image) -> Option<u64> {
    if let Some(site) = image.site(registers.rip) {
        return Some(site);
    }
    let word = |at: u64| {
        let word = ptrace::read(pid, (registers.rsp + 8 * at) as ptrace::AddressType);
        word.ok().map(|word| word as u64)
    };
    // libc's `syscall` and its like keep nothing on the stack: what lies there is who called.
    if let Some(site) = word(0).and_then(|word| image.site(word)) {
        return Some(site);
    }
    let makes_thread = match registers.orig_rax as i64 {
        libc::SYS_clone3 => true,
        libc::SYS_clone => registers.rdi & libc::CLONE_THREAD as u64 != 0,
        libc::SYS_mmap => registers.r10 & libc::MAP_STACK as u64 != 0,
        _ => false,
    };
    makes_thread
        .then(|| (1..DEPTH).find_map(|at| word(at).and_then(|word| image.site(word))))
        .flatten()
}

/// Has the call give this error, without being carried out if that can still be had.
fn answer(pid: Pid, error: Errno, skip: bool) {
    // SAFETY: plain numbers.
    if let Ok(mut registers) = ptrace::getregs(pid) {
        if skip {
            registers.orig_rax = u64::MAX;
        }
        registers.rax = (-i64::from(error as i32)) as u64;
        // A thread that was killed meanwhile needs no answer.
        let _ = ptrace::setregs(pid, registers);
    }
}

fn go_on(pid: Pid, signal: Option<Signal>) {
    // One that was killed meanwhile does not go on.
    let _ = ptrace::cont(pid, signal);
}
