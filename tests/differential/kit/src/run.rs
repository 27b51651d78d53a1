//! Runs one scenario over one carrier: the trace.

use crate::counters::Counters;
use crate::host::{Carrier, Host, Process};
use crate::lang::{Action, Arg, Call, Scenario, Step};
use crate::links::{Answer, LIMIT, Links};
use crate::symbols::symbolic;
use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How patiently a scenario is run.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Settles so many times longer, and above 1 after every step.
    pub slower: u32,
    /// How long a call may take; then it hangs.
    pub limit: Duration,
    /// How long an `until` waits.
    pub until: Duration,
}

impl Pace {
    /// As scenarios are run.
    pub const USUAL: Pace = Pace {
        slower: 1,
        limit: LIMIT,
        until: Duration::from_secs(10),
    };
}

/// What was observed, and what the library counted.
#[derive(Debug)]
pub struct Trace {
    /// A line a step.
    pub lines: Vec<String>,
    /// The counters of the processes that were still there at the end.
    pub counters: Vec<Counters>,
    /// At least one connection was accepted.
    pub connected: bool,
}

struct Place {
    port: u16,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    family: u8,
}

struct Run<'a> {
    host: &'a dyn Host,
    carrier: Carrier,
    pace: Pace,
    settle: Duration,
    links: Links,
    processes: Vec<Box<dyn Process>>,
    /// The actor whose process plays all, if one does.
    first: String,
    /// The process that an actor lives in is found by the actor that it was started as.
    children: Vec<String>,
    places: BTreeMap<String, Place>,
    port_names: HashMap<u16, String>,
    filled: HashMap<String, i64>,
    connected: bool,
}

/// Runs `scenario`.
///
/// # Errors
/// The scenario makes no sense: what is wrong with which step.
pub fn run(
    host: &dyn Host,
    scenario: &Scenario,
    carrier: Carrier,
    pace: Pace,
) -> Result<Trace, String> {
    let mut run = Run {
        host,
        carrier,
        pace,
        settle: host.settle() * pace.slower,
        links: Links::new(host.control()),
        processes: Vec::new(),
        first: "a".to_string(),
        children: Vec::new(),
        places: BTreeMap::new(),
        port_names: HashMap::new(),
        filled: HashMap::new(),
        connected: false,
    };
    run.start(scenario);
    let mut lines = Vec::new();
    for step in &scenario.steps {
        let wrong = |why| format!("{}: '{step}': {why}", scenario.name);
        let Some(result) = run.step(step).map_err(wrong)? else {
            continue;
        };
        // What follows would only tell of this again, and slowly.
        let stuck = result == "hangs" || result.starts_with("never");
        lines.push(format!("{step} -> {result}"));
        if stuck {
            break;
        }
        if pace.slower > 1 {
            std::thread::sleep(run.settle / 10);
        }
    }
    let lines = symbolic(lines, &mut run.port_names);
    let counters = run.processes.iter_mut().filter_map(|p| p.counters());
    Ok(Trace {
        lines,
        counters: counters.collect(),
        connected: run.connected,
    })
}

fn base(actor: &str) -> &str {
    actor.split('.').next().unwrap_or(actor)
}

impl Run<'_> {
    /// Starts the processes of the actors that no fork makes.
    fn start(&mut self, scenario: &Scenario) {
        let mut actors: Vec<&str> = Vec::new();
        for step in &scenario.steps {
            if let Action::Call(call) = &step.action
                && call.verb == "fork"
            {
                self.children.extend(call.binds.iter().cloned());
            }
            let actor = base(&step.actor);
            if !actors.contains(&actor) && !self.children.iter().any(|child| child == actor) {
                actors.push(actor);
            }
        }
        actors.sort_unstable();
        if self.carrier.one_process() {
            actors.truncate(1);
        }
        self.first = actors.first().copied().unwrap_or("a").to_string();
        for actor in actors {
            let (at, preloads) = (self.links.address(), self.carrier.preloads(actor));
            self.processes.push(self.host.start(actor, preloads, at));
        }
    }

    /// The name of the spawner in the process of `actor`.
    fn spawner(&self, actor: &str) -> String {
        let actor = base(actor);
        let own = !self.carrier.one_process() || self.children.iter().any(|child| child == actor);
        format!("{}/spawner", if own { actor } else { &self.first })
    }

    /// Sees to it that the thread exists.
    fn bring_to_life(&mut self, name: &str) -> Result<(), String> {
        let child = self.children.iter().any(|child| child == name);
        let main =
            child || !name.contains('.') && (!self.carrier.one_process() || name == self.first);
        if !main && !self.links.knows(name) {
            self.ask_spawner(name, &format!("thread {name}"))?;
        }
        self.links.get(name).map(|_| ())
    }

    fn ask_spawner(&mut self, actor: &str, command: &str) -> Result<String, String> {
        let spawner = self.spawner(actor);
        let link = self.links.get(&spawner)?;
        link.tell(command);
        match link.answer(LIMIT) {
            Answer::Line(line) if line.starts_with('!') => Err(line),
            Answer::Line(line) => Ok(line),
            Answer::Gone => Ok("gone".to_string()),
            Answer::Nothing => Err(format!("'{spawner}' does not answer")),
        }
    }

    /// Does one step: what it shows, `None` for what is not observed.
    fn step(&mut self, step: &Step) -> Result<Option<String>, String> {
        let actor = step.actor.as_str();
        match &step.action {
            Action::Settle(0) => std::thread::sleep(self.settle),
            Action::Settle(ms) => std::thread::sleep(Duration::from_millis(*ms)),
            Action::Start(call) => {
                self.tell(actor, call)?;
                self.until_asleep(actor)?;
                return Ok(Some("started".to_string()));
            }
            Action::Join => return self.result(actor, None).map(Some),
            Action::Pending => {
                let settle = self.settle;
                let answered = self.links.get(actor)?.has_answered(settle);
                return Ok(Some(
                    if answered { "returned" } else { "blocked" }.to_string(),
                ));
            }
            Action::Call(call) if call.verb == "kill" => return self.kill(call).map(Some),
            Action::Call(call) if call.verb == "pthread_cancel" => {
                let Some(Arg::Word(name)) = call.args.first() else {
                    return Err("it is pthread_cancel(b.2)".to_string());
                };
                return self.ask_spawner(name, &format!("cancel {name}")).map(Some);
            }
            Action::Call(call) => {
                self.tell(actor, call)?;
                return self.result(actor, Some(call)).map(Some);
            }
        }
        Ok(None)
    }

    /// Waits until the thread has gone to sleep in the call that it was told, or has returned from it.
    fn until_asleep(&mut self, actor: &str) -> Result<(), String> {
        let deadline = Instant::now() + self.pace.limit;
        let mut seen = 0;
        while seen < 3 && Instant::now() < deadline {
            let link = self.links.get(actor)?;
            if link.has_answered(Duration::from_millis(2)) {
                break;
            }
            let command = format!("sleeps {}", link.tid);
            match self.ask_spawner(actor, &command)?.as_str() {
                "yes" => seen += 1,
                "no" => seen = 0,
                _ => {
                    std::thread::sleep(self.settle);
                    break;
                }
            }
        }
        Ok(())
    }

    /// `kill(b, SIGKILL)`: the process. `kill(b.2, SIGUSR1)`: the thread; `b` or `b.1` is b's first.
    fn kill(&mut self, call: &Call) -> Result<String, String> {
        let [Arg::Word(target), Arg::Word(signal)] = call.args.as_slice() else {
            return Err("it is kill(b.2, SIGUSR1)".to_string());
        };
        let number = crate::constants::value(signal).ok_or("no such signal")?;
        let name = target.strip_suffix(".1").unwrap_or(target);
        self.bring_to_life(name)?;
        let whole = ["SIGKILL", "SIGTERM", "SIGSTOP", "SIGCONT"].contains(&signal.as_str());
        let tid = if whole { 0 } else { self.links.get(name)?.tid };
        let answer = self.ask_spawner(name, &format!("kill {tid} {number}"))?;
        if signal == "SIGKILL" {
            // The kernel has taken everything from it when its connection ends.
            self.links.get(name)?.answer(LIMIT);
            return Ok("killed".to_string());
        }
        std::thread::sleep(self.settle);
        Ok(answer)
    }

    /// Sends a call to its actor, with all places that it can name.
    fn tell(&mut self, actor: &str, call: &Call) -> Result<(), String> {
        self.bring_to_life(actor)?;
        for arg in &call.args {
            self.allocate(actor, &call.verb, arg);
        }
        let mut call = call.clone();
        if let ("drain", [_, Arg::Word(name)]) = (call.verb.as_str(), call.args.as_slice()) {
            let amount = self.filled.remove(name);
            call.args[1] = Arg::Int(amount.ok_or_else(|| format!("'{name}' was not filled"))?);
        }
        if call.verb == "fill" {
            let ms = self.settle.as_millis() as i64;
            call.args.push(Arg::Int(ms));
        }
        let mut line = call.to_string();
        if call.verb == "until" {
            // The actor reads calls only.
            let ms = self.pace.until.as_millis();
            line = format!("until({}, {}, {ms})", call.args[0], call.args[1]);
        }
        for (name, place) in &self.places {
            let Place {
                port,
                v4,
                v6,
                family,
            } = place;
            line.push_str(&format!("\t{name}={port}@{v4}@{v6}@{family}"));
        }
        self.links.get(actor)?.tell(&line);
        Ok(())
    }

    /// Gives a port to each name of one that is new.
    fn allocate(&mut self, actor: &str, verb: &str, arg: &Arg) {
        let Arg::Word(word) = arg else { return };
        let Some((_, name)) = word.split_once(':') else {
            return;
        };
        if name.parse::<u16>().is_ok() || self.places.contains_key(name) {
            return;
        }
        let other = if base(actor) == "a" { "b" } else { "a" };
        let (v4, v6) = self
            .host
            .here(if verb == "bind" { base(actor) } else { other });
        let port = self.host.port();
        self.port_names.insert(port, name.to_string());
        let place = Place {
            port,
            v4,
            v6,
            family: 0,
        };
        self.places.insert(name.to_string(), place);
    }

    /// Waits for the result of what was told.
    fn result(&mut self, actor: &str, call: Option<&Call>) -> Result<String, String> {
        let limit = self.pace.limit;
        let line = match self.links.get(actor)?.answer(limit) {
            Answer::Line(line) => line,
            Answer::Gone => return Ok("gone".to_string()),
            Answer::Nothing => return Ok("hangs".to_string()),
        };
        if let Some(why) = line.strip_prefix('!') {
            return Err(why.to_string());
        }
        let mut fields = line.split('\t');
        let mut shown = fields.next().unwrap_or_default().to_string();
        for field in fields {
            let words: Vec<&str> = field.split(' ').collect();
            match words[..] {
                ["at", name, port, family] => self.at(actor, name, port, family),
                ["filled", name, n] => {
                    *self.filled.entry(name.to_string()).or_default() += n.parse().unwrap_or(0);
                }
                ["seen", ..] => shown.push_str(&format!(" [{}]", words[1..].join(" "))),
                _ => return Err(format!("'{field}' came from {actor}")),
            }
        }
        if call.is_some_and(|call| call.verb.starts_with("accept")) && !shown.starts_with('-') {
            self.connected = true;
        }
        Ok(shown)
    }

    /// A socket of `actor` is at a port now.
    fn at(&mut self, actor: &str, name: &str, port: &str, family: &str) {
        let (v4, v6) = self.host.here(base(actor));
        let (port, family) = (port.parse().unwrap_or(0), family.parse().unwrap_or(0));
        if port != 0 {
            self.port_names
                .entry(port)
                .or_insert_with(|| name.to_string());
            let place = Place {
                port,
                v4,
                v6,
                family,
            };
            self.places.insert(name.to_string(), place);
        }
    }
}
