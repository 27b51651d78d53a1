//! What a process that uses TCP has: configuration, identity, I/O threads. Made at the first
//! connect or listen of a TCP socket, never at load; a forked child makes its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_queue::SegQueue;
use parking_lot::Mutex;
use rustix::event::EventfdFlags;
use rustix::fd::AsFd;

use crate::config::Config;
use crate::contain;
use crate::control::cache::Cache;
use crate::control::identity::Identity;
use crate::control::io_thread::{self, Command};
use crate::control::wire;
use crate::fabric::network::Network;
use crate::fabric::rdma::engine::Engine;
use crate::link::ways::WayBook;
use crate::link::{Link, Token};
use crate::real::sys::{Errno, InternalFd};
use crate::real::{orig, sys};
use crate::stats::{self, Reason};

/// See the module.
pub struct Runtime {
    /// The settings.
    pub config: Config,
    /// Whether they leave this program to the kernel.
    left_alone: bool,
    /// Who we are.
    pub identity: Identity,
    /// What is known of destinations.
    pub cache: Mutex<Cache>,
    /// Ways by which connections are opened fast.
    pub ways: Mutex<WayBook>,
    /// Links that peers made to us, by their names.
    accepted: Mutex<HashMap<Token, Arc<Link>>>,
    /// Links to other hosts.
    pub network: Network,
    /// Work for the control thread.
    pub commands: SegQueue<Command>,
    /// One for each I/O thread that is asked for.
    io: Vec<IoThread>,
    /// How many of them there are.
    threads: AtomicUsize,
    next_io: AtomicUsize,
}

/// What other threads share with an I/O thread.
pub struct IoThread {
    /// Wakes it.
    pub bell: InternalFd,
    /// The links that it keeps moving.
    pub links: Mutex<Vec<Arc<Link>>>,
    /// The completion queues whose events wake it. (The first thread has its own list.)
    pub engines: Mutex<Vec<Arc<Engine>>>,
}

static RUNTIME: AtomicPtr<Runtime> = AtomicPtr::new(core::ptr::null_mut());
/// The thread that makes the runtime; 0 if none does.
static STARTING: AtomicI32 = AtomicI32::new(0);

/// How long a thread waits for another one that makes the runtime.
const PATIENCE_NS: u64 = 1_000_000_000;

/// The runtime of a process that has one.
///
/// Only reached through objects that [`start`] comes before.
#[inline]
pub fn get() -> &'static Runtime {
    match started() {
        Some(runtime) => runtime,
        None => unreachable!("a socket or link exists without a runtime"),
    }
}

/// The runtime, if there is one.
#[inline]
pub fn started() -> Option<&'static Runtime> {
    // SAFETY: null or a leaked box.
    unsafe { RUNTIME.load(Ordering::Acquire).as_ref() }
}

/// NACC_SPIN_US in nanoseconds; 0 without a runtime, as in a forked child that only accepts.
#[inline]
pub fn spin_ns() -> u32 {
    started().map_or(0, |runtime| runtime.config.spin.as_nanos() as u32)
}

/// The runtime, made now if need be. `None` when descriptors or threads cannot be had, or when
/// this very thread is making it (a signal handler on top of it) or another one takes too long:
/// the caller goes on with plain TCP.
pub fn start() -> Option<&'static Runtime> {
    if let Some(runtime) = started() {
        return Some(runtime);
    }
    // SAFETY: no arguments, cannot fail.
    let me = unsafe { libc::gettid() };
    let deadline = sys::now_ns() + PATIENCE_NS;
    while let Err(maker) = STARTING.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
        if maker == me || sys::now_ns() > deadline {
            return None;
        }
        sys::nap(100_000);
        if let Some(runtime) = started() {
            return Some(runtime);
        }
    }
    let _making = Making;
    started().or_else(|| make().ok())
}

/// The thread that has it makes the runtime.
struct Making;

impl Drop for Making {
    fn drop(&mut self) {
        STARTING.store(0, Ordering::Release);
    }
}

/// Where a process may have fewer descriptors open, they are all the application's.
const FEWEST_DESCRIPTORS: i32 = 64;

fn make() -> Result<&'static Runtime, Errno> {
    if sys::last_number() + 1 < FEWEST_DESCRIPTORS {
        return Err(Errno::MFILE);
    }
    orig::resolve_all();
    stats::init();
    contain::show();
    let (config, problems, told) = crate::config::load_and_tell();
    stats::set_config(&told);
    crate::log::init(&config);
    for problem in &problems {
        tracing::warn!(target: "netacc::config", "{problem}");
    }
    let io = (0..config.io_threads.max(1))
        .map(|_| {
            let bell = InternalFd::adopt(rustix::event::eventfd(
                0,
                EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
            )?);
            Ok(IoThread {
                bell,
                links: Mutex::new(Vec::new()),
                engines: Mutex::new(Vec::new()),
            })
        })
        .collect::<Result<Vec<_>, Errno>>()?;
    let runtime: &'static Runtime = Box::leak(Box::new(Runtime {
        left_alone: config.leaves_us_alone(),
        config,
        identity: Identity::read(),
        cache: Mutex::default(),
        ways: Mutex::default(),
        accepted: Mutex::default(),
        network: Network::default(),
        commands: SegQueue::new(),
        threads: AtomicUsize::new(io.len()),
        io,
        next_io: AtomicUsize::new(0),
    }));
    if let Err(error) = io_thread::spawn_all(runtime) {
        // SAFETY: made above, and no thread has it.
        drop(unsafe { Box::from_raw(core::ptr::from_ref(runtime).cast_mut()) });
        return Err(error);
    }
    RUNTIME.store(core::ptr::from_ref(runtime).cast_mut(), Ordering::Release);
    Ok(runtime)
}

impl Runtime {
    /// NACC_CONNECT_TIMEOUT_MS.
    pub fn connect_timeout(&self) -> Duration {
        self.config.connect_timeout
    }

    /// Why nothing of this program is accelerated, if that is so: NetACC is switched off (NACC_FABRICS=none), leaves
    /// this program alone, or has failed too often.
    pub fn why_off(&self) -> Option<Reason> {
        if contain::has_given_up() {
            return Some(Reason::InternalFault);
        }
        match self.config.fabrics.is_empty() {
            true => Some(Reason::Disabled),
            false => self.left_alone.then_some(Reason::LeftAlone),
        }
    }

    /// The capability bits that this process says hello with.
    pub fn capabilities(&self) -> u64 {
        match self.config.fast_connect && wire::CAPABILITIES != 0 {
            true => wire::CAPABILITIES | wire::FAST,
            false => wire::CAPABILITIES,
        }
    }

    /// The I/O thread number `index`.
    pub fn io(&self, index: usize) -> &IoThread {
        &self.io[index]
    }

    /// Number of I/O threads.
    pub fn io_count(&self) -> usize {
        self.threads.load(Ordering::Relaxed)
    }

    /// There are only so many I/O threads.
    pub fn make_do_with(&self, threads: usize) {
        self.threads.store(threads, Ordering::Relaxed);
    }

    /// Wakes the control thread.
    pub fn ring_io(&self) {
        sys::signal(self.io[0].bell.as_fd());
    }

    /// Gives the control thread something to do.
    pub fn command(&self, command: Command) {
        self.commands.push(command);
        self.ring_io();
    }

    /// The I/O thread that a new link with another process will belong to.
    pub fn choose_io(&self) -> usize {
        self.next_io.fetch_add(1, Ordering::Relaxed) % self.io_count()
    }

    /// Peers may open connections on `link` from now on.
    pub fn accept_on(&self, link: &Arc<Link>) {
        self.accepted.lock().insert(*link.token(), link.clone());
    }

    /// The link of that name, if it was made by a peer and is alive.
    pub fn accepted(&self, token: &Token) -> Option<Arc<Link>> {
        let accepted = self.accepted.lock();
        accepted.get(token).filter(|l| !l.is_dead()).cloned()
    }

    /// All links are given up, after too many faults of our own.
    #[cold]
    pub fn condemn_all(&self) {
        for io in &self.io {
            io.links.lock().iter().for_each(|link| link.condemn());
        }
        let accepted = self.accepted.lock().values().cloned().collect::<Vec<_>>();
        accepted.iter().for_each(|link| link.condemn());
        // Those to other hosts that this process has made are known to its sessions alone.
        self.command(Command::CondemnAll);
    }

    /// `link` is over: nobody keeps it for later any more.
    pub fn let_go(&self, link: &Arc<Link>) {
        let accepted = self.accepted.lock().remove(link.token());
        drop(accepted);
        for io in &self.io {
            io.links.lock().retain(|l| !Arc::ptr_eq(l, link));
        }
        let dead = self.cache.lock().dead();
        drop(dead);
        let dead = self.ways.lock().dead();
        drop(dead);
    }

    /// Has I/O thread `index` keep `link` moving.
    pub fn serve(&self, link: &Arc<Link>, index: usize) {
        let io = &self.io[index];
        io.links.lock().push(link.clone());
        sys::signal(io.bell.as_fd());
    }
}

/// For a forked child: it starts without a runtime.
///
/// # Safety
/// No other thread may run.
pub unsafe fn reset_after_fork() {
    RUNTIME.store(core::ptr::null_mut(), Ordering::Release);
    STARTING.store(0, Ordering::Release);
}
