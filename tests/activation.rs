//! Listeners that another program has made, without the library: by socket activation, from inetd, over exec, in a message.
//! Their connections are accelerated, in several processes too, and whoever else has the listener notices nothing.

mod common;

use common::counters::Counters;
use common::proc::Proc;
use common::{ANSWER_LIMIT, With, bare, command, library, ports, script};

struct Server {
    activator: Proc,
    workers: Vec<u32>,
    port: u16,
}

impl Server {
    /// Workers of tests/programs/workers_server.py, which are given their listener in the manner of `given`.
    fn start(with: With, given: &str, how: &str, workers: usize) -> Server {
        let port = ports::pair();
        let preload = match with {
            With::Library if !bare() => library().display().to_string(),
            _ => String::new(),
        };
        let mut command = command("python3", With::Kernel);
        command.env(ANSWER_LIMIT, LIMIT);
        command.args([&script("activator.py"), given, &port.to_string(), &preload]);
        command.args([
            "python3",
            &script("workers_server.py"),
            &port.to_string(),
            how,
        ]);
        command.args([&workers.to_string(), "FD"]);
        command.arg(if given == "passed" { "passed" } else { "given" });
        let mut activator = Proc::start(command);
        let mut workers = Vec::new();
        loop {
            let line = activator.line().expect("the server to listen");
            match line.strip_prefix("worker ") {
                Some(pid) => workers.push(pid.parse().expect("a process id")),
                None => break,
            }
        }
        if !preload.is_empty() {
            // The first process that means to accept opens it.
            activator.wait_for_port(port + ports::SIDE);
        }
        Server {
            activator,
            workers,
            port,
        }
    }

    fn client(&self, with: With) -> Client {
        let mut command = command("python3", with);
        if with == With::Library && !bare() {
            command.env(ANSWER_LIMIT, LIMIT);
        }
        command.args([&script("workers_client.py"), &self.port.to_string()]);
        Client(Proc::start(command))
    }

    /// Connections that the workers have accepted over shared memory.
    fn accelerated(&self) -> u64 {
        let counters = self.workers.iter().copied().filter_map(Counters::of);
        counters.map(|counters| counters.get("accepted_shm")).sum()
    }

    /// Whoever shares the listener finds that it still waits in the kernel.
    fn assert_untouched(&mut self) {
        self.activator.tell("manner");
        assert_eq!(self.activator.line().as_deref(), Some("waits"));
    }
}

/// How long a peer may take to answer, in milliseconds: where several processes wait in the kernel one may get there in
/// vain, and then takes nobody in who comes by the other door.
const LIMIT: &str = "3000";

struct Client(Proc);

impl Client {
    fn begin(&mut self, words: &str) {
        self.0.tell(words);
    }

    /// How many connections were concerned.
    fn end(&mut self) -> usize {
        let said = self.0.line().expect("no failure");
        let pairs = said.split_whitespace().skip(1);
        let count = |pair: &str| {
            pair.split_once(':')
                .expect("WORKER:COUNT")
                .1
                .parse::<usize>()
        };
        pairs.map(|pair| count(pair).expect("a count")).sum()
    }

    fn tell(&mut self, words: &str) -> usize {
        self.begin(words);
        self.end()
    }
}

fn serves(given: &str, how: &str, workers: usize) {
    for with in [With::Kernel, With::Library] {
        let mut server = Server::start(with, given, how, workers);
        let mut client = server.client(with);
        assert_eq!(client.tell("open 24"), 24, "{given} {how}");
        client.tell("talk 200000");
        assert_eq!(client.tell("pass 20"), 20, "{given} {how}");
        if with == With::Library && !bare() {
            let shm = server.accelerated();
            assert!(shm >= 40, "{given} {how}: {shm} of 44");
        }
        // Others come by the kernel.
        let mut other = server.client(With::Kernel);
        assert_eq!(other.tell("open 8"), 8, "{given} {how}");
        other.tell("talk 100000");
        assert_eq!(client.tell("survivors"), 24, "{given} {how}");
        server.assert_untouched();
    }
}

#[test]
fn named_by_the_environment() {
    for how in ["accept", "epoll", "poll", "select"] {
        serves("named", how, 1);
    }
    serves("named", "accept", 3);
}

#[test]
fn standard_input_of_inetd() {
    serves("inetd", "accept", 1);
    serves("inetd", "epoll", 1);
}

#[test]
fn inherited_over_exec() {
    serves("exec", "accept", 1);
    serves("exec", "accept", 3);
}

#[test]
fn passed_in_a_message() {
    serves("passed", "accept", 1);
    serves("passed", "epoll", 1);
}

/// Both kinds of clients at once, and several processes that wait in the kernel.
#[test]
fn clients_of_both_kinds() {
    for given in ["named", "exec"] {
        let mut server = Server::start(With::Library, given, "accept", 3);
        let mut clients = [With::Kernel, With::Library, With::Kernel, With::Library];
        let mut clients = clients.each_mut().map(|with| server.client(*with));
        clients
            .iter_mut()
            .for_each(|client| client.begin("pass 100"));
        for client in &mut clients {
            assert_eq!(client.end(), 100, "{given}");
        }
        server.assert_untouched();
    }
}

/// The program that has given the listener away accepts from it, too, and waits there in the kernel.
#[test]
fn whoever_gave_it_accepts() {
    let mut server = Server::start(With::Library, "exec", "accept", 1);
    let mut client = server.client(With::Kernel);
    assert_eq!(client.tell("pass 4"), 4);
    server.activator.tell("accept");
    assert_eq!(server.activator.line().as_deref(), Some("accepts"));
    // One of them is its.
    let mut others = 0;
    for _ in 0..200 {
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", server.port)).expect("connected");
        let mut number = [0; 1];
        std::io::Read::read_exact(&mut stream, &mut number).expect("a number");
        if number == *b"9" {
            others += 1;
            break;
        }
    }
    assert_eq!(others, 1);
    server.assert_untouched();
    assert_eq!(client.tell("pass 4"), 4);
}

/// A server that only watches its listener: each connection is accepted by a program that it starts, also one that was told
/// before that it is connected.
#[test]
fn a_program_accepts_what_its_parent_watches() {
    for with in [With::Kernel, With::Library] {
        let port = ports::pair();
        let mut superserver = command("python3", with);
        superserver.env(ANSWER_LIMIT, LIMIT);
        superserver.args([&script("superserver.py"), &port.to_string()]);
        let server = Proc::start(superserver);
        server.wait_listening();
        for _ in 0..2 {
            let mut client = command("python3", with);
            client.env(ANSWER_LIMIT, LIMIT);
            client.args([&script("workers_client.py"), &port.to_string()]);
            let mut client = Client(Proc::start(client));
            assert_eq!(client.tell("open 1"), 1, "{with:?}");
            client.tell("talk 200000");
            assert_eq!(client.tell("survivors"), 1, "{with:?}");
            assert!(client.0.finish().success());
            assert_eq!(server.line().as_deref(), Some("ended with 0"));
        }
    }
}
