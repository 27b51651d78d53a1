//! Each view as people see it, compared with the files in `golden`. `NETACC_UPDATE=1 cargo test --test netacc_ss` writes
//! them anew.

use std::path::Path;

use netacc::stats::{self, Reason};

use crate::page_process::PageProcess;
use crate::{complaint, counters, netacc_ss, output, output_of_all, serve};

/// What differs from run to run is replaced: the first line, and the counters that are 0 (so that one more of them changes
/// nothing here).
fn stable(text: &str, pid: u32) -> String {
    let title = text.lines().next().unwrap();
    assert!(title.contains(&format!("(pid {pid},")), "{title}");
    let version = concat!("NetACC ", env!("CARGO_PKG_VERSION"), ", protocol 1-2");
    assert!(title.ends_with(version), "{title}");
    let is_zero =
        |line: &&str| line.split_whitespace().nth(1) == Some("0") && line.starts_with("  ");
    let mut in_counters = false;
    let kept = text.lines().skip(1).filter(|line| {
        if !line.starts_with(' ') {
            in_counters = *line == "Counters:";
        }
        !(in_counters && is_zero(line))
    });
    let mut out = "COMM (pid PID, uid UID), NetACC VERSION, protocol 1-2\n".to_owned();
    kept.for_each(|line| {
        out.push_str(line);
        out.push('\n');
    });
    out
}

#[test]
fn every_view_is_as_it_was() {
    let process = PageProcess::after(&[serve]);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netacc_ss/golden");
    let mut differ = Vec::new();
    for view in ["all", "cfg", "cnt", "mem", "qp", "sock", "link", "proc"] {
        let text = output(&["-s", view, "-p", &process.pid.to_string()]);
        let text = stable(&text, process.pid);
        let file = golden.join(format!("{view}.txt"));
        if std::env::var_os("NETACC_UPDATE").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        if text != expected {
            differ.push(format!(
                "-s {view} is\n{text}but {} has\n{expected}",
                file.display()
            ));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn all_is_what_the_views_are_together() {
    let process = PageProcess::after(&[serve]);
    let pid = process.pid.to_string();
    let all = output(&["-p", &pid]);
    let parts = ["link", "qp", "sock", "mem", "cnt", "cfg"].map(|view| {
        let text = output(&["-s", view, "-p", &pid]);
        text.split_once('\n').unwrap().1.to_owned()
    });
    assert_eq!(all.split_once('\n').unwrap().1, parts.concat());
}

#[test]
fn every_process_without_a_number() {
    let processes = [
        PageProcess::after(&[serve]),
        PageProcess::after(&[stats::init]),
    ];
    let text = output_of_all(&["-s", "sock"]);
    for process in &processes {
        assert!(text.contains(&format!("(pid {},", process.pid)), "{text}");
    }
    assert!(text.contains("Connections: none"), "{text}");
    let text = output_of_all(&["-s", "cnt"]);
    let (_, totals) = text.split_once("Total of ").unwrap();
    assert!(totals.contains("Summary:"), "{totals}");
    let (_, reasons) = totals.split_once("Left to kernel TCP:\n").unwrap();
    assert!(reasons.contains("side_port_timeout"), "{totals}");
}

#[test]
fn the_version_by_either_letter() {
    let version = concat!("netacc_ss ", env!("CARGO_PKG_VERSION"), "\n");
    for option in ["-V", "-v", "--version"] {
        assert_eq!(output(&[option]), version, "{option}");
    }
}

#[test]
fn counters_for_scripts() {
    let process = PageProcess::after(&[serve]);
    let counters = counters(process.pid);
    let expected = [
        ("pid", u64::from(process.pid)),
        ("protocol_oldest", 1),
        ("protocol_newest", 2),
        ("library_replaced", 0),
        ("links_now", 2),
        ("conns_now_shm", 1),
        ("conns_now_rdma", 1),
        ("conns_now_tcp", 1),
        ("accepted_shm", 1),
        ("connected_tcp", 1),
        ("rx_bytes", 4321),
        ("tx_records", 100),
        ("rdma_records", 100),
        ("work_requests", 8),
        ("doorbells", 5),
        ("spins_won", 0),
        ("fallback_side_port_timeout", 1),
        ("fallback_forked", 0),
    ];
    for (name, value) in expected {
        assert_eq!(counters.get(name), Some(&value), "{name} in {counters:?}");
    }
    let reasons = Reason::ALL.iter().filter(|reason| **reason != Reason::None);
    for reason in reasons {
        assert!(counters.contains_key(&format!("fallback_{}", reason.name())));
    }
}

#[test]
fn views_that_do_not_exist_are_not_offered() {
    let said = complaint(&mut netacc_ss(&["-s", "nonsense"]), 2);
    let offered = "[possible values: all, cfg, cnt, mem, qp, sock, link, proc]";
    assert!(said.contains(offered), "{said}");
}

#[test]
fn forms_exclude_each_other() {
    for args in [
        &["-j", "--counters"][..],
        &["--prometheus", "-j"],
        &["-w", "1", "--prometheus"],
        &["--listen", "0", "-w"],
        &["--counters", "-s", "sock"],
        &["-n", "3"],
        &["-w", "0"],
        &["-w", "x"],
        &["--listen", "nowhere"],
        &["--listen", "1", "-o", "file"],
        &["--listen", "0", "-p", "1"],
    ] {
        complaint(&mut netacc_ss(args), 2);
    }
}

#[test]
fn the_manual_names_every_option_and_view() {
    let manual = include_str!("../../docs/man/netacc_ss.8").replace('\\', "");
    let help = output(&["--help"]);
    let options = help
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with('-') && word.len() > 1);
    let mut seen = 0;
    for option in options {
        assert!(manual.contains(option), "{option} is not in the manual");
        seen += 1;
    }
    assert!(seen >= 20, "{help}");
    for view in ["all", "cfg", "cnt", "mem", "qp", "sock", "link", "proc"] {
        assert!(
            manual.contains(&format!(".B {view}\n")),
            "{view} is not in the manual"
        );
    }
}
