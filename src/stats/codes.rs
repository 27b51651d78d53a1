//! Small numbers that the page carries, with their names: states, modes, fabrics.

/// Declares a `repr(u32)` enum together with the name that tools print for each value.
macro_rules! codes {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $code:literal $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$vmeta])* $variant = $code,)+ }

        impl $name {
            /// The value that `code` stands for, or `None` if it is not one of ours.
            pub fn from_code(code: u32) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// The name that tools print.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

codes! {
    /// What carries a connection's bytes.
    pub enum Mode {
        /// Not decided yet (connecting) or nothing (a listener).
        Undecided = 0 "-",
        /// Memory of this same process: it talks to itself.
        Loop = 1 "LOOP",
        /// Shared memory with another process of this host.
        Shm = 2 "SHM",
        /// The kernel's TCP.
        Tcp = 3 "TCP",
        /// A link to another host.
        Rdma = 4 "RDMA",
    }
}

codes! {
    /// Where a connection stands.
    pub enum ConnState {
        /// The slot holds no connection.
        Free = 0 "FREE",
        /// Being made.
        Connecting = 1 "CONNECTING",
        /// Both directions open, carried by a link.
        Established = 2 "ESTAB",
        /// One direction is shut down.
        HalfClosed = 3 "HALF-CLOSED",
        /// Both directions are shut down; the descriptor is still open.
        Closed = 4 "CLOSED",
        /// Carried by kernel TCP, which alone knows its exact state (see `ss -t`).
        Tcp = 5 "KERNEL",
        /// Waits for connections.
        Listening = 6 "LISTEN",
    }
}

codes! {
    /// Where a link stands.
    pub enum LinkState {
        /// The slot holds no link.
        Free = 0 "FREE",
        /// Being negotiated.
        Opening = 1 "OPENING",
        /// Carries connections.
        Up = 2 "UP",
        /// Takes no new connections and ends with its last one.
        Draining = 3 "DRAINING",
        /// Lost its peer or its device.
        Failed = 4 "FAILED",
    }
}

codes! {
    /// What a link is made of.
    pub enum Fabric {
        /// Not agreed yet.
        Undecided = 0 "-",
        /// Memory of this same process.
        Loop = 1 "LOOP",
        /// Shared memory of two processes of this host.
        Shm = 2 "SHM",
        /// An RDMA queue pair.
        Verbs = 3 "VERBS",
        /// The control connection itself.
        Tcp = 4 "TCP",
    }
}
