//! The machine's own limits, and clients that no package has, for `make bench`. Each run prints one line of JSON.

mod memcached;
mod memory;
mod shared_ring;
mod trips;

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
}

fn main() -> ExitCode {
    let options = Options::parse();
    let time = std::time::Duration::from_millis(options.ms);
    let measured = match options.what {
        What::SharedMemory { size } => shared_ring::measure(size, time),
        What::Copy { size } => Ok(memory::measure(size, time)),
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
