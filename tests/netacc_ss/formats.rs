//! JSON and Prometheus' text, judged by parsers of others.

use std::collections::{BTreeMap, HashMap};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::page_process::PageProcess;
use crate::{common, complaint, counters, netacc_ss, output, output_of_all, serve};

/// What a script of tests/programs says of `text`. The parsers are Debian's, so their Python is, too.
fn judged(script: &str, args: &[&str], text: &str) -> String {
    let mut command = assert_cmd::Command::new("/usr/bin/python3");
    command.arg("-B").arg(common::script(script)).args(args);
    let assert = command.write_stdin(text).assert();
    let out = assert.get_output();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{script}: {said}\n{text}");
    String::from_utf8(out.stdout.clone()).unwrap()
}

/// JSON that the schema allows.
pub fn report(args: &[&str]) -> Value {
    as_described(&output(args))
}

/// The JSON `text`, which the schema must allow.
fn as_described(text: &str) -> Value {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/netacc_ss.schema.json");
    judged("json_schema.py", &[schema], text);
    serde_json::from_str(text).unwrap()
}

#[test]
fn totals_are_the_sums_of_all_processes() {
    let served = [PageProcess::after(&[serve]), PageProcess::after(&[serve])];
    let report = as_described(&output_of_all(&["-j", "-s", "cnt"]));
    let processes = report["processes"].as_array().unwrap();
    let totals = &report["totals"];
    assert_eq!(totals["processes"], processes.len());
    for part in ["counters", "connections_now"] {
        let sums = totals[part].as_object().unwrap();
        assert!(!sums.is_empty());
        for (name, sum) in sums {
            let one = |process: &Value| process[part][name].as_u64().unwrap();
            let all = processes.iter().map(one).fold(0, u64::wrapping_add);
            assert_eq!(sum.as_u64(), Some(all), "{name}");
        }
    }
    let times = |part: &Value, reason: &str| {
        let found = part["fallbacks"].as_array().unwrap().iter();
        let mut found = found.filter(|fallback| fallback["name"] == reason);
        found.next().map_or(0, |one| one["count"].as_u64().unwrap())
    };
    for reason in netacc::stats::Reason::ALL {
        let all: u64 = processes.iter().map(|one| times(one, reason.name())).sum();
        assert_eq!(times(totals, reason.name()), all, "{}", reason.name());
    }
    assert!(times(totals, "side_port_timeout") >= served.len() as u64);
    let report = as_described(&output_of_all(&["-j", "-s", "sock"]));
    assert_eq!(report.get("totals"), None);
}

#[test]
fn json_is_as_the_schema_says() {
    let process = PageProcess::after(&[serve]);
    let pid = process.pid.to_string();
    let report = report(&["-j", "-p", &pid]);
    assert_eq!(report["problems"], json!([]));
    let [one] = &report["processes"].as_array().unwrap()[..] else {
        panic!("{report:#}")
    };
    assert_eq!(one["pid"], process.pid);
    assert_eq!(one["protocol"], json!({"oldest": 1, "newest": 2}));
    let conns = &one["connections"];
    assert_eq!(conns[0]["mode"], "shm");
    assert_eq!(conns[0]["rx_queue"], 100);
    assert_eq!(
        conns[0]["local"],
        json!({"address": "127.0.0.1", "port": 6379})
    );
    assert_eq!(conns[1]["device"], "rocep1s0");
    assert_eq!(conns[1]["qp"], 18);
    assert_eq!(conns[1]["tx_queue"], 1200);
    assert_eq!(conns[2]["reason"]["name"], "side_port_timeout");
    assert_eq!(conns[2]["reason"]["code"], 2);
    assert_eq!(conns[3]["state"], "listen");
    assert_eq!(one["links"][1]["work_requests"], 8);
    assert_eq!(one["memory"]["devices"][0]["registered_bytes"], 49_152);
    assert_eq!(one["configuration"][1]["value"], "20");
    assert_eq!(one["fallbacks"][0]["count"], 1);
    // The same numbers as for scripts.
    let counters = counters(process.pid);
    let same = one["counters"].as_object().unwrap();
    assert!(same.len() > 30, "{same:?}");
    for (name, value) in same {
        assert_eq!(counters.get(name).copied(), value.as_u64(), "{name}");
    }
}

#[test]
fn json_has_the_parts_of_its_view_alone() {
    let process = PageProcess::after(&[serve]);
    let pid = process.pid.to_string();
    let parts = [
        ("cfg", &["configuration"][..]),
        ("cnt", &["connections_now", "counters", "fallbacks"]),
        ("mem", &["memory"]),
        ("qp", &["links"]),
        ("sock", &["connections"]),
        ("link", &["links"]),
        ("proc", &[]),
    ];
    let always = [
        "comm",
        "counting_since",
        "library",
        "pid",
        "protocol",
        "uid",
    ];
    for (view, parts) in parts {
        let report = report(&["-j", "-s", view, "-p", &pid]);
        let process = report["processes"][0].as_object().unwrap();
        let mut expected: Vec<&str> = always.into_iter().chain(parts.iter().copied()).collect();
        expected.sort_unstable();
        let mut names: Vec<&str> = process.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{view}");
    }
    let links = |view| {
        let report = report(&["-j", "-s", view, "-p", &pid]);
        report["processes"][0]["links"].as_array().unwrap().len()
    };
    assert_eq!((links("link"), links("qp")), (2, 1));
}

#[test]
fn json_tells_of_what_it_could_not_read() {
    let pid = std::process::id().to_string();
    let assert = netacc_ss(&["-j", "-p", &pid]).assert().code(1);
    let text = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["processes"], json!([]));
    let problem = report["problems"][0].as_str().unwrap();
    assert!(problem.contains("does not run NetACC"), "{problem}");
}

/// One sample: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

/// The samples of a text that Prometheus' own parser takes.
pub fn samples(text: &str) -> Vec<Sample> {
    let parsed = judged("prometheus_text.py", &[], text);
    serde_json::from_str(&parsed).unwrap()
}

#[test]
fn prometheus_takes_it_and_the_numbers_are_the_same() {
    let process = PageProcess::after(&[serve]);
    let text = output(&["--prometheus", "-p", &process.pid.to_string()]);
    let pid = process.pid.to_string();
    let mut found = HashMap::new();
    for (name, labels, value) in samples(&text) {
        if name != "netacc_processes" && name != "netacc_unreadable_processes" {
            assert_eq!(labels.get("pid"), Some(&pid), "{name}");
            assert!(labels.contains_key("comm"), "{name}");
        }
        // The name that scripts know it by.
        let by = |label: &str| labels.get(label).cloned().unwrap_or_default();
        let script = match &*name {
            "netacc_connections" => format!("conns_now_{}", by("mode")),
            "netacc_links" => "links_now".to_owned(),
            "netacc_connections_opened_total" => format!("connected_{}", by("mode")),
            "netacc_connections_accepted_total" => format!("accepted_{}", by("mode")),
            "netacc_fallbacks_total" => format!("fallback_{}", by("reason")),
            name if name.starts_with("netacc_link_") || name.starts_with("netacc_device_") => {
                continue;
            }
            name => {
                let name = name.strip_prefix("netacc_").unwrap();
                name.strip_suffix("_total").unwrap_or(name).to_owned()
            }
        };
        found.insert(script, value as u64);
    }
    let mut counters = counters(process.pid);
    for aside in [
        "pid",
        "protocol_oldest",
        "protocol_newest",
        "library_replaced",
    ] {
        counters.remove(aside);
    }
    for (name, value) in &counters {
        assert_eq!(found.get(name), Some(value), "{name} in\n{text}");
    }
}

#[test]
fn prometheus_shows_links_and_devices() {
    let process = PageProcess::after(&[serve]);
    let text = output(&["--prometheus", "-p", &process.pid.to_string()]);
    let all = samples(&text);
    let value = |name: &str, label: (&str, &str)| {
        let found = all.iter().find(|(n, labels, _)| {
            n == name && labels.get(label.0).map(String::as_str) == Some(label.1)
        });
        found.unwrap_or_else(|| panic!("no {name} in\n{text}")).2 as u64
    };
    assert_eq!(
        value("netacc_link_tx_bytes_total", ("device", "rocep1s0")),
        51_200
    );
    assert_eq!(value("netacc_link_rx_bytes_total", ("fabric", "shm")), 4321);
    assert_eq!(
        value("netacc_device_registered_bytes", ("device", "rocep1s0")),
        49_152
    );
}

#[test]
fn a_file_is_replaced_as_a_whole() {
    let process = PageProcess::after(&[serve]);
    let pid = process.pid.to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("netacc.prom");
    std::fs::write(&file, "of an earlier run").unwrap();
    let before = std::fs::File::open(&file).unwrap();
    let path = file.to_str().unwrap();
    assert_eq!(output(&["--prometheus", "-p", &pid, "-o", path]), "");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!samples(&text).is_empty());
    // Who had opened it reads the old text to its end, and nothing else is left there.
    assert_eq!(
        std::io::read_to_string(before).unwrap(),
        "of an earlier run"
    );
    assert_eq!(dir.path().read_dir().unwrap().count(), 1);

    let nowhere = dir.path().join("no/such/directory/netacc.prom");
    let nowhere = nowhere.to_str().unwrap();
    let said = complaint(
        &mut netacc_ss(&["--prometheus", "-p", &pid, "-o", nowhere]),
        1,
    );
    assert!(
        said.contains(&format!(
            "cannot write the output to {nowhere}: No such file"
        )),
        "{said}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let process = PageProcess::after(&[serve]);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_netacc_ss"));
    command.args(["-p", &process.pid.to_string()]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
}
