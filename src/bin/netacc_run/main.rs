//! `netacc_run`: starts a program with the preload library.
//!
//! It checks the configuration first, so that a mistake is told to a person at a prompt and not to a
//! log of the application, sets the environment and becomes the program.

mod library;
mod limits;
mod program;
mod start;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Parser;
use netacc::config::{self, DEFAULT_PATH, Flag};

/// Our own failures: a bad option, configuration or installation.
const EXIT_USAGE: i32 = 2;

/// Run CMD with its TCP connections accelerated by NetACC.
#[derive(Parser)]
#[command(
    name = "netacc_run",
    version,
    disable_version_flag = true,
    override_usage = "netacc_run [OPTIONS] [--] CMD [ARGS]...",
    after_help = "Settings come from /etc/netacc.conf, then the environment, then the options; see netacc.conf(5).\n\
                  Exit status: CMD's own; 2 a bad option or configuration; 126 CMD cannot be run; 127 no such CMD."
)]
struct Arguments {
    /// Threads that keep links moving (NACC_SOR_IO_THREADS)
    #[arg(short = 't', value_name = "IO_THREADS", allow_hyphen_values = true)]
    io_threads: Option<String>,

    /// Connections that one link carries at most (NACC_SOR_CONN_PER_QP)
    #[arg(short = 'p', value_name = "CONN_PER_QP", allow_hyphen_values = true)]
    conn_per_qp: Option<String>,

    /// Configuration file instead of /etc/netacc.conf (NACC_CONF)
    #[arg(short = 'f', value_name = "CONFIG")]
    config: Option<PathBuf>,

    /// Tell what NetACC does (NACC_LOG=debug)
    #[arg(short = 'd')]
    debug: bool,

    /// Check the configuration and stop
    #[arg(long)]
    check: bool,

    /// Print version
    #[arg(short = 'v', long = "version", action = clap::ArgAction::Version)]
    version: (),

    /// The program and its arguments
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        required_unless_present = "check"
    )]
    command: Vec<OsString>,
}

fn main() {
    let arguments = Arguments::parse();
    let path = absolute(&arguments);
    let mut flags = Vec::new();
    if let Some(value) = &arguments.io_threads {
        flags.push(Flag {
            key: "NACC_SOR_IO_THREADS",
            spelling: "-t",
            value,
        });
    }
    if let Some(value) = &arguments.conn_per_qp {
        flags.push(Flag {
            key: "NACC_SOR_CONN_PER_QP",
            spelling: "-p",
            value,
        });
    }
    if arguments.debug {
        flags.push(Flag {
            key: "NACC_LOG",
            spelling: "-d",
            value: "debug",
        });
    }
    if let Err(problems) = config::check(path.as_deref(), &flags) {
        for problem in problems {
            error(problem);
        }
        std::process::exit(EXIT_USAGE);
    }
    warn_of_unknown_variables();
    if arguments.check {
        println!("The configuration is valid.");
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

/// A misspelt variable does nothing, which is hard to notice.
fn warn_of_unknown_variables() {
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
            warn(format!(
                "environment variable {name}: NetACC knows no such key.{meant}"
            ));
        }
    }
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
    completions::assert_fresh(
        <Arguments as clap::CommandFactory>::command(),
        "netacc_run",
        true,
    );
}
