//! Listening and accepting: one queue from the kernel's listener, one from the side port, served in turn.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use libc::{sockaddr, socklen_t};
use parking_lot::MutexGuard;
use rustix::fd::{AsFd, AsRawFd, IntoRawFd, RawFd};

use super::addr::Address;
use super::blanks::Blank;
use super::by_kernel;
use super::connect::Side;
use super::lifecycle::Farewell;
use super::number::Number;
use super::options::{self, Kept};
use super::wait::Wait;
use super::{Inner, Listening, NOT_ACCEPTED, Role, Socket};
use crate::control::io_thread::Command;
use crate::control::listener::{self, Arrival, Place, SideListener, Standing};
use crate::control::{heirs, server};
use crate::fdtable::Entry;
use crate::link::Link;
use crate::log::{self, Left};
use crate::poll::twin;
use crate::poll::waiter::Wakes;
use crate::real::orig;
use crate::real::sys::{self, Errno, now_ns};
use crate::runtime;
use crate::stats::{self, ConnState, ConnStats, Mode, Reason};

impl Socket {
    /// listen(2): the application's own listener, and the side port beside it. The side port never
    /// makes the call fail.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen(
        &'static self,
        fd: RawFd,
        mut inner: MutexGuard<'static, Inner>,
        backlog: i32,
    ) -> Result<(), Errno> {
        if let Role::Listening(listening) = &inner.role {
            kernel_listen(fd, backlog)?;
            if let Some(side) = &listening.side {
                side.set_backlog(backlog);
            }
            return Ok(());
        }
        if matches!(&inner.role, Role::Connected(conn) if conn.afloat.is_some()) {
            return Err(Errno::INVAL);
        }
        inner.spoil();
        if !matches!(inner.role, Role::Fresh) {
            drop(inner);
            return kernel_listen(fd, backlog);
        }
        // The side port first: whoever can connect to the application's port finds it open. With
        // port 0 the kernel chooses at listen, so there it comes second.
        let chosen = Address::local_of(fd).is_some_and(|a| a.port() != 0);
        if !chosen {
            kernel_listen(fd, backlog)?;
        }
        let side = match inner.only_kernel {
            true => Err(Reason::OptionNotCarried),
            false => {
                let kept = core::mem::take(&mut inner.kept);
                let side;
                (inner, side) = self.open_side_in_time(fd, inner, backlog, &kept);
                if !matches!(inner.role, Role::Fresh) || inner.fds.is_empty() {
                    // Another thread has closed it meanwhile, or was faster.
                    self.recycle_if_done(&mut inner);
                    drop(inner);
                    return kernel_listen(fd, backlog);
                }
                side
            }
        };
        if chosen {
            kernel_listen(fd, backlog)?;
        }
        // A thread must never be stuck in the kernel's accept while somebody knocks at the side port; blocking is done
        // by us.
        let side = side.and_then(|side| {
            rustix::io::ioctl_fionbio(sys::borrow(fd), true)
                .map(|()| side)
                .map_err(|_| Reason::ResourceLimit)
        });
        match side {
            Ok(side) => {
                let page = ConnStats::claim(fd);
                page.set_state(ConnState::Listening);
                page.set_addresses(side.local.to_std(), side.local.unspecified());
                inner.stats = Some(page);
                inner.role = Role::Listening(Box::new(Listening {
                    kernel_next: 0,
                    ..Listening::new(Some(side.clone()))
                }));
                drop(inner);
                runtime::get().command(Command::Listen(side));
            }
            Err(reason) => {
                inner.stays_with_tcp(fd, reason);
                let sets = self.be_plain(&mut inner);
                drop(inner);
                Farewell {
                    sets,
                    ..Farewell::default()
                }
                .say();
            }
        }
        Ok(())
    }

    /// Waits, without the lock, for a side port at the same place that this process has just closed.
    fn open_side_in_time(
        &'static self,
        fd: RawFd,
        mut inner: MutexGuard<'static, Inner>,
        backlog: i32,
        options: &[Kept],
    ) -> (
        MutexGuard<'static, Inner>,
        Result<Arc<SideListener>, Reason>,
    ) {
        /// At most, and between looks.
        const CLOSING_NS: (u64, u64) = (1_000_000_000, 500_000);
        let deadline = now_ns() + CLOSING_NS.0;
        loop {
            let side = self.open_side(fd, backlog, options, false);
            let taken = matches!(side, Err(Reason::SidePortTaken)) && listener::is_any_closing();
            if !taken || now_ns() >= deadline {
                return (inner, side);
            }
            inner.users += 1;
            drop(inner);
            sys::nap(CLOSING_NS.1);
            inner = self.lock();
            inner.users -= 1;
            if !matches!(inner.role, Role::Fresh) || inner.fds.is_empty() {
                return (inner, side);
            }
        }
    }

    /// Opens a side port for the listener `fd`, with these options; one that `joins` is in a group with those that other
    /// processes have for the same listener.
    pub(super) fn open_side(
        &'static self,
        fd: RawFd,
        backlog: i32,
        options: &[Kept],
        joins: bool,
    ) -> Result<Arc<SideListener>, Reason> {
        use rustix::net::sockopt;
        let runtime = runtime::start().ok_or(Reason::ResourceLimit)?;
        if let Some(reason) = runtime.why_off() {
            return Err(reason);
        }
        let local = Address::local_of(fd).ok_or(Reason::UnsupportedCall)?;
        if !runtime.config.accelerates_port(local.port()) {
            return Err(Reason::LeftAlone);
        }
        let socket = sys::borrow(fd);
        let only_v6 =
            local.family() == libc::AF_INET6 && sockopt::ipv6_v6only(socket).unwrap_or(false);
        let reuse_port = joins || sockopt::socket_reuseport(socket).unwrap_or(false);
        let offset = runtime.config.side_port_offset;
        let at = Place {
            local,
            only_v6,
            reuse_port,
            options,
        };
        let side = SideListener::open(self, &at, backlog, offset)?;
        Ok(Arc::new(if joins { side.of_others() } else { side }))
    }

    /// accept4(2). `inner` is the socket's lock, taken by the caller.
    ///
    /// # Errors
    /// As accept4(2). `EINVAL` also of a listener that has just become the kernel's.
    ///
    /// # Safety
    /// The contract of accept4(2) for `addr` and `len`.
    pub unsafe fn accept(
        &'static self,
        fd: RawFd,
        mut inner: MutexGuard<'static, Inner>,
        addr: *mut sockaddr,
        len: *mut socklen_t,
        flags: i32,
    ) -> Result<RawFd, Errno> {
        if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
            return Err(Errno::INVAL);
        }
        inner.claim_listener(self);
        if let Role::Listening(listening) = &mut inner.role {
            listening.accepts = true;
            if let Some(side) = listening
                .side
                .clone()
                .filter(|side| side.has_ways() && !side.has_ready())
            {
                inner = self
                    .unlocked(inner, || side.poll_ways())
                    .ok_or(Errno::BADF)?;
            }
        }
        if inner.is_foreign() {
            let accepted = self.accept_foreign(inner, fd, flags)?;
            // SAFETY: by the contract.
            return unsafe { tell(accepted, addr, len) };
        }
        let gives_away = inner.gives_away();
        let (accepted, remote) = match accept_one(&mut inner, fd, flags, &mut None) {
            Err(Errno::AGAIN) if inner.is_leaving_listener() => {
                self.stop_serving(inner);
                return Err(Errno::INVAL);
            }
            Err(Errno::AGAIN) if !inner.nonblocking => self.await_connection(inner, fd, flags)?,
            other => {
                drop(inner);
                other?
            }
        };
        if gives_away {
            self.leave_to_children();
        }
        // SAFETY: by the contract.
        unsafe { tell((accepted, remote), addr, len) }
    }

    /// Waits for a connection. As the kernel, it takes the number for it before, and goes on waiting if another thread
    /// closes the listener.
    fn await_connection(
        &'static self,
        mut inner: MutexGuard<'static, Inner>,
        fd: RawFd,
        flags: i32,
    ) -> Result<(RawFd, Address), Errno> {
        let Role::Listening(listening) = &mut inner.role else {
            return Err(Errno::INVAL);
        };
        let door = listening.door(fd);
        let fd = door.as_ref().map_or(fd, |door| door.as_raw_fd());
        let mut number = Some(Number::reserve(fd)?);
        loop {
            let side = inner.shared_side_port();
            let wait = Wait {
                timeout: inner.receive_timeout,
                also: Some(fd),
                in_turn: side.as_ref().map(|side| side.as_raw_fd()),
                begun: None,
            };
            let mut anew = false;
            let mut looks = 0;
            let attempt = |inner: &mut Inner| {
                // Both were empty a moment ago, and whoever sleeps at both is woken at once if they are not any more.
                looks += 1;
                let in_vain = looks <= 2 || side.is_some() && looks % 2 == 1;
                let result = match &inner.role {
                    Role::Listening(listening) if in_vain && !listening.has_ready() => {
                        Err(Errno::AGAIN)
                    }
                    _ => accept_one(inner, fd, flags, &mut number),
                };
                match result {
                    Err(Errno::AGAIN) => {
                        // Another thread has forked.
                        anew = side.is_none() && inner.shared_side_port().is_some();
                        anew.then_some(Err(Errno::AGAIN))
                    }
                    other => Some(other),
                }
            };
            match self.wait_until(inner, wait, attempt) {
                Err(Errno::AGAIN) if anew => inner = self.lock(),
                other => return other,
            }
        }
    }

    /// A connection that came in by the side port of a listener that leaves it `heritage`: connection `id` of a link,
    /// whose peer has a window of `window` bytes, or plain TCP.
    pub fn arrived(
        heritage: Heritage,
        local: Address,
        link: Option<(&Arc<Link>, u32)>,
        window: u64,
    ) -> &'static Socket {
        let socket = Socket::new(local.family(), false);
        let mut inner = socket.lock();
        inner.local = Some(local);
        inner.forks = NOT_ACCEPTED;
        inner.inherit_from(&heritage);
        inner.role = match link {
            Some((link, id)) => {
                let mut conn = inner.new_conn(link, id);
                conn.windows.begin_sending(window);
                Role::Connected(conn)
            }
            None => Role::Plain,
        };
        drop(inner);
        if let Some((link, id)) = link
            && !link.open_as(id, socket)
        {
            socket.lock().role = Role::Plain;
        }
        socket
    }

    /// Somebody may knock at the side port, which other processes have too: takes a connection in, if this is still a
    /// listener and there is none to be accepted yet.
    pub fn look_at_side_port(&'static self) {
        let Some(side) = self.lock().shared_side_port() else {
            return;
        };
        if !side.has_ready() {
            match side.take_in() {
                Ok(Some(arrival)) => {
                    if let Err(arrival) = side.push(arrival) {
                        arrival.discard();
                    }
                }
                Ok(None) => {}
                Err(error) => server::pause_unless_done(error),
            }
        }
        if side.is_stopped() {
            // It would be ready for ever.
            self.lock().watches.iter_mut().for_each(twin::hide);
        }
    }

    /// This process has forked: threads that wait for the listener wait at its side port, too.
    pub fn share_side_port(&'static self, side: &Arc<SideListener>) {
        let mut wakes = Wakes::new(None);
        let mut left = VecDeque::new();
        {
            let mut inner = self.lock();
            let Role::Listening(listening) = &inner.role else {
                return;
            };
            if !listening
                .side
                .as_ref()
                .is_some_and(|s| Arc::ptr_eq(s, side))
            {
                return;
            }
            match listening.claimed {
                true => side.join_in(),
                // This process may never accept: its children do. (The others are on the shelf.)
                false => left = side.take_all(),
            }
            twin::show(self, &mut inner);
            inner.sleepers.iter().for_each(|waiter| wakes.add(waiter));
        }
        wakes.ring();
        left.into_iter().for_each(Arrival::discard);
    }

    /// Its receive window in bytes, if it is on a link.
    pub fn receive_window(&self) -> Option<u64> {
        match &self.lock().role {
            Role::Connected(conn) => Some(conn.windows.receiving()),
            _ => None,
        }
    }
}

/// What a listener leaves to the connections that it accepts.
#[derive(Clone, Copy, Default)]
pub struct Heritage {
    receive_buffer: Option<u64>,
    send_buffer_is_set: bool,
}

impl Inner {
    /// It is accepted from a listener that leaves it this.
    pub(super) fn inherit_from(&mut self, heritage: &Heritage) {
        self.receive_buffer = heritage.receive_buffer;
        self.send_buffer_is_set = heritage.send_buffer_is_set;
    }

    /// What it leaves to the connections that it accepts.
    pub fn heritage(&self) -> Heritage {
        Heritage {
            receive_buffer: self.receive_buffer,
            send_buffer_is_set: self.send_buffer_is_set,
        }
    }

    /// It is a listener without a side port, for this reason: says so where it is counted.
    pub(super) fn stays_with_tcp(&mut self, fd: RawFd, reason: Reason) {
        let page = ConnStats::claim(fd);
        page.set_mode(Mode::Tcp, reason);
        page.set_state(ConnState::Listening);
        if let Some(local) = Address::local_of(fd) {
            page.set_addresses(local.to_std(), local.unspecified());
            log::fallback(reason, Left::Listener(local.to_std()));
        }
        self.stats = Some(page);
        stats::add(stats::global().fallback(reason), 1);
    }

    /// Whether it is the listener of that side port.
    pub fn listens_at(&self, side: &SideListener) -> bool {
        matches!(&self.role, Role::Listening(l) if l.side.as_ref().is_some_and(|s| core::ptr::eq(&**s, side)))
    }

    /// Whether it is a listener that is the kernel's once its queue is empty.
    fn is_leaving_listener(&self) -> bool {
        matches!(&self.role, Role::Listening(listening) if listening.leaves)
    }

    /// Whether it is a listener from which this process has asked for a connection.
    pub fn is_claimed(&self) -> bool {
        matches!(&self.role, Role::Listening(listening) if listening.claimed)
    }

    /// The application means to accept here, if this is a listener. One that was inherited comes to life by that.
    pub fn claim_listener(&mut self, socket: &'static Socket) {
        self.try_side_port(socket);
        let fd = self.fd();
        let Role::Listening(listening) = &mut self.role else {
            return;
        };
        if core::mem::replace(&mut listening.claimed, true) {
            return;
        }
        let Some(side) = &listening.side else { return };
        let local = side.local;
        let reason = match runtime::start() {
            Some(_) if side.is_shared() => {
                side.join_in();
                Reason::None
            }
            Some(_) => Reason::None,
            None => {
                listening.side = None;
                Reason::Forked
            }
        };
        if self.stats.is_none() {
            let page = ConnStats::claim(fd);
            page.set_state(ConnState::Listening);
            page.set_addresses(local.to_std(), local.unspecified());
            if reason != Reason::None {
                page.set_mode(Mode::Tcp, reason);
                stats::add(stats::global().fallback(reason), 1);
                log::fallback(reason, Left::Listener(local.to_std()));
            }
            self.stats = Some(page);
        }
    }

    /// The side port, if this is a listener and other processes may have it too: threads of the application take in who
    /// knocks there.
    pub fn shared_side_port(&self) -> Option<Arc<SideListener>> {
        match &self.role {
            Role::Listening(listening) => listening
                .side
                .clone()
                .filter(|side| side.is_shared() && !side.is_stopped()),
            _ => None,
        }
    }
}

/// Tells the application of whom it has accepted a connection, as `number`.
///
/// # Safety
/// The contract of accept4(2) for `addr` and `len`.
unsafe fn tell(
    (number, remote): (RawFd, Address),
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> Result<RawFd, Errno> {
    if !addr.is_null() {
        // SAFETY: by the contract.
        if let Err(error) = unsafe { remote.write(addr, len) } {
            super::lifecycle::close(number);
            return Err(error);
        }
    }
    Ok(number)
}

fn kernel_listen(fd: RawFd, backlog: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    match unsafe { orig::listen(fd, backlog) } {
        0 => Ok(()),
        _ => Err(sys::last_error()),
    }
}

/// So many connections are taken from the kernel's queue before the side port is looked at again, where that had none: who
/// comes there waits for no more than these, and a server whose clients all come by the kernel's spares a system call each.
const KERNEL_TURNS: u8 = 16;

/// Takes one connection from either queue, without waiting: not from a kernel's listener that would. It gets the number
/// that was `reserved`.
pub(super) fn accept_one(
    inner: &mut Inner,
    fd: RawFd,
    flags: i32,
    reserved: &mut Option<Number>,
) -> Result<(RawFd, Address), Errno> {
    let Role::Listening(listening) = &inner.role else {
        return Err(Errno::INVAL);
    };
    let (kernel_turns, leaves) = (listening.kernel_next, listening.leaves);
    let kernel_first = kernel_turns > 0;
    let local = listening.side.as_ref().map(|side| side.local);
    for turn in 0..2 {
        if kernel_first == (turn == 0) {
            if leaves || inner.is_foreign() && !inner.nonblocking {
                continue;
            }
            match by_kernel::accept(fd, flags, reserved, local) {
                Err(Errno::AGAIN) => {}
                other => {
                    if let Role::Listening(listening) = &mut inner.role {
                        listening.kernel_next = match kernel_first {
                            true => kernel_turns - 1,
                            // Nobody came by the side port.
                            false => KERNEL_TURNS,
                        };
                    }
                    return other;
                }
            }
        } else if let Some((mut arrival, socket, number)) = by_side_port(inner, flags, reserved)? {
            let Role::Listening(listening) = &mut inner.role else {
                return Err(Errno::INVAL);
            };
            listening.kernel_next = 1;
            let Some(side) = &listening.side else {
                return Err(Errno::INVAL);
            };
            if side.held.load(Ordering::Acquire) > 0 {
                runtime::get().command(Command::Room(side.clone()));
            }
            let given = listening.given.clone();
            let (receive, send) = (inner.receive_timeout, inner.send_timeout);
            let (low_water, linger) = (inner.low_water, inner.linger);
            let reuses_address = inner.reuses_address.unwrap_or(false);
            {
                // As the kernel: these pass from a listener to its connections.
                let mut heir = socket.lock();
                heir.receive_timeout = receive;
                heir.send_timeout = send;
                heir.low_water = low_water;
                heir.linger = linger;
                heir.reuses_address = Some(reuses_address);
                heir.given = Some(given);
            }
            if arrival.fd.is_none() {
                let options = side.options.lock();
                if !options.is_empty() || low_water > 1 || linger.is_some() {
                    let mut heir = socket.lock();
                    heir.spoil();
                    heir.kept.clone_from(&options);
                }
                options
                    .iter()
                    .for_each(|kept| kept.apply(sys::borrow(number)));
            }
            let spares = arrival.fd.is_none() && side.spares_kernel();
            arrival.gives_credit_back();
            if spares && let Role::Listening(listening) = &mut inner.role {
                listening.kernel_next = 0;
            }
            options::bequeath(number, low_water, linger);
            return Ok(admit(arrival, socket, number, flags));
        }
    }
    Err(Errno::AGAIN)
}

/// The next connection that came in by the side port, its socket, and its number: the peer knows that it is connected.
fn by_side_port(
    inner: &Inner,
    flags: i32,
    reserved: &mut Option<Number>,
) -> Result<Option<(Arrival, &'static Socket, RawFd)>, Errno> {
    let Role::Listening(listening) = &inner.role else {
        return Ok(None);
    };
    let Some(side) = &listening.side else {
        return Ok(None);
    };
    loop {
        let next = match side.pop() {
            Some(arrival) => Ok(Some(arrival)),
            None => side.take_in(),
        };
        let arrival = match next {
            Ok(Some(arrival)) if arrival.is_gone() => continue,
            Ok(Some(arrival)) => arrival,
            // The last number is the one that was kept for it.
            Err(Errno::MFILE) if reserved.take().is_some() => continue,
            Ok(None) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Before the peer is told: without a number another process may have it.
        let number = match new_number(&arrival, flags, reserved) {
            Ok(number) => number,
            Err(error) => {
                // As in the kernel: it stays in the queue until there is a number for it.
                if let Err(arrival) = side.put_back(arrival) {
                    arrival.discard();
                }
                return Err(error);
            }
        };
        match side.settle(arrival, inner.heritage()) {
            Some(arrival) => {
                if let Standing::Taken(socket) = arrival.standing {
                    return Ok(Some((arrival, socket, number)));
                }
            }
            None => sys::close(number),
        }
    }
}

/// A number of the application's for an arrival.
fn new_number(
    arrival: &Arrival,
    flags: i32,
    reserved: &mut Option<Number>,
) -> Result<RawFd, Errno> {
    let mut blank = None;
    let fd = match &arrival.fd {
        Some(fd) => fd.as_fd(),
        None => {
            let nonblocking = flags & libc::SOCK_NONBLOCK != 0;
            let made = Blank::take(arrival.remote.family(), nonblocking)?;
            let fd: &Blank = blank.insert(made);
            fd.as_fd()
        }
    };
    let number = match reserved.take() {
        Some(number) => number.give(fd, flags),
        None if flags & libc::SOCK_CLOEXEC == 0 => rustix::io::dup(fd).map(IntoRawFd::into_raw_fd),
        None => rustix::io::fcntl_dupfd_cloexec(fd, 0).map(IntoRawFd::into_raw_fd),
    }?;
    if let Standing::Taken(socket) = arrival.standing {
        socket.lock().blank = blank.and_then(Blank::kept);
    }
    Ok(number)
}

/// The arrival is the application's as `number`.
fn admit(arrival: Arrival, socket: &'static Socket, number: RawFd, flags: i32) -> (RawFd, Address) {
    let Arrival { fd, remote, .. } = arrival;
    let nonblocking = flags & libc::SOCK_NONBLOCK != 0;
    let fast = fd.is_none();
    drop(fd);
    if !nonblocking && !fast {
        let _ = rustix::io::ioctl_fionbio(sys::borrow(number), false);
    }
    let entry = {
        let mut inner = socket.lock();
        inner.nonblocking = nonblocking;
        if fast {
            inner.is_accepted_fast(number);
        }
        inner.forks = heirs::forks();
        inner.fds.push(number);
        let local = inner.local.unwrap_or(remote);
        // Its peer may have handed it back before anybody accepted it.
        let early = inner.stats.is_some() || matches!(inner.role, Role::Leftover(_));
        let (mode, reason) = match &inner.role {
            Role::Connected(conn) => (conn.link.fabric().kind().mode(), Reason::None),
            _ if early => (Mode::Tcp, Reason::HandedBack),
            _ => (Mode::Tcp, Reason::LinkFailed),
        };
        socket.describe(&mut inner, mode, reason, Side::Accepting(local, remote));
        inner.show_queues();
        match &inner.role {
            Role::Connected(conn) => {
                inner
                    .stats
                    .inspect(|page| page.set_link(Some(conn.link.stats)));
                Entry::Socket(socket)
            }
            Role::Leftover(_) => Entry::Socket(socket),
            _ => Entry::Plain(socket),
        }
    };
    super::lifecycle::install(number, entry);
    (number, remote)
}
