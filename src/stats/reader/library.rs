//! Which file of the library a process runs, and whether that is still the one on disk.

use std::path::{Path, PathBuf};

/// The library's file as a process has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Where it was when the process was started.
    pub path: PathBuf,
    /// Another file is there by now, or none: programs that are started from now on have another library.
    pub replaced: bool,
}

impl Library {
    /// Finds it in the text of `/proc/PID/maps`.
    pub(super) fn in_maps(maps: &str) -> Option<Library> {
        maps.lines().find_map(|line| {
            // Address, rights, offset, device, inode; the path may hold spaces.
            let path = &line[line.find('/')?..];
            let (path, replaced) = match path.strip_suffix(" (deleted)") {
                Some(path) => (path, true),
                None => (path, false),
            };
            let path = Path::new(path);
            let name = path.file_name()?.to_str()?;
            let ours = ["libnetacc-preload", "libnetacc_preload"];
            ours.iter()
                .any(|own| name.starts_with(own))
                .then(|| Library {
                    path: path.to_owned(),
                    replaced,
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(maps: &str) -> Option<(String, bool)> {
        let library = Library::in_maps(maps)?;
        Some((library.path.display().to_string(), library.replaced))
    }

    #[test]
    fn the_librarys_file_among_others() {
        let others = "55d0-55d1 r--p 00000000 fe:00 77 /usr/bin/redis-server\n7f00-7f01 rw-p 00000000 00:00 0\n\
                      7f02-7f03 r--p 00000000 fe:00 78 /opt/libnetacc-preload/libc.so.6\n";
        assert_eq!(found(others), None);
        let here = "7f04-7f05 r-xp 00001000 fe:00 79    /opt/a b/libnetacc-preload.so\n";
        let path = "/opt/a b/libnetacc-preload.so".to_owned();
        assert_eq!(
            found(&format!("{others}{here}")),
            Some((path.clone(), false))
        );
        let gone = here.replace(".so\n", ".so (deleted)\n");
        assert_eq!(found(&format!("{others}{gone}")), Some((path, true)));
        assert_eq!(found(""), None);
    }
}
