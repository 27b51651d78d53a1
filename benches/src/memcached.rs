//! A client of memcached by its text protocol: each thread asks on all its connections, then reads all answers.

use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// One set to so many gets.
const GETS: u64 = 9;

/// Requests for so long: how many in a second. One request in ten stores a value, the others read it and compare.
///
/// # Errors
/// The kernel's, or an answer that is not the one that is due.
pub fn measure(
    server: SocketAddr,
    threads: usize,
    connections: usize,
    size: usize,
    time: Duration,
) -> Result<Value> {
    let start = Barrier::new(threads);
    let start = &start;
    let done: Result<Vec<f64>> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|number| {
                scope.spawn(move || {
                    let clients: Result<Vec<Client>> = (0..connections)
                        .map(|of| Client::connect(server, number * connections + of, size))
                        .collect();
                    start.wait();
                    rate(&mut clients?, time)
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .map_err(|_| Error::other("a thread panicked"))?
            })
            .collect()
    });
    Ok(json!({"per_second": done?.iter().sum::<f64>()}))
}

/// Requests of one thread in a second.
fn rate(clients: &mut [Client], time: Duration) -> Result<f64> {
    let begun = Instant::now();
    let mut requests = 0u64;
    for turn in 0.. {
        let sets = turn % (GETS + 1) == 0;
        for client in clients.iter_mut() {
            client.ask(sets)?;
        }
        for client in clients.iter_mut() {
            client.answer(sets)?;
            requests += 1;
        }
        if begun.elapsed() >= time {
            break;
        }
    }
    Ok(requests as f64 / begun.elapsed().as_secs_f64())
}

struct Client {
    stream: BufReader<TcpStream>,
    set: Vec<u8>,
    get: Vec<u8>,
    value: Vec<u8>,
    have: Vec<u8>,
}

impl Client {
    fn connect(server: SocketAddr, number: usize, size: usize) -> Result<Client> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        let value: Vec<u8> = (0..size)
            .map(|at| b'a' + ((at + number) % 26) as u8)
            .collect();
        let mut set = format!("set key{number} 0 0 {size}\r\n").into_bytes();
        set.extend_from_slice(&value);
        set.extend_from_slice(b"\r\n");
        Ok(Client {
            stream: BufReader::new(stream),
            set,
            get: format!("get key{number}\r\n").into_bytes(),
            value,
            have: Vec::new(),
        })
    }

    fn ask(&mut self, sets: bool) -> Result<()> {
        let request = if sets { &self.set } else { &self.get };
        self.stream.get_mut().write_all(request)
    }

    fn answer(&mut self, sets: bool) -> Result<()> {
        if sets {
            return self.line(b"STORED\r\n");
        }
        self.have.clear();
        self.stream.read_until(b'\n', &mut self.have)?;
        if !self.have.starts_with(b"VALUE ") {
            return Err(self.wrong());
        }
        self.have.resize(self.value.len() + 2, 0);
        self.stream.read_exact(&mut self.have)?;
        if self.have[..self.value.len()] != self.value[..] {
            return Err(self.wrong());
        }
        self.line(b"END\r\n")
    }

    fn line(&mut self, wanted: &[u8]) -> Result<()> {
        self.have.clear();
        self.stream.read_until(b'\n', &mut self.have)?;
        match self.have == wanted {
            true => Ok(()),
            false => Err(self.wrong()),
        }
    }

    fn wrong(&self) -> Error {
        let said = String::from_utf8_lossy(&self.have);
        Error::other(format!("memcached answers {:?}", said.trim_end()))
    }
}
