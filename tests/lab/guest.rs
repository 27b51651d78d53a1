//! The two guests, steered through the agent that runs in each.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::common::PATIENCE;
use crate::common::counters::Counters;
use crate::common::{bare, netacc_ss};

/// Where the agents listen, on the control wire.
const AGENT_PORT: u16 = 7070;
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// A port that nobody in either guest uses, nor the one 20000 above it.
pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let port = 8_000 + NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(port < 12_000, "no ports are left for tests");
    port
}

/// One of the two guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guest {
    /// Where the tests run.
    A,
    /// The other machine.
    B,
}

/// How a command ended and what it wrote.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; below zero the number of the signal that ended it.
    pub code: i64,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Guest {
    /// The guest that runs this program.
    pub fn local() -> Guest {
        match std::env::var("LAB_SELF").as_deref() {
            Ok("a") => Guest::A,
            Ok("b") => Guest::B,
            _ => panic!("these tests run in a guest of the RDMA lab: use `make rdma-lab`"),
        }
    }

    /// The other guest.
    pub fn peer() -> Guest {
        match Guest::local() {
            Guest::A => Guest::B,
            Guest::B => Guest::A,
        }
    }

    fn number(self) -> u8 {
        self as u8 + 1
    }

    /// Its address on a wire: 0 and 1 carry data, 2 carries what steers it.
    pub fn address(self, wire: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 5 + wire, 0, self.number())
    }

    /// Its IPv6 address on a wire.
    pub fn address6(self, wire: u8) -> Ipv6Addr {
        let number = u16::from(self.number());
        Ipv6Addr::new(0xfd05 + u16::from(wire), 0, 0, 0, 0, 0, 0, number)
    }

    /// Asks its agent; `limit` bounds the time until the answer.
    fn try_ask(self, request: &Value, limit: Duration) -> Result<Value, String> {
        let at = SocketAddr::new(IpAddr::V4(self.address(2)), AGENT_PORT);
        let exchange = || {
            let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(limit))?;
            writeln!(stream, "{request}")?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            serde_json::from_str::<Value>(&line).map_err(std::io::Error::from)
        };
        let answer = exchange().map_err(|e| format!("the agent of guest {self:?} at {at}: {e}"))?;
        match answer["error"].as_str() {
            Some(error) => Err(format!("the agent of guest {self:?}: {request}: {error}")),
            None => Ok(answer),
        }
    }

    fn ask(self, request: Value) -> Value {
        // The agent keeps to its own limit; this one is for an agent that is gone.
        let limit = PATIENCE + Duration::from_secs(20);
        self.try_ask(&request, limit)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a shell command to its end.
    pub fn run(self, sh: &str) -> Output {
        let answer = self.ask(json!({"op": "run", "sh": sh, "limit": PATIENCE.as_secs()}));
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_string();
        Output {
            code: answer["code"].as_i64().expect("an exit code"),
            out: text("out"),
            err: text("err"),
        }
    }

    /// Runs a shell command that must succeed: its output.
    pub fn must(self, sh: &str) -> String {
        let output = self.run(sh);
        assert_eq!(output.code, 0, "guest {self:?}: {sh}: {output:#?}");
        output.out
    }

    /// The text of a file.
    pub fn read(self, path: &str) -> String {
        let answer = self.ask(json!({"op": "read", "path": path}));
        answer["text"].as_str().unwrap_or_default().to_string()
    }

    /// Starts a program with the arguments and the environment of `command`. It ends with what is returned.
    pub fn spawn(self, command: &Command) -> Remote {
        let text = |word: &std::ffi::OsStr| word.to_str().expect("UTF-8").to_string();
        let mut argv = vec![text(command.get_program())];
        argv.extend(command.get_args().map(text));
        let env: Map<String, Value> = command
            .get_envs()
            .map(|(name, value)| (text(name), value.map(text).into()))
            .collect();
        let answer = self.ask(json!({"op": "spawn", "argv": argv, "env": env}));
        let path = |name: &str| answer[name].as_str().expect("a path").to_string();
        Remote {
            guest: self,
            pid: answer["pid"].as_u64().expect("a process id") as u32,
            name: argv.join(" ").chars().take(200).collect(),
            out: path("out"),
            err: path("err"),
        }
    }

    /// Waits until some program listens on `port`.
    pub fn wait_listening(self, port: u16) {
        self.must(&format!(
            "until ss -Hltn 'sport = :{port}' | grep -q .; do sleep 0.02; done"
        ));
    }

    /// Cuts its power and boots it anew; returns when it is ready, with its devices. Not for the local guest.
    pub fn reboot(self) {
        assert_ne!(self, Guest::local(), "that would end the tests");
        let request = json!({"op": "ready"});
        let before = self.ask(request.clone())["boot"].clone();
        self.ask(json!({"op": "power", "again": true}));
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_ask(&request, Duration::from_secs(2)) {
                Ok(answer) if answer["boot"] != before => return,
                result => assert!(Instant::now() < deadline, "no reboot: {result:?}"),
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// A program that the agent of a guest started. It is killed when this is dropped.
pub struct Remote {
    guest: Guest,
    pid: u32,
    name: String,
    out: String,
    err: String,
}

impl Remote {
    /// Its process id, in its guest.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it runs.
    pub fn guest(&self) -> Guest {
        self.guest
    }

    /// What it has written to its standard output so far.
    pub fn output(&self) -> String {
        self.guest.read(&self.out)
    }

    /// What it has written to its standard error so far.
    pub fn errors(&self) -> String {
        self.guest.read(&self.err)
    }

    /// Waits for a line of its output of which `wanted` says yes.
    pub fn wait_for(&self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.ended(Duration::ZERO);
            let text = self.output();
            // A last line without its end is still being written.
            let lines = text.split_inclusive('\n');
            let mut whole = lines.filter_map(|line| line.strip_suffix('\n'));
            if let Some(line) = whole.find(|line| wanted(line)) {
                return line.to_string();
            }
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{self} (ended: {ended:?}) did not say what was waited for: {text}{}",
                self.errors()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// The peer program's verdict.
    pub fn verdict(&self) -> Value {
        let line = self.wait_for(|line| line.starts_with('{'));
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{self}: '{line}': {e}"))
    }

    /// Its exit code (below zero: the signal) if it ends within `limit`.
    pub fn ended(&self, limit: Duration) -> Option<i64> {
        let limit = limit.as_secs_f64();
        let request = json!({"op": "wait", "pid": self.pid, "limit": limit});
        self.guest.ask(request)["code"].as_i64()
    }

    /// Waits for its end: its exit code, below zero the number of a signal.
    pub fn wait(&self) -> i64 {
        self.ended(PATIENCE)
            .unwrap_or_else(|| panic!("{self} does not end: {}", self.errors()))
    }

    /// Waits for its end, which must be a success: its output.
    pub fn success(&self) -> String {
        let code = self.wait();
        let output = self.output();
        let start: String = output.chars().take(2_000).collect();
        assert_eq!(code, 0, "{self}: {start}{}", self.errors());
        output
    }

    /// Closes its standard input: what a program waits for that holds until it is let go.
    pub fn release(&self) {
        self.guest.ask(json!({"op": "release", "pid": self.pid}));
    }

    /// Sends it, and what it started, a signal.
    pub fn kill(&self, signal: i32) {
        let request = json!({"op": "kill", "pid": self.pid, "signal": signal});
        self.guest.ask(request);
    }

    /// All that `netacc_ss` says of it, as JSON; `None` when everything runs bare.
    pub fn shown(&self) -> Option<Value> {
        if bare() {
            return None;
        }
        let (tool, pid) = (netacc_ss(), self.pid);
        let text = self
            .guest
            .must(&format!("{} --json -p {pid}", tool.display()));
        let report: Value = serde_json::from_str(&text).expect("JSON");
        Some(report["processes"][0].clone())
    }

    /// The library's counters of it; `None` when everything runs bare.
    pub fn counters(&self) -> Option<Counters> {
        if bare() {
            return None;
        }
        let (tool, pid) = (netacc_ss(), self.pid);
        let text = self
            .guest
            .must(&format!("{} --counters -p {pid}", tool.display()));
        Some(Counters::parse(pid, &text))
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Remote {
            guest, pid, name, ..
        } = self;
        write!(f, "'{name}' (process {pid} of guest {guest:?})")
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // It may have ended with its guest, and a test that fails is not to fail twice.
        let request = json!({"op": "kill", "pid": self.pid, "signal": libc::SIGKILL});
        let _ = self.guest.try_ask(&request, Duration::from_secs(5));
    }
}
