//! Records: what a link's ring is made of.
//!
//! A record is a 16-byte header and its payload, padded to [`ALIGN`]. All numbers are little-endian.
//!
//! | bytes | meaning |
//! |---|---|
//! | 0..4 | payload length |
//! | 4..8 | connection id |
//! | 8 | kind |
//! | 9..16 | when it was sent: a [`stamp`](super::stamp) |
//!
//! The header comes from the peer: [`Header::parse`] is total and callers act on the parsed copy
//! only, never on the shared memory a second time.

use super::stamp::Stamp;

/// Records start at multiples of this many bytes.
pub const ALIGN: usize = 16;

/// Bytes of a header.
pub const HEADER: usize = 16;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes of the stream.
    Data = 1,
    /// The sender's stream has ended (its `shutdown(SHUT_WR)`).
    Fin = 2,
    /// The sender aborts the connection in both directions.
    Reset = 3,
    /// Payload: the stream offset (u64) up to which the receiver of this record may send.
    Window = 4,
    /// The sender's side is closed for good; nothing more of this id comes from it. Payload: how many bytes of the stream
    /// had arrived there before (u64), or nothing, if that does not matter any more.
    Close = 5,
    /// What the sender writes from here on goes over the kernel's connection (hand-back); of this id only `Window`, `Close`
    /// and what a hand-back needs follow.
    HandBack = 6,
    /// The sender has used its window up and waits; a receiver with memory to spare gives it a larger one.
    Want = 7,
    /// As `HandBack`, and the first of the two: what the sender had received and nobody has read comes back as
    /// `Returned`, for the receiver to send it again over the kernel's connection, before anything else.
    Recall = 8,
    /// Bytes of the receiver's own stream that come back; without any: this was all of it.
    Returned = 9,
    /// What came back goes over the kernel's connection by now.
    Resent = 10,
    /// Fast connect ([`super::ways`]): the connection is open, by a way that was granted. Payload: the way (u16), the
    /// sender's port (u16), its window (u32).
    Open = 11,
    /// The acceptor grants a way. Payload: the way (u16), the door (u16), how many connections may have been opened by it
    /// in all (u32), the window of each (u32). Of a connection that was opened the safe way, or of no connection.
    Grant = 12,
    /// The acceptor of a connection that was opened fast asks for a kernel's connection behind it.
    Stand = 13,
    /// The acceptor has that kernel's connection.
    Stood = 14,
}

/// A parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Payload bytes.
    pub len: u32,
    /// Connection id within the link.
    pub conn: u32,
    /// What the record says.
    pub kind: Kind,
    /// When it was sent.
    pub stamp: Stamp,
}

/// Why a header is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRecord {
    /// The kind byte has no meaning.
    Kind,
    /// The payload length is not one that this kind can have.
    Length,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0..4].copy_from_slice(&self.len.to_le_bytes());
        out[4..8].copy_from_slice(&self.conn.to_le_bytes());
        out[8] = self.kind as u8;
        out[9..].copy_from_slice(&self.stamp.to_bytes());
        out
    }

    /// Parses a header of a record whose payload may have at most `max_payload` bytes.
    ///
    /// # Errors
    /// [`BadRecord`] for whatever [`encode`](Self::encode) cannot have made.
    pub fn parse(bytes: [u8; HEADER], max_payload: usize) -> Result<Header, BadRecord> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (len, conn) = (word(0), word(4));
        let (kind, fits) = match bytes[8] {
            1 => (Kind::Data, len > 0 && len as usize <= max_payload),
            2 => (Kind::Fin, len == 0),
            3 => (Kind::Reset, len == 0),
            4 => (Kind::Window, len == 8),
            5 => (Kind::Close, len == 0 || len == 8),
            6 => (Kind::HandBack, len == 0),
            7 => (Kind::Want, len == 0),
            8 => (Kind::Recall, len == 0),
            9 => (Kind::Returned, len as usize <= max_payload),
            10 => (Kind::Resent, len == 0),
            11 => (Kind::Open, len == 8),
            12 => (Kind::Grant, len == 12),
            13 => (Kind::Stand, len == 0),
            14 => (Kind::Stood, len == 0),
            _ => return Err(BadRecord::Kind),
        };
        if fits {
            Ok(Header {
                len,
                conn,
                kind,
                stamp: Stamp::of_header(&bytes),
            })
        } else {
            Err(BadRecord::Length)
        }
    }

    /// Ring bytes that the whole record takes.
    pub fn span(&self) -> usize {
        span(self.len as usize)
    }

    /// Ring bytes that the record takes which begins with such a header, one of our own.
    pub fn span_of(header: &[u8; HEADER]) -> usize {
        span(u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize)
    }
}

/// Ring bytes that a record with `payload` bytes takes.
pub const fn span(payload: usize) -> usize {
    (HEADER + payload + ALIGN - 1) & !(ALIGN - 1)
}
