//! What the program says to the test: one line when it listens, one JSON line at the end; and the
//! watchdog that turns a hang into a verdict.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

type Describe = Box<dyn Fn() -> Value + Send + Sync>;

static STATE: OnceLock<Describe> = OnceLock::new();

/// Sets what the watchdog prints about where things stand.
pub fn describe(f: impl Fn() -> Value + Send + Sync + 'static) {
    let _ = STATE.set(Box::new(f));
}

/// Ends the process with a failed verdict if it still runs after `seconds`. Everything else waits
/// without a time limit, so that a lost wake-up shows as a hang and is not healed by a time-out.
pub fn watchdog(seconds: u64) {
    std::thread::spawn(move || {
        // SAFETY: fills and applies a signal set of our own; signals are for the threads under test.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
        }
        std::thread::sleep(Duration::from_secs(seconds));
        let state = STATE.get().map_or(Value::Null, |f| f());
        line(&json!({"ok": false, "error": format!("not finished after {seconds} s"), "state": state}).to_string());
        // SAFETY: ends the process at once, whatever hangs.
        unsafe { libc::_exit(3) };
    });
}

static RELEASED: AtomicBool = AtomicBool::new(false);

/// From now on [`is_released`] tells whether the test has closed our standard input.
pub fn watch_input() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        RELEASED.store(true, Ordering::Relaxed);
    });
}

/// Whether the test has closed our standard input.
pub fn is_released() -> bool {
    RELEASED.load(Ordering::Relaxed)
}

/// Prints one line at once.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("{text}\n").as_bytes());
    let _ = out.flush();
}

/// Tells the test that connections can come.
pub fn listening() {
    line("listening");
}

/// Prints the verdict; with `hold`, stays (so that the counters can be read) until the test closes
/// our standard input. The exit status says what the verdict says.
pub fn finish(verdict: Value, hold: bool) -> ! {
    let ok = verdict["ok"] == json!(true);
    line(&verdict.to_string());
    if hold {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    }
    std::process::exit(if ok { 0 } else { 1 })
}
