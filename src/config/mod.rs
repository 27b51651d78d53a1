//! Configuration: defaults, then `/etc/netacc.conf` and in it the section of the program, then the environment,
//! then `netacc_run`'s flags; each overrides the ones before it.
//!
//! [`load`] serves inside an application: it never fails, does no std I/O and leaves `errno` alone.
//! [`inspect`] serves the tools and tells all problems, and where each value came from. Both read the same table
//! of keys ([`keys::KEYS`]), which the example file and the manual are written from ([`document`]).

mod diagnostic;
pub mod document;
mod file;
pub mod keys;
mod program;
mod reader;
mod rules;
mod sys;
mod table;
mod value;
mod words;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

pub use diagnostic::{Diagnostic, Gravity, Origin};
use keys::{KEYS, Key};
pub use program::Program;
use reader::Reader;
pub use rules::Rule;

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
    /// `NACC_TCP_FIRST`.
    pub tcp_first: bool,
    /// `NACC_FAST_CONNECT`.
    pub fast_connect: bool,
    /// `NACC_AFFINITY`.
    pub affinity: Affinity,
    /// `NACC_FABRICS`, the preferred first; none twice.
    pub fabrics: Vec<FabricName>,
    /// `NACC_SHM_PEERS`.
    pub shm_peers: ShmPeers,
    /// `NACC_PEERS`; empty: all.
    pub peers: Vec<Rule>,
    /// `NACC_PEERS_EXCEPT`.
    pub peers_except: Vec<Rule>,
    /// `NACC_PROGRAMS`; empty: all.
    pub programs: Vec<String>,
    /// `NACC_PROGRAMS_EXCEPT`.
    pub programs_except: Vec<String>,
    /// `NACC_LOG`.
    pub log: LogLevel,
    /// `NACC_LOG_FILE`; empty: standard error.
    pub log_file: String,
}

/// Where the I/O threads run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affinity {
    /// Wherever the thread may that makes them.
    Anywhere,
    /// Each on one processor, of those.
    Each,
    /// The same, if there are more processors than I/O threads.
    EachIfRoom,
    /// All on these.
    On(Vec<u16>),
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

/// Processes of this host with which memory is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShmPeers {
    /// Those of the same effective user.
    SameUser,
    /// Those of any user, in the same user namespace.
    SameUserNamespace,
    /// All that share the network namespace.
    Any,
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
            tcp_first: false,
            fast_connect: false,
            affinity: Affinity::Anywhere,
            shm_peers: ShmPeers::SameUser,
            fabrics: Vec::new(),
            peers: Vec::new(),
            peers_except: Vec::new(),
            programs: Vec::new(),
            programs_except: Vec::new(),
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

impl Config {
    /// Whether the lists of programs leave the one of this process to the kernel.
    pub fn leaves_us_alone(&self) -> bool {
        let any = !self.programs.is_empty() || !self.programs_except.is_empty();
        any && self.leaves_alone(&Program::current())
    }

    /// Whether the lists of programs leave `program` to the kernel.
    pub fn leaves_alone(&self, program: &Program) -> bool {
        let named = |names: &[String]| names.iter().any(|name| program.is(name));
        !self.programs.is_empty() && !named(&self.programs) || named(&self.programs_except)
    }
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
    let mut reader = Reader::new(None);
    reader.read_file_of_environment();
    reader.read_environment();
    reader.cross_check();
    let report = reader.report();
    let told = report.lines();
    (report.config, report.problems, told)
}

/// Of which configuration a tool wants to know.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// The file; `None`: where an application would find it.
    pub path: Option<&'a OsStr>,
    /// What was said on the command line.
    pub flags: &'a [Flag<'a>],
    /// Which program it is to be for.
    pub program: Program,
}

/// The configuration that a program would have.
#[derive(Debug)]
pub struct Report {
    /// The settings.
    pub config: Config,
    /// Where each came from, in the order of [`KEYS`]; `None`: it has its default.
    pub origins: Vec<Option<Origin>>,
    /// All that is wrong.
    pub problems: Vec<Diagnostic>,
    /// The file that was read, if there is one.
    pub file: Option<String>,
    /// The programs that have sections in it, in its order.
    pub sections: Vec<String>,
}

impl Report {
    /// What must be mended before a tool starts a program.
    pub fn mistakes(&self) -> impl Iterator<Item = &Diagnostic> {
        self.of_gravity(Gravity::Mistake)
    }

    /// What can be passed over.
    pub fn foreign(&self) -> impl Iterator<Item = &Diagnostic> {
        self.of_gravity(Gravity::Foreign)
    }

    fn of_gravity(&self, gravity: Gravity) -> impl Iterator<Item = &Diagnostic> {
        let all = self.problems.iter();
        all.filter(move |problem| problem.gravity == gravity)
    }

    /// Each key, its value as a line of the file has it, and who set it.
    pub fn settings(&self) -> impl Iterator<Item = (&'static Key, String, Option<&Origin>)> {
        let values = KEYS
            .iter()
            .map(|key| (key, value::written(&self.config, key)));
        values
            .zip(&self.origins)
            .map(|((key, value), origin)| (key, value, origin.as_ref()))
    }

    /// A line for each key: its name, its value and where that came from, between tabs.
    fn lines(&self) -> String {
        let mut lines = String::new();
        for (key, origin) in KEYS.iter().zip(&self.origins) {
            let origin = origin
                .as_ref()
                .map_or("default".to_owned(), Origin::to_string);
            for (text, end) in [
                (key.name, '\t'),
                (value::shown(&self.config, key).as_str(), '\t'),
                (origin.as_str(), '\n'),
            ] {
                lines.extend(text.chars().map(|c| if c.is_control() { '?' } else { c }));
                lines.push(end);
            }
        }
        lines
    }
}

/// Reads the configuration for a tool: the file, the environment and the flags. Bad values are left out.
pub fn inspect(request: &Request<'_>) -> Report {
    let mut reader = Reader::new(Some(request.program.clone()));
    match request.path {
        Some(path) => reader.read_file(path.as_bytes(), true),
        None => reader.read_file_of_environment(),
    }
    reader.read_environment();
    request.flags.iter().for_each(|flag| reader.read_flag(flag));
    reader.cross_check();
    reader.report()
}

/// As [`inspect`], for no program in particular; any problem at all is an error.
pub fn check(path: Option<&OsStr>, flags: &[Flag<'_>]) -> Result<Config, Vec<Diagnostic>> {
    let report = inspect(&Request {
        path,
        flags,
        program: Program::default(),
    });
    match report.problems.is_empty() {
        true => Ok(report.config),
        false => Err(report.problems),
    }
}
