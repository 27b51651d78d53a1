//! Rings in plain memory, for carriers that are no device.

use rustix::fd::AsFd;

use super::RingMemory;
use super::remote::carrier::{Ring, RingSource};
use super::remote::message::RemoteRing;
use crate::mapping::Mapping;
use crate::real::sys::{self, Errno};

/// The source of them.
pub struct Plain;

impl RingSource for Plain {
    fn ring(&self, size: usize) -> Result<Ring, Errno> {
        let fd = rustix::fs::memfd_create(c"netacc-ring", rustix::fs::MemfdFlags::CLOEXEC)?;
        let made = rustix::fs::ftruncate(&fd, size as u64)
            .and_then(|()| Mapping::ring(fd.as_fd(), 0, size));
        sys::close(rustix::fd::IntoRawFd::into_raw_fd(fd));
        let mapping = made?;
        Ok(Ring {
            memory: RingMemory {
                base: mapping.base().as_ptr(),
                size,
            },
            remote: RemoteRing {
                addr: 0,
                rkey: 0,
                size: size as u32,
            },
            source: 0,
            own: Box::new(mapping),
        })
    }

    fn id(&self) -> usize {
        0
    }
}
