//! Many connections, both directions at once, random pieces, slow readers, every byte checked.

mod drive;
mod flow;
mod plan;
mod waiter;

use crate::args::Args;
use crate::pattern::{Direction, Pattern};
use crate::{sys, verdict};
use drive::Conn;
use flow::{Rx, Tx};
use plan::{MODES, Mode, Plan, Run};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

/// Where every connection stands, for the watchdog.
struct Board(Vec<[AtomicU64; 3]>);

impl Board {
    fn new(connections: u64) -> Arc<Board> {
        Arc::new(Board(
            (0..connections).map(|_| Default::default()).collect(),
        ))
    }

    fn wrote(&self, index: u64, bytes: u64) {
        self.0[index as usize][0].store(bytes, Relaxed);
    }

    fn read(&self, index: u64, bytes: u64) {
        self.0[index as usize][1].store(bytes, Relaxed);
    }

    fn done(&self, index: u64) {
        self.0[index as usize][2].store(1, Relaxed);
    }
}

/// What became of one side of a connection.
struct Outcome {
    index: u64,
    sent: u64,
    received: u64,
    sent_crc: u32,
    received_crc: u32,
    ended: bool,
    error: Option<String>,
}

impl Outcome {
    fn new(index: u64, tx: &Tx, rx: &Rx, error: Option<String>) -> Outcome {
        Outcome {
            index,
            sent: tx.sent,
            received: rx.received,
            sent_crc: tx.crc.clone().finalize(),
            received_crc: rx.crc.clone().finalize(),
            ended: rx.ended,
            error,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// With `--open`, streams end when the test closes the standard input of both sides.
fn read_run(args: &Args) -> Run {
    if args.has("open") {
        verdict::watch_input();
    }
    Run {
        seed: args.number("seed", 1),
        connections: args.number("conns", 200),
        total: args.number("total", 50_000_000),
        big: args.number("big", 0),
        open: args.has("open"),
    }
}

fn conn(run: &Run, plan: &Plan, role: Role, fd: i32) -> Conn {
    let up = Pattern::new(run.seed, plan.index, Direction::ToServer);
    let down = Pattern::new(run.seed, plan.index, Direction::ToClient);
    let seed = run.seed ^ (plan.index << 20) ^ ((role as u64) << 62);
    let (side, tx, rx) = match role {
        Role::Client => (plan.client, (up, plan.up), (down, plan.down)),
        Role::Server => (plan.server, (down, plan.down), (up, plan.up)),
    };
    let tx = Tx::new(tx.0, tx.1, seed);
    let rx = Rx::new(rx.0, rx.1, !seed, side.slow);
    Conn {
        index: plan.index,
        fd,
        mode: side.mode,
        tx,
        rx,
    }
}

/// Runs all connections of one side and sums up.
fn run_side(conns: Vec<Conn>, board: &Arc<Board>, role: Role) -> Value {
    let name = if role == Role::Client {
        "client"
    } else {
        "server"
    };
    let mut threads: Vec<thread::JoinHandle<Vec<Outcome>>> = Vec::new();
    let (blocking, evented): (Vec<Conn>, Vec<Conn>) =
        conns.into_iter().partition(|c| c.mode == Mode::Blocking);
    for conn in blocking {
        let board = board.clone();
        threads.push(thread::spawn(move || vec![drive::blocking(conn, &board)]));
    }
    let mut evented = evented;
    for mode in MODES {
        let (mine, rest): (Vec<Conn>, Vec<Conn>) =
            evented.into_iter().partition(|c| c.mode == mode);
        evented = rest;
        let board = board.clone();
        threads.push(thread::spawn(move || drive::event_loop(mode, mine, &board)));
    }
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut errors = Vec::new();
    for thread in threads {
        match thread.join() {
            Ok(mut done) => outcomes.append(&mut done),
            Err(_) => errors.push(format!("a thread of the {name} panicked")),
        }
    }
    outcomes.sort_by_key(|o| o.index);
    // One checksum over all connections' checksums, in the order of their numbers.
    let mut sent_crc = crc32fast::Hasher::new();
    let mut received_crc = crc32fast::Hasher::new();
    for o in &outcomes {
        sent_crc.update(&o.sent_crc.to_le_bytes());
        received_crc.update(&o.received_crc.to_le_bytes());
        if let Some(e) = &o.error {
            errors.push(format!("connection {}: {e}", o.index));
        }
    }
    json!({
        "role": name,
        "ok": errors.is_empty(),
        "connections": outcomes.len(),
        "sent": outcomes.iter().map(|o| o.sent).sum::<u64>(),
        "received": outcomes.iter().map(|o| o.received).sum::<u64>(),
        "sent_crc": sent_crc.finalize(),
        "received_crc": received_crc.finalize(),
        "ended": outcomes.iter().filter(|o| o.ended).count(),
        "errors": errors,
    })
}

/// Tells the watchdog how to show connections that are not finished, the first few of them.
fn describe(run: Run, board: Arc<Board>, role: Role) {
    verdict::describe(move || {
        let plans = plan::plans(&run);
        let open = plans
            .iter()
            .filter(|p| board.0[p.index as usize][2].load(Relaxed) == 0);
        let lines = open.map(|p| {
            let (mode, up, down) = match role {
                Role::Client => (p.client.mode, p.up, p.down),
                Role::Server => (p.server.mode, p.down, p.up),
            };
            let [sent, received, _] = &board.0[p.index as usize];
            let (sent, received) = (sent.load(Relaxed), received.load(Relaxed));
            format!(
                "connection {} {mode:?}: sent {sent} of {up}, received {received} of {down}",
                p.index
            )
        });
        lines.take(20).collect::<Vec<_>>().into()
    });
}

fn accept_all(listener: i32, run: &Run) -> Vec<Conn> {
    let plans = plan::plans(run);
    (0..run.connections)
        .map(|_| {
            let fd = sys::accept4(listener, libc::SOCK_CLOEXEC).expect("accept4");
            let mut index = [0u8; 8];
            let n = sys::recv(fd, &mut index, libc::MSG_WAITALL);
            assert_eq!(n, Ok(8), "the connection's number");
            conn(
                run,
                &plans[u64::from_le_bytes(index) as usize],
                Role::Server,
                fd,
            )
        })
        .collect()
}

fn connect_all(addr: SocketAddr, run: &Run) -> Vec<Conn> {
    plan::plans(run)
        .iter()
        .map(|plan| {
            let fd =
                sys::connected(addr).unwrap_or_else(|e| panic!("connection {}: {e}", plan.index));
            assert_eq!(sys::send(fd, &plan.index.to_le_bytes(), 0), Ok(8));
            conn(run, plan, Role::Client, fd)
        })
        .collect()
}

/// `stream-server --listen ADDR`
pub fn server(args: &Args) -> ! {
    let run = read_run(args);
    let board = Board::new(run.connections);
    describe(run, board.clone(), Role::Server);
    let listener = sys::listener(args.addr("listen"), 512).expect("listen");
    verdict::listening();
    let result = run_side(accept_all(listener, &run), &board, Role::Server);
    verdict::finish(result, args.has("hold"))
}

/// `stream-client --connect ADDR`
pub fn client(args: &Args) -> ! {
    let run = read_run(args);
    let board = Board::new(run.connections);
    describe(run, board.clone(), Role::Client);
    let result = run_side(
        connect_all(args.addr("connect"), &run),
        &board,
        Role::Client,
    );
    verdict::finish(result, args.has("hold"))
}

/// `selftalk --listen ADDR`: both sides in this one process.
pub fn selftalk(args: &Args) -> ! {
    let run = read_run(args);
    let addr = args.addr("listen");
    let boards = [Board::new(run.connections), Board::new(run.connections)];
    describe(run, boards[0].clone(), Role::Client);
    let listener = sys::listener(addr, 512).expect("listen");
    let board = boards[1].clone();
    let server = thread::spawn(move || run_side(accept_all(listener, &run), &board, Role::Server));
    let client = run_side(connect_all(addr, &run), &boards[0], Role::Client);
    let server = server.join().expect("the server's thread");
    let ok = client["ok"] == json!(true) && server["ok"] == json!(true);
    verdict::finish(
        json!({"ok": ok, "client": client, "server": server}),
        args.has("hold"),
    )
}
