//! What strangers, port scanners, other services' clients and peers that lie can do to an application with the library: nothing
//! that lasts. In each test an honest client's stream goes on meanwhile, and every byte of it is checked.

#[path = "../common/mod.rs"]
mod common;
mod crowds;
mod lies;
mod peer;
mod records;
mod servers;
mod users;
mod victim;
