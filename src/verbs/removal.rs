//! Devices that are being removed, as the kernel tells everybody who listens (uevents).
//!
//! The connection manager tells too ([`DeviceGone`](super::cm::EventKind::DeviceGone)), but it may come
//! second: a driver that cannot take a device from its users, as those of the soft devices, waits first
//! until nobody has the device open. Only the uevent comes before that.

use std::sync::Arc;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::device::{self, Device};
use super::error::Error;
use crate::real::sys::{Errno, InternalFd};

/// The group of messages that come from the kernel itself.
const FROM_THE_KERNEL: u32 = 1;

/// A socket that hears of removals. Containers with a user namespace of their own hear nothing.
#[derive(Debug)]
pub struct Removals(InternalFd);

impl Removals {
    /// Begins to listen.
    ///
    /// # Errors
    /// The kernel's, of socket(2) and bind(2).
    pub fn watch() -> Result<Removals, Error> {
        let failed = |call| move |errno| Error::Call { call, errno };
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::KOBJECT_UEVENT),
        )
        .map_err(failed("socket"))?;
        let socket = InternalFd::adopt(socket);
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, FROM_THE_KERNEL))
            .map_err(failed("bind"))?;
        Ok(Removals(socket))
    }

    /// Takes in what has been said; the devices in use that are being removed. Everything on them is to
    /// be dropped, these references too: the removal may wait for it.
    pub fn take(&self) -> Vec<Arc<Device>> {
        let mut gone = Vec::new();
        let mut message = [0; 4096];
        loop {
            let received = rustix::net::recvfrom(&self.0, &mut message[..], RecvFlags::DONTWAIT);
            match received {
                Ok((len, _, Some(from))) if is_kernel(from.clone()) => {
                    if let Some(name) = removed(&message[..len]) {
                        gone.extend(device::gone(|device| device.character_device() == name));
                    }
                }
                // Others may send here, but are not believed.
                Ok(_) | Err(Errno::INTR) => {}
                // Messages were lost: the file system knows who is left.
                Err(Errno::NOBUFS) => gone.extend(device::gone(|device| !device.is_present())),
                Err(_) => return gone,
            }
        }
    }
}

impl AsFd for Removals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn is_kernel(from: rustix::net::SocketAddrAny) -> bool {
    SocketAddrNetlink::try_from(from).is_ok_and(|from| from.pid() == 0)
}

/// The name of the character device (`uverbs0`) of whose removal a uevent tells:
/// `remove@/devices/...\0ACTION=remove\0DEVPATH=/devices/.../uverbs0\0SUBSYSTEM=infiniband_verbs\0...`
fn removed(message: &[u8]) -> Option<&[u8]> {
    let value = |key: &[u8]| {
        let mut fields = message.split(|&byte| byte == 0);
        fields.find_map(|field| field.strip_prefix(key))
    };
    let is_ours = value(b"ACTION=")? == b"remove" && value(b"SUBSYSTEM=")? == b"infiniband_verbs";
    let name = value(b"DEVPATH=")?.rsplit(|&byte| byte == b'/').next()?;
    (is_ours && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REMOVAL: &[u8] = b"remove@/devices/virtual/infiniband_verbs/uverbs1\0ACTION=remove\0\
        DEVPATH=/devices/virtual/infiniband_verbs/uverbs1\0SUBSYSTEM=infiniband_verbs\0\
        MAJOR=231\0MINOR=193\0DEVNAME=infiniband/uverbs1\0SEQNUM=1234\0";

    #[test]
    fn a_removal_names_its_device() {
        assert_eq!(removed(REMOVAL), Some(&b"uverbs1"[..]));
        let text = String::from_utf8_lossy(REMOVAL);
        for (from, to) in [
            ("ACTION=remove", "ACTION=add"),
            ("SUBSYSTEM=infiniband_verbs", "SUBSYSTEM=net"),
            ("DEVPATH=", "DEVPLACE="),
        ] {
            assert_eq!(removed(text.replace(from, to).as_bytes()), None, "{to}");
        }
    }

    proptest! {
        #[test]
        fn any_message_names_a_device_or_none(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            cut in 0..REMOVAL.len(),
        ) {
            prop_assert!(removed(&bytes).is_none());
            let damaged = [&REMOVAL[..cut], &bytes].concat();
            if let Some(name) = removed(&damaged) {
                prop_assert!(!name.is_empty() && !name.contains(&b'/'));
            }
        }
    }
}
