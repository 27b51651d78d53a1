//! How the library is linked: its name, and what it needs to be loaded on any machine.

mod built;

use std::path::Path;
use std::process::Command;

/// The dynamic section's lines of the library as `readelf -d` prints them.
fn dynamic_section() -> Vec<String> {
    dynamic_section_of(&built::library())
}

fn dynamic_section_of(file: &Path) -> Vec<String> {
    let shown = Command::new("readelf")
        .arg("-dW")
        .arg(file)
        .output()
        .expect("readelf (binutils) runs");
    assert!(
        shown.status.success(),
        "{}",
        String::from_utf8_lossy(&shown.stderr)
    );
    String::from_utf8_lossy(&shown.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_soname_is_the_name_that_programs_preload() {
    let soname = dynamic_section()
        .into_iter()
        .find(|line| line.contains("(SONAME)"))
        .expect("a soname");
    assert!(soname.contains("[libnetacc-preload.so]"), "{soname}");
}

#[test]
fn library_and_tools_load_on_machines_without_rdma_libraries() {
    let library = built::library();
    let tools = [
        env!("CARGO_BIN_EXE_netacc_run"),
        env!("CARGO_BIN_EXE_netacc_ss"),
    ];
    for file in tools.iter().map(Path::new).chain([library.as_ref()]) {
        let mut needed = dynamic_section_of(file);
        needed.retain(|line| line.contains("(NEEDED)"));
        assert!(
            needed.iter().any(|line| line.contains("[libc.so.6]")),
            "not what readelf used to print: {needed:?}"
        );
        for line in needed {
            assert!(
                !line.contains("ibverbs") && !line.contains("rdmacm"),
                "{}: opened at run time, never linked: {line}",
                file.display()
            );
        }
    }
}

/// Each program that is started would load it, too: see src/preload/unwind.rs.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_unwinder_is_not_loaded_before_it_is_needed() {
    let needed = dynamic_section();
    let needed = needed.iter().filter(|line| line.contains("(NEEDED)"));
    let more: Vec<_> = needed
        .filter(|line| !line.contains("[libc.so.6]") && !line.contains("[ld-linux"))
        .collect();
    assert!(more.is_empty(), "every program loads these: {more:?}");
}

#[test]
fn it_is_never_unloaded() {
    let flags = dynamic_section()
        .into_iter()
        .find(|line| line.contains("(FLAGS_1)"))
        .unwrap_or_default();
    assert!(
        flags.contains("NODELETE"),
        "dlclose could unmap hooks that are in use: {flags}"
    );
}
