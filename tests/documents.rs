//! Documents that say what the code says: each reason for kernel TCP, and links that lead somewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use netacc::stats::Reason;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    let path = path(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares a document with what it should be, or writes it when asked to.
fn assert_document(name: &str, expected: &str) {
    if std::env::var_os("NETACC_UPDATE").is_some() {
        std::fs::write(path(name), expected).unwrap();
    }
    assert!(
        read(name) == expected,
        "{name} is stale; write it anew with: NETACC_UPDATE=1 cargo test --test documents"
    );
}

/// What there is to tell about: all but the one that says that there is no reason.
fn reasons() -> impl Iterator<Item = Reason> {
    Reason::ALL
        .iter()
        .copied()
        .filter(|reason| *reason != Reason::None)
}

// --- docs/troubleshooting.md

const TROUBLES: &str = "docs/troubleshooting.md";

/// The entries under "### `name`": name, quoted sentence, and what else is said.
fn entries(text: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for part in text.split("\n### `").skip(1) {
        let (name, body) = part.split_once("`\n").expect("a heading ends its line");
        let body = body.split("\n## ").next().unwrap_or_default();
        let lines = || body.lines().map(str::trim);
        let quoted = lines().filter_map(|line| line.strip_prefix("> "));
        let said = lines().filter(|line| !line.starts_with('>'));
        found.push((
            name.to_owned(),
            quoted.collect::<Vec<_>>().join(" "),
            said.collect::<Vec<_>>().join(" ").trim().to_owned(),
        ));
    }
    found
}

#[test]
fn each_reason_has_one_entry_with_its_sentence_and_more() {
    let mut text = read(TROUBLES);
    if std::env::var_os("NETACC_UPDATE").is_some() {
        for (name, quoted, _) in entries(&text) {
            if let Some(reason) = reasons().find(|reason| reason.name() == name) {
                text = text.replace(
                    &format!("`{name}`\n\n> {quoted}\n"),
                    &format!("`{name}`\n\n> {}\n", reason.sentence()),
                );
            }
        }
        std::fs::write(path(TROUBLES), &text).unwrap();
    }
    let entries = entries(&text);
    let told: Vec<_> = entries.iter().map(|(name, ..)| name.as_str()).collect();
    let known: BTreeSet<_> = reasons().map(Reason::name).collect();
    assert_eq!(
        told.iter().copied().collect::<BTreeSet<_>>(),
        known,
        "{TROUBLES} has an entry (### `name`) for each reason of src/stats/reason.rs, and for no others"
    );
    assert_eq!(told.len(), known.len(), "an entry is there twice");
    for (name, quoted, said) in &entries {
        let reason = reasons()
            .find(|reason| reason.name() == name)
            .expect("as above");
        assert_eq!(
            quoted,
            reason.sentence(),
            "{TROUBLES}, {name}: netacc_ss says another sentence; NETACC_UPDATE=1 cargo test --test documents"
        );
        assert!(
            said.len() > 60,
            "{TROUBLES}, {name}: it says no more than netacc_ss does"
        );
    }
}

// --- docs/man/netacc.7

#[test]
fn the_manual_page_lists_the_reasons() {
    const PAGE: &str = "docs/man/netacc.7";
    const BEGIN: &str = ".\\\" Reasons: written by cargo test --test documents\n";
    const END: &str = ".\\\" End of reasons\n";
    let page = read(PAGE);
    let (head, rest) = page.split_once(BEGIN).expect("a place for the reasons");
    let (_, tail) = rest.split_once(END).expect("the place for them ends");
    let list: String = reasons()
        .map(|reason| {
            let sentence = reason.sentence().replace('\\', "\\e").replace('-', "\\-");
            format!(".TP\n.B {}\n{sentence}\n", reason.name())
        })
        .collect();
    assert_document(PAGE, &format!("{head}{BEGIN}{list}{END}{tail}"));
}

// --- docs/bench.svg, and the table of the same figures

/// The plot and the document that come of the figures in `json`, and what was said if they do not.
fn drawn(json: &Path, document: &str) -> Result<[String; 2], String> {
    let folder = tempfile::tempdir().unwrap();
    let [svg, text] = ["bench.svg", "README.md"].map(|name| folder.path().join(name));
    std::fs::write(&text, document).unwrap();
    let run = Command::new("python3")
        .args(["-B", "scripts/bench_plot.py"])
        .args([json, &svg, &text])
        .current_dir(path(""))
        .output()
        .expect("python3 runs");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    match run.status.success() {
        true => Ok([svg, text].map(|file| std::fs::read_to_string(file).unwrap())),
        false => {
            assert!(!svg.exists(), "all or nothing: {said}");
            Err(said)
        }
    }
}

#[test]
fn the_plot_and_the_table_are_made_of_the_figures() {
    let [svg, readme] = drawn(&path("docs/bench.json"), &read("README.md")).unwrap();
    assert!(svg.ends_with("</svg>\n"), "{svg}");
    for (name, made) in [("docs/bench.svg", svg), ("README.md", readme)] {
        assert!(
            made == read(name),
            "{name} is stale; make it anew with: make bench-plot"
        );
    }
}

#[test]
fn the_pictures_of_curves_are_made_of_the_figures() {
    let folder = tempfile::tempdir().unwrap();
    for group in ["scaling", "settings"] {
        let made = folder.path().join(group);
        let run = Command::new("python3")
            .args(["-B", "scripts/bench_curves.py", group, "--from"])
            .arg(path(&format!("docs/{group}.json")))
            .arg("--svg")
            .arg(&made)
            .current_dir(path(""))
            .output()
            .expect("python3 runs");
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        assert!(
            std::fs::read_to_string(made).unwrap() == read(&format!("docs/{group}.svg")),
            "docs/{group}.svg is stale; make it anew with: scripts/bench_curves.py {group} --from docs/{group}.json --svg docs/{group}.svg"
        );
    }
}

#[test]
fn figures_of_a_run_make_the_table_with_its_times() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("bench.json");
    let side =
        |rps: u32, p50: f64, p99: f64| serde_json::json!({"rps": rps, "p50": p50, "p99": p99});
    let set = serde_json::json!({"tcp": side(1000, 0.5, 2.0), "netacc": side(4000, 0.125, 1.5), "ratio": 4.25});
    let report = serde_json::json!({
        "pairs": 5,
        "measured": {"date": "2030-01-02", "machine": "M", "workload": "W", "command": "C"},
        "rows": {"one": {"title": "1 connection", "summary": {"SET": set}}},
        "calls": "not counted",
    });
    std::fs::write(&json, report.to_string()).unwrap();
    let document = "before\n<!-- What follows is written by make bench-plot. -->\nold\n<!-- The end of it. -->\nafter\n";
    let [_, written] = drawn(&json, document).unwrap();
    let row = "| SET, 1 connection | 1,000 | 0.500, 2.000 | 4,000 | 0.125, 1.500 | 4.2 |";
    assert!(written.contains(row), "{written}");
    assert!(
        written.starts_with("before\n") && written.ends_with("-->\nafter\n"),
        "{written}"
    );
    assert!(
        !written.contains("old") && !written.contains("System calls"),
        "{written}"
    );
    let refused = drawn(&json, "no place").unwrap_err();
    assert!(refused.contains("no place for the table"), "{refused}");
}

// --- links

/// Targets of Markdown's `[text](target)` and of `src="target"`, outside of blocks of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, part) in text.split("```").enumerate() {
        if number % 2 == 1 {
            continue;
        }
        for (opens, closes) in [("](", ')'), ("src=\"", '"')] {
            for rest in part.split(opens).skip(1) {
                found.extend(rest.split_once(closes).map(|(target, _)| target.to_owned()));
            }
        }
    }
    found
}

/// A heading's anchor, as GitHub and others make it.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| -> String {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    for entry in std::fs::read_dir(path("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        documents.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    let mut followed = 0;
    for document in documents {
        let text = read(&document);
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = path(&document).parent().unwrap().to_owned();
            let target = if file.is_empty() {
                path(&document)
            } else {
                folder.join(file)
            };
            assert!(
                target.exists(),
                "{document}: {link} leads nowhere: there is no {}",
                target.display()
            );
            if !anchor.is_empty() && target.extension().is_some_and(|ending| ending == "md") {
                let there = std::fs::read_to_string(&target).unwrap();
                assert!(
                    anchors(&there).contains(anchor),
                    "{document}: {link} leads nowhere: no such heading"
                );
            }
            followed += 1;
        }
    }
    assert!(
        followed > 20,
        "only {followed} links: has their form changed?"
    );
}
