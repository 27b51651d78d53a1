//! Counters, for people and for scripts.

use std::fmt::Write;

use netacc::stats::reader::{Conn, Library, Snapshot};
use netacc::stats::{ConnState, Mode, Reason};

use super::table::{bytes, per, section, table};
use crate::totals::Totals;

/// How many connections a process has now in `mode`.
pub fn now(page: &Snapshot, mode: Mode) -> u64 {
    let those = page.conns.iter().filter(|conn| conn.mode == Some(mode));
    those.count() as u64
}

/// The counters that matter first, in words.
pub fn summary(page: &Snapshot) -> String {
    summary_of(&[page])
}

/// The same of all processes together.
pub fn totals(pages: &[&Snapshot]) -> String {
    let all = Totals::of(pages);
    format!(
        "Total of {} processes\n{}{}",
        all.processes,
        summary_of(pages),
        left_to_kernel(&all.fallbacks)
    )
}

fn summary_of(pages: &[&Snapshot]) -> String {
    let sum =
        |of: &dyn Fn(&Snapshot) -> u64| pages.iter().copied().map(of).fold(0, u64::wrapping_add);
    let count = |name: &str| sum(&|page| page.counter(name).unwrap_or(0));
    let of_state = |page: &Snapshot, is: fn(&Conn) -> bool| {
        page.conns.iter().filter(|conn| is(conn)).count() as u64
    };
    let listens = |conn: &Conn| conn.state == Some(ConnState::Listening);
    let by_kernel =
        |conn: &Conn| conn.mode == Some(Mode::Tcp) && conn.state != Some(ConnState::Listening);
    let modes = |prefix: &str| {
        let number = |mode| count(&format!("{prefix}_{mode}"));
        let [of_loop, shm, rdma, tcp] = ["loop", "shm", "rdma", "tcp"].map(number);
        format!("{of_loop} LOOP, {shm} SHM, {rdma} RDMA, {tcp} TCP")
    };
    let [of_loop, shm, rdma] =
        [Mode::Loop, Mode::Shm, Mode::Rdma].map(|mode| sum(&|page| now(page, mode)));
    let tcp = sum(&|page| of_state(page, by_kernel));
    let listening = sum(&|page| of_state(page, listens));
    let work = count("work_requests");
    let lines = [
        (
            "Now",
            format!("{of_loop} LOOP, {shm} SHM, {rdma} RDMA, {tcp} TCP, {listening} listening"),
        ),
        ("Opened", modes("connected")),
        ("Accepted", modes("accepted")),
        (
            "Sent",
            format!(
                "{} bytes in {} records",
                count("tx_bytes"),
                count("tx_records")
            ),
        ),
        (
            "Received",
            format!(
                "{} bytes in {} records",
                count("rx_bytes"),
                count("rx_records")
            ),
        ),
        (
            "Stalls",
            format!(
                "{} for a window, {} for ring space",
                count("window_stalls"),
                count("ring_full_stalls")
            ),
        ),
        ("Handed back", count("handed_back").to_string()),
        (
            "Failovers",
            format!(
                "{} queue pairs lost, {} links resumed",
                count("carriers_lost"),
                count("carriers_resumed")
            ),
        ),
        ("Batching", {
            let batches = per(count("tx_records"), count("tx_batches"));
            let posted = match work {
                0 => "no work requests".to_owned(),
                _ => format!(
                    "{} messages in a work request, {} work requests in a doorbell",
                    per(count("rdma_records"), work),
                    per(work, count("doorbells"))
                ),
            };
            format!("{batches} records in a batch; {posted}")
        }),
        (
            "Registered",
            format!(
                "{} in {} regions, {} in use",
                bytes(count("mr_bytes_now")),
                count("mrs_now"),
                bytes(count("mr_bytes_used"))
            ),
        ),
        ("Spilled", bytes(count("spilled_bytes"))),
    ];
    let faults = match count("internal_faults") {
        0 => None,
        n => Some((
            "Faults",
            format!("{n} of NetACC's own: the log (netacc_run -d) says where"),
        )),
    };
    let mut out = String::from("Summary:\n");
    for (title, text) in lines.into_iter().chain(faults) {
        let _ = writeln!(out, "  {title:<11} {text}");
    }
    out
}

/// Counters with their meaning, then the reasons that occurred with theirs.
pub fn counters(page: &Snapshot) -> String {
    let rows = page.counters.iter().map(|counter| {
        let (name, value) = (counter.name.to_owned(), counter.value.to_string());
        vec![name, value, counter.meaning.to_owned()]
    });
    let rows: Vec<_> = rows.collect();
    let mut out = format!("Counters:\n{}", table(&["Name", "Value", "Meaning"], &rows));
    out.push_str(&left_to_kernel(&page.fallbacks));
    out
}

/// The reasons that occurred, how often, and what they mean.
fn left_to_kernel(fallbacks: &[(Reason, u64)]) -> String {
    let occurred = fallbacks.iter().filter(|(_, count)| *count > 0);
    let row = |(reason, count): &(Reason, u64)| {
        vec![
            reason.name().to_owned(),
            (*reason as u16).to_string(),
            count.to_string(),
            reason.sentence().to_owned(),
        ]
    };
    let head = ["Reason", "Code", "Times", "What it means, what to do"];
    let rows: Vec<_> = occurred.map(row).collect();
    section("Left to kernel TCP", &head, &rows)
}

/// `name value` lines. Names are never changed or reordered lightly: scripts read them.
pub fn plain_counters(page: &Snapshot, library: Option<&Library>) -> String {
    let (oldest, newest) = page.protocols.unwrap_or_default();
    let present = [
        ("pid", u64::from(page.pid)),
        ("protocol_oldest", u64::from(oldest)),
        ("protocol_newest", u64::from(newest)),
        (
            "library_replaced",
            u64::from(library.is_some_and(|library| library.replaced)),
        ),
        ("links_now", page.links.len() as u64),
        ("conns_now_loop", now(page, Mode::Loop)),
        ("conns_now_shm", now(page, Mode::Shm)),
        ("conns_now_rdma", now(page, Mode::Rdma)),
        ("conns_now_tcp", now(page, Mode::Tcp)),
    ];
    let mut out = String::new();
    let counted = page
        .counters
        .iter()
        .map(|counter| (counter.name, counter.value));
    for (name, value) in present.into_iter().chain(counted) {
        let _ = writeln!(out, "{name} {value}");
    }
    for (reason, count) in &page.fallbacks {
        if *reason != Reason::None {
            let _ = writeln!(out, "fallback_{} {count}", reason.name());
        }
    }
    out
}
