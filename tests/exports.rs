//! The library exports exactly the symbols of the one table in `netacc::real`: a symbol too many would
//! shadow somebody else's, one too few would let a call slip past.

mod built;

use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn exported_symbols_are_the_allow_list() {
    let shown = Command::new("nm")
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(built::library())
        .output()
        .expect("nm (binutils) runs");
    assert!(
        shown.status.success(),
        "{}",
        String::from_utf8_lossy(&shown.stderr)
    );
    let listing = String::from_utf8_lossy(&shown.stdout);
    let exported: BTreeSet<&str> = listing
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let allowed: BTreeSet<&str> = [netacc::real::SYMBOLS, netacc::real::VARIADIC]
        .concat()
        .into_iter()
        .collect();

    let extra: Vec<_> = exported.difference(&allowed).collect();
    let missing: Vec<_> = allowed.difference(&exported).collect();
    assert!(extra.is_empty(), "exported but not in the table: {extra:?}");
    assert!(
        missing.is_empty(),
        "in the table but not exported: {missing:?}"
    );
    assert!(!allowed.is_empty(), "the table is empty");
}
