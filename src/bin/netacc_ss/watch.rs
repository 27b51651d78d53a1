//! Rates, shown again and again: a screen that is kept up to date, or blocks of lines where the output is no terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use netacc::stats::reader::{Conn, Link, Snapshot};
use rustix::fd::BorrowedFd;
use rustix::termios;

use crate::rates::{Before, Rate, Rates};
use crate::view::address;
use crate::view::table::{amount, per, section};

/// To the upper left corner; what a line leaves of the one before it, and all below the last one, is cleared.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_ALL: &str = "\x1b[2J";

/// Shows what `look` sees every `period`, `times` times or until the process is ended.
///
/// # Errors
/// Those of writing.
pub fn watch(
    look: impl Fn() -> (Vec<Snapshot>, Vec<String>),
    period: Duration,
    times: Option<u64>,
) -> io::Result<()> {
    let mut before = Before::default();
    let mut last = Instant::now();
    let mut out = io::stdout();
    let terminal = out.is_terminal();
    if terminal {
        out.write_all(CLEAR_ALL.as_bytes())?;
    }
    before.rates(&look().0, 1.0);
    let mut shown = 0;
    while times.is_none_or(|times| shown < times) {
        std::thread::sleep(period.saturating_sub(last.elapsed()));
        let (pages, problems) = look();
        let seconds = last.elapsed().as_secs_f64().max(0.001);
        last = Instant::now();
        let rates = before.rates(&pages, seconds);
        let mut text = block(&pages, &rates, terminal);
        for problem in problems {
            let _ = writeln!(text, "netacc_ss: {problem}");
        }
        if terminal {
            text = screen(&text);
        } else if shown > 0 {
            text.insert(0, '\n');
        }
        out.lock().write_all(text.as_bytes())?;
        out.flush()?;
        shown += 1;
    }
    Ok(())
}

/// What one look shows. For people numbers are short, for programs they are whole.
fn block(pages: &[Snapshot], rates: &Rates<'_>, for_people: bool) -> String {
    let shown = |n: f64| match for_people {
        true => amount(n),
        false => format!("{n:.0}"),
    };
    let total = &rates.total;
    let mut out = format!(
        "Processes {}, links {}, connections {}\nTotal, each second: {} bytes and {} records sent, {} and {} received, {} stalls\n",
        pages.len(),
        rates.links.len(),
        rates.conns.len(),
        shown(total.tx_bytes),
        shown(total.tx_msgs),
        shown(total.rx_bytes),
        shown(total.rx_msgs),
        shown(total.stalls),
    );
    let numbers = |rate: &Rate| {
        [
            rate.tx_bytes,
            rate.rx_bytes,
            rate.tx_msgs,
            rate.rx_msgs,
            rate.stalls,
        ]
        .map(shown)
    };
    let head = [
        "Process", "Pid", "Link", "Fabric", "Peer", "Conns", "Tx-B/s", "Rx-B/s", "Tx-Rec/s",
        "Rx-Rec/s", "Stalls/s", "Rec/WR",
    ];
    let row = |(page, link, rate): &(&Snapshot, &Link, Rate)| {
        let mut row = vec![
            page.comm.clone(),
            page.pid.to_string(),
            link.slot.to_string(),
            link.fabric.map_or("?", |fabric| fabric.name()).to_owned(),
            link.peer_pid.to_string(),
            link.conns_now.to_string(),
        ];
        row.extend(numbers(rate));
        row.push(per(rate.tx_msgs as u64, rate.work_requests as u64));
        row
    };
    out.push_str(&section(
        "Links",
        &head,
        &rates.links.iter().map(row).collect::<Vec<_>>(),
    ));
    let head = [
        "Process", "Pid", "Local", "Peer", "Mode", "Tx-B/s", "Rx-B/s", "Tx-M/s", "Rx-M/s",
        "Stalls/s", "Recv-Q", "Send-Q",
    ];
    let row = |(page, conn, rate): &(&Snapshot, &Conn, Rate)| {
        let mut row = vec![
            page.comm.clone(),
            page.pid.to_string(),
            address(conn.local),
            address(conn.peer),
            conn.mode.map_or("?", |mode| mode.name()).to_owned(),
        ];
        row.extend(numbers(rate));
        row.extend([conn.rx_queue, conn.tx_queue].map(|n| shown(n as f64)));
        row
    };
    out.push_str(&section(
        "Connections",
        &head,
        &rates.conns.iter().map(row).collect::<Vec<_>>(),
    ));
    out
}

/// Fits `text` into the terminal: what is too wide or too high is left out.
fn screen(text: &str) -> String {
    // SAFETY: nobody closes standard output here.
    let stdout = unsafe { BorrowedFd::borrow_raw(1) };
    let size = termios::tcgetwinsize(stdout).ok();
    let (rows, columns) = match size {
        Some(size) if size.ws_row > 0 && size.ws_col > 0 => {
            (size.ws_row.into(), size.ws_col.into())
        }
        _ => (24, 80),
    };
    fit(text, rows, columns)
}

fn fit(text: &str, rows: usize, columns: usize) -> String {
    let mut out = HOME.to_owned();
    let lines: Vec<&str> = text.lines().collect();
    let most = rows.saturating_sub(1).max(1);
    let hidden = lines.len().saturating_sub(most);
    let kept = if hidden > 0 {
        most.saturating_sub(1)
    } else {
        lines.len()
    };
    for line in &lines[..kept] {
        out.extend(line.chars().take(columns));
        out.push_str(CLEAR_LINE);
        out.push('\n');
    }
    if hidden > 0 {
        let _ = write!(out, "({} more lines){CLEAR_LINE}", lines.len() - kept);
    }
    out.push_str(CLEAR_BELOW);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_holds_what_fits() {
        let text = "abcdef\nb\nc\nd\n";
        let all = fit(text, 24, 3);
        assert_eq!(all, "\x1b[Habc\x1b[K\nb\x1b[K\nc\x1b[K\nd\x1b[K\n\x1b[J");
        let few = fit(text, 4, 80);
        assert_eq!(
            few,
            "\x1b[Habcdef\x1b[K\nb\x1b[K\n(2 more lines)\x1b[K\x1b[J"
        );
    }
}
