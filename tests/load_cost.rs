//! What preloading the library costs a program that never opens a socket, in instructions.

mod built;

use std::path::Path;
use std::process::Command;

#[test]
fn a_program_without_sockets_starts_for_few_instructions() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/load_cost.sh");
    let run = Command::new(&script)
        .arg(built::library())
        .output()
        .expect("load_cost.sh runs");
    let said = String::from_utf8_lossy(&run.stdout);
    println!("{said}");
    assert!(
        run.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
}
