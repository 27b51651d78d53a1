//! Shared memory: a sealed memfd between two processes of one host, or private memory for a process
//! that talks to itself.
//!
//! Layout of the segment: the two [`Direction`] headers, then the two rings, each a whole number of
//! pages. Direction 0 is from the connecting to the accepting end.

use core::sync::atomic::{AtomicI32, Ordering};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};

use super::ring::Direction;
use super::{Fabric, FabricKind, RingMemory, SLOT_IO, SLOTS};
use crate::mapping::Mapping;
use crate::real::sys::{self, Errno, InternalFd};

const PAGE: usize = 4096;
const HEADER: usize = (size_of::<Direction>() + PAGE - 1) & !(PAGE - 1);

/// Largest ring that is accepted from a peer, in bytes.
pub const MAX_RING: usize = 64 << 20;

/// Which end of the link this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It made the first contact.
    Connector,
    /// It was listening.
    Acceptor,
}

/// The memory of a link, mapped.
pub struct Segment {
    headers: Mapping,
    rings: [Mapping; 2],
    ring_size: usize,
}

impl Segment {
    /// Bytes of a segment whose rings have `ring_size` bytes each.
    fn len(ring_size: usize) -> usize {
        2 * HEADER + 2 * ring_size
    }

    /// Makes a sealed memfd for rings of `ring_size` bytes (a power of two of at least a page).
    ///
    /// # Errors
    /// The kernel's, of memfd_create(2) and ftruncate(2).
    pub fn create(ring_size: usize) -> Result<OwnedFd, Errno> {
        let fd = rustix::fs::memfd_create(
            c"netacc-link",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&fd, Self::len(ring_size) as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(fd)
    }

    /// Maps the segment in `fd`.
    ///
    /// # Errors
    /// `EINVAL` when it is not a sealed memfd of just the right size (it may come from a peer);
    /// else the kernel's, of mmap(2).
    pub fn map(fd: BorrowedFd<'_>, ring_size: usize) -> Result<Segment, Errno> {
        if !ring_size.is_power_of_two() || !(PAGE..=MAX_RING).contains(&ring_size) {
            return Err(Errno::INVAL);
        }
        let wanted = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        if !rustix::fs::fcntl_get_seals(fd)?.contains(wanted)
            || rustix::fs::fstat(fd)?.st_size as usize != Self::len(ring_size)
        {
            return Err(Errno::INVAL);
        }
        let ring = |index: usize| Mapping::ring(fd, 2 * HEADER + index * ring_size, ring_size);
        Ok(Segment {
            headers: Mapping::of(fd, 0, 2 * HEADER)?,
            rings: [ring(0)?, ring(1)?],
            ring_size,
        })
    }

    fn direction(&self, index: usize) -> &Direction {
        // SAFETY: the header region holds two `Direction`s, page-aligned, made of atomics only, for
        // which every bit pattern is valid; the seals keep the file from shrinking under us.
        unsafe {
            &*self
                .headers
                .base()
                .as_ptr()
                .add(index * HEADER)
                .cast::<Direction>()
        }
    }

    fn ring(&self, index: usize) -> RingMemory {
        RingMemory {
            base: self.rings[index].base().as_ptr(),
            size: self.ring_size,
        }
    }
}

/// How an end rings the other's waiters.
enum Bells {
    /// Eventfds that the peer passed; -1 where it has not (yet).
    Peer {
        fds: Box<[AtomicI32; SLOTS]>,
        pass: InternalFd,
    },
    /// The waiters are this process's own.
    Own,
}

/// One end of a shared-memory link.
pub struct Shm {
    segment: std::sync::Arc<Segment>,
    end: End,
    bells: Bells,
}

impl Shm {
    /// An end of a link with another process. `io_bell` wakes the peer's I/O thread, `pass` is the
    /// Unix socket by which further bells go to the peer.
    pub fn with_peer(segment: Segment, end: End, io_bell: InternalFd, pass: InternalFd) -> Shm {
        let fds: Box<[AtomicI32; SLOTS]> = Box::new(std::array::from_fn(|_| AtomicI32::new(-1)));
        fds[SLOT_IO as usize].store(io_bell.as_raw_fd(), Ordering::Relaxed);
        // From here on the array owns it; `drop` closes it.
        core::mem::forget(io_bell);
        Shm {
            segment: std::sync::Arc::new(segment),
            end,
            bells: Bells::Peer { fds, pass },
        }
    }

    /// Both ends of a link of this process with itself.
    ///
    /// # Errors
    /// Those of [`Segment::create`] and [`Segment::map`].
    pub fn pair(ring_size: usize) -> Result<(Shm, Shm), Errno> {
        let fd = Segment::create(ring_size)?;
        let mapped = Segment::map(fd.as_fd(), ring_size);
        sys::close(rustix::fd::IntoRawFd::into_raw_fd(fd));
        let segment = std::sync::Arc::new(mapped?);
        let end = |end| Shm {
            segment: segment.clone(),
            end,
            bells: Bells::Own,
        };
        Ok((end(End::Connector), end(End::Acceptor)))
    }

    fn out(&self) -> usize {
        match self.end {
            End::Connector => 0,
            End::Acceptor => 1,
        }
    }

    fn tx_head(&self) -> &Direction {
        self.segment.direction(self.out())
    }

    fn rx_head(&self) -> &Direction {
        self.segment.direction(1 - self.out())
    }

    /// Wakes the peer's waiter of `slot`, if it still sleeps.
    #[cold]
    fn wake(&self, slot: u8) {
        let armed = &self.tx_head().armed;
        let fd = match &self.bells {
            Bells::Own if armed.claim(slot) => {
                return self.ring(|| crate::poll::waiter::ring_slot(slot));
            }
            Bells::Own => return,
            Bells::Peer { fds, .. } => fds[slot as usize % SLOTS].load(Ordering::Acquire),
        };
        if fd >= 0 {
            if armed.claim(slot) {
                self.ring(|| sys::signal(sys::borrow(fd)));
            }
        } else if armed.claim(SLOT_IO) {
            // Its bell has not come: the I/O thread takes the record in and wakes it. The slot stays
            // armed, for only its own waiter may arm it anew.
            self.ring_io();
        }
    }

    fn ring_io(&self) {
        self.ring(|| match &self.bells {
            Bells::Own => crate::poll::waiter::ring_slot(SLOT_IO),
            Bells::Peer { fds, .. } => {
                sys::signal(sys::borrow(fds[SLOT_IO as usize].load(Ordering::Acquire)))
            }
        });
    }

    fn ring(&self, bell: impl FnOnce()) {
        bell();
        crate::stats::add(&crate::stats::global().wakes_sent, 1);
    }
}

impl Fabric for Shm {
    fn kind(&self) -> FabricKind {
        match self.bells {
            Bells::Own => FabricKind::Loop,
            Bells::Peer { .. } => FabricKind::Shm,
        }
    }

    fn tx(&self) -> RingMemory {
        self.segment.ring(self.out())
    }

    fn rx(&self, _cursor: u64) -> (RingMemory, Option<u64>) {
        (self.segment.ring(1 - self.out()), None)
    }

    #[inline]
    fn publish(&self, to: u64) {
        self.tx_head().cursors.publish(to);
    }

    #[inline]
    fn notify(&self, conn: u32) {
        if let Some(slot) = self.tx_head().sleeper(conn) {
            self.wake(slot);
        }
    }

    #[inline]
    fn freed(&self) -> u64 {
        self.tx_head().cursors.freed()
    }

    fn want_space(&self) {
        self.tx_head().cursors.want_space();
        // Perhaps nobody waits for any of the records that fill the ring.
        self.notify_io();
    }

    fn notify_io(&self) {
        if self.tx_head().armed.claim(SLOT_IO) {
            self.ring_io();
        }
    }

    #[inline]
    fn produced(&self) -> u64 {
        self.rx_head().cursors.produced()
    }

    #[inline]
    fn release(&self, to: u64) {
        if self.rx_head().cursors.release(to) {
            self.ring_io();
        }
    }

    fn set_slot(&self, conn: u32, slot: u8) {
        self.rx_head().set_slot(conn, slot);
    }

    fn arm(&self, slot: u8) {
        self.rx_head().armed.arm(slot);
    }

    fn disarm(&self, slot: u8) {
        self.rx_head().armed.disarm(slot);
    }

    fn offer_bell(&self, slot: u8, bell: BorrowedFd<'_>) {
        if let Bells::Peer { pass, .. } = &self.bells {
            // If it does not go through, the peer rings the I/O thread for this slot: slower, not wrong.
            let frame = crate::control::wire::Frame::Bell { slot }.encode();
            let _ = crate::control::passing::send(pass.as_fd(), &frame, &[bell]);
        }
    }

    fn hang_up(&self) {
        if let Bells::Peer { pass, .. } = &self.bells {
            let _ = rustix::net::shutdown(pass, rustix::net::Shutdown::Both);
        }
    }

    fn install_bell(&self, slot: u8, bell: InternalFd) {
        if let Bells::Peer { fds, .. } = &self.bells
            && slot != SLOT_IO
            && (slot as usize) < SLOTS
            && fds[slot as usize]
                .compare_exchange(-1, bell.as_raw_fd(), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            core::mem::forget(bell);
        }
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        if let Bells::Peer { fds, .. } = &mut self.bells {
            for fd in fds.iter_mut().map(|fd| *fd.get_mut()).filter(|&fd| fd >= 0) {
                crate::fdtable::clear_internal(fd);
                sys::close(fd);
            }
        }
    }
}
