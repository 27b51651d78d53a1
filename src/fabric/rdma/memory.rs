//! Rings in a device's registered memory.

use std::sync::Arc;

use crate::fabric::RingMemory;
use crate::fabric::remote::carrier::{Ring, RingSource};
use crate::fabric::remote::message::RemoteRing;
use crate::real::sys::Errno;
use crate::verbs::pool::{Pool, RingRegion};

/// The registered memory of a device as a source of rings.
pub struct Memory {
    pool: Arc<Pool>,
}

impl Memory {
    /// That of `pool`.
    pub fn new(pool: Arc<Pool>) -> Arc<Memory> {
        Arc::new(Memory { pool })
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

/// The registered memory behind a ring of ours.
pub fn region_of(ring: &Ring) -> Option<&crate::verbs::pool::Region> {
    ring.own.downcast_ref().map(RingRegion::region)
}

impl RingSource for Memory {
    fn ring(&self, size: usize) -> Result<Ring, Errno> {
        let made = self.pool.allocate(size);
        let ring = made
            .and_then(|region| RingRegion::map(region, size))
            .map_err(|error| {
                error.tell();
                error.errno().unwrap_or(Errno::NOMEM)
            })?;
        let remote = ring.region().remote();
        Ok(Ring {
            memory: RingMemory {
                base: ring.base().as_ptr(),
                // The region may be larger: it has a unit of the pool at least.
                size,
            },
            remote: RemoteRing {
                addr: remote.address,
                rkey: remote.rkey,
                size: size as u32,
            },
            source: self.id(),
            own: Box::new(ring),
        })
    }

    fn id(&self) -> usize {
        Arc::as_ptr(&self.pool).addr()
    }
}
