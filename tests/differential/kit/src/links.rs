//! The runner's connections to the threads of the actors.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long a step may take; then it hangs.
pub const LIMIT: Duration = Duration::from_secs(15);

/// One thread of an actor.
pub struct Link {
    reader: BufReader<TcpStream>,
    /// What came of a line whose end has not.
    begun: String,
    /// An answer that came before it was asked for.
    ready: Option<Answer>,
    /// The thread's number in its process's host.
    pub tid: i32,
}

/// What comes back from a thread.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A line.
    Line(String),
    /// The thread or its process is no more.
    Gone,
    /// Nothing came in time.
    Nothing,
}

impl Link {
    /// Tells the thread something.
    pub fn tell(&mut self, line: &str) {
        // One that is gone says so when its answer is read.
        let _ = writeln!(self.reader.get_mut(), "{line}");
    }

    /// Its answer, if it comes within `limit`.
    pub fn answer(&mut self, limit: Duration) -> Answer {
        if let Some(ready) = self.ready.take() {
            return ready;
        }
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero would be for ever.
            let left = left.max(Duration::from_millis(1));
            let _ = self.reader.get_ref().set_read_timeout(Some(left));
            match self.reader.read_line(&mut self.begun) {
                Ok(0) => return Answer::Gone,
                Ok(_) if self.begun.ends_with('\n') => {
                    let line = std::mem::take(&mut self.begun);
                    return Answer::Line(line.trim_end_matches('\n').to_string());
                }
                Ok(_) => return Answer::Gone,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= deadline {
                        return Answer::Nothing;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Answer::Gone,
            }
        }
    }

    /// Has it answered within `limit`? The answer stays.
    pub fn has_answered(&mut self, limit: Duration) -> bool {
        let answer = self.answer(limit);
        let answered = answer != Answer::Nothing;
        self.ready = answered.then_some(answer);
        answered
    }
}

/// All threads of a scenario.
pub struct Links {
    listener: TcpListener,
    known: HashMap<String, Link>,
}

impl Links {
    /// Nobody yet; waits for actors at `ip`.
    pub fn new(ip: IpAddr) -> Links {
        let listener = TcpListener::bind((ip, 0)).expect("a port for the actors");
        listener.set_nonblocking(true).expect("a listener");
        Links {
            listener,
            known: HashMap::new(),
        }
    }

    /// Where actors connect to.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("the listener's address")
    }

    /// Has the thread `name` said who it is?
    pub fn knows(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    /// The thread `name`; waits for it if it is about to come.
    ///
    /// # Errors
    /// It does not come.
    pub fn get(&mut self, name: &str) -> Result<&mut Link, String> {
        let deadline = Instant::now() + LIMIT;
        while !self.known.contains_key(name) {
            match self.listener.accept() {
                Ok((stream, _)) => self.greet(stream)?,
                Err(_) if Instant::now() > deadline => {
                    return Err(format!("'{name}' does not come to life"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        self.known.get_mut(name).ok_or_else(|| name.to_string())
    }

    fn greet(&mut self, stream: TcpStream) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("the connection of an actor: {e}");
        stream.set_nonblocking(false).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut link = Link {
            reader: BufReader::new(stream),
            begun: String::new(),
            ready: None,
            tid: 0,
        };
        // Whoever says nothing, or something else, is no actor, but somebody else who tries ports.
        let Answer::Line(line) = link.answer(LIMIT) else {
            return Ok(());
        };
        let words: Vec<&str> = line.split(' ').collect();
        let [name, _pid, tid] = words[..] else {
            return Ok(());
        };
        link.tid = tid.parse().map_err(|_| format!("'{tid}' is no thread"))?;
        self.known.insert(name.to_string(), link);
        Ok(())
    }
}
