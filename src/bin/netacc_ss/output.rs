//! Where the text goes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes to standard output, or replaces the file at `path`: whoever reads that sees the old text or the new one, whole.
///
/// # Errors
/// The system's.
pub fn write(path: Option<&Path>, text: &str) -> io::Result<()> {
    let Some(path) = path else {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        return out.flush();
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    // In the same directory, so that it can take the other's place; not read by node_exporter, which wants "*.prom".
    let mut draft = std::ffi::OsString::from(".");
    draft.push(name);
    draft.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(draft);
    // Never through a link that somebody else has put there.
    let written = File::create_new(&draft)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}
