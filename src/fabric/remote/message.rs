//! What the two ends of a link tell each other beside the ring bytes themselves.
//!
//! A [`Message`] is 40 bytes, little-endian, carried by a SEND or by the frame of a byte stream:
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | kind |
//! | 1..4 | zero |
//! | 4..8 | the carrier's own: messages taken in so far (verbs) |
//! | 8..16 | a cursor |
//! | 16..24 | a second cursor |
//! | 24..32 | a ring's address |
//! | 32..36 | its key |
//! | 36..40 | its size |
//!
//! Where the device has WRITE_WITH_IMM, news that belongs to a batch of ring bytes goes in the 32 bits
//! of immediate data instead ([`Immediate`]): differences to what was told before.

/// Bytes of a message.
pub const MESSAGE: usize = 40;

/// A ring as its owner offers it to the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteRing {
    /// Address of its first byte in the owner's registered memory; 0 where the carrier needs none.
    pub addr: u64,
    /// The key to it.
    pub rkey: u32,
    /// Its size in bytes, a power of two.
    pub size: u32,
}

/// How far the sender of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its ring bytes before this are in the receiver's memory.
    pub produced: u64,
    /// It gave the receiver's ring bytes before this back.
    pub freed: u64,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// First of each side on a carrier: what it has received (`got`), what it gave back, and the ring into
    /// which the bytes from `got` on are to go.
    #[allow(missing_docs)]
    Resume {
        got: u64,
        freed: u64,
        ring: RemoteRing,
    },
    /// News of the cursors.
    Progress(Progress),
    /// Another ring, which the other end may switch to.
    Offer(RemoteRing),
    /// The bytes from this cursor on go into the ring that was offered last.
    Switch(u64),
    /// Asks for a [`Pong`](Message::Pong) with the same cursor, before which everything was sent: is anybody
    /// there?
    Ping(u64),
    /// Yes, and what was sent before that cursor is in its ring.
    Pong(u64),
    /// My carrier is broken: begin another one. (On the connection itself.)
    Broken,
    /// I found your ring full: a larger one would help.
    Full,
}

/// The bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMessage;

/// Smallest and largest ring that is believed in, in bytes.
pub const RING_SIZES: std::ops::RangeInclusive<u32> = 4096..=(64 << 20);

impl Message {
    /// Its bytes; `taken` is the carrier's own count.
    pub fn encode(&self, taken: u32) -> [u8; MESSAGE] {
        let none = RemoteRing {
            addr: 0,
            rkey: 0,
            size: 0,
        };
        let (kind, a, b, ring) = match *self {
            Message::Resume { got, freed, ring } => (1, got, freed, ring),
            Message::Progress(p) => (2, p.produced, p.freed, none),
            Message::Offer(ring) => (3, 0, 0, ring),
            Message::Switch(at) => (4, at, 0, none),
            Message::Ping(at) => (5, at, 0, none),
            Message::Pong(at) => (6, at, 0, none),
            Message::Broken => (7, 0, 0, none),
            Message::Full => (8, 0, 0, none),
        };
        let mut out = [0; MESSAGE];
        out[0] = kind;
        out[4..8].copy_from_slice(&taken.to_le_bytes());
        out[8..16].copy_from_slice(&a.to_le_bytes());
        out[16..24].copy_from_slice(&b.to_le_bytes());
        out[24..32].copy_from_slice(&ring.addr.to_le_bytes());
        out[32..36].copy_from_slice(&ring.rkey.to_le_bytes());
        out[36..40].copy_from_slice(&ring.size.to_le_bytes());
        out
    }

    /// The message in `bytes`, and the carrier's count.
    ///
    /// # Errors
    /// [`NotAMessage`] for whatever [`encode`](Self::encode) cannot have made of sane values.
    pub fn parse(bytes: &[u8; MESSAGE]) -> Result<(Message, u32), NotAMessage> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (a, b) = (long(8), long(16));
        let ring = RemoteRing {
            addr: long(24),
            rkey: word(32),
            size: word(36),
        };
        let sane = || ring.size.is_power_of_two() && RING_SIZES.contains(&ring.size);
        let message = match bytes[0] {
            1 if sane() => Message::Resume {
                got: a,
                freed: b,
                ring,
            },
            2 => Message::Progress(Progress {
                produced: a,
                freed: b,
            }),
            3 if sane() => Message::Offer(ring),
            4 => Message::Switch(a),
            5 => Message::Ping(a),
            6 => Message::Pong(a),
            7 => Message::Broken,
            8 => Message::Full,
            _ => return Err(NotAMessage),
        };
        if message.encode(word(4)) == *bytes {
            Ok((message, word(4)))
        } else {
            Err(NotAMessage)
        }
    }
}

/// News in 32 bits: differences to what was told before on the same carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Immediate {
    /// Ring bytes that are new: a multiple of 16, below 1 MiB.
    pub produced: u32,
    /// Ring bytes that were given back: a multiple of 1024, below 1 MiB.
    pub freed: u32,
    /// Messages that were taken in: below 64.
    pub taken: u32,
}

/// Unit of [`Immediate::produced`], in bytes: all records are multiples of it.
const PRODUCED_UNIT: u32 = 16;
/// Unit of [`Immediate::freed`], in bytes.
const FREED_UNIT: u32 = 1024;

impl Immediate {
    /// The most ring bytes that one can announce.
    pub const MOST_PRODUCED: u64 = 0xffff * PRODUCED_UNIT as u64;

    /// As much of the news as fits; `produced` has to.
    pub fn of(produced: u64, freed: u64, taken: u32) -> Immediate {
        let unit = u64::from(FREED_UNIT);
        Immediate {
            produced: produced as u32,
            freed: ((freed / unit).min(0x3ff) * unit) as u32,
            taken: taken.min(0x3f),
        }
    }

    /// The 32 bits.
    pub fn encode(&self) -> u32 {
        (self.produced / PRODUCED_UNIT) << 16 | self.taken << 10 | (self.freed / FREED_UNIT)
    }

    /// What 32 bits say: any say something.
    pub fn parse(bits: u32) -> Immediate {
        Immediate {
            produced: (bits >> 16) * PRODUCED_UNIT,
            taken: bits >> 10 & 0x3f,
            freed: (bits & 0x3ff) * FREED_UNIT,
        }
    }
}
