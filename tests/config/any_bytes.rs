//! What the parser promises of any file.

use std::collections::BTreeMap;
use std::time::Duration;

use netacc::config::keys::KEYS;
use netacc::config::{self, Origin};
use proptest::prelude::*;

use super::{check, file, with_environment};

/// Lines that come close to being right, so that the parser is entered deeply.
fn nearly_a_line() -> impl Strategy<Value = String> {
    let names = KEYS.iter().map(|key| key.name).chain([
        "netacc",
        "[netacc]",
        "[",
        "#",
        "NACC",
        "\"NACC_LOG\"",
    ]);
    let name = prop::sample::select(names.collect::<Vec<_>>());
    let value = prop_oneof![
        "\\PC{0,20}",
        "\"\\PC{0,20}\"",
        "[-+]?(0x|0b|0o)?[0-9_a-f]{1,40}[kKMG]?",
        "[\\[{'\"]{0,200}",
        Just("é".to_owned()),
    ];
    (
        name,
        prop::sample::select(vec!["=", " = ", ".", " ", ""]),
        value,
    )
        .prop_map(|(name, between, value)| format!("{name}{between}{value}"))
}

/// What `check` and `load` promise of any file: the two agree, and every problem has a line.
fn assert_total(bytes: &[u8]) {
    let file = file(bytes);
    let path = file.path().to_str().unwrap();
    let (checked, (loaded, warnings)) = with_environment(&[("NACC_CONF", path)], || {
        (config::check(None, &[]), config::load())
    });
    assert!(loaded.mr_min_inc_size <= loaded.mr_max_inc_size);
    assert!(loaded.window_size <= loaded.ring_size / 2);
    match checked {
        Ok(config) => assert_eq!((config, vec![]), (loaded, warnings)),
        Err(problems) => {
            assert!(
                problems
                    .iter()
                    .all(|p| matches!(p.origin, Origin::File { line: 1.., .. }))
            );
            assert!(
                problems
                    .iter()
                    .all(|p| !p.sentence.is_empty() && !p.remedy.is_empty())
            );
            assert_eq!(problems, warnings);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        assert_total(&bytes);
    }

    #[test]
    fn nearly_right_lines_are_read_without_a_panic(lines in prop::collection::vec(nearly_a_line(), 0..20)) {
        assert_total(lines.join("\n").as_bytes());
    }

    #[test]
    fn every_number_within_a_range_comes_back(value in 0u64..=10_000) {
        let expected: BTreeMap<&str, String> = [
            ("decimal", format!("NACC_SPIN_US={value}")),
            ("hex", format!("NACC_SPIN_US={value:#x}")),
            ("string", format!("NACC_SPIN_US=\"{value}\"")),
            ("hex string", format!("NACC_SPIN_US=\"{value:#x}\"")),
        ].into();
        for (form, text) in expected {
            prop_assert_eq!(check(&text).unwrap().spin, Duration::from_micros(value), "{}", form);
        }
    }
}
