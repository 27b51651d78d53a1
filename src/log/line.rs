//! One log line in a buffer on the stack: no allocation, so that a line can be written from anywhere.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};

/// The longest line in bytes, its newline included. Below PIPE_BUF, so that the lines of processes
/// that share a pipe never mix.
pub(super) const CAPACITY: usize = 1024;

const CUT: &str = "...";

/// A line that is being written. What does not fit is cut off, and marked with dots.
pub(super) struct Line {
    bytes: [u8; CAPACITY],
    len: usize,
    cut: bool,
}

impl Line {
    pub(super) fn new() -> Self {
        Line {
            bytes: [0; CAPACITY],
            len: 0,
            cut: false,
        }
    }

    /// Ends the line and gives its bytes.
    pub(super) fn finish(&mut self) -> &[u8] {
        if self.cut {
            self.append(CUT.as_bytes());
        }
        self.append(b"\n");
        &self.bytes[..self.len]
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            // Control characters could forge a second line, or steer a terminal.
            let character = if character.is_control() {
                ' '
            } else {
                character
            };
            let mut utf8 = [0; 4];
            let utf8 = character.encode_utf8(&mut utf8).as_bytes();
            self.cut |= self.len + utf8.len() > CAPACITY - CUT.len() - 1;
            if self.cut {
                return Err(fmt::Error);
            }
            self.append(utf8);
        }
        Ok(())
    }
}

/// Writes an event's message, with a space before it.
pub(super) struct Message<'a>(pub(super) &'a mut Line);

/// Writes an event's other fields, as ` key=value`.
pub(super) struct Fields<'a>(pub(super) &'a mut Line);

// An error of these writes means that the line is full, which its end shows.

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, " {value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            let _ = write!(self.0, " {value}");
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" {
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_between_characters_and_marked() {
        let mut line = Line::new();
        assert!(line.write_str(&"é".repeat(CAPACITY)).is_err());
        assert!(line.write_str("x").is_err(), "nothing follows a cut");
        let bytes = line.finish();
        assert!(bytes.len() <= CAPACITY);
        assert!(std::str::from_utf8(bytes).unwrap().ends_with("é...\n"));
    }

    #[test]
    fn a_line_stays_one_line() {
        let mut line = Line::new();
        line.write_str("a\nb\x1b[31mc").unwrap();
        assert_eq!(line.finish(), b"a b [31mc\n");
    }
}
