//! The constants that a scenario can name, as the manual pages call them.

macro_rules! names {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name as i64),)*] };
}

/// Everything but errors, events and signals.
const VALUES: &[(&str, i64)] = names! {
    SOL_SOCKET SOL_TCP SOL_IP SOL_IPV6 IPPROTO_TCP IPPROTO_IP IPPROTO_IPV6
    AF_INET AF_INET6 AF_UNIX AF_UNSPEC SOCK_STREAM SOCK_DGRAM SOCK_NONBLOCK SOCK_CLOEXEC
    SO_REUSEADDR SO_REUSEPORT SO_KEEPALIVE SO_LINGER SO_ERROR SO_TYPE SO_DOMAIN SO_PROTOCOL SO_ACCEPTCONN SO_SNDBUF
    SO_RCVBUF SO_RCVLOWAT SO_SNDLOWAT SO_RCVTIMEO SO_SNDTIMEO SO_BROADCAST SO_DONTROUTE SO_OOBINLINE SO_PRIORITY
    SO_MARK SO_BUSY_POLL SO_ZEROCOPY SO_TIMESTAMP SO_TIMESTAMPNS SO_INCOMING_CPU SO_BINDTODEVICE SO_PEEK_OFF
    SO_ATTACH_FILTER SO_DETACH_FILTER SO_LOCK_FILTER SO_ATTACH_BPF SO_COOKIE SO_PEERCRED SO_RXQ_OVFL SO_NO_CHECK
    SO_DEBUG SO_PASSCRED SO_SNDBUFFORCE SO_RCVBUFFORCE SO_MAX_PACING_RATE SO_MEMINFO
    TCP_NODELAY TCP_CORK TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_USER_TIMEOUT TCP_DEFER_ACCEPT TCP_FASTOPEN
    TCP_FASTOPEN_CONNECT TCP_INFO TCP_MAXSEG TCP_QUICKACK TCP_LINGER2 TCP_SYNCNT TCP_WINDOW_CLAMP TCP_CONGESTION
    TCP_INQ TCP_NOTSENT_LOWAT TCP_ULP TCP_SAVE_SYN TCP_REPAIR TCP_MD5SIG TCP_TIMESTAMP TCP_THIN_LINEAR_TIMEOUTS
    TCP_ZEROCOPY_RECEIVE
    IP_TOS IP_TTL IP_TRANSPARENT IP_FREEBIND IP_RECVERR IP_MTU IP_MTU_DISCOVER IP_PKTINFO IP_BIND_ADDRESS_NO_PORT
    IPV6_V6ONLY IPV6_TCLASS IPV6_UNICAST_HOPS IPV6_RECVPKTINFO
    MSG_PEEK MSG_WAITALL MSG_DONTWAIT MSG_TRUNC MSG_NOSIGNAL MSG_MORE MSG_OOB MSG_ERRQUEUE MSG_CTRUNC MSG_EOR
    MSG_CMSG_CLOEXEC MSG_WAITFORONE MSG_ZEROCOPY MSG_FASTOPEN MSG_DONTROUTE MSG_CONFIRM
    F_GETFD F_SETFD F_GETFL F_SETFL F_DUPFD F_DUPFD_CLOEXEC FD_CLOEXEC F_GETOWN F_SETOWN
    O_NONBLOCK O_CLOEXEC O_ASYNC O_APPEND O_RDWR O_RDONLY O_WRONLY
    FIONREAD FIONBIO FIOASYNC FIOCLEX FIONCLEX TIOCOUTQ TCGETS
    SHUT_RD SHUT_WR SHUT_RDWR
    EPOLL_CTL_ADD EPOLL_CTL_MOD EPOLL_CTL_DEL EPOLL_CLOEXEC
    SPLICE_F_MOVE SPLICE_F_NONBLOCK SPLICE_F_MORE
    CLOSE_RANGE_CLOEXEC CLOSE_RANGE_UNSHARE
    SYS_close SYS_read SYS_write SYS_sendto SYS_recvfrom SYS_shutdown SYS_dup SYS_dup2 SYS_dup3 SYS_listen SYS_fcntl
    SYS_ioctl SYS_getpid SYS_fsync SYS_lseek SYS_close_range SYS_pread64 SYS_readv SYS_writev SYS_sendmsg SYS_recvmsg
    SYS_sendmmsg SYS_recvmmsg SYS_connect SYS_getsockname SYS_getpeername SYS_setsockopt SYS_getsockopt
    SYS_accept SYS_epoll_create1
};

/// Names of ours, and what the libc crate does not have.
const OTHERS: &[(&str, i64)] = &[
    ("inet", libc::AF_INET as i64),
    ("inet6", libc::AF_INET6 as i64),
    ("unix", libc::AF_UNIX as i64),
    ("stream", libc::SOCK_STREAM as i64),
    ("dgram", libc::SOCK_DGRAM as i64),
    ("nonblock", libc::SOCK_NONBLOCK as i64),
    ("cloexec", libc::SOCK_CLOEXEC as i64),
    ("ADD", libc::EPOLL_CTL_ADD as i64),
    ("MOD", libc::EPOLL_CTL_MOD as i64),
    ("DEL", libc::EPOLL_CTL_DEL as i64),
    ("SIOCOUTQ", libc::TIOCOUTQ as i64),
    ("SIOCINQ", libc::FIONREAD as i64),
    ("SIOCATMARK", 0x8905),
    ("SIOCOUTQNSD", 0x894b),
    ("SO_PREFER_BUSY_POLL", 69),
    ("SO_BUSY_POLL_BUDGET", 70),
    ("SO_INCOMING_NAPI_ID", 56),
    ("SO_ATTACH_REUSEPORT_CBPF", 51),
    ("SO_TXTIME", 61),
    ("TCP_TX_DELAY", 37),
    ("TCP_FASTOPEN_KEY", 33),
    ("TCP_FASTOPEN_NO_COOKIE", 34),
    ("TCP_CM_INQ", 36),
    ("IP_LOCAL_PORT_RANGE", 51),
];

const POLL: &[(&str, i64)] = names! {
    POLLIN POLLPRI POLLOUT POLLERR POLLHUP POLLNVAL POLLRDHUP POLLRDNORM POLLRDBAND POLLWRNORM POLLWRBAND
};

const EPOLL: &[(&str, i64)] = names! {
    EPOLLIN EPOLLPRI EPOLLOUT EPOLLERR EPOLLHUP EPOLLRDHUP EPOLLRDNORM EPOLLRDBAND EPOLLWRNORM EPOLLWRBAND EPOLLET
    EPOLLONESHOT EPOLLEXCLUSIVE EPOLLWAKEUP
};

const SIGNALS: &[(&str, i64)] = names! {
    SIGUSR1 SIGUSR2 SIGPIPE SIGTERM SIGKILL SIGALRM SIGIO SIGURG SIGCHLD SIGINT SIGSTOP SIGCONT
};

const ERRORS: &[(&str, i64)] = names! {
    EPERM ENOENT EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT EEXIST ENODEV ENOTDIR EISDIR EINVAL ENFILE
    EMFILE ENOTTY EFBIG ENOSPC ESPIPE EPIPE EDOM ERANGE ENOSYS ENODATA EPROTO EOVERFLOW EBADFD ENOTSOCK
    EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT
    EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN
    ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE ECANCELED ELOOP EBUSY
    ECHILD ENOLCK
};

fn find(table: &[(&str, i64)], name: &str) -> Option<i64> {
    let row = table.iter().find(|(other, _)| *other == name);
    row.map(|(_, value)| *value)
}

/// The value of one constant.
pub fn value(name: &str) -> Option<i64> {
    [VALUES, OTHERS, POLL, EPOLL, SIGNALS, ERRORS]
        .iter()
        .find_map(|table| find(table, name))
}

/// An error's name.
pub fn errno(number: i32) -> String {
    let row = ERRORS.iter().find(|(_, value)| *value == i64::from(number));
    row.map_or_else(|| format!("errno {number}"), |(name, _)| name.to_string())
}

/// A signal's name.
pub fn signal(number: i32) -> String {
    let row = SIGNALS
        .iter()
        .find(|(_, value)| *value == i64::from(number));
    row.map_or_else(|| format!("signal {number}"), |(name, _)| name.to_string())
}

/// The names of `bits`, without `prefix`; what has no name as a number. `table`'s order is kept.
fn bits(table: &[(&str, i64)], prefix: &str, mut bits: i64) -> String {
    let mut words = Vec::new();
    for (name, value) in table {
        if bits & value == *value {
            words.push(name.strip_prefix(prefix).unwrap_or(name).to_string());
            bits &= !value;
        }
    }
    if bits != 0 || words.is_empty() {
        words.push(format!("{bits:#x}"));
    }
    words.join("|")
}

/// `revents` of poll.
pub fn poll_events(events: i16) -> String {
    bits(POLL, "POLL", i64::from(events as u16))
}

/// Events of epoll.
pub fn epoll_events(events: u32) -> String {
    bits(EPOLL, "EPOLL", i64::from(events))
}

/// `msg_flags`.
pub fn msg_flags(flags: i32) -> String {
    let table: Vec<(&str, i64)> = VALUES
        .iter()
        .filter(|(name, _)| name.starts_with("MSG_"))
        .copied()
        .collect();
    bits(&table, "", i64::from(flags))
}
