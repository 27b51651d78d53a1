//! Drives connections to their end: by two threads each, or many by one event loop.

use crate::stream::flow::{Rx, Step, Tx};
use crate::stream::plan::Mode;
use crate::stream::waiter::{Interest, waiter};
use crate::stream::{Board, Outcome};
use crate::sys;
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

/// One side of a connection, ready to run.
pub struct Conn {
    /// Its number in the run.
    pub index: u64,
    /// Its socket, owned.
    pub fd: i32,
    /// How it is driven.
    pub mode: Mode,
    /// The writing half.
    pub tx: Tx,
    /// The reading half.
    pub rx: Rx,
}

/// Runs a blocking connection with a thread for each half.
pub fn blocking(conn: Conn, board: &Board) -> Outcome {
    let Conn {
        index,
        fd,
        mut tx,
        mut rx,
        ..
    } = conn;
    let (sent, received) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            loop {
                match tx.step(fd)? {
                    Step::Done => return Ok(()),
                    Step::Blocked => return Err("EAGAIN from a blocking write".to_string()),
                    Step::Progress => board.wrote(index, tx.sent),
                }
            }
        });
        let received = (|| {
            loop {
                if let Some(pause) = rx.pause() {
                    thread::sleep(pause);
                }
                match rx.step(fd)? {
                    Step::Done => return Ok(()),
                    Step::Blocked => return Err("EAGAIN from a blocking read".to_string()),
                    Step::Progress => board.read(index, rx.received),
                }
            }
        })();
        (
            writer
                .join()
                .unwrap_or_else(|_| Err("the writer panicked".to_string())),
            received,
        )
    });
    let closed = sys::close(fd)
        .map(|_| ())
        .map_err(|e| format!("close: {e}"));
    board.done(index);
    let errors = [sent, received, closed].into_iter().filter_map(Result::err);
    let errors: Vec<String> = errors.collect();
    let error = (!errors.is_empty()).then(|| errors.join("; "));
    Outcome::new(index, &tx, &rx, error)
}

struct Active {
    conn: Conn,
    can_read: bool,
    can_write: bool,
    resume: Option<Instant>,
    tx_done: bool,
    rx_done: bool,
}

impl Active {
    fn paused(&self) -> bool {
        self.resume.is_some()
    }

    fn interest(&self) -> Interest {
        Interest {
            read: !self.rx_done && !self.paused(),
            write: !self.tx_done,
        }
    }

    /// Can a step be tried now, without waiting first?
    fn runnable(&self) -> bool {
        (self.can_write && !self.tx_done) || (self.can_read && !self.rx_done && !self.paused())
    }

    /// One step of each half that is ready. With edge triggering readiness stays until EAGAIN, else
    /// every step needs a new word from the waiter.
    fn step(&mut self, edge: bool) -> Result<(), String> {
        if self.can_write && !self.tx_done {
            match self.conn.tx.step(self.conn.fd)? {
                Step::Progress => self.can_write = edge,
                Step::Blocked => self.can_write = false,
                Step::Done => self.tx_done = true,
            }
        }
        if self.can_read && !self.rx_done && !self.paused() {
            match self.conn.rx.step(self.conn.fd)? {
                Step::Progress => {
                    self.can_read = edge;
                    self.resume = self.conn.rx.pause().map(|pause| Instant::now() + pause);
                }
                Step::Blocked => self.can_read = false,
                Step::Done => self.rx_done = true,
            }
        }
        Ok(())
    }
}

/// Runs all connections of one mode in one event loop.
pub fn event_loop(mode: Mode, conns: Vec<Conn>, board: &Board) -> Vec<Outcome> {
    let mut waiter = waiter(mode);
    let mut outcomes = Vec::new();
    let mut active: BTreeMap<i32, Active> = conns
        .into_iter()
        .map(|conn| {
            let (tx_done, rx_done) = (false, false);
            (
                conn.fd,
                Active {
                    conn,
                    can_read: false,
                    can_write: false,
                    resume: None,
                    tx_done,
                    rx_done,
                },
            )
        })
        .collect();
    for (&fd, a) in &active {
        sys::set_nonblocking(fd, true).expect("O_NONBLOCK");
        waiter.set(fd, a.interest());
    }
    while !active.is_empty() {
        for ready in waiter.wait(timeout(&active)) {
            if let Some(a) = active.get_mut(&ready.fd) {
                a.can_read |= ready.read;
                a.can_write |= ready.write;
            }
        }
        let now = Instant::now();
        let mut finished = Vec::new();
        for (&fd, a) in &mut active {
            if a.resume.is_some_and(|at| at <= now) {
                a.resume = None;
            }
            let before = a.interest();
            let result = a.step(waiter.edge());
            board.wrote(a.conn.index, a.conn.tx.sent);
            board.read(a.conn.index, a.conn.rx.received);
            if result.is_err() || (a.tx_done && a.rx_done) {
                finished.push((fd, result.err()));
            } else if a.interest() != before || !waiter.edge() {
                waiter.set(fd, a.interest());
            }
        }
        for (fd, error) in finished {
            if let Some(a) = active.remove(&fd) {
                waiter.remove(fd);
                let closed = sys::close(fd).err().map(|e| format!("close: {e}"));
                board.done(a.conn.index);
                outcomes.push(Outcome::new(
                    a.conn.index,
                    &a.conn.tx,
                    &a.conn.rx,
                    error.or(closed),
                ));
            }
        }
    }
    outcomes
}

/// How long the loop may wait: not at all if a step can be tried, until the next slow reader looks
/// again, else without limit.
fn timeout(active: &BTreeMap<i32, Active>) -> i32 {
    if active.values().any(Active::runnable) {
        return 0;
    }
    match active.values().filter_map(|a| a.resume).min() {
        Some(at) => {
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
            left.as_millis() as i32
        }
        None => -1,
    }
}
