//! Threads and processes: the spawner that makes and signals the threads, fork, exit.

use crate::control::{self, Control};
use crate::signals::block_all;
use crate::world::{Ctx, Out, Res};
use crate::{control as connect, serve, serve_process};
use std::collections::HashMap;
use std::ptr::{null, null_mut};

/// Starts the thread that makes other threads and sends signals. It takes no signal itself.
pub fn spawner(name: &str) {
    let own = connect(name);
    let started = std::thread::Builder::new().spawn(move || {
        block_all(true);
        spawn_and_signal(own);
    });
    started.expect("a thread");
}

fn spawn_and_signal(mut own: Control) {
    let mut threads: HashMap<String, libc::pthread_t> = HashMap::new();
    while let Some(line) = own.read() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| words.get(i).and_then(|word| word.parse::<i32>().ok());
        let answer = match (words[0], words.get(1), number(1), number(2)) {
            ("thread", Some(name), ..) => match thread(name) {
                Ok(thread) => {
                    threads.insert(name.to_string(), thread);
                    "ok".to_string()
                }
                Err(error) => format!("!no thread: error {error}"),
            },
            ("sleeps", _, Some(tid), _) => match control::sleeps(tid) {
                Some(true) => "yes".to_string(),
                Some(false) => "no".to_string(),
                None => "unknown".to_string(),
            },
            // To a thread, or (0) to the process.
            ("kill", _, Some(tid), Some(signal)) => kill(tid, signal),
            ("cancel", Some(name), ..) => match threads.remove(*name) {
                Some(thread) => cancel(thread),
                None => format!("!no thread '{name}'"),
            },
            _ => format!("!'{line}' is no command"),
        };
        if own.write(&answer).is_err() {
            break;
        }
    }
    // The runner has gone, whatever the other threads are blocked in.
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

/// A thread of the C library's, not of Rust's: it can be cancelled.
fn thread(name: &str) -> Result<libc::pthread_t, i32> {
    extern "C-unwind" fn main(name: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: `thread` leaked it for this.
        let name = unsafe { Box::from_raw(name.cast::<String>()) };
        block_all(false);
        serve(&name, connect(&name));
        null_mut()
    }
    type Plain = extern "C" fn(*mut libc::c_void) -> *mut libc::c_void;
    let name = Box::into_raw(Box::new(name.to_string()));
    let mut made: libc::pthread_t = 0;
    // SAFETY: the two kinds of function are called alike; only cancelling unwinds it, which the C library expects.
    let ret = unsafe {
        let main = std::mem::transmute::<*const (), Plain>(main as *const ());
        libc::pthread_create(&mut made, null(), main, name.cast())
    };
    if ret == 0 { Ok(made) } else { Err(ret) }
}

fn kill(tid: i32, signal: i32) -> String {
    // SAFETY: the worst that a signal does is to end this process, as the scenario wants.
    let ret = unsafe {
        let pid = libc::getpid();
        match tid {
            0 => libc::kill(pid, signal).into(),
            tid => libc::syscall(libc::SYS_tgkill, pid, tid, signal),
        }
    };
    if ret == 0 { "ok" } else { "!no such thread" }.to_string()
}

fn cancel(thread: libc::pthread_t) -> String {
    unsafe extern "C" {
        fn pthread_cancel(thread: libc::pthread_t) -> i32;
        fn pthread_timedjoin_np(
            thread: libc::pthread_t,
            value: *mut *mut libc::c_void,
            deadline: *const libc::timespec,
        ) -> i32;
    }
    let mut value = null_mut();
    // SAFETY: a thread that nobody joined; the time is one.
    let ret = unsafe {
        pthread_cancel(thread);
        let mut deadline = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_REALTIME, &mut deadline);
        deadline.tv_sec += 3;
        pthread_timedjoin_np(thread, &mut value, &deadline)
    };
    match (ret, value as isize) {
        (0, -1) => "cancelled".to_string(),
        (0, _) => "ended by itself".to_string(),
        _ => "not cancelled".to_string(),
    }
}

/// Makes the call if it is of this family.
pub fn call(ctx: &Ctx) -> Res<Option<Out>> {
    let out = match ctx.call.verb.as_str() {
        "fork" => fork(ctx)?,
        "waitpid" => waitpid(ctx)?,
        "vfork" => vfork(ctx)?,
        "spawn" => spawn(ctx)?,
        // SAFETY: these end the process.
        "exit" => unsafe { libc::exit(ctx.flags(0)?) },
        // SAFETY: as above.
        "_exit" => unsafe { libc::_exit(ctx.flags(0)?) },
        // A program that touches what it does not have.
        "abort" => std::process::abort(),
        "getrlimit" | "setrlimit" => rlimit(ctx)?,
        _ => return Ok(None),
    };
    Ok(Some(out))
}

/// `k = fork()`: the child is the actor k, which has all that its parent has.
fn fork(ctx: &Ctx) -> Res<Out> {
    let [child] = ctx.call.binds.as_slice() else {
        return Err("it is 'CHILD = fork()'".to_string());
    };
    // SAFETY: the child uses what a program with threads may use in one, and the C library's allocator.
    match unsafe { libc::fork() } {
        0 => {
            control::leave_all();
            ctx.inherit(child);
            serve_process(child)
        }
        -1 => Ok(Out::of(-1)),
        pid => {
            let mut out = Out::words("a child");
            out.fds = vec![pid];
            Ok(out)
        }
    }
}

/// `vfork(c, d)`: a child that shares this process's memory closes c and has d under c's number, and ends.
fn vfork(ctx: &Ctx) -> Res<Out> {
    let (fd, other) = (ctx.fd(0)?, ctx.fd(1)?);
    #[expect(deprecated, reason = "what programs do is to be tested")]
    // SAFETY: the child makes system calls only, and does not return.
    let child = unsafe { libc::vfork() };
    if child == 0 {
        // SAFETY: numbers.
        unsafe {
            libc::close(fd);
            libc::dup2(other, fd);
            libc::shutdown(-1, 0);
            libc::_exit(5)
        }
    }
    ended(child)
}

/// `spawn(c, d)`: posix_spawn of a program for which c is closed and d is its standard output.
fn spawn(ctx: &Ctx) -> Res<Out> {
    let (fd, other) = (ctx.fd(0)?, ctx.fd(1)?);
    let mut child = 0;
    let words = [c"true".as_ptr().cast_mut(), null_mut()];
    // SAFETY: what begins with init ends with destroy; words and an environment that end.
    let ret = unsafe {
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        libc::posix_spawn_file_actions_init(&mut actions);
        libc::posix_spawn_file_actions_addclose(&mut actions, fd);
        libc::posix_spawn_file_actions_adddup2(&mut actions, other, 1);
        let env = [null_mut()];
        let path = words[0];
        let (words, env) = (words.as_ptr(), env.as_ptr());
        let ret = libc::posix_spawnp(&mut child, path, &actions, null(), words, env);
        libc::posix_spawn_file_actions_destroy(&mut actions);
        ret
    };
    match ret {
        0 => ended(child),
        error => Err(format!("posix_spawn: error {error}")),
    }
}

/// `waitpid(k)`: how the child ended.
fn waitpid(ctx: &Ctx) -> Res<Out> {
    ended(ctx.fd(0)?)
}

fn ended(child: i32) -> Res<Out> {
    let mut status = 0;
    // SAFETY: room for a status.
    let ret = unsafe { libc::waitpid(child, &mut status, 0) };
    if ret < 0 {
        return Ok(Out::of(-1));
    }
    Ok(Out::words(if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        netacc_differential::constants::signal(signal)
    } else {
        format!("exit {}", libc::WEXITSTATUS(status))
    }))
}

/// `setrlimit(N)`: so many descriptors.
fn rlimit(ctx: &Ctx) -> Res<Out> {
    // SAFETY: plain old data.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: room for it.
    let ret = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if ctx.call.verb == "getrlimit" {
        return Ok(Out::of(ret.into()).with(limit.rlim_cur.to_string()));
    }
    limit.rlim_cur = ctx.int(0)? as u64;
    // SAFETY: a limit.
    Ok(Out::of(
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }.into(),
    ))
}
