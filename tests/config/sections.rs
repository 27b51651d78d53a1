//! Settings of one program, lists of programs, and where each value comes from.

use std::ffi::OsStr;
use std::time::Duration;

use netacc::config::{self, Config, Flag, Origin, Program, Request};

use super::{assert_problem, check, file, with_environment};

/// The name of this process, as the kernel has it.
fn own_name() -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    name.trim_end().to_owned()
}

#[test]
fn a_program_has_a_section_of_its_own() {
    let text = format!(
        "NACC_SPIN_US=1\n\
         [program.another]\n\
         NACC_SPIN_US=2\n\
         NACC_PEER_TTL_S=2\n\
         [program.\"{}\"]\n\
         NACC_SPIN_US=3\n\
         NACC_SOR_IO_THREADS=3\n\
         [netacc]\n\
         NACC_CONNECT_TIMEOUT_MS=100\n\
         NACC_SOR_CONN_PER_QP=4",
        own_name()
    );
    let file = file(text);
    let path = file.path().to_str().unwrap();
    let environment = [("NACC_CONF", path), ("NACC_SOR_CONN_PER_QP", "5")];
    let (config, diagnostics) = with_environment(&environment, config::load);
    let expected = Config {
        spin: Duration::from_micros(3),
        io_threads: 3,
        connect_timeout: Duration::from_millis(100),
        conn_per_qp: 5,
        ..Config::default()
    };
    assert_eq!((config, diagnostics), (expected, vec![]));

    let inspect = |program| {
        let request = Request {
            program,
            ..Request::default()
        };
        with_environment(&environment, || config::inspect(&request))
    };
    let another = inspect(Program::of(OsStr::new("/usr/bin/another")));
    assert_eq!(another.config.spin, Duration::from_micros(2));
    assert_eq!(another.config.peer_ttl, Duration::from_secs(2));
    assert_eq!(another.sections, ["another".to_owned(), own_name()]);
    let none = inspect(Program::default());
    assert_eq!(none.config.spin, Duration::from_micros(1));
}

#[test]
fn later_sections_that_a_program_has_override_earlier_ones() {
    let text = "[program.redis-server]\nNACC_SPIN_US=1\nNACC_SOR_IO_THREADS=2\n[program.\"redis*\"]\nNACC_SPIN_US=3";
    let file = file(text);
    let request = Request {
        path: Some(file.path().as_os_str()),
        program: Program::of(OsStr::new("redis-server")),
        ..Request::default()
    };
    let config = with_environment(&[], || config::inspect(&request)).config;
    assert_eq!((config.spin.as_micros(), config.io_threads), (3, 2));
}

#[test]
fn mistakes_in_sections_are_told_whosever_they_are() {
    assert_problem(
        "[program.a]\nNACC_SPIN_US=\"x\"",
        2,
        &["\"x\"", "no whole number"],
    );
    assert_problem(
        "[program.a]\nNACC_SPINS_US=1",
        2,
        &["Did you mean NACC_SPIN_US?"],
    );
    assert_problem(
        "[program.a]\nNACC_SPIN_US=1\n[program.b]\nNACC_SPIN_US=1\n[program.a]\nNACC_SPIN_US=2",
        6,
        &["already set in line 2"],
    );
    assert_eq!(
        check("NACC_SPIN_US=1\n[program.a]\nNACC_SPIN_US=2")
            .unwrap()
            .spin,
        Duration::from_micros(1)
    );
}

#[test]
fn programs_are_named_or_excepted() {
    let leaves_alone = |text: &str, program: &str| {
        let program = Program::of(OsStr::new(program));
        check(text).unwrap().leaves_alone(&program)
    };
    let named = "NACC_PROGRAMS=\"redis-server, nginx*\"\nNACC_PROGRAMS_EXCEPT=[\"nginx-debug\"]";
    assert!(!leaves_alone(named, "/usr/sbin/nginx"));
    assert!(!leaves_alone(named, "nginx-plus"));
    assert!(leaves_alone(named, "nginx-debug"));
    assert!(leaves_alone(named, "curl"));
    assert!(!leaves_alone("", "curl"));
    assert!(leaves_alone("NACC_PROGRAMS_EXCEPT=\"curl\"", "curl"));
}

#[test]
fn each_value_is_told_with_its_source_and_can_be_read_again() {
    let file = file(
        "NACC_SOR_MSG_SIZE=\"32K\"\nNACC_SOR_QP_IDLE_S=-1\nNACC_LOG_FILE='/tmp/\"a\"'\nNACC_RING_SIZE=\"64K\"\n\
         [program.x]\nNACC_FABRICS=\"none\"",
    );
    let path = file.path().to_str().unwrap();
    let flags = [Flag {
        key: "NACC_AFFINITY",
        spelling: "-A",
        value: "cpu:3,0-1",
    }];
    let request = Request {
        path: Some(file.path().as_os_str()),
        flags: &flags,
        program: Program::of(OsStr::new("x")),
    };
    let environment = [
        ("NACC_TCP_FIRST", "yes"),
        ("NACC_PEERS", "10.0.0.0/8:80, [fd00::/8]:1-2"),
    ];
    let report = with_environment(&environment, || config::inspect(&request));
    assert_eq!(report.problems, []);
    let told = |name: &str| {
        let (_, value, origin) = report
            .settings()
            .find(|(key, ..)| key.name == name)
            .unwrap();
        (
            value,
            origin.map_or("default".to_owned(), Origin::to_string),
        )
    };
    let pair = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(
        told("NACC_SOR_MSG_SIZE"),
        pair("32768", &format!("{path}:1"))
    );
    assert_eq!(
        told("NACC_SOR_QP_IDLE_S"),
        pair("\"-1\"", &format!("{path}:2"))
    );
    assert_eq!(
        told("NACC_LOG_FILE"),
        pair("\"/tmp/\\\"a\\\"\"", &format!("{path}:3"))
    );
    assert_eq!(told("NACC_FABRICS"), pair("\"none\"", &format!("{path}:6")));
    assert_eq!(told("NACC_AFFINITY"), pair("\"cpu:0,1,3\"", "option -A"));
    assert_eq!(
        told("NACC_TCP_FIRST"),
        pair("1", "environment variable NACC_TCP_FIRST")
    );
    assert_eq!(told("NACC_SPIN_US"), pair("50", "default"));
    assert_eq!(told("NACC_WINDOW_SIZE"), pair("32768", "default"));
    // What is told is a file that says the same.
    let lines: Vec<_> = report
        .settings()
        .map(|(key, value, _)| format!("{}={value}", key.name))
        .collect();
    assert_eq!(check(lines.join("\n")).unwrap(), report.config);
}
