//! The one table of configuration keys.

use std::time::Duration;

use super::keys::{Choice, Key, Kind, Takes, Unit};
use super::{rules, words};

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

const ADDRESSES: &str = "addresses, networks and ports, with commas between them";
const PROGRAMS: &str = "names of programs, with commas between them";

/// Every key, in the order in which the example file and the manual list them.
pub static KEYS: &[Key] = &[
    Key {
        name: "NACC_SOR_MSG_SIZE",
        doc: "Largest record payload that a sender writes at once; it is never more than an eighth \
              of the ring (NACC_RING_SIZE). A larger write is cut into several records.",
        option: Some(Choice {
            letter: 's',
            takes: Takes::Value("MSG_SIZE"),
            help: "Largest message that is sent at once, in bytes",
        }),
        kind: Kind::Number {
            unit: Unit::Bytes,
            default: 16 * K,
            min: K,
            max: M,
            set: |c, v| c.msg_size = v as usize,
            get: |c| c.msg_size as u64,
        },
    },
    Key {
        name: "NACC_RDMA_MR_MIN_INC_SIZE",
        doc: "Size of the first registered memory region of a device. Each further region is twice \
              as large as the one before it.",
        option: None,
        kind: Kind::Number {
            unit: Unit::Bytes,
            default: 16 * K,
            min: 4 * K,
            max: G,
            set: |c, v| c.mr_min_inc_size = v as usize,
            get: |c| c.mr_min_inc_size as u64,
        },
    },
    Key {
        name: "NACC_RDMA_MR_MAX_INC_SIZE",
        doc: "Size at which registered memory regions stop growing. It must not be smaller than \
              NACC_RDMA_MR_MIN_INC_SIZE.",
        option: None,
        kind: Kind::Number {
            unit: Unit::Bytes,
            default: 8 * M,
            min: 4 * K,
            max: G,
            set: |c, v| c.mr_max_inc_size = v as usize,
            get: |c| c.mr_max_inc_size as u64,
        },
    },
    Key {
        name: "NACC_SOR_CONN_PER_QP",
        doc: "Connections that one link (one pair of shared-memory rings, or one queue pair) carries \
              at most; a further connection gets a further link. The connecting side enforces it. 1 \
              means a link for each connection.",
        option: Some(Choice {
            letter: 'p',
            takes: Takes::Value("CONN_PER_QP"),
            help: "Connections that one link carries at most",
        }),
        kind: Kind::Number {
            unit: Unit::Count,
            default: 1024,
            min: 1,
            max: 65535,
            set: |c, v| c.conn_per_qp = v as u32,
            get: |c| c.conn_per_qp.into(),
        },
    },
    Key {
        name: "NACC_SOR_QP_IDLE_S",
        doc: "Seconds that a queue pair without connections is kept, so that the next connection finds one \
              ready. 0 means that it is given up at once, -1 that it never is.",
        option: None,
        kind: Kind::Text {
            default: "60",
            allowed: "a number of seconds up to 1000000, or -1",
            set: words::set_idle,
            get: words::idle,
        },
    },
    Key {
        name: "NACC_SOR_IO_THREADS",
        doc: "Threads that set links up and keep them moving while the application is busy \
              elsewhere. The first does all control work and serves the links that we make; those \
              that peers make to us are spread over all. The application's own threads carry its \
              data whenever they read, write or wait.",
        option: Some(Choice {
            letter: 't',
            takes: Takes::Value("IO_THREADS"),
            help: "Threads that keep links moving",
        }),
        kind: Kind::Number {
            unit: Unit::Count,
            default: 1,
            min: 1,
            max: 64,
            set: |c, v| c.io_threads = v as u32,
            get: |c| c.io_threads.into(),
        },
    },
    Key {
        name: "NACC_AFFINITY",
        doc: "Processors of the I/O threads. 0: wherever the thread may run that connects or listens \
              first. 1: a processor for each of them, of those, beginning with another one in each \
              process. 2: the same, if there are more processors than I/O threads. cpu:LIST (cpu:2-3,8): \
              all of them on these processors, whichever the program's own threads have.",
        option: Some(Choice {
            letter: 'A',
            takes: Takes::Value("AFFINITY"),
            help: "Processors of these threads: 0, 1, 2 or cpu:LIST",
        }),
        kind: Kind::Text {
            default: "0",
            allowed: "0, 1, 2 or cpu: and a list of processors",
            set: words::set_affinity,
            get: words::affinity,
        },
    },
    Key {
        name: "NACC_RING_SIZE",
        doc: "Bytes that a link can hold in each direction, a process's link with itself included. Shared \
              memory has this size at once (where the two sides differ, the accepting side's value \
              counts); rings between hosts begin with 16K and grow with use, to the smaller of the two \
              values.",
        option: None,
        kind: Kind::Number {
            unit: Unit::PowerOfTwoBytes,
            default: M,
            min: 64 * K,
            max: 64 * M,
            set: |c, v| c.ring_size = v as usize,
            get: |c| c.ring_size as u64,
        },
    },
    Key {
        name: "NACC_WINDOW_SIZE",
        doc: "Bytes that one connection may have in flight before the other side reads them, or \
              what SO_RCVBUF says if that is less. It must not exceed half of NACC_RING_SIZE; \
              where it is not set, it is lowered to that. A sender that waits in vain is given \
              up to 4 MiB, as a kernel's buffers would.",
        option: None,
        kind: Kind::Number {
            unit: Unit::Bytes,
            default: 256 * K,
            min: 16 * K,
            max: 16 * M,
            set: |c, v| c.window_size = v as usize,
            get: |c| c.window_size as u64,
        },
    },
    Key {
        name: "NACC_SPIN_US",
        doc: "Longest time that a waiting thread looks for data before it sleeps. NetACC spins less \
              where spinning does not pay. 0 means never to spin.",
        option: Some(Choice {
            letter: 'P',
            takes: Takes::Milliseconds("MS", 10),
            help: "Milliseconds that a waiting thread polls before it sleeps",
        }),
        kind: Kind::Number {
            unit: Unit::Microseconds,
            default: 50,
            min: 0,
            max: 10_000,
            set: |c, v| c.spin = Duration::from_micros(v),
            get: |c| c.spin.as_micros() as u64,
        },
    },
    Key {
        name: "NACC_CONNECT_TIMEOUT_MS",
        doc: "Longest time that the whole first contact with a peer may take, and then each \
              connect; for one answer of the acceptor half of it is waited, and a tenth where \
              several processes accept. What is not answered by then is served over TCP. \
              Connecting RDMA devices, where these are chosen, may then hold a first contact up \
              for this time and 1 second once more, but for no more than 3 seconds.",
        option: None,
        kind: Kind::Number {
            unit: Unit::Milliseconds,
            default: 1000,
            min: 10,
            max: 60_000,
            set: |c, v| c.connect_timeout = Duration::from_millis(v),
            get: |c| c.connect_timeout.as_millis() as u64,
        },
    },
    Key {
        name: "NACC_PEER_TTL_S",
        doc: "Longest time that a destination that does not speak NetACC is remembered, and \
              connected over TCP without asking it again. The first finding lasts 1 second, each \
              further one twice as long as the one before it, up to this.",
        option: None,
        kind: Kind::Number {
            unit: Unit::Seconds,
            default: 60,
            min: 1,
            max: 86_400,
            set: |c, v| c.peer_ttl = Duration::from_secs(v),
            get: |c| c.peer_ttl.as_secs(),
        },
    },
    Key {
        name: "NACC_SHORT_CONN_LIMIT",
        doc: "After so many connections to one address that all end within a second of each other and \
              after fewer than 16 reads and writes, further ones go over TCP for a while (250 \
              milliseconds at first, 4 seconds at most; one that a child process takes over counts \
              for four): to be accelerated costs a connection more \
              than so few messages earn back. 0: all are accelerated, however short they are.",
        option: None,
        kind: Kind::Number {
            unit: Unit::Count,
            default: 16,
            min: 0,
            max: 1_000_000,
            set: |c, v| c.short_conn_limit = v as u32,
            get: |c| c.short_conn_limit.into(),
        },
    },
    Key {
        name: "NACC_TCP_FIRST",
        doc: "1: a connect never waits for the first contact with a peer. As long as nothing is known of it, \
              connections to it are kernel TCP, and a link is made meanwhile for those that follow.",
        option: Some(Choice {
            letter: 'T',
            takes: Takes::Nothing("1"),
            help: "Connect to unknown peers by TCP, and make a link for later",
        }),
        kind: Kind::Switch {
            default: false,
            set: |c, v| c.tcp_first = v,
            get: |c| c.tcp_first,
        },
    },
    Key {
        name: "NACC_FAST_CONNECT",
        doc: "1: where both ends have it on, a connection to a peer that is linked already is opened by one record on the \
              link, without the kernel and before the peer's program runs. The kernel's connection behind it is made when \
              something needs it: a fork, another program, a call that only the kernel serves.",
        option: Some(Choice {
            letter: 'F',
            takes: Takes::Nothing("1"),
            help: "Open connections fast, without the kernel, where both ends want it",
        }),
        kind: Kind::Switch {
            default: false,
            set: |c, v| c.fast_connect = v,
            get: |c| c.fast_connect,
        },
    },
    Key {
        name: "NACC_SIDE_PORT_OFFSET",
        doc: "Distance from a listening port to the side port on which NetACC processes find each \
              other. It must be the same on both sides. A port whose side port would be above \
              65535 is served over TCP.",
        option: None,
        kind: Kind::Number {
            unit: Unit::Count,
            default: 20_000,
            min: 1,
            max: 65_000,
            set: |c, v| c.side_port_offset = v as u16,
            get: |c| c.side_port_offset.into(),
        },
    },
    Key {
        name: "NACC_FABRICS",
        doc: "Ways to make links, the preferred first: loop (a process with itself), shm (shared memory, \
              two processes of one host), verbs (RDMA), tcp (links over a kernel connection of their \
              own; never chosen unless it is named). A fabric that is not named is not used; the \
              connecting side's order counts. none switches NetACC off: all stays kernel TCP.",
        option: None,
        kind: Kind::List {
            default: "loop,shm,verbs",
            allowed: "loop, shm, verbs and tcp, with commas between them, or none",
            set: words::set_fabrics,
            get: words::fabrics,
        },
    },
    Key {
        name: "NACC_SHM_PEERS",
        doc: "Processes of this host with which memory is shared: same-uid, those of the same effective user; \
              same-user-ns, those of any user of the same user namespace; any, all that share the network \
              namespace. Both sides must allow it; connections to others are TCP. A peer that is not of the \
              same user is one that is not trusted: it cannot read or write anything but the connections' own \
              bytes, but it can hold up a thread that rings its bell.",
        option: None,
        kind: Kind::Text {
            default: "same-uid",
            allowed: "same-uid, same-user-ns or any",
            set: words::set_shm_peers,
            get: words::shm_peers,
        },
    },
    Key {
        name: "NACC_PEERS",
        doc: "The connections that are accelerated; all, if it is empty. Each entry is a network or an \
              address of the other host, a port or a range of ports, or both: 10.0.0.0/8, 10.1.2.3:6379, \
              :6379, :7000-7999, fd00::/8, [fd00::1]:6379. Ports are those that the servers listen on: \
              where this program connects, the peer's, where it listens, its own.",
        option: None,
        kind: Kind::List {
            default: "",
            allowed: ADDRESSES,
            set: |c, v| rules::parse(v).map(|found| c.peers = found),
            get: |c| rules::show(&c.peers),
        },
    },
    Key {
        name: "NACC_PEERS_EXCEPT",
        doc: "Connections that are left to kernel TCP, even if NACC_PEERS names them; entries as there.",
        option: None,
        kind: Kind::List {
            default: "",
            allowed: ADDRESSES,
            set: |c, v| rules::parse(v).map(|found| c.peers_except = found),
            get: |c| rules::show(&c.peers_except),
        },
    },
    Key {
        name: "NACC_PROGRAMS",
        doc: "The programs that are accelerated, by the name of their process (as ps -o comm shows it) or \
              the base name by which they were started; a * at its end stands for anything. All, if it \
              is empty.",
        option: None,
        kind: Kind::List {
            default: "",
            allowed: PROGRAMS,
            set: |c, v| words::programs(v).map(|found| c.programs = found),
            get: |c| c.programs.join(","),
        },
    },
    Key {
        name: "NACC_PROGRAMS_EXCEPT",
        doc: "Programs that are left to kernel TCP, even if NACC_PROGRAMS names them; entries as there.",
        option: None,
        kind: Kind::List {
            default: "",
            allowed: PROGRAMS,
            set: |c, v| words::programs(v).map(|found| c.programs_except = found),
            get: |c| c.programs_except.join(","),
        },
    },
    Key {
        name: "NACC_LOG",
        doc: "How much NetACC tells about its own work: warn of bad settings and of links that fail, \
              info also of links made and, once for each cause, of destinations and listeners left to \
              TCP, debug also of each connection's way. trace tells no more than debug yet.",
        option: Some(Choice {
            letter: 'd',
            takes: Takes::Nothing("debug"),
            help: "Tell what NetACC does",
        }),
        kind: Kind::Text {
            default: "off",
            allowed: "off, error, warn, info, debug or trace",
            set: words::set_log,
            get: words::log,
        },
    },
    Key {
        name: "NACC_LOG_FILE",
        doc: "File to which log lines are appended. Empty means the program's standard error. \
              Every line carries its process id, so that processes can share a file.",
        option: None,
        kind: Kind::Text {
            default: "",
            allowed: "a path",
            set: words::set_log_file,
            get: |c| c.log_file.clone(),
        },
    },
];
