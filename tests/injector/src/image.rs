//! Where a library lies in a process.

use std::fs;
use std::ops::Range;

/// The text of the library in one process.
#[derive(Clone, Debug)]
pub struct Image {
    base: u64,
    text: Vec<Range<u64>>,
}

impl Image {
    /// As /proc tells it; `None` if none of these libraries is there. Of several the sites are told apart by the distance
    /// from the first.
    pub fn find(process: i32, libraries: &[String]) -> Option<Image> {
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
        let mut image: Option<Image> = None;
        for line in maps.lines() {
            let Some(path) = line.find('/').map(|at| &line[at..]) else {
                continue;
            };
            let file = path.rsplit('/').next().unwrap_or_default();
            if !libraries.iter().any(|name| file.contains(name.as_str())) {
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(range), Some(rights)) = (words.next(), words.next()) else {
                continue;
            };
            let Some(range) = parse(range) else { continue };
            let image = image.get_or_insert_with(|| Image {
                base: range.start,
                text: Vec::new(),
            });
            if rights.contains('x') {
                image.text.push(range);
            }
        }
        image.filter(|image| !image.text.is_empty())
    }

    /// The site of an address in the text: what addr2line(1) takes.
    pub fn site(&self, address: u64) -> Option<u64> {
        let inside = self.text.iter().any(|range| range.contains(&address));
        inside.then(|| address - self.base)
    }
}

fn parse(range: &str) -> Option<Range<u64>> {
    let (start, end) = range.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// The process that a thread belongs to.
pub fn process_of(thread: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    field
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(thread)
}
