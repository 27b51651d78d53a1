//! A child process whose output is read line by line with a time limit, and that never outlives its test.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{PATIENCE, ports};

static STARTING: Mutex<()> = Mutex::new(());

/// Keeps the other tests of this program from starting programs until it is dropped.
pub fn nothing_starts() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a program; when this returns it runs, and holds nothing of ours any more.
///
/// # Errors
/// There is no such program, or it cannot be run.
pub fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let _one_at_a_time = nothing_starts();
    command.spawn()
}

/// A running program.
pub struct Proc {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Proc {
    /// Starts `command` with its standard input and output in our hands.
    pub fn start(mut command: Command) -> Proc {
        let name = format!("{:?}", command.get_program());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut command)
            .unwrap_or_else(|e| panic!("{name} does not start (is it installed?): {e}"));
        let input = child.stdin.take();
        let output = child.stdout.take().expect("its output");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Proc {
            name,
            child,
            input,
            lines,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its next line of output, `None` at the end.
    pub fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{} says nothing for {PATIENCE:?}", self.name)
            }
        }
    }

    /// Waits for the peer program's word that connections can come.
    pub fn wait_listening(&self) {
        assert_eq!(self.line().as_deref(), Some("listening"), "{}", self.name);
    }

    /// Waits until it listens on `port`, which nobody else does.
    pub fn wait_for_port(&mut self, port: u16) {
        let deadline = Instant::now() + PATIENCE;
        while !ports::is_listening(port) {
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("{} ended ({status}) and said: {}", self.name, self.rest());
            }
            let name = &self.name;
            assert!(
                Instant::now() < deadline,
                "{name} does not listen on {port}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The peer program's verdict.
    pub fn verdict(&self) -> Value {
        let line = self
            .line()
            .unwrap_or_else(|| panic!("{} ended without a verdict", self.name));
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}: '{line}': {e}", self.name))
    }

    /// All that is left of its output, when it has ended.
    pub fn rest(&self) -> String {
        let mut all = String::new();
        while let Some(line) = self.line() {
            all.push_str(&line);
            all.push('\n');
        }
        all
    }

    /// Writes one line to its input.
    pub fn tell(&mut self, line: &str) {
        if let Some(input) = &mut self.input {
            // It may have ended by itself: then its verdict says so.
            let _ = writeln!(input, "{line}");
        }
    }

    /// Lets go of a program that waits for the end of its input.
    pub fn release(&mut self) {
        self.input.take();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
    }

    /// Closes its input and waits for its end.
    pub fn finish(&mut self) -> ExitStatus {
        self.release();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end: its output; it must succeed.
pub fn output(command: Command) -> String {
    let shown = format!("{command:?}");
    let mut proc = Proc::start(command);
    proc.release();
    let text = proc.rest();
    let status = proc.finish();
    assert!(status.success(), "{shown}: {status}: {text}");
    text
}
