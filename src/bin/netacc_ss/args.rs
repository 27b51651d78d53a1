//! The options.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, ArgGroup, Parser, ValueEnum, ValueHint};

/// Shows links, connections, counters, memory and configuration of programs that run with NetACC.
#[derive(Parser)]
#[command(
    name = "netacc_ss",
    version,
    max_term_width = 100,
    disable_version_flag = true
)]
#[command(group(ArgGroup::new("form").args(["json", "counters", "prometheus", "listen", "watch"])))]
pub struct Args {
    /// What to show
    #[arg(
        short = 's',
        long = "show",
        value_enum,
        value_name = "VIEW",
        default_value_t = View::All,
        conflicts_with_all = ["counters", "prometheus", "listen", "watch"]
    )]
    pub show: View,
    /// Show only this process
    #[arg(short = 'p', long = "pid", value_name = "PID", value_hint = ValueHint::Other)]
    pub pid: Option<u32>,
    /// Print JSON (docs/netacc_ss.schema.json describes it)
    #[arg(short = 'j', long)]
    pub json: bool,
    /// Print counters only, one "name value" a line, for scripts
    #[arg(long)]
    pub counters: bool,
    /// Print counters in Prometheus' text format
    #[arg(long)]
    pub prometheus: bool,
    /// Write to this file, whole or not at all, instead of standard output
    #[arg(short = 'o', long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["listen", "watch"])]
    pub output: Option<PathBuf>,
    /// Serve Prometheus' text format over HTTP, on 127.0.0.1 unless an address is given
    #[arg(long, value_name = "[ADDRESS:]PORT", value_hint = ValueHint::Other, value_parser = listen_address, conflicts_with = "pid")]
    pub listen: Option<SocketAddr>,
    /// Show rates again and again, after so many seconds (1 unless given)
    #[arg(
        short = 'w',
        long,
        value_name = "SECONDS",
        value_hint = ValueHint::Other,
        num_args = 0..=1,
        default_missing_value = "1",
        value_parser = seconds
    )]
    pub watch: Option<Duration>,
    /// With --watch: end after so many times
    #[arg(short = 'n', long, value_name = "TIMES", value_hint = ValueHint::Other, requires = "watch")]
    pub times: Option<u64>,
    /// Print version
    #[arg(short = 'V', visible_short_alias = 'v', long = "version", action = ArgAction::Version)]
    _version: Option<bool>,
}

/// Parts of what a process shows.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// Everything
    All,
    /// The configuration in force, and where each value came from
    Cfg,
    /// Counters, and why connections stayed on kernel TCP
    Cnt,
    /// Registered memory, rings, and what was moved out of them
    Mem,
    /// Queue pairs
    Qp,
    /// Connections
    Sock,
    /// Links
    Link,
    /// Processes alone: a line for each, with the library that it runs
    Proc,
}

impl View {
    /// Whether `part` is to be shown.
    pub fn wants(self, part: View) -> bool {
        self == part || self == View::All
    }
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        "give a port, or an address and a port: 9100, 0.0.0.0:9100, [::1]:9100".to_owned()
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("give seconds from 0.1 to 86400".to_owned()),
    }
}
