//! The memory that a carrier needs to begin.

use super::carrier::{Ring, RingSource};
use super::receiving::Receiving;
use super::sending::Sending;
use crate::real::sys::Errno;

/// What a carrier needs, as far as it cannot use what is there.
#[derive(Default)]
pub struct Rings {
    /// For what it brings.
    pub ring: Option<Ring>,
    /// For what it takes.
    pub mirror: Option<Ring>,
}

impl Rings {
    /// Makes what is missing, from `source`, as large as what is in use now.
    ///
    /// # Errors
    /// Those of the source.
    pub fn complete(
        &mut self,
        sending: &Sending,
        receiving: &Receiving,
        source: &dyn RingSource,
    ) -> Result<(), Errno> {
        let pairs = [
            (&mut self.ring, receiving.newest()),
            (&mut self.mirror, &**sending.mirror()),
        ];
        for (place, used) in pairs {
            let size = used.memory.size;
            if used.source == source.id() {
                *place = None;
            } else if !place.as_ref().is_some_and(|ring| ring.is_for(size, source)) {
                *place = Some(source.ring(size)?);
            }
        }
        Ok(())
    }
}
