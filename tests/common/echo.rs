//! tests/programs/echo.c, which gets a connection from another program.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Built statically, so that no library can be preloaded into it, and not.
pub fn programs() -> &'static [PathBuf; 2] {
    static BUILT: OnceLock<[PathBuf; 2]> = OnceLock::new();
    BUILT.get_or_init(|| {
        [("static", &["-static"][..]), ("dynamic", &[])].map(|(name, options)| {
            let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
            let program = directory.join(format!("echo-{name}-{}", std::process::id()));
            let done = Command::new("cc")
                .args(["-O1", "-Wall", "-o"])
                .arg(&program)
                .arg(super::script("echo.c"))
                .args(options)
                .status()
                .expect("cc runs");
            assert!(done.success());
            program
        })
    })
}
