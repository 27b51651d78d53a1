//! The one table of configuration keys.
//!
//! Parsing, range checks, `netacc.conf.example` and the manual page all come from it: a new key is
//! one entry here and one field in [`Config`].

use std::time::Duration;

use super::{Config, FabricName, LogLevel};

/// One configuration key.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file and in the environment.
    pub name: &'static str,
    /// What it means, in whole sentences.
    pub doc: &'static str,
    /// The short `netacc_run` option that sets it.
    pub flag: Option<char>,
    /// What values it takes, and where they go.
    pub kind: Kind,
}

/// What values a key takes.
#[derive(Debug)]
pub enum Kind {
    /// A whole number.
    Number {
        /// What is counted.
        unit: Unit,
        /// The value of a key that nobody sets.
        default: u64,
        /// The smallest allowed value.
        min: u64,
        /// The largest allowed value.
        max: u64,
        /// Stores a checked value.
        set: fn(&mut Config, u64),
    },
    /// A string.
    Text {
        /// The value of a key that nobody sets.
        default: &'static str,
        /// The allowed values, in words.
        allowed: &'static str,
        /// Checks and stores a value; the error continues a sentence that starts with the key's name.
        set: fn(&mut Config, &str) -> Result<(), String>,
    },
}

/// The unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes; a string may carry K, M or G.
    Bytes,
    /// Bytes, a power of two; a string may carry K, M or G.
    PowerOfTwoBytes,
    /// Things that are counted.
    Count,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
}

impl Unit {
    /// Whether values are bytes, which may be written as "16K".
    pub fn is_bytes(self) -> bool {
        matches!(self, Unit::Bytes | Unit::PowerOfTwoBytes)
    }

    /// The unit in words, to stand behind a number; empty for a plain count.
    pub fn words(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::PowerOfTwoBytes => "bytes, a power of two",
            Unit::Count => "",
            Unit::Microseconds => "microseconds",
            Unit::Milliseconds => "milliseconds",
            Unit::Seconds => "seconds",
        }
    }
}

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// Every key, in the order in which the example file and the manual list them.
pub static KEYS: &[Key] = &[
    Key {
        name: "NACC_SOR_MSG_SIZE",
        doc: "Largest record payload that a sender writes at once; it is never more than an eighth \
              of the ring (NACC_RING_SIZE). A larger write is cut into several records.",
        flag: None,
        kind: Kind::Number {
            unit: Unit::Bytes,
            default: 16 * K,
            min: K,
            max: M,
            set: |c, v| c.msg_size = v as usize,
        },
    },
    Key {
        name: "NACC_RDMA_MR_MIN_INC_SIZE",
        doc: "Size of the first registered memory region of a device. Each further region is twice \
              as large as the one before it.",
        flag: None,
        kind: Kind::Number {
            unit: Unit::Bytes,
            default: 16 * K,
            min: 4 * K,
            max: G,
            set: |c, v| c.mr_min_inc_size = v as usize,
        },
    },
    Key {
        name: "NACC_RDMA_MR_MAX_INC_SIZE",
        doc: "Size at which registered memory regions stop growing. It must not be smaller than \
              NACC_RDMA_MR_MIN_INC_SIZE.",
        flag: None,
        kind: Kind::Number {
            unit: Unit::Bytes,
            default: 8 * M,
            min: 4 * K,
            max: G,
            set: |c, v| c.mr_max_inc_size = v as usize,
        },
    },
    Key {
        name: "NACC_SOR_CONN_PER_QP",
        doc: "Connections that one link (one pair of shared-memory rings, or one queue pair) carries \
              at most; a further connection gets a further link. The connecting side enforces it. 1 \
              means a link for each connection.",
        flag: Some('p'),
        kind: Kind::Number {
            unit: Unit::Count,
            default: 1024,
            min: 1,
            max: 65535,
            set: |c, v| c.conn_per_qp = v as u32,
        },
    },
    Key {
        name: "NACC_SOR_QP_IDLE_S",
        doc: "Seconds that a queue pair without connections is kept, so that the next connection finds one \
              ready. 0 means that it is given up at once, -1 that it never is.",
        flag: None,
        kind: Kind::Text {
            default: "60",
            allowed: "a number of seconds up to 1000000, or -1",
            set: set_idle,
        },
    },
    Key {
        name: "NACC_SOR_IO_THREADS",
        doc: "Threads that set links up and keep them moving while the application is busy \
              elsewhere. The first does all control work and serves the links that we make; those \
              that peers make to us are spread over all. The application's own threads carry its \
              data whenever they read, write or wait.",
        flag: Some('t'),
        kind: Kind::Number {
            unit: Unit::Count,
            default: 1,
            min: 1,
            max: 64,
            set: |c, v| c.io_threads = v as u32,
        },
    },
    Key {
        name: "NACC_RING_SIZE",
        doc: "Bytes that a link can hold in each direction, a process's link with itself included. Shared \
              memory has this size at once (where the two sides differ, the accepting side's value \
              counts); rings between hosts begin with 16K and grow with use, to the smaller of the two \
              values.",
        flag: None,
        kind: Kind::Number {
            unit: Unit::PowerOfTwoBytes,
            default: M,
            min: 64 * K,
            max: 64 * M,
            set: |c, v| c.ring_size = v as usize,
        },
    },
    Key {
        name: "NACC_WINDOW_SIZE",
        doc: "Bytes that one connection may have in flight before the other side reads them, or \
              what SO_RCVBUF says if that is less. It must not exceed half of NACC_RING_SIZE; \
              where it is not set, it is lowered to that. A sender that waits in vain is given \
              up to 4 MiB, as a kernel's buffers would.",
        flag: None,
        kind: Kind::Number {
            unit: Unit::Bytes,
            default: 256 * K,
            min: 16 * K,
            max: 16 * M,
            set: |c, v| c.window_size = v as usize,
        },
    },
    Key {
        name: "NACC_SPIN_US",
        doc: "Longest time that a waiting thread looks for data before it sleeps. NetACC spins less \
              where spinning does not pay. 0 means never to spin.",
        flag: None,
        kind: Kind::Number {
            unit: Unit::Microseconds,
            default: 50,
            min: 0,
            max: 10_000,
            set: |c, v| c.spin = Duration::from_micros(v),
        },
    },
    Key {
        name: "NACC_CONNECT_TIMEOUT_MS",
        doc: "Longest time that the whole first contact with a peer may take, and then each \
              connect; for one answer of the acceptor half of it is waited, and a tenth where \
              several processes accept. What is not answered by then is served over TCP. \
              Connecting RDMA devices, where these are chosen, may then hold a first contact up \
              for this time and 1 second once more, but for no more than 3 seconds.",
        flag: None,
        kind: Kind::Number {
            unit: Unit::Milliseconds,
            default: 1000,
            min: 10,
            max: 60_000,
            set: |c, v| c.connect_timeout = Duration::from_millis(v),
        },
    },
    Key {
        name: "NACC_PEER_TTL_S",
        doc: "Longest time that a destination that does not speak NetACC is remembered, and \
              connected over TCP without asking it again. The first finding lasts 1 second, each \
              further one twice as long as the one before it, up to this.",
        flag: None,
        kind: Kind::Number {
            unit: Unit::Seconds,
            default: 60,
            min: 1,
            max: 86_400,
            set: |c, v| c.peer_ttl = Duration::from_secs(v),
        },
    },
    Key {
        name: "NACC_SHORT_CONN_LIMIT",
        doc: "After so many connections to one address that all end within a second of each other and \
              after fewer than 16 reads and writes, further ones go over TCP for a while (250 \
              milliseconds at first, 4 seconds at most; one that a child process takes over counts \
              for four): to be accelerated costs a connection more \
              than so few messages earn back. 0: all are accelerated, however short they are.",
        flag: None,
        kind: Kind::Number {
            unit: Unit::Count,
            default: 16,
            min: 0,
            max: 1_000_000,
            set: |c, v| c.short_conn_limit = v as u32,
        },
    },
    Key {
        name: "NACC_SIDE_PORT_OFFSET",
        doc: "Distance from a listening port to the side port on which NetACC processes find each \
              other. It must be the same on both sides. A port whose side port would be above \
              65535 is served over TCP.",
        flag: None,
        kind: Kind::Number {
            unit: Unit::Count,
            default: 20_000,
            min: 1,
            max: 65_000,
            set: |c, v| c.side_port_offset = v as u16,
        },
    },
    Key {
        name: "NACC_FABRICS",
        doc: "Ways to make links, the preferred first: loop (a process with itself), shm (shared memory, \
              two processes of one host), verbs (RDMA), tcp (links over a kernel connection of their \
              own; never chosen unless it is named). A fabric that is not named is not used; the \
              connecting side's order counts. none switches NetACC off: all stays kernel TCP.",
        flag: None,
        kind: Kind::Text {
            default: "loop,shm,verbs",
            allowed: "loop, shm, verbs and tcp, with commas between them, or none",
            set: set_fabrics,
        },
    },
    Key {
        name: "NACC_LOG",
        doc: "How much NetACC tells about its own work: warn of bad settings and of links that fail, \
              info also of links made and of destinations and listeners left to TCP, debug also of \
              each connection's way. trace tells no more than debug yet. netacc_run -d sets it to \
              debug.",
        flag: None,
        kind: Kind::Text {
            default: "off",
            allowed: "off, error, warn, info, debug or trace",
            set: set_log,
        },
    },
    Key {
        name: "NACC_LOG_FILE",
        doc: "File to which log lines are appended. Empty means the program's standard error. \
              Every line carries its process id, so that processes can share a file.",
        flag: None,
        kind: Kind::Text {
            default: "",
            allowed: "a path",
            set: set_log_file,
        },
    },
];

/// The key of that name, with its place in [`KEYS`].
pub fn find(name: &str) -> Option<(usize, &'static Key)> {
    KEYS.iter().enumerate().find(|(_, key)| key.name == name)
}

/// The key whose name is a few letters off `name`.
pub fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_uppercase();
    KEYS.iter()
        .map(|key| (edit_distance(&name, key.name), key.name))
        .filter(|(distance, known)| *distance <= known.len() / 4)
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein's distance, in bytes. Longer names than any key's are not worth measuring.
fn edit_distance(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn set_fabrics(config: &mut Config, text: &str) -> Result<(), String> {
    let mut fabrics = Vec::new();
    if text.trim() == "none" {
        config.fabrics = fabrics;
        return Ok(());
    }
    for name in text.split(',').map(str::trim) {
        let fabric = match name {
            "loop" => FabricName::Loop,
            "shm" => FabricName::Shm,
            "verbs" => FabricName::Verbs,
            "tcp" => FabricName::Tcp,
            "none" => return Err("names none beside others".to_owned()),
            _ => {
                return Err(format!(
                    "names \"{name}\", which is no fabric that NetACC knows"
                ));
            }
        };
        if fabrics.contains(&fabric) {
            return Err(format!("names {name} twice"));
        }
        fabrics.push(fabric);
    }
    config.fabrics = fabrics;
    Ok(())
}

fn set_idle(config: &mut Config, text: &str) -> Result<(), String> {
    config.qp_idle = match text.trim().parse::<i64>() {
        Ok(-1) => None,
        Ok(seconds @ 0..=1_000_000) => Some(Duration::from_secs(seconds.unsigned_abs())),
        _ => return Err(format!("is \"{text}\", which is no such number")),
    };
    Ok(())
}

fn set_log(config: &mut Config, text: &str) -> Result<(), String> {
    config.log = match text {
        "off" => LogLevel::Off,
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => return Err(format!("is \"{text}\", which is no log level")),
    };
    Ok(())
}

fn set_log_file(config: &mut Config, text: &str) -> Result<(), String> {
    if text.contains('\0') {
        return Err("contains a NUL character, which no path can".to_owned());
    }
    config.log_file = text.to_owned();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_suggested_and_others_are_not() {
        assert_eq!(nearest("NACC_SOR_MSG_SIZ"), Some("NACC_SOR_MSG_SIZE"));
        assert_eq!(nearest("nacc_log"), Some("NACC_LOG"));
        assert_eq!(nearest("NACC_IO_THREADS"), Some("NACC_SOR_IO_THREADS"));
        assert_eq!(nearest("PATH"), None);
        assert_eq!(nearest(&"N".repeat(1000)), None);
    }

    #[test]
    fn edit_distance_counts_letters() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("same", "same"), 0);
    }

    #[test]
    fn every_default_is_within_its_range() {
        for key in KEYS {
            match key.kind {
                Kind::Number {
                    default,
                    min,
                    max,
                    unit,
                    ..
                } => {
                    assert!((min..=max).contains(&default), "{}", key.name);
                    if unit == Unit::PowerOfTwoBytes {
                        assert!([default, min, max].iter().all(|v| v.is_power_of_two()));
                    }
                }
                Kind::Text { default, set, .. } => {
                    assert_eq!(set(&mut Config::default(), default), Ok(()), "{}", key.name);
                }
            }
        }
    }
}
