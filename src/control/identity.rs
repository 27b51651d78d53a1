//! Who this process is to its peers.

use super::wire::{Host, Name};

/// This host, network namespace and process.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Where we run.
    pub host: Host,
    /// Random name of this process.
    pub process: [u8; 16],
    /// Where peers on this host fetch shared memory: an abstract Unix address. By it peers know which process we are.
    pub rendezvous: Name,
}

/// How the name of each rendezvous begins.
const RENDEZVOUS: &[u8] = b"netacc-1";

/// Whether `name` can be a rendezvous of ours, and not somebody else's address.
pub fn is_rendezvous(name: &Name) -> bool {
    let digits = name.strip_prefix(RENDEZVOUS);
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

impl Identity {
    /// Reads it from /proc; what cannot be read stays zero and matches nobody.
    pub fn read() -> Identity {
        let process = random();
        let mut rendezvous = [0; 32];
        rendezvous[..RENDEZVOUS.len()].copy_from_slice(RENDEZVOUS);
        for (at, byte) in random().iter().take(12).enumerate() {
            let digits = b"0123456789abcdef";
            rendezvous[8 + 2 * at] = digits[usize::from(byte >> 4)];
            rendezvous[9 + 2 * at] = digits[usize::from(byte & 15)];
        }
        Identity {
            host: Host {
                boot_id: boot_id().unwrap_or_default(),
                net_ns: net_ns(),
            },
            process,
            rendezvous,
        }
    }
}

/// Sixteen bytes from the kernel's generator.
pub fn random() -> [u8; 16] {
    let mut bytes = [0u8; 16];
    // SAFETY: sixteen writable bytes; requests of this size are never cut short.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != 16 {
        // A seccomp filter may forbid it: then time and address tell processes apart, and the
        // credentials of the Unix socket still guard the memory.
        let now = crate::real::sys::now_ns().to_ne_bytes();
        bytes[..8].copy_from_slice(&now);
        let place = (&raw const bytes as u64).rotate_left(17).to_ne_bytes();
        bytes[8..].copy_from_slice(&place);
    }
    bytes
}

fn boot_id() -> Option<[u8; 16]> {
    let fd = rustix::fs::open(
        c"/proc/sys/kernel/random/boot_id",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .ok()?;
    let mut text = [0u8; 40];
    let n = rustix::io::read(&fd, &mut text).ok()?;
    let mut id = [0; 16];
    let mut digits = text[..n].iter().filter_map(|&c| (c as char).to_digit(16));
    for byte in &mut id {
        *byte = (digits.next()? * 16 + digits.next()?) as u8;
    }
    Some(id)
}

fn net_ns() -> u64 {
    rustix::fs::stat(c"/proc/self/ns/net").map_or(0, |s| s.st_ino)
}
