//! What `netacc_run` says: its help, a check, and of what it does not understand.

use std::fs;
use std::path::Path;

use netacc::config::keys::KEYS;

use crate::{about, assert_golden, check, common, netacc_run, stderr, stdout};

#[test]
fn the_help_is_as_it_was() {
    let help = stdout(&netacc_run().arg("--help").assert().code(0));
    assert_golden("help.txt", &help);
    assert_eq!(stdout(&netacc_run().arg("-h").assert().code(0)), help);
}

/// A check's lines without what is this machine's alone: its devices, limits and ports; and with names in the place of what
/// differs from build to build.
fn of_any_machine(printed: &str, folder: &Path) -> String {
    let mut text = printed.to_owned();
    for (what, name) in [
        (common::library().to_str().unwrap(), "/LIBRARY"),
        (folder.to_str().unwrap(), "/PLACE"),
        (env!("CARGO_PKG_VERSION"), "VERSION"),
        (&format!("of {} keys", KEYS.len()), "of ALL keys"),
    ] {
        text = text.replace(what, name);
    }
    let machines = [
        "system: ",
        "RDMA: ",
        "locked memory: ",
        "side ports: ",
        "shared memory: ",
    ];
    let is_machines = |line: &str| {
        let said = line
            .split_once(' ')
            .map_or("", |(_, said)| said.trim_start());
        machines.iter().any(|matter| said.starts_with(matter))
    };
    let lines = text.lines().filter(|line| !is_machines(line));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_check_is_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().canonicalize().unwrap();
    let config = place.join("my.conf");
    let of = |text: &str, arguments: &[&str]| {
        fs::write(&config, text).unwrap();
        let run = check()
            .arg("-f")
            .arg(&config)
            .args(arguments)
            .env("NACC_FABRICS", "shm")
            .assert();
        let status = run.get_output().status.code().unwrap();
        let lines = of_any_machine(&stdout(&run), &place);
        format!("status {status}\n{lines}")
    };
    let bad = "NACC_SOR_MSG_SIZE=16K\nNACC_SOR_SOMETHING_ELSE=5\nNACC_LOG=\"info\"\nNACC_LOG_FILE=\"/no/such/folder/log\"\n";
    let printed = [
        of(
            "NACC_SPIN_US=7\n[program.redis-server]\nNACC_SPIN_US=8\n",
            &[],
        ),
        of(bad, &["-A", "cpu:1023", "no-such-program-anywhere"]),
    ];
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let allowed: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|number| allowed.is_set(*number))
        .collect();
    let (first, last) = (allowed[0], allowed[allowed.len() - 1]);
    // Which processors there are is the machine's as well.
    let printed = printed.join("\n");
    let (head, tail) = printed.split_once("Name some of ").unwrap();
    let (numbers, tail) = tail.split_once(" (").unwrap();
    assert!(numbers.starts_with(&first.to_string()) && numbers.ends_with(&last.to_string()));
    let tail = tail.replacen(&format!("cpu:{numbers}"), "cpu:THOSE", 1);
    assert_golden("check.txt", &format!("{head}Name some of THOSE ({tail}"));
}

#[test]
fn processors_that_are_not_there_are_warned_of() {
    for set in [
        check().args(["-A", "cpu:1023"]),
        check().env("NACC_AFFINITY", "cpu:1023"),
    ] {
        let printed = stdout(&set.assert().code(0));
        let [("warning", text)] = about(&printed, "processors")[..] else {
            panic!("{printed}");
        };
        assert!(text.contains("NACC_AFFINITY names 1023"), "{text}");
    }
}

#[test]
fn what_is_not_understood_is_told_with_a_remedy() {
    let cases = [
        (
            &["--log", "debug", "true"][..],
            "option --log is none of netacc_run's. Options of the program stand behind its name;",
        ),
        (
            &["--chek"],
            "option --chek is none of netacc_run's. Did you mean --check?",
        ),
        (&["-x", "true"], "option -x is none of netacc_run's."),
        (&[], "no program is named. Write netacc_run [OPTIONS]"),
        (&["-t", "2"], "no program is named."),
        (&["-t"], "a value is required for '-t <IO_THREADS>'"),
        (&["--check=1"], "unexpected value '1' for '--check'"),
    ];
    for (arguments, said) in cases {
        let message = stderr(&netacc_run().args(arguments).assert().code(2));
        assert!(
            message.starts_with("netacc_run: "),
            "{arguments:?}: {message}"
        );
        assert!(message.contains(said), "{arguments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
        // To run a program called "--log" is not what anybody wants.
        assert!(!message.contains("tip"), "{message}");
    }
}

#[test]
fn of_an_option_that_stands_twice_the_last_counts() {
    let run = netacc_run()
        .args(["-t", "2", "-T", "-T", "-t", "3", "--print-config"])
        .assert()
        .code(0);
    assert!(
        stdout(&run).contains("NACC_SOR_IO_THREADS=3 "),
        "{}",
        stdout(&run)
    );
}

#[test]
fn a_value_behind_an_option_that_takes_none_is_told() {
    let message = stderr(&netacc_run().args(["-T", "1", "true"]).assert().code(127));
    let said = "cannot run \"1\": no such program in PATH. Check the spelling, or give its path. (Options -T, -F, -d take no value.)";
    assert!(message.contains(said), "{message}");
    let message = stderr(&netacc_run().args(["one"]).assert().code(127));
    assert!(!message.contains("take no value"), "{message}");
}

/// Keys and values as the file has them that comes with Alibaba Cloud's NetACC, and two more keys of that kind.
const OF_THE_ORIGINAL: &str = "[netacc]
NACC_SOR_MSG_SIZE=16384
NACC_RDMA_MR_MIN_INC_SIZE=16384
NACC_RDMA_MR_MAX_INC_SIZE=8388608
NACC_SOR_CONN_PER_QP=1
NACC_SOR_IO_THREADS=1
NACC_SOR_OTHER_THAN_OURS=-1
NACC_RDMA_OTHER_THAN_OURS=word
";

#[test]
fn a_file_of_the_original_serves_and_what_is_not_known_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("netacc.conf");
    fs::write(&config, OF_THE_ORIGINAL).unwrap();
    let with_file = |mut command: assert_cmd::Command| {
        command.arg("-f").arg(&config);
        command
    };
    let run = with_file(netacc_run())
        .args(["echo", "runs"])
        .assert()
        .code(0);
    assert_eq!(stdout(&run), "runs\n");
    let told = stderr(&run);
    let parts = [
        "netacc_run: warning: ",
        "netacc.conf:7: NACC_SOR_OTHER_THAN_OURS is not a key that this NetACC knows, and is left out.",
        "in milliseconds: here that is NACC_SOR_QP_IDLE_S, in seconds.",
    ];
    for part in parts {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(
        told.contains("netacc.conf:8: NACC_RDMA_OTHER_THAN_OURS"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 2, "{told}");
    let printed = stdout(&with_file(check()).assert().code(0));
    let [_, ("warning", one), ("warning", two)] = about(&printed, "configuration")[..] else {
        panic!("{printed}");
    };
    assert!(
        one.contains("NACC_SOR_OTHER") && two.contains("NACC_RDMA_OTHER"),
        "{printed}"
    );
    let printed = stdout(
        &with_file(netacc_run())
            .arg("--print-config")
            .assert()
            .code(0),
    );
    assert!(printed.contains("NACC_SOR_CONN_PER_QP=1 "), "{printed}");
    // A key of ours that is misspelt is still a mistake.
    fs::write(&config, "NACC_SOR_MSG_SIZES=1\n").unwrap();
    let refused = with_file(netacc_run()).arg("true").assert().code(2);
    assert!(stderr(&refused).contains("Did you mean NACC_SOR_MSG_SIZE?"));
}
