//! What the device is found to be, and the descriptors that using it costs.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Instant;

use netacc::fdtable::{self, Entry};
use netacc::verbs::cm::CmId;
use netacc::verbs::device::{AsyncEvent, Device};
use netacc::verbs::reach::LocalAddresses;
use netacc::verbs::sysfs;

use super::ends::{CONNECTOR, Events, Pair, SecondDevice, address, own_address, wait_readable};
use crate::common::PATIENCE;
use crate::guest::Guest;
use crate::net::{self, Kind};

#[test]
fn the_device_is_found_out() {
    assert!(sysfs::devices_present());
    let events = Events::new();
    let id = CmId::create(&events.channel, CONNECTOR).unwrap();
    assert!(Device::of(&id).is_err(), "not bound yet");
    id.bind(&own_address(0)).unwrap();
    let device = Device::of(&id).unwrap();
    let known = device.attributes();
    println!("{known:?}");
    assert_eq!(known.name, net::rdma_device(0));
    assert!(
        known.max_qp_wr >= 1024 && known.max_cqe >= 4096,
        "{known:?}"
    );
    assert!(known.max_mr >= 1024 && known.max_sge >= 1, "{known:?}");
    let expected = match Kind::of_this_run() {
        Kind::Rxe => (256, true),
        Kind::Siw => (80, false),
    };
    assert_eq!((known.max_inline, known.write_imm), expected);
    let port = device.port(id.port()).unwrap();
    println!("{port:?}");
    assert!(port.active && port.mtu >= 1024, "{port:?}");
    assert!(device.port(99).is_err());

    let again = CmId::create(&events.channel, CONNECTOR).unwrap();
    again.bind(&own_address(0)).unwrap();
    let same = Device::of(&again).unwrap();
    assert!(
        std::sync::Arc::ptr_eq(&device, &same),
        "one object a device"
    );
}

#[test]
fn addresses_of_devices_are_known() {
    let events = Events::new();
    let local = LocalAddresses::new(&events.channel);
    let here = Guest::local();
    let mapped = here.address(0).to_ipv6_mapped();
    for _ in 0..2 {
        // The second time from memory.
        assert!(local.is_rdma(&own_address(80)).unwrap());
        assert!(local.is_rdma(&address((mapped, 80))).unwrap());
        assert!(local.is_rdma(&address((here.address6(0), 80))).unwrap());
        for other in [
            address((here.address(2), 80)),
            address((Guest::peer().address(0), 80)),
            address(([127, 0, 0, 1], 80)),
            address(([0, 0, 0, 0], 80)),
            address((std::net::Ipv6Addr::LOCALHOST, 80)),
        ] {
            assert!(!local.is_rdma(&other).unwrap(), "{other:?}");
        }
    }
    let second = address((here.address(1), 80));
    assert!(!local.is_rdma(&second).unwrap());
    let device = SecondDevice::add();
    assert!(!local.is_rdma(&second).unwrap(), "remembered");
    local.refresh();
    assert!(local.is_rdma(&second).unwrap());
    device.remove();
    local.refresh();
    assert!(!local.is_rdma(&second).unwrap());
}

/// The descriptors of this process that lead to an RDMA device.
pub fn device_descriptors() -> Vec<(RawFd, String)> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = std::fs::read_link(entry.path()).ok()?;
            let target = target.to_str()?.to_string();
            let number = entry.file_name().to_str()?.parse().ok()?;
            let is_one = target.contains("infiniband") || target.contains("netacc-rdma");
            is_one.then_some((number, target))
        })
        .collect()
}

#[test]
fn descriptors_are_high_and_hidden_from_the_application() {
    let pair = Pair::connect();
    let all = device_descriptors();
    println!("{all:?}");
    let named = [
        pair.events.channel.as_fd().as_raw_fd(),
        pair.connector.cq.as_fd().as_raw_fd(),
        pair.connector.qp.device().async_fd().as_raw_fd(),
    ];
    for fd in named {
        assert!(
            all.iter().any(|(number, _)| *number == fd),
            "{fd} in {all:?}"
        );
    }
    for (fd, target) in &all {
        assert!(*fd >= 512, "{target} has the number {fd}");
        let entry = fdtable::get(*fd);
        assert!(
            matches!(entry, Some(Entry::Internal)),
            "{target} is not hidden"
        );
    }
    let count = all.len();
    drop(pair);

    let left = device_descriptors();
    println!("{left:?}");
    // The context's two stay, for the device is kept.
    assert!(left.len() <= count - 5, "{left:?}");
    for fd in named[..2].iter() {
        assert!(fdtable::get(*fd).is_none(), "{fd} is another's now");
    }
}

/// What this process holds: descriptors, mappings, and what the kernel counts on all devices.
fn held() -> (usize, usize, String) {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let shared = maps.lines().filter(|line| line.contains("netacc-rdma"));
    let resources = Guest::local().must("rdma resource show");
    (fds, shared.count(), resources)
}

#[test]
fn connections_leave_nothing_behind() {
    drop(Pair::connect());
    let before = held();
    println!("{before:?}");
    for round in 0..30 {
        let pair = Pair::connect();
        if round % 2 == 0 {
            pair.connector.qp.id().disconnect().unwrap();
        }
    }
    // The kernel takes its time over what was let go.
    let deadline = Instant::now() + PATIENCE;
    while held() != before && Instant::now() < deadline {}
    assert_eq!(held(), before);
}

#[test]
fn a_port_that_goes_down_and_up_is_noticed() {
    let pair = Pair::connect();
    let device = pair.connector.qp.device();
    while device.next_async_event().unwrap().is_some() {}
    let wait = |wanted: AsyncEvent| loop {
        match device.next_async_event().unwrap() {
            Some(event) if event == wanted => return,
            Some(event) => println!("{event:?}"),
            None => wait_readable(device.async_fd(), &format!("{wanted:?}")),
        }
    };
    let down = net::link_down(Guest::local(), 0);
    wait(AsyncEvent::PortDown(1));
    assert!(!device.port(1).unwrap().active);
    drop(down);
    wait(AsyncEvent::PortUp(1));
    assert!(device.port(1).unwrap().active);
}
