//! Runs a program, and fails a system call that a library in it makes for itself: the library's own, not those that the
//! program makes through it. So faults are tried in the very file that ships.
//!
//! ```text
//! netacc-test-injector --library libnetacc-preload --report FILE [--fail CALL:SITE:NTH:ERROR]... -- PROGRAM [ARGUMENT]...
//! ```
//!
//! The program and all that it starts are traced (ptrace(2)), and stop at each system call (seccomp(2)). A call is the
//! library's if the instruction that makes it, or the one that called libc's `syscall`, lies in its text: that is its
//! *site*. The report lists the sites, how often each was come to, how each process ended and what it held then.

#[cfg(target_arch = "x86_64")]
mod calls;
#[cfg(target_arch = "x86_64")]
mod fault;
#[cfg(target_arch = "x86_64")]
mod image;
#[cfg(target_arch = "x86_64")]
mod report;
#[cfg(target_arch = "x86_64")]
mod start;
#[cfg(target_arch = "x86_64")]
mod trace;

/// Registers are those of one kind of processor.
#[cfg(not(target_arch = "x86_64"))]
fn main() {
    eprintln!("netacc-test-injector: only for x86-64");
    std::process::exit(77);
}

#[cfg(target_arch = "x86_64")]
fn main() -> std::process::ExitCode {
    use clap::Parser;
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netacc-test-injector: {error}");
            std::process::ExitCode::from(70)
        }
    }
}

/// What it is to do.
#[cfg(target_arch = "x86_64")]
#[derive(clap::Parser)]
struct Arguments {
    /// What the name of the library's file contains; several make one
    #[arg(long, required = true)]
    library: Vec<String>,
    /// CALL:SITE:NTH:ERROR, for example memfd_create:0x5a3f1:1:ENOMEM. A site or NTH of * is every one, NTH of
    /// 2-9 the second to the ninth
    #[arg(long)]
    fail: Vec<fault::Fault>,
    /// Where the report goes
    #[arg(long)]
    report: std::path::PathBuf,
    /// After how many seconds the program hangs: it is killed then
    #[arg(long, default_value_t = 60)]
    limit: u32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

#[cfg(target_arch = "x86_64")]
fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let child = start::start(&arguments.program)?;
    let mut tracer = trace::Tracer::new(&arguments.library, &arguments.fail);
    tracer.run(child, arguments.limit)?;
    let report = tracer.report().to_json();
    std::fs::write(&arguments.report, serde_json::to_vec_pretty(&report)?)?;
    Ok(())
}
