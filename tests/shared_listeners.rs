//! Listeners that several processes share: their connections are accelerated, go to whichever process the kernel wakes,
//! and nothing is lost when one of the processes stops, dies, or leaves.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::counters::Counters;
use common::proc::Proc;
use common::{ANSWER_LIMIT, PATIENCE, With, command, ports};

const WORKERS: usize = 4;

struct Server {
    proc: Proc,
    port: u16,
    workers: Vec<u32>,
}

impl Server {
    fn start(with: With, how: &str) -> Server {
        let port = ports::pair();
        let mut command = command("python3", with);
        command.args([&script("workers_server.py"), &port.to_string(), how]);
        command.arg(WORKERS.to_string());
        let proc = Proc::start(command);
        let workers = told_workers(&proc);
        Server {
            proc,
            port,
            workers,
        }
    }

    /// Has it start itself anew, with the same listener, and ends the workers that it had.
    fn start_anew(&mut self) {
        // SAFETY: a process that this test has started.
        unsafe { libc::kill(self.proc.pid().cast_signed(), libc::SIGUSR2) };
        let new = told_workers(&self.proc);
        for worker in 0..self.workers.len() {
            self.kill(worker);
        }
        self.workers = new;
    }

    /// Connections that the workers have accepted over shared memory, and all.
    fn accepted(&self) -> Option<(u64, u64)> {
        let mut sum = (0, 0);
        for &worker in &self.workers {
            let counters = Counters::of(worker)?;
            sum.0 += counters.get("accepted_shm");
            sum.1 += counters.get("accepted_shm") + counters.get("accepted_tcp");
        }
        Some(sum)
    }

    fn signal(&self, worker: usize, signal: libc::c_int) {
        // SAFETY: a process that this test has started.
        unsafe { libc::kill(self.workers[worker].cast_signed(), signal) };
    }

    /// Sends it a signal and waits until all its threads stand so, as the kernel shows it. A connection for which the kernel
    /// has woken a worker before is that worker's, whether it can still accept it or not.
    fn bring_to(&self, state: char, worker: usize, signal: libc::c_int) {
        self.signal(worker, signal);
        let tasks = format!("/proc/{}/task", self.workers[worker]);
        let stands = || {
            let tasks = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
            tasks.into_iter().all(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat"));
                let state_of =
                    |stat: String| stat.rsplit(") ").next().map(|rest| rest.starts_with(state));
                stat.is_err() || state_of(stat.unwrap_or_default()) == Some(true)
            })
        };
        let deadline = Instant::now() + PATIENCE;
        while !stands() {
            assert!(Instant::now() < deadline, "worker {worker} is not {state}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stop(&self, worker: usize) {
        self.bring_to('T', worker, libc::SIGSTOP);
    }

    fn kill(&self, worker: usize) {
        self.bring_to('Z', worker, libc::SIGKILL);
    }
}

/// What a server says of its workers, until it listens.
fn told_workers(server: &Proc) -> Vec<u32> {
    let mut workers = Vec::new();
    loop {
        let line = server.line().expect("the server to listen");
        match line.strip_prefix("worker ") {
            Some(pid) => workers.push(pid.parse().expect("a process id")),
            None => return workers,
        }
    }
}

fn script(name: &str) -> String {
    format!("{}/tests/programs/{name}", env!("CARGO_MANIFEST_DIR"))
}

struct Client(Proc);

impl Client {
    fn start(with: With, server: &Server) -> Client {
        let mut command = command("python3", with);
        command.args([&script("workers_client.py"), &server.port.to_string()]);
        Client(Proc::start(command))
    }

    /// Has it do something; how many connections of each worker were concerned.
    fn tell(&mut self, words: &str) -> BTreeMap<usize, usize> {
        self.0.tell(words);
        let said = self.0.line().unwrap_or_else(|| panic!("'{words}' failed"));
        let numbers = said.split_whitespace().skip(1);
        numbers
            .map(|pair| {
                let (worker, count) = pair.split_once(':').expect("WORKER:COUNT");
                let worker = worker.parse().expect("a worker");
                (worker, count.parse().expect("a count"))
            })
            .collect()
    }
}

fn total(counts: &BTreeMap<usize, usize>) -> usize {
    counts.values().sum()
}

/// Nearly all: on a machine that is busy enough a connect may run out of time, and goes another way.
fn assert_carried(server: &Server, with: With, connections: u64) {
    if with == With::Library
        && let Some((shm, all)) = server.accepted()
    {
        assert_eq!(all, connections);
        assert!(shm * 10 >= all * 9, "{shm} of {all} were accelerated");
    }
}

fn talks(how: &str) {
    for with in [With::Kernel, With::Library] {
        let server = Server::start(with, how);
        let mut client = Client::start(with, &server);
        assert_eq!(total(&client.tell("open 24")), 24);
        client.tell("talk 200000");
        assert_eq!(total(&client.tell("pass 40")), 40);
        client.tell("talk 1000");
        assert_eq!(total(&client.tell("survivors")), 24);
        assert_carried(&server, with, 64);
    }
}

#[test]
fn workers_that_block_in_accept() {
    talks("accept");
}

#[test]
fn workers_with_an_epoll_set_each() {
    talks("epoll");
}

#[test]
fn workers_that_the_kernel_wakes_one_at_a_time() {
    talks("exclusive");
}

#[test]
fn workers_that_hear_of_changes_only() {
    talks("edge");
}

#[test]
fn workers_that_hear_once() {
    talks("once");
}

#[test]
fn workers_that_poll() {
    talks("poll");
}

#[test]
fn workers_that_select() {
    talks("select");
}

/// Each has a listener of its own at the same port, and a side port of its own in the same manner.
#[test]
fn a_group_of_listeners() {
    talks("reuseport");
}

/// The kernel gives them to the processes that block in accept in turn.
#[test]
fn connections_are_spread() {
    for with in [With::Kernel, With::Library] {
        let server = Server::start(with, "accept");
        let mut client = Client::start(with, &server);
        let counts = client.tell("pass 200");
        assert_eq!(total(&counts), 200);
        for worker in 0..WORKERS {
            let count = counts.get(&worker).copied().unwrap_or(0);
            assert!(count >= 20, "{with:?}: {counts:?}");
        }
        assert_carried(&server, with, 200);
    }
}

/// It gets no more connections, keeps those that it has, and goes on when it may.
#[test]
fn a_worker_is_stopped() {
    for how in ["accept", "epoll", "exclusive"] {
        for with in [With::Kernel, With::Library] {
            let server = Server::start(with, how);
            let mut client = Client::start(with, &server);
            let before = client.tell("open 40");
            server.stop(0);
            let stopped = client.tell("pass 40");
            assert_eq!(total(&stopped), 40);
            assert!(!stopped.contains_key(&0), "{how}: {stopped:?}");
            server.signal(0, libc::SIGCONT);
            assert_eq!(client.tell("survivors"), before);
            assert_eq!(total(&client.tell("pass 40")), 40);
            assert_carried(&server, with, 120);
        }
    }
}

/// Another program in the server's place has the listener, and its side port.
#[test]
fn a_program_takes_listeners_over() {
    for how in ["accept", "epoll"] {
        for with in [With::Kernel, With::Library] {
            let mut server = Server::start(with, how);
            let mut client = Client::start(with, &server);
            assert_eq!(total(&client.tell("pass 20")), 20);
            server.start_anew();
            assert_eq!(total(&client.tell("open 20")), 20);
            client.tell("talk 100000");
            assert_carried(&server, with, 20);
        }
    }
}

/// It loses its own connections, and nobody else loses any.
#[test]
fn a_worker_is_killed() {
    for with in [With::Kernel, With::Library] {
        let server = Server::start(with, "accept");
        let mut client = Client::start(with, &server);
        let mut left = client.tell("open 40");
        server.kill(1);
        left.remove(&1);
        assert_eq!(client.tell("survivors"), left);
        let after = client.tell("pass 40");
        assert_eq!(total(&after), 40);
        assert!(!after.contains_key(&1), "{after:?}");
        drop(server.proc);
    }
}

/// A server that forks after its clients have come: in what it says, which of them were served, and how often each was read
/// to its end; the number of whole streams.
fn forks_late(how: &str, backlog: &str, count: usize, client_does: &str, with: With) {
    let case = format!("{how} {backlog} {client_does} {with:?}");
    let port = ports::pair();
    let program = script("shared_queue.py");
    let mut server = command("python3", with);
    server.args([&program, "serve", &port.to_string(), how, backlog]);
    let mut server = Proc::start(server);
    server.wait_listening();
    let mut client = command("python3", with);
    client.args([&program, "connect", &port.to_string(), &count.to_string()]);
    client.arg(client_does);
    let mut client = Proc::start(client);
    assert_eq!(client.line().as_deref(), Some("sent"), "{case}");
    if with == With::Library
        && let Some(counters) = Counters::of(client.pid())
    {
        // Or nothing is shown by this.
        assert!(counters.accelerated() > 0, "{case}: {counters:#?}");
    }
    server.tell("now");
    let closes = client_does == "closes";
    if !closes {
        client.tell("read");
        let whole = format!("{count} whole");
        assert_eq!(client.line(), Some(whole), "{case}");
    }
    for _ in 0..count {
        assert_eq!(server.line().as_deref(), Some("read 40000"), "{case}");
    }
    if closes {
        client.tell("read");
    }
    client.tell("end");
    assert!(client.finish().success(), "{case}");
    server.release();
    assert_eq!(server.rest(), "", "{case}");
}

/// Who has been told that he is connected is served by a process that accepts, as from the kernel's queue.
#[test]
fn clients_come_before_the_fork() {
    for how in ["keeps", "closes", "asked", "ends"] {
        for with in [With::Kernel, With::Library] {
            forks_late(how, "64", 6, "stays", with);
            forks_late(how, "64", 6, "closes", with);
        }
    }
}

/// Those for whom there is no room yet find the workers by the kernel's port.
#[test]
fn more_clients_than_a_queue_takes_come_before_the_fork() {
    // (The kernel itself breaks some off that have come into such a crowd.)
    forks_late("keeps", "1", 4, "crowded", With::Library);
}

/// A server that runs a command before it accepts goes on to serve those who have come.
#[test]
fn clients_come_before_a_command() {
    for with in [With::Kernel, With::Library] {
        forks_late("command", "64", 6, "stays", with);
        forks_late("command", "64", 6, "closes", with);
    }
}

fn busy(role: &str, port: u16, with: With, rest: &[&str]) -> std::process::Command {
    let mut program = command("python3", with);
    program.args([&script("busy_workers.py"), role, &port.to_string()]);
    program.args(rest);
    program
}

/// The process id of one worker.
fn told_worker(server: &Proc) -> u32 {
    let line = server.line().expect("a worker");
    let pid = line.strip_prefix("worker ").expect("its process id");
    pid.parse().expect("a number")
}

/// A side port at which nobody accepts, for its processes are busy: connects do not wait for that for long, nor for ever anew,
/// and find the side port again once somebody accepts.
#[test]
fn all_workers_are_busy() {
    // A client that waits as long as the library would wait for an answer at most, and not longer.
    const LIMIT: (&str, &str) = ("3000", "3");
    const CONNECTS: u64 = 20;
    for with in [With::Kernel, With::Library] {
        let port = ports::pair();
        let mut server = Proc::start(busy("stalls", port, with, &[]));
        told_worker(&server);
        let mut client = busy("client", port, with, &[LIMIT.1]);
        if with == With::Library {
            client.env(ANSWER_LIMIT, LIMIT.0);
        }
        let mut client = Proc::start(client);
        let counters = |client: &Proc| match with {
            With::Library => Counters::of(client.pid()),
            With::Kernel => None,
        };
        let talk = |client: &mut Proc| {
            client.tell("talk");
            assert_eq!(client.line().as_deref(), Some("connected"));
            assert_eq!(client.line().as_deref(), Some("answered"));
        };
        for _ in 0..4 {
            talk(&mut client);
        }
        server.tell("stop");
        assert_eq!(server.line().as_deref(), Some("stopped"));
        let before = counters(&client);
        for _ in 0..CONNECTS {
            client.tell("connect");
            assert_eq!(client.line().as_deref(), Some("connected"), "{with:?}");
        }
        if let (Some(before), Some(now)) = (before, counters(&client)) {
            assert!(before.accelerated() > 0, "{before:#?}");
            assert_eq!(now.accelerated(), before.accelerated());
            let more = |name| now.fallbacks(&[name]) - before.fallbacks(&[name]);
            let (waited, known) = (more("handshake_timeout"), more("not_netacc"));
            assert!(waited > 0 && waited < CONNECTS / 2, "{now:#?}");
            assert_eq!(waited + known, CONNECTS, "{now:#?}");
        }
        server.tell("go");
        assert_eq!(server.line().as_deref(), Some("goes on"));
        let before = counters(&client).map_or(0, |now| now.accelerated());
        let deadline = Instant::now() + PATIENCE;
        loop {
            talk(&mut client);
            if counters(&client).is_none_or(|now| now.accelerated() > before) {
                break;
            }
            assert!(Instant::now() < deadline, "it does not come back");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A worker that has no descriptor for a connection leaves it to one that has.
#[test]
fn a_worker_has_no_descriptors() {
    for with in [With::Kernel, With::Library] {
        let port = ports::pair();
        let server = Proc::start(busy("full", port, with, &[]));
        let workers = [told_worker(&server), told_worker(&server)];
        let mut client = busy("client", port, with, &["100"]);
        if with == With::Library {
            client.env(ANSWER_LIMIT, "1000");
        }
        let mut client = Proc::start(client);
        for turn in 0..40 {
            if turn == 20 {
                // SAFETY: a process that this test has started.
                unsafe { libc::kill(workers[0].cast_signed(), libc::SIGUSR1) };
                assert_eq!(server.line().as_deref(), Some("full"));
            }
            client.tell("talk");
            assert_eq!(client.line().as_deref(), Some("connected"), "{with:?}");
            assert_eq!(client.line().as_deref(), Some("answered"), "{with:?}");
        }
    }
}

/// The side port is free again when a listener is closed, though it was others', too.
#[test]
fn a_listener_is_closed_and_another_opened() {
    let server = Proc::start(busy("again", ports::pair(), With::Library, &["100"]));
    assert_eq!(server.line().as_deref(), Some("done"));
    if let Some(counters) = Counters::of(server.pid()) {
        assert_eq!(counters.fallbacks(&["side_port_taken"]), 0, "{counters:#?}");
    }
}
