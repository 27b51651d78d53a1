//! `--check`: whether NetACC can do its work here, and what to mend if not.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use netacc::config::{self, Config, DEFAULT_PATH, FabricName, LogLevel, Program, Report, Request};
use netacc::control::wire::{OLDEST, VERSION};
use netacc::stats::Page;
use rustix::fs::{Access, MemfdFlags};
use rustix::io::Errno;

use crate::side_ports::{of_netacc, of_this_host, outgoing, taken};
use crate::{EXIT_USAGE, library, limits, misspelt_variables, note, processors, program, rdma};

/// What was found of one matter.
pub struct Finding {
    verdict: Verdict,
    matter: &'static str,
    text: String,
}

/// How it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Ok,
    /// Programs run, but not all that NetACC can do will work.
    Warning,
    /// Must be mended: `netacc_run` would start nothing.
    Fix,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Fix => "fix",
        };
        write!(f, "{verdict:<8} {}: {}", self.matter, self.text)
    }
}

/// As it should be.
pub fn ok(matter: &'static str, text: impl Into<String>) -> Finding {
    finding(Verdict::Ok, matter, text)
}

/// Programs run, but not all will work.
pub fn warning(matter: &'static str, text: impl Into<String>) -> Finding {
    finding(Verdict::Warning, matter, text)
}

fn fix(matter: &'static str, text: impl Into<String>) -> Finding {
    finding(Verdict::Fix, matter, text)
}

fn finding(verdict: Verdict, matter: &'static str, text: impl Into<String>) -> Finding {
    let text = text.into();
    Finding {
        verdict,
        matter,
        text,
    }
}

/// Prints the findings, one on a line. Gives the exit status.
pub fn tell(findings: &[Finding]) -> i32 {
    let text: String = findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect();
    // Whoever reads it may have seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    let fixes = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Fix);
    if fixes { EXIT_USAGE } else { 0 }
}

/// Looks at everything.
pub fn all(request: &Request<'_>, report: &Report, command: Option<&OsStr>) -> Vec<Finding> {
    let config = &report.config;
    let mut findings = configuration(request, report);
    findings.extend(command.map(|command| started(command, config, &request.program)));
    findings.extend(log_file(config));
    findings.extend(processors::of_io_threads(config));
    findings.push(preload_library());
    findings.push(system_version());
    findings.extend(rdma_devices(config, Path::new("/sys"), Path::new("/dev")));
    findings.push(locked_memory(config));
    findings.extend(side_ports(config));
    findings.push(shared_memory());
    findings
}

fn configuration(request: &Request<'_>, report: &Report) -> Vec<Finding> {
    const MATTER: &str = "configuration";
    let mut problems: Vec<String> = report.mistakes().map(ToString::to_string).collect();
    // What is wrong with the settings of a program may show only together with those for all.
    for name in &report.sections {
        let request = Request {
            program: Program::of(OsStr::new(name)),
            ..request.clone()
        };
        for problem in config::inspect(&request).mistakes() {
            let problem = problem.to_string();
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    let mut findings: Vec<Finding> = problems.into_iter().map(|p| fix(MATTER, p)).collect();
    if findings.is_empty() {
        let set = report.origins.iter().flatten().count();
        let file = match &report.file {
            Some(file) => file.clone(),
            None => format!("there is no {DEFAULT_PATH}"),
        };
        let programs = match report.sections.as_slice() {
            [] => String::new(),
            sections => format!(", and sections for {}", sections.join(", ")),
        };
        let text = format!(
            "{file}; {set} of {} keys are set{programs}",
            report.origins.len()
        );
        findings.push(ok(MATTER, text));
    }
    let passed_over = report.foreign().map(ToString::to_string);
    findings.extend(passed_over.map(|m| warning(MATTER, m)));
    findings.extend(misspelt_variables().into_iter().map(|m| warning(MATTER, m)));
    findings
}

fn started(command: &OsStr, config: &Config, names: &Program) -> Finding {
    const MATTER: &str = "program";
    let path = match program::find(command) {
        Ok(path) => path,
        Err(failure) => return fix(MATTER, failure.message),
    };
    if let Some(reason) = program::cannot_be_preloaded(&path) {
        return warning(
            MATTER,
            format!("{} {reason}; it runs over plain TCP", path.display()),
        );
    }
    if config.leaves_alone(names) {
        return warning(
            MATTER,
            format!(
                "{} is left to kernel TCP. Look at NACC_PROGRAMS and NACC_PROGRAMS_EXCEPT.",
                path.display()
            ),
        );
    }
    ok(MATTER, format!("{} can be preloaded into", path.display()))
}

/// A log that cannot be written is lost without a word.
fn log_file(config: &Config) -> Option<Finding> {
    const MATTER: &str = "log";
    let file = Path::new(&config.log_file);
    if config.log == LogLevel::Off || config.log_file.is_empty() {
        return None;
    }
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let may = |path: &Path, access| rustix::fs::access(path.as_os_str().as_bytes(), access);
    let writable = match may(file, Access::EXISTS) {
        Ok(()) => may(file, Access::WRITE_OK),
        Err(_) => may(folder, Access::WRITE_OK | Access::EXEC_OK),
    };
    let shown = file.display();
    Some(match writable {
        Ok(()) => ok(MATTER, format!("goes to {shown}")),
        Err(error) => warning(
            MATTER,
            format!(
                "{shown} cannot be written: {}. Correct NACC_LOG_FILE, or its permissions for the user who runs the program.",
                system(error)
            ),
        ),
    })
}

fn preload_library() -> Finding {
    const MATTER: &str = "library";
    let ours = env!("CARGO_PKG_VERSION");
    let path = match library::find() {
        Ok(path) => path,
        // More than a line, for whom it stops; here one is enough.
        Err(message) => return fix(MATTER, message.replace('\n', " ")),
    };
    let shown = path.display();
    match note::version(&path) {
        Ok(Some(version)) if version == ours => ok(
            MATTER,
            format!("{shown} is version {version}, protocol {OLDEST}-{VERSION}"),
        ),
        Ok(Some(version)) => fix(
            MATTER,
            format!(
                "{shown} is version {version}, and netacc_run is {ours}. Install the same release of both."
            ),
        ),
        Ok(None) => fix(
            MATTER,
            format!(
                "{shown} is no library of NetACC {ours}. Install it anew, or correct NACC_PRELOAD_LIB."
            ),
        ),
        Err(error) => fix(
            MATTER,
            format!("{shown} cannot be read: {error}. Check its permissions."),
        ),
    }
}

/// What a report of a defect should name.
fn system_version() -> Finding {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    let release = release.unwrap_or_else(|error| format!("of unknown release: {error}"));
    ok("system", format!("Linux {}", release.trim()))
}

fn rdma_devices(config: &Config, sysfs: &Path, dev: &Path) -> Vec<Finding> {
    const MATTER: &str = "RDMA";
    if !config.fabrics.contains(&FabricName::Verbs) {
        return vec![ok(MATTER, "not used: NACC_FABRICS does not name verbs")];
    }
    let devices = rdma::devices(sysfs);
    if devices.is_empty() {
        return vec![ok(
            MATTER,
            "this host has no device; connections to other hosts are TCP",
        )];
    }
    let mut findings = Vec::new();
    for device in &devices {
        findings.push(match device.active {
            true => ok(MATTER, format!("{device} is up")),
            false => warning(
                MATTER,
                format!("{device} is down. Bring its interface up (ip link set NAME up), or look at its cable."),
            ),
        });
    }
    for door in rdma::doors(sysfs, dev) {
        if let Err(error) = rustix::fs::access(
            door.as_os_str().as_bytes(),
            Access::READ_OK | Access::WRITE_OK,
        ) {
            let error = system(error);
            findings.push(warning(
                MATTER,
                format!(
                    "{} cannot be used: {error}. Load its kernel module (modprobe rdma_ucm, ib_uverbs), or allow this user to read and write it.",
                    door.display()
                ),
            ));
        }
    }
    if let Err(error) = netacc::verbs::api::open() {
        findings.push(warning(MATTER, error.to_string()));
    }
    findings
}

fn locked_memory(config: &Config) -> Finding {
    const MATTER: &str = "locked memory";
    // As netacc_run would.
    limits::raise_locked_memory();
    // The region of full size is registered while smaller ones are still in use, which together have that size, too.
    let wanted = 2 * config.mr_max_inc_size.max(config.ring_size) as u64;
    let (kib, limit) = (wanted / 1024, limits::locked_memory());
    match limit {
        None => ok(MATTER, "unlimited"),
        Some(limit) if limit >= wanted => ok(MATTER, format!("{} KiB", limit / 1024)),
        Some(limit) if rdma::devices(Path::new("/sys")).is_empty() => ok(
            MATTER,
            format!(
                "{} KiB; nothing is locked without an RDMA device",
                limit / 1024
            ),
        ),
        Some(limit) => warning(
            MATTER,
            format!(
                "{} KiB, and RDMA may use {kib} KiB and more. Raise the limit: ulimit -l unlimited, LimitMEMLOCK=infinity in a systemd unit, or memlock in /etc/security/limits.conf.",
                limit / 1024
            ),
        ),
    }
}

fn side_ports(config: &Config) -> Vec<Finding> {
    const MATTER: &str = "side ports";
    let offset = config.side_port_offset;
    let highest = u16::MAX - offset;
    let mut text = format!("a server's port + {offset}; a port above {highest} has none");
    if let Some((first, last)) = outgoing() {
        text += &format!("; outgoing connections take ports from {first} to {last}");
    }
    let mut findings = vec![ok(MATTER, text)];
    for (port, side) in taken(&of_this_host(), &of_netacc(), offset) {
        findings.push(warning(
            MATTER,
            format!(
                "somebody listens at {side}, the side port of {port}. A server at {port} stays with TCP, unless that is another user's NetACC: free {side}, or set NACC_SIDE_PORT_OFFSET on both sides."
            ),
        ));
    }
    findings
}

fn shared_memory() -> Finding {
    const MATTER: &str = "shared memory";
    const PLACE: &str = "/dev/shm";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if let Err(error) = rustix::fs::memfd_create("netacc-check", flags) {
        let error = system(error);
        return warning(
            MATTER,
            format!(
                "links within this host cannot be made: memfd_create: {error}. Allow it (seccomp), or raise the limit on open files."
            ),
        );
    }
    let needed = size_of::<Page>() as u64;
    let room = rustix::fs::statvfs(PLACE).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    let writable = rustix::fs::access(PLACE, Access::WRITE_OK | Access::EXEC_OK);
    match room.and_then(|room| writable.map(|()| room)) {
        Ok(room) if room >= needed => ok(
            MATTER,
            format!(
                "{} KiB free in {PLACE}; each process takes up to {}",
                room / 1024,
                needed / 1024
            ),
        ),
        Ok(room) => warning(
            MATTER,
            format!(
                "{} KiB free in {PLACE}, and a process may take {}: netacc_ss may not see it. Free some, or mount it larger.",
                room / 1024,
                needed / 1024
            ),
        ),
        Err(error) => warning(
            MATTER,
            format!(
                "{PLACE} cannot be used: {}: netacc_ss sees no process. Mount a tmpfs there that this user can write to.",
                system(error)
            ),
        ),
    }
}

/// The system's words for an error.
fn system(error: Errno) -> io::Error {
    io::Error::from_raw_os_error(error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_down_or_not_to_be_used_is_warned_of() {
        let sysfs =
            rdma::tests::sysfs(&[("rxe0", "4: ACTIVE", "eth0"), ("siw0", "1: DOWN", "eth1")]);
        let dev = tempfile::tempdir().unwrap();
        std::fs::create_dir(dev.path().join("infiniband")).unwrap();
        for name in ["uverbs0", "uverbs1"] {
            std::fs::write(dev.path().join("infiniband").join(name), "").unwrap();
        }
        let look = |config: &Config| -> Vec<String> {
            let found = rdma_devices(config, sysfs.path(), dev.path());
            found.iter().map(Finding::to_string).collect()
        };
        let found = look(&Config::default());
        assert_eq!(found[0], "ok       RDMA: rxe0 on eth0 is up");
        assert!(
            found[1].starts_with("warning  RDMA: siw0 on eth1 is down. Bring"),
            "{found:?}"
        );
        assert!(found[2].starts_with("warning  RDMA: "), "{found:?}");
        assert!(
            found[2].contains("infiniband/rdma_cm cannot be used: No such file"),
            "{found:?}"
        );
        // What follows depends on whether this machine has the libraries.
        let without = Config {
            fabrics: vec![FabricName::Shm],
            ..Config::default()
        };
        assert_eq!(look(&without).len(), 1);
        let none = tempfile::tempdir().unwrap();
        let found = rdma_devices(&Config::default(), none.path(), dev.path());
        assert!(found.len() == 1 && found[0].verdict == Verdict::Ok);
    }

    #[test]
    fn a_log_that_would_be_lost_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let to = |log, file: &str| {
            let path = folder.path().join(file);
            let config = Config {
                log,
                log_file: path.to_str().unwrap().to_owned(),
                ..Config::default()
            };
            log_file(&config).map(|finding| finding.verdict == Verdict::Ok)
        };
        assert_eq!(to(LogLevel::Off, "no/log"), None);
        assert_eq!(to(LogLevel::Info, "log"), Some(true));
        assert_eq!(to(LogLevel::Info, "no/log"), Some(false));
        std::fs::write(folder.path().join("there"), "").unwrap();
        assert_eq!(to(LogLevel::Info, "there"), Some(true));
        assert!(!folder.path().join("log").exists(), "only looked at");
    }

    #[test]
    fn only_what_must_be_mended_is_a_failure() {
        assert_eq!(tell(&[]), 0);
        assert_eq!(tell(&[ok("a", "b"), warning("c", "d")]), 0);
        assert_eq!(tell(&[ok("a", "b"), fix("c", "d")]), 2);
        assert_eq!(
            warning("RDMA", "x is down.").to_string(),
            "warning  RDMA: x is down."
        );
    }
}
