//! Bytes that tell where they come from, and how bytes are shown in a trace.

/// After so many the pattern repeats.
const PERIOD: u64 = 127;

/// `n` bytes of a socket's stream from `offset` on. None of them is ASCII.
pub fn bytes(offset: u64, n: usize) -> Vec<u8> {
    let at = |i: usize| (offset + i as u64) % PERIOD;
    (0..n).map(|i| 128 + at(i) as u8).collect()
}

/// Does `next` follow `byte` in the pattern?
pub fn follows(byte: u8, next: u8) -> bool {
    byte >= 128 && next == 128 + ((u64::from(byte) - 128 + 1) % PERIOD) as u8
}

/// Text as text, runs of the pattern as `~LENGTH@PHASE`.
pub fn show(data: &[u8]) -> String {
    let mut words = Vec::new();
    let mut rest = data;
    while let Some(&first) = rest.first() {
        let run = if first < 128 {
            rest.iter().take_while(|&&b| b < 128).count()
        } else {
            1 + rest.windows(2).take_while(|w| follows(w[0], w[1])).count()
        };
        let (run, after) = rest.split_at(run);
        words.push(match first {
            // Room that nobody wrote to.
            0 if run.len() > 8 && run.iter().all(|&b| b == 0) => format!("{} zeroes", run.len()),
            0..128 => text(run),
            _ => format!("~{}@{}", run.len(), first - 128),
        });
        rest = after;
    }
    if words.is_empty() {
        "\"\"".to_string()
    } else {
        words.join(" ")
    }
}

/// In quotes, with what could be mistaken for an address or an end written as numbers.
fn text(run: &[u8]) -> String {
    let mut out = String::from("\"");
    for &byte in run {
        match byte {
            b' '..=b'~' if !b"<>\\\"".contains(&byte) => out.push(byte as char),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}
