//! The receiving half: demultiplexing, and spilling what holds the ring up.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::record::{HEADER, Header, Kind};
use super::slots::OpenRecords;
use super::stamp::Stamp;
use super::ways::{Grant, Lease, MOST_WAYS, Open};
use super::{Link, max_payload};
use crate::conn::{Chunk, Conn, Violation};
use crate::contain;
use crate::control::contact::window_is_sane;
use crate::fabric::{MAX_CONNS, RingMemory};
use crate::poll::waiter::Wakes;
use crate::socket::Socket;
use crate::stats;

/// State of the receiving half, under the link's `rx` lock.
pub struct Rx {
    /// The ring that holds the bytes at `seen`, and the cursor at which it ends, if it does.
    ring: RingMemory,
    ends: Option<u64>,
    seen: u64,
    released: u64,
    open: OpenRecords,
    /// The connections by id.
    pub conns: Conns,
    /// Those that have left for the kernel since this was looked at.
    pub left: Vec<(&'static Socket, u32)>,
    /// Those that were opened fast, since this was looked at, where nobody listens any more.
    pub refused: Vec<&'static Socket>,
}

// SAFETY: the ring memory is plain mapped memory; records are read only under the lock that holds
// this, or through chunks whose slots keep them from being overwritten.
unsafe impl Send for Rx {}

impl Rx {
    pub fn new(ring: RingMemory) -> Self {
        Rx {
            ring,
            ends: None,
            seen: 0,
            released: 0,
            open: OpenRecords::new(),
            conns: Conns::default(),
            left: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Ring bytes before this were demultiplexed.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Hands every published record to its connection, but none that was sent after `until`.
    /// Returns whether there was one.
    pub fn run(
        &mut self,
        link: &Arc<Link>,
        until: Option<Stamp>,
        wakes: &mut Wakes,
    ) -> Result<bool, Violation> {
        let produced = link.fabric.produced();
        let before = self.seen;
        let mut bytes = 0;
        let mut records = 0;
        self.look_at_ring(link);
        let room = match self.ends {
            Some(_) => link.fabric.rx(produced).0.size,
            None => self.ring.size,
        };
        if produced.wrapping_sub(self.released) > room as u64 || produced < self.seen {
            return Err(Violation);
        }
        while self.seen < produced {
            if self.ends == Some(self.seen) {
                self.look_at_ring(link);
            }
            let header = self.header(self.ends.unwrap_or(produced).min(produced))?;
            if until.is_some_and(|until| header.stamp.is_after(until)) {
                break;
            }
            let end = self.seen + header.span() as u64;
            if end > self.ends.unwrap_or(produced).min(produced) {
                return Err(Violation);
            }
            contain::provoked("rx.run");
            let payload: *const u8 = self.ring.at(self.seen + HEADER as u64);
            match (header.kind, self.conns.get(header.conn)) {
                (Kind::Data, Some(socket)) => {
                    if self.open.is_full() {
                        self.spill_oldest(link);
                    }
                    let slot = self.open.open(&link.slots, header.conn, end);
                    let chunk = Chunk::Ring {
                        at: payload,
                        len: header.len as usize,
                        slot,
                    };
                    socket.deliver(link, header.conn, wakes, |conn| conn.on_data(chunk))?;
                    bytes += u64::from(header.len);
                }
                (Kind::Window, Some(socket)) => {
                    // SAFETY: 8 payload bytes lie before `end`, which is published; read once.
                    let granted = unsafe { number(payload) };
                    socket.deliver(link, header.conn, wakes, |conn| Ok(conn.on_window(granted)))?;
                    self.open.skip(end);
                }
                (Kind::Want, Some(socket)) => {
                    socket.wanted(link, header.conn);
                    self.open.skip(end);
                }
                (Kind::HandBack | Kind::Recall, Some(socket)) => {
                    let recalls = header.kind == Kind::Recall;
                    if socket.hand_back_came(link, header.conn, recalls, wakes) {
                        self.left.push((socket, header.conn));
                    }
                    self.open.skip(end);
                }
                (Kind::Returned, Some(socket)) => {
                    let mut bytes = vec![0; header.len as usize];
                    // SAFETY: so many payload bytes lie before `end`, which is published; copied once.
                    unsafe { payload.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
                    if socket.return_came(link, header.conn, &bytes, wakes)? {
                        self.left.push((socket, header.conn));
                    }
                    self.open.skip(end);
                }
                (Kind::Resent, Some(socket)) => {
                    let resent = |conn: &mut Conn| {
                        conn.on_resent();
                        Ok(0)
                    };
                    if socket.deliver(link, header.conn, wakes, resent)? {
                        self.left.push((socket, header.conn));
                    }
                    self.open.skip(end);
                }
                (Kind::Fin, Some(socket)) => {
                    socket.deliver(link, header.conn, wakes, |conn| Ok(conn.on_fin()))?;
                    self.open.skip(end);
                }
                (Kind::Reset, Some(socket)) => {
                    let reset = crate::real::sys::Errno::CONNRESET;
                    if socket.deliver(link, header.conn, wakes, |conn| Ok(conn.on_reset(reset)))? {
                        self.left.push((socket, header.conn));
                    }
                    self.open.skip(end);
                }
                (Kind::Close, socket) => {
                    // SAFETY: as above.
                    let arrived = (header.len == 8).then(|| unsafe { number(payload) });
                    let apply = |conn: &mut Conn| Ok(conn.on_close_after(arrived));
                    if let Some(socket) = socket
                        && socket.deliver(link, header.conn, wakes, apply)?
                    {
                        self.left.push((socket, header.conn));
                    }
                    self.conns.peer_closed(header.conn);
                    self.open.skip(end);
                }
                (Kind::Open, None) if link.is_fast() => {
                    // SAFETY: 8 payload bytes, as above.
                    let open = Open::parse(unsafe { number(payload) }.to_le_bytes());
                    self.opened_fast(link, header.conn, &open, wakes)?;
                    self.open.skip(end);
                }
                (Kind::Grant, socket) if link.is_fast() => {
                    // SAFETY: 12 payload bytes lie before `end`, which is published; copied once.
                    let grant = Grant::parse(unsafe { payload.cast::<[u8; 12]>().read_volatile() });
                    let is_sane = window_is_sane(grant.window.into()) || grant.closes();
                    if usize::from(grant.way) >= MOST_WAYS || !is_sane {
                        return Err(Violation);
                    }
                    if !link.is_granted(&grant)
                        && let Some(socket) = socket
                    {
                        socket.way_came(link, header.conn, grant);
                    }
                    self.open.skip(end);
                }
                (Kind::Stand, Some(socket)) => {
                    socket.stand_is_asked(link, header.conn);
                    self.open.skip(end);
                }
                (Kind::Stood, Some(socket)) => {
                    if socket.stood_came(link, header.conn, wakes) {
                        self.left.push((socket, header.conn));
                    }
                    self.open.skip(end);
                }
                (Kind::Open | Kind::Grant, _) => return Err(Violation),
                // For a socket that is closed here; the peer will learn, or has learnt, from our `Close`.
                (_, None) => self.open.skip(end),
            }
            self.seen = end;
            records += 1;
        }
        stats::bump(&link.stats.rx_records, records);
        stats::bump(&link.stats.rx_bytes, bytes);
        self.free(link);
        Ok(self.seen != before)
    }

    /// The peer opens connection `id` by a way that it was granted.
    fn opened_fast(
        &mut self,
        link: &Arc<Link>,
        id: u32,
        open: &Open,
        wakes: &mut Wakes,
    ) -> Result<(), Violation> {
        let way = link.coming(open.way).ok_or(Violation)?;
        let is_sane = open.port != 0 && window_is_sane(open.window.into());
        if !is_sane || !way.open() || !self.conns.is_free(id) {
            return Err(Violation);
        }
        let socket = Socket::arrived_fast(link, id, &way, open);
        self.conns.open_as(id, socket);
        link.count(self, 1);
        if !way.queue(link, socket, open.port, wakes) {
            self.refused.push(socket);
        }
        Ok(())
    }

    fn look_at_ring(&mut self, link: &Link) {
        let size = self.ring.size;
        (self.ring, self.ends) = link.fabric.rx(self.seen);
        if self.ring.size != size {
            let shown = &link.stats.rx_ring_size;
            shown.store(self.ring.size as u64, core::sync::atomic::Ordering::Relaxed);
        }
    }

    fn header(&self, produced: u64) -> Result<Header, Violation> {
        if produced - self.seen < HEADER as u64 {
            return Err(Violation);
        }
        // SAFETY: 16 published bytes, mapped in one piece; copied once, so that what is checked is
        // what is used.
        let bytes = unsafe {
            self.ring
                .at(self.seen)
                .cast::<[u8; HEADER]>()
                .read_volatile()
        };
        Header::parse(bytes, max_payload(self.ring.size)).map_err(|_| Violation)
    }

    /// Gives ring space back; when records that nobody reads hold more than half of it, moves
    /// them to their connections' own memory (each bounded by its window).
    fn free(&mut self, link: &Link) {
        self.open.reclaim(&link.slots);
        let limit = self.ring.size as u64 / 2;
        // A reader that takes its time holds its neighbours up before there is no memory left for anything.
        while self.seen - self.open.freed() > limit
            && !crate::memory::is_scarce()
            && self.spill_oldest(link)
        {}
        if self.open.freed() != self.released {
            self.released = self.open.freed();
            link.fabric.release(self.released);
        }
    }

    fn spill_oldest(&mut self, link: &Link) -> bool {
        self.open.reclaim(&link.slots);
        let Some((slot, conn)) = self.open.oldest() else {
            return false;
        };
        let moved = self
            .conns
            .get(conn)
            .map_or(0, |socket| socket.spill(link, conn, slot));
        if moved == 0 {
            // Its reader is at it, or the socket was just closed: either way it marks the slot soon.
            link.slots.done(slot);
        }
        stats::bump(&link.stats.spilled_bytes, moved as u64);
        stats::add(&stats::global().spilled_bytes, moved as u64);
        self.open.reclaim(&link.slots);
        true
    }
}

/// The number that is a record's payload.
///
/// # Safety
/// `payload` must be valid for 8 bytes.
unsafe fn number(payload: *const u8) -> u64 {
    // SAFETY: by the contract.
    u64::from_le(unsafe { payload.cast::<u64>().read_unaligned() })
}

/// Where an id stands.
#[derive(Clone, Copy)]
enum Place {
    Free,
    Open(&'static Socket),
    /// Closed here; the peer's `Close` has not come.
    Closing,
    /// The peer's `Close` has come; open here.
    Half(&'static Socket),
    /// The peer, which chose the id, closed it before it was opened here.
    Gone,
}

/// So many numbers rest before one is used again: a peer on another host may hear of its new bearer, by the side port, before
/// it hears the last of the former one, by a queue pair.
const REST: usize = 16;

/// The connections of a link by id.
#[derive(Default)]
pub struct Conns {
    places: Vec<Place>,
    /// Ids to use again, if it is this end that chooses them.
    /// Numbers that were used, the one first that has been free for longest.
    free: VecDeque<u32>,
    chooses: bool,
    live: usize,
    /// Ports of connections that were opened fast and are closed here, until the peer has closed them too.
    leases: HashMap<u32, Lease>,
}

impl Conns {
    pub fn get(&self, id: u32) -> Option<&'static Socket> {
        match self.places.get(id as usize) {
            Some(Place::Open(s) | Place::Half(s)) => Some(s),
            _ => None,
        }
    }

    /// Whether no id is in use at either end.
    pub fn are_free(&self) -> bool {
        self.live == 0 && self.free.len() == self.places.len()
    }

    pub fn live(&self) -> usize {
        self.live
    }

    pub fn open(&mut self, socket: &'static Socket, max: u32) -> Option<u32> {
        if self.live >= max as usize {
            return None;
        }
        self.chooses = true;
        let id = if self.free.len() > REST || self.places.len() >= MAX_CONNS - MOST_WAYS {
            self.free.pop_front()?
        } else {
            self.places.push(Place::Free);
            self.places.len() as u32 - 1
        };
        self.places[id as usize] = Place::Open(socket);
        self.live += 1;
        Some(id)
    }

    /// Opens an id that the peer chose; tells whether the peer has closed it already. `None`: it is
    /// not free.
    pub fn open_as(&mut self, id: u32, socket: &'static Socket) -> Option<bool> {
        let place = self.place(id)?;
        let closed = match place {
            Place::Free => false,
            Place::Gone => true,
            _ => return None,
        };
        *place = match closed {
            false => Place::Open(socket),
            true => Place::Half(socket),
        };
        self.live += 1;
        Some(closed)
    }

    /// The place of an id that the peer may use.
    fn place(&mut self, id: u32) -> Option<&mut Place> {
        let at = id as usize;
        if at >= MAX_CONNS {
            return None;
        }
        if self.places.len() <= at {
            self.places.resize(at + 1, Place::Free);
        }
        self.places.get_mut(at)
    }

    /// Whether the peer may choose that id now.
    pub fn is_free(&self, id: u32) -> bool {
        let is_free = |place: &Place| matches!(place, Place::Free);
        !self.chooses
            && (id as usize) < MAX_CONNS - MOST_WAYS
            && self.places.get(id as usize).is_none_or(is_free)
    }

    /// `lease` is nobody else's until id, which is forgotten here, is free.
    pub fn keep(&mut self, id: u32, lease: Option<Lease>) {
        if let Some(lease) = lease
            && matches!(self.places.get(id as usize), Some(Place::Closing))
        {
            self.leases.insert(id, lease);
        }
    }

    pub fn forget(&mut self, id: u32, peer_closed: bool) {
        let Some(place) = self.places.get_mut(id as usize) else {
            return;
        };
        match place {
            Place::Open(_) if !peer_closed => *place = Place::Closing,
            Place::Open(_) | Place::Half(_) => {
                *place = Place::Free;
                self.free.extend(self.chooses.then_some(id));
            }
            Place::Free | Place::Closing | Place::Gone => return,
        }
        self.live -= 1;
    }

    pub fn peer_closed(&mut self, id: u32) {
        let chooses = self.chooses;
        if chooses && id as usize >= self.places.len() {
            return;
        }
        let Some(place) = self.place(id) else {
            return;
        };
        match *place {
            Place::Open(socket) => *place = Place::Half(socket),
            Place::Closing => {
                *place = Place::Free;
                self.free.extend(chooses.then_some(id));
                if !self.leases.is_empty() {
                    self.leases.remove(&id);
                }
            }
            Place::Free if !chooses => *place = Place::Gone,
            Place::Free | Place::Half(_) | Place::Gone => {}
        }
    }

    pub fn sockets(&self) -> impl Iterator<Item = (u32, &'static Socket)> {
        let places = self.places.iter().enumerate();
        places.filter_map(|(id, place)| match place {
            Place::Open(s) | Place::Half(s) => Some((id as u32, *s)),
            _ => None,
        })
    }
}
