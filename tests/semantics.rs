//! The kernel is the oracle: scenarios run over kernel TCP and with the library; what they print must
//! be equal, line by line.

mod common;

use common::counters::assert_accelerated;
use common::proc::Proc;
use common::{With, peer_command, ports};

/// The trace of `role`'s scenarios, and the process, which waits to be asked for its counters.
fn trace(role: &str, with: With) -> (Vec<String>, Proc) {
    let mut command = peer_command(role, with);
    command.args([
        "--port",
        &ports::pairs(8).to_string(),
        "--hold",
        "--deadline",
        "110",
    ]);
    let mut proc = Proc::start(command);
    let mut lines = Vec::new();
    loop {
        // Without a verdict at its end it crashed.
        let line = proc
            .line()
            .unwrap_or_else(|| format!("{{}} ended: {}", proc.finish()));
        let last = line.starts_with('{');
        lines.push(line);
        if last {
            return (lines, proc);
        }
    }
}

/// Compares two traces scenario by scenario, so that one difference does not hide the others.
fn assert_same(kernel: &[String], library: &[String]) {
    assert_eq!(
        kernel.last().map(String::as_str),
        Some("{\"ok\":true}"),
        "over kernel TCP"
    );
    let scenarios = |trace: &[String]| {
        let mut found: Vec<(String, Vec<String>)> = Vec::new();
        for line in trace {
            let name = line.split(':').next().unwrap_or_default();
            match found.last_mut() {
                Some((last, lines)) if last == name => lines.push(line.clone()),
                _ => found.push((name.to_string(), vec![line.clone()])),
            }
        }
        found
    };
    let library_scenarios = scenarios(library);
    let mut differences = Vec::new();
    for (name, expected) in scenarios(kernel) {
        match library_scenarios.iter().find(|(other, _)| *other == name) {
            Some((_, got)) if *got == expected => {}
            Some((_, got)) => {
                for i in 0..expected.len().max(got.len()) {
                    let (e, g) = (expected.get(i), got.get(i));
                    if e != g {
                        let show = |line: Option<&String>| {
                            line.map_or("(nothing)", String::as_str).to_string()
                        };
                        differences.push(format!("kernel:  {}\nlibrary: {}", show(e), show(g)));
                    }
                }
            }
            None => differences.push(format!("{name}: not reached with the library")),
        }
    }
    let last = library.last().map_or("(nothing)", String::as_str);
    let count = differences.len();
    differences.truncate(40);
    assert!(
        count == 0,
        "{count} differences (the first 40 at most):\n{}\nthe last line with the library: {last}",
        differences.join("\n")
    );
}

/// Both traces are equal, and with the library at least `accelerated` connections were.
fn compare(role: &str, accelerated: u64) {
    let (kernel, _) = trace(role, With::Kernel);
    let (library, proc) = trace(role, With::Library);
    assert_same(&kernel, &library);
    assert_accelerated(proc.pid(), accelerated);
}

#[test]
fn calls_on_sockets() {
    compare("semantics", 300);
}

#[test]
fn waiting_for_sockets() {
    compare("readiness", 100);
}
