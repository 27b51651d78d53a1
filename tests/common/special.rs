//! Libraries of this tree that are not for use: one that speaks an older version of the control protocol and nothing else, and
//! one that fails where it is told to.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Speaks version 1, as `make build-older` makes it. `NACC_TEST_OLDER_LIB` names another one.
pub fn older() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| library("NACC_TEST_OLDER_LIB", "protocol-1"))
}

/// Fails where `NACC_PROVOKE` says, as `make build-faulty` makes it. `NACC_TEST_FAULTY_LIB` names another one.
pub fn faulty() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| library("NACC_TEST_FAULTY_LIB", "faults"))
}

/// The library with a cargo feature; make does nothing if it is there and not older than the sources.
fn library(named: &str, feature: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(named) {
        return super::must_exist(std::path::absolute(path).expect("an absolute path"));
    }
    let profile = super::built("");
    let target = profile.parent().expect("a directory for all profiles");
    eprintln!("building a library with the feature {feature} ...");
    let done = Command::new("make")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["--no-print-directory", "build-special"])
        .arg(format!("FEATURE={feature}"))
        .env("CARGO_TARGET_DIR", target)
        .status()
        .expect("make runs");
    assert!(done.success(), "make cannot build it: {done}");
    super::must_exist(target.join(format!("older/libnetacc-{feature}.so")))
}
