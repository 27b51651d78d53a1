//! Processes that cannot be shown, that are dead, or that hang.

use assert_cmd::Command;

use crate::page_process::{PageProcess, page_path};
use crate::{complaint, netacc_ss, output, output_of_all, serve};

#[test]
fn no_such_process() {
    let mut process = PageProcess::after(&[serve]);
    process.kill(true);
    let pid = process.pid.to_string();
    let said = complaint(&mut netacc_ss(&["-p", &pid]), 1);
    assert_eq!(
        said,
        format!("netacc_ss: no process has the number {pid}\n")
    );
}

#[test]
fn a_process_without_netacc() {
    let pid = std::process::id().to_string();
    let said = complaint(&mut netacc_ss(&["-p", &pid]), 1);
    assert!(
        said.contains(&format!("process {pid} does not run NetACC")),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}

#[test]
fn another_users_process() {
    use std::os::unix::{fs::PermissionsExt, process::CommandExt};
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    // Where a user without rights can run it.
    let dir = tempfile::tempdir().unwrap();
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), everybody).unwrap();
    let copy = dir.path().join("netacc_ss");
    // By another program: a fork of a test beside this one would hold our own copy open for writing,
    // and a file open for writing cannot be run.
    let mut install = Command::new("install");
    install.args(["-m", "755", env!("CARGO_BIN_EXE_netacc_ss")]);
    install.arg(&copy).assert().success();

    let process = PageProcess::after(&[serve]);
    let (pid, owner) = if root { (process.pid, 0) } else { (1, 0) };
    let expected = format!("process {pid} belongs to user {owner}: ask as that user or as root");
    for form in [&["-s", "all"][..], &["--counters"], &["--prometheus"]] {
        let mut command = std::process::Command::new(&copy);
        if root {
            command.uid(65534);
        }
        command.args(form).args(["-p", &pid.to_string()]);
        let assert = Command::from_std(command).assert().code(1);
        let said = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(said.contains(&expected), "{form:?}: {said}");
    }
}

#[test]
fn the_page_of_a_dead_process_is_cleaned_away() {
    let mut process = PageProcess::after(&[serve]);
    process.kill(true);
    let page = page_path(process.pid);
    assert!(std::path::Path::new(&page).exists());
    let text = output_of_all(&["-s", "proc"]);
    assert!(!text.contains(&format!("(pid {},", process.pid)), "{text}");
    assert!(!std::path::Path::new(&page).exists());
}

#[test]
fn a_process_that_hangs_is_shown() {
    let process = PageProcess::after(&[serve]);
    let pid = process.pid.cast_signed();
    // SAFETY: our own child, not reaped.
    unsafe {
        assert_eq!(libc::kill(pid, libc::SIGSTOP), 0);
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &mut status, libc::WUNTRACED), pid);
        assert!(libc::WIFSTOPPED(status));
    }
    let pid = process.pid.to_string();
    for args in [
        &["-s", "all", "-p", &pid][..],
        &["-j", "-p", &pid],
        &["--counters", "-p", &pid],
        &["--prometheus", "-p", &pid],
        &["-w", "0.1", "-n", "1", "-p", &pid],
    ] {
        assert!(output(args).contains(&pid), "{args:?}");
    }
}
