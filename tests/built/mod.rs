//! The preload library that `make build` made, for tests that look at it from outside.

use std::path::PathBuf;

/// The library to test: `NACC_TEST_LIB`, or the one beside the tools of this build.
pub fn library() -> PathBuf {
    let path = match std::env::var_os("NACC_TEST_LIB") {
        Some(path) => PathBuf::from(path),
        None => {
            PathBuf::from(env!("CARGO_BIN_EXE_netacc_run")).with_file_name("libnetacc-preload.so")
        }
    };
    assert!(
        path.is_file(),
        "{} does not exist: run `make build`, then `cargo test --release`, or name the library in NACC_TEST_LIB",
        path.display()
    );
    path
}
