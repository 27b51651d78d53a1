//! `netacc_run`: starts a program with the preload library.
//!
//! It checks the configuration first, so that a mistake is told to a person at a prompt and not to a
//! log of the application, sets the environment and becomes the program.

mod arguments;
mod check;
mod library;
mod limits;
mod note;
mod print;
mod processors;
mod program;
mod rdma;
mod side_ports;
mod start;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;

use arguments::Arguments;
use netacc::config::{self, DEFAULT_PATH, Program, Request};

/// Our own failures: a bad option, configuration or installation.
const EXIT_USAGE: i32 = 2;

fn main() {
    let arguments = Arguments::read().unwrap_or_else(|message| fail(EXIT_USAGE, message));
    let path = absolute(&arguments);
    let flags = arguments.flags();
    let command = arguments.command.first();
    let request = Request {
        path: path.as_deref(),
        flags: &flags,
        program: command.map_or_else(Program::default, |command| Program::of(command)),
    };
    let report = config::inspect(&request);
    if arguments.check {
        let findings = check::all(&request, &report, command.map(OsString::as_os_str));
        std::process::exit(check::tell(&findings));
    }
    report.mistakes().for_each(error);
    if report.mistakes().next().is_some() {
        std::process::exit(EXIT_USAGE);
    }
    report.foreign().for_each(warn);
    misspelt_variables().iter().for_each(warn);
    if arguments.print_config {
        print::settings(&request, &report);
        return;
    }

    let program = program::find(&arguments.command[0]).unwrap_or_else(|e| fail(e.code, e.message));
    let preload = library::find()
        .and_then(|library| library::preload_list(library.as_os_str()))
        .unwrap_or_else(|message| fail(EXIT_USAGE, message));
    if let Some(reason) = program::cannot_be_preloaded(&program) {
        warn(format!(
            "{} {reason}; it will run over plain TCP.",
            program.display()
        ));
    }

    let mut variables = vec![("LD_PRELOAD", preload)];
    variables.extend(flags.iter().map(|flag| (flag.key, flag.value.into())));
    variables.extend(path.map(|path| ("NACC_CONF", path)));
    limits::raise_locked_memory();
    let failure = start::replace_self(&program, &arguments.command, &variables);
    fail(failure.code, failure.message);
}

/// The file that `-f` names, so that the program finds it from wherever it goes.
fn absolute(arguments: &Arguments) -> Option<OsString> {
    let path = arguments.config.as_ref()?;
    match std::path::absolute(path) {
        Ok(path) => Some(path.into_os_string()),
        Err(e) => fail(
            EXIT_USAGE,
            format!(
                "option -f: the path \"{}\" is of no use: {e}. Name a file such as {DEFAULT_PATH}.",
                path.display()
            ),
        ),
    }
}

/// Of each misspelt variable, which does nothing and so is hard to notice, what it may have been meant to be.
fn misspelt_variables() -> Vec<String> {
    let mut found = Vec::new();
    for (name, _) in std::env::vars_os() {
        let known = ["NACC_CONF", "NACC_PRELOAD_LIB"]
            .iter()
            .any(|known| name == *known);
        if known || !name.as_bytes().starts_with(b"NACC_") {
            continue;
        }
        if let Some(name) = name.to_str()
            && config::keys::find(name).is_none()
        {
            let meant = config::keys::nearest(name).map(|known| format!(" Did you mean {known}?"));
            let meant = meant.unwrap_or_default();
            found.push(format!(
                "environment variable {name}: NetACC knows no such key.{meant}"
            ));
        }
    }
    found.sort();
    found
}

fn error(message: impl Display) {
    eprintln!("netacc_run: {message}");
}

fn warn(message: impl Display) {
    eprintln!("netacc_run: warning: {message}");
}

fn fail(code: i32, message: impl Display) -> ! {
    error(message);
    std::process::exit(code)
}

/// `name` as a person would quote it.
fn quoted(name: &OsStr) -> String {
    format!("\"{}\"", name.to_string_lossy())
}

#[cfg(test)]
#[path = "../../../tests/completions/mod.rs"]
mod completions;

#[cfg(test)]
#[test]
fn the_shells_completions_are_those_of_the_options() {
    completions::assert_fresh(arguments::command(), "netacc_run", true);
}
