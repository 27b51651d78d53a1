//! Random scenarios: valid ones, in which kernel TCP leaves nothing to chance.
//!
//! The model knows just enough to wait, after each step that the other end notices, until it has, and to
//! block only in calls that return.

mod aside;

use crate::lang::{Scenario, parse_step};
use fastrand::Rng;

/// More is not left unread: it would not fit the windows, and sends would block.
const UNREAD: u64 = 30_000;

/// One end of a connection.
#[derive(Clone, Default)]
struct End {
    actor: &'static str,
    /// Its descriptors that are open.
    names: Vec<String>,
    nonblocking: bool,
    /// What has come and was not read.
    unread: u64,
    wrote_last: bool,
    reads_no_more: bool,
    /// It has seen a reset, or will: nothing here blocks any more.
    reset: bool,
    /// Not all that happens to it is known.
    unsure: bool,
}

impl End {
    fn open(&self) -> bool {
        !self.names.is_empty()
    }
}

/// An epoll set.
struct Set {
    actor: &'static str,
    name: String,
    /// What it watches: descriptors that were added.
    members: Vec<String>,
}

struct Model {
    rng: Rng,
    room: u64,
    /// Steps that belong together.
    groups: Vec<Vec<String>>,
    ends: Vec<End>,
    sets: Vec<Set>,
    count: usize,
}

/// The scenario of a seed, in groups of steps of which none is to be left out alone. No more than `room` bytes are
/// left unread by all together.
pub fn groups(seed: u64, room: u64) -> Vec<Vec<String>> {
    let mut model = Model {
        rng: Rng::with_seed(seed),
        room,
        groups: Vec::new(),
        ends: Vec::new(),
        sets: Vec::new(),
        count: 0,
    };
    model.listen();
    model.connect();
    let steps = model.rng.usize(5..35);
    for _ in 0..steps {
        model.step();
    }
    model.groups
}

/// The groups as a scenario.
///
/// # Panics
/// A step that the generator wrote cannot be read.
pub fn scenario(seed: u64, groups: &[Vec<String>]) -> Scenario {
    let parsed = |line: &String| parse_step(line).unwrap_or_else(|why| panic!("'{line}': {why}"));
    Scenario {
        name: format!("random/{seed}"),
        header: Vec::new(),
        steps: groups.iter().flatten().map(parsed).collect(),
    }
}

impl Model {
    fn emit<const N: usize>(&mut self, lines: [String; N]) {
        self.groups.push(lines.to_vec());
    }

    /// Adds to the last group.
    fn and(&mut self, line: String) {
        if let Some(last) = self.groups.last_mut() {
            last.push(line);
        }
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.rng.usize(..words.len())]
    }

    fn name(&mut self, letter: &str) -> String {
        self.count += 1;
        format!("{letter}{}", self.count)
    }

    fn listen(&mut self) {
        self.emit([
            "b: l = socket(inet, stream)".to_string(),
            "b: setsockopt(l, SOL_SOCKET, SO_REUSEADDR, 1)".to_string(),
            "b: bind(l, inet:p)".to_string(),
            "b: listen(l, 8)".to_string(),
        ]);
    }

    fn connect(&mut self) {
        let (c, s) = (self.name("c"), self.name("s"));
        let (waits, accepts) = (self.rng.bool(), self.rng.bool());
        let kind = if waits { "stream" } else { "stream|nonblock" };
        self.emit([
            format!("a: {c} = socket(inet, {kind})"),
            format!("a: connect({c}, l)"),
        ]);
        self.and("b: until POLLIN l".to_string());
        let flags = if accepts { "0" } else { "nonblock" };
        self.and(format!("b: {s} = accept4(l, {flags})"));
        self.and(format!("a: until POLLOUT {c}"));
        // Or a second small write waits for the other end's word of the first.
        self.and(format!("a: setsockopt({c}, IPPROTO_TCP, TCP_NODELAY, 1)"));
        self.and(format!("b: setsockopt({s}, IPPROTO_TCP, TCP_NODELAY, 1)"));
        for (actor, name, blocks) in [("a", c, waits), ("b", s, accepts)] {
            self.ends.push(End {
                actor,
                names: vec![name],
                nonblocking: !blocks,
                ..End::default()
            });
        }
    }

    fn step(&mut self) {
        // Ends that are gone take no more steps; neighbours in the list are the two ends of a connection.
        let alive: Vec<usize> = (0..self.ends.len())
            .filter(|&i| self.ends[i].open())
            .collect();
        if alive.is_empty() {
            return self.connect();
        }
        let i = alive[self.rng.usize(..alive.len())];
        match self.rng.u32(0..100) {
            0..22 => self.send(i),
            22..44 => self.recv(i),
            44..50 => self.look(i),
            50..56 => self.poll(),
            56..66 => self.watch(i),
            66..76 => self.wait(),
            76..80 => self.shutdown(i),
            80..84 => self.close(i),
            84..88 => self.dup(i),
            88..91 => self.blocked(i),
            91..93 => self.full(i),
            93..97 => self.option(i),
            _ if self.ends.len() < 8 => self.connect(),
            _ => self.poll(),
        }
    }

    /// One of the end's descriptors.
    fn fd(&mut self, i: usize) -> String {
        let at = self.rng.usize(..self.ends[i].names.len());
        self.ends[i].names[at].clone()
    }

    /// After something that `i` did has reached its peer.
    fn reached(&mut self, i: usize, what: &str) {
        let peer = &self.ends[i ^ 1];
        if self.ends[i].unsure || peer.unsure {
            self.noticed(i);
        } else if let Some(name) = peer.names.first() {
            self.and(format!("{}: until {what} {name}", peer.actor));
        }
    }

    /// Whatever comes of it is there, and both ends have looked.
    fn noticed(&mut self, i: usize) {
        self.and(format!("{}: settle", self.ends[i].actor));
        for end in [i, i ^ 1] {
            let End { actor, names, .. } = &self.ends[end];
            if let Some(name) = names.first() {
                self.and(format!(
                    "{actor}: poll({{{name}: POLLIN|POLLOUT|POLLRDHUP}}, 0)"
                ));
            }
        }
    }

    fn unsure(&mut self, i: usize) {
        for end in [i, i ^ 1] {
            self.ends[end].unsure = true;
        }
        self.noticed(i);
    }

    fn send(&mut self, i: usize) {
        let (fd, n) = (self.fd(i), self.rng.u64(1..=12) * self.rng.u64(1..=900));
        let (end, peer) = (self.ends[i].clone(), self.ends[i ^ 1].clone());
        let deaf = !peer.open() || peer.wrote_last && peer.reads_no_more;
        let all: u64 = self.ends.iter().map(|end| end.unread).sum();
        if peer.unread + n > UNREAD || all + n > self.room {
            return self.recv(i);
        }
        let flags = self.pick(&[
            "0",
            "MSG_NOSIGNAL",
            "MSG_DONTWAIT",
            "MSG_NOSIGNAL|MSG_DONTWAIT",
        ]);
        let call = match self.rng.u32(0..6) {
            0 => format!("write({fd}, bytes({n}))"),
            1 => format!("writev({fd}, {{bytes({n})}})"),
            2 => format!("sendmsg({fd}, {{bytes({n})}}, {flags})"),
            3 => format!("sendto({fd}, bytes({n}), {flags})"),
            _ => format!("send({fd}, bytes({n}), {flags})"),
        };
        self.emit([format!("{}: {call}", end.actor)]);
        if end.wrote_last || end.reset {
            return;
        }
        if end.unsure {
            self.noticed(i);
        } else if deaf {
            // It answers with a reset.
            self.and(format!("{}: until POLLERR|POLLHUP {fd}", end.actor));
            if let Some(name) = peer.names.first() {
                self.and(format!("{}: until POLLERR|POLLHUP {name}", peer.actor));
            }
            for end in [i, i ^ 1] {
                self.ends[end].reset = true;
            }
        } else if peer.reads_no_more {
            self.unsure(i);
        } else {
            self.ends[i ^ 1].unread += n;
            let there = self.ends[i ^ 1].unread;
            self.reached(i, &format!("bytes({there})"));
        }
    }

    fn recv(&mut self, i: usize) {
        let (fd, end, peer) = (self.fd(i), self.ends[i].clone(), &self.ends[i ^ 1]);
        let at_end = end.reset || !peer.open() || peer.wrote_last || end.reads_no_more;
        let n = self.rng.u64(1..=10) * self.rng.u64(1..=1_000);
        let mut flags = vec![self.pick(&["MSG_PEEK", "0", "0", "MSG_TRUNC", "0"])];
        if end.unsure || end.unread == 0 && !at_end {
            flags.push("MSG_DONTWAIT");
        } else if end.unread >= n || at_end {
            flags.push(self.pick(&["0", "MSG_WAITALL"]));
        }
        flags.retain(|&flag| flag != "0");
        let joined = if flags.is_empty() {
            "0".to_string()
        } else {
            flags.join("|")
        };
        let call = match (flags.is_empty(), self.rng.u32(0..5)) {
            (true, 0) => format!("read({fd}, {n})"),
            (true, 1) => format!("readv({fd}, {{{}, {n}}})", n / 2),
            (_, 2) => format!("recvmsg({fd}, {{{n}}}, {joined})"),
            (_, 3) => format!("recvfrom({fd}, {n}, {joined}, addr)"),
            _ => format!("recv({fd}, {n}, {joined})"),
        };
        let read = if call.starts_with("readv") {
            n + n / 2
        } else {
            n
        };
        if !flags.contains(&"MSG_PEEK") {
            self.ends[i].unread = end.unread.saturating_sub(read);
        }
        self.emit([format!("{}: {call}", end.actor)]);
    }

    fn shutdown(&mut self, i: usize) {
        let (fd, end) = (self.fd(i), self.ends[i].clone());
        let how = self.pick(&["SHUT_WR", "SHUT_WR", "SHUT_WR", "SHUT_RD", "SHUT_RDWR"]);
        self.emit([format!("{}: shutdown({fd}, {how})", end.actor)]);
        if end.reset {
            return;
        }
        if how != "SHUT_WR" {
            self.ends[i].reads_no_more = true;
        }
        if how != "SHUT_RD" && !end.wrote_last {
            self.ends[i].wrote_last = true;
            self.reached(i, "POLLIN|POLLRDHUP");
        }
    }

    fn close(&mut self, i: usize) {
        let fd = self.fd(i);
        let end = &mut self.ends[i];
        end.names.retain(|name| *name != fd);
        let (actor, last) = (end.actor, !end.open());
        let end = end.clone();
        self.emit([format!("{actor}: close({fd})")]);
        // A set forgets what has no descriptor any more; one that is still open elsewhere it remembers.
        if last {
            for set in &mut self.sets {
                set.members.retain(|member| *member != fd);
            }
        }
        if !last || end.reset {
            return;
        }
        let over = end.wrote_last && self.ends[i ^ 1].wrote_last;
        if end.unsure {
            self.noticed(i);
        } else if end.unread > 0 && !over {
            self.ends[i ^ 1].reset = true;
            self.reached(i, "POLLERR|POLLHUP");
        } else if !end.wrote_last {
            self.reached(i, "POLLIN|POLLRDHUP");
        } else {
            self.and(format!("{actor}: settle"));
        }
    }

    /// A thread that blocks until the peer sends something.
    fn blocked(&mut self, i: usize) {
        let (end, peer) = (self.ends[i].clone(), self.ends[i ^ 1].clone());
        let quiet =
            !end.reset && !end.unsure && !end.nonblocking && !end.reads_no_more && end.unread == 0;
        if !quiet || !peer.open() || peer.wrote_last || peer.reset {
            return;
        }
        let (fd, from, actor) = (self.fd(i), self.fd(i ^ 1), end.actor);
        let call = match self.rng.u32(0..3) {
            0 => format!("recv({fd}, 100)"),
            1 => format!("poll({{{fd}: POLLIN}}, null)"),
            _ => format!("recv({fd}, 8, MSG_WAITALL)"),
        };
        if call.starts_with("poll") {
            self.ends[i].unread += 8;
        }
        self.emit([
            format!("{actor}.2: start {call}"),
            format!("{}: send({from}, bytes(8))", peer.actor),
            format!("{actor}.2: join"),
        ]);
    }

    /// Until nothing more goes, and then all of it out again.
    fn full(&mut self, i: usize) {
        let (end, peer) = (self.ends[i].clone(), self.ends[i ^ 1].clone());
        let usual = !end.reset && !end.unsure && !end.wrote_last;
        if !usual || !peer.open() || peer.reads_no_more || peer.unread > 0 {
            return;
        }
        let (fd, to) = (self.fd(i), self.fd(i ^ 1));
        let (from, there) = (end.actor, peer.actor);
        self.emit([
            format!("{from}: fill({fd})"),
            format!("{from}: send({fd}, \"x\", MSG_DONTWAIT)"),
            format!("{from}: poll({{{fd}: POLLOUT}}, 0)"),
            format!("{there}: drain({to}, {fd})"),
            format!("{from}: until POLLOUT {fd}"),
        ]);
    }
}
