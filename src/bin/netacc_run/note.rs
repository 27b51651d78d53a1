//! The version of a preload library, which it tells in a note of its ELF file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Notes are small; a larger segment is none of ours.
const LARGEST: u64 = 64 << 10;

const PT_NOTE: u32 = 4;

/// The version of the NetACC library at `path`; `None` if it is something else.
///
/// # Errors
/// The file cannot be read.
pub fn version(path: &Path) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    let mut header = [0; 64];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    // ELF of 64 bits, little-endian.
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(None);
    }
    let (start, size) = (long(&header, 32), u64::from(half(&header, 54)));
    for index in 0..u64::from(half(&header, 56)) {
        let mut segment = [0; 56];
        let at = start.saturating_add(index * size);
        if file.read_exact_at(&mut segment, at).is_err() {
            break;
        }
        let length = long(&segment, 32);
        if word(&segment, 0) != PT_NOTE || length > LARGEST {
            continue;
        }
        let mut notes = vec![0; length as usize];
        if file.read_exact_at(&mut notes, long(&segment, 8)).is_ok()
            && let Some(version) = in_notes(&notes)
        {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

/// Looks for ours among the notes of a segment: length of the name, length of the text, kind, then name and text,
/// each filled up to a multiple of four bytes.
fn in_notes(notes: &[u8]) -> Option<String> {
    let mut rest = notes;
    while rest.len() >= 12 {
        let (name, text) = (word(rest, 0) as usize, word(rest, 4) as usize);
        let begin = 12 + name.next_multiple_of(4);
        if rest.get(12..12 + name)? == netacc::VERSION_NOTE {
            let text = rest.get(begin..begin + text)?;
            let text = text.split(|byte| *byte == 0).next()?;
            return String::from_utf8(text.to_vec()).ok();
        }
        rest = rest.get(begin + text.next_multiple_of(4)..)?;
    }
    None
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], text: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for number in [name.len() as u32, text.len() as u32, 1] {
            note.extend(number.to_le_bytes());
        }
        for part in [name, text] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn ours_is_found_among_others() {
        let ours = note(netacc::VERSION_NOTE, b"1.2.3\0\0\0");
        let other = note(b"GNU\0", &[7; 20]);
        assert_eq!(
            in_notes(&[other.clone(), ours].concat()).as_deref(),
            Some("1.2.3")
        );
        assert_eq!(in_notes(&other), None);
        assert_eq!(in_notes(&[0xff; 40]), None);
        assert_eq!(in_notes(&[]), None);
    }

    #[test]
    fn what_is_no_library_has_no_version() {
        assert_eq!(version(Path::new("/proc/self/exe")).unwrap(), None);
        assert_eq!(version(Path::new("/dev/null")).unwrap(), None);
        assert!(version(Path::new("/no/such/file")).is_err());
    }
}
