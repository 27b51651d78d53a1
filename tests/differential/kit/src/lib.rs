//! The differential harness: scenarios of socket calls that are run over kernel TCP, the oracle, and
//! over NetACC; what a program can observe must be equal. `tests/differential/README.md` tells how to write one.

pub mod compare;
pub mod constants;
pub mod generate;
pub mod host;
pub mod known;
pub mod lang;
pub mod links;
pub mod pattern;
pub mod random;
pub mod run;
pub mod shrink;
pub mod suite;
mod symbols;

// What the other tests have too, and which is made for test programs, not for a library.
#[path = "../../../common/counters.rs"]
pub mod counters;
#[path = "../../../common/ports.rs"]
pub mod ports;
#[path = "../../../common/proc.rs"]
pub mod proc;

use std::path::PathBuf;
use std::time::Duration;

/// More than anything here takes on a slow and busy machine; only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Does everything run without the library?
pub fn bare() -> bool {
    std::env::var_os("NACC_TEST_BARE").is_some_and(|value| value != "0")
}

/// What cargo built into the directory of this program, or the one above (a test's).
///
/// # Panics
/// It is not there.
pub fn built(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("this program's own path");
    let beside = exe.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    beside
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| {
            panic!(
                "{name} is not beside {}: run `cargo build --workspace` first",
                exe.display()
            )
        })
}

/// The tool that shows counters.
pub fn netacc_ss() -> PathBuf {
    built("netacc_ss")
}
