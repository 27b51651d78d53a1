//! Connections: made, refused, ended.

use netacc::real::sys::Errno;
use netacc::verbs::Error;
use netacc::verbs::cm::{CmId, EventKind, PRIVATE_DATA};
use netacc::verbs::qp::State;

use super::ends::{
    ACCEPTOR, CONNECTOR, End, Events, LISTENER, Pair, address, connect, own_address,
};
use crate::event;
use crate::guest::Guest;

#[test]
fn private_data_goes_both_ways() {
    let pair = Pair::connect();
    assert_eq!(pair.back, pair.connector.invitation());
    assert_eq!(pair.there, pair.acceptor.invitation());
    for end in [&pair.connector, &pair.acceptor] {
        assert_eq!(end.qp.state().unwrap(), State::Ready);
        assert!(end.qp.send_depth() >= 64 && end.qp.recv_depth() >= 64);
    }
    let (from, to) = (pair.connector.qp.id(), pair.acceptor.qp.id());
    let there = to.local_address().unwrap().to_std();
    assert_eq!(from.peer_address().unwrap().to_std(), there);
    assert_eq!(there, pair.listener.local_address().unwrap().to_std());
}

#[test]
fn ipv6_addresses_connect() {
    let at = address((Guest::local().address6(0), 0));
    let pair = Pair::connect_at(&at);
    let peer = pair.connector.qp.id().peer_address().unwrap();
    assert_eq!(peer.to_std().ip(), Guest::local().address6(0));
}

/// Listens and connects, up to the request.
fn request(events: &mut Events, data: &[u8]) -> (CmId, End, CmId, Vec<u8>) {
    let listener = CmId::listen(&events.channel, LISTENER, &own_address(0), 8).unwrap();
    let port = listener.local_address().unwrap().port();
    let connector = connect(events, &own_address(port), |_| data.to_vec()).unwrap();
    let (id, heard) = events.expect(
        LISTENER,
        event!(EventKind::ConnectRequest { id, data } => (id, data)),
    );
    (listener, connector, id, heard.unwrap().to_vec())
}

#[test]
fn as_much_private_data_as_fits() {
    let most: Vec<u8> = (0..PRIVATE_DATA as u8).collect();
    for data in [&[][..], &[7], &most] {
        let mut events = Events::new();
        let (_listener, connector, id, heard) = request(&mut events, data);
        assert_eq!(heard, data);
        id.set_token(ACCEPTOR);
        let acceptor = End::new(id);
        acceptor.qp.id().accept(data).unwrap();
        let heard = events.expect(CONNECTOR, event!(EventKind::Established { data } => data));
        assert_eq!(heard.unwrap()[..], *data);
        drop(connector);
    }
    let mut events = Events::new();
    let (_listener, connector, id, _) = request(&mut events, &[]);
    let error = connector.qp.id().connect(&[0; PRIVATE_DATA + 1]);
    assert_eq!(error, Err(Error::PrivateData(PRIVATE_DATA + 1)));
    assert!(id.accept(&[]).is_err(), "without a queue pair");
}

#[test]
fn a_refusal_says_why() {
    let mut events = Events::new();
    let (_listener, connector, id, _) = request(&mut events, b"please");
    id.reject(b"no room").unwrap();
    let (status, data) = events.expect(
        CONNECTOR,
        event!(EventKind::Rejected { status, data } => (status, data)),
    );
    println!("status {status}");
    assert_eq!(data.unwrap()[..], *b"no room");
    assert_eq!(connector.qp.state().unwrap(), State::Error);
}

#[test]
fn a_request_that_is_dropped_is_refused() {
    let mut events = Events::new();
    let (_listener, _connector, id, _) = request(&mut events, &[]);
    drop(id);
    events.expect(CONNECTOR, event!(EventKind::Rejected { .. } => ()));
}

#[test]
fn nobody_listens() {
    let mut events = Events::new();
    for here in [Guest::local(), Guest::peer()] {
        let nobody = address((here.address(0), 7));
        let _connector = match connect(&mut events, &nobody, |_| Vec::new()) {
            Ok(connector) => connector,
            Err(error) => {
                // siw finds out at once.
                assert_eq!(error.errno(), Some(Errno::CONNREFUSED));
                continue;
            }
        };
        let status = events.expect(
            CONNECTOR,
            event!(EventKind::Rejected { status, .. } => status),
        );
        println!("{here:?}: {status}");
    }
}

#[test]
fn an_address_beyond_the_device_is_an_error() {
    let mut events = Events::new();
    let id = CmId::create(&events.channel, CONNECTOR).unwrap();
    assert!(id.resolve_route(1000).is_err(), "too early");
    assert!(id.disconnect().is_err(), "too early");
    // The control wire has no RDMA device.
    let beyond = address((Guest::peer().address(2), 7));
    match id.resolve_address(None, &beyond, 2000) {
        Err(error) => println!("{error}"),
        Ok(()) => {
            let errno = events.expect(CONNECTOR, event!(EventKind::AddressError(errno) => errno));
            println!("{errno:?}");
        }
    }
    let error = CmId::listen(
        &events.channel,
        LISTENER,
        &address((Guest::local().address(2), 0)),
        8,
    );
    println!("{}", error.expect_err("no device there"));
}

#[test]
fn a_disconnect_reaches_both_ends() {
    let mut pair = Pair::connect();
    pair.connector.qp.id().disconnect().unwrap();
    pair.events.disconnected(ACCEPTOR);
    pair.acceptor.qp.id().disconnect().unwrap();
    pair.events.disconnected(CONNECTOR);
    for end in [&pair.connector, &pair.acceptor] {
        let mut flushed = 0;
        while flushed < super::ends::RECEIVES {
            let completion = end.completion();
            assert!(
                completion.failure().is_some_and(|f| f.is_flush()),
                "{completion:?}"
            );
            flushed += 1;
        }
    }
}

#[test]
fn ends_may_be_dropped_in_any_order() {
    let pair = Pair::connect();
    let Pair {
        connector,
        acceptor,
        listener,
        events,
        ..
    } = pair;
    drop(listener);
    drop(events);
    drop(acceptor);
    drop(connector);
    let End { qp, cq, memory, .. } = Pair::connect().connector;
    drop(memory);
    drop(cq);
    let id = qp.id().clone();
    drop(qp);
    drop(id);
}
