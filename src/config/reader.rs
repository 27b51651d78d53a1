//! Puts the sources together: what each of them says, who said it, and what is wrong with it.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::CString;

use super::file::{self, Finding, Setting};
use super::keys::{self, KEYS};
use super::sys::{self, ReadError};
use super::value::{self, Raw, Refusal};
use super::{Config, DEFAULT_PATH, Diagnostic, Flag, Gravity, Origin, Program, Report};

/// What the sources said so far.
pub(super) struct Reader {
    pub(super) config: Config,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Who set each key of [`KEYS`]; `None`: it has its default.
    set_by: Vec<Option<Origin>>,
    /// Whose settings they are; asked for only when it matters.
    program: OnceCell<Program>,
    file: Option<String>,
    sections: Vec<String>,
}

impl Reader {
    /// For that program; `None`: for the one of this process.
    pub(super) fn new(program: Option<Program>) -> Self {
        let set_by = vec![None; KEYS.len()];
        Reader {
            config: Config::default(),
            diagnostics: Vec::new(),
            set_by,
            program: program.map_or_else(OnceCell::new, OnceCell::from),
            file: None,
            sections: Vec::new(),
        }
    }

    pub(super) fn report(self) -> Report {
        Report {
            config: self.config,
            origins: self.set_by,
            problems: self.diagnostics,
            file: self.file,
            sections: self.sections,
        }
    }

    fn complain(&mut self, origin: Origin, refusal: Refusal) {
        self.tell(Gravity::Mistake, origin, refusal);
    }

    fn tell(&mut self, gravity: Gravity, origin: Origin, (sentence, remedy): Refusal) {
        self.diagnostics.push(Diagnostic {
            gravity,
            origin,
            sentence,
            remedy,
        });
    }

    /// Returns whether the value will do.
    fn set(&mut self, origin: Origin, index: usize, raw: &Raw<'_>) -> bool {
        let stored = value::store(&mut self.config, &KEYS[index], raw);
        let is_set = stored.is_ok();
        match stored {
            Ok(()) => self.set_by[index] = Some(origin),
            Err(refusal) => self.complain(origin, refusal),
        }
        is_set
    }

    /// Reads the file that `NACC_CONF` names, which must be there, or else the system's, which need not.
    pub(super) fn read_file_of_environment(&mut self) {
        match sys::environment(c"NACC_CONF") {
            Some(path) => self.read_file(&path, true),
            None => self.read_file(DEFAULT_PATH.as_bytes(), false),
        }
    }

    pub(super) fn read_file(&mut self, path: &[u8], must_exist: bool) {
        let shown = String::from_utf8_lossy(path).into_owned();
        let at = |line| Origin::File {
            path: shown.clone(),
            line,
        };
        let read = match CString::new(path) {
            Ok(path) => sys::read_file(&path),
            Err(_) => Err(ReadError::Missing),
        };
        let refusal = match read {
            Ok(bytes) => {
                self.file = Some(shown.clone());
                self.take_in(&bytes, &at);
                return;
            }
            Err(ReadError::Missing) if !must_exist => return,
            Err(ReadError::Missing) => (
                "there is no such file.".to_owned(),
                "Check the path, or copy netacc.conf.example there.".to_owned(),
            ),
            Err(ReadError::NotAFile) => (
                "this is no regular file.".to_owned(),
                "Name a file of KEY=VALUE lines.".to_owned(),
            ),
            Err(ReadError::TooLarge) => (
                "this file is larger than 64 KiB, so it is no configuration.".to_owned(),
                "Name a file of KEY=VALUE lines.".to_owned(),
            ),
            Err(ReadError::Os(errno)) => {
                let error = std::io::Error::from_raw_os_error(errno.raw_os_error());
                let sentence = format!("the file cannot be read: {error}.");
                (
                    sentence,
                    "Check the permissions of the file and of the folders above it.".to_owned(),
                )
            }
        };
        self.complain(at(0), refusal);
    }

    /// Takes the settings of a file in. Those of this program's sections override the general ones, wherever they stand.
    fn take_in(&mut self, bytes: &[u8], at: &dyn Fn(u32) -> Origin) {
        // Of a key that stands twice in a section, the first line, so that the message can name it.
        let mut lines: BTreeMap<(Option<String>, usize), u32> = BTreeMap::new();
        let mut is_its_own = vec![false; KEYS.len()];
        file::parse(bytes, &mut |line, finding| match finding {
            Finding::Problem(refusal) => self.complain(at(line), refusal),
            Finding::Foreign(refusal) => self.tell(Gravity::Foreign, at(line), refusal),
            Finding::Setting(Setting {
                program,
                index,
                key,
                raw,
            }) => {
                if let Some(name) = program
                    && !self.sections.iter().any(|known| known == name)
                {
                    self.sections.push(name.to_owned());
                }
                match lines.entry((program.map(str::to_owned), index)) {
                    Entry::Occupied(first) => {
                        let sentence =
                            format!("{} is already set in line {}.", key.name, first.get());
                        self.complain(at(line), (sentence, "Remove one of the two.".to_owned()));
                        return;
                    }
                    Entry::Vacant(place) => _ = place.insert(line),
                }
                let counts = match program {
                    None => !is_its_own[index],
                    Some(name) => self.program.get_or_init(Program::current).is(name),
                };
                if counts {
                    let is_set = self.set(at(line), index, raw);
                    is_its_own[index] |= program.is_some() && is_set;
                } else if let Err(refusal) = value::store(&mut Config::default(), key, raw) {
                    // Another program's, or overridden: what is wrong with it is told all the same.
                    self.complain(at(line), refusal);
                }
            }
        });
    }

    /// Takes in what was said on the command line.
    pub(super) fn read_flag(&mut self, flag: &Flag<'_>) {
        let origin = Origin::Flag(flag.spelling.to_owned());
        match keys::find(flag.key) {
            Some((index, _)) => _ = self.set(origin, index, &Raw::Text(flag.value)),
            None => self.complain(origin, file::unknown_key(flag.key)),
        }
    }

    pub(super) fn read_environment(&mut self) {
        for (index, key) in KEYS.iter().enumerate() {
            let Ok(name) = CString::new(key.name) else {
                continue;
            };
            let Some(bytes) = sys::environment(&name) else {
                continue;
            };
            let origin = Origin::Environment(key.name);
            match std::str::from_utf8(&bytes) {
                Ok(text) => _ = self.set(origin, index, &Raw::Text(text)),
                Err(_) => {
                    let sentence = format!("{} is not UTF-8 text.", key.name);
                    self.complain(origin, (sentence, value::remedy(key)));
                }
            }
        }
    }

    /// Checks settings against each other. A pair that does not fit gets its defaults.
    pub(super) fn cross_check(&mut self) {
        if self.config.mr_max_inc_size < self.config.mr_min_inc_size {
            let (min, max) = (self.config.mr_min_inc_size, self.config.mr_max_inc_size);
            self.mismatch(
                ["NACC_RDMA_MR_MAX_INC_SIZE", "NACC_RDMA_MR_MIN_INC_SIZE"],
                format!("NACC_RDMA_MR_MAX_INC_SIZE ({max}) is smaller than NACC_RDMA_MR_MIN_INC_SIZE ({min})."),
                format!("Set NACC_RDMA_MR_MAX_INC_SIZE to {min} or more, or the other to {max} or less."),
            );
        }
        let half = self.config.ring_size / 2;
        let window_is_set =
            keys::find("NACC_WINDOW_SIZE").is_some_and(|(i, _)| self.set_by[i].is_some());
        if !window_is_set {
            self.config.window_size = self.config.window_size.min(half);
        }
        if self.config.window_size > half {
            let (window, ring) = (self.config.window_size, self.config.ring_size);
            let wanted = (2 * window).next_power_of_two();
            self.mismatch(
                ["NACC_WINDOW_SIZE", "NACC_RING_SIZE"],
                format!(
                    "NACC_WINDOW_SIZE ({window}) is more than half of NACC_RING_SIZE ({ring})."
                ),
                format!(
                    "Set NACC_WINDOW_SIZE to {half} or less, or NACC_RING_SIZE to {wanted} or more."
                ),
            );
        }
    }

    /// Complains at the first of `names` that was set, and gives them all their defaults.
    fn mismatch(&mut self, names: [&str; 2], sentence: String, remedy: String) {
        let mut origin = None;
        for (index, key) in names.iter().filter_map(|name| keys::find(name)) {
            origin = origin.or(self.set_by[index].take());
            value::store_default(&mut self.config, key);
        }
        // Defaults fit each other, so one of the two was set.
        let origin = origin.unwrap_or(Origin::File {
            path: DEFAULT_PATH.to_owned(),
            line: 0,
        });
        self.complain(origin, (sentence, remedy));
    }
}
