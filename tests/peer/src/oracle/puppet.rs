//! The other end of the connections under test: carries out one-line commands, in this process or in
//! one of its own that reads them from a pipe.

use crate::sys::{self, Errno};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

/// The byte at `offset` of what a puppet sends.
pub fn byte(offset: usize) -> u8 {
    (offset % 251) as u8
}

/// Sockets by name, and what to do with them.
#[derive(Default)]
pub struct Puppet {
    fds: HashMap<String, i32>,
    sent: HashMap<String, usize>,
    later: Vec<JoinHandle<String>>,
}

fn payload(from: usize, n: usize) -> Vec<u8> {
    (from..from + n).map(byte).collect()
}

/// Sends everything, on a blocking or a non-blocking socket.
fn send_all(fd: i32, data: &[u8]) -> String {
    let mut done = 0;
    while done < data.len() {
        match sys::send(fd, &data[done..], libc::MSG_NOSIGNAL) {
            Ok(n) => done += n,
            Err(e) => return format!("{e} after {done}"),
        }
    }
    done.to_string()
}

/// Reads until `limit` bytes or the end: "bytes checksum ending".
fn receive(fd: i32, limit: usize) -> String {
    let mut crc = crc32fast::Hasher::new();
    let mut got = 0;
    let mut buf = vec![0; 65536];
    let ending = loop {
        if got == limit {
            break "more?".to_string();
        }
        let n = buf.len().min(limit - got);
        match sys::recv(fd, &mut buf[..n], 0) {
            Ok(0) => break "eof".to_string(),
            Ok(n) => {
                crc.update(&buf[..n]);
                got += n;
            }
            Err(e) => break e.to_string(),
        }
    };
    format!("{got} {:08x} {ending}", crc.finalize())
}

fn done(r: Result<usize, Errno>) -> String {
    match r {
        Ok(_) => "ok".to_string(),
        Err(e) => e.to_string(),
    }
}

impl Puppet {
    /// Carries out one command; the answer is one line.
    pub fn exec(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        let number = |i: usize| {
            words[i]
                .parse::<usize>()
                .unwrap_or_else(|_| panic!("'{command}': word {i}"))
        };
        let id = words.get(1).copied().unwrap_or_default();
        let fd = || {
            *self
                .fds
                .get(id)
                .unwrap_or_else(|| panic!("'{command}': no socket '{id}'"))
        };
        match words[0] {
            "listen" => self.keep(id, sys::listener(words[2].parse().expect("address"), 64)),
            "connect" => self.keep(id, sys::connected(words[2].parse().expect("address"))),
            "accept" => {
                let listener = self.fds[words[2]];
                self.keep(id, sys::accept4(listener, libc::SOCK_CLOEXEC))
            }
            "send" => {
                let fd = fd();
                let from = self.sent.entry(id.to_string()).or_default();
                *from += number(2);
                send_all(fd, &payload(*from - number(2), number(2)))
            }
            "recv" => receive(fd(), number(2)),
            "drain" => receive(fd(), usize::MAX),
            "shutdown" => done(sys::shutdown(fd(), number(2) as i32)),
            "poll" => sys::word(sys::poll(fd(), number(2) as i16, sys::PATIENCE_MS)),
            "sockname" => format!("{:?}", sys::getsockname(fd())),
            "peername" => format!("{:?}", sys::getpeername(fd())),
            "close" => {
                let fd = fd();
                self.fds.remove(id);
                self.sent.remove(id);
                done(sys::close(fd))
            }
            "reset" => {
                let linger = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                let set = sys::setsockopt(fd(), libc::SOL_SOCKET, libc::SO_LINGER, &linger);
                format!("{} {}", done(set), self.exec(&format!("close {id}")))
            }
            // Something a little later, while the other end is blocked: "later MS COMMAND ID [N]".
            "later" => {
                let (ms, fd) = (number(1), self.fds[words[3]]);
                let n = words.get(4).map_or(0, |_| number(4));
                let what = words[2].to_string();
                self.later.push(std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(ms as u64));
                    match what.as_str() {
                        "send" => send_all(fd, &payload(0, n)),
                        "drain" => receive(fd, n),
                        _ => done(sys::shutdown(fd, n as i32)),
                    }
                }));
                "ok".to_string()
            }
            "send-and-exit" => {
                send_all(fd(), &payload(0, number(2)));
                // SAFETY: the point of this command: nothing of ours runs after the send.
                unsafe { libc::_exit(0) }
            }
            "forget" => {
                // A thread that still used a socket would use the number's next one.
                for thread in self.later.drain(..) {
                    let _ = thread.join();
                }
                for (_, fd) in self.fds.drain() {
                    let _ = sys::close(fd);
                }
                self.sent.clear();
                "ok".to_string()
            }
            other => panic!("'{other}': no such command"),
        }
    }

    fn keep(&mut self, id: &str, fd: sys::Res<i32>) -> String {
        match fd {
            Ok(fd) => {
                let old = self.fds.insert(id.to_string(), fd);
                assert_eq!(old, None, "the name '{id}' is in use");
                "ok".to_string()
            }
            Err(e) => e.to_string(),
        }
    }
}

/// The `puppet` role: commands from standard input, answers to standard output, until its end.
pub fn serve() -> ! {
    let mut puppet = Puppet::default();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        crate::verdict::line(&puppet.exec(&line));
    }
    std::process::exit(0)
}

/// A puppet in this process, or in its own.
pub enum Remote {
    /// Both ends in one process.
    Here(Puppet),
    /// Another process.
    There {
        /// The process.
        child: Child,
        /// Its commands; none once closed.
        commands: Option<ChildStdin>,
        /// Its answers.
        answers: BufReader<ChildStdout>,
    },
}

impl Remote {
    /// Starts a puppet process: this program again, in the same environment.
    pub fn start() -> Remote {
        let exe = std::env::current_exe().expect("this program's path");
        let mut command = Command::new(exe);
        command
            .arg("puppet")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("a second process");
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        Remote::There {
            child,
            commands,
            answers,
        }
    }

    /// Has a command carried out; its answer, empty if the process has gone.
    pub fn tell(&mut self, command: &str) -> String {
        match self {
            Remote::Here(puppet) => puppet.exec(command),
            Remote::There {
                commands, answers, ..
            } => {
                let mut answer = String::new();
                if let Some(commands) = commands {
                    let _ = writeln!(commands, "{command}");
                    let _ = answers.read_line(&mut answer);
                }
                answer.trim_end().to_string()
            }
        }
    }

    /// Kills the process, if it is one.
    pub fn kill(&mut self) {
        if let Remote::There { child, .. } = self {
            let _ = child.kill();
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Remote::There {
            child, commands, ..
        } = self
        {
            commands.take();
            let _ = child.wait();
        }
    }
}
