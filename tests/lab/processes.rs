//! Programs that fork while they have queue pairs.

use crate::carried::{assert_carried, redis_client, redis_server};
use crate::common::{With, command, library};
use crate::guest::{Guest, port};
use crate::steps::{Server, Way, counted};

/// The parent's connections go on while the child lives and after its end: what is copied when either writes is never
/// what a device writes to. The child has none of them, and connects by TCP.
#[test]
fn a_program_forks_and_talks_on() {
    let (here, there) = (Guest::local(), Guest::peer());
    let server = Server::start(there, &Way::default());
    let words =
        "open 10.5.0.2 2 open fd05::2 1 talk 300000 fork 300000 open 10.5.0.2 1 talk 300000";
    let client = server.client(here, &Way::default(), words);
    counted(
        &client.program,
        &[
            ("connected_rdma", 4),
            ("carriers_lost", 0),
            ("links_opened", 2),
        ],
    );
    counted(
        &server.program,
        &[("accepted_rdma", 4), ("accepted_tcp", 1)],
    );
    counted(&client.program, &[("handed_back", 0)]);
    client.finish();
}

/// A child that uses what it has inherited gets it from the queue pair to the kernel, and its parent goes on there.
#[test]
fn a_child_uses_what_it_inherits() {
    let (here, there) = (Guest::local(), Guest::peer());
    let server = Server::start(there, &Way::default());
    let words = "open 10.5.0.2 4 talk 100000 heir 100000 talk 100000";
    let client = server.client(here, &Way::default(), words);
    let expected = [("connected_rdma", 4), ("handed_back", 4)];
    counted(&client.program, &expected);
    counted(&server.program, &[("accepted_rdma", 4), ("handed_back", 4)]);
    client.finish();
}

/// Connections are handed back while both sides send at full rate.
#[test]
fn streams_are_handed_back() {
    let (here, there, port) = (Guest::local(), Guest::peer(), port());
    let script = format!("{}/tests/programs/hand_back.py", env!("CARGO_MANIFEST_DIR"));
    let start = |guest: Guest, side: &str| {
        let mut command = command("python3", With::Library);
        command.args([&script, side, &port.to_string(), "10.5.0.2", "300000"]);
        guest.spawn(&command)
    };
    let server = start(there, "serve");
    server.wait_for(|line| line == "ready");
    let client = start(here, "connect");
    for program in [&client, &server] {
        program.wait_for(|line| line == "over");
        let whole = program
            .output()
            .lines()
            .filter(|line| line.ends_with(" whole"))
            .count();
        assert_eq!(whole, 24, "{}", program.output());
        counted(program, &[("handed_back", 18)]);
    }
}

/// redis forks a child that writes everything down, and goes on serving meanwhile.
#[test]
fn redis_saves_in_the_background() {
    let (here, there, port) = (Guest::local(), Guest::peer(), port());
    let server = redis_server(there, port, With::Library);
    let cli = |words: &[&str]| {
        let mut cli = redis_client("redis-cli", there, port, With::Library);
        cli.args(words);
        here.spawn(&cli).success()
    };
    let mut load = redis_client("redis-benchmark", there, port, With::Library);
    load.args("-c 20 -n 4000 -d 2000 -r 1000 --csv -t set,get".split_whitespace());
    let load = here.spawn(&load);
    let save =
        "until redis-cli --raw -h 10.5.0.2 -p PORT bgsave | grep -q started; do sleep 0.02; done";
    for _ in 0..3 {
        there.must(&save.replace("PORT", &port.to_string()));
    }
    load.success();
    let done = "until redis-cli -h 10.5.0.2 -p PORT info persistence | grep -q rdb_bgsave_in_progress:0; do sleep 0.02; done; \
        redis-cli -h 10.5.0.2 -p PORT info persistence";
    let info = there.must(&done.replace("PORT", &port.to_string()));
    for line in ["rdb_last_bgsave_status:ok", "rdb_saves:3"] {
        assert!(info.contains(line), "{info}");
    }
    let stats = cli(&["info", "commandstats"]);
    for name in ["cmdstat_set:calls=4000,", "cmdstat_get:calls=4000,"] {
        assert!(stats.contains(name), "{stats}");
    }
    assert_carried(&server, "accepted", 40);
    // One for each of the two programs that have spoken to it.
    counted(&server, &[("links_opened", 2)]);
    // What was saved is whole.
    let place = cli(&["--raw", "config", "get", "dir"]);
    let dir = place.lines().nth(1).expect("a directory");
    there.must(&format!(
        "cd {dir} && redis-check-rdb dump.rdb && rm dump.rdb"
    ));
}

/// The workers alone accept: each has queue pairs of its own, and takes what the kernel gives it.
#[test]
fn workers_that_are_forked_before_they_accept() {
    let (here, there) = (Guest::local(), Guest::peer());
    let server = Server::start_with(there, &Way::default(), &["--workers", "2"]);
    let client = server.client(here, &Way::default(), "open 10.5.0.2 8 talk 300000");
    counted(
        &client.program,
        &[("connected_rdma", 8), ("connected_tcp", 0)],
    );
    assert_eq!(server.accepted().len(), 8);
    client.finish();
}

/// Conversations whose ends go from process to process, and processes that are killed, over queue pairs of one device; it
/// is looked at every byte, and at what the processes hold.
#[test]
fn connections_go_from_process_to_process_in_chaos() {
    let here = Guest::local();
    let mut chaos = command("python3", With::Kernel);
    chaos.env("NACC_FABRICS", "verbs").arg("-B");
    chaos.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/chaos.py"));
    chaos.arg("--bin").arg(library().with_file_name(""));
    chaos.arg("--host").arg(here.address(0).to_string());
    chaos.args("--seconds 12 --clients 2 --workers 2".split_whitespace());
    let said = here.spawn(&chaos).success();
    assert!(
        said.contains("connected_rdma") && said.contains(" 0 wrong"),
        "{said}"
    );
}
