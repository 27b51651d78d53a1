//! A process of a scenario: it makes libc's calls as it is told, step by step. It is an ordinary
//! program; what is preloaded into it is the runner's business.
//!
//! `netacc-differential-actor CONTROL NAME`: connects to the runner at CONTROL; its first thread is
//! the actor NAME.

mod args;
mod control;
mod data;
mod epoll;
mod files;
mod messages;
mod options;
mod process;
mod ready;
mod signals;
mod sockets;
mod stdio;
mod sys;
mod world;

use control::Control;
use netacc_differential::lang::parse_call;
use std::net::SocketAddr;
use std::sync::OnceLock;
use world::{Ctx, Out, Res};

/// Where the runner is.
static RUNNER: OnceLock<SocketAddr> = OnceLock::new();

/// One more connection to the runner, for the thread `name`.
fn control(name: &str) -> Control {
    let to = *RUNNER.get().expect("the runner's address");
    Control::new(to, name).unwrap_or_else(|e| {
        eprintln!("netacc-differential-actor: {name}: no connection to the runner at {to}: {e}");
        // SAFETY: ends the process.
        unsafe { libc::_exit(2) }
    })
}

/// Makes one call.
fn call(ctx: &Ctx) -> Res<Out> {
    for family in [
        sockets::call,
        data::call,
        messages::call,
        options::call,
        files::call,
        ready::call,
        epoll::call,
        stdio::call,
        signals::call,
        process::call,
    ] {
        if let Some(out) = family(ctx)? {
            return Ok(out);
        }
    }
    Err(format!(
        "'{}' is no call that an actor knows",
        ctx.call.verb
    ))
}

/// The answer to one line: what was observed, and what the runner has to know besides, tabs between.
fn answer(name: &str, line: &str) -> String {
    let mut fields = line.split('\t');
    let text = fields.next().unwrap_or_default();
    let done = parse_call(text)
        .and_then(|parsed| Ctx::new(name, parsed, fields))
        .and_then(|ctx| {
            let out = call(&ctx)?;
            ctx.bind(&out);
            Ok(out.show(&ctx))
        });
    match done {
        Ok(shown) => format!("{shown}{}", signals::seen()),
        Err(why) => format!("!{why}"),
    }
}

/// A thread's life: one line after the other.
fn serve(name: &str, mut control: Control) {
    while let Some(line) = control.read() {
        let reply = answer(name, &line);
        if control.write(&reply).is_err() {
            return;
        }
    }
}

/// The first thread's life; the process ends with it.
fn serve_process(name: &str) -> ! {
    let first = control(name);
    process::spawner(&format!("{name}/spawner"));
    serve(name, first);
    // SAFETY: ends the process; nothing of ours is to run after the runner has gone.
    unsafe { libc::_exit(0) }
}

fn main() {
    let mut words = std::env::args().skip(1);
    let (Some(to), Some(name)) = (words.next(), words.next()) else {
        eprintln!("usage: netacc-differential-actor CONTROL NAME");
        std::process::exit(2);
    };
    match to.parse() {
        Ok(to) => RUNNER.get_or_init(|| to),
        Err(e) => {
            eprintln!("netacc-differential-actor: '{to}' is no address: {e}");
            std::process::exit(2);
        }
    };
    signals::begin();
    serve_process(&name)
}
