//! An ordinary TCP program in many roles. It uses libc and std only and knows nothing of NetACC: the
//! tests run it over kernel TCP and with the preload library, and compare.

mod args;
mod kill;
mod oracle;
mod parting;
mod pattern;
mod speed;
mod steps;
mod stream;
mod sys;
mod verdict;

fn main() {
    let mut words = std::env::args().skip(1);
    let role = words.next().unwrap_or_default();
    let args = args::Args::parse(words);
    verdict::watchdog(args.number("deadline", 110));
    match role.as_str() {
        "stream-server" => stream::server(&args),
        "stream-client" => stream::client(&args),
        "selftalk" => stream::selftalk(&args),
        "kill-server" => kill::server(&args),
        "kill-client" => kill::client(&args),
        "parting-receiver" => parting::receiver(&args),
        "parting-sender" => parting::sender(&args),
        "semantics" => oracle::run(&args, oracle::SEMANTICS),
        "readiness" => oracle::run(&args, oracle::READINESS),
        "speed-server" => speed::server(&args),
        "speed-client" => speed::client(&args),
        "steps-server" => steps::server(&args),
        "steps-client" => steps::client(&args),
        "puppet" => oracle::puppet::serve(),
        _ => {
            eprintln!(
                "'{role}': no such role; there are stream-server, stream-client, selftalk, kill-server, \
                 kill-client, parting-receiver, parting-sender, semantics, readiness, speed-server, \
                 speed-client, steps-server, steps-client, puppet"
            );
            std::process::exit(2);
        }
    }
}
