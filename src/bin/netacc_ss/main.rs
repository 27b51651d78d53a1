//! `netacc_ss`: shows what NetACC does in running processes, in the manner of `ss`.

mod view;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use netacc::stats::reader::{PageError, Snapshot, Store};

/// Shows links, connections and counters of programs that run with NetACC.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Args {
    /// What to show
    #[arg(short = 's', long = "show", value_enum, default_value_t = View::All)]
    show: View,
    /// Show only this process
    #[arg(short = 'p', long = "pid", value_name = "PID")]
    pid: Option<u32>,
    /// Print counters only, one "name value" a line, for scripts
    #[arg(long, conflicts_with = "show")]
    counters: bool,
}

/// Parts of what a process shows.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum View {
    /// Everything
    All,
    /// Counters, and why connections stayed on kernel TCP
    Cnt,
    /// Connections
    Sock,
    /// Links
    Link,
    /// Processes alone: a line for each, with the library that it runs
    Proc,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let store = Store::default();
    let pages = match args.pid {
        Some(pid) => vec![store.page(pid)],
        None => store.pages(),
    };
    if pages.is_empty() {
        eprintln!("netacc_ss: no process that you may see runs TCP with NetACC");
    }
    match show(&args, &store, pages) {
        Ok(code) => code,
        // The reader (head, grep -q) has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netacc_ss: cannot write the output: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what could be read, and what could not as a sentence each.
fn show(
    args: &Args,
    store: &Store,
    pages: Vec<Result<Snapshot, PageError>>,
) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let mut code = ExitCode::SUCCESS;
    let mut first = true;
    for page in pages {
        let snapshot = match page {
            Ok(snapshot) => snapshot,
            Err(error) => {
                eprintln!("netacc_ss: {error}");
                code = ExitCode::FAILURE;
                continue;
            }
        };
        if !first && args.show != View::Proc {
            writeln!(out)?;
        }
        first = false;
        let library = store.library(snapshot.pid);
        let library = library.as_ref();
        if args.counters {
            out.write_all(view::plain_counters(&snapshot, library).as_bytes())?;
            continue;
        }
        let wanted = |view| args.show == View::All || args.show == view;
        out.write_all(view::header(&snapshot, library).as_bytes())?;
        if wanted(View::Link) {
            out.write_all(view::links(&snapshot).as_bytes())?;
        }
        if wanted(View::Sock) {
            out.write_all(view::conns(&snapshot).as_bytes())?;
        }
        if wanted(View::Cnt) {
            out.write_all(view::counters(&snapshot).as_bytes())?;
        }
    }
    out.flush()?;
    Ok(code)
}

#[cfg(test)]
#[path = "../../../tests/completions/mod.rs"]
mod completions;

#[cfg(test)]
#[test]
fn the_shells_completions_are_those_of_the_options() {
    completions::assert_fresh(
        <Args as clap::CommandFactory>::command(),
        "netacc_ss",
        false,
    );
}
