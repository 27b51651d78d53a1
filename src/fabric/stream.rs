//! The carrier of last resort: ring bytes and messages as frames on a kernel TCP connection, the one on
//! which the link was negotiated.
//!
//! | bytes | meaning |
//! |---|---|
//! | 0..4 | how many ring bytes follow the head |
//! | 4..8 | number of the carrier on this connection; 0: none, about the connection itself |
//! | 8..48 | a [`Message`]; with ring bytes it is the progress that they make |
//! | 48.. | ring bytes |

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::IoSlice;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use super::FabricKind;
use super::plain::Plain;
use super::remote::MOST_PAYLOAD;
use super::remote::carrier::{Batch, Carrier, MOST_PIECES, Piece, Posted, Ring, RingSource};
use super::remote::message::{MESSAGE, Message, Progress};
use crate::conn::Violation;
use crate::real::sys::{Errno, InternalFd};

const HEAD: usize = 8 + MESSAGE;
/// The most ring bytes in one frame.
const MOST: u64 = 256 << 10;
const _: () = assert!(MOST > MOST_PAYLOAD as u64);

/// What is still to be written.
enum Part {
    /// Ours, and how much of it is written.
    Bytes(Vec<u8>, usize),
    /// Ring bytes where they lie: the mirror, where in it they begin, and how many there are.
    Ring(Arc<Ring>, usize, usize),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Part::Bytes(bytes, from) => &bytes[*from..],
            // SAFETY: a piece of the mirror, as it was posted.
            Part::Ring(mirror, at, len) => unsafe {
                core::slice::from_raw_parts(mirror.memory.base.add(*at), *len)
            },
        }
    }

    /// So many of its bytes, not all, are written.
    fn advance(&mut self, sent: usize) {
        match self {
            Part::Bytes(_, from) => *from += sent,
            Part::Ring(_, at, len) => {
                *at += sent;
                *len -= sent;
            }
        }
    }
}

/// The connection, as both who writes to it and who reads from it see it.
pub struct Stream {
    fd: InternalFd,
    out: Mutex<VecDeque<Part>>,
    /// A write has failed because the connection was broken off: the kernel tells that once, and then of an end as if there had been nothing.
    failed: AtomicBool,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn head(len: usize, carrier: u32, message: &Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD);
    bytes.extend((len as u32).to_le_bytes());
    bytes.extend(carrier.to_le_bytes());
    bytes.extend(message.encode(0));
    bytes
}

impl Stream {
    /// Over a connected, non-blocking socket.
    pub fn new(fd: InternalFd) -> Arc<Stream> {
        Arc::new(Stream {
            fd,
            out: Mutex::default(),
            failed: AtomicBool::new(false),
        })
    }

    /// Says something about the connection itself.
    pub fn say(&self, message: &Message) -> Posted {
        let mut out = self.out.lock();
        out.push_back(Part::Bytes(head(0, 0, message), 0));
        self.write(&mut out)
    }

    /// Goes on writing. `Full`: the kernel takes no more for now.
    pub fn go_on(&self) -> Posted {
        self.write(&mut self.out.lock())
    }

    /// Whether a write has found the connection broken off.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether something is still to be written.
    pub fn is_blocked(&self) -> bool {
        !self.out.lock().is_empty()
    }

    fn write(&self, out: &mut VecDeque<Part>) -> Posted {
        while !out.is_empty() {
            // A head and its ring bytes in one call, and in as few packets as can be.
            let slices: ArrayVec<IoSlice<'_>, { 1 + MOST_PIECES }> = out
                .iter()
                .take(1 + MOST_PIECES)
                .map(|part| IoSlice::new(part.bytes()))
                .collect();
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let nothing = &mut SendAncillaryBuffer::default();
            let mut sent = match rustix::net::sendmsg(&self.fd, &slices, nothing, flags) {
                Ok(sent) => sent,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Posted::Full,
                Err(error) => {
                    // After the peer's end in good order it is EPIPE, and a short memory says nothing of the peer.
                    let harmless = [Errno::PIPE, Errno::NOBUFS, Errno::NOMEM].contains(&error);
                    self.failed.fetch_or(!harmless, Ordering::Relaxed);
                    return Posted::Failed;
                }
            };
            drop(slices);
            while let Some(part) = out.front_mut() {
                let len = part.bytes().len();
                if sent < len {
                    part.advance(sent);
                    break;
                }
                sent -= len;
                out.pop_front();
            }
        }
        Posted::Done
    }
}

/// One life of a stream as a link's carrier.
pub struct StreamCarrier {
    stream: Arc<Stream>,
    number: u32,
    /// Called when the kernel takes no more: somebody has to see when it does again.
    stalled: Box<dyn Fn() + Send>,
}

impl StreamCarrier {
    /// Number `number` on `stream`.
    pub fn new(stream: Arc<Stream>, number: u32, stalled: Box<dyn Fn() + Send>) -> StreamCarrier {
        StreamCarrier {
            stream,
            number,
            stalled,
        }
    }

    fn send<'a>(
        &self,
        message: &Message,
        pieces: impl Iterator<Item = Piece<'a>> + Clone,
    ) -> Posted {
        let mut out = self.stream.out.lock();
        if !out.is_empty() {
            return Posted::Full;
        }
        let len = pieces.clone().map(|piece| piece.len as usize).sum();
        out.push_back(Part::Bytes(head(len, self.number, message), 0));
        out.extend(
            pieces.map(|piece| Part::Ring(piece.mirror.clone(), piece.offset, piece.len as usize)),
        );
        match self.stream.write(&mut out) {
            Posted::Full => {
                drop(out);
                (self.stalled)();
                // It is as good as sent.
                Posted::Done
            }
            other => other,
        }
    }
}

impl Carrier for StreamCarrier {
    fn kind(&self) -> FabricKind {
        FabricKind::Tcp
    }

    fn limits(&self) -> (u64, usize) {
        (MOST, 4)
    }

    fn post(&mut self, batch: &mut Batch<'_>) -> Posted {
        let pieces = batch.pieces.iter().flatten().copied();
        self.send(&Message::Progress(batch.progress), pieces)
    }

    fn tell(&mut self, message: &Message) -> Posted {
        self.send(message, core::iter::empty())
    }

    fn is_idle(&self) -> bool {
        !self.stream.is_blocked()
    }

    fn close(&mut self) {
        // The connection goes on, and so does a frame that was begun.
    }

    fn rings(&self) -> Arc<dyn RingSource> {
        // Any memory would do; but that of a device may have to go with it.
        Arc::new(Plain)
    }
}

/// What came in a frame.
pub struct Heard {
    /// The carrier's number on the connection.
    pub number: u32,
    /// The message.
    pub message: Message,
}

/// What reading gave.
pub enum Read {
    /// A whole frame.
    Frame(Heard),
    /// Nothing more for now.
    Nothing,
    /// The peer has closed it.
    End,
    /// It is broken.
    Broken(Errno),
    /// What came is no frame, or cannot be.
    Nonsense,
}

/// Bytes that are read at once: while there is little to read, and as soon as there is more.
const AT_ONCE: (usize, usize) = (4 << 10, 64 << 10);

/// Reads frames.
#[derive(Default)]
pub struct Reader {
    /// Room for a frame at least, and what has come of it and those after it.
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl Reader {
    /// Whether what has come so far ends within a frame.
    pub fn is_within_frame(&self) -> bool {
        self.from < self.to
    }

    /// Whether there is a whole frame that was not given yet: the kernel no longer tells of it.
    pub fn has_frame(&self) -> bool {
        let come = &self.buffer[self.from..self.to];
        come.len() >= HEAD && parse(come).is_ok_and(|(len, _)| come.len() >= HEAD + len)
    }

    /// Reads up to the end of one frame. Its ring bytes go to `place`, with the carrier's number and the
    /// cursor of the first.
    pub fn read(
        &mut self,
        stream: &Stream,
        place: impl FnOnce(u32, u64, &[u8]) -> Result<(), Violation>,
    ) -> Read {
        if let Err(end) = self.receive(stream, HEAD) {
            return end;
        }
        let Ok((len, heard)) = parse(&self.buffer[self.from..self.to]) else {
            return Read::Nonsense;
        };
        if let Err(end) = self.receive(stream, HEAD + len) {
            return end;
        }
        let bytes = &self.buffer[self.from + HEAD..self.from + HEAD + len];
        if let Message::Progress(Progress { produced, .. }) = heard.message
            && len > 0
            && place(heard.number, produced - len as u64, bytes).is_err()
        {
            return Read::Nonsense;
        }
        self.from += HEAD + len;
        Read::Frame(heard)
    }

    /// Sees to it that `wanted` bytes are there.
    fn receive(&mut self, stream: &Stream, wanted: usize) -> Result<(), Read> {
        while self.to - self.from < wanted {
            if self.from > 0 {
                self.buffer.copy_within(self.from..self.to, 0);
                (self.from, self.to) = (0, self.to - self.from);
            }
            let room = match wanted > HEAD {
                true => AT_ONCE.1.max(wanted),
                false => AT_ONCE.0,
            };
            if self.buffer.len() < room {
                self.buffer.resize(room, 0);
            }
            self.to += receive(stream, &mut self.buffer[self.to..])?;
        }
        Ok(())
    }
}

/// How many ring bytes follow a head, and what it says.
fn parse(frame: &[u8]) -> Result<(usize, Heard), Violation> {
    let (len, rest) = frame.split_first_chunk::<4>().ok_or(Violation)?;
    let (number, rest) = rest.split_first_chunk::<4>().ok_or(Violation)?;
    let body = rest.first_chunk::<MESSAGE>().ok_or(Violation)?;
    let len = u32::from_le_bytes(*len) as usize;
    let (message, _) = Message::parse(body).map_err(|_| Violation)?;
    let fits = match message {
        Message::Progress(p) => len as u64 <= MOST.min(p.produced),
        _ => len == 0,
    };
    let number = u32::from_le_bytes(*number);
    fits.then_some((len, Heard { number, message }))
        .ok_or(Violation)
}

fn receive(stream: &Stream, buffer: &mut [u8]) -> Result<usize, Read> {
    loop {
        match rustix::net::recv(stream, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(Read::End),
            Ok((_, got)) => return Ok(got.min(buffer.len())),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(Read::Nothing),
            Err(error) => return Err(Read::Broken(error)),
        }
    }
}
