//! The documents that are made from the table of keys.

use std::path::PathBuf;

use netacc::config::keys::KEYS;
use netacc::config::{Config, document};

use super::check;

/// Compares a file of the repository with what it should be, or writes it when asked to.
fn assert_document(path: &str, expected: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("NETACC_UPDATE").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert!(
        found == expected,
        "{} is stale; write it anew with: NETACC_UPDATE=1 cargo test --test config",
        path.display()
    );
}

#[test]
fn the_example_file_is_the_table_of_keys() {
    assert_document("netacc.conf.example", &document::example());
}

#[test]
fn the_example_file_is_valid_with_and_without_its_comment_signs() {
    let example = document::example();
    assert_eq!(check(&example).unwrap(), Config::default());
    let (general, section) = example.split_once("\n#[").unwrap();
    let active = general.replace("\n#NACC", "\nNACC");
    assert_eq!(active.matches("\nNACC_").count(), KEYS.len());
    let section = format!("\n[{}", section.replace("\n#NACC", "\nNACC"));
    assert!(section.contains("\nNACC_"));
    assert_eq!(check(active + &section).unwrap(), Config::default());
}

/// As [`assert_document`], of the part of a manual page that is made from the table.
fn assert_part(page: &str, what: &str, expected: &str) {
    let begin = format!(".\\\" {what}: written by cargo test --test config\n");
    let end = format!(".\\\" End of {}\n", what.to_lowercase());
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let (head, rest) = text
        .split_once(&begin)
        .expect("the page has a place for it");
    let (_, tail) = rest.split_once(&end).expect("the place ends");
    assert_document(page, &format!("{head}{begin}{expected}{end}{tail}"));
}

#[test]
fn the_manual_pages_list_the_table_of_keys() {
    assert_part("docs/man/netacc.conf.5", "Keys", &document::manual());
    assert_part("docs/man/netacc_run.1", "Options", &document::options());
}
