//! Finds the preload library and makes the value of `LD_PRELOAD`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::quoted;

/// The library's installed name.
const NAME: &str = "libnetacc-preload.so";

/// The name that cargo gives it in its target folder.
const CARGO_NAME: &str = "libnetacc_preload.so";

/// Where installations put it, relative to the folder of `netacc_run`.
const RELATIVE: &[&str] = &["../lib", "../lib64"];

/// Where installations put it.
const ABSOLUTE: &[&str] = &[
    "/lib64",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/lib64",
];

/// The library's absolute path.
pub fn find() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("NACC_PRELOAD_LIB").filter(|path| !path.is_empty()) {
        return match std::fs::canonicalize(&path) {
            Ok(found) if found.is_file() => Ok(found),
            _ => Err(format!(
                "environment variable NACC_PRELOAD_LIB: there is no library {}. Correct the path, or unset it.",
                quoted(&path)
            )),
        };
    }
    // Debian's folder for this kind of processor.
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let mut candidates = Vec::new();
    if let Some(here) = std::env::current_exe()
        .ok()
        .as_deref()
        .and_then(Path::parent)
    {
        candidates.push(here.join(NAME));
        candidates.push(here.join(CARGO_NAME));
        candidates.extend(RELATIVE.iter().map(|folder| here.join(folder).join(NAME)));
        candidates.push(here.join("../lib").join(&multiarch).join(NAME));
    }
    candidates.push(Path::new("/usr/lib").join(&multiarch).join(NAME));
    candidates.extend(ABSOLUTE.iter().map(|folder| Path::new(folder).join(NAME)));
    for candidate in &candidates {
        // Without "..", so that an LD_PRELOAD that has it already is recognised.
        if let Ok(found) = std::fs::canonicalize(candidate)
            && found.is_file()
        {
            return Ok(found);
        }
    }
    let mut message = format!("the library {NAME} is not installed. Looked for:\n");
    for candidate in candidates {
        message += &format!("  {}\n", candidate.display());
    }
    message += "Install NetACC, or set NACC_PRELOAD_LIB to the library's path.";
    Err(message)
}

/// `LD_PRELOAD` with the library at its head, and what was there behind it.
pub fn preload_list(library: &OsStr) -> Result<OsString, String> {
    if library
        .as_bytes()
        .iter()
        .any(|byte| matches!(byte, b':' | b' '))
    {
        return Err(format!(
            "the library's path {} has a space or a colon in it, which LD_PRELOAD cannot carry. Move it elsewhere.",
            quoted(library)
        ));
    }
    let before = std::env::var_os("LD_PRELOAD").unwrap_or_default();
    let mut list = library.to_owned();
    for entry in before.as_bytes().split(|byte| matches!(byte, b':' | b' ')) {
        let entry = OsStr::from_bytes(entry);
        // The same file under another name would be loaded once, but in the wrong place.
        let same = std::fs::canonicalize(entry).is_ok_and(|path| path == library);
        if !entry.is_empty() && !same {
            list.push(":");
            list.push(entry);
        }
    }
    Ok(list)
}
