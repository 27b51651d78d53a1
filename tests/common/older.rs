//! A library of this tree that speaks an older version of the control protocol and nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// As `make build-older` makes it; cargo makes it here if that is not there or older than the sources.
/// `NACC_TEST_OLDER_LIB` names another one.
pub fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(path) = std::env::var_os("NACC_TEST_OLDER_LIB") {
            return super::must_exist(std::path::absolute(path).expect("an absolute path"));
        }
        let profile = super::built("");
        let target = profile.parent().expect("a directory for all profiles");
        eprintln!(
            "building the library of an older protocol version, as `make build-older` does ..."
        );
        let done = Command::new(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", target)
            .args(["build", "--profile", "older", "--package", "netacc-preload"])
            .args(["--features", "protocol-1"])
            .status()
            .expect("cargo runs");
        assert!(done.success(), "cargo cannot build it: {done}");
        super::must_exist(target.join("older/libnetacc_preload.so"))
    })
}
