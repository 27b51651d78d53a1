//! Who listens on this host, and whose side port somebody else has.

use std::collections::BTreeSet;

use netacc::stats::ConnState;
use netacc::stats::reader::{Store, kernel};

/// Ports at which somebody listens, in the text of `/proc/net/tcp` or `/proc/net/tcp6`.
pub fn listening(table: &str) -> BTreeSet<u16> {
    kernel::lines(table)
        .filter(|line| line.state == "LISTEN")
        .map(|line| line.local.port())
        .collect()
}

/// Of these ports those whose side port is among them, too, and is not one of NetACC's as far as we may look.
pub fn taken(listening: &BTreeSet<u16>, ours: &BTreeSet<u16>, offset: u16) -> Vec<(u16, u16)> {
    let side = |port: &u16| Some((*port, port.checked_add(offset)?));
    listening
        .iter()
        .filter(|port| !ours.contains(port))
        .filter_map(side)
        .filter(|(_, side)| listening.contains(side))
        .collect()
}

/// Ports at which somebody listens on this host.
pub fn of_this_host() -> BTreeSet<u16> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    tables
        .into_iter()
        .flat_map(|path| listening(&read(path)))
        .collect()
}

/// Ports at which processes with NetACC listen, of those that we may look at.
pub fn of_netacc() -> BTreeSet<u16> {
    let pages = Store::default().pages();
    let conns = pages.into_iter().flatten().flat_map(|page| page.conns);
    conns
        .filter(|conn| conn.state == Some(ConnState::Listening))
        .filter_map(|conn| Some(conn.local?.port()))
        .collect()
}

/// The range from which the kernel takes ports for outgoing connections.
pub fn outgoing() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n\
        0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n\
        1: 00000000000000000000000001000000:670B 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1\n\
        2: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1 1\n\
        3: nonsense\n";

    #[test]
    fn listeners_are_found() {
        assert_eq!(listening(TABLE), BTreeSet::from([6379, 26379]));
        assert!(listening("").is_empty());
    }

    #[test]
    fn side_ports_of_others_are_told() {
        let ports = BTreeSet::from([80, 6379, 26379, 7000, 27000, 60000]);
        let ours = BTreeSet::from([7000]);
        assert_eq!(taken(&ports, &ours, 20_000), [(6379, 26379)]);
        assert_eq!(taken(&ports, &BTreeSet::new(), 6920), [(80, 7000)]);
    }
}
