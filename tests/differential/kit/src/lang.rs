//! The scenario language: what a step is, and how it is read. See `tests/differential/README.md`.

mod print;

/// A scenario: its name, what is expected of it, and its steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// What stands after `## `.
    pub name: String,
    /// Lines without an actor before the first step: `expect plain: REASON`, `skip loop: WHY`.
    pub header: Vec<String>,
    /// What is done, in this order.
    pub steps: Vec<Step>,
}

/// One line of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Who does it: `a`, or `a.2` for another thread of its process.
    pub actor: String,
    /// What is done.
    pub action: Action,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A call; the scenario goes on when it has returned.
    Call(Call),
    /// A call that is expected to block: the scenario goes on at once.
    Start(Call),
    /// Waits for what was started: its result.
    Join,
    /// Is what was started still blocked?
    Pending,
    /// A pause of so many milliseconds, 0 for the usual.
    Settle(u64),
}

/// A call of a function, as a program would write it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The names that the results are bound to.
    pub binds: Vec<String>,
    /// Only the sign of the result is observed.
    pub loose: bool,
    /// The function.
    pub verb: String,
    /// Its arguments.
    pub args: Vec<Arg>,
}

/// An argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// A number.
    Int(i64),
    /// A string of bytes.
    Text(Vec<u8>),
    /// A name, or constants joined by `|`.
    Word(String),
    /// `{a, b}`
    List(Vec<Arg>),
    /// `a: b`, within a list.
    Entry(String, Box<Arg>),
    /// `f(x)`
    Call(String, Vec<Arg>),
}

/// Reads the scenarios of a file.
///
/// # Errors
/// What is wrong, and in which line.
pub fn parse(text: &str) -> Result<Vec<Scenario>, String> {
    let mut all: Vec<Scenario> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |why: String| format!("line {}: '{}': {why}", number + 1, line.trim());
        if let Some(name) = line.strip_prefix("## ") {
            let name = name.trim().to_string();
            if all.iter().any(|other| other.name == name) {
                return Err(wrong("another scenario has this name".to_string()));
            }
            all.push(Scenario {
                name,
                header: Vec::new(),
                steps: Vec::new(),
            });
            continue;
        }
        let line = without_comment(line).trim();
        if line.is_empty() {
            continue;
        }
        let Some(scenario) = all.last_mut() else {
            return Err(wrong("a step before the first '## name'".to_string()));
        };
        if let Some(rest) = line.strip_prefix("pair ") {
            scenario.steps.extend(pair(rest).map_err(wrong)?);
        } else if ["expect ", "skip "].iter().any(|w| line.starts_with(w)) {
            scenario.header.push(line.to_string());
        } else {
            scenario.steps.push(parse_step(line).map_err(wrong)?);
        }
    }
    Ok(all)
}

/// The text before a `#` that is not within a string.
fn without_comment(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '#' if !quoted => return &line[..at],
            _ => {}
        }
    }
    line
}

/// Are connections opened fast where they can be (`NACC_FAST_CONNECT` for the runner, which its actors have, too)?
fn is_fast() -> bool {
    std::env::var_os("NACC_FAST_CONNECT").is_some_and(|value| value != "0")
}

/// `pair a.c b.s [inet|inet6|mapped]`: a connection from a's socket c to b's socket s, by a listener.
fn pair(rest: &str) -> Result<Vec<Step>, String> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let end = |i: usize| -> Result<(&str, &str), String> {
        let word = words.get(i).copied().unwrap_or_default();
        word.split_once('.')
            .ok_or_else(|| format!("'{word}' is not ACTOR.SOCKET"))
    };
    let ((from, c), (to, s)) = (end(0)?, end(1)?);
    let kind = words.get(2).copied().unwrap_or("inet");
    let (family, at, target) = match kind {
        "inet" => ("inet", "inet", "inet"),
        "inet6" => ("inet6", "inet6", "inet6"),
        "mapped" => ("inet6", "any6", "mapped"),
        other => return Err(format!("'{other}' is none of inet, inet6, mapped")),
    };
    let mut lines = vec![
        format!("{to}: l_{s} = socket({family}, stream)"),
        format!("{to}: setsockopt(l_{s}, SOL_SOCKET, SO_REUSEADDR, 1)"),
        format!("{to}: bind(l_{s}, {at}:p_{s})"),
        format!("{to}: listen(l_{s}, 8)"),
    ];
    let connected = |c: &str, s: &str, l: &str| {
        [
            format!("{from}: {c} = socket({family}, stream)"),
            format!("{from}: connect({c}, {target}:{l})"),
            format!("{to}: {s} = accept4({l}, 0)"),
        ]
    };
    let listener = format!("l_{s}");
    // Only those that follow others are opened fast.
    for _ in 0..if is_fast() { 3 } else { 0 } {
        let (c, s) = (format!("w_{c}"), format!("w_{s}"));
        lines.extend(connected(&c, &s, &listener));
        lines.push(format!("{from}: close({c})"));
        lines.push(format!("{to}: until POLLIN {s}"));
        lines.push(format!("{to}: close({s})"));
    }
    lines.extend(connected(c, s, &listener));
    lines.iter().map(|line| parse_step(line)).collect()
}

/// Reads one step.
///
/// # Errors
/// What is wrong with it.
pub fn parse_step(line: &str) -> Result<Step, String> {
    let (actor, rest) = line
        .split_once(':')
        .ok_or("no 'actor:' at its beginning; the words of a header are 'expect' and 'skip'")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
    if actor.is_empty() || !actor.chars().all(plain) {
        return Err(format!("'{actor}' is not an actor's name"));
    }
    let rest = rest.trim();
    let action = match rest.split_once(' ').unwrap_or((rest, "")) {
        ("join", "") => Action::Join,
        ("pending", "") => Action::Pending,
        ("settle", "") => Action::Settle(0),
        ("settle", ms) => Action::Settle(ms.trim().parse().map_err(|_| "settle for how long?")?),
        ("start", call) => Action::Start(parse_call(call)?),
        ("until", what) => {
            let (events, name) = what
                .trim()
                .rsplit_once(' ')
                .ok_or("it is 'until EVENTS SOCKET'")?;
            Action::Call(parse_call(&format!("until({name}, {events})"))?)
        }
        _ => Action::Call(parse_call(rest)?),
    };
    Ok(Step {
        actor: actor.to_string(),
        action,
    })
}

/// Reads `[names =] [loose] verb(args)`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_call(text: &str) -> Result<Call, String> {
    let text = text.trim();
    let open = text.find('(').ok_or("no '(' of a call")?;
    let (binds, rest) = match text[..open].split_once('=') {
        Some((names, _)) => (names, text[names.len() + 1..].trim()),
        None => ("", text),
    };
    let binds = binds
        .split(',')
        .map(|name| name.trim().to_string())
        .filter(|name| !name.is_empty())
        .collect();
    let (loose, rest) = match rest.strip_prefix("loose ") {
        Some(rest) => (true, rest.trim()),
        None => (false, rest),
    };
    let mut scan = Scan { rest };
    let Arg::Call(verb, args) = scan.arg()? else {
        return Err("not a call".to_string());
    };
    if !scan.rest.trim().is_empty() {
        return Err(format!("'{}' follows the call", scan.rest.trim()));
    }
    Ok(Call {
        binds,
        loose,
        verb,
        args,
    })
}

struct Scan<'a> {
    rest: &'a str,
}

impl Scan<'_> {
    fn skip(&mut self) -> char {
        self.rest = self.rest.trim_start();
        self.rest.chars().next().unwrap_or('\0')
    }

    fn list(&mut self, close: char) -> Result<Vec<Arg>, String> {
        self.rest = &self.rest[1..];
        let mut all = Vec::new();
        loop {
            match self.skip() {
                c if c == close => {
                    self.rest = &self.rest[1..];
                    return Ok(all);
                }
                ',' => self.rest = &self.rest[1..],
                _ => all.push(self.arg()?),
            }
        }
    }

    fn arg(&mut self) -> Result<Arg, String> {
        match self.skip() {
            '{' => return Ok(Arg::List(self.list('}')?)),
            '"' => return self.text(),
            _ => {}
        }
        let mut end = 0;
        let bytes = self.rest.as_bytes();
        while let Some(&c) = bytes.get(end) {
            let joined = c == b':' && bytes.get(end + 1).is_some_and(|&next| next != b' ');
            if !(c.is_ascii_alphanumeric() || b"_|.-".contains(&c) || joined) {
                break;
            }
            end += 1;
        }
        let word = self.rest[..end].to_string();
        self.rest = &self.rest[end..];
        match self.skip() {
            _ if word.is_empty() => Err(format!("'{}' was not expected", self.rest)),
            '(' => Ok(Arg::Call(word, self.list(')')?)),
            ':' => {
                self.rest = &self.rest[1..];
                Ok(Arg::Entry(word, Box::new(self.arg()?)))
            }
            _ => Ok(number(&word).map_or(Arg::Word(word), Arg::Int)),
        }
    }

    fn text(&mut self) -> Result<Arg, String> {
        let mut bytes = Vec::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(Arg::Text(bytes));
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => bytes.push(b'\n'),
                    Some((_, '0')) => bytes.push(0),
                    Some((_, c)) => bytes.extend(c.to_string().as_bytes()),
                    None => break,
                },
                c => bytes.extend(c.to_string().as_bytes()),
            }
        }
        Err("a string has no end".to_string())
    }
}

fn number(word: &str) -> Option<i64> {
    match word.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Arg, parse, parse_step};
    use crate::generate::{groups, scenario};

    #[test]
    fn what_is_printed_is_read_as_the_same() {
        let written = crate::suite::load_all().unwrap();
        let random = (1..100).map(|seed| scenario(seed, &groups(seed, 100_000)));
        for scenario in written.into_iter().chain(random) {
            assert_eq!(parse(&scenario.to_string()), Ok(vec![scenario]));
        }
    }

    #[test]
    fn strings_end_where_they_should() {
        let step = parse_step(r#"a: send(c, "a # \"quoted\" \n", 0)"#).unwrap();
        let Action::Call(call) = step.action else {
            panic!("{step}");
        };
        assert_eq!(call.args[1], Arg::Text(b"a # \"quoted\" \n".to_vec()));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, wanted) in [
            ("a: close(c)", "line 1"),
            ("## x\nclose(c)", "line 2"),
            ("## x\na: close(c", "line 2"),
            ("## x\na: close(c) now", "follows the call"),
            ("## x\n## x", "another scenario"),
            ("## x\npair c s", "ACTOR.SOCKET"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
