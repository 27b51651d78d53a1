//! Network and RDMA devices of the guests: what they count, and how they are cut, slowed, made and removed.

use std::collections::BTreeMap;

use crate::guest::Guest;

/// A kind of RDMA device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Soft RoCE: RoCEv2, with immediate data.
    Rxe,
    /// Soft iWARP: over TCP of the kernel's, without immediate data.
    Siw,
}

impl Kind {
    /// The kind that this run is about.
    pub fn of_this_run() -> Kind {
        match std::env::var("LAB_DEVICE").as_deref() {
            Ok("rxe") => Kind::Rxe,
            Ok("siw") => Kind::Siw,
            other => panic!("LAB_DEVICE is {other:?}: use `make rdma-lab`"),
        }
    }

    /// Its name, as `rdma link add` wants it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Rxe => "rxe",
            Kind::Siw => "siw",
        }
    }
}

/// The network device of a wire.
pub fn netdev(wire: u8) -> String {
    format!("vec{wire}")
}

/// The RDMA device of a wire. Wire 0 has one; on wire 1 `add_device` makes one.
pub fn rdma_device(wire: u8) -> String {
    format!("{}{wire}", Kind::of_this_run().name())
}

/// Names and values of what a kernel counts.
pub type Counts = BTreeMap<String, u64>;

/// The kernel's counters of its protocols, by the names that `nstat` gives them, such as `TcpOutSegs` and
/// `TcpExtTCPOrigDataSent`. A siw device's own connections count here too, and so does the agent's: it
/// costs a few segments for each question.
pub fn protocol_counters(guest: Guest) -> Counts {
    let text = guest.must("cat /proc/net/snmp /proc/net/netstat");
    let lines: Vec<&str> = text.lines().collect();
    // A line of names, then a line of values, both beginning with the protocol's name.
    let pairs = lines.chunks_exact(2).flat_map(|pair| {
        let (protocol, names) = pair[0].split_once(':').expect("a protocol");
        let (_, values) = pair[1].split_once(':').expect("a protocol");
        let named = names.split_whitespace().zip(values.split_whitespace());
        named.filter_map(move |(name, value)| {
            Some((format!("{protocol}{name}"), value.parse().ok()?))
        })
    });
    pairs.collect()
}

/// The RDMA device's own counters, such as `sent_pkts` and `rcvd_pkts`. siw has none.
pub fn hw_counters(guest: Guest, device: &str) -> Counts {
    let dir = format!("/sys/class/infiniband/{device}/ports/1/hw_counters");
    files(guest, &dir)
}

/// A network device's counters, such as `tx_packets` and `rx_bytes`.
pub fn wire_counters(guest: Guest, wire: u8) -> Counts {
    files(
        guest,
        &format!("/sys/class/net/{}/statistics", netdev(wire)),
    )
}

/// Files with one number each.
fn files(guest: Guest, dir: &str) -> Counts {
    let text = guest.must(&format!("cd {dir} 2>/dev/null || exit 0; grep -H . *"));
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_string(), value.parse().ok()?))
        })
        .collect()
}

/// What has been added to a counter from `before` to `after`.
pub fn grown(before: &Counts, after: &Counts, name: &str) -> u64 {
    let value = |counts: &Counts| match counts.get(name) {
        Some(value) => *value,
        None => panic!("no counter '{name}' in {counts:#?}"),
    };
    value(after) - value(before)
}

/// Undoes with a command what was done to a guest, when it is dropped.
#[must_use]
pub struct Undo {
    guest: Guest,
    command: String,
}

impl Drop for Undo {
    fn drop(&mut self) {
        let output = self.guest.run(&self.command);
        // A reboot in between undid it already.
        if output.code != 0 {
            eprintln!("guest {:?}: {}: {output:?}", self.guest, self.command);
        }
    }
}

/// Runs a command in a guest, and another one when the result is dropped.
pub fn with_undo(guest: Guest, command: &str, undo: String) -> Undo {
    guest.must(command);
    Undo {
        guest,
        command: undo,
    }
}

/// Takes a network device down until the result is dropped. Its addresses stay.
pub fn link_down(guest: Guest, wire: u8) -> Undo {
    let dev = netdev(wire);
    with_undo(
        guest,
        &format!("ip link set {dev} down"),
        format!("ip link set {dev} up"),
    )
}

/// Treats what a guest sends on a wire as netem's `spec` says, such as `loss 1%` or `delay 5ms`, until
/// the result is dropped.
pub fn netem(guest: Guest, wire: u8, spec: &str) -> Undo {
    let dev = netdev(wire);
    with_undo(
        guest,
        &format!("tc qdisc replace dev {dev} root netem {spec}"),
        format!("tc qdisc del dev {dev} root"),
    )
}

#[cfg(feature = "lab_failures")]
/// Loses all TCP segments to and from `port` that a guest sends on a wire, and nothing else, until the result is
/// dropped.
pub fn port_dead(guest: Guest, wire: u8, port: u16) -> Undo {
    let dev = netdev(wire);
    // By default nothing goes into the fourth band.
    let mut command = format!(
        "tc qdisc add dev {dev} root handle 1: prio bands 4 && \
         tc qdisc add dev {dev} parent 1:4 handle 40: netem loss 100%"
    );
    for way in ["sport", "dport"] {
        command += &format!(
            " && tc filter add dev {dev} parent 1: protocol ip u32 match ip protocol 6 0xff \
             match ip {way} {port} 0xffff flowid 1:4"
        );
    }
    with_undo(guest, &command, format!("tc qdisc del dev {dev} root"))
}

/// Makes the RDMA device of a wire, until the result is dropped.
pub fn add_device(guest: Guest, wire: u8) -> Undo {
    let (device, dev) = (rdma_device(wire), netdev(wire));
    let kind = Kind::of_this_run().name();
    with_undo(
        guest,
        &format!("rdma-device add {device} {kind} {dev}"),
        format!("rdma-device del {device}"),
    )
}

/// Removes the RDMA device of a wire, until the result is dropped.
pub fn remove_device(guest: Guest, wire: u8) -> Undo {
    let (device, dev) = (rdma_device(wire), netdev(wire));
    let kind = Kind::of_this_run().name();
    with_undo(
        guest,
        &format!("rdma-device del {device}"),
        format!("rdma-device add {device} {kind} {dev}"),
    )
}
