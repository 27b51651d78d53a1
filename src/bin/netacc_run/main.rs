//! `netacc_run`: starts a program with the preload library.
fn main() {}
