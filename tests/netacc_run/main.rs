//! `netacc_run`: options, configuration, finding the library and the program, and becoming it.

#[path = "../common/mod.rs"]
mod common;
mod words;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use common::ports;

const NETACC_RUN: &str = env!("CARGO_BIN_EXE_netacc_run");

/// A library that does no harm when preloaded: one that this test has loaded itself.
fn harmless_library() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps
        .lines()
        .find(|line| line.contains("/libgcc_s"))
        .expect("Rust programs load libgcc_s");
    fs::canonicalize(&line[line.find('/').unwrap()..]).unwrap()
}

/// Makes a program of those bytes. Another process writes it: had this one a descriptor of it, a
/// child of another test could inherit that for a moment, and the program could not be started.
fn executable(path: &Path, bytes: impl AsRef<[u8]>, mode: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, bytes).unwrap();
    install(&draft, path, mode);
}

fn install(from: impl AsRef<Path>, to: &Path, mode: &str) {
    Command::new("install")
        .args(["-m", mode])
        .arg(from.as_ref())
        .arg(to)
        .assert()
        .success();
}

/// `netacc_run` with a library and no configuration but what a test gives.
fn netacc_run() -> Command {
    let mut command = bare(NETACC_RUN);
    command
        .env("NACC_PRELOAD_LIB", harmless_library())
        .env("NACC_CONF", "/dev/null");
    command
}

fn bare(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name == "LD_PRELOAD" || name.to_string_lossy().starts_with("NACC_") {
            command.env_remove(name);
        }
    }
    command
}

fn stdout(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn stderr(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

/// Compares what was printed with a file of tests/golden, or writes that when asked to.
fn assert_golden(name: &str, printed: &str) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("NETACC_UPDATE").is_some() {
        fs::write(&golden, printed).unwrap();
    }
    assert_eq!(
        printed,
        fs::read_to_string(&golden).unwrap_or_default(),
        "write {} anew with: NETACC_UPDATE=1 cargo test --test netacc_run",
        golden.display()
    );
}

/// The value of a variable in what `env` printed.
fn variable<'a>(env: &'a str, name: &str) -> Option<&'a str> {
    env.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

#[test]
fn the_program_gets_the_library_and_its_own_options() {
    let run = netacc_run()
        .args(["sh", "-c", "echo $LD_PRELOAD $0 $@", "-t", "--", "-p"])
        .assert()
        .code(0);
    assert_eq!(
        stdout(&run).trim(),
        format!("{} -t -- -p", harmless_library().display())
    );
    assert_eq!(stderr(&run), "");
    let run = netacc_run()
        .args(["-t", "2", "--", "echo", "-p", "x"])
        .assert()
        .code(0);
    assert_eq!(stdout(&run), "-p x\n");
}

#[test]
fn the_exit_code_is_the_programs() {
    netacc_run().args(["sh", "-c", "exit 43"]).assert().code(43);
    let killed = netacc_run()
        .args(["sh", "-c", "kill -9 $$"])
        .assert()
        .interrupted();
    assert_eq!(stdout(&killed), "");
}

#[test]
fn options_become_variables() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("my.conf"), "NACC_SPIN_US=1").unwrap();
    let run = netacc_run()
        .current_dir(folder.path())
        .env("NACC_SOR_IO_THREADS", "9")
        .args(["-t", "3", "-p", "77", "-s", "32K", "-d", "-f", "my.conf"])
        .args(["-T", "-A", "cpu:0-1", "-P", "0.25", "env"])
        .assert()
        .code(0);
    let env = stdout(&run);
    assert_eq!(variable(&env, "NACC_SOR_IO_THREADS"), Some("3"));
    assert_eq!(variable(&env, "NACC_SOR_CONN_PER_QP"), Some("77"));
    assert_eq!(variable(&env, "NACC_LOG"), Some("debug"));
    assert_eq!(variable(&env, "NACC_SOR_MSG_SIZE"), Some("32K"));
    assert_eq!(variable(&env, "NACC_TCP_FIRST"), Some("1"));
    assert_eq!(variable(&env, "NACC_AFFINITY"), Some("cpu:0-1"));
    assert_eq!(variable(&env, "NACC_SPIN_US"), Some("250"));
    let config = variable(&env, "NACC_CONF").unwrap();
    assert!(Path::new(config).is_absolute());
    assert_eq!(
        fs::canonicalize(config).unwrap(),
        fs::canonicalize(folder.path().join("my.conf")).unwrap()
    );

    let env = stdout(&netacc_run().arg("env").assert().code(0));
    assert_eq!(variable(&env, "NACC_SOR_IO_THREADS"), None);
    assert_eq!(variable(&env, "NACC_LOG"), None);
}

#[test]
fn a_library_that_was_preloaded_before_stays_and_ours_comes_once_and_first() {
    let ours = harmless_library();
    let folder = tempfile::tempdir().unwrap();
    let (other, alias) = (
        folder.path().join("libother.so"),
        folder.path().join("libalias.so"),
    );
    fs::copy(&ours, &other).unwrap();
    symlink(&ours, &alias).unwrap();
    let before = format!("{} {}:{}", other.display(), alias.display(), ours.display());
    let run = netacc_run()
        .env("LD_PRELOAD", before)
        .arg("env")
        .assert()
        .code(0);
    let expected = format!("{}:{}", ours.display(), other.display());
    assert_eq!(
        variable(&stdout(&run), "LD_PRELOAD"),
        Some(expected.as_str())
    );
}

#[test]
fn the_library_is_found_beside_the_executable() {
    for place in [
        "bin/libnetacc-preload.so",
        "bin/libnetacc_preload.so",
        "lib/libnetacc-preload.so",
        "lib64/libnetacc-preload.so",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("bin/netacc_run");
        let library = folder.path().join(place);
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::create_dir_all(library.parent().unwrap()).unwrap();
        install(NETACC_RUN, &program, "755");
        fs::copy(harmless_library(), &library).unwrap();
        let run = bare(&program)
            .env("NACC_CONF", "/dev/null")
            .arg("env")
            .assert()
            .code(0);
        let library = fs::canonicalize(library).unwrap();
        assert_eq!(variable(&stdout(&run), "LD_PRELOAD"), library.to_str());
    }
}

#[test]
fn a_library_that_cannot_be_preloaded_is_told() {
    let run = netacc_run()
        .env("NACC_PRELOAD_LIB", "/no/such.so")
        .arg("true")
        .assert()
        .code(2);
    assert!(stderr(&run).contains("NACC_PRELOAD_LIB: there is no library \"/no/such.so\""));
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("with space.so");
    fs::copy(harmless_library(), &library).unwrap();
    let run = netacc_run()
        .env("NACC_PRELOAD_LIB", library)
        .arg("true")
        .assert()
        .code(2);
    assert!(stderr(&run).contains("a space or a colon"));
}

#[test]
fn a_bad_configuration_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bad.conf");
    fs::write(&config, "# one\nNACC_SOR_MSG_SIZE=16K\nNACC_SPINS_US=1\n").unwrap();
    let marker = folder.path().join("started");
    for extra in [
        &["--print-config"][..],
        &["touch", marker.to_str().unwrap()],
    ] {
        let run = netacc_run()
            .arg("-f")
            .arg(&config)
            .args(["-t", "0"])
            .args(extra)
            .assert()
            .code(2);
        let lines = stderr(&run);
        let lines: Vec<_> = lines.lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[0].contains(&format!("{}:2: ", config.display())) && lines[0].contains("\"16K\"")
        );
        assert!(
            lines[1].contains("bad.conf:3: ") && lines[1].contains("Did you mean NACC_SPIN_US?")
        );
        assert!(lines[2].contains("option -t: NACC_SOR_IO_THREADS is 0"));
        assert!(!marker.exists());
    }
    let run = netacc_run()
        .args(["-f", "/no/such.conf", "true"])
        .assert()
        .code(2);
    assert!(stderr(&run).contains("/no/such.conf: there is no such file."));
}

/// `netacc_run --check` with the library of this build.
fn check() -> Command {
    let mut command = netacc_run();
    command
        .arg("--check")
        .env("NACC_PRELOAD_LIB", common::library());
    command
}

/// The lines about `matter` that a check printed, without that word.
fn about<'a>(printed: &'a str, matter: &str) -> Vec<(&'a str, &'a str)> {
    let split = |line: &'a str| {
        let (verdict, rest) = line.split_once(' ')?;
        let text = rest.trim_start().strip_prefix(matter)?.strip_prefix(": ")?;
        Some((verdict, text))
    };
    printed.lines().filter_map(split).collect()
}

#[test]
fn a_check_tells_of_each_matter() {
    let run = check().arg("cat").assert().code(0);
    let printed = stdout(&run);
    assert_eq!(stderr(&run), "");
    let keys = netacc::config::keys::KEYS.len();
    let configuration = format!("/dev/null; 0 of {keys} keys are set");
    assert_eq!(
        about(&printed, "configuration"),
        [("ok", configuration.as_str())]
    );
    let version = format!("is version {}, protocol 1-2", env!("CARGO_PKG_VERSION"));
    let [("ok", library)] = about(&printed, "library")[..] else {
        panic!("{printed}");
    };
    assert!(library.ends_with(&version), "{printed}");
    let [("ok", program)] = about(&printed, "program")[..] else {
        panic!("{printed}");
    };
    assert!(program.contains("/cat can be preloaded into"), "{printed}");
    for matter in [
        "system",
        "RDMA",
        "locked memory",
        "side ports",
        "shared memory",
    ] {
        assert!(!about(&printed, matter).is_empty(), "{matter}: {printed}");
    }
    let verdicts = printed.lines().filter_map(|line| line.split(' ').next());
    assert!(
        verdicts.into_iter().all(|v| v == "ok" || v == "warning"),
        "{printed}"
    );
    // Without verbs no device is looked for.
    let run = check().env("NACC_FABRICS", "shm").assert().code(0);
    let printed = stdout(&run);
    assert_eq!(
        about(&printed, "RDMA"),
        [("ok", "not used: NACC_FABRICS does not name verbs")]
    );
}

#[test]
fn a_check_tells_what_to_fix() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bad.conf");
    let text =
        "NACC_SPINS_US=1\n[program.a]\nNACC_WINDOW_SIZE=\"1M\"\n[program.b]\nNACC_SPIN_US=2\n";
    fs::write(&config, text).unwrap();
    let run = check()
        .arg("-f")
        .arg(&config)
        .args(["-t", "0", "no-such-program-anywhere"])
        .env("NACC_PRELOAD_LIB", harmless_library())
        .env("NACC_LOGS", "1")
        .assert()
        .code(2);
    let printed = stdout(&run);
    let configuration = about(&printed, "configuration");
    let at = |line: u32| format!("{}:{line}: ", config.display());
    let expected = [
        ("fix", at(1), "Did you mean NACC_SPIN_US?"),
        ("fix", "option -t: ".to_owned(), "NACC_SOR_IO_THREADS is 0"),
        // The section that does not fit the settings for all.
        ("fix", at(3), "half of NACC_RING_SIZE"),
        (
            "warning",
            "environment variable NACC_LOGS".to_owned(),
            "Did you mean NACC_LOG?",
        ),
    ];
    assert_eq!(configuration.len(), expected.len(), "{printed}");
    for ((verdict, text), (wanted, start, part)) in configuration.iter().zip(&expected) {
        assert_eq!(verdict, wanted, "{printed}");
        assert!(text.starts_with(start) && text.contains(part), "{printed}");
    }
    let [("fix", library)] = about(&printed, "library")[..] else {
        panic!("{printed}");
    };
    assert!(library.contains("is no library of NetACC"), "{printed}");
    let [("fix", program)] = about(&printed, "program")[..] else {
        panic!("{printed}");
    };
    assert!(program.contains("no such program in PATH"), "{printed}");
}

#[test]
fn a_check_wants_a_library_of_the_same_version() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libnetacc-preload.so");
    let mut bytes = fs::read(common::library()).unwrap();
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let note = [&b"NetACC\0\0"[..], version].concat();
    let at = bytes
        .windows(note.len())
        .position(|window| window == note)
        .expect("its note");
    bytes[at + 8] = b'9';
    fs::write(&library, bytes).unwrap();
    let run = check().env("NACC_PRELOAD_LIB", &library).assert().code(2);
    let printed = stdout(&run);
    let [("fix", text)] = about(&printed, "library")[..] else {
        panic!("{printed}");
    };
    assert!(
        text.contains("is version 9") && text.contains("Install the same release"),
        "{printed}"
    );
}

#[test]
fn a_check_tells_of_a_side_port_that_is_taken() {
    let port = ports::pair();
    let offset = ports::SIDE;
    let _server = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let _other = std::net::TcpListener::bind(("127.0.0.1", port + offset)).unwrap();
    let printed = stdout(&check().assert().code(0));
    let told = format!(
        "somebody listens at {}, the side port of {port}.",
        port + offset
    );
    let warned = |(verdict, text): &(&str, &str)| *verdict == "warning" && text.starts_with(&told);
    assert!(
        about(&printed, "side ports").iter().any(warned),
        "{printed}"
    );
}

#[test]
fn settings_are_printed_with_their_sources() {
    let folder = tempfile::tempdir().unwrap();
    let text = "NACC_SOR_MSG_SIZE=\"32K\"\n[program.cat]\nNACC_SPIN_US=7\n";
    fs::write(folder.path().join("my.conf"), text).unwrap();
    let print = || {
        let mut command = netacc_run();
        command.current_dir(folder.path()).env("NACC_LOG", "warn");
        command.args(["-f", "my.conf", "-t", "3", "--print-config"]);
        command
    };
    let run = print().arg("/bin/cat").assert().code(0);
    assert_eq!(stderr(&run), "");
    let place = fs::canonicalize(folder.path()).unwrap();
    let printed = stdout(&run).replace(place.to_str().unwrap(), "/PLACE");
    assert_golden("print_config.txt", &printed);
    // Another program has no part in that section, and what was printed does as a file.
    let file = folder.path().join("printed.conf");
    fs::write(&file, stdout(&run)).unwrap();
    let other = stdout(&print().arg("true").assert().code(0));
    assert!(other.contains("NACC_SPIN_US=50 "), "{other}");
    let again = netacc_run()
        .arg("-f")
        .arg(&file)
        .arg("--print-config")
        .assert();
    let values = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap().trim_end());
        lines.map(str::to_owned).collect()
    };
    assert_eq!(values(&stdout(&again.code(0))), values(&stdout(&run)));
}

#[test]
fn who_is_left_alone_is_told_so() {
    let run = netacc_run()
        .env("NACC_PROGRAMS_EXCEPT", "cat")
        .args(["--print-config", "cat"])
        .assert()
        .code(0);
    assert!(stdout(&run).ends_with("# The lists of programs leave this one to kernel TCP.\n"));
    let run = check()
        .env("NACC_PROGRAMS", "dog")
        .arg("cat")
        .assert()
        .code(0);
    let printed = stdout(&run);
    let [("warning", text)] = about(&printed, "program")[..] else {
        panic!("{printed}");
    };
    assert!(text.contains("left to kernel TCP"), "{printed}");
}

#[test]
fn a_misspelt_variable_is_warned_of() {
    let run = netacc_run()
        .env("NACC_IO_THREADS", "1")
        .arg("true")
        .assert()
        .code(0);
    let message = stderr(&run);
    assert_eq!(message.lines().count(), 1);
    assert!(
        message.contains("NACC_IO_THREADS")
            && message.contains("Did you mean NACC_SOR_IO_THREADS?")
    );
}

#[test]
fn a_program_that_is_not_there_gives_127_and_one_that_cannot_run_126() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode| {
        let path = folder.path().join(name);
        executable(&path, text, mode);
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", "#!/bin/sh\n", "644");
    let orphan = file("orphan", "#!/no/such/interpreter\n", "755");
    let cases = [
        ("no-such-program-anywhere", 127, "no such program in PATH"),
        ("", 127, "no such program in PATH"),
        ("./no/such/file", 127, "no such file"),
        (&orphan, 127, "interpreter"),
        (&plain, 126, "not executable"),
        ("plain", 126, "not executable"),
        (folder.path().to_str().unwrap(), 126, "a directory"),
    ];
    for (program, code, part) in cases {
        let run = netacc_run()
            .env("PATH", folder.path())
            .arg(program)
            .assert()
            .code(code);
        assert!(stderr(&run).contains(part), "{program}: {}", stderr(&run));
    }
    // Like execvp: a later entry of PATH is taken, and a script without "#!" is the shell's.
    let script = file("script", "echo from the shell $1\n", "755");
    netacc_run()
        .args([&script, "x"])
        .assert()
        .code(0)
        .stdout("from the shell x\n");
    fs::create_dir(folder.path().join("true")).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    netacc_run().env("PATH", path).arg("true").assert().code(0);
}

#[test]
fn bad_usage_gives_2() {
    let bad = [
        &[][..],
        &["-x", "true"],
        &["-t"],
        &["-t", "true"],
        &["-P", "fast", "true"],
        &["-P", "11", "true"],
        &["-A", "cpu:x", "true"],
        &["-s", "16KB", "true"],
    ];
    for arguments in bad {
        let run = netacc_run().args(arguments).assert().code(2);
        assert!(!stderr(&run).is_empty());
    }
    let help = stdout(&netacc_run().arg("-h").assert().code(0));
    assert!(help.contains("-t <IO_THREADS>") && help.contains("CMD"));
    for key in netacc::config::keys::KEYS {
        let Some(option) = &key.option else { continue };
        assert!(help.contains(&format!("-{} ", option.letter)) && help.contains(key.name));
    }
    let version = stdout(&netacc_run().arg("-v").assert().code(0));
    assert_eq!(
        version,
        concat!("netacc_run ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

/// A program of three instructions, `exit(7)`, that needs no loader.
#[cfg(target_arch = "x86_64")]
fn static_program() -> Vec<u8> {
    const ADDRESS: u64 = 0x40_0000;
    let code = [0xbf, 7, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let halves =
        |elf: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let words =
        |elf: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let longs =
        |elf: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    halves(&mut elf, &[2, 62]); // ET_EXEC, EM_X86_64
    words(&mut elf, &[1]);
    longs(&mut elf, &[ADDRESS + 120, 64, 0]); // entry, program headers, no sections
    words(&mut elf, &[0]);
    halves(&mut elf, &[64, 56, 1, 0, 0, 0]);
    words(&mut elf, &[1, 5]); // PT_LOAD, readable and executable
    longs(&mut elf, &[0, ADDRESS, ADDRESS, 132, 132, 0x1000]);
    elf.extend(code);
    elf
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_static_program_runs_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("static");
    let mut elf = static_program();
    executable(&path, &elf, "755");
    let run = netacc_run().arg(&path).assert().code(7);
    assert!(stderr(&run).contains("statically linked") && stderr(&run).contains("plain TCP"));

    // Another machine's: it cannot run either, so only the first line is about preloading.
    elf[18] = 0xf3;
    executable(&path, &elf, "755");
    assert!(
        stderr(&netacc_run().arg(&path).assert().failure()).contains("another kind of machine")
    );
}

#[test]
fn a_set_user_id_program_runs_with_a_warning() {
    // SAFETY: it only returns a number.
    let run = if unsafe { libc::geteuid() } == 0 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("true");
        install("/bin/true", &path, "755");
        std::os::unix::fs::chown(&path, Some(1), None).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
        netacc_run().arg(&path).assert().code(0)
    } else {
        netacc_run().args(["su", "--version"]).assert().code(0)
    };
    assert!(stderr(&run).contains("set-user-id"), "{}", stderr(&run));
}

#[test]
fn signals_are_inherited_as_they_were() {
    let inherited = |disposition: libc::sighandler_t| {
        let mut command = std::process::Command::new(NETACC_RUN);
        command
            .env("NACC_PRELOAD_LIB", harmless_library())
            .env("NACC_CONF", "/dev/null");
        command.args(["cat", "/proc/self/status"]);
        // SAFETY: between fork and exec only these calls happen, both async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                libc::signal(libc::SIGPIPE, disposition);
                let mut set: libc::sigset_t = std::mem::zeroed();
                libc::sigaddset(&mut set, libc::SIGUSR1);
                libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
                Ok(())
            });
        }
        let status = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let bits = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap()
        };
        (
            bits("SigIgn") >> (libc::SIGPIPE - 1) & 1,
            bits("SigBlk") >> (libc::SIGUSR1 - 1) & 1,
        )
    };
    assert_eq!(inherited(libc::SIG_DFL), (0, 1));
    assert_eq!(inherited(libc::SIG_IGN), (1, 1));
}

/// The soft and the hard limit on locked memory, in KiB, of a program that `netacc_run` starts with 64 and
/// 128 KiB; `wrapper` starts `netacc_run`.
fn locked_memory(wrapper: &[&str]) -> String {
    let limited = ["--memlock=65536:131072", "--"];
    let shell = ["sh", "-c", "echo $(ulimit -S -l) $(ulimit -H -l)"];
    let run = bare("prlimit")
        .env("NACC_PRELOAD_LIB", harmless_library())
        .env("NACC_CONF", "/dev/null")
        .args(limited)
        .args(wrapper)
        .arg(NETACC_RUN)
        .args(shell)
        .assert()
        .code(0);
    assert_eq!(stderr(&run), "");
    stdout(&run).trim().to_owned()
}

#[test]
fn locked_memory_is_limited_no_more_than_need_be() {
    let raise = [
        "--memlock=65536:131072",
        "--",
        "prlimit",
        "--memlock=unlimited",
    ];
    let may_raise = bare("prlimit").args(raise).arg("true").ok().is_ok();
    let wanted = if may_raise {
        "unlimited unlimited"
    } else {
        "128 128"
    };
    assert_eq!(locked_memory(&[]), wanted);
    if may_raise {
        // The same without the privilege, which a program of root's has unless it is out of its bounds.
        let without = ["setpriv", "--bounding-set=-sys_resource", "--"];
        assert_eq!(locked_memory(&without), "128 128");
    }
}
