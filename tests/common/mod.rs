//! What the tests share: where the built things are, programs run bare or preloaded, ports, counters.
//!
//! `NACC_TEST_BARE=1` runs every scenario over kernel TCP, without the library and its counters: so
//! the tests themselves can be checked. `NACC_TEST_LIB=FILE` names the library to test.

// Every test file uses its own part of this.
#![allow(dead_code)]

pub mod counters;
pub mod echo;
pub mod ports;
pub mod proc;
pub mod services;
pub mod special;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// More than anything here takes on a slow and busy machine; only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Does everything run without the library?
pub fn bare() -> bool {
    std::env::var_os("NACC_TEST_BARE").is_some_and(|value| value != "0")
}

/// Where cargo put what it built in this test's profile.
fn built(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the test's own path");
    let profile = exe
        .parent()
        .and_then(Path::parent)
        .expect("a directory above the test's");
    profile.join(name)
}

fn must_exist(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace` (with --release for a release test) first",
        path.display()
    );
    path
}

/// The preload library.
pub fn library() -> PathBuf {
    match std::env::var_os("NACC_TEST_LIB") {
        Some(path) => must_exist(std::path::absolute(path).expect("an absolute path")),
        None => {
            let installed = built("libnetacc-preload.so");
            let cargo = built("libnetacc_preload.so");
            must_exist(if installed.exists() { installed } else { cargo })
        }
    }
}

/// The program with many roles.
pub fn peer() -> PathBuf {
    must_exist(built("netacc-test-peer"))
}

/// The tool that shows counters.
pub fn netacc_ss() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_netacc_ss"))
}

/// A program of tests/programs.
pub fn script(name: &str) -> String {
    format!("{}/tests/programs/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Does a program run with the library?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum With {
    /// Preloaded, unless the whole test runs bare.
    Library,
    /// Over kernel TCP.
    Kernel,
}

/// How long a peer may take to answer: see [`command`].
pub const ANSWER_LIMIT: &str = "NACC_CONNECT_TIMEOUT_MS";

/// After how many short connections further ones go over TCP: see [`command`].
pub const SHORT_LIMIT: &str = "NACC_SHORT_CONN_LIMIT";

/// A command for `program`, preloaded or not.
///
/// A peer that has no processor for a second is not to be taken for one that does not answer, or the connection
/// would rightly be left to the kernel; so peers are waited for. A test of peers that do not answer has a shorter
/// [`ANSWER_LIMIT`]. Short connections are accelerated, too, unless a test sets another [`SHORT_LIMIT`].
pub fn command(program: impl AsRef<std::ffi::OsStr>, with: With) -> Command {
    match with {
        With::Library if !bare() => command_with(program, &library()),
        _ => {
            let mut command = Command::new(program);
            command.env_remove("LD_PRELOAD");
            command
        }
    }
}

/// The same with the library in this file, unless the whole test runs bare.
pub fn command_with(program: impl AsRef<std::ffi::OsStr>, library: &Path) -> Command {
    let mut command = command(program, With::Kernel);
    if !bare() {
        command.env("LD_PRELOAD", library);
        command.env(ANSWER_LIMIT, "60000");
        command.env(SHORT_LIMIT, "0");
    }
    command
}

/// The peer program in `role`.
pub fn peer_command(role: &str, with: With) -> Command {
    let mut command = command(peer(), with);
    command.arg(role);
    command
}
