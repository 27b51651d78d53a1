//! The log. One process has one log, so each test starts this program again, to run one ignored "test" as a child.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use netacc::config::{Config, LogLevel};
use netacc::log;

/// Runs the ignored test `child` in a process of its own.
fn run(child: &str, log_file: &str) -> Output {
    child_command(child, log_file).output().unwrap()
}

fn child_command(child: &str, log_file: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        child,
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command.env("LOG_FILE", log_file);
    command
}

fn start(level: LogLevel) {
    let log_file = std::env::var("LOG_FILE").expect("run by another test");
    log::init(&Config {
        log: level,
        log_file,
        ..Config::default()
    });
}

/// The lines of ours in `text`, without their process id.
fn lines(text: &str) -> Vec<String> {
    let ours = text.lines().filter_map(|line| line.strip_prefix("netacc["));
    ours.map(|line| line.split_once("] ").expect("the id ends").1.to_owned())
        .collect()
}

fn stderr_lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    lines(std::str::from_utf8(&output.stderr).unwrap())
}

fn errno() -> &'static mut i32 {
    // SAFETY: this thread's errno; no two references are used at a time.
    unsafe { &mut *libc::__errno_location() }
}

fn file_lines(child: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let output = run(child, path.to_str().unwrap());
    assert!(output.status.success(), "{output:?}");
    assert!(stderr_lines(&output).is_empty());
    lines(&fs::read_to_string(&path).unwrap())
}

#[test]
fn nothing_is_printed_unless_asked() {
    assert!(stderr_lines(&run("child_off", "")).is_empty());
}

#[test]
#[ignore = "a child of another test"]
fn child_off() {
    start(LogLevel::Off);
    tracing::error!("not to be seen");
}

#[test]
fn lines_have_a_form_and_obey_the_level() {
    let output = run("child_levels", "");
    let expected = [
        "ERROR netacc: failed errno=104 peer=\"10.0.0.1\"",
        "WARN netacc: odd",
        "INFO netacc::link: made id=7 fabric=Shm",
        "INFO netacc: two lines are one",
        "INFO netacc: an early line is kept",
    ];
    assert_eq!(stderr_lines(&output), expected);
}

#[test]
#[ignore = "a child of another test"]
fn child_levels() {
    start(LogLevel::Info);
    start(LogLevel::Off);
    start(LogLevel::Trace);
    tracing::error!(target: "netacc", errno = 104, peer = "10.0.0.1", "failed");
    tracing::warn!(target: "netacc", "odd");
    tracing::info!(target: "netacc::link", id = 7, fabric = ?netacc::config::FabricName::Shm, "made");
    tracing::info!(target: "netacc", "two lines\nare {}", "one");
    tracing::info!(target: "netacc", "an early {} is kept", "line");
    tracing::debug!(target: "netacc", "not to be seen");
    let _span = tracing::info_span!("unused").entered();
}

#[test]
fn a_file_is_appended_to_and_errno_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, "before\n").unwrap();
    for round in 1..=2 {
        assert!(run("child_errno", path.to_str().unwrap()).status.success());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("before\n"));
        assert_eq!(lines(&text), vec!["INFO log: value=errno is spoilt"; round]);
    }
    // Where no file can be, there is no log, and no harm either.
    let output = run("child_errno", "/no/such/folder/log");
    assert!(output.status.success() && stderr_lines(&output).is_empty());
}

/// A value whose formatting spoils errno and logs in turn.
struct Spoiler;

impl std::fmt::Debug for Spoiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        tracing::error!("an event within an event");
        *errno() = 5;
        f.write_str("errno is spoilt")
    }
}

#[test]
#[ignore = "a child of another test"]
fn child_errno() {
    *errno() = 77;
    start(LogLevel::Trace);
    assert_eq!(*errno(), 77);
    tracing::info!(value = ?Spoiler);
    assert_eq!(*errno(), 77);
}

#[test]
fn an_application_that_takes_our_descriptor_gets_no_line() {
    assert_eq!(
        file_lines("child_taken"),
        ["INFO log: one", "INFO log: two"]
    );
}

#[test]
#[ignore = "a child of another test"]
fn child_taken() {
    start(LogLevel::Info);
    tracing::info!("one");
    let path = fs::canonicalize(std::env::var("LOG_FILE").unwrap()).unwrap();
    let is_log =
        |fd: &i32| fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|link| link == path);
    let open: Vec<i32> = (0..2000).filter(is_log).collect();
    assert_eq!(open.len(), 1);
    assert!(open[0] >= 1000, "low numbers are the application's");
    // The application closes all it does not know, and gets the number for something of its own.
    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: the descriptor is nobody's but the log's, which expects this.
    unsafe {
        libc::close(open[0]);
        assert_eq!(libc::dup2(writer.as_raw_fd(), open[0]), open[0]);
    }
    tracing::info!("two");
    // SAFETY: made just now.
    drop((writer, unsafe { OwnedFd::from_raw_fd(open[0]) }));
    assert_eq!(std::io::read_to_string(reader).unwrap(), "");
}

#[test]
fn a_reader_that_went_away_does_not_kill_the_program() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = child_command("child_pipe", "");
    command.stderr(Stdio::from(writer)).stdout(Stdio::null());
    // SAFETY: signal is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            Ok(())
        });
    }
    assert!(command.status().unwrap().success());
}

#[test]
#[ignore = "a child of another test"]
fn child_pipe() {
    // SAFETY: sets a plain disposition: Rust's runtime ignores the signal, other programs do not.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    start(LogLevel::Info);
    tracing::info!("into nothing");
}

#[test]
fn threads_and_forked_children_write_whole_lines() {
    let mut found = file_lines("child_threads");
    found.sort();
    let mut expected: Vec<_> = (0..400)
        .map(|n| format!("INFO log: line n={}", n / 100))
        .collect();
    expected.push("INFO log: line n=9".to_owned());
    assert_eq!(found, expected);
}

#[test]
#[ignore = "a child of another test"]
fn child_threads() {
    start(LogLevel::Info);
    let write = |n| (0..100).for_each(|_| tracing::info!(n, "line"));
    std::thread::scope(|scope| {
        (0..4).for_each(|n| drop(scope.spawn(move || write(n))));
        // SAFETY: the child writes one line, which takes no lock, and ends at once.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                tracing::info!(n = 9, "line");
                libc::_exit(0);
            }
            let mut status = -1;
            assert_eq!((libc::waitpid(child, &mut status, 0), status), (child, 0));
        }
    });
}
