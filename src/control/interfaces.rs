//! The addresses of this host, by interface.

use crate::socket::addr::Address;

/// All addresses that can be connected to from elsewhere, each with its interface's name.
fn all() -> Vec<(Vec<u8>, Address)> {
    let mut found = Vec::new();
    let mut list = core::ptr::null_mut();
    // SAFETY: a place for the list.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return found;
    }
    let mut next = list;
    // SAFETY: a list that getifaddrs made, up to its end.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        if entry.ifa_addr.is_null() || entry.ifa_flags & libc::IFF_LOOPBACK as u32 != 0 {
            continue;
        }
        // SAFETY: an address of its family's size, as getifaddrs gives it, and a string.
        let (address, name) = unsafe {
            let len = match i32::from((*entry.ifa_addr).sa_family) {
                libc::AF_INET => size_of::<libc::sockaddr_in>(),
                libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
                _ => continue,
            };
            (
                Address::read(entry.ifa_addr, len as libc::socklen_t),
                core::ffi::CStr::from_ptr(entry.ifa_name),
            )
        };
        if let Some(address) = address
            && !is_link_local(&address)
        {
            found.push((name.to_bytes().to_vec(), address));
        }
    }
    // SAFETY: the list that getifaddrs made.
    unsafe { libc::freeifaddrs(list) };
    found
}

/// Means something together with an interface only, which a peer cannot know.
fn is_link_local(address: &Address) -> bool {
    let (ip, _, v6) = address.canonical();
    v6 && ip[0] == 0xfe && ip[1] & 0xc0 == 0x80
}

fn names_of(all: &[(Vec<u8>, Address)], address: &Address) -> Vec<Vec<u8>> {
    let key = address.canonical().0;
    let same = all.iter().filter(|(_, a)| a.canonical().0 == key);
    same.map(|(name, _)| name.clone()).collect()
}

/// The other addresses of the interface that has `address`, IPv4 first: there are devices whose connection
/// manager knows nothing else.
pub fn beside(address: &Address) -> Vec<Address> {
    let all = all();
    let names = names_of(&all, address);
    let mut found: Vec<Address> = all
        .iter()
        .filter(|(name, a)| names.contains(name) && a.canonical().0 != address.canonical().0)
        .map(|(_, a)| *a)
        .collect();
    found.sort_by_key(|a| a.canonical().2);
    found
}

/// The addresses of the other interfaces, IPv4 first.
pub fn others(address: &Address) -> Vec<Address> {
    let all = all();
    let names = names_of(&all, address);
    let mut found: Vec<Address> = all
        .iter()
        .filter(|(name, _)| !names.contains(name))
        .map(|(_, a)| *a)
        .collect();
    found.sort_by_key(|a| a.canonical().2);
    found
}
