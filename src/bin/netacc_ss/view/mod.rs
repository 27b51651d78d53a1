//! A snapshot as text.

mod counters;
pub mod table;
mod tables;

pub use counters::{now, plain_counters, totals};
pub use tables::address;

use netacc::stats::reader::{Library, Snapshot};

use crate::args::View;

/// Shows one part of a process.
type Part = fn(&Snapshot) -> String;

/// What `view` shows of one process.
pub fn process(page: &Snapshot, library: Option<&Library>, view: View) -> String {
    let mut out = header(page, library);
    let parts: [(View, Part); 7] = [
        (View::Link, tables::links),
        (View::Qp, tables::queue_pairs),
        (View::Sock, tables::conns),
        (View::Mem, tables::memory),
        (View::Cnt, counters::summary),
        (View::Cnt, counters::counters),
        (View::Cfg, tables::config),
    ];
    for (part, show) in parts {
        if view.wants(part) {
            out.push_str(&show(page));
        }
    }
    out
}

/// One line that says which process this is, and which library it runs.
fn header(page: &Snapshot, library: Option<&Library>) -> String {
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
