//! What each connection of a stream run carries and how each side drives it: a function of the seed,
//! so that both processes know it without telling each other.

/// How one side of a connection is driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A reading and a writing thread, blocking calls.
    Blocking,
    /// One event loop for all such connections: level-triggered epoll.
    EpollLevel,
    /// Edge-triggered epoll.
    EpollEdge,
    /// poll(2).
    Poll,
    /// select(2).
    Select,
}

/// All modes.
pub const MODES: [Mode; 5] = [
    Mode::Blocking,
    Mode::EpollLevel,
    Mode::EpollEdge,
    Mode::Poll,
    Mode::Select,
];

/// One side's part in a connection.
#[derive(Clone, Copy)]
pub struct Side {
    /// How it waits.
    pub mode: Mode,
    /// Does it read in tiny pieces with pauses, for a while?
    pub slow: bool,
}

/// One connection.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Its number, which the client says first.
    pub index: u64,
    /// Bytes from client to server.
    pub up: u64,
    /// Bytes from server to client.
    pub down: u64,
    /// The client's part.
    pub client: Side,
    /// The server's part.
    pub server: Side,
}

/// The parameters of a run.
#[derive(Clone, Copy)]
pub struct Run {
    /// Decides everything random.
    pub seed: u64,
    /// Number of connections.
    pub connections: u64,
    /// Bytes in all, both directions together.
    pub total: u64,
    /// Bytes that connection 0 carries in each direction on top.
    pub big: u64,
    /// Each connection carries as much as it can until the test says that it is enough.
    pub open: bool,
}

/// Bytes of a stream whose length nobody knows in advance.
pub const OPEN: u64 = u64::MAX;

/// The connections of a run.
pub fn plans(run: &Run) -> Vec<Plan> {
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let weights: Vec<u64> = (0..run.connections * 2).map(|_| rng.u64(1..1000)).collect();
    let sum: u64 = weights.iter().sum();
    let share = |w: u64| run.total * w / sum;
    let mut side = || Side {
        mode: MODES[rng.usize(..MODES.len())],
        slow: rng.u8(..10) == 0,
    };
    (0..run.connections)
        .map(|index| {
            let big = if index == 0 { run.big } else { 0 };
            let bytes = |weight| match run.open {
                true => OPEN,
                false => share(weight) + big,
            };
            Plan {
                index,
                up: bytes(weights[2 * index as usize]),
                down: bytes(weights[2 * index as usize + 1]),
                client: side(),
                server: side(),
            }
        })
        .collect()
}
