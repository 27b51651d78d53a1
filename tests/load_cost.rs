//! What the library costs, in instructions: a program that never opens a socket, and each message of one that does.

mod built;

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn a_program_without_sockets_starts_for_few_instructions() {
    passes(Command::new(path("load_cost.sh")).arg(built::library()));
}

/// Times tell nothing on a busy machine; these counts are the same in every run, to a hundredth.
#[test]
fn a_message_takes_few_instructions() {
    let library = built::library();
    // All but the one with ten thousand connections, which takes half a minute.
    let works = "ping-pong,asleep,stream,bulk,epoll-1,epoll-100,idle-1000";
    passes(
        Command::new("python3")
            .arg("-B")
            .arg(path("instructions.py"))
            .arg("--bin")
            .arg(library.parent().expect("it lies in a directory"))
            .args(["--works", works]),
    );
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(name)
}

fn passes(command: &mut Command) {
    let run = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    println!("{said}");
    assert!(
        run.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
}
