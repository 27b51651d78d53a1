//! `--watch`: rates, for programs and on a terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use netacc::stats::{LinkStats, bump};

use crate::common::proc;
use crate::page_process::PageProcess;
use crate::{output, serve};

/// Two links, of which the second is the busier one, for as long as the test looks.
fn work() {
    serve();
    let idle = LinkStats::claim();
    idle.peer_pid.store(1, std::sync::atomic::Ordering::Relaxed);
    let busy = LinkStats::claim();
    busy.peer_pid
        .store(4711, std::sync::atomic::Ordering::Relaxed);
    // SAFETY: a clone that shares nothing; it does nothing but atomics and sleeps until it is killed.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: system calls.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        loop {
            bump(&busy.tx_bytes, 100_000);
            bump(&busy.tx_records, 10);
            // SAFETY: a system call.
            unsafe { libc::usleep(1000) };
        }
    }
}

#[test]
fn rates_the_busiest_first() {
    let process = PageProcess::after(&[work]);
    let text = output(&["--watch", "0.3", "-n", "2", "-p", &process.pid.to_string()]);
    let blocks: Vec<&str> = text.split("\n\n").collect();
    assert_eq!(blocks.len(), 2, "{text}");
    for block in blocks {
        assert!(
            block.starts_with("Processes 1, links 4, connections 3\nTotal, each second: "),
            "{text}"
        );
        let (_, links) = block.split_once("Links:\n").unwrap();
        let mut lines = links.lines();
        let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        let first: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        let cell = |name: &str| first[head.iter().position(|h| *h == name).unwrap()];
        assert_eq!(cell("Peer"), "4711", "{text}");
        // Whole numbers, greater than nothing: how great is the machine's affair.
        let rate = |name: &str| cell(name).parse::<u64>().unwrap();
        assert!(rate("Tx-B/s") > 0 && rate("Tx-Rec/s") > 0, "{text}");
        assert_eq!(rate("Rx-B/s"), 0, "{text}");
        assert!(!block.contains('\x1b'), "{text:?}");
    }
}

#[test]
fn a_terminal_gets_a_screen_that_fits() {
    let process = PageProcess::after(&[serve]);
    let (terminal, end) = terminal(12, 60);
    let mut command = Command::new(env!("CARGO_BIN_EXE_netacc_ss"));
    command.args(["-w", "0.1", "-n", "3", "-p", &process.pid.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::from(end));
    let mut child = proc::spawn(&mut command).unwrap();
    drop(command);
    let mut seen = Vec::new();
    // Once the other end is closed a terminal gives EIO.
    let _ = File::from(terminal).read_to_end(&mut seen);
    assert!(child.wait().unwrap().success());
    let text = String::from_utf8(seen).unwrap();
    let screens: Vec<&str> = text.split("\x1b[H").skip(1).collect();
    assert_eq!(screens.len(), 3, "{text:?}");
    for screen in screens {
        assert!(
            screen.starts_with("Processes 1, links 2, connections 3"),
            "{text:?}"
        );
        assert!(screen.matches("\x1b[K").count() < 12, "{text:?}");
        let widths = screen.lines().map(|line| {
            let visible = line.replace("\x1b[K", "").replace("\x1b[J", "");
            visible.trim_end().chars().count()
        });
        assert!(widths.max() <= Some(60), "{text:?}");
    }
}

/// A terminal of this size, and the end for a program.
fn terminal(rows: u16, columns: u16) -> (OwnedFd, OwnedFd) {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let (mut here, mut there) = (0, 0);
    // SAFETY: room for two descriptors, which are owned from here on; no name, default modes.
    unsafe {
        let made = libc::openpty(
            &mut here,
            &mut there,
            std::ptr::null_mut(),
            std::ptr::null(),
            &size,
        );
        assert_eq!(made, 0);
        libc::fcntl(here, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(there, libc::F_SETFD, libc::FD_CLOEXEC);
        (OwnedFd::from_raw_fd(here), OwnedFd::from_raw_fd(there))
    }
}
