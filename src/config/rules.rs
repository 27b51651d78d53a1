//! Rules for connections: which peers and ports are accelerated, and which are left to the kernel.

use core::net::IpAddr;
use std::fmt;

use super::Config;

/// An entry of `NACC_PEERS` or `NACC_PEERS_EXCEPT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Addresses of the other host whose first so many bits are these; `None`: all.
    network: Option<(IpAddr, u8)>,
    /// Ports that servers listen on, the first and the last; `None`: all.
    ports: Option<(u16, u16)>,
}

impl Rule {
    fn parse(text: &str) -> Result<Rule, String> {
        let refuse = |why: &str| Err(format!("names \"{text}\", {why}"));
        let (host, ports) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, behind)) => match behind.strip_prefix(':') {
                    Some(ports) => (host, Some(ports)),
                    None => return refuse("where only a colon and a port may follow the ]"),
                },
                None => return refuse("which has a [ and no ]"),
            },
            // More than one colon: IPv6 without a port.
            None => match text.split_once(':') {
                Some((_, behind)) if behind.contains(':') => (text, None),
                Some((host, ports)) => (host, Some(ports)),
                None => (text, None),
            },
        };
        let network = match host {
            "" if ports.is_some() && !text.starts_with('[') => None,
            host => match network(host) {
                Some(network) => Some(network),
                None if host.bytes().all(|b| b.is_ascii_digit()) && !host.is_empty() => {
                    return refuse("which is no address; a port begins with a colon");
                }
                None => return refuse("which is no address, network or port"),
            },
        };
        let ports = match ports.map(range) {
            None => None,
            Some(Some(ports)) => Some(ports),
            Some(None) => return refuse("whose port is none from 1 to 65535"),
        };
        Ok(Rule { network, ports })
    }

    fn has_port(&self, port: u16) -> bool {
        self.ports
            .is_none_or(|(first, last)| (first..=last).contains(&port))
    }

    fn is_for(&self, peer: IpAddr, port: u16) -> bool {
        let within = |(network, bits): (IpAddr, u8)| masked(peer, bits) == Some(network);
        self.has_port(port) && self.network.is_none_or(within)
    }
}

/// `address` with all but its first `bits` bits cleared; `None` if it has not so many.
fn masked(address: IpAddr, bits: u8) -> Option<IpAddr> {
    let kept = |width: u8| width.checked_sub(bits).map(u32::from);
    Some(match address {
        IpAddr::V4(ip) => {
            IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(kept(32)?).unwrap_or(0)).into())
        }
        IpAddr::V6(ip) => {
            IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(kept(128)?).unwrap_or(0)).into())
        }
    })
}

/// A network such as 10.0.0.0/8; a plain address is one of its own. Bits behind its prefix do not count, and an IPv4
/// address in IPv6's form is an IPv4 address.
fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        None => (text, None),
        Some((address, bits)) => {
            // A sign or a leading zero is a slip of the pen.
            let clean = bits == "0" || !bits.starts_with(['+', '0']);
            (address, Some(bits.parse::<u8>().ok().filter(|_| clean)?))
        }
    };
    let address: IpAddr = address.parse().ok()?;
    let plain = address.to_canonical();
    let (all, hidden) = match (address, plain) {
        (IpAddr::V6(_), IpAddr::V4(_)) => (32, 96),
        (_, IpAddr::V4(_)) => (32, 0),
        (_, IpAddr::V6(_)) => (128, 0),
    };
    let bits = match bits {
        None => all,
        Some(bits) => bits.checked_sub(hidden)?,
    };
    masked(plain, bits).map(|network| (network, bits))
}

/// Ports such as 80 or 7000-7999.
fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((network, bits)) = self.network {
            let all = if network.is_ipv4() { 32 } else { 128 };
            let brackets = network.is_ipv6() && self.ports.is_some();
            let (open, close) = if brackets { ("[", "]") } else { ("", "") };
            write!(f, "{open}{network}")?;
            if bits != all {
                write!(f, "/{bits}")?;
            }
            f.write_str(close)?;
        }
        match self.ports {
            None => Ok(()),
            Some((first, last)) if first == last => write!(f, ":{first}"),
            Some((first, last)) => write!(f, ":{first}-{last}"),
        }
    }
}

/// The rules that a list holds; the error continues a sentence that starts with the key's name.
pub(super) fn parse(items: &[&str]) -> Result<Vec<Rule>, String> {
    items.iter().map(|item| Rule::parse(item)).collect()
}

/// A list of rules as it can be written.
pub(super) fn show(rules: &[Rule]) -> String {
    let rules: Vec<_> = rules.iter().map(Rule::to_string).collect();
    rules.join(",")
}

impl Config {
    /// Whether a connection with `peer` is to be accelerated, if it is to (or from) a server that listens on `port`.
    pub fn accelerates(&self, peer: IpAddr, port: u16) -> bool {
        if self.peers.is_empty() && self.peers_except.is_empty() {
            return true;
        }
        let peer = peer.to_canonical();
        let named = |rules: &[Rule]| rules.iter().any(|rule| rule.is_for(peer, port));
        (self.peers.is_empty() || named(&self.peers)) && !named(&self.peers_except)
    }

    /// Whether anybody's connection to a server of this program that listens on `port` can be accelerated.
    pub fn accelerates_port(&self, port: u16) -> bool {
        let some = |rule: &Rule| rule.has_port(port);
        let all = |rule: &Rule| rule.network.is_none() && rule.has_port(port);
        (self.peers.is_empty() || self.peers.iter().any(some)) && !self.peers_except.iter().any(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(peers: &str, except: &str) -> Config {
        let rules = |text: &str| {
            let items: Vec<&str> = super::super::value::items(text).collect();
            parse(&items).unwrap()
        };
        Config {
            peers: rules(peers),
            peers_except: rules(except),
            ..Config::default()
        }
    }

    fn is_accelerated(config: &Config, peer: &str, port: u16) -> bool {
        config.accelerates(peer.parse().unwrap(), port)
    }

    #[test]
    fn rules_are_read_and_shown() {
        let cases = [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/32:6379", "10.1.2.3:6379"),
            ("192.168.0.0/16:7000-7999", "192.168.0.0/16:7000-7999"),
            (":6379", ":6379"),
            (":1-65535", ":1-65535"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1"),
            ("::/0", "::/0"),
            ("[fd00::1]", "fd00::1"),
            ("[fd00::1/64]:80", "[fd00::/64]:80"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ];
        for (text, shown) in cases {
            let rule = Rule::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(rule.to_string(), shown);
            assert_eq!(Rule::parse(shown), Ok(rule), "{shown}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        let bad = [
            "",
            ":",
            ":0",
            ":65536",
            ":80-",
            ":90-80",
            ":+80",
            "6379",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0",
            "host:80",
            "fd00::/129",
            "[fd00::1",
            "[fd00::1]80",
            "[]:80",
            "::ffff:10.0.0.1/8",
            "10.0.0.1:80:90",
        ];
        for text in bad {
            assert!(Rule::parse(text).is_err(), "{text}");
        }
        assert!(
            Rule::parse("6379")
                .unwrap_err()
                .contains("begins with a colon")
        );
    }

    #[test]
    fn without_rules_everything_is_accelerated() {
        let config = Config::default();
        assert!(is_accelerated(&config, "10.0.0.1", 1) && config.accelerates_port(1));
    }

    #[test]
    fn only_what_is_named_and_not_excepted() {
        let config = config(
            "10.0.0.0/8, [fd00::/8]:80-90, :6379",
            "10.9.0.0/16, 10.1.1.1:22",
        );
        for (peer, port, expected) in [
            ("10.1.2.3", 80, true),
            ("::ffff:10.1.2.3", 80, true),
            ("11.1.2.3", 80, false),
            ("11.1.2.3", 6379, true),
            ("10.9.2.3", 80, false),
            ("10.9.2.3", 6379, false),
            ("10.1.1.1", 22, false),
            ("10.1.1.1", 23, true),
            ("fd00::1", 85, true),
            ("fd00::1", 91, false),
            ("fe80::1", 85, false),
        ] {
            assert_eq!(
                is_accelerated(&config, peer, port),
                expected,
                "{peer} {port}"
            );
        }
        // Somebody may come from 10.0.0.0/8 to any port.
        assert!(config.accelerates_port(1));
    }

    #[test]
    fn an_ipv6_network_holds_no_ipv4_address() {
        let config = config("::/0", "");
        assert!(is_accelerated(&config, "2001:db8::1", 80));
        assert!(!is_accelerated(&config, "10.0.0.1", 80));
        assert!(!is_accelerated(&config, "::ffff:10.0.0.1", 80));
    }

    #[test]
    fn ports_that_nobody_can_be_accelerated_at() {
        let only = config(":6379, 10.0.0.0/8:80", "");
        assert!(only.accelerates_port(6379) && only.accelerates_port(80));
        assert!(!only.accelerates_port(81));
        let except = config("", ":22, 10.0.0.0/8:80");
        assert!(!except.accelerates_port(22));
        assert!(
            except.accelerates_port(80),
            "others than those of 10.0.0.0/8"
        );
    }
}
