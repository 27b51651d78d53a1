//! Limits that the program inherits.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// Lets the program lock as much memory as it can be allowed to, for what RDMA devices use is locked: no
/// limit if the privilege for that is there (`CAP_SYS_RESOURCE`), else up to the hard limit. What may not be
/// raised stays, and the program tells itself if it is too little.
pub fn raise_locked_memory() {
    let raise_to = |limit| {
        let both = Rlimit {
            current: limit,
            maximum: limit,
        };
        setrlimit(Resource::Memlock, both).is_ok()
    };
    if !raise_to(None) {
        raise_to(getrlimit(Resource::Memlock).maximum);
    }
}

/// How much memory a program may lock, in bytes; `None`: as much as it likes.
pub fn locked_memory() -> Option<u64> {
    let privileged =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    match privileged {
        true => None,
        false => getrlimit(Resource::Memlock).current,
    }
}
