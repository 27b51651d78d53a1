//! Why a connection goes over kernel TCP: one table of codes, names and sentences.

/// Declares the enum, its short names and its sentences from one table.
macro_rules! reasons {
    ($($variant:ident = $code:literal $name:literal $sentence:literal,)+) => {
        /// Why a connection (or a listener) is left to kernel TCP.
        ///
        /// The numbers are part of the page's layout: append, never renumber.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Reason { $(#[doc = $sentence] $variant = $code,)+ }

        impl Reason {
            /// All reasons, in the order of their codes.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)+];

            /// The short name in `snake_case` that tools print and scripts match.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence or two: what it means and what to do.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)+ }
            }
        }
    };
}

reasons! {
    None = 0 "none"
        "No reason: the connection is accelerated, or nothing is decided yet.",
    SidePortRefused = 1 "side_port_refused"
        "Nobody listens on the peer's port + 20000 (NACC_SIDE_PORT_OFFSET): start the peer with netacc_run to accelerate it.",
    SidePortTimeout = 2 "side_port_timeout"
        "The peer's port + 20000 (NACC_SIDE_PORT_OFFSET) did not answer: let the firewall pass it, or reject it instead of dropping it.",
    SidePortForeign = 3 "side_port_foreign"
        "Another service answers on the peer's port + 20000 (NACC_SIDE_PORT_OFFSET): move that service to accelerate this one.",
    SidePortOutOfRange = 4 "side_port_out_of_range"
        "Port + 20000 (NACC_SIDE_PORT_OFFSET) is above 65535: use a lower port, or a smaller offset on both sides, to be accelerated.",
    SidePortTaken = 5 "side_port_taken"
        "Another program holds this listener's port + 20000 (NACC_SIDE_PORT_OFFSET): free that port and restart the listener.",
    VersionMismatch = 6 "version_mismatch"
        "The peer's NetACC speaks no protocol version that this one speaks: install the same release on both sides.",
    NoCommonFabric = 7 "no_common_fabric"
        "The two sides share no way to be linked: they run on different hosts or namespaces and have no RDMA device in common.",
    PeerOtherUser = 8 "peer_other_user"
        "The peer process belongs to another user, with whom memory is not shared: run both as the same user.",
    PeerRefused = 9 "peer_refused"
        "The peer's NetACC declined to accelerate: look at its own netacc_ss for the reason.",
    LinkLimit = 10 "link_limit"
        "All links that this process may have are in use: fewer peers, or more connections for each link (NACC_SOR_CONN_PER_QP).",
    LinkFailed = 11 "link_failed"
        "The link could not be made, or broke: the log of either side (netacc_run -d) says at which step.",
    NotNetacc = 12 "not_netacc"
        "The peer was found a short while ago not to run NetACC, or nobody there accepted, and it is not asked again yet: start it with netacc_run, or wait a little.",
    HandshakeTimeout = 13 "handshake_timeout"
        "The peer runs NetACC but did not finish the hello in time: it may be stopped or overloaded.",
    BoundSpecially = 14 "bound_specially"
        "The socket was bound in a way that only the kernel can honour (to a device, a transparent or foreign address): nothing to do.",
    OptionNotCarried = 15 "option_not_carried"
        "A socket option was set that only the kernel's TCP can honour: do without it to be accelerated.",
    Disabled = 16 "disabled"
        "Acceleration is switched off by the configuration: see /etc/netacc.conf and the NACC_ variables.",
    ResourceLimit = 17 "resource_limit"
        "Memory or descriptors ran out while the link was made: raise the limits (ulimit -n, ulimit -l, size of /dev/shm).",
    FdTooLarge = 18 "fd_too_large"
        "The descriptor's number is above what the library tracks: lower the limit on open files (ulimit -n).",
    UnsupportedCall = 19 "unsupported_call"
        "The application used a call on the socket that is not carried yet: nothing to do, the kernel does it.",
    Forked = 20 "forked"
        "The descriptor was inherited by a child process, so the kernel carries it for both: nothing to do.",
    ClientWithoutNetacc = 21 "client_without_netacc"
        "The client came by the application's own port: it does not run NetACC, or could not use the side port; start it with netacc_run, or ask its own netacc_ss for the reason.",
    NoRdmaRoute = 22 "no_rdma_route"
        "The way to this peer does not leave by an RDMA device's interface on both sides: use the addresses of those interfaces to be accelerated.",
    RdmaUnreachable = 23 "rdma_unreachable"
        "Both sides have an RDMA device, but no queue pair could be connected: look whether the two devices reach each other (rping), and at the log (netacc_run -d).",
    LockedMemory = 24 "locked_memory"
        "The device needs more locked memory than this process may have: raise RLIMIT_MEMLOCK (ulimit -l unlimited, LimitMEMLOCK=infinity).",
    HandedBack = 25 "handed_back"
        "It was accelerated until a call came that only the kernel can serve (urgent data, MSG_ZEROCOPY, a child process that uses it): nothing to do.",
    ShortLived = 26 "short_lived"
        "The last connections to this address ended after a few messages, which is less than acceleration earns back: keep connections open, or set NACC_SHORT_CONN_LIMIT=0.",
    TcpFirst = 27 "tcp_first"
        "Nothing was known of the peer, and NACC_TCP_FIRST (netacc_run -T) lets nobody wait: nothing to do, later connections are accelerated if the peer runs NetACC.",
    LeftAlone = 28 "left_alone"
        "The configuration leaves this program, or this peer and port, to the kernel: see NACC_PEERS, NACC_PROGRAMS and those that end in _EXCEPT (netacc_run --print-config CMD).",
    ServedByChildren = 29 "served_by_children"
        "This server gives each connection to a child process, where only the kernel can carry it: nothing to do.",
    InternalFault = 30 "internal_fault"
        "NetACC has noticed defects of its own in this process (internal_faults) and accelerates nothing new: the log (netacc_run -d) says where; please report it, and restart the program.",
}

impl Reason {
    /// How many reasons there are: the length of `Global::fallbacks`.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason that `code` stands for, or `None` if it is not one of ours.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get(code as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_indices_and_names_are_distinct_words() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(Reason::from_code(index as u32), Some(*reason));
            assert!(
                reason
                    .name()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_')
            );
            let same = Reason::ALL.iter().filter(|r| r.name() == reason.name());
            assert_eq!(same.count(), 1);
        }
        assert_eq!(Reason::from_code(Reason::COUNT as u32), None);
    }
}
