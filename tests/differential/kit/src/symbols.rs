//! Addresses in a trace: what differs from run to run is replaced by names.

use std::collections::HashMap;

/// Ports by their names; those that have none are numbered as they appear.
pub fn symbolic(lines: Vec<String>, port_names: &mut HashMap<u16, String>) -> Vec<String> {
    let mut count = 0;
    let mut name = |port: u16| -> String {
        let named = port_names.entry(port).or_insert_with(|| {
            count += 1;
            format!("port{count}")
        });
        if port == 0 {
            "0".to_string()
        } else {
            named.clone()
        }
    };
    let mut replaced = |line: String| -> String {
        let mut out = String::new();
        let mut rest = line.as_str();
        while let Some(start) = rest.find('<') {
            let Some(end) = rest[start..].find('>').map(|n| n + start) else {
                break;
            };
            let (before, address) = (&rest[..start], &rest[start + 1..end]);
            out.push_str(before);
            match address
                .rsplit_once(':')
                .and_then(|(ip, p)| Some((ip, p.parse().ok()?)))
            {
                Some((ip, port)) => out.push_str(&format!("{ip}:{}", name(port))),
                None => out.push_str(&rest[start..=end]),
            }
            rest = &rest[end + 1..];
        }
        out + rest
    };
    lines.into_iter().map(&mut replaced).collect()
}
