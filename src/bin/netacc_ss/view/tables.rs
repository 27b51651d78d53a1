//! Tables of links, queue pairs, connections, memory and settings.

use std::fmt::Write;
use std::net::SocketAddr;

use netacc::stats::Reason;
use netacc::stats::reader::{Conn, Link, Snapshot};

use super::table::{bytes, per, section};

/// Links.
pub fn links(page: &Snapshot) -> String {
    let head = [
        "Link",
        "State",
        "Fabric",
        "Device",
        "Peer",
        "User",
        "Conns",
        "Ever",
        "Tx-B",
        "Rx-B",
        "Tx-Rec",
        "Rx-Rec",
        "Batches",
        "Stalls",
        "Spilled-B",
    ];
    let row = |link: &Link| {
        let mut row = vec![
            link.slot.to_string(),
            link.state.map_or("?", |state| state.name()).to_owned(),
            link.fabric.map_or("?", |fabric| fabric.name()).to_owned(),
            device(page, link),
        ];
        row.extend([link.peer_pid, link.peer_uid].map(|number| number.to_string()));
        let numbers = [
            link.conns_now,
            link.conns_total,
            link.tx_bytes,
            link.rx_bytes,
            link.tx_records,
            link.rx_records,
            link.tx_batches,
            link.stalls,
            link.spilled_bytes,
        ];
        row.extend(numbers.map(|number| number.to_string()));
        row
    };
    section(
        "Links",
        &head,
        &page.links.iter().map(row).collect::<Vec<_>>(),
    )
}

/// Links that have, or had, a queue pair.
pub fn queue_pairs(page: &Snapshot) -> String {
    let head = [
        "QP",
        "Device",
        "Link",
        "State",
        "Peer",
        "Conns",
        "Records",
        "WRs",
        "Doorbells",
        "Rec/WR",
        "WR/Doorbell",
        "Failovers",
    ];
    let row = |link: &Link| {
        vec![
            link.qp_number.map_or("-".to_owned(), |n| n.to_string()),
            device(page, link),
            link.slot.to_string(),
            link.state.map_or("?", |state| state.name()).to_owned(),
            link.peer_pid.to_string(),
            link.conns_now.to_string(),
            link.tx_records.to_string(),
            link.work_requests.to_string(),
            link.doorbells.to_string(),
            per(link.tx_records, link.work_requests),
            per(link.work_requests, link.doorbells),
            link.carriers.saturating_sub(1).to_string(),
        ]
    };
    let remote = page.links.iter().filter(|link| link.carriers > 0);
    section("Queue pairs", &head, &remote.map(row).collect::<Vec<_>>())
}

/// The RDMA device that carries a link, `stream` for a kernel connection of its own.
fn device(page: &Snapshot, link: &Link) -> String {
    match page.device_of(link) {
        Some(device) => device.name.clone(),
        None if link.carriers > 0 => "stream".to_owned(),
        None => "-".to_owned(),
    }
}

/// Connections, then the sentences of the reasons that stand there.
pub fn conns(page: &Snapshot) -> String {
    let head = [
        "State", "Recv-Q", "Send-Q", "Local", "Peer", "Mode", "Device", "QP", "Link", "Fd", "Rx-B",
        "Tx-B", "Rx-M", "Tx-M", "Stalls", "Reason",
    ];
    let rows: Vec<_> = page.conns.iter().map(|conn| conn_row(page, conn)).collect();
    let mut out = section("Connections", &head, &rows);
    let others = page.conns.iter().filter_map(|conn| conn.other_end);
    let mut reasons: Vec<Reason> = page.conns.iter().filter_map(Conn::why).collect();
    reasons.sort_by_key(|reason| *reason as u16);
    reasons.dedup();
    for reason in reasons {
        let (name, code) = (reason.name(), reason as u16);
        let _ = writeln!(out, "  {name} ({code}): {}", reason.sentence());
    }
    let mut others: Vec<_> = others
        .map(|end| (end.reason as u16, end.pid, end.reason))
        .collect();
    others.sort_by_key(|(code, pid, _)| (*code, *pid));
    others.dedup_by_key(|(code, pid, _)| (*code, *pid));
    for (code, pid, reason) in others {
        let (name, sentence) = (reason.name(), reason.sentence());
        let _ = writeln!(
            out,
            "  {name} ({code}), which process {pid} at the other end says: {sentence}"
        );
    }
    out
}

fn conn_row(page: &Snapshot, conn: &Conn) -> Vec<String> {
    let link = page.link_of(conn);
    let reason = match conn.reason {
        Some(_) => conn.why().map_or("-", |reason| reason.name()),
        None => "?",
    };
    let reason = match conn.other_end {
        Some(end) => format!("{reason} (there: {})", end.reason.name()),
        None => reason.to_owned(),
    };
    let qp = link.and_then(|link| link.qp_number);
    let stalls = conn.window_stalls + conn.ring_stalls;
    let mut row = vec![conn.state_name().to_owned()];
    row.extend([conn.rx_queue, conn.tx_queue].map(|n| n.to_string()));
    row.extend([
        address(conn.local),
        address(conn.peer),
        conn.mode.map_or("?", |mode| mode.name()).to_owned(),
        link.map_or("-".to_owned(), |link| device(page, link)),
        qp.map_or("-".to_owned(), |number| number.to_string()),
        conn.link.map_or("-".to_owned(), |link| link.to_string()),
        conn.fd.to_string(),
    ]);
    let counted = [
        conn.rx_bytes,
        conn.tx_bytes,
        conn.rx_msgs,
        conn.tx_msgs,
        stalls,
    ];
    row.extend(counted.map(|n| n.to_string()));
    row.push(reason);
    row
}

/// As `ss` shows it: `*` where there is nothing yet.
pub fn address(address: Option<SocketAddr>) -> String {
    match address {
        None => "*".to_owned(),
        Some(address) if address.port() == 0 && address.ip().is_unspecified() => "*".to_owned(),
        Some(address) => address.to_string(),
    }
}

/// Registered memory of each device, rings of each link.
pub fn memory(page: &Snapshot) -> String {
    let head = ["Device", "Regions", "Registered", "Used", "QPs"];
    let rows = page.devices.iter().map(|device| {
        vec![
            device.name.clone(),
            device.mrs_now.to_string(),
            bytes(device.mr_bytes_now),
            bytes(device.mr_bytes_used),
            device.qps_now.to_string(),
        ]
    });
    let mut out = section("Registered memory", &head, &rows.collect::<Vec<_>>());
    let head = ["Link", "Fabric", "Tx-Ring", "Rx-Ring", "Unread", "Spilled"];
    let rows = page.links.iter().map(|link| {
        let here = page
            .conns
            .iter()
            .filter(|conn| conn.link == Some(link.slot));
        vec![
            link.slot.to_string(),
            link.fabric.map_or("?", |fabric| fabric.name()).to_owned(),
            bytes(link.ring_size),
            bytes(link.rx_ring_size),
            bytes(here.map(|conn| conn.rx_queue).sum()),
            bytes(link.spilled_bytes),
        ]
    });
    out.push_str(&section("Rings", &head, &rows.collect::<Vec<_>>()));
    out
}

/// The configuration in force.
pub fn config(page: &Snapshot) -> String {
    let rows = page.config.iter().map(|setting| {
        let value = match setting.value.as_str() {
            "" => "\"\"".to_owned(),
            value => value.to_owned(),
        };
        vec![setting.name.clone(), value, setting.source.clone()]
    });
    section(
        "Configuration",
        &["Key", "Value", "Source"],
        &rows.collect::<Vec<_>>(),
    )
}
