//! Tests between two machines with RDMA devices: the guests of `make rdma-lab` (docs/rdma-lab.md).
//!
//! This program runs in guest a, once with rxe devices and once with siw, one test after the other. To
//! add a test is to add a function.

#[path = "../common/mod.rs"]
mod common;

mod applications;
mod carried;
mod differential;
#[cfg(feature = "lab_failures")]
mod failures;
mod fast;
#[cfg(feature = "lab_failures")]
mod faults;
#[cfg(feature = "lab_failures")]
mod gigabyte;
mod guest;
mod machines;
mod net;
mod processes;
mod routes;
mod sharing;
mod steps;
#[cfg(feature = "lab_failures")]
mod transfer;
mod verbs;
mod verbs_layer;
