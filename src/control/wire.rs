//! The control protocol's frames. Little-endian, at most [`MAX_FRAME`] bytes, each begun by the same
//! eight bytes: magic, kind, version, length of the whole.
//!
//! Version 2 (version 1 had neither `elsewhere` nor the last field of `hello`):
//!
//! | kind | from, on | fields after the prefix |
//! |---|---|---|
//! | 1 hello | connecting side, a connection of its own to the side port | oldest and newest version u16, capabilities u64, host 16 B, network namespace u64, process 16 B, pid u32, window u64, fabric count u8, fabrics, wanted process 32 B (zero: any) |
//! | 2 answer | accepting side | version u16, verdict u8, fabric u8, capabilities u64, window u64, pid u32, token 16 B, rendezvous 32 B, door count u8, doors (IPv6 address 16 B, or IPv4 mapped to it, port u16) |
//! | 3 open | connecting side, the application's own connection to the side port | connection id u32, token 16 B, window u64 |
//! | 4 verdict | accepting side | verdict u8, window u64 |
//! | 5 attach | connecting side, Unix socket, with its I/O bell | token 16 B |
//! | 6 segment | accepting side, Unix socket, with memfd and its I/O bell | ring size u64 |
//! | 7 bell | either side, Unix socket, with the bell | slot u8 |
//! | 8 claim | whoever holds a connection of the process at the rendezvous, with its descriptor | socket number there u64, 0 if unknown |
//! | 10 heir | program that was started with connections of the process at the rendezvous, with the descriptor of one | socket number there u64 |
//! | 9 estate | parent, the same, with a memfd of what is unread | bytes unread u64 |
//! | 11 elsewhere | accepting side, in place of a verdict | process 32 B |
//! | 12 stand | connecting side, the application's own connection to the side port or to a door | connection id u32, token 16 B |
//!
//! Processes are named by their rendezvous. A hello for one of several processes that share a side port may come to
//! another of them, which passes it on, with the connection, at the rendezvous of the one that is wanted.
//!
//! The cargo feature `protocol-1` makes a library that speaks version 1 and nothing else, as the first did, and knows no
//! capability: what programs run that were started before an upgrade. Tests have it talk to this one.
//!
//! Every parser here is total: any bytes give a frame or an error.

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"NACC";
/// The newest protocol version that this library speaks.
pub const VERSION: u16 = if cfg!(feature = "protocol-1") { 1 } else { 2 };
/// The oldest that it speaks.
pub const OLDEST: u16 = 1;
/// From this one on, what is opened on a link that the acceptor does not know can be opened anew on another.
pub const SHARING: u16 = 2;
/// No frame is longer.
pub const MAX_FRAME: usize = 192;
/// The bytes with which every frame begins.
pub const PREFIX: usize = 8;
/// Capability: knows the records of a hand-back after which the kernel's connection alone is complete (`Recall`,
/// `Returned`, `Resent`).
pub const RESENDS: u64 = 1;
/// Capability: fast connect is on ([`crate::link::ways`]). Version 1 knows none.
pub const FAST: u64 = 2;
/// The capabilities of this library, but for those that the configuration switches on.
pub const CAPABILITIES: u64 = if cfg!(feature = "protocol-1") {
    0
} else {
    RESENDS
};
/// Whether this library knows `elsewhere`, and a hello that names a process.
const SHARES: bool = VERSION >= SHARING;
/// Bytes of a verdict frame.
pub const VERDICT_LEN: usize = PREFIX + 9;
/// Bytes of the longest frame that an open is answered with.
pub const LONGEST_REPLY: usize = PREFIX + size_of::<Name>();

/// A process: the abstract Unix address of its rendezvous.
pub type Name = [u8; 32];

/// Where the accepting side's RDMA connection manager listens.
pub type Door = ([u8; 16], u16);

/// Doors that an answer can name.
pub const MAX_DOORS: usize = 4;

/// Fabrics that a hello can offer.
const MAX_FABRICS: usize = 8;

/// Names this host and network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Host {
    /// The kernel's boot id; zero if unknown.
    pub boot_id: [u8; 16],
    /// Inode of the network namespace; zero if unknown.
    pub net_ns: u64,
}

impl Host {
    /// Whether both are known to be the same.
    pub fn same_as(&self, other: &Host) -> bool {
        self == other && self.boot_id != [0; 16] && self.net_ns != 0
    }
}

/// See the module's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version that the sender speaks.
    pub oldest: u16,
    /// Newest version that the sender speaks.
    pub newest: u16,
    /// Capability bits: see [`CAPABILITIES`].
    pub capabilities: u64,
    /// Where the sender runs.
    pub host: Host,
    /// The sending process: random, made anew by each.
    pub process: [u8; 16],
    /// Its pid, for display.
    pub pid: u32,
    /// Receive window of each connection, bytes.
    pub window: u64,
    /// Fabric codes, preferred first.
    pub fabrics: Vec<u8>,
    /// The process that is to answer; `None`: whichever takes it.
    pub wanted: Option<Name>,
}

/// Why (or that not) a hello or an open is declined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Granted.
    Yes = 0,
    /// This connection goes on as plain TCP.
    Plain = 1,
    /// No version in common.
    Version = 2,
    /// No fabric in common.
    Fabric = 3,
    /// Out of memory or descriptors.
    Resources = 4,
    /// The way between the two does not lead by RDMA devices on both sides.
    Route = 5,
}

impl Verdict {
    fn from_code(code: u8) -> Option<Verdict> {
        Some(match code {
            0 => Verdict::Yes,
            1 => Verdict::Plain,
            2 => Verdict::Version,
            3 => Verdict::Fabric,
            4 => Verdict::Resources,
            5 => Verdict::Route,
            _ => return None,
        })
    }
}

/// See the module's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The version that both will speak.
    pub version: u16,
    /// Whether there will be a link.
    pub verdict: Verdict,
    /// The fabric chosen; 0 if none.
    pub fabric: u8,
    /// Capability bits in common.
    pub capabilities: u64,
    /// Receive window of each connection, bytes.
    pub window: u64,
    /// The answering process, for display.
    pub pid: u32,
    /// The link's name.
    pub token: [u8; 16],
    /// Abstract Unix address where the shared memory is handed over.
    pub rendezvous: Name,
    /// Where the RDMA connection manager listens, the preferred first; at most [`MAX_DOORS`].
    pub doors: Vec<Door>,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Frame {
    Hello(Hello),
    Answer(Answer),
    Open {
        /// The version that its sender speaks, with whoever takes it.
        version: u16,
        conn: u32,
        token: [u8; 16],
        window: u64,
    },
    Elsewhere {
        process: Name,
    },
    Verdict {
        verdict: Verdict,
        window: u64,
    },
    Attach {
        token: [u8; 16],
    },
    Segment {
        ring_size: u64,
    },
    Bell {
        slot: u8,
    },
    Claim {
        serial: u64,
    },
    Estate {
        unread: u64,
    },
    Heir {
        serial: u64,
    },
    Stand {
        conn: u32,
        token: [u8; 16],
    },
}

/// The bytes are not a frame of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAFrame;

/// Whether a peer that speaks `version` is told that another process has taken its connection, and which.
pub fn hears_elsewhere(version: u16) -> bool {
    SHARES && version >= SHARING
}

/// Result of looking at received bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A frame of so many bytes.
    Frame(Frame, usize),
    /// A good beginning: more bytes are needed.
    Incomplete,
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u8) -> Writer {
        Writer::of_version(kind, VERSION)
    }

    fn of_version(kind: u8, version: u16) -> Writer {
        let mut out = Vec::with_capacity(MAX_FRAME);
        out.extend(MAGIC);
        out.extend([kind, version as u8, 0, 0]);
        Writer(out)
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn end(mut self) -> Vec<u8> {
        let len = self.0.len() as u16;
        self.0[6..8].copy_from_slice(&len.to_le_bytes());
        self.0
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], NotAFrame> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(NotAFrame)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, NotAFrame> {
        self.bytes::<1>().map(|[b]| b)
    }

    fn u16(&mut self) -> Result<u16, NotAFrame> {
        self.bytes().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, NotAFrame> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, NotAFrame> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn end(&self) -> Result<(), NotAFrame> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(NotAFrame)
        }
    }
}

impl Frame {
    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Frame::Hello(h) => {
                let writer = Writer::new(1)
                    .put(&h.oldest.to_le_bytes())
                    .put(&h.newest.to_le_bytes())
                    .put(&h.capabilities.to_le_bytes())
                    .put(&h.host.boot_id)
                    .put(&h.host.net_ns.to_le_bytes())
                    .put(&h.process)
                    .put(&h.pid.to_le_bytes())
                    .put(&h.window.to_le_bytes())
                    .put(&[h.fabrics.len().min(MAX_FABRICS) as u8])
                    .put(&h.fabrics[..h.fabrics.len().min(MAX_FABRICS)]);
                match SHARES {
                    true => writer.put(&h.wanted.unwrap_or_default()),
                    false => writer,
                }
            }
            Frame::Answer(a) => {
                let doors = &a.doors[..a.doors.len().min(MAX_DOORS)];
                let writer = Writer::new(2)
                    .put(&a.version.to_le_bytes())
                    .put(&[a.verdict as u8, a.fabric])
                    .put(&a.capabilities.to_le_bytes())
                    .put(&a.window.to_le_bytes())
                    .put(&a.pid.to_le_bytes())
                    .put(&a.token)
                    .put(&a.rendezvous)
                    .put(&[doors.len() as u8]);
                doors.iter().fold(writer, |writer, (ip, port)| {
                    writer.put(ip).put(&port.to_le_bytes())
                })
            }
            Frame::Open {
                version,
                conn,
                token,
                window,
            } => Writer::of_version(3, *version)
                .put(&conn.to_le_bytes())
                .put(token)
                .put(&window.to_le_bytes()),
            Frame::Verdict { verdict, window } => Writer::new(4)
                .put(&[*verdict as u8])
                .put(&window.to_le_bytes()),
            Frame::Attach { token } => Writer::new(5).put(token),
            Frame::Segment { ring_size } => Writer::new(6).put(&ring_size.to_le_bytes()),
            Frame::Bell { slot } => Writer::new(7).put(&[*slot]),
            Frame::Claim { serial } => Writer::new(8).put(&serial.to_le_bytes()),
            Frame::Estate { unread } => Writer::new(9).put(&unread.to_le_bytes()),
            Frame::Heir { serial } => Writer::new(10).put(&serial.to_le_bytes()),
            Frame::Elsewhere { process } => Writer::new(11).put(process),
            Frame::Stand { conn, token } => Writer::new(12).put(&conn.to_le_bytes()).put(token),
        }
        .end()
    }

    /// Parses the frame at the start of `bytes`.
    ///
    /// # Errors
    /// [`NotAFrame`] as soon as the bytes cannot become one.
    pub fn parse(bytes: &[u8]) -> Result<Parsed, NotAFrame> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(NotAFrame);
        }
        let Some(prefix) = bytes.first_chunk::<PREFIX>() else {
            return Ok(Parsed::Incomplete);
        };
        let len = usize::from(u16::from_le_bytes([prefix[6], prefix[7]]));
        if !(PREFIX..=MAX_FRAME).contains(&len) {
            return Err(NotAFrame);
        }
        let Some(frame) = bytes.get(..len) else {
            return Ok(Parsed::Incomplete);
        };
        let mut r = Reader(&frame[PREFIX..]);
        let parsed = match prefix[4] {
            1 => {
                let mut hello = Hello {
                    oldest: r.u16()?,
                    newest: r.u16()?,
                    capabilities: r.u64()?,
                    host: Host {
                        boot_id: r.bytes()?,
                        net_ns: r.u64()?,
                    },
                    process: r.bytes()?,
                    pid: r.u32()?,
                    window: r.u64()?,
                    fabrics: Vec::new(),
                    wanted: None,
                };
                let count = usize::from(r.u8()?);
                if count > MAX_FABRICS || hello.oldest > hello.newest {
                    return Err(NotAFrame);
                }
                for _ in 0..count {
                    hello.fabrics.push(r.u8()?);
                }
                // An older peer does not say this.
                if SHARES && !r.0.is_empty() {
                    hello.wanted = Some(r.bytes()?).filter(|wanted| *wanted != Name::default());
                }
                // A newer peer may say more: what we do not know does not concern us.
                r.0 = &[];
                Frame::Hello(hello)
            }
            2 => {
                let mut answer = Answer {
                    version: r.u16()?,
                    verdict: Verdict::from_code(r.u8()?).ok_or(NotAFrame)?,
                    fabric: r.u8()?,
                    capabilities: r.u64()?,
                    window: r.u64()?,
                    pid: r.u32()?,
                    token: r.bytes()?,
                    rendezvous: r.bytes()?,
                    doors: Vec::new(),
                };
                let doors = usize::from(r.u8()?);
                if doors > MAX_DOORS {
                    return Err(NotAFrame);
                }
                for _ in 0..doors {
                    answer.doors.push((r.bytes()?, r.u16()?));
                }
                Frame::Answer(answer)
            }
            3 => Frame::Open {
                version: u16::from(prefix[5]),
                conn: r.u32()?,
                token: r.bytes()?,
                window: r.u64()?,
            },
            4 => Frame::Verdict {
                verdict: Verdict::from_code(r.u8()?).ok_or(NotAFrame)?,
                window: r.u64()?,
            },
            5 => Frame::Attach { token: r.bytes()? },
            6 => Frame::Segment {
                ring_size: r.u64()?,
            },
            7 => Frame::Bell { slot: r.u8()? },
            8 => Frame::Claim { serial: r.u64()? },
            9 => Frame::Estate { unread: r.u64()? },
            10 => Frame::Heir { serial: r.u64()? },
            11 if SHARES => Frame::Elsewhere {
                process: r.bytes()?,
            },
            12 if SHARES => Frame::Stand {
                conn: r.u32()?,
                token: r.bytes()?,
            },
            _ => return Err(NotAFrame),
        };
        r.end()?;
        Ok(Parsed::Frame(parsed, len))
    }
}
