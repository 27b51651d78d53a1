//! Limits that the program inherits.

/// Lets the program lock as much memory as it can be allowed to, for what RDMA devices use is locked: no
/// limit if the privilege for that is there (`CAP_SYS_RESOURCE`), else up to the hard limit. What may not be
/// raised stays, and the program tells itself if it is too little.
pub fn raise_locked_memory() {
    let raise_to = |limit| {
        let both = libc::rlimit {
            rlim_cur: limit,
            rlim_max: limit,
        };
        // SAFETY: a valid rlimit to read.
        unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &both) == 0 }
    };
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid rlimit to fill in.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut now) == 0 };
    if !raise_to(libc::RLIM_INFINITY) && known {
        raise_to(now.rlim_max);
    }
}
