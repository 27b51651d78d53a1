//! Rings in a device's registered memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::fabric::RingMemory;
use crate::fabric::remote::carrier::{Ring, RingSource};
use crate::fabric::remote::message::RemoteRing;
use crate::real::sys::Errno;
use crate::stats;
use crate::verbs::pool::{Pool, RingRegion};

/// The registered memory of a device as a source of rings.
pub struct Memory {
    pool: Arc<Pool>,
    complained: AtomicBool,
}

impl Memory {
    /// That of `pool`.
    pub fn new(pool: Arc<Pool>) -> Arc<Memory> {
        Arc::new(Memory {
            pool,
            complained: AtomicBool::new(false),
        })
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

/// Tells the stats page how much there is.
fn count(pool: &Pool) {
    let now = pool.stats();
    let page = stats::global();
    page.mr_bytes_now.store(now.registered, Ordering::Relaxed);
    page.mrs_now.store(now.regions, Ordering::Relaxed);
    page.mr_bytes_used.store(now.allocated, Ordering::Relaxed);
}

/// A ring that is counted when it goes.
struct Counted {
    ring: Option<RingRegion>,
    pool: Arc<Pool>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        drop(self.ring.take());
        count(&self.pool);
    }
}

/// The registered memory behind a ring of ours.
pub fn region_of(ring: &Ring) -> Option<&crate::verbs::pool::Region> {
    let counted = ring.own.downcast_ref::<Counted>()?;
    counted.ring.as_ref().map(RingRegion::region)
}

impl RingSource for Memory {
    fn ring(&self, size: usize) -> Result<Ring, Errno> {
        let made = self.pool.allocate(size);
        let made = made.and_then(|region| RingRegion::map(region, size));
        count(&self.pool);
        let ring = match made {
            Ok(ring) => ring,
            Err(error) => {
                if !self.complained.swap(true, Ordering::Relaxed) {
                    tracing::warn!(target: "netacc::rdma", "{error}");
                }
                return Err(error.errno().unwrap_or(Errno::NOMEM));
            }
        };
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
            own: Box::new(Counted {
                ring: Some(ring),
                pool: self.pool.clone(),
            }),
        })
    }

    fn id(&self) -> usize {
        Arc::as_ptr(&self.pool).addr()
    }
}
