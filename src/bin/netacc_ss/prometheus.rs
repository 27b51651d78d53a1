//! Snapshots in Prometheus' text exposition format, version 0.0.4.
//!
//! Names and labels stay as they are: dashboards and alerts rely on them.

use std::collections::BTreeMap;
use std::fmt::Write;

use netacc::stats::reader::{Library, Link, Snapshot};
use netacc::stats::{Mode, Reason};

use crate::view;

/// What the format is called in HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Labels of one sample.
type Labels = Vec<(&'static str, String)>;

/// A count of a link.
type Of = fn(&Link) -> u64;

/// All samples of one name.
struct Family {
    name: String,
    help: String,
    gauge: bool,
    samples: Vec<(Labels, u64)>,
}

/// Families in the order of their first sample.
#[derive(Default)]
struct Families {
    list: Vec<Family>,
    places: BTreeMap<String, usize>,
}

impl Families {
    /// Adds a sample that goes up and down.
    fn gauge(&mut self, name: &str, help: &str, labels: Labels, value: u64) {
        self.add(name.to_owned(), help, true, labels, value);
    }

    /// Adds a sample that only goes up; `name` is without its `_total`.
    fn counter(&mut self, name: &str, help: &str, labels: Labels, value: u64) {
        self.add(format!("{name}_total"), help, false, labels, value);
    }

    fn add(&mut self, name: String, help: &str, gauge: bool, labels: Labels, value: u64) {
        let name = format!("netacc_{name}");
        let next = self.list.len();
        let place = *self.places.entry(name.clone()).or_insert(next);
        if place == next {
            self.list.push(Family {
                name,
                help: help.to_owned(),
                gauge,
                samples: Vec::new(),
            });
        }
        self.list[place].samples.push((labels, value));
    }
}

/// The text of all processes; `unreadable` of them could not be read.
pub fn text(pages: &[(Snapshot, Option<Library>)], unreadable: usize) -> String {
    let mut families = Families::default();
    families.gauge(
        "processes",
        "Processes that are shown.",
        Vec::new(),
        pages.len() as u64,
    );
    families.gauge(
        "unreadable_processes",
        "Processes whose counters could not be read, of another release of NetACC for example.",
        Vec::new(),
        unreadable as u64,
    );
    for (page, library) in pages {
        process(&mut families, page, library.as_ref());
    }
    let mut out = String::new();
    for family in &families.list {
        let name = &family.name;
        let kind = if family.gauge { "gauge" } else { "counter" };
        let help = escaped(&family.help, false);
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in &family.samples {
            let labels: Vec<_> = labels
                .iter()
                .map(|(label, value)| format!("{label}=\"{}\"", escaped(value, true)))
                .collect();
            let _ = match labels.is_empty() {
                true => writeln!(out, "{name} {value}"),
                false => writeln!(out, "{name}{{{}}} {value}", labels.join(",")),
            };
        }
    }
    out
}

fn process(families: &mut Families, page: &Snapshot, library: Option<&Library>) {
    let with = |more: &[(&'static str, &str)]| {
        let mut labels = vec![("pid", page.pid.to_string()), ("comm", page.comm.clone())];
        labels.extend(
            more.iter()
                .map(|(label, value)| (*label, (*value).to_owned())),
        );
        labels
    };
    let replaced = match library {
        Some(library) if library.replaced => "1",
        _ => "0",
    };
    let about = [
        ("uid", &*page.uid.to_string()),
        ("version", &page.version),
        ("library_replaced", replaced),
    ];
    let help = "Always 1: a process, its user and the library that it runs.";
    families.gauge("process_info", help, with(&about), 1);
    for mode in [Mode::Loop, Mode::Shm, Mode::Rdma, Mode::Tcp] {
        let labels = with(&[("mode", &mode.name().to_ascii_lowercase())]);
        let help = "Connections now (and listeners left to TCP), by what carries them.";
        families.gauge("connections", help, labels, view::now(page, mode));
    }
    families.gauge("links", "Links now.", with(&[]), page.links.len() as u64);
    for counter in &page.counters {
        let (name, value) = (counter.name, counter.value);
        if let Some(mode) = name.strip_prefix("connected_") {
            let help = "Connections that the process opened, by what came to carry them.";
            families.counter("connections_opened", help, with(&[("mode", mode)]), value);
        } else if let Some(mode) = name.strip_prefix("accepted_") {
            let help = "Connections that the process accepted, by what came to carry them.";
            families.counter("connections_accepted", help, with(&[("mode", mode)]), value);
        } else if name.ends_with("_now") || name == "mr_bytes_used" {
            families.gauge(name, counter.meaning, with(&[]), value);
        } else {
            families.counter(name, counter.meaning, with(&[]), value);
        }
    }
    for (reason, count) in &page.fallbacks {
        if *reason != Reason::None {
            let help = "Connections and listeners left to kernel TCP, by reason.";
            families.counter(
                "fallbacks",
                help,
                with(&[("reason", reason.name())]),
                *count,
            );
        }
    }
    for device in &page.devices {
        let labels = || with(&[("device", &device.name)]);
        families.gauge(
            "device_qps",
            "Queue pairs of a device now.",
            labels(),
            device.qps_now,
        );
        families.gauge(
            "device_registered_bytes",
            "Bytes registered with a device.",
            labels(),
            device.mr_bytes_now,
        );
        families.gauge(
            "device_used_bytes",
            "Bytes of these in use.",
            labels(),
            device.mr_bytes_used,
        );
    }
    for link in &page.links {
        let labels = || {
            let fabric = link
                .fabric
                .map_or("?", |fabric| fabric.name())
                .to_ascii_lowercase();
            let device = page.device_of(link).map_or("", |device| &device.name);
            let (number, peer) = (link.slot.to_string(), link.peer_pid.to_string());
            with(&[
                ("link", &number),
                ("fabric", &fabric),
                ("device", device),
                ("peer_pid", &peer),
            ])
        };
        families.gauge(
            "link_connections",
            "Connections of a link now.",
            labels(),
            link.conns_now,
        );
        let counted: [(&str, &str, Of); 8] = [
            (
                "link_tx_bytes",
                "Bytes of streams sent over a link.",
                |link| link.tx_bytes,
            ),
            (
                "link_rx_bytes",
                "Bytes of streams received over a link.",
                |link| link.rx_bytes,
            ),
            ("link_tx_records", "Records sent over a link.", |link| {
                link.tx_records
            }),
            ("link_rx_records", "Records received over a link.", |link| {
                link.rx_records
            }),
            (
                "link_work_requests",
                "Work requests posted for a link.",
                |link| link.work_requests,
            ),
            (
                "link_stalls",
                "Times that a sender found no room in a link's ring.",
                |link| link.stalls,
            ),
            (
                "link_spilled_bytes",
                "Bytes moved out of a link's ring for slow readers.",
                |link| link.spilled_bytes,
            ),
            (
                "link_carriers",
                "Queue pairs or streams that a link has had.",
                |link| link.carriers,
            ),
        ];
        for (name, help, of) in counted {
            families.counter(name, help, labels(), of(link));
        }
    }
}

/// Backslashes and line ends, and in a label's value quotes too, as the format wants them.
fn escaped(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_stands_in_one_piece_and_text_is_escaped() {
        let mut families = Families::default();
        let labels = |name: &str| vec![("comm", name.to_owned())];
        families.counter("a", "A.", labels("x"), 1);
        families.gauge("b", "B.", labels("x"), 2);
        families.counter("a", "A.", labels("y"), 3);
        let names: Vec<_> = families
            .list
            .iter()
            .map(|f| (&*f.name, f.samples.len()))
            .collect();
        assert_eq!(names, [("netacc_a_total", 2), ("netacc_b", 1)]);
        assert_eq!(escaped("a\\b\"c\nd", true), "a\\\\b\\\"c\\nd");
        assert_eq!(escaped("a\\b\"c\nd", false), "a\\\\b\"c\\nd");
    }
}
