//! Link arguments of the preload library: its soname, and that it is never unloaded (its hooks stay
//! reachable through the dynamic linker's tables for the life of the process).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_PKG_NAME").as_deref() == Ok("netacc-preload") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnetacc-preload.so");
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
