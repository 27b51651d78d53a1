//! A preloaded program that never uses TCP is left as it is: same output, and no thread, descriptor
//! or mapping of ours.

mod built;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

fn run(program: &[&str], preload: Option<&Path>) -> Output {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).env_remove("LD_PRELOAD");
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    command.output().expect("the program starts")
}

#[test]
fn programs_without_sockets_behave_as_before() {
    let library = built::library();
    for program in [
        &["true"][..],
        &["false"],
        &["ls", "/"],
        &["sh", "-c", "echo one; ls /nowhere; exit 3"],
    ] {
        let bare = run(program, None);
        let loaded = run(program, Some(&library));
        assert_eq!(
            bare, loaded,
            "{program:?} differs when the library is preloaded"
        );
    }
}

/// A process that is asleep in a program of its own, killed at the end.
struct Sleeper(Child);

impl Sleeper {
    fn start(preload: Option<&Path>) -> Self {
        let mut command = Command::new("sleep");
        command
            .arg("600")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env_remove("LD_PRELOAD");
        if let Some(library) = preload {
            command.env("LD_PRELOAD", library);
        }
        let sleeper = Self(command.spawn().expect("sleep starts"));
        while !sleeper.is_asleep() {
            std::thread::yield_now();
        }
        sleeper
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.0.id().to_string()).join(name)
    }

    /// Everything is loaded and the process waits in the sleep it was asked for.
    fn is_asleep(&self) -> bool {
        let call = fs::read_to_string(self.proc("syscall")).expect("the process lives");
        let number = call.split(' ').next().and_then(|n| n.parse().ok());
        number == Some(libc::SYS_clock_nanosleep) || number == Some(libc::SYS_nanosleep)
    }

    fn threads(&self) -> usize {
        fs::read_dir(self.proc("task"))
            .expect("the process lives")
            .count()
    }

    fn descriptors(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.proc("fd")).expect("the process lives");
        entries
            .map(|entry| {
                let entry = entry.expect("a descriptor");
                let target = fs::read_link(entry.path()).expect("a descriptor's target");
                format!("{} -> {}", entry.file_name().display(), target.display())
            })
            .collect()
    }

    /// Files that are mapped, shared libraries aside.
    fn mapped_files(&self) -> BTreeSet<String> {
        let maps = fs::read_to_string(self.proc("maps")).expect("the process lives");
        let names = maps
            .lines()
            .filter_map(|line| line.split_whitespace().nth(5));
        names
            .filter(|name| name.starts_with('/') && !name.contains(".so"))
            .map(str::to_owned)
            .collect()
    }

    fn has_mapped(&self, file: &Path) -> bool {
        let maps = fs::read_to_string(self.proc("maps")).expect("the process lives");
        maps.contains(file.to_str().expect("a UTF-8 path"))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_sleeping_program_holds_nothing_of_ours() {
    let library = built::library().canonicalize().expect("the library's path");
    let bare = Sleeper::start(None);
    let loaded = Sleeper::start(Some(&library));
    assert!(
        loaded.has_mapped(&library),
        "the library was not loaded at all"
    );
    assert_eq!(loaded.threads(), 1, "the library started a thread");
    assert_eq!(
        bare.descriptors(),
        loaded.descriptors(),
        "the library opened something"
    );
    assert_eq!(
        bare.mapped_files(),
        loaded.mapped_files(),
        "the library mapped a file"
    );
}
