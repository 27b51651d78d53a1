//! Registered memory of pretended devices, which remembers what was given back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use netacc::fabric::plain::Plain;
use netacc::fabric::remote::carrier::{Ring, RingSource};
use netacc::fabric::remote::message::RemoteRing;
use netacc::real::sys::Errno;

/// Whether a ring is still somebody's; false once it is dropped.
pub struct Lease(Arc<AtomicBool>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Lease {
    /// The same, for whoever still uses the ring.
    pub fn watch(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

/// A ring as the device knows it. It stays mapped, so that use after its end is seen and not fatal.
struct Registered {
    ring: Ring,
    leased: Arc<AtomicBool>,
}

/// A device of one end.
pub struct Device {
    number: usize,
    rings: Mutex<Vec<Registered>>,
    /// The next rings are refused.
    pub is_out_of_memory: AtomicBool,
}

impl Device {
    pub fn new(number: usize) -> Arc<Device> {
        assert_ne!(number, Plain.id(), "that is plain memory");
        Arc::new(Device {
            number,
            rings: Mutex::default(),
            is_out_of_memory: AtomicBool::new(false),
        })
    }

    /// Writes what the other end sends.
    pub fn write(&self, rkey: u32, to: u64, bytes: &[u8]) {
        let rings = self.rings.lock().unwrap();
        let to_it = rings.iter().find(|r| key(&r.ring) == rkey);
        let Registered { ring, leased } = to_it.expect("a key that was given out");
        assert!(
            leased.load(Ordering::Relaxed),
            "a ring is written to that was given back"
        );
        let offset = to.checked_sub(ring.memory.base as u64).expect("inside") as usize;
        assert!(offset + bytes.len() <= ring.memory.size, "inside");
        // SAFETY: inside the ring, which is mapped as long as the device lives.
        unsafe {
            let at = ring.memory.base.add(offset);
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len());
        }
    }

    /// Rings that are somebody's.
    pub fn leased(&self) -> usize {
        let rings = self.rings.lock().unwrap();
        let leased = |r: &&Registered| r.leased.load(Ordering::Relaxed);
        rings.iter().filter(leased).count()
    }
}

/// The lower half of its address does: it tells the rings of a process apart.
fn key(ring: &Ring) -> u32 {
    (ring.memory.base as u64 >> 12) as u32
}

/// A device as a source of rings.
pub struct Source(pub Arc<Device>);

impl RingSource for Source {
    fn ring(&self, size: usize) -> Result<Ring, Errno> {
        if self.0.is_out_of_memory.load(Ordering::Relaxed) {
            return Err(Errno::NOMEM);
        }
        let ring = Plain.ring(size)?;
        let leased = Arc::new(AtomicBool::new(true));
        let lent = Ring {
            memory: ring.memory,
            remote: RemoteRing {
                addr: ring.memory.base as u64,
                rkey: key(&ring),
                size: size as u32,
            },
            source: self.id(),
            own: Box::new(Lease(leased.clone())),
        };
        let registered = Registered { ring, leased };
        self.0.rings.lock().unwrap().push(registered);
        Ok(lent)
    }

    fn id(&self) -> usize {
        self.0.number
    }
}
