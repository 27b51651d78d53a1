//! Many connections: requests of some size, answers of a few bytes, by threads that wait in epoll at both ends.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Barrier;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::epoll::Epoll;

/// An answer.
const ANSWER: [u8; 64] = [b'!'; 64];
/// Bytes that the server reads at once.
const READ: usize = 256 << 10;
/// Connections that a client opens before one of them has been answered: fewer than a backlog holds.
const OPENING: usize = 100;
/// Milliseconds for which a client waits for any answer.
const PATIENCE: i32 = 20_000;

/// Answers requests of `size` bytes on any number of connections, for ever, in so many threads.
///
/// # Errors
/// The kernel's.
pub fn serve(at: SocketAddr, threads: usize, size: usize) -> Result<Value> {
    let listener = TcpListener::bind(at)?;
    thread::scope(|scope| {
        let workers: Result<Vec<(Sender<TcpStream>, UnixStream)>> = (0..threads)
            .map(|_| {
                let (give, take) = channel();
                let (bell, heard) = UnixStream::pair()?;
                let mut worker = Worker::new(size, take, heard)?;
                scope.spawn(move || {
                    if let Err(error) = worker.run() {
                        eprintln!("netacc-bench: a thread of the server: {error}");
                        std::process::exit(1)
                    }
                });
                Ok((give, bell))
            })
            .collect();
        let workers = workers?;
        for (give, bell) in workers.iter().cycle() {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let _ = give.send(stream);
            (&mut &*bell).write_all(&[0])?;
        }
        Ok(json!({}))
    })
}

/// The number under which a worker watches for fresh connections.
const FRESH: usize = usize::MAX;

/// A thread of the server.
struct Worker {
    epoll: Epoll,
    size: usize,
    fresh: Receiver<TcpStream>,
    /// A byte for each fresh one.
    bell: UnixStream,
    /// Each with the bytes of its request that are still due; none where one has ended.
    streams: Vec<Option<(TcpStream, usize)>>,
    buffer: Vec<u8>,
}

impl Worker {
    fn new(size: usize, fresh: Receiver<TcpStream>, bell: UnixStream) -> Result<Worker> {
        let epoll = Epoll::new()?;
        epoll.watch(&bell, FRESH)?;
        Ok(Worker {
            epoll,
            size,
            fresh,
            bell,
            streams: Vec::new(),
            buffer: vec![0; READ],
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut ready = Vec::new();
        loop {
            ready.clear();
            ready.extend(self.epoll.wait(-1)?);
            for &number in &ready {
                match number {
                    FRESH => self.welcome_all()?,
                    _ => self.serve(number)?,
                }
            }
        }
    }

    fn welcome_all(&mut self) -> Result<()> {
        // Before it looks for them: a later byte rings again.
        let _ = self.bell.read(&mut self.buffer[..1])?;
        while let Ok(stream) = self.fresh.try_recv() {
            self.welcome(stream)?;
        }
        Ok(())
    }

    fn welcome(&mut self, stream: TcpStream) -> Result<()> {
        self.epoll.watch(&stream, self.streams.len())?;
        self.streams.push(Some((stream, self.size)));
        Ok(())
    }

    fn serve(&mut self, number: usize) -> Result<()> {
        let Some((stream, due)) = &mut self.streams[number] else {
            return Ok(());
        };
        let most = READ.min(*due);
        match stream.read(&mut self.buffer[..most]) {
            Ok(0) => self.streams[number] = None,
            Ok(read) => {
                *due -= read;
                if *due == 0 {
                    *due = self.size;
                    stream.write_all(&ANSWER)?;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.streams[number] = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// What the client does.
#[derive(Clone, Copy)]
pub struct Load {
    /// Where the server listens.
    pub server: SocketAddr,
    /// Threads, each with connections of its own.
    pub threads: usize,
    /// Connections of all threads that always have a request under way.
    pub active: usize,
    /// Connections of all threads that never have one.
    pub idle: usize,
    /// Bytes of a request.
    pub size: usize,
}

/// Requests for so long: how many in a second.
///
/// # Errors
/// The kernel's, or an answer that is not the one that is due.
pub fn measure(load: Load, time: Duration) -> Result<Value> {
    let start = &Barrier::new(load.threads);
    let done: Result<Vec<f64>> = thread::scope(|scope| {
        let running: Vec<_> = (0..load.threads)
            .map(|number| {
                // Those that do not divide are the first threads'.
                let part = |of: usize| of / load.threads + usize::from(number < of % load.threads);
                let (active, idle) = (part(load.active), part(load.idle));
                scope.spawn(move || {
                    let client = Client::connect(load, active, idle);
                    start.wait();
                    client?.run(time)
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
    let per_second: f64 = done?.iter().sum();
    Ok(json!({
        "per_second": per_second,
        "mb_per_second": per_second * load.size as f64 / 1e6,
    }))
}

/// A thread of the client.
struct Client {
    epoll: Epoll,
    /// The active ones first, each with the bytes of its answer that are still due.
    streams: Vec<(TcpStream, usize)>,
    active: usize,
    request: Vec<u8>,
}

impl Client {
    fn connect(load: Load, active: usize, idle: usize) -> Result<Client> {
        let mut client = Client {
            epoll: Epoll::new()?,
            streams: Vec::new(),
            active,
            request: vec![7; load.size],
        };
        for number in 0..active + idle {
            let mut stream = TcpStream::connect(load.server)?;
            stream.set_nodelay(true)?;
            if number % OPENING == OPENING - 1 {
                stream.write_all(&client.request)?;
                stream.read_exact(&mut ANSWER.clone())?;
            }
            client.epoll.watch(&stream, number)?;
            client.streams.push((stream, ANSWER.len()));
        }
        Ok(client)
    }

    fn run(&mut self, time: Duration) -> Result<f64> {
        for (stream, _) in &mut self.streams[..self.active] {
            stream.write_all(&self.request)?;
        }
        let begun = Instant::now();
        let (mut answers, mut under_way, mut ready) = (0u64, self.active, Vec::new());
        let mut took = begun.elapsed();
        while under_way > 0 {
            ready.clear();
            ready.extend(self.epoll.wait(PATIENCE)?);
            if ready.is_empty() {
                return Err(Error::other("no answer comes"));
            }
            for &number in &ready {
                let (stream, due) = &mut self.streams[number];
                let mut answer = [0; ANSWER.len()];
                match stream.read(&mut answer[..*due])? {
                    0 => return Err(Error::other("the server has closed a connection")),
                    read if answer[..read] != ANSWER[..read] => {
                        return Err(Error::other("another answer came"));
                    }
                    read => *due -= read,
                }
                if *due > 0 {
                    continue;
                }
                *due = ANSWER.len();
                if took < time {
                    answers += 1;
                    stream.write_all(&self.request)?;
                } else {
                    under_way -= 1;
                }
            }
            if took < time {
                took = begun.elapsed();
            }
        }
        Ok(answers as f64 / took.as_secs_f64())
    }
}
