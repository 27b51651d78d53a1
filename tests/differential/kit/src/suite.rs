//! All scenarios of the repository over one carrier.

use crate::compare::{AGAIN, Verdict, compare};
use crate::host::{Carrier, Host};
use crate::known::Known;
use crate::lang::{Scenario, parse};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where the scenarios are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios")
}

/// The scenarios of a file, named `FILE/SCENARIO`.
///
/// # Errors
/// The file cannot be read, or what is wrong in which line.
pub fn load(path: &Path) -> Result<Vec<Scenario>, String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let mut all = parse(&text).map_err(wrong)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    for scenario in &mut all {
        scenario.name = format!("{stem}/{}", scenario.name);
    }
    Ok(all)
}

/// All scenarios, in the order of the files' names.
///
/// # Errors
/// As [`load`].
pub fn load_all() -> Result<Vec<Scenario>, String> {
    let wrong = |e: std::io::Error| format!("{}: {e}", directory().display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory()).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if path.extension().is_some_and(|ext| ext == "scn") {
            paths.push(path);
        }
    }
    paths.sort();
    let all: Vec<_> = paths
        .iter()
        .map(|path| load(path))
        .collect::<Result<_, _>>()?;
    Ok(all.concat())
}

/// The list of known differences.
///
/// # Errors
/// It cannot be read, or a line of it is wrong.
pub fn known() -> Result<Known, String> {
    let path = directory().join("../known.txt");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Known::parse(&text)
}

/// Runs `scenarios` over `carrier`, several at a time: one text for each that is not as it should be.
pub fn failures(
    host: &dyn Host,
    scenarios: &[Scenario],
    carrier: Carrier,
    known: &Known,
) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            // What is known to differ is not doubted.
            let again = if known.has(carrier, &scenario.name) {
                0
            } else {
                AGAIN
            };
            let verdict = compare(host, scenario, carrier, again);
            if let Some(text) = judge(scenario, carrier, verdict, known) {
                found.lock().expect("the list").push(text);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4.min(scenarios.len()) {
            scope.spawn(work);
        }
    });
    let mut found = found.into_inner().expect("the list");
    found.sort();
    found
}

/// What is wrong with a verdict, for people.
fn judge(
    scenario: &Scenario,
    carrier: Carrier,
    verdict: Result<Verdict, String>,
    known: &Known,
) -> Option<String> {
    let (name, over) = (&scenario.name, carrier.name());
    let is_known = known.has(carrier, name);
    match verdict {
        Err(why) => Some(format!("{name} over {over} makes no sense: {why}\n")),
        Ok(Verdict::Different(_)) if is_known => None,
        Ok(Verdict::Different(diff)) => Some(format!(
            "{name} over {over}:\n{diff}again: {}\n",
            command(name, carrier)
        )),
        Ok(Verdict::Same) if known.always(carrier, name) => Some(format!(
            "{name} over {over} does not differ any more: take it out of tests/differential/known.txt\n"
        )),
        Ok(_) => None,
    }
}

/// What a person types to run a scenario alone.
fn command(name: &str, carrier: Carrier) -> String {
    let (file, scenario) = name.split_once('/').unwrap_or((name, ""));
    format!(
        "cargo run -p netacc-differential -- run tests/differential/scenarios/{file}.scn --scenario '{scenario}' --over {}",
        carrier.name()
    )
}
