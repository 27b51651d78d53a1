//! `netacc_ss`: shows what NetACC does in running processes, in the manner of `ss`.

mod args;
mod json;
mod output;
mod prometheus;
mod rates;
mod server;
mod totals;
mod view;
mod watch;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use netacc::stats::reader::{Library, Snapshot, Store};

use args::{Args, View};

/// Processes, and a sentence for each that could not be read.
type Seen = (Vec<Snapshot>, Vec<String>);

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(address) = args.listen {
        let content = server::Content {
            kind: prometheus::CONTENT_TYPE,
            text: || {
                let (pages, problems) = look(None, false);
                prometheus::text(&with_libraries(pages), problems.len())
            },
        };
        let Err(error) = server::serve(address, content);
        let error = io::Error::from_raw_os_error(error.raw_os_error());
        return refuse(&format!("cannot listen on {address}: {error}"));
    }
    let shown = match args.watch {
        Some(period) => {
            let look = || look(args.pid, true);
            watch::watch(look, period, args.times).map(|()| ExitCode::SUCCESS)
        }
        None => show(&args),
    };
    match shown {
        Ok(code) => code,
        // The reader (head, grep -q) has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let place = args
                .output
                .as_ref()
                .map(|path| format!(" to {}", path.display()));
            refuse(&format!(
                "cannot write the output{}: {error}",
                place.unwrap_or_default()
            ))
        }
    }
}

fn refuse(sentence: &str) -> ExitCode {
    eprintln!("netacc_ss: {sentence}");
    ExitCode::FAILURE
}

/// Reads the page of one process, or of all that may be seen; and asks the kernel of the `connections` that it carries.
fn look(pid: Option<u32>, connections: bool) -> Seen {
    let store = Store::default();
    let pages = match pid {
        Some(pid) => vec![store.page(pid)],
        None => store.pages(),
    };
    let (mut seen, mut problems) = (Vec::new(), Vec::new());
    for page in pages {
        match page {
            Ok(mut page) => {
                if connections {
                    store.ask_kernel(&mut page);
                }
                seen.push(page);
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    (seen, problems)
}

/// The same with the library's file that each has.
fn with_libraries(pages: Vec<Snapshot>) -> Vec<(Snapshot, Option<Library>)> {
    let store = Store::default();
    let library = |page: &Snapshot| store.library(page.pid);
    let libraries: Vec<_> = pages.iter().map(library).collect();
    pages.into_iter().zip(libraries).collect()
}

/// Prints what there is once.
fn show(args: &Args) -> io::Result<ExitCode> {
    let connections = !args.counters && !args.prometheus && args.show.wants(View::Sock);
    let (mut pages, problems) = look(args.pid, connections);
    if connections {
        Store::default().ask_other_ends(&mut pages);
    }
    let pages = with_libraries(pages);
    for problem in &problems {
        eprintln!("netacc_ss: {problem}");
    }
    let code = match problems.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    };
    let text = if args.json {
        json::Report::new(&pages, problems, args.show).text()
    } else if args.prometheus {
        prometheus::text(&pages, problems.len())
    } else {
        if pages.is_empty() && problems.is_empty() {
            eprintln!("netacc_ss: no process that you may see runs TCP with NetACC");
        }
        text(args, &pages)
    };
    output::write(args.output.as_deref(), &text)?;
    Ok(code)
}

fn text(args: &Args, pages: &[(Snapshot, Option<Library>)]) -> String {
    let show = |(page, library): &(Snapshot, Option<Library>)| match args.counters {
        true => view::plain_counters(page, library.as_ref()),
        false => view::process(page, library.as_ref(), args.show),
    };
    let mut parts: Vec<String> = pages.iter().map(show).collect();
    if pages.len() > 1 && !args.counters && args.show.wants(View::Cnt) {
        let pages: Vec<&Snapshot> = pages.iter().map(|(page, _)| page).collect();
        parts.push(view::totals(&pages));
    }
    let between = match args.show {
        View::Proc => "",
        _ => "\n",
    };
    parts.join(between)
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
