//! Configuration: defaults, then `/etc/netacc.conf`, then the environment, then `netacc_run`'s flags;
//! each overrides the ones before it.
//!
//! [`load`] serves inside an application: it never fails, does no std I/O and leaves `errno` alone.
//! [`check`] serves the tools, for which every problem is an error. Both read the same table of keys
//! ([`keys::KEYS`]), which the example file and the manual are written from ([`document`]).

mod diagnostic;
pub mod document;
mod file;
pub mod keys;
mod shown;
mod sys;
mod value;

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

pub use diagnostic::{Diagnostic, Origin};
use file::Finding;
use keys::KEYS;
use sys::ReadError;
use value::{Raw, Refusal};

use crate::log::ErrnoGuard;

/// The configuration file of a system.
pub const DEFAULT_PATH: &str = "/etc/netacc.conf";

/// Every setting, checked. [`keys::KEYS`] says what each one means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `NACC_SOR_MSG_SIZE`, bytes.
    pub msg_size: usize,
    /// `NACC_RDMA_MR_MIN_INC_SIZE`, bytes.
    pub mr_min_inc_size: usize,
    /// `NACC_RDMA_MR_MAX_INC_SIZE`, bytes; at least `mr_min_inc_size`.
    pub mr_max_inc_size: usize,
    /// `NACC_SOR_CONN_PER_QP`, connections a link.
    pub conn_per_qp: u32,
    /// `NACC_SOR_IO_THREADS`.
    pub io_threads: u32,
    /// `NACC_RING_SIZE`, bytes in each direction; a power of two.
    pub ring_size: usize,
    /// `NACC_WINDOW_SIZE`, bytes; at most half of `ring_size`.
    pub window_size: usize,
    /// `NACC_SPIN_US`; zero: never spin.
    pub spin: Duration,
    /// `NACC_CONNECT_TIMEOUT_MS`.
    pub connect_timeout: Duration,
    /// `NACC_PEER_TTL_S`.
    pub peer_ttl: Duration,
    /// `NACC_SHORT_CONN_LIMIT`; 0: never.
    pub short_conn_limit: u32,
    /// `NACC_SIDE_PORT_OFFSET`, added to a listening port.
    pub side_port_offset: u16,
    /// `NACC_SOR_QP_IDLE_S`; `None`: for ever.
    pub qp_idle: Option<Duration>,
    /// `NACC_FABRICS`, the preferred first; none twice.
    pub fabrics: Vec<FabricName>,
    /// `NACC_LOG`.
    pub log: LogLevel,
    /// `NACC_LOG_FILE`; empty: standard error.
    pub log_file: String,
}

/// A way to make links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FabricName {
    /// Within one process.
    Loop,
    /// Shared memory between two processes of one host.
    Shm,
    /// RDMA.
    Verbs,
    /// A kernel connection of the link's own.
    Tcp,
}

/// How much is logged; each level includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What went wrong.
    Error,
    /// What is odd, or stays TCP against expectation.
    Warn,
    /// Links made and lost.
    Info,
    /// Every connection's way.
    Debug,
    /// Everything.
    Trace,
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Config {
            msg_size: 0,
            mr_min_inc_size: 0,
            mr_max_inc_size: 0,
            conn_per_qp: 0,
            io_threads: 0,
            ring_size: 0,
            window_size: 0,
            spin: Duration::ZERO,
            connect_timeout: Duration::ZERO,
            peer_ttl: Duration::ZERO,
            short_conn_limit: 0,
            side_port_offset: 0,
            qp_idle: None,
            fabrics: Vec::new(),
            log: LogLevel::Off,
            log_file: String::new(),
        };
        for key in KEYS {
            value::store_default(&mut config, key);
        }
        config
    }
}

/// A command-line option that sets a key.
#[derive(Debug, Clone, Copy)]
pub struct Flag<'a> {
    /// The key's name.
    pub key: &'a str,
    /// The option as it was spelled, for messages.
    pub spelling: &'a str,
    /// Its value.
    pub value: &'a str,
}

/// Reads the configuration inside an application. A bad value is left out, so that what it would
/// have overridden, at last the default, stays; the diagnostics tell of it.
pub fn load() -> (Config, Vec<Diagnostic>) {
    let (config, diagnostics, _) = load_and_tell();
    (config, diagnostics)
}

/// The same, with a line for each key: its name, its value and where that came from, between tabs.
pub fn load_and_tell() -> (Config, Vec<Diagnostic>, String) {
    let _errno = ErrnoGuard::new();
    let mut reader = Reader::new();
    reader.read_file_of_environment();
    reader.read_environment();
    reader.cross_check();
    let told = shown::lines(&reader.config, &reader.set_by);
    (reader.config, reader.diagnostics, told)
}

/// Reads the configuration for a tool: from the file at `path` (`None`: where an application would
/// find it), the environment and `flags`. Any problem at all is an error.
pub fn check(path: Option<&OsStr>, flags: &[Flag<'_>]) -> Result<Config, Vec<Diagnostic>> {
    let mut reader = Reader::new();
    match path {
        Some(path) => reader.read_file(path.as_bytes(), true),
        None => reader.read_file_of_environment(),
    }
    reader.read_environment();
    for flag in flags {
        let origin = Origin::Flag(flag.spelling.to_owned());
        match keys::find(flag.key) {
            Some((index, _)) => reader.set(origin, index, &Raw::Text(flag.value)),
            None => reader.complain(origin, file::unknown_key(flag.key)),
        }
    }
    reader.cross_check();
    if reader.diagnostics.is_empty() {
        Ok(reader.config)
    } else {
        Err(reader.diagnostics)
    }
}

/// What the sources said so far.
struct Reader {
    config: Config,
    diagnostics: Vec<Diagnostic>,
    /// Who set each key of [`KEYS`]; `None`: it has its default.
    set_by: Vec<Option<Origin>>,
}

impl Reader {
    fn new() -> Self {
        let set_by = vec![None; KEYS.len()];
        Reader {
            config: Config::default(),
            diagnostics: Vec::new(),
            set_by,
        }
    }

    fn complain(&mut self, origin: Origin, (sentence, remedy): Refusal) {
        self.diagnostics.push(Diagnostic {
            origin,
            sentence,
            remedy,
        });
    }

    fn set(&mut self, origin: Origin, index: usize, raw: &Raw<'_>) {
        match value::store(&mut self.config, &KEYS[index], raw) {
            Ok(()) => self.set_by[index] = Some(origin),
            Err(refusal) => self.complain(origin, refusal),
        }
    }

    /// Reads the file that `NACC_CONF` names, which must be there, or else the system's, which need not.
    fn read_file_of_environment(&mut self) {
        match sys::environment(c"NACC_CONF") {
            Some(path) => self.read_file(&path, true),
            None => self.read_file(DEFAULT_PATH.as_bytes(), false),
        }
    }

    fn read_file(&mut self, path: &[u8], must_exist: bool) {
        let shown = String::from_utf8_lossy(path).into_owned();
        let at = |line| Origin::File {
            path: shown.clone(),
            line,
        };
        let read = match CString::new(path) {
            Ok(path) => sys::read_file(&path),
            Err(_) => Err(ReadError::Missing),
        };
        let refusal = match read {
            Ok(bytes) => {
                // Of a key that stands twice, the first line, so that the message can name it.
                let mut lines = vec![None; KEYS.len()];
                file::parse(&bytes, &mut |line, finding| match finding {
                    Finding::Problem(refusal) => self.complain(at(line), refusal),
                    Finding::Setting(index, key, raw) => match lines[index] {
                        Some(first) => {
                            let sentence = format!("{} is already set in line {first}.", key.name);
                            self.complain(
                                at(line),
                                (sentence, "Remove one of the two.".to_owned()),
                            );
                        }
                        None => {
                            lines[index] = Some(line);
                            self.set(at(line), index, raw);
                        }
                    },
                });
                return;
            }
            Err(ReadError::Missing) if !must_exist => return,
            Err(ReadError::Missing) => (
                "there is no such file.".to_owned(),
                "Check the path, or copy netacc.conf.example there.".to_owned(),
            ),
            Err(ReadError::NotAFile) => (
                "this is no regular file.".to_owned(),
                "Name a file of KEY=VALUE lines.".to_owned(),
            ),
            Err(ReadError::TooLarge) => (
                "this file is larger than 64 KiB, so it is no configuration.".to_owned(),
                "Name a file of KEY=VALUE lines.".to_owned(),
            ),
            Err(ReadError::Os(errno)) => {
                let error = std::io::Error::from_raw_os_error(errno.raw_os_error());
                let sentence = format!("the file cannot be read: {error}.");
                (
                    sentence,
                    "Check the permissions of the file and of the folders above it.".to_owned(),
                )
            }
        };
        self.complain(at(0), refusal);
    }

    fn read_environment(&mut self) {
        for (index, key) in KEYS.iter().enumerate() {
            let Ok(name) = CString::new(key.name) else {
                continue;
            };
            let Some(bytes) = sys::environment(&name) else {
                continue;
            };
            let origin = Origin::Environment(key.name);
            match std::str::from_utf8(&bytes) {
                Ok(text) => self.set(origin, index, &Raw::Text(text)),
                Err(_) => {
                    let sentence = format!("{} is not UTF-8 text.", key.name);
                    self.complain(origin, (sentence, value::remedy(key)));
                }
            }
        }
    }

    /// Checks settings against each other. A pair that does not fit gets its defaults.
    fn cross_check(&mut self) {
        if self.config.mr_max_inc_size < self.config.mr_min_inc_size {
            let (min, max) = (self.config.mr_min_inc_size, self.config.mr_max_inc_size);
            self.mismatch(
                ["NACC_RDMA_MR_MAX_INC_SIZE", "NACC_RDMA_MR_MIN_INC_SIZE"],
                format!("NACC_RDMA_MR_MAX_INC_SIZE ({max}) is smaller than NACC_RDMA_MR_MIN_INC_SIZE ({min})."),
                format!("Set NACC_RDMA_MR_MAX_INC_SIZE to {min} or more, or the other to {max} or less."),
            );
        }
        let half = self.config.ring_size / 2;
        let window_is_set =
            keys::find("NACC_WINDOW_SIZE").is_some_and(|(i, _)| self.set_by[i].is_some());
        if !window_is_set {
            self.config.window_size = self.config.window_size.min(half);
        }
        if self.config.window_size > half {
            let (window, ring) = (self.config.window_size, self.config.ring_size);
            let wanted = (2 * window).next_power_of_two();
            self.mismatch(
                ["NACC_WINDOW_SIZE", "NACC_RING_SIZE"],
                format!(
                    "NACC_WINDOW_SIZE ({window}) is more than half of NACC_RING_SIZE ({ring})."
                ),
                format!(
                    "Set NACC_WINDOW_SIZE to {half} or less, or NACC_RING_SIZE to {wanted} or more."
                ),
            );
        }
    }

    /// Complains at the first of `names` that was set, and gives them all their defaults.
    fn mismatch(&mut self, names: [&str; 2], sentence: String, remedy: String) {
        let mut origin = None;
        for (index, key) in names.iter().filter_map(|name| keys::find(name)) {
            origin = origin.or(self.set_by[index].take());
            value::store_default(&mut self.config, key);
        }
        // Defaults fit each other, so one of the two was set.
        let origin = origin.unwrap_or(Origin::File {
            path: DEFAULT_PATH.to_owned(),
            line: 0,
        });
        self.complain(origin, (sentence, remedy));
    }
}
