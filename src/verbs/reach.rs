//! Which local addresses belong to RDMA devices: only connections whose route leaves by such an
//! address's interface can become RDMA.

use std::sync::Arc;

use parking_lot::Mutex;

use super::cm::{CmId, EventChannel, OWN_TOKEN};
use super::device::Device;
use super::error::Error;
use crate::real::sys::{Errno, now_ns};
use crate::socket::addr::Address;

/// The most answers that are remembered.
const REMEMBERED: usize = 64;
/// For how long a no is believed: nobody tells when a device comes.
const NO_NS: u64 = 1_000_000_000;

/// What is known of local addresses. The connection manager decides (it knows of network namespaces,
/// VLANs and bonds): an address that it binds to a device is a device's. That opens the device and takes
/// some system calls, so its answers are remembered until [`refresh`](Self::refresh).
pub struct LocalAddresses {
    channel: Arc<EventChannel>,
    known: Mutex<Vec<(Key, Answer)>>,
}

/// Whether an address is a device's.
#[derive(Clone, Copy)]
enum Answer {
    Yes,
    /// Not at this time.
    No(u64),
}

/// An address without its port: IPv6 form and scope.
type Key = ([u8; 16], u32);

impl LocalAddresses {
    /// Asks by ids on `channel`.
    pub fn new(channel: &Arc<EventChannel>) -> LocalAddresses {
        LocalAddresses {
            channel: channel.clone(),
            known: Mutex::new(Vec::new()),
        }
    }

    /// Whether the local address `address` (its port does not matter) is that of an RDMA device's
    /// interface. Loopback and unspecified addresses are nobody's.
    ///
    /// # Errors
    /// Whatever keeps the question from being answered, such as a lack of descriptors.
    pub fn is_rdma(&self, address: &Address) -> Result<bool, Error> {
        let (ip, _, _) = address.canonical();
        let key = (ip, address.scope());
        if is_loopback_or_unspecified(&ip) {
            // librdmacm would bind these to just any device.
            return Ok(false);
        }
        let now = now_ns();
        {
            let mut known = self.known.lock();
            known.retain(|(_, answer)| !matches!(answer, Answer::No(at) if now - at > NO_NS));
            if let Some((_, answer)) = known.iter().find(|(known, _)| *known == key) {
                return Ok(matches!(answer, Answer::Yes));
            }
        }
        let id = CmId::create(&self.channel, OWN_TOKEN)?;
        let is_rdma = match id.bind(&address.with_port(0)) {
            Ok(()) if id.context().is_none() => false,
            // librdmacm has opened the device for this: from now on it is one that is looked after.
            Ok(()) => Device::of(&id).map(|_| true)?,
            Err(error) => match error.errno() {
                Some(Errno::NODEV | Errno::ADDRNOTAVAIL) => false,
                _ => return Err(error),
            },
        };
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let answer = match is_rdma {
            true => Answer::Yes,
            false => Answer::No(now),
        };
        known.push((key, answer));
        Ok(is_rdma)
    }

    /// Forgets all answers: addresses or devices have come or gone.
    pub fn refresh(&self) {
        self.known.lock().clear();
    }
}

fn is_loopback_or_unspecified(ip: &[u8; 16]) -> bool {
    match *ip {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => {
            a == 127 || [a, b, c, d] == [0; 4]
        }
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last] => last <= 1,
        _ => false,
    }
}

/// The IPv4 address that is meant by one in IPv6's form; any other as it is.
pub(super) fn unmapped(address: &Address) -> Address {
    let (ip, port, is_ipv6) = address.canonical();
    if is_ipv6 {
        return *address;
    }
    let mut plain = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: 0 },
        sin_zero: [0; 8],
    };
    plain.sin_addr.s_addr = u32::from_ne_bytes([ip[12], ip[13], ip[14], ip[15]]);
    Address::V4(plain)
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;

    fn v6(text: &str) -> Address {
        let ip: Ipv6Addr = text.parse().unwrap();
        Address::V6(libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: 80u16.to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr {
                s6_addr: ip.octets(),
            },
            sin6_scope_id: 0,
        })
    }

    #[test]
    fn ipv4_in_ipv6_is_ipv4() {
        let plain = unmapped(&v6("::ffff:10.1.2.3"));
        assert_eq!(plain.family(), libc::AF_INET);
        assert_eq!(plain.to_std(), "10.1.2.3:80".parse().unwrap());
        assert_eq!(unmapped(&plain).to_std(), plain.to_std());
        let real = unmapped(&v6("fd05::1"));
        assert_eq!(real.to_std(), "[fd05::1]:80".parse().unwrap());
    }

    #[test]
    fn loopback_is_no_device_in_any_form() {
        for (text, expected) in [
            ("::1", true),
            ("::", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:127.9.9.9", true),
            ("::ffff:0.0.0.0", true),
            ("::2", false),
            ("::ffff:10.0.0.1", false),
            ("fe80::1", false),
        ] {
            let ip: Ipv6Addr = text.parse().unwrap();
            assert_eq!(is_loopback_or_unspecified(&ip.octets()), expected, "{text}");
        }
    }
}
