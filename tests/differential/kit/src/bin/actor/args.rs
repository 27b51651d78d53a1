//! The arguments of a call as C has them.

use crate::world::{Ctx, Res};
use libc::{sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t};
use netacc_differential::constants;
use netacc_differential::lang::Arg;
use netacc_differential::pattern;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A socket address as the kernel wants it, or has written it.
pub struct Raw {
    pub storage: sockaddr_storage,
    pub len: socklen_t,
}

/// Bytes to send, and how many of them are the socket's pattern.
pub struct Data {
    pub bytes: Vec<u8>,
    pub patterned: bool,
}

impl Ctx {
    /// Argument `i`.
    pub fn arg(&self, i: usize) -> Res<&Arg> {
        let arg = self.call.args.get(i);
        arg.ok_or_else(|| format!("'{}' lacks argument {}", self.call, i + 1))
    }

    /// A descriptor: a name or a number.
    pub fn fd_of(&self, arg: &Arg) -> Res<i32> {
        match arg {
            Arg::Int(n) => Ok(*n as i32),
            Arg::Word(name) => self.named(name),
            other => Err(format!("'{other}' is no descriptor")),
        }
    }

    /// Argument `i` as a descriptor.
    pub fn fd(&self, i: usize) -> Res<i32> {
        self.fd_of(self.arg(i)?)
    }

    /// Argument `i` as it is written.
    pub fn word(&self, i: usize) -> Res<String> {
        self.arg(i).map(Arg::to_string)
    }

    /// A number or constants joined by `|`.
    pub fn int_of(&self, arg: &Arg) -> Res<i64> {
        match arg {
            Arg::Int(n) => Ok(*n),
            Arg::Word(words) => words.split('|').try_fold(0, |all, word| {
                let number = word.parse().ok().or_else(|| constants::value(word));
                number
                    .map(|n| all | n)
                    .ok_or_else(|| format!("'{word}' is no constant"))
            }),
            other => Err(format!("'{other}' is no number")),
        }
    }

    /// Argument `i` as a number; `default` if there is none.
    pub fn int_or(&self, i: usize, default: i64) -> Res<i64> {
        match self.call.args.get(i) {
            Some(arg) => self.int_of(arg),
            None => Ok(default),
        }
    }

    /// Argument `i` as a number.
    pub fn int(&self, i: usize) -> Res<i64> {
        self.int_of(self.arg(i)?)
    }

    /// Argument `i` as flags, 0 if there is none.
    pub fn flags(&self, i: usize) -> Res<i32> {
        self.int_or(i, 0).map(|n| n as i32)
    }

    /// A time in nanoseconds: milliseconds, `us(N)`, or `null` for none.
    pub fn time(&self, i: usize) -> Res<Option<i64>> {
        match self.arg(i)? {
            Arg::Word(word) if word == "null" => Ok(None),
            Arg::Call(unit, args) if unit == "us" => {
                Ok(Some(self.int_of(args.first().ok_or("us(N)")?)? * 1_000))
            }
            other => Ok(Some(self.int_of(other)? * 1_000_000)),
        }
    }

    /// Argument `i` as a list.
    pub fn list(&self, i: usize) -> Res<&[Arg]> {
        match self.arg(i)? {
            Arg::List(all) => Ok(all),
            other => Err(format!("'{other}' is no list")),
        }
    }

    /// The items of a list, with `times(N, item)` written out.
    pub fn items(&self, list: &[Arg]) -> Res<Vec<Arg>> {
        let mut all = Vec::new();
        for item in list {
            match item {
                Arg::Call(name, args) if name == "times" => {
                    let [n, item] = args.as_slice() else {
                        return Err("times(N, item)".to_string());
                    };
                    let n = self.int_of(n)? as usize;
                    all.extend(std::iter::repeat_n(item.clone(), n));
                }
                other => all.push(other.clone()),
            }
        }
        Ok(all)
    }

    /// Bytes to send on the socket called `socket`: a string, or `bytes(N)` of its pattern. `before` bytes of
    /// the pattern go out with the same call.
    pub fn data_of(&self, arg: &Arg, socket: &str, before: u64) -> Res<Data> {
        match arg {
            Arg::Text(bytes) => Ok(Data {
                bytes: bytes.clone(),
                patterned: false,
            }),
            Arg::Call(name, args) if name == "bytes" => {
                let n = self.int_of(args.first().ok_or("bytes(N)")?)?;
                Ok(Data {
                    bytes: pattern::bytes(self.sent(socket) + before, n as usize),
                    patterned: true,
                })
            }
            other => Err(format!("'{other}' is no string and not bytes(N)")),
        }
    }

    /// The address that argument `i` stands for, to a socket of `fd`'s family.
    pub fn address(&self, i: usize, fd: i32) -> Res<Raw> {
        let word = self.word(i)?;
        if word == "unspec" {
            return Ok(Raw::unspec());
        }
        let (kind, at) = word.split_once(':').unwrap_or(("", &word));
        let place = self.place(at);
        let port = match (place, at.parse()) {
            (Some(place), _) => place.port,
            (None, Ok(port)) => port,
            _ => {
                return Err(format!(
                    "'{word}' is no address: nothing is known as '{at}'"
                ));
            }
        };
        let here4 = place.map_or(Ipv4Addr::LOCALHOST, |place| place.v4);
        let here6 = place.map_or(Ipv6Addr::LOCALHOST, |place| place.v6);
        if kind == "link" {
            // Where no interface has one, it is as good as any other address.
            let (ip, scope) = link_local().unwrap_or((here6, 0));
            return Ok(Raw::new(ip.into(), port, scope));
        }
        let ip: IpAddr = match kind {
            "" if family(fd) == libc::AF_INET6 => match place {
                Some(place) if place.only_v4 => here4.to_ipv6_mapped().into(),
                _ => here6.into(),
            },
            "" | "inet" => here4.into(),
            "inet6" => here6.into(),
            "mapped" => here4.to_ipv6_mapped().into(),
            "any" => Ipv4Addr::UNSPECIFIED.into(),
            "any6" => Ipv6Addr::UNSPECIFIED.into(),
            "anymapped" => Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(),
            "foreign" => Ipv4Addr::new(192, 0, 2, 1).into(),
            "broadcast" => Ipv4Addr::BROADCAST.into(),
            other => return Err(format!("'{other}' is no kind of address")),
        };
        Ok(Raw::new(ip, port, 0))
    }
}

/// A link-local address of this machine, and the number of its interface.
fn link_local() -> Option<(Ipv6Addr, u32)> {
    let table = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (address, interface) = (words.next()?, words.next()?);
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        let interface = u32::from_str_radix(interface, 16).ok()?;
        address
            .is_unicast_link_local()
            .then_some((address, interface))
    })
}

/// The family of a socket, as the kernel says: nothing is to be asked of what is under test.
fn family(fd: i32) -> i32 {
    if fd < 0 {
        return libc::AF_INET;
    }
    // SAFETY: only for the time of this call; what is no descriptor, the kernel refuses.
    let fd = unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) };
    match rustix::net::sockopt::socket_domain(fd) {
        Ok(rustix::net::AddressFamily::INET6) => libc::AF_INET6,
        _ => libc::AF_INET,
    }
}

impl Raw {
    /// Room for an address.
    pub fn room() -> Raw {
        Raw {
            // SAFETY: plain old data, for which zeroes are valid.
            storage: unsafe { std::mem::zeroed() },
            len: size_of::<sockaddr_storage>() as socklen_t,
        }
    }

    fn unspec() -> Raw {
        let mut raw = Raw::room();
        raw.len = size_of::<sockaddr_in>() as socklen_t;
        raw
    }

    fn new(ip: IpAddr, port: u16, scope: u32) -> Raw {
        let mut raw = Raw::room();
        let at = (&raw mut raw.storage).cast::<u8>();
        match ip {
            IpAddr::V4(ip) => {
                let v4 = sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: port.to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from(ip).to_be(),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: the storage has room for every family and is aligned for it.
                unsafe { at.cast::<sockaddr_in>().write(v4) };
                raw.len = size_of::<sockaddr_in>() as socklen_t;
            }
            IpAddr::V6(ip) => {
                let v6 = sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: port.to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: ip.octets(),
                    },
                    sin6_scope_id: scope,
                };
                // SAFETY: as above.
                unsafe { at.cast::<sockaddr_in6>().write(v6) };
                raw.len = size_of::<sockaddr_in6>() as socklen_t;
            }
        }
        raw
    }

    /// For a call that reads it.
    pub fn as_ptr(&self) -> *const sockaddr {
        (&raw const self.storage).cast()
    }

    /// For a call that writes it.
    pub fn as_mut_ptr(&mut self) -> *mut sockaddr {
        (&raw mut self.storage).cast()
    }

    /// As a trace shows it; the runner replaces the ports by names.
    pub fn show(&self) -> String {
        let at = (&raw const self.storage).cast::<u8>();
        let (text, whole) = match i32::from(self.storage.ss_family) {
            _ if self.len == 0 => return "no address".to_string(),
            libc::AF_INET => {
                // SAFETY: the family says what the storage holds; any bytes are a valid sockaddr_in.
                let v4 = unsafe { at.cast::<sockaddr_in>().read() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                let port = u16::from_be(v4.sin_port);
                (format!("<{ip}:{port}>"), size_of::<sockaddr_in>())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let v6 = unsafe { at.cast::<sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                let scope = match v6.sin6_scope_id {
                    0 => String::new(),
                    scope => format!(" of interface {scope}"),
                };
                (format!("<[{ip}]:{port}>{scope}"), size_of::<sockaddr_in6>())
            }
            family => return format!("an address of family {family}, {} bytes", self.len),
        };
        if self.len as usize == whole {
            text
        } else {
            format!("{text} of length {}", self.len)
        }
    }
}
