//! Configuration: precedence, every kind of mistake, sections, and the documents made from the table of keys.
//!
//! `NETACC_UPDATE=1 cargo test --test config` writes those documents anew.

mod any_bytes;
mod documents;
mod sections;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use netacc::config::keys::{KEYS, Kind};
use netacc::config::{self, Affinity, Config, Diagnostic, FabricName, Flag, LogLevel, Origin};

/// Runs `body` with only these of our variables in the environment, one body at a time.
fn with_environment<T>(variables: &[(&str, &str)], body: impl FnOnce() -> T) -> T {
    static ENVIRONMENT: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    let ours =
        || std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NACC_"));
    // SAFETY: everything in this file that reads these variables does so in a body.
    unsafe {
        ours().for_each(|(name, _)| std::env::remove_var(name));
        variables
            .iter()
            .for_each(|(name, value)| std::env::set_var(name, value));
    }
    let result = body();
    // SAFETY: as above.
    unsafe { ours().for_each(|(name, _)| std::env::remove_var(name)) };
    result
}

fn file(text: impl AsRef<[u8]>) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn check(text: impl AsRef<[u8]>) -> Result<Config, Vec<Diagnostic>> {
    let file = file(text);
    with_environment(&[], || config::check(Some(file.path().as_os_str()), &[]))
}

/// The problems of a file, each as "line: sentence remedy".
fn problems(text: impl AsRef<[u8]>) -> Vec<String> {
    let diagnostics = check(text).expect_err("the file is bad");
    let show = |d: &Diagnostic| match &d.origin {
        Origin::File { line, .. } => format!("{line}: {} {}", d.sentence, d.remedy),
        other => panic!("not of the file: {other}"),
    };
    diagnostics.iter().map(show).collect()
}

/// The file has one problem, in `line`, whose text holds all `parts`.
#[track_caller]
fn assert_problem(text: impl AsRef<[u8]>, line: u32, parts: &[&str]) {
    let found = problems(text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with(&format!("{line}: ")), "{found:?}");
    for part in parts {
        assert!(found[0].contains(part), "{found:?} lacks {part:?}");
    }
}

#[test]
fn defaults_are_those_of_the_manual() {
    let config = Config::default();
    assert_eq!(config.msg_size, 16384);
    assert_eq!(config.mr_min_inc_size, 16384);
    assert_eq!(config.mr_max_inc_size, 8_388_608);
    assert_eq!((config.conn_per_qp, config.io_threads), (1024, 1));
    assert_eq!((config.ring_size, config.window_size), (1 << 20, 256 << 10));
    assert_eq!(config.spin, Duration::from_micros(50));
    assert_eq!(config.connect_timeout, Duration::from_secs(1));
    assert_eq!(config.peer_ttl, Duration::from_secs(60));
    assert_eq!(config.side_port_offset, 20_000);
    assert_eq!(config.qp_idle, Some(Duration::from_secs(60)));
    assert_eq!(
        config.fabrics,
        [FabricName::Loop, FabricName::Shm, FabricName::Verbs]
    );
    assert_eq!((config.log, config.log_file.as_str()), (LogLevel::Off, ""));
    assert_eq!(
        (config.tcp_first, config.affinity),
        (false, Affinity::Anywhere)
    );
    assert!(config.peers.is_empty() && config.programs.is_empty());
}

#[test]
fn every_way_to_write_a_value_is_read() {
    let text = "\u{feff}# a comment\r\n\
                NACC_SOR_MSG_SIZE=\"16K\" # behind a value\r\n\
                \r\n\
                NACC_SOR_IO_THREADS = 0x4\r\n\
                netacc.NACC_LOG = 'info'\r\n\
                [netacc]\r\n\
                NACC_RING_SIZE=\"2m\"\r\n\
                NACC_WINDOW_SIZE=131_072\r\n\
                NACC_SPIN_US=\"0\"\r\n\
                NACC_CONNECT_TIMEOUT_MS=250\r\n\
                NACC_PEER_TTL_S=+5\r\n\
                NACC_SOR_QP_IDLE_S=-1\r\n\
                NACC_SIDE_PORT_OFFSET=0b11\r\n\
                NACC_FABRICS=\" shm , loop\"\r\n\
                NACC_TCP_FIRST=true\r\n\
                NACC_AFFINITY=1\r\n\
                NACC_PROGRAMS=[\"redis-server\", \"nginx*\"] # a list\r\n\
                NACC_PROGRAMS_EXCEPT=\"nginx-debug\"\r\n\
                NACC_LOG_FILE=\"/var/log/netacc #1.log\"\r\n\
                NACC_SOR_CONN_PER_QP=1";
    let config = check(text).unwrap();
    let expected = Config {
        msg_size: 16384,
        io_threads: 4,
        log: LogLevel::Info,
        ring_size: 2 << 20,
        window_size: 131_072,
        spin: Duration::ZERO,
        connect_timeout: Duration::from_millis(250),
        peer_ttl: Duration::from_secs(5),
        qp_idle: None,
        side_port_offset: 3,
        fabrics: vec![FabricName::Shm, FabricName::Loop],
        tcp_first: true,
        affinity: Affinity::Each,
        programs: vec!["redis-server".to_owned(), "nginx*".to_owned()],
        programs_except: vec!["nginx-debug".to_owned()],
        log_file: "/var/log/netacc #1.log".to_owned(),
        conn_per_qp: 1,
        ..Config::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn no_fabrics_at_all_are_asked_for_by_a_word() {
    assert_eq!(check("NACC_FABRICS=\" none\"").unwrap().fabrics, []);
}

#[test]
fn the_range_ends_are_in_and_their_neighbours_out() {
    for key in KEYS {
        // These two have a partner that must fit, which has its own test.
        let Kind::Number { min, max, .. } = key.kind else {
            continue;
        };
        if [
            "NACC_WINDOW_SIZE",
            "NACC_RDMA_MR_MIN_INC_SIZE",
            "NACC_RDMA_MR_MAX_INC_SIZE",
        ]
        .contains(&key.name)
        {
            continue;
        }
        let line = |value: u64| format!("\n{}={value}\n", key.name);
        check(line(min)).unwrap_or_else(|e| panic!("{e:?}"));
        check(line(max)).unwrap_or_else(|e| panic!("{e:?}"));
        assert_problem(
            line(max + 1),
            2,
            &[key.name, "above the largest", "the default is"],
        );
        let below = i128::from(min) - 1;
        let line = format!("\n{}={below}\n", key.name);
        assert_problem(line, 2, &[key.name, "below the smallest", "the default is"]);
    }
}

#[test]
fn every_mistake_is_told_with_its_line_and_a_remedy() {
    // Syntax that TOML refuses.
    assert_problem(
        "NACC_SOR_MSG_SIZE=16K",
        1,
        &["16K without quotes", "Write NACC_SOR_MSG_SIZE=\"16K\"."],
    );
    assert_problem(
        "\nNACC_LOG=info # why",
        2,
        &["info without quotes", "Write NACC_LOG=\"info\"."],
    );
    assert_problem(
        "NACC_LOG_FILE=/tmp/x",
        1,
        &["Write NACC_LOG_FILE=\"/tmp/x\"."],
    );
    assert_problem("NACC_LOG=loud", 1, &["no log level", "warn, info"]);
    assert_problem("NACC_LOG_LEVL=loud", 1, &["NACC_LOG_LEVL is not a key"]);
    assert_problem(
        "NACC_LOG=\"info",
        1,
        &["not understood", "Write NACC_LOG=\"value\" on one line"],
    );
    assert_problem("; words", 1, &["Start a comment with #."]);
    assert_problem(
        "export NACC_LOG=\"info\"",
        1,
        &["shell", "Write NACC_LOG=\"info\"."],
    );
    assert_problem("NACC_SPIN_US=", 1, &["no value", "put # before"]);
    assert_problem("NACC_SPIN_US=0050", 1, &["Write NACC_SPIN_US=50."]);
    assert_problem("NACC_SPIN_US 50", 1, &["no \"=\"", "KEY=VALUE"]);
    assert_problem("NACC LOG=\"info\"", 1, &["not understood", "KEY=VALUE"]);
    assert_problem(b"NACC_LOG=\"\xff\"", 1, &["not UTF-8"]);
    // Values that their key refuses.
    assert_problem(
        "NACC_SOR_MSG_SIZE=\"16KB\"",
        1,
        &["no whole number", "from 1K to 1M"],
    );
    assert_problem("NACC_SPIN_US=1.5", 1, &["fraction", "microseconds"]);
    assert_problem("NACC_SPIN_US=true", 1, &["boolean"]);
    assert_problem("NACC_SPIN_US=[\"1\"]", 1, &["a list, not a whole number"]);
    assert_problem("NACC_TCP_FIRST=2", 1, &["neither on nor off", "1 for on"]);
    assert_problem("NACC_TCP_FIRST=1.0", 1, &["not 1 or 0"]);
    assert_problem("NACC_AFFINITY=3", 1, &["cpu:"]);
    assert_problem("NACC_AFFINITY=\"cpu:3-1\"", 1, &["begins behind its end"]);
    assert_problem(
        "NACC_AFFINITY=\"2-3\"",
        1,
        &["none of its values", "cpu: and a list"],
    );
    assert_problem(
        "NACC_PEERS=10.0.0.0/8",
        1,
        &["Write NACC_PEERS=\"10.0.0.0/8\"."],
    );
    assert_problem(
        "NACC_PEERS=\"10.0.0.0/33\"",
        1,
        &["\"10.0.0.0/33\"", "networks and ports"],
    );
    assert_problem(
        "NACC_PEERS_EXCEPT=\":80, 6379\"",
        1,
        &["a port begins with a colon"],
    );
    assert_problem(
        "NACC_PEERS=[80]",
        1,
        &["a list of other things than strings"],
    );
    assert_problem(
        "NACC_PROGRAMS=\"/usr/bin/curl\"",
        1,
        &["without its folder"],
    );
    assert_problem("NACC_SPIN_US=\"1K\"", 1, &["no whole number"]);
    assert_problem(
        "NACC_SPIN_US=99999999999999999999999999999999999999999",
        1,
        &["above the largest"],
    );
    assert_problem(
        "NACC_RING_SIZE=100000",
        1,
        &["100000, which is not a power of two"],
    );
    assert_problem("NACC_LOG=1", 1, &["a number, not a string"]);
    assert_problem("NACC_SOR_QP_IDLE_S=-2", 1, &["seconds", "or -1"]);
    assert_problem("NACC_SOR_QP_IDLE_S=\"long\"", 1, &["\"long\"", "or -1"]);
    assert_problem(
        "NACC_FABRICS=[\"loop\", \"rdma\"]",
        1,
        &["names \"rdma\"", "\"loop,shm,verbs\""],
    );
    assert_problem("NACC_FABRICS=\"loop,verb\"", 1, &["\"verb\"", "no fabric"]);
    assert_problem("NACC_FABRICS=\"\"", 1, &["no fabric"]);
    assert_problem("NACC_FABRICS=\"shm,shm\"", 1, &["shm twice"]);
    assert_problem("NACC_FABRICS=\"none,shm\"", 1, &["none beside others"]);
    assert_problem("NACC_LOG_FILE=\"a\\u0000b\"", 1, &["NUL"]);
    // Structure.
    assert_problem(
        "NACC_SOR_MSGSIZE=1",
        1,
        &["not a key", "Did you mean NACC_SOR_MSG_SIZE?"],
    );
    assert_problem("port=1", 1, &["not a key", "netacc.conf(5)"]);
    assert_problem(
        "NACC_SPIN_US=1\n[netacc]\nNACC_SPIN_US=2",
        3,
        &["already set in line 1"],
    );
    assert_problem("[[netacc]]", 1, &["section", "Use [netacc]"]);
    assert_problem(
        "[net]\nx=1\nNACC_LOG=info\n[netacc]\nNACC_SPIN_US=1",
        1,
        &["[net]", "Use [netacc], [program.NAME]"],
    );
    assert_problem("[netac]", 1, &["Did you mean [netacc]?"]);
    assert_problem(
        "[programs.redis-server]",
        1,
        &["Did you mean [program.NAME]?"],
    );
    assert_problem("[program]", 1, &["[program.redis-server]"]);
    assert_problem(
        "[program.python3.11]",
        1,
        &["Write [program.\"python3.11\"]."],
    );
    assert_problem("[program.\"/usr/bin/curl\"]", 1, &["without its folder"]);
    assert_problem("[program.curl", 1, &["not understood", "[program.NAME]"]);
    assert_problem(
        "program.curl.NACC_SPIN_US=1",
        1,
        &["Begin it with [program.NAME]"],
    );
}

#[test]
fn a_mistake_costs_its_own_line_only() {
    let found = problems("NACC_LOG=info\nNACC_SPIN_US=70\n; x\nNACC_RING_SIZE=1\n");
    assert_eq!(found.len(), 3, "{found:?}");
    let file = file("NACC_LOG=info\nNACC_SPIN_US=70\n; x\nNACC_RING_SIZE=1\nNACC_NEW=1\n");
    let path = file.path().to_str().unwrap();
    let (config, diagnostics) = with_environment(&[("NACC_CONF", path)], config::load);
    assert_eq!(
        config,
        Config {
            spin: Duration::from_micros(70),
            ..Config::default()
        }
    );
    let lines: Vec<_> = diagnostics.iter().map(|d| d.origin.to_string()).collect();
    assert_eq!(lines, [1, 3, 4, 5].map(|line| format!("{path}:{line}")));
}

#[test]
fn settings_must_fit_each_other() {
    let text = "NACC_RDMA_MR_MIN_INC_SIZE=\"2M\"\nNACC_RDMA_MR_MAX_INC_SIZE=\"1M\"";
    assert_problem(
        text,
        2,
        &["(1048576) is smaller than", "(2097152)", "2097152 or more"],
    );
    assert_problem(
        "\nNACC_WINDOW_SIZE=\"1M\"",
        2,
        &[
            "half of NACC_RING_SIZE",
            "524288 or less",
            "2097152 or more",
        ],
    );
    // A window that nobody set follows the ring.
    assert_eq!(
        check("NACC_RING_SIZE=\"64K\"").unwrap().window_size,
        32 << 10
    );

    let variables = [
        ("NACC_CONF", "/dev/null"),
        ("NACC_RING_SIZE", "64K"),
        ("NACC_WINDOW_SIZE", "64K"),
    ];
    let (config, diagnostics) = with_environment(&variables, config::load);
    assert_eq!(config, Config::default(), "both get their defaults");
    assert_eq!(diagnostics.len(), 1);
    assert_eq!(
        diagnostics[0].origin,
        Origin::Environment("NACC_WINDOW_SIZE")
    );
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let file = file("NACC_SPIN_US=1\nNACC_SOR_IO_THREADS=2\nNACC_SOR_CONN_PER_QP=3");
    let path = file.path().to_str().unwrap();
    let environment = [
        ("NACC_CONF", path),
        ("NACC_SOR_IO_THREADS", "4"),
        ("NACC_SOR_CONN_PER_QP", "5"),
        ("NACC_SPIN_US", ""),
    ];
    let flags = [Flag {
        key: "NACC_SOR_CONN_PER_QP",
        spelling: "-p",
        value: "6",
    }];
    let (checked, loaded) = with_environment(&environment, || {
        (config::check(None, &flags), config::load())
    });
    let checked = checked.unwrap();
    assert_eq!(
        checked.spin,
        Duration::from_micros(1),
        "an empty variable counts as unset"
    );
    assert_eq!((checked.io_threads, checked.conn_per_qp), (4, 6));
    assert_eq!(
        (loaded.0.io_threads, loaded.0.conn_per_qp, loaded.1),
        (4, 5, vec![])
    );
}

#[test]
fn a_bad_variable_or_flag_is_named() {
    let flags = [
        Flag {
            key: "NACC_SOR_IO_THREADS",
            spelling: "-t",
            value: "65",
        },
        Flag {
            key: "NACC_NOTHING",
            spelling: "--nothing",
            value: "",
        },
    ];
    let check = || config::check(Some(OsStr::new("/dev/null")), &flags);
    let problems = with_environment(&[("NACC_LOG", "loud")], check).unwrap_err();
    let shown: Vec<_> = problems.iter().map(Diagnostic::to_string).collect();
    assert!(
        shown[0].starts_with("environment variable NACC_LOG: NACC_LOG is \"loud\""),
        "{shown:?}"
    );
    assert!(
        shown[1].starts_with("option -t: NACC_SOR_IO_THREADS is 65"),
        "{shown:?}"
    );
    assert!(
        shown[2].starts_with("option --nothing: NACC_NOTHING is not a key"),
        "{shown:?}"
    );
    assert_eq!(shown.len(), 3);
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_never_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let fifo = folder.path().join("fifo");
    let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
    // SAFETY: a NUL-terminated path.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let cases: [(&Path, &str); 4] = [
        (&missing, "no such file"),
        (folder.path(), "no regular file"),
        (&fifo, "no regular file"),
        (Path::new("/dev/zero"), "larger than 64 KiB"),
    ];
    for (path, expected) in cases {
        let problems =
            with_environment(&[], || config::check(Some(path.as_os_str()), &[])).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().starts_with(path.to_str().unwrap()));
        assert!(problems[0].sentence.contains(expected), "{problems:?}");
        let variables = [("NACC_CONF", path.to_str().unwrap())];
        let (config, warnings) = with_environment(&variables, config::load);
        assert_eq!((config, warnings), (Config::default(), problems));
    }
}

#[test]
fn loading_leaves_errno_alone() {
    // SAFETY: this thread's errno.
    let errno = unsafe { &mut *libc::__errno_location() };
    with_environment(
        &[("NACC_CONF", "/nowhere/at/all"), ("NACC_LOG", "x")],
        || {
            *errno = 77;
            let (_, diagnostics) = config::load();
            assert_eq!((*errno, diagnostics.len()), (77, 2));
        },
    );
}
