//! Which way connections go, and why: by the device of the interface that their route leaves by, where both ends
//! have one there.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::common::bare;
use crate::guest::{Guest, Remote};
use crate::net::{self, Kind, Undo};
use crate::steps::{Server, Way, behind, counted, queue_pairs, with};

const BOTH: [Guest; 2] = [Guest::A, Guest::B];
const ENDS: (Guest, Guest) = (Guest::A, Guest::B);

/// Asserts how many queue pairs a program has on the device of each wire.
fn uses(program: &Remote, wires: &[(u8, usize)]) {
    let pairs = wires.iter().map(|(wire, n)| (net::rdma_device(*wire), *n));
    let wanted: BTreeMap<String, usize> = match bare() {
        true => BTreeMap::new(),
        false => pairs.collect(),
    };
    assert_eq!(queue_pairs(program), wanted, "{program}");
}

/// Where a program's queue pairs are connected to, in order.
fn connected_to(program: &Remote) -> Vec<String> {
    let shown = program.guest().must("rdma -j resource show cm_id");
    let shown: Value = serde_json::from_str(&shown).expect("JSON of rdma");
    let all = shown.as_array().expect("an array of identifiers").iter();
    let connected = all.filter(|id| id["state"] == "CONNECT");
    let mut found: Vec<String> = connected
        .filter_map(|id| Some(id["dst-addr"].as_str()?.rsplit_once(':')?.0.to_string()))
        .collect();
    found.sort();
    found
}

/// Bytes that a guest has sent on the first two wires, and packets that its devices there have sent if they
/// count them.
fn sent(guest: Guest) -> [(u64, Option<u64>); 2] {
    [0, 1].map(|wire| {
        let device = net::hw_counters(guest, &net::rdma_device(wire));
        let bytes = net::wire_counters(guest, wire)["tx_bytes"];
        (bytes, device.get("sent_pkts").copied())
    })
}

#[test]
fn each_address_has_the_device_of_its_interface() {
    let (here, there) = ENDS;
    let _devices = BOTH.map(|guest| net::add_device(guest, 1));
    let server = Server::start(there, &Way::default());
    let before = sent(here);
    let words = "open 10.5.0.2 2 open 10.6.0.2 2 open fd06::2 1 talk 500000";
    let client = server.client(here, &Way::default(), words);
    let after = sent(here);
    for (wire, least) in [(0, 1_000_000), (1, 1_500_000)] {
        let (bytes, packets) = (after[wire].0 - before[wire].0, after[wire].1);
        // And not what goes by the other.
        assert!((least..least + 400_000).contains(&bytes), "{wire}: {bytes}");
        if let (Some(now), Some(then), false) = (packets, before[wire].1, bare()) {
            // Each carries 1024 bytes at most.
            assert!(now - then >= least / 1024, "{wire}: {then}, {now}");
        }
    }
    counted(
        &client.program,
        &[("connected_rdma", 5), ("connected_tcp", 0)],
    );
    counted(
        &server.program,
        &[("accepted_rdma", 5), ("accepted_tcp", 0)],
    );
    for program in [&client.program, &server.program] {
        // The process is linked by each of its addresses.
        uses(program, &[(0, 1), (1, 2)]);
    }
    client.finish();
}

/// Connections by a wire with a device at both ends, and by another: the client has none there.
fn only_the_first_wire_is_rdma(address: &str) {
    let (here, there) = ENDS;
    let server = Server::start(there, &Way::default());
    let words =
        format!("open {address} 2 open 10.5.0.2 1 talk 300000 open {address} 1 talk 300000");
    let client = server.client(here, &Way::default(), &words);
    let rdma = ("connected_rdma", 1);
    counted(
        &client.program,
        &[rdma, ("fallback_no_rdma_route", 3), ("connected_tcp", 3)],
    );
    let rdma = ("accepted_rdma", 1);
    counted(&server.program, &[rdma, ("fallback_no_rdma_route", 3)]);
    for program in [&client.program, &server.program] {
        uses(program, &[(0, 1)]);
    }
    client.finish();
}

#[test]
fn a_wire_without_devices_is_tcp() {
    only_the_first_wire_is_rdma("10.7.0.2");
    only_the_first_wire_is_rdma("fd07::2");
}

#[test]
fn a_device_at_one_end_alone_is_of_no_use() {
    for guest in BOTH {
        let _device = net::add_device(guest, 1);
        only_the_first_wire_is_rdma("10.6.0.2");
    }
}

/// Compiles what makes a connection manager refuse IPv6, where both guests find it.
fn ipv4_only() -> String {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/ipv4_only.c");
    let shared = std::env::var("LAB_DIR").expect("LAB_DIR");
    let built = format!("{shared}/out/ipv4_only.so");
    Guest::local().must(&format!(
        "cc -shared -fPIC -Wall -Werror -o {built} {source}"
    ));
    built
}

/// Two connections by an IPv6 address and two by an IPv4 one in IPv6's form: the application sees its own addresses,
/// whatever the queue pairs are connected by, which is `address` for the first two.
fn ipv6(server: &Way, client: &Way, address: &str) {
    let (here, there) = ENDS;
    let server = Server::start(there, server);
    let words = "open fd05::2 2 talk 300000 open ::ffff:10.5.0.2 2 talk 300000";
    let client = server.client(here, client, words);
    let pairs = [
        ("fd05::1", "[fd05::2]"),
        ("::ffff:10.5.0.1", "[::ffff:10.5.0.2]"),
    ];
    let opened = pairs.map(|(from, to)| [(); 2].map(|()| server.pair(from, to)));
    assert_eq!(client.opened(), opened.as_flattened());
    let accepted = pairs.map(|(from, to)| [(); 2].map(|()| server.pair(from, to)));
    assert_eq!(server.accepted(), accepted.as_flattened());
    counted(
        &client.program,
        &[("connected_rdma", 4), ("connected_tcp", 0)],
    );
    counted(
        &server.program,
        &[("accepted_rdma", 4), ("accepted_tcp", 0)],
    );
    if !bare() {
        let mut wanted = [address, "10.5.0.2"].map(str::to_string);
        wanted.sort();
        assert_eq!(connected_to(&client.program), wanted);
        assert_eq!(client.program.errors(), "", "nothing to worry about");
        assert_eq!(server.program.errors(), "", "nothing to worry about");
    }
    client.finish();
}

#[test]
fn ipv6_addresses() {
    ipv6(&Way::default(), &Way::default(), "fd05::2");
}

#[test]
fn ipv6_addresses_of_devices_that_know_ipv4_only() {
    let also = ipv4_only();
    let refusing = |settings| Way {
        also: Some(also.clone()),
        ..with(settings)
    };
    for settings in ["IPV4_ONLY=bind", "IPV4_ONLY=listen"] {
        ipv6(&refusing(settings), &refusing(settings), "10.5.0.2");
    }
    // An address that the other end listens at is of no use to this one.
    ipv6(&Way::default(), &refusing("IPV4_ONLY=connect"), "10.5.0.2");
}

/// Both ends in one guest, with these fabrics: what a connection is then, and how many queue pairs each end has.
fn in_one_guest(settings: &'static str, mode: &str, pairs: usize) {
    let guest = Guest::B;
    let server = Server::start(guest, &with(settings));
    let client = server.client(
        guest,
        &with(settings),
        "open 10.5.0.2 1 talk 300000 open fd05::2 2 talk 300000",
    );
    counted(&client.program, &[(&format!("connected_{mode}"), 3)]);
    counted(&server.program, &[(&format!("accepted_{mode}"), 3)]);
    let wires = [(0, pairs)];
    for program in [&client.program, &server.program] {
        uses(program, &wires[..wires.len().min(pairs)]);
    }
    client.finish();
}

#[test]
fn fabrics_within_a_machine() {
    in_one_guest("NACC_LOG=warn", "shm", 0);
    // What is preferred, not what would be there as well.
    in_one_guest("NACC_FABRICS=verbs,shm", "rdma", 2);
    in_one_guest("NACC_FABRICS=verbs", "rdma", 2);
}

#[test]
fn a_link_on_a_stream() {
    let (here, there) = ENDS;
    for fabrics in ["NACC_FABRICS=tcp", "NACC_FABRICS=tcp,verbs"] {
        let server = Server::start(there, &with("NACC_FABRICS=verbs,tcp"));
        let client = server.client(
            here,
            &with(fabrics),
            "open 10.5.0.2 1 open fd05::2 1 talk 300000",
        );
        let linked = [("links_opened", 2), ("qps_made", 0), ("tx_bytes", 600_000)];
        for program in [&client.program, &server.program] {
            counted(program, &linked);
        }
        client.finish();
    }
    // Only one of the two knows of RDMA.
    let server = Server::start(there, &Way::default());
    let client = server.client(
        here,
        &with("NACC_FABRICS=loop,shm"),
        "open 10.5.0.2 2 talk 300000",
    );
    counted(
        &client.program,
        &[("connected_tcp", 2), ("links_opened", 0)],
    );
    client.finish();
}

/// A network namespace `side` in a guest, with the second wire in it.
struct Namespace(Guest);

impl Namespace {
    fn new(guest: Guest) -> Namespace {
        let number = guest.address(1).octets()[3];
        guest.must(&format!(
            "ip netns add side && ip link set vec1 netns side && ip -n side link set lo up && \
             ip -n side addr add 10.6.0.{number}/24 dev vec1 && \
             ip -n side addr add fd06::{number}/64 dev vec1 nodad && ip -n side link set vec1 up"
        ));
        Namespace(guest)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let number = self.0.address(1).octets()[3];
        // The kernel takes its time to end a namespace; until then there is one.
        self.0.must(&format!(
            "ip -n side link set vec1 netns 1 && ip netns del side && \
             ip addr add 10.6.0.{number}/24 dev vec1 && ip addr add fd06::{number}/64 dev vec1 nodad && \
             ip link set vec1 up"
        ));
    }
}

const INSIDE: &str = "ip netns exec side";

/// The device of the second wire, which is in the namespace.
fn device_inside(guest: Guest) -> Undo {
    let (device, kind) = (net::rdma_device(1), Kind::of_this_run().name());
    net::with_undo(
        guest,
        &format!("{INSIDE} rdma-device add {device} {kind} vec1"),
        format!("rdma-device del {device}"),
    )
}

/// Each end in turn is in the namespace of its guest; the other has a device on that wire.
fn from_a_namespace(guest: Guest, counters: &[(&str, u64)]) {
    let other = match guest {
        Guest::A => Guest::B,
        Guest::B => Guest::A,
    };
    let server = Server::start(guest, &behind(INSIDE));
    let words = format!("open {} 2 talk 300000", guest.address(1));
    let client = server.client(other, &Way::default(), &words);
    counted(&client.program, counters);
    client.finish();
    let server = Server::start(other, &Way::default());
    let words = format!("open {} 2 talk 300000", other.address(1));
    let client = server.client(guest, &behind(INSIDE), &words);
    counted(&client.program, counters);
    client.finish();
}

const NO_ROUTE: [(&str, u64); 2] = [("connected_tcp", 2), ("fallback_no_rdma_route", 2)];

/// The devices of the whole machine are to be seen in every namespace, but only one whose interface is there is of
/// use.
#[test]
fn namespaces_that_share_devices() {
    let guest = Guest::peer();
    let _here = net::add_device(Guest::local(), 1);
    let _namespace = Namespace::new(guest);
    from_a_namespace(guest, &NO_ROUTE);
    let _inside = device_inside(guest);
    from_a_namespace(
        guest,
        &match Kind::of_this_run() {
            // Its packets come and go in the machine's first namespace only.
            Kind::Rxe => [("connected_tcp", 2), ("fallback_rdma_unreachable", 2)],
            Kind::Siw => [("connected_tcp", 0), ("connected_rdma", 2)],
        },
    );
}

/// Each device is in one namespace; its interface may be in another, where it is of no use.
#[test]
fn namespaces_with_devices_of_their_own() {
    let guest = Guest::peer();
    let _here = net::add_device(Guest::local(), 1);
    let _exclusive = net::with_undo(
        guest,
        "rdma system set netns exclusive",
        "until rdma system set netns shared; do sleep 0.05; done".to_string(),
    );
    let _namespace = Namespace::new(guest);
    from_a_namespace(guest, &NO_ROUTE);
    let (device, kind) = (net::rdma_device(1), Kind::of_this_run().name());
    let _outside = net::with_undo(
        guest,
        &format!("{INSIDE} rdma link add {device} type {kind} netdev vec1"),
        format!("rdma-device del {device}"),
    );
    from_a_namespace(guest, &NO_ROUTE);
}
