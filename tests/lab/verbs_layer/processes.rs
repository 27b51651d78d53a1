//! Other processes: peers that die, children that inherit.

use std::os::fd::AsFd;
use std::process::Command;

use netacc::verbs::Error;
use netacc::verbs::api;
use netacc::verbs::cm::{CmId, EventKind};
use netacc::verbs::device::Device;
use netacc::verbs::qp::{Payload, SendOp, State, Verb};

use super::device::device_descriptors;
use super::ends::{
    ACCEPTOR, CONNECTOR, End, Events, LISTENER, Pair, SecondDevice, address, connect, own_address,
    wait_readable,
};
use crate::event;
use crate::guest::Guest;
use crate::net::{self, Kind};

/// What this program runs again for, as the other end.
const PEER: &str = "NACC_TEST_PEER";

/// Accepts one connection and answers each message with the same.
fn be_the_peer() -> ! {
    let mut events = Events::new();
    let listener = CmId::listen(&events.channel, LISTENER, &own_address(0), 1).unwrap();
    println!("port {}", listener.local_address().unwrap().port());
    let id = events.expect(LISTENER, event!(EventKind::ConnectRequest { id, .. } => id));
    id.set_token(ACCEPTOR);
    let end = End::new(id);
    end.qp.id().accept(&end.invitation()).unwrap();
    loop {
        end.cq.arm(false).unwrap();
        wait_readable(end.cq.as_fd(), "a message");
        end.cq.take_events(u32::MAX).unwrap();
    }
}

#[test]
fn a_killed_peer_shows_as_a_disconnect() {
    if std::env::var_os(PEER).is_some() {
        be_the_peer();
    }
    let this = std::env::current_exe().unwrap();
    for guest in [Guest::local(), Guest::peer()] {
        let mut command = Command::new(&this);
        command
            .arg("--exact")
            .arg("verbs_layer::processes::a_killed_peer_shows_as_a_disconnect")
            .arg("--nocapture")
            .env(PEER, "1")
            .env("LAB_SELF", format!("{guest:?}").to_lowercase())
            .env("LAB_DEVICE", Kind::of_this_run().name());
        let peer = guest.spawn(&command);
        let line = peer.wait_for(|line| line.contains("port "));
        let port = line.rsplit(' ').next().unwrap().parse().unwrap();

        let mut events = Events::new();
        let there = address((guest.address(0), port));
        let end = connect(&mut events, &there, End::invitation).unwrap();
        events.expect(CONNECTOR, event!(EventKind::Established { .. } => ()));
        peer.kill(libc::SIGKILL);
        events.disconnected(CONNECTOR);
        println!("{guest:?}: {:?}", end.qp.state().unwrap());
        // What is posted is flushed now at the latest.
        let _ = end.qp.id().disconnect();
        for _ in 0..super::ends::RECEIVES {
            assert!(end.completion().failure().is_some_and(|f| f.is_flush()));
        }
        assert_ne!(end.qp.state().unwrap(), State::Ready);
    }
}

/// The bytes of a message, to the other end and seen there.
pub fn exchange(pair: &Pair, payload: &[u8]) {
    let op = SendOp {
        wr_id: 1,
        verb: Verb::Send,
        payload: Payload::Bytes(payload),
        signaled: true,
        solicited: false,
    };
    pair.connector.qp.post(&[op]).unwrap();
    pair.connector.success();
    assert_eq!(pair.acceptor.success().len() as usize, payload.len());
}

#[test]
fn a_forked_child_leaves_everything_alone() {
    let pair = Pair::connect();
    exchange(&pair, b"before");
    let held = device_descriptors();
    assert!(!held.is_empty());
    // SAFETY: the child calls nothing that another thread could hold a lock of, and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let forked = matches!(api::open(), Err(Error::Forked));
        // SAFETY: any number may be asked for.
        let is_open = |fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
        let closed = !held.iter().any(|(fd, _)| is_open(*fd));
        drop(pair);
        // SAFETY: ends the child without running the test program's own exit.
        unsafe { libc::_exit(if forked && closed { 7 } else { 8 }) };
    }
    let mut status = 0;
    // SAFETY: our own child, and room for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "{status:x}");
    assert_eq!(libc::WEXITSTATUS(status), 7);
    exchange(&pair, b"after");
    let next = Pair::connect();
    exchange(&next, b"and anew");
}

#[test]
fn a_device_that_goes_away_is_noticed_and_comes_back() {
    let added = SecondDevice::add();
    let pair = Pair::connect_at(&added.address());
    exchange(&pair, b"while it is there");
    let (device, removal) = added.begin_removal();
    assert!(std::sync::Arc::ptr_eq(&device, pair.connector.qp.device()));
    drop(device);
    // The removal waits for this; then the ids that are left are told.
    let Pair {
        connector,
        acceptor,
        listener,
        mut events,
        ..
    } = pair;
    drop((connector, acceptor));
    events.expect(LISTENER, event!(EventKind::DeviceRemoval => ()));
    drop(listener);
    removal.success();

    let added = SecondDevice::add();
    let pair = Pair::connect_at(&added.address());
    exchange(&pair, b"again");
    let device = pair.connector.qp.device();
    assert_eq!(device.attributes().name, net::rdma_device(1));
    // Given up for another reason, it goes on under a new object.
    device.retire();
    let new = Device::of(pair.connector.qp.id()).unwrap();
    assert!(!std::sync::Arc::ptr_eq(&new, device));
    exchange(&pair, b"still");
    drop((new, pair));
    added.remove();
}
