//! A link: one reliable, ordered channel between two processes that carries many connections.
//!
//! Generic over the [`Fabric`]; records in both directions ([`record`]), credits and batching
//! ([`tx`]), demultiplexing and spill ([`rx`]).
//!
//! Lock order: a link's `rx`, then a socket, then a link's `tx`, then an epoll set's ready list.

mod half;
pub mod order;
pub mod overdrafts;
pub mod record;
mod rx;
pub mod slots;
pub mod source;
pub mod stamp;
pub mod turn;
mod tx;
pub mod ways;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::conn::Violation;
use crate::conn::user_buf::UserBuf;
use crate::contain;
use crate::control::io_thread::Command;
use crate::control::wire::Name;
use crate::fabric::{Fabric, FabricKind, RingMemory, SLOT_IO};
use crate::poll::waiter::{Waiter, Wakes};
use crate::real::sys::Errno;
use crate::socket::Socket;
use crate::stats::{self, LinkState, LinkStats};
use half::Half;
use record::{HEADER, Kind};
use rx::Rx;
use slots::Slots;
use source::Source;
use stamp::Stamp;
use turn::take_turns;
use tx::Tx;
use ways::{Lease, Ways};

/// Names a link between its two processes. Random, so that nobody else can name it.
pub type Token = [u8; 16];

/// How often a thread looks whether another is done with a link's records: spinning, then giving way.
const HOLDER_TURNS: (u32, u32) = (64, 16);

/// The largest payload of one record in a ring of `size` bytes: an eighth, so that a batch never
/// waits for the whole ring to drain.
fn max_payload(size: usize) -> usize {
    size / 8
}

/// What both ends agreed on when the link was made.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The link's name.
    pub token: Token,
    /// Bytes that each connection may receive beyond what was read.
    pub window: u64,
    /// The same, granted by the peer.
    pub peer_window: u64,
    /// The peer's process id, for display.
    pub peer_pid: u32,
    /// The peer's user id, for display.
    pub peer_uid: u32,
    /// The peer, as the accepting process of the link; zero if it is the connecting one.
    pub acceptor: Name,
    /// Connections it may carry.
    pub max_conns: u32,
    /// Largest payload that this end puts into one record: the peer copies while we go on.
    pub msg_size: usize,
    /// Both ends know the records by which the kernel's connection gets what nobody has read.
    pub resends: bool,
    /// Both ends open connections fast.
    pub fast: bool,
}

impl Terms {
    /// Of a link that nobody has negotiated, whose ends have windows of so many bytes and know all that ends of this version do.
    pub fn unnamed(window: u64) -> Terms {
        Terms {
            token: [0; 16],
            window,
            peer_window: window,
            peer_pid: 0,
            peer_uid: 0,
            acceptor: [0; 32],
            max_conns: 8,
            msg_size: 4 << 10,
            resends: true,
            fast: false,
        }
    }
}

/// One end of a link.
pub struct Link {
    fabric: Box<dyn Fabric>,
    terms: Terms,
    remote: bool,
    tx: Mutex<Tx>,
    rx: Mutex<Rx>,
    /// Read marks of the records that lie in our ring.
    pub slots: Slots,
    /// Ring bytes before this were demultiplexed.
    seen: AtomicU64,
    /// A sender or an owed record waits for ring space.
    full: AtomicBool,
    dead: AtomicBool,
    condemned: AtomicBool,
    /// For [`condemn`](Self::condemn).
    me: Weak<Link>,
    /// Slots whose bell the peer was offered.
    offered: AtomicU64,
    /// Fast connect.
    pub ways: Ways,
    /// Its line in the stats page.
    pub stats: &'static LinkStats,
}

impl Link {
    /// A link over `fabric`.
    pub fn new(fabric: Box<dyn Fabric>, terms: Terms) -> Arc<Link> {
        let stats = LinkStats::claim();
        stats
            .fabric
            .store(fabric.kind().stats() as u32, Ordering::Relaxed);
        stats.peer_pid.store(terms.peer_pid, Ordering::Relaxed);
        stats.peer_uid.store(terms.peer_uid, Ordering::Relaxed);
        stats
            .ring_size
            .store(fabric.tx().size as u64, Ordering::Relaxed);
        let rx = fabric.rx(0).0;
        stats.rx_ring_size.store(rx.size as u64, Ordering::Relaxed);
        stats.set_state(LinkState::Up);
        stats::add(&stats::global().links_opened, 1);
        let link = Arc::new_cyclic(|me| Link {
            me: me.clone(),
            tx: Mutex::new(Tx::new(fabric.tx())),
            rx: Mutex::new(Rx::new(rx)),
            slots: Slots::new(),
            seen: AtomicU64::new(0),
            full: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            condemned: AtomicBool::new(false),
            offered: AtomicU64::new(0),
            ways: Ways::default(),
            stats,
            remote: matches!(fabric.kind(), FabricKind::Verbs | FabricKind::Tcp),
            fabric,
            terms,
        });
        link.fabric.arm(SLOT_IO);
        link
    }

    /// What it is made of.
    pub fn fabric(&self) -> &dyn Fabric {
        &*self.fabric
    }

    /// Whom a waiting thread has to ask for news of it.
    pub fn source(self: &Arc<Self>) -> Source {
        self.fabric.source(self)
    }

    /// Whether its peer is on another host, and news of it come by the network.
    #[inline]
    pub fn is_remote(&self) -> bool {
        self.remote
    }

    /// The sending half, locked.
    #[inline]
    fn tx(&self) -> Half<'_, Tx> {
        Half::new(self, &self.tx)
    }

    /// The receiving half, locked.
    #[inline]
    fn rx(&self) -> Half<'_, Rx> {
        Half::new(self, &self.rx)
    }

    /// Runs `change` while nobody writes records. If it gives a ring, they are written there afterwards, from
    /// the cursor at which they stopped.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn with_mirror<T, E>(
        &self,
        change: impl FnOnce() -> Result<(T, Option<RingMemory>), E>,
    ) -> Result<T, E> {
        let mut tx = self.tx();
        let (result, ring) = change()?;
        if let Some(ring) = ring {
            tx.move_to(ring);
        }
        Ok(result)
    }

    /// Its name.
    pub fn token(&self) -> &Token {
        &self.terms.token
    }

    /// Whether what nobody has read can be given back on a hand-back.
    pub fn resends(&self) -> bool {
        self.terms.resends
    }

    /// Whether both ends open connections fast.
    pub fn is_fast(&self) -> bool {
        self.terms.fast
    }

    /// The process that accepts what is opened on it; zero for that process itself.
    pub fn acceptor(&self) -> &Name {
        &self.terms.acceptor
    }

    /// Receive window of each connection, in bytes.
    pub fn window(&self) -> u64 {
        self.terms.window
    }

    /// The peer's receive window for each connection, in bytes.
    pub fn peer_window(&self) -> u64 {
        self.terms.peer_window
    }

    /// Whether it can carry no more traffic.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Whether something of our own went wrong in it.
    #[inline]
    fn is_condemned(&self) -> bool {
        self.condemned.load(Ordering::Acquire)
    }

    /// Whether a sender found the ring full and it has not been seen with room since.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Whether something has arrived that nobody has looked at.
    #[inline]
    pub fn pending(&self) -> bool {
        let news = self.fabric.produced() != self.seen.load(Ordering::Relaxed)
            || self.is_full() && self.has_room();
        news && !self.is_dead()
    }

    /// Takes in what has arrived and hands it to its connections. `me` is the caller's own waiter,
    /// which needs no waking. Returns whether there was anything.
    ///
    /// If another thread is at it already, this one lets it finish, and the other takes in whatever
    /// arrives until its lock is free.
    #[inline]
    pub fn poll(self: &Arc<Self>, me: Option<&'static Waiter>) -> bool {
        self.pending() && self.poll_in_turn(None, me)
    }

    /// As [`poll`](Self::poll), but does not wait for a thread that is at it already.
    #[inline]
    pub fn glance(self: &Arc<Self>) {
        if self.pending() {
            self.poll_pending(None, None);
        }
    }

    /// As [`poll`](Self::poll), but leaves what was sent after `until`.
    fn poll_until(self: &Arc<Self>, until: Stamp, me: Option<&'static Waiter>) -> bool {
        self.pending() && self.poll_in_turn(Some(until), me)
    }

    fn poll_in_turn(self: &Arc<Self>, until: Option<Stamp>, me: Option<&'static Waiter>) -> bool {
        self.let_holder_finish();
        self.poll_pending(until, me)
    }

    /// When the next record was sent that nobody has looked at.
    fn head(&self) -> Option<Stamp> {
        let seen = self.seen.load(Ordering::Acquire);
        if self.fabric.produced() == seen {
            return None;
        }
        let at = self.fabric.rx(seen).0.at(seen).cast::<[u8; HEADER]>();
        // SAFETY: mapped, wherever in the ring. Another thread may have taken the record in meanwhile, and
        // the peer may write another over it: then it is a stamp that means nothing, which only orders.
        Some(Stamp::of_header(&unsafe { at.read_volatile() }))
    }

    fn poll_pending(self: &Arc<Self>, until: Option<Stamp>, me: Option<&'static Waiter>) -> bool {
        // What a retired peer still writes is no part of any stream.
        if self.is_dead() {
            return false;
        }
        let mut wakes = Wakes::new(me);
        let mut progress = false;
        let mut left = Vec::new();
        let mut refused = Vec::new();
        let mut broken = None;
        // With `until`, `poll_all` looks once more, at all of its links.
        take_turns(
            || Half::try_new(self, &self.rx),
            |mut rx| {
                // Condemned while this thread waited its turn.
                if self.is_dead() {
                    return false;
                }
                let outcome = rx.run(self, until, &mut wakes);
                self.seen.store(rx.seen(), Ordering::Relaxed);
                left.append(&mut rx.left);
                refused.append(&mut rx.refused);
                drop(rx);
                match outcome {
                    Ok(any) => progress |= any,
                    Err(violation) => broken = Some(violation),
                }
                outcome.is_ok() && until.is_none()
            },
            || self.fabric.produced() != self.seen.load(Ordering::Relaxed),
        );
        if self.is_full() {
            self.resume_senders(&mut wakes);
        }
        wakes.ring();
        self.see_off(left);
        refused.into_iter().for_each(Socket::discard);
        if let Some(Violation) = broken {
            self.retire(Errno::CONNRESET, true);
        }
        progress
    }

    /// These connections have left for the kernel. Whoever polls may be inside an epoll set that watches them: the
    /// control thread has them leave.
    fn see_off(self: &Arc<Self>, left: Vec<(&'static Socket, u32)>) {
        if let Some(runtime) = crate::runtime::started() {
            for (socket, id) in left {
                runtime.command(Command::Leave(socket, self.clone(), id));
            }
        }
    }

    /// Lets the thread that has the `rx` lock get done. Whoever did not wait for it would not find what
    /// was sent before something that it knows of already: over the kernel, sent on this host is there.
    ///
    /// For a bounded time: the holder may be this very thread, interrupted by a signal's handler. (What comes from
    /// other hosts comes when it comes.)
    fn let_holder_finish(&self) {
        if self.remote {
            return;
        }
        for turn in 0..HOLDER_TURNS.0 + HOLDER_TURNS.1 {
            if !self.rx.is_locked() {
                return;
            }
            match turn < HOLDER_TURNS.0 {
                true => std::hint::spin_loop(),
                false => rustix::thread::sched_yield(),
            }
        }
    }

    /// Sends up to `buf.left()` bytes of `conn`; returns how many found room in the ring.
    /// Caller holds the socket's lock and has checked the connection's credit.
    pub fn send_data(&self, conn: u32, buf: &mut UserBuf, max: usize) -> usize {
        let mut tx = self.tx();
        let n = tx.data(self, conn, buf, max);
        self.let_go(tx);
        if n > 0 {
            self.fabric.notify(conn);
        }
        n
    }

    /// Takes up to `max` bytes of `conn`, at most a record's, for when there is ring space. Returns how many. For
    /// a connection of which it was said that it can be written to, and which waits for room from now on.
    pub fn overdraw(&self, conn: u32, buf: &mut UserBuf, max: usize) -> usize {
        let mut tx = self.tx();
        let taken = tx.overdraw(self, conn, buf, max);
        self.let_go(tx);
        self.fabric.notify(conn);
        taken
    }

    /// Whether records wait for ring space.
    pub fn owes(&self) -> bool {
        self.tx().owes()
    }

    /// Sends a record without stream bytes. It is never refused: without ring space it goes as
    /// soon as there is some, before any later record.
    pub fn send_control(&self, conn: u32, kind: Kind, payload: &[u8]) {
        let mut tx = self.tx();
        tx.control(self, conn, kind, payload);
        self.let_go(tx);
        self.fabric.notify(conn);
    }

    /// Gives the lock back; tells the readers of records that were owed and have been written by the way.
    // Once for each message: a call costs as much as what it does.
    #[inline(always)]
    fn let_go(&self, mut tx: Half<'_, Tx>) {
        let late = tx.take_late();
        drop(tx);
        for conn in late {
            self.fabric.notify(conn);
        }
    }

    /// Tells the peer something about the hand-back of `conn`. The peer's I/O thread takes it in if nobody waits there.
    pub fn send_leaving(&self, conn: u32, kind: Kind) {
        self.send_control(conn, kind, &[]);
        self.fabric.notify_io();
    }

    /// Gives bytes of the peer's stream on `conn` back to it: all that nobody has read here.
    pub fn send_returned(&self, conn: u32, bytes: &[u8]) {
        let mut tx = self.tx();
        tx.give_back(self, conn, bytes);
        self.let_go(tx);
        self.fabric.notify(conn);
        self.fabric.notify_io();
    }

    /// `socket` wants to hear of ring space; false if there is some by now. Caller holds its lock.
    pub fn wait_for_room(&self, socket: &'static Socket) -> bool {
        self.tx().wait(self, socket)
    }

    /// The I/O thread's turn: as [`poll`](Self::poll), and asks for space anew if it is wanted.
    pub fn service(self: &Arc<Self>) {
        self.fabric.arm(SLOT_IO);
        if self.pending() || self.is_full() {
            self.poll_pending(None, None);
        }
    }

    /// Whether there may be room. On a link to another host whoever asks may be the only one who will ever do: that another
    /// thread has the lock is no reason to leave it at that.
    fn has_room(&self) -> bool {
        match Half::try_new(self, &self.tx) {
            Some(mut tx) => tx.has_room(self),
            None => self.remote,
        }
    }

    /// Goes on with owed records and wakes senders if there is room now.
    fn resume_senders(&self, wakes: &mut Wakes) {
        let mut tx = self.tx();
        let waiting = tx.resume(self);
        self.let_go(tx);
        for socket in waiting {
            socket.room_in_link(self, wakes);
        }
    }

    /// Opens a connection under an id of our choice (the connecting end), `beyond` the number that was agreed on if
    /// need be. `None`: it is full or dead.
    pub fn open(self: &Arc<Self>, socket: &'static Socket, beyond: bool) -> Option<u32> {
        let id = self.open_unseen(socket, beyond)?;
        // The caller holds the socket's lock: what was missed meanwhile is for the I/O thread.
        fence(Ordering::SeqCst);
        if self.pending()
            && let Some(runtime) = crate::runtime::started()
        {
            runtime.ring_io();
        }
        Some(id)
    }

    /// The same for a caller that makes up for what was missed meanwhile ([`poll_missed`](Self::poll_missed)).
    pub fn open_unseen(self: &Arc<Self>, socket: &'static Socket, beyond: bool) -> Option<u32> {
        let mut rx = self.rx();
        // Under the lock: a link that is retired later tells this connection too.
        if self.is_dead() {
            return None;
        }
        let most = if beyond {
            u32::MAX
        } else {
            self.terms.max_conns
        };
        let id = rx.conns.open(socket, most)?;
        self.count(&rx, 1);
        Some(id)
    }

    /// The socket of connection `id`.
    pub fn socket_of(&self, id: u32) -> Option<&'static Socket> {
        self.rx().conns.get(id)
    }

    /// Opens a connection under the id that the peer chose (the accepting end). False: the id is
    /// not free.
    pub fn open_as(self: &Arc<Self>, id: u32, socket: &'static Socket) -> bool {
        // Its former bearer's last record may still lie in the ring, or with the device.
        match self.remote {
            true => crate::fabric::network::glance(),
            false => drop(self.poll(None)),
        }
        let mut rx = self.rx();
        let opened = match self.is_dead() {
            true => None,
            false => rx.conns.open_as(id, socket),
        };
        if let Some(closed) = opened {
            self.count(&rx, 1);
            if closed {
                // Gone before its turn came: whoever accepts it reads the end of the stream.
                let mut wakes = Wakes::new(None);
                let _ = socket.deliver(self, id, &mut wakes, |conn| Ok(conn.on_close()));
                wakes.ring();
            }
        }
        drop(rx);
        self.poll_missed();
        opened.is_some()
    }

    /// The socket of `id` is gone here: records for it are dropped from now on. Unless the peer never
    /// knew the id (`unknown`) it is told, with how many bytes had `arrived` before, and the id is free once its
    /// `Close` has come too; nor is the port of one that was opened fast another's (`lease`) before that. Never called under a
    /// socket's lock.
    pub fn forget(
        self: &Arc<Self>,
        id: u32,
        unknown: bool,
        arrived: Option<u64>,
        lease: Option<Lease>,
    ) {
        let mut rx = self.rx();
        // Before the id can be another connection's.
        self.fabric.set_slot(id, crate::fabric::SLOT_NONE);
        let mut late = Vec::new();
        if !unknown {
            // Under the same lock: who hears of the `Close` may use the id anew at once, which has to
            // find it free here; and who finds it free here must not be told `Close` afterwards.
            let mut tx = self.tx();
            match arrived {
                Some(arrived) => tx.control(self, id, Kind::Close, &arrived.to_le_bytes()),
                None => tx.control(self, id, Kind::Close, &[]),
            }
            late = tx.take_late();
        }
        rx.conns.forget(id, unknown);
        rx.conns.keep(id, lease);
        self.count(&rx, 0);
        drop(rx);
        if !unknown {
            late.push(id);
        }
        for conn in late {
            self.fabric.notify(conn);
        }
        self.poll_missed();
    }

    /// Makes up for records that another thread could not take in while this one had the `rx` lock for
    /// something else: that thread relies on its holder, and may sleep by now.
    pub fn poll_missed(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        self.poll(None);
    }

    /// Tells the stats page how many connections there are. Called under the `rx` lock.
    fn count(&self, rx: &Rx, opened: u64) {
        self.stats
            .conns_now
            .store(rx.conns.live() as u64, Ordering::Relaxed);
        stats::bump(&self.stats.conns_total, opened);
    }

    /// Makes sure that the peer can ring `waiter` directly.
    pub fn introduce(&self, waiter: &Waiter) {
        let bit = 1u64 << waiter.slot();
        if waiter.slot() != SLOT_IO
            && self.offered.load(Ordering::Relaxed) & bit == 0
            && self.offered.fetch_or(bit, Ordering::Relaxed) & bit == 0
        {
            self.fabric.offer_bell(waiter.slot(), waiter.bell());
        }
    }

    /// Whether it carries no connection, at either end.
    pub fn is_unused(&self) -> bool {
        Half::try_new(self, &self.rx).is_some_and(|rx| rx.conns.are_free())
    }

    /// Ends it unless it has come to carry something: from now on nothing is opened on it. Returns whether it
    /// is over.
    pub fn retire_if_unused(&self) -> bool {
        // Under the lock, as `open` is.
        let rx = self.rx();
        if rx.conns.are_free() && !self.dead.swap(true, Ordering::AcqRel) {
            self.stats.set_state(LinkState::Draining);
        }
        self.is_dead()
    }

    /// Nothing more will come: the peer is gone, or (`violated`) has broken the protocol. What has
    /// arrived stays readable; after it the connections end, with `error` where TCP would reset.
    pub fn retire(self: &Arc<Self>, error: Errno, violated: bool) {
        self.finish(error, violated, false);
    }

    /// The same, of a peer whose process is dead. Connections that a child of it holds stand, and are the kernel's.
    pub fn retire_of_dead(self: &Arc<Self>) {
        self.finish(Errno::CONNRESET, false, true);
    }

    /// A defect of our own has shown while something was done to it: nothing that it holds is sure any more. From here on
    /// nothing is taken in and nothing sent; the control thread resets its connections and hangs up. Takes no lock.
    #[cold]
    pub fn condemn(&self) {
        self.condemned.store(true, Ordering::Release);
        if !self.dead.swap(true, Ordering::AcqRel)
            && let (Some(link), Some(runtime)) = (self.me.upgrade(), crate::runtime::started())
        {
            runtime.command(Command::Condemned(link));
        }
    }

    /// The control thread's turn with one that was condemned. One connection that cannot be ended keeps no other from it.
    pub fn bury(self: &Arc<Self>) {
        // To the peer this process lives on, and has just closed what it had: it is to know better.
        contain::catch("the end of a link", || {
            let ids: Vec<u32> = self.rx().conns.sockets().map(|(id, _)| id).collect();
            self.tx().give_up(self, ids.into_iter());
        });
        self.end(Errno::CONNRESET, true, false);
    }

    fn finish(self: &Arc<Self>, error: Errno, violated: bool, dead: bool) {
        if !self.dead.swap(true, Ordering::AcqRel) {
            self.end(error, violated, dead);
        }
    }

    fn end(self: &Arc<Self>, error: Errno, violated: bool, dead: bool) {
        const PLACE: &str = "the end of a link";
        let mut wakes = Wakes::new(None);
        let mut left;
        let refused;
        {
            let mut rx = self.rx();
            if !violated {
                // A peer that is gone sends nothing more: this is all there will ever be.
                let _ = contain::catch(PLACE, || rx.run(self, None, &mut wakes));
                self.seen.store(rx.seen(), Ordering::Relaxed);
            }
            left = core::mem::take(&mut rx.left);
            refused = core::mem::take(&mut rx.refused);
            for (id, socket) in rx.conns.sockets() {
                let leaves = contain::catch(PLACE, || {
                    dead && socket.outlives_peer(self, &mut wakes)
                        || socket.link_gone(self, error, violated, &mut wakes)
                });
                if leaves == Some(true) {
                    left.push((socket, id));
                }
            }
        }
        wakes.ring();
        self.see_off(left);
        refused.into_iter().for_each(Socket::discard);
        self.tx().forget_owed();
        // A peer that broke the protocol does not know: its connections must not wait for us.
        self.fabric.hang_up();
        self.stats.set_state(LinkState::Failed);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tx.get_mut().forget_owed();
        self.stats.release();
    }
}
