//! The machine's own limits, and clients that no package has, for `make bench`. Each run prints one line of JSON.

mod connects;
mod crowd;
mod epoll;
mod memcached;
mod memory;
mod shared_ring;
mod trips;
mod turns;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What is to be measured.
#[derive(Parser)]
#[command(about)]
struct Options {
    #[command(subcommand)]
    what: What,
    /// How long to measure, in milliseconds.
    #[arg(long, default_value_t = 1000, global = true)]
    ms: u64,
}

#[derive(Subcommand)]
enum What {
    /// Two processes that share a page and spin: a message there and back, with nothing in between.
    SharedMemory {
        /// Bytes of a message.
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
    /// One thread that copies memory.
    Copy {
        /// Bytes of each copy.
        #[arg(long, default_value_t = 1 << 20)]
        size: usize,
    },
    /// A client of memcached: sets and gets, every value checked.
    Memcached {
        /// Where the server listens.
        #[arg(long)]
        connect: SocketAddr,
        /// Threads, each with connections of its own.
        #[arg(long, default_value_t = 4)]
        threads: usize,
        /// Connections of each thread: a request is under way on each.
        #[arg(long, default_value_t = 16)]
        connections: usize,
        /// Bytes of a value.
        #[arg(long, default_value_t = 512)]
        size: usize,
    },
    /// A server of connections that carry one byte.
    Accept {
        /// Where it listens.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// A client of it: opens connections, one after the other.
    Connect {
        /// Where the server listens.
        #[arg(long)]
        connect: SocketAddr,
    },
    /// A server of many connections: short answers to requests of one size.
    Answer {
        /// Where it listens.
        #[arg(long)]
        listen: SocketAddr,
        /// Threads.
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Bytes of a request.
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
    /// A client of it.
    Ask {
        /// Where the server listens.
        #[arg(long)]
        connect: SocketAddr,
        /// Threads.
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Connections that always have a request under way.
        #[arg(long, default_value_t = 1)]
        active: usize,
        /// Connections that never have one.
        #[arg(long, default_value_t = 0)]
        idle: usize,
        /// Bytes of a request.
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
    /// Two processes that take turns: the same instructions of a preloaded library in every run.
    Turns {
        /// What they do.
        #[arg(long, value_enum)]
        work: turns::Work,
        /// Where the server listens, on 127.0.0.1.
        #[arg(long)]
        port: u16,
        /// Bytes of a message.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Messages there, all connections together.
        #[arg(long)]
        messages: usize,
        /// Connections with messages.
        #[arg(long, default_value_t = 1)]
        active: usize,
        /// Connections without.
        #[arg(long, default_value_t = 0)]
        idle: usize,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let time = std::time::Duration::from_millis(options.ms);
    let measured = match options.what {
        What::SharedMemory { size } => shared_ring::measure(size, time),
        What::Accept { listen } => connects::serve(listen),
        What::Connect { connect } => connects::measure(connect, time),
        What::Copy { size } => Ok(memory::measure(size, time)),
        What::Answer {
            listen,
            threads,
            size,
        } => crowd::serve(listen, threads, size),
        What::Ask {
            connect,
            threads,
            active,
            idle,
            size,
        } => crowd::measure(
            crowd::Load {
                server: connect,
                threads,
                active,
                idle,
                size,
            },
            time,
        ),
        What::Turns {
            work,
            port,
            size,
            messages,
            active,
            idle,
        } => turns::run(turns::Load {
            port,
            work,
            size,
            messages,
            active,
            idle,
        }),
        What::Memcached {
            connect,
            threads,
            connections,
            size,
        } => memcached::measure(connect, threads, connections, size, time),
    };
    match measured {
        Ok(figures) => {
            println!("{figures}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("netacc-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
