//! Where actors run: this machine, or the guests of the lab.

use crate::counters::Counters;
use crate::{bare, built, netacc_ss, ports, proc};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Over what the connections of a scenario go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// Kernel TCP between two processes: the oracle.
    Tcp,
    /// Kernel TCP within one process: the oracle for `Loop`.
    TcpOne,
    /// Two processes, both preloaded.
    Shm,
    /// One preloaded process plays all actors.
    Loop,
    /// Only a is preloaded.
    MixedA,
    /// Only b is preloaded.
    MixedB,
    /// Two processes on two hosts, both preloaded.
    Verbs,
}

impl Carrier {
    /// All that one machine has, the oracles apart.
    pub const HERE: [Carrier; 4] = [
        Carrier::Shm,
        Carrier::Loop,
        Carrier::MixedA,
        Carrier::MixedB,
    ];

    /// The name in the command line and in the list of known differences.
    pub fn name(self) -> &'static str {
        match self {
            Carrier::Tcp => "tcp",
            Carrier::TcpOne => "tcp-one",
            Carrier::Shm => "shm",
            Carrier::Loop => "loop",
            Carrier::MixedA => "mixed-a",
            Carrier::MixedB => "mixed-b",
            Carrier::Verbs => "verbs",
        }
    }

    /// The carriers that a name stands for: `mixed` for both.
    pub fn named(name: &str) -> Vec<Carrier> {
        let mut all = Carrier::HERE.to_vec();
        all.extend([Carrier::Tcp, Carrier::TcpOne, Carrier::Verbs]);
        all.retain(|carrier| {
            carrier.name() == name
                || carrier.name().split('-').next() == Some(name) && name == "mixed"
        });
        all
    }

    /// Does one process play all actors?
    pub fn one_process(self) -> bool {
        matches!(self, Carrier::TcpOne | Carrier::Loop)
    }

    /// Is this actor preloaded?
    pub fn preloads(self, actor: &str) -> bool {
        match self {
            Carrier::Tcp | Carrier::TcpOne => false,
            Carrier::Shm | Carrier::Loop | Carrier::Verbs => true,
            Carrier::MixedA => actor == "a",
            Carrier::MixedB => actor == "b",
        }
    }

    /// Are connections between the actors to be accelerated?
    pub fn accelerates(self) -> bool {
        matches!(self, Carrier::Shm | Carrier::Loop | Carrier::Verbs)
    }

    /// What its traces must be equal to.
    pub fn oracle(self) -> Carrier {
        if self.one_process() {
            Carrier::TcpOne
        } else {
            Carrier::Tcp
        }
    }
}

/// A running actor.
pub trait Process {
    /// The library's counters of it; `None` if it has none (any more).
    fn counters(&mut self) -> Option<Counters>;
}

/// Where actors run.
pub trait Host: Sync {
    /// Starts the process of `actor`, which connects to the runner at `control`.
    fn start(&self, actor: &str, preloaded: bool, control: SocketAddr) -> Box<dyn Process>;

    /// The address at which this runner listens for actors.
    fn control(&self) -> IpAddr;

    /// The addresses of the host of `actor` for the scenario's sockets.
    fn here(&self, actor: &str) -> (Ipv4Addr, Ipv6Addr);

    /// A port that nobody uses, nor its side port.
    fn port(&self) -> u16;

    /// How long what is on its way may take.
    fn settle(&self) -> Duration {
        Duration::from_millis(20)
    }

    /// How many bytes random scenarios may leave unread.
    fn room(&self) -> u64 {
        200_000
    }

    /// The actor's program and the environment that it needs.
    fn command(&self, actor: &str, preloaded: bool, control: SocketAddr) -> Command {
        let mut command = Command::new(built("netacc-differential-actor"));
        command.env_remove("LD_PRELOAD");
        if preloaded && !bare() {
            command.env("LD_PRELOAD", library());
            // Who has no processor for a second is not to be taken for one that does not answer.
            command.env("NACC_CONNECT_TIMEOUT_MS", "60000");
            command.env("NACC_SHORT_CONN_LIMIT", "0");
        }
        command.arg(control.to_string()).arg(actor);
        command
    }
}

/// The preload library.
fn library() -> PathBuf {
    match std::env::var_os("NACC_TEST_LIB") {
        Some(path) => std::path::absolute(path).expect("an absolute path"),
        None => built("libnetacc-preload.so"),
    }
}

/// This machine, over loopback.
pub struct Here;

struct Local(Child);

impl Process for Local {
    fn counters(&mut self) -> Option<Counters> {
        let pid = self.0.id();
        let mut command = Command::new(netacc_ss());
        command.args(["--counters", "-p", &pid.to_string()]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let out = proc::spawn(&mut command).ok()?.wait_with_output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout);
        // A process that never used TCP, or has ended, has none.
        out.status.success().then(|| Counters::parse(pid, &text))
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Host for Here {
    fn start(&self, actor: &str, preloaded: bool, control: SocketAddr) -> Box<dyn Process> {
        let mut command = self.command(actor, preloaded, control);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = proc::spawn(&mut command).expect("the actor's program");
        Box::new(Local(child))
    }

    fn control(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    fn here(&self, _: &str) -> (Ipv4Addr, Ipv6Addr) {
        (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
    }

    fn port(&self) -> u16 {
        ports::pair()
    }
}
