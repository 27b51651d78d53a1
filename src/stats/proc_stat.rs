//! `/proc/PID/stat`: the program's name and when the process started.

/// What one line of `/proc/PID/stat` says, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProcStat<'a> {
    /// Name of the program, without the parentheses.
    pub(super) comm: &'a [u8],
    /// Whether the process has ended and only waits to be reaped.
    pub(super) dead: bool,
    /// Clock ticks from boot to its start.
    pub(super) start_time: u64,
}

/// Parses a line of `/proc/PID/stat`. The name may itself hold spaces and parentheses.
pub(super) fn parse(line: &[u8]) -> Option<ProcStat<'_>> {
    let open = line.iter().position(|&b| b == b'(')?;
    let close = line.iter().rposition(|&b| b == b')')?;
    let comm = line.get(open + 1..close)?;
    // The first field after the name is number 3 of proc(5).
    let mut fields = line
        .get(close + 1..)?
        .split(|b| b.is_ascii_whitespace())
        .filter(|field| !field.is_empty());
    let state = fields.next()?;
    // A main thread that has ended is a zombie too while the others live on.
    let threads = number(fields.nth(16)?)?;
    let start_time = number(fields.nth(1)?)?;
    let dead = matches!(state, b"Z" | b"X" | b"x") && threads <= 1;
    Some(ProcStat {
        comm,
        dead,
        start_time,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn odd_names_and_zombies() {
        let line = |state: &str, threads: u32| {
            format!("7 (a) b( c)) {state} 1 7 7 0 -1 4 9 0 0 0 0 0 0 0 20 0 {threads} 0 123456 1 2")
        };
        let seen = line("S", 1);
        let expected = ProcStat {
            comm: b"a) b( c)",
            dead: false,
            start_time: 123_456,
        };
        assert_eq!(parse(seen.as_bytes()), Some(expected));
        assert!(parse(line("Z", 1).as_bytes()).unwrap().dead);
        assert!(!parse(line("Z", 2).as_bytes()).unwrap().dead);
    }

    #[test]
    fn the_kernels_own_line() {
        let line = std::fs::read("/proc/self/stat").unwrap();
        let stat = parse(&line).unwrap();
        assert!(!stat.dead);
        assert!(stat.start_time > 0);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_not(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }
    }
}
