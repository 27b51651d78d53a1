//! Configuration: defaults, `/etc/netacc.conf`, environment, flags.
