//! A snapshot as text.

use std::fmt::Write;
use std::net::SocketAddr;

use netacc::stats::reader::{Conn, Library, Link, Snapshot};
use netacc::stats::{Mode, Reason};

/// One line that says which process this is, and which library it runs.
pub fn header(page: &Snapshot, library: Option<&Library>) -> String {
    let replaced = match library {
        Some(library) if library.replaced => " (replaced on disk)",
        _ => "",
    };
    let protocols = match page.protocols {
        Some((oldest, newest)) if oldest == newest => format!(", protocol {newest}"),
        Some((oldest, newest)) => format!(", protocol {oldest}-{newest}"),
        None => String::new(),
    };
    format!(
        "{} (pid {}, uid {}), NetACC {}{replaced}{protocols}\n",
        page.comm, page.pid, page.uid, page.version
    )
}

/// The table of links.
pub fn links(page: &Snapshot) -> String {
    if page.links.is_empty() {
        return "Links: none\n".to_owned();
    }
    let head = [
        "Link",
        "State",
        "Fabric",
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
        "Ring-B",
    ];
    let rows = page.links.iter().map(link_row).collect();
    format!("Links:\n{}", table(&head, rows))
}

fn link_row(link: &Link) -> Vec<String> {
    let mut row = vec![
        link.slot.to_string(),
        link.state.map_or("?", |state| state.name()).to_owned(),
        link.fabric.map_or("?", |fabric| fabric.name()).to_owned(),
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
        link.ring_size,
    ];
    row.extend(numbers.map(|number| number.to_string()));
    row
}

/// The table of connections.
pub fn conns(page: &Snapshot) -> String {
    if page.conns.is_empty() {
        return "Connections: none\n".to_owned();
    }
    let head = [
        "State", "Mode", "Local", "Peer", "Fd", "Link", "Tx-B", "Rx-B", "Reason",
    ];
    let rows = page.conns.iter().map(conn_row).collect();
    format!("Connections:\n{}", table(&head, rows))
}

fn conn_row(conn: &Conn) -> Vec<String> {
    let reason = match conn.reason {
        Some(Reason::None) => "-",
        Some(reason) => reason.name(),
        None => "?",
    };
    vec![
        conn.state.map_or("?", |state| state.name()).to_owned(),
        conn.mode.map_or("?", |mode| mode.name()).to_owned(),
        address(conn.local),
        address(conn.peer),
        conn.fd.to_string(),
        conn.link.map_or("-".to_owned(), |link| link.to_string()),
        conn.tx_bytes.to_string(),
        conn.rx_bytes.to_string(),
        reason.to_owned(),
    ]
}

/// As `ss` shows it: `*` where there is nothing yet.
fn address(address: Option<SocketAddr>) -> String {
    match address {
        None => "*".to_owned(),
        Some(address) if address.port() == 0 && address.ip().is_unspecified() => "*".to_owned(),
        Some(address) => address.to_string(),
    }
}

/// Counters with their meaning, then the reasons that occurred with theirs.
pub fn counters(page: &Snapshot) -> String {
    let rows = page.counters.iter().map(|counter| {
        let (name, value) = (counter.name.to_owned(), counter.value.to_string());
        vec![name, value, counter.meaning.to_owned()]
    });
    let mut out = format!(
        "Counters:\n{}",
        table(&["Name", "Value", "Meaning"], rows.collect())
    );
    let rows: Vec<_> = page
        .fallbacks
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| {
            let (name, sentence) = (reason.name().to_owned(), reason.sentence().to_owned());
            vec![name, count.to_string(), sentence]
        })
        .collect();
    if rows.is_empty() {
        out.push_str("Left to kernel TCP: none\n");
    } else {
        let table = table(&["Reason", "Times", "What it means, what to do"], rows);
        let _ = write!(out, "Left to kernel TCP:\n{table}");
    }
    out
}

/// `name value` lines. Names are never changed or reordered lightly: scripts read them.
pub fn plain_counters(page: &Snapshot, library: Option<&Library>) -> String {
    let now = |mode| {
        page.conns
            .iter()
            .filter(|conn| conn.mode == Some(mode))
            .count() as u64
    };
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
        ("conns_now_loop", now(Mode::Loop)),
        ("conns_now_shm", now(Mode::Shm)),
        ("conns_now_tcp", now(Mode::Tcp)),
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

/// Columns as wide as their longest cell, numbers to the right, indented by two.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].len());
        cells.fold(head[column].len(), usize::max)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let is_number = |column: usize| {
        let mut cells = rows.iter().map(|row| row[column].as_str());
        cells.all(|cell| cell == "-" || cell.bytes().all(|b| b.is_ascii_digit()))
    };
    let numeric: Vec<bool> = (0..head.len()).map(is_number).collect();
    let line = |cells: &[&str]| {
        let mut line = String::from(" ");
        for (column, cell) in cells.iter().enumerate() {
            let width = widths[column];
            let _ = match numeric[column] {
                true => write!(line, " {cell:>width$}"),
                false => write!(line, " {cell:<width$}"),
            };
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    };
    let mut out = line(head);
    for row in &rows {
        let cells: Vec<&str> = row.iter().map(String::as_str).collect();
        out.push_str(&line(&cells));
    }
    out
}
