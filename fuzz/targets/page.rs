//! The page of counters, as netacc_ss reads it of a process that may be anything: a page as one of ours begins, with other
//! bytes in any of its places, or none at all.

#![no_main]

use std::sync::atomic::Ordering;

use libfuzzer_sys::fuzz_target;
use netacc::stats::reader::Snapshot;
use netacc::stats::{Header, MAGIC, Page, Reason};

/// The beginning of a page of this layout.
fn header() -> Vec<u8> {
    // SAFETY: atomic integers only, for which zeros are a value.
    let header: Header = unsafe { std::mem::zeroed() };
    header.magic.store(MAGIC, Ordering::Relaxed);
    header.tell_layout();
    // SAFETY: as many bytes as it has, without padding.
    unsafe { std::slice::from_raw_parts((&raw const header).cast::<u8>(), size_of::<Header>()) }
        .to_vec()
}

fuzz_target!(|input: (Vec<u8>, Vec<(u32, Vec<u8>)>)| {
    let (raw, patches) = input;
    let _ = Snapshot::parse(&raw);
    let mut bytes = header();
    bytes.resize(size_of::<Page>(), 0);
    for (at, patch) in patches {
        let at = at as usize % bytes.len();
        let end = bytes.len().min(at + patch.len());
        bytes[at..end].copy_from_slice(&patch[..end - at]);
    }
    let Ok(page) = Snapshot::parse(&bytes) else {
        return;
    };
    for conn in &page.conns {
        let _ = (conn.state_name(), conn.why(), page.link_of(conn));
    }
    for link in &page.links {
        let _ = page.device_of(link);
    }
    let _ = (page.counter("sleeps"), page.fallback(Reason::Disabled));
});
