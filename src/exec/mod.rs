//! exec: descriptors that stay open are another program's from then on.
//!
//! Connections of this process's own go back to the kernel before, with all that nobody has read, for their links end with
//! the program. What it has inherited itself, and what a program that it starts inherits, is left as it is, if this library
//! will be in that program, too: that is told what it has ([`legacy`]), and claims what it uses. So a server's
//! connections do not suffer from each command that it runs. Any other program gets what the kernel alone can serve.

pub mod legacy;
pub mod program;
pub mod stranger;

use parking_lot::{Mutex, MutexGuard};
use rustix::fd::{AsRawFd, RawFd};
use rustix::io::FdFlags;

use crate::control::{heirs, listener, standing};
use crate::fdtable::{self, Entry};
use crate::fork;
use crate::log::ErrnoGuard;
use crate::real::sys::{self, InternalFd};
use crate::runtime;
use crate::socket::orphan::{Orphan, Preparation};
use crate::socket::{Role, Socket, leaving};
use legacy::{Item, Legacy, What};
use program::{Program, survives};

static TURN: Mutex<()> = Mutex::new(());

type Inherited = Vec<(RawFd, &'static Socket)>;

/// What is done to a program's numbers before it runs.
#[derive(Clone, Copy)]
pub enum Action {
    /// The second number is made to stand for what the first does.
    Duplicate(RawFd, RawFd),
    /// All from the first number to the second are closed.
    Close(RawFd, RawFd),
}

/// Sockets of ours that a program gets: those that stay open, or are given it by `actions`.
#[unsafe(link_section = ".text.netacc_hooks")]
fn inherited(actions: &[Action]) -> Inherited {
    let mut all = Vec::new();
    fdtable::for_each(0, fdtable::CAPACITY - 1, |fd, entry| {
        if let Entry::Socket(socket) = entry
            && survives(fd)
        {
            all.push((fd, socket));
        }
    });
    // Numbers that are closed by exec are still there for them.
    let at = |all: &Inherited, fd| match all.iter().find(|(at, _)| *at == fd) {
        Some((_, socket)) => Some(*socket),
        None => match fdtable::get(fd) {
            Some(Entry::Socket(socket)) if !survives(fd) => Some(socket),
            _ => None,
        },
    };
    for action in actions {
        match *action {
            Action::Duplicate(from, to) => {
                let socket = at(&all, from);
                all.retain(|(fd, _)| *fd != to);
                all.extend(socket.map(|socket| (to, socket)));
            }
            Action::Close(first, last) => all.retain(|(fd, _)| !(first..=last).contains(fd)),
        }
    }
    all
}

/// Whether `actions` close what the library leaves a program.
fn lose_legacy(actions: &[Action]) -> bool {
    let ours = |fd| legacy::is_number(fd) || matches!(fdtable::get(fd), Some(Entry::Internal));
    actions.iter().any(|action| match *action {
        Action::Close(first, last) if first == last => ours(first),
        Action::Close(first, _) => first <= sys::last_number(),
        Action::Duplicate(_, to) => ours(to),
    })
}

/// A forked child makes its own departures.
pub fn reset_after_fork() {
    // SAFETY: fork leaves the child with this thread only; nobody has the lock but in the parent.
    unsafe { crate::sync::renew(&TURN, ()) };
    stranger::reset_after_fork();
    crate::hooks::reset_after_fork();
}

/// What was done for a program that is to replace this one, or to run beside it; undone when dropped.
#[derive(Default)]
pub struct Departure {
    /// What the program is left.
    legacy: Option<Legacy>,
    /// One at a time is under that number.
    turn: Option<MutexGuard<'static, ()>>,
    /// Descriptors of ours that the program keeps.
    opened: Vec<RawFd>,
    /// Listeners that wait in the kernel meanwhile.
    waiting: Vec<RawFd>,
    /// Open until a program that runs beside this one has it, too.
    child: Option<[InternalFd; 2]>,
}

impl Departure {
    /// Before `program` replaces this one.
    ///
    /// # Safety
    /// `environment` must be null or as execve(2) wants it.
    pub unsafe fn replacing(
        program: &Program<'_>,
        environment: *const *const libc::c_char,
    ) -> Departure {
        let mut departure = Departure::default();
        if !fork::may_serve() {
            return departure;
        }
        let _errno = ErrnoGuard::new();
        let stranger = fork::is_stranger();
        let all = match stranger {
            true => Inherited::new(),
            false => inherited(&[]),
        };
        // A forked child has nothing of its own to leave: most run a program that gets the kernel's connections only.
        let idle = !stranger && all.is_empty() && runtime::started().is_none();
        if idle || !program.is_there() {
            return departure;
        }
        if stranger {
            // SAFETY: by the contract.
            unsafe { stranger::depart(program, environment) };
            return departure;
        }
        // SAFETY: by the contract.
        let preloaded = !all.is_empty() && unsafe { program.is_preloaded(environment) };
        let by = leaving::deadline();
        for (_, socket) in &all {
            // What is another process's goes on as that, where the library is.
            if !preloaded || !socket.is_orphan() {
                socket.begin_to_let_out();
            }
        }
        crate::exit::finish_before_exec();
        if all.is_empty() {
            return departure;
        }
        let mut items = Vec::new();
        for &(fd, socket) in &all {
            match preloaded {
                true => items.extend(socket.bequest(fd, by)),
                false => departure.let_out(fd, socket, by),
            }
        }
        departure.leave(&items, &fork::held(), &all);
        departure
    }

    /// Before `program` is started beside this one, after `actions` in the process that runs it.
    ///
    /// # Safety
    /// As for [`replacing`](Self::replacing).
    pub unsafe fn beside(
        program: &Program<'_>,
        environment: *const *const libc::c_char,
        actions: &[Action],
    ) -> Departure {
        let mut departure = Departure::default();
        // (Whether it is there is for the process that runs it to see: perhaps from another directory.)
        if fork::is_stranger() || !fork::may_serve() {
            return departure;
        }
        let _errno = ErrnoGuard::new();
        let all = inherited(actions);
        if all.is_empty() {
            return departure;
        }
        // SAFETY: by the contract.
        let preloaded = unsafe { program.is_preloaded(environment) };
        let child = match preloaded && !lose_legacy(actions) {
            true => heirs::copy_of_will()
                .and_then(|will| Ok((Preparation::make()?, will)))
                .ok(),
            false => None,
        };
        let Some((child, will)) = child else {
            leaving::let_out(all.into_iter().map(|(_, socket)| socket));
            return departure;
        };
        let sockets: Vec<_> = all.iter().map(|(_, socket)| *socket).collect();
        standing::stand_all(&sockets);
        let Preparation { reading, writing } = child;
        let mut held = fork::held();
        let by = leaving::deadline();
        let items: Vec<Item> = all
            .iter()
            .filter_map(|&(fd, socket)| socket.loan(fd, will.as_raw_fd(), by))
            .collect();
        // (A process without links has only what its own parent is to be asked for.)
        if crate::runtime::started().is_some() {
            held.extend([writing.as_raw_fd(), will.as_raw_fd()]);
            // Whatever is closed from now on may be the program's.
            departure.child = Some([writing, will]);
            heirs::will_fork();
            heirs::forked(reading);
        }
        departure.leave(&items, &held, &all);
        departure
    }

    /// Leaves `items` to the program, or, if that fails, what the kernel can serve.
    fn leave(&mut self, items: &[Item], held: &[RawFd], all: &Inherited) {
        if items.is_empty() {
            return;
        }
        self.turn = Some(TURN.lock());
        match Legacy::write(items, held) {
            Ok(mut legacy) => {
                legacy.list();
                self.legacy = Some(legacy);
                let side_ports = items.iter().filter_map(|item| match &item.what {
                    What::Listener(side) => side.as_ref(),
                    _ => None,
                });
                let side_ports = side_ports.flat_map(|side| side.descriptors());
                for fd in held.iter().copied().chain(side_ports) {
                    let open = rustix::io::fcntl_setfd(sys::borrow(fd), FdFlags::empty());
                    self.opened.extend(open.is_ok().then_some(fd));
                }
            }
            Err(error) => {
                tracing::debug!(target: "netacc::conn", "a program is left only what the kernel can serve: {error}");
                self.child = None;
                leaving::let_out(all.iter().map(|(_, socket)| *socket));
            }
        }
    }

    /// The program runs for long: others may be left something meanwhile.
    pub fn goes_on(&mut self) {
        self.turn = None;
    }

    fn let_out(&mut self, fd: RawFd, socket: &'static Socket, by: u64) {
        match socket.waits_here() {
            // The description is its parent's, too, which must not be made to wait in the kernel.
            true if fork::generation() > 0 => {}
            // For this process, it goes on if the program cannot be run.
            true => {
                let _ = rustix::io::ioctl_fionbio(sys::borrow(fd), false);
                self.waiting.push(fd);
            }
            false => socket.let_out(by),
        }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        let _errno = ErrnoGuard::new();
        for &fd in &self.waiting {
            let _ = rustix::io::ioctl_fionbio(sys::borrow(fd), true);
        }
        for &fd in &self.opened {
            let _ = rustix::io::fcntl_setfd(sys::borrow(fd), FdFlags::CLOEXEC);
        }
    }
}

impl Socket {
    fn item(&self, fd: RawFd, what: What) -> Option<Item> {
        let inner = self.lock();
        Some(Item {
            fd,
            cookie: leaving::cookie(inner.fd())?,
            domain: inner.domain,
            nonblocking: inner.nonblocking,
            foreign: inner.is_foreign(),
            timeouts: [inner.receive_timeout, inner.send_timeout],
            addresses: [inner.local, inner.remote],
            what,
        })
    }

    /// What the program that replaces this one is told of it, if that is not the kernel's alone.
    fn bequest(&'static self, fd: RawFd, by: u64) -> Option<Item> {
        let goes_on = match &self.lock().role {
            // The answer to a claim comes to this process alone.
            Role::Orphan(orphaned) => !orphaned.is_claimed(),
            Role::Leftover(left) => !left.resends,
            Role::Listening(_) => true,
            _ => false,
        };
        if !goes_on {
            self.let_out_with(by);
        }
        let what = match &self.lock().role {
            Role::Orphan(orphaned) => What::Orphan(orphaned.orphan),
            Role::Leftover(left) if !left.is_empty() => What::Leftover(left.copy().take_all()),
            Role::Listening(listening) => {
                // From now on it is for the program to take in who knocks.
                listener::forked();
                What::Listener(listening.side.as_ref().map(|side| side.bequest()))
            }
            _ => return None,
        };
        self.item(fd, what)
    }

    /// What a program is told of it that runs beside this one and has the will `will`.
    fn loan(&'static self, fd: RawFd, will: RawFd, by: u64) -> Option<Item> {
        let settle = match &self.lock().role {
            Role::Connecting(_) => true,
            // Its side port would lead here, where nobody may ever accept.
            Role::Listening(listening) => listening.is_for_others(),
            _ => false,
        };
        if settle {
            self.let_out_with(by);
        }
        let what = {
            let inner = self.lock();
            match (&inner.role, runtime::started()) {
                (Role::Orphan(orphaned), _) => What::Orphan(orphaned.orphan),
                (Role::Connected(_) | Role::Leftover(_), Some(runtime)) => {
                    What::Orphan(Orphan::of(&runtime.identity, inner.serial, will))
                }
                (Role::Leftover(left), None) => What::Leftover(left.copy().take_all()),
                (Role::Listening(_), _) => What::Listener(None),
                _ => return None,
            }
        };
        self.item(fd, what)
    }
}
