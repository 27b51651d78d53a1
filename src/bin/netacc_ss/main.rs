//! `netacc_ss`: shows what NetACC does in running processes.
fn main() {}
