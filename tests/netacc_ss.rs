//! The tool `netacc_ss`, run against a process that counts.

mod page_process;

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use assert_cmd::Command;
use netacc::stats::{
    self, ConnState, ConnStats, Fabric, LinkState, LinkStats, Mode, Reason, add, bump,
};
use page_process::PageProcess;

fn netacc_ss(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netacc_ss"));
    command.args(args);
    command
}

/// Runs the tool successfully and returns what it prints.
fn output(args: &[&str]) -> String {
    let assert = netacc_ss(args).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// Runs the tool, which must fail with `code`, and returns its complaint.
fn complaint(command: &mut Command, code: i32) -> String {
    let assert = command.assert().code(code).stdout("");
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

fn serve() {
    stats::init();
    add(stats::global().accepted(Mode::Shm), 1);
    add(stats::global().connected(Mode::Tcp), 1);
    add(stats::global().fallback(Reason::SidePortTimeout), 1);
    let link = LinkStats::claim();
    link.set_state(LinkState::Up);
    link.fabric.store(Fabric::Shm as u32, Relaxed);
    bump(&link.rx_bytes, 4321);
    let server = ConnStats::claim(8);
    server.set_addresses(
        "127.0.0.1:6379".parse().unwrap(),
        "127.0.0.1:50000".parse().unwrap(),
    );
    server.set_mode(Mode::Shm, Reason::None);
    server.set_state(ConnState::Established);
    server.set_link(Some(link));
    bump(&server.rx_bytes, 4321);
    let client = ConnStats::claim(10);
    client.set_addresses(
        "[::1]:50001".parse().unwrap(),
        "[::1]:5432".parse().unwrap(),
    );
    client.set_mode(Mode::Tcp, Reason::SidePortTimeout);
    client.set_state(ConnState::Tcp);
}

/// The words of the line that contains `part`.
fn words<'a>(text: &'a str, part: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.contains(part));
    line.unwrap_or_else(|| panic!("no {part} in:\n{text}"))
        .split_whitespace()
        .collect()
}

#[test]
fn all_of_one_process() {
    let process = PageProcess::after(&[serve]);
    let text = output(&["-s", "all", "-p", &process.pid.to_string()]);
    let title = text.lines().next().unwrap();
    assert!(title.contains(&format!("(pid {},", process.pid)), "{title}");
    assert!(
        title.ends_with(concat!(
            "NetACC ",
            env!("CARGO_PKG_VERSION"),
            ", protocol 1-2"
        )),
        "{title}"
    );
    assert_eq!(
        words(&text, "127.0.0.1:6379"),
        [
            "ESTAB",
            "SHM",
            "127.0.0.1:6379",
            "127.0.0.1:50000",
            "8",
            "0",
            "0",
            "4321",
            "-"
        ]
    );
    assert_eq!(
        words(&text, "[::1]:50001"),
        [
            "KERNEL",
            "TCP",
            "[::1]:50001",
            "[::1]:5432",
            "10",
            "-",
            "0",
            "0",
            "side_port_timeout"
        ]
    );
    assert_eq!(words(&text, "UP")[..3], ["0", "UP", "SHM"]);
    assert_eq!(words(&text, "accepted_shm")[1], "1");
    assert!(text.contains(Reason::SidePortTimeout.sentence()));
    assert!(!text.contains(Reason::SidePortForeign.sentence()));
}

#[test]
fn each_view_shows_its_part_alone() {
    let process = PageProcess::after(&[serve]);
    let pid = process.pid.to_string();
    let titles = ["Links:", "Connections:", "Counters:"];
    for (view, title) in ["link", "sock", "cnt"].into_iter().zip(titles) {
        let text = output(&["-s", view, "-p", &pid]);
        let shown = titles.into_iter().filter(|title| text.contains(title));
        assert_eq!(shown.collect::<Vec<_>>(), [title], "{view}");
    }
}

#[test]
fn a_line_for_each_process() {
    let process = PageProcess::after(&[serve]);
    let text = output(&["-s", "proc", "-p", &process.pid.to_string()]);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(&format!("(pid {},", process.pid)), "{text}");
}

#[test]
fn every_process_without_a_number() {
    let processes = [
        PageProcess::after(&[serve]),
        PageProcess::after(&[stats::init]),
    ];
    let text = output(&["-s", "sock"]);
    for process in &processes {
        assert!(text.contains(&format!("(pid {},", process.pid)), "{text}");
    }
    assert!(text.contains("Connections: none"), "{text}");
}

#[test]
fn counters_for_scripts() {
    let process = PageProcess::after(&[serve]);
    let text = output(&["--counters", "-p", &process.pid.to_string()]);
    let counters: HashMap<&str, u64> = text
        .lines()
        .map(|line| {
            let (name, value) = line.split_once(' ').unwrap();
            (name, value.parse().unwrap())
        })
        .collect();
    let expected = [
        ("pid", u64::from(process.pid)),
        ("protocol_oldest", 1),
        ("protocol_newest", 2),
        ("library_replaced", 0),
        ("links_now", 1),
        ("conns_now_shm", 1),
        ("conns_now_tcp", 1),
        ("accepted_shm", 1),
        ("connected_tcp", 1),
        ("rx_bytes", 4321),
        ("spins_won", 0),
        ("fallback_side_port_timeout", 1),
        ("fallback_forked", 0),
    ];
    for (name, value) in expected {
        assert_eq!(counters.get(name), Some(&value), "{name} in:\n{text}");
    }
}

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
    let mut command = std::process::Command::new(copy);
    let (pid, owner) = if root {
        command.uid(65534);
        (process.pid, 0)
    } else {
        (1, 0)
    };
    command.args(["-p", &pid.to_string()]);
    let said = complaint(&mut Command::from_std(command), 1);
    let expected = format!("process {pid} belongs to user {owner}: ask as that user or as root");
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn views_that_do_not_exist_are_not_offered() {
    for view in ["qp", "cfg", "nonsense"] {
        let said = complaint(&mut netacc_ss(&["-s", view]), 2);
        assert!(
            said.contains("[possible values: all, cnt, sock, link, proc]"),
            "{said}"
        );
    }
}

#[test]
fn the_manual_names_every_option() {
    let manual = include_str!("../docs/man/netacc_ss.8").replace('\\', "");
    let help = output(&["--help"]);
    let options = help
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with('-') && word.len() > 1);
    let mut seen = 0;
    for option in options {
        assert!(manual.contains(option), "{option} is not in the manual");
        seen += 1;
    }
    assert!(seen >= 5, "{help}");
}
