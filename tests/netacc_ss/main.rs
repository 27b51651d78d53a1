//! The tool `netacc_ss`, run against processes that count.

#[path = "../common/mod.rs"]
mod common;
mod formats;
#[path = "../page_process/mod.rs"]
mod page_process;
mod processes;
mod real;
mod served;
mod views;
mod watch;

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use assert_cmd::Command;
use netacc::stats::{
    self, ConnState, ConnStats, DeviceStats, Fabric, LinkState, LinkStats, Mode, Reason, add, bump,
};

fn netacc_ss(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netacc_ss"));
    command.args(args);
    command
}

/// Runs the tool successfully and returns what it prints.
fn output(args: &[&str]) -> String {
    let assert = netacc_ss(args).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// The same of all processes: some of other tests may not be readable.
fn output_of_all(args: &[&str]) -> String {
    let assert = netacc_ss(args).assert();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// Runs the tool, which must fail with `code`, and returns its complaint.
fn complaint(command: &mut Command, code: i32) -> String {
    let assert = command.assert().code(code).stdout("");
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

/// The counters of a process as scripts read them.
fn counters(pid: u32) -> HashMap<String, u64> {
    output(&["--counters", "-p", &pid.to_string()])
        .lines()
        .map(|line| {
            let (name, value) = line.split_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// A process with something of everything: links by shared memory and by a queue pair, connections by these and by the
/// kernel, a listener.
fn serve() {
    stats::init();
    stats::set_config(
        "NACC_FABRICS\tloop,shm,verbs\tdefault\nNACC_SPIN_US\t20\tenvironment\nNACC_LOG_FILE\t\tdefault\n",
    );
    let global = stats::global();
    add(global.accepted(Mode::Shm), 1);
    add(global.connected(Mode::Rdma), 1);
    add(global.connected(Mode::Tcp), 1);
    add(global.fallback(Reason::SidePortTimeout), 1);
    add(&global.handed_back, 2);
    add(&global.carriers_lost, 1);
    add(&global.carriers_resumed, 1);
    let device = DeviceStats::named("rocep1s0");
    for (here, all, n) in [
        (&device.mrs_now, &global.mrs_now, 2),
        (&device.mr_bytes_now, &global.mr_bytes_now, 49_152),
        (&device.mr_bytes_used, &global.mr_bytes_used, 40_000),
        (&device.qps_now, &global.qps_now, 1),
    ] {
        add(here, n);
        add(all, n);
    }

    let near = LinkStats::claim();
    near.set_state(LinkState::Up);
    near.fabric.store(Fabric::Shm as u32, Relaxed);
    near.ring_size.store(1 << 20, Relaxed);
    near.rx_ring_size.store(1 << 20, Relaxed);
    bump(&near.rx_records, 3);
    bump(&near.rx_bytes, 4321);
    bump(&near.spilled_bytes, 2048);
    let far = LinkStats::claim();
    far.set_state(LinkState::Up);
    far.fabric.store(Fabric::Verbs as u32, Relaxed);
    far.peer_pid.store(77, Relaxed);
    far.conns_now.store(1, Relaxed);
    far.conns_total.store(2, Relaxed);
    far.ring_size.store(16 << 10, Relaxed);
    far.rx_ring_size.store(64 << 10, Relaxed);
    far.set_carrier(17, device.index());
    far.set_carrier(18, device.index());
    for (counter, n) in [
        (&far.tx_records, 100),
        (&far.tx_bytes, 51_200),
        (&far.tx_batches, 40),
        (&far.work_requests, 8),
        (&far.doorbells, 5),
        (&far.stalls, 1),
    ] {
        bump(counter, n);
    }

    let server = ConnStats::claim(8);
    server.set_addresses(
        "127.0.0.1:6379".parse().unwrap(),
        "127.0.0.1:50000".parse().unwrap(),
    );
    server.set_mode(Mode::Shm, Reason::None);
    server.set_state(ConnState::Established);
    server.set_link(Some(near));
    bump(&server.rx_bytes, 4321);
    bump(&server.rx_msgs, 3);
    server.show_queues(100, 0);
    let client = ConnStats::claim(9);
    client.set_addresses(
        "10.0.0.1:50002".parse().unwrap(),
        "10.0.0.2:6379".parse().unwrap(),
    );
    client.set_mode(Mode::Rdma, Reason::None);
    client.set_state(ConnState::Established);
    client.set_link(Some(far));
    bump(&client.tx_bytes, 51_200);
    bump(&client.tx_msgs, 100);
    bump(&client.window_stalls, 2);
    bump(&client.ring_stalls, 1);
    client.show_queues(0, 50_000);
    let left = ConnStats::claim(10);
    left.set_addresses(
        "[::1]:50001".parse().unwrap(),
        "[::1]:5432".parse().unwrap(),
    );
    left.set_mode(Mode::Tcp, Reason::SidePortTimeout);
    left.set_state(ConnState::Tcp);
    let listener = ConnStats::claim(3);
    listener.set_addresses(
        "0.0.0.0:6379".parse().unwrap(),
        "0.0.0.0:0".parse().unwrap(),
    );
    listener.set_state(ConnState::Listening);
}
