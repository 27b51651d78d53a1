//! The lab itself: the machines are what the other tests believe them to be.

use std::net::{IpAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::PATIENCE;
use crate::guest::{Guest, Remote, port};
use crate::net::{self, Kind};

const BOTH: [Guest; 2] = [Guest::A, Guest::B];

#[test]
fn each_guest_has_a_usable_device() {
    for guest in BOTH {
        let shown = guest.must(&format!("ibv_devinfo -d {}", net::rdma_device(0)));
        assert!(shown.contains("PORT_ACTIVE"), "{shown}");
        let transport = match Kind::of_this_run() {
            Kind::Rxe => "InfiniBand",
            Kind::Siw => "iWARP",
        };
        assert!(shown.contains(transport), "{shown}");
        assert_eq!(guest.must("ulimit -l").trim(), "unlimited");
    }
}

/// What the other tests take for granted of programs in the other guest.
#[test]
fn a_program_gets_its_environment_and_signals() {
    let peer = Guest::peer();
    let mut command = Command::new("bash");
    command.args(["-c", "echo \"$MARK of $LAB_SELF\"; read; sleep 1000 & wait"]);
    command.env("MARK", "spoor");
    let program = peer.spawn(&command);
    assert_eq!(
        program.wait_for(|line| line.contains("spoor")),
        "spoor of b"
    );
    assert_eq!(
        program.ended(Duration::ZERO),
        None,
        "it waits for its input"
    );
    program.release();
    let children = format!(
        "until pgrep -P {} -x sleep; do sleep 0.02; done",
        program.pid()
    );
    let sleeper = peer.must(&children);
    program.kill(libc::SIGTERM);
    assert_eq!(program.wait(), -i64::from(libc::SIGTERM));
    // What it started ends too.
    peer.must(&format!(
        "while grep -q sleep /proc/{}/cmdline; do sleep 0.02; done",
        sleeper.trim()
    ));
}

/// Can guest a connect to `address` of guest b within a second or so?
fn connects(address: IpAddr, port: u16) -> bool {
    let at = (address, port).into();
    TcpStream::connect_timeout(&at, Duration::from_millis(1500)).is_ok()
}

/// Can guest a connect to guest b on a wire?
fn reaches(port: u16, wire: u8) -> bool {
    connects(Guest::peer().address(wire).into(), port)
}

/// Waits until `condition` holds.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "it does not come to that: {what}"
        );
    }
}

/// A listener on guest b, for `reaches`.
fn listener(port: u16) -> Remote {
    let mut command = Command::new("python3");
    // Every address of both families.
    command.args(["-m", "http.server", &port.to_string(), "--bind", "::"]);
    let server = Guest::peer().spawn(&command);
    Guest::peer().wait_listening(port);
    server
}

#[test]
fn a_link_goes_down_and_comes_back_with_its_addresses() {
    let port = port();
    let _server = listener(port);
    for guest in BOTH {
        wait_until("reached before", || reaches(port, 0));
        let device = format!(
            "/sys/class/infiniband/{}/ports/1/state",
            net::rdma_device(0)
        );
        let down = net::link_down(guest, 0);
        assert!(!reaches(port, 0), "guest {guest:?}'s link is down");
        wait_until("the other wire is untouched", || reaches(port, 1));
        wait_until("the RDMA port is down", || {
            guest.read(&device).contains("DOWN")
        });
        drop(down);
        wait_until("reached after", || reaches(port, 0));
        let address6 = Guest::peer().address6(0).into();
        wait_until("reached by IPv6", || connects(address6, port));
        wait_until("the RDMA port is up", || {
            guest.read(&device).contains("ACTIVE")
        });
    }
}

#[test]
fn a_wire_loses_what_it_is_told_to_lose() {
    let port = port();
    let _server = listener(port);
    let deaf = net::netem(Guest::peer(), 0, "loss 100%");
    assert!(!reaches(port, 0), "everything from guest b is lost");
    wait_until("the other wire is untouched", || reaches(port, 1));
    drop(deaf);
    wait_until("reached after", || reaches(port, 0));
}

#[test]
fn devices_come_and_go() {
    let list = |guest: Guest| guest.must("rdma link");
    for guest in BOTH {
        let second = net::add_device(guest, 1);
        assert!(list(guest).contains(&net::rdma_device(1)));
        drop(second);
        assert!(!list(guest).contains(&net::rdma_device(1)));
        let removed = net::remove_device(guest, 0);
        assert_eq!(list(guest), "");
        drop(removed);
        assert!(list(guest).contains(&net::rdma_device(0)));
    }
}

/// A power cut: programs are gone, nobody was told, and the wires of the other guest stay.
#[test]
fn guest_b_boots_anew() {
    let peer = Guest::peer();
    peer.must("echo here > /run/mark");
    peer.reboot();
    let mark = peer.run("cat /run/mark");
    assert!(mark.err.contains("No such file"), "another boot: {mark:?}");
    let port = port();
    let _server = listener(port);
    for wire in 0..3 {
        wait_until(&format!("wire {wire}"), || reaches(port, wire));
    }
    assert!(peer.must("rdma link").contains(&net::rdma_device(0)));
}
