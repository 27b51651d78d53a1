//! The log: `tracing` events as lines `netacc[pid] LEVEL target: message key=value` on standard error
//! or at the end of a file. Off unless asked for by `NACC_LOG`.
//!
//! A line is formatted on the stack and written with one raw system call, in whatever thread, signal
//! handler or forked child it happens; `errno` stays as it was, and an event within an event is dropped.
//! Events cost a load and a branch while the log is off; none belongs on the per-message path.

mod errno;
mod line;
mod once;
mod sink;

use std::cell::Cell;
use std::ffi::CString;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Event, Metadata, Subscriber, span};

use crate::config::{Config, LogLevel};
pub(crate) use errno::ErrnoGuard;
use line::{Fields, Line, Message};
pub use once::{Left, fallback};
use sink::Sink;

/// Whether some thread has begun to set the log up. No lock: a child forked meanwhile would hang on it.
static STARTED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread is writing a line. No destructor: events come from threads' very last calls too.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Turns the log on, if `config` asks for one. Only the first call that does has an effect.
pub fn init(config: &Config) {
    let level = match config.log {
        LogLevel::Off => return,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    if STARTED.swap(true, Relaxed) {
        return;
    }
    let _errno = ErrnoGuard::new();
    let path = match config.log_file.as_str() {
        "" => None,
        path => CString::new(path).ok(),
    };
    let log = Log {
        level,
        sink: Sink::new(path),
    };
    // It fails only if a subscriber is there already, whose owner then gets the events.
    let _ = tracing::dispatcher::set_global_default(Dispatch::new(log));
}

struct Log {
    level: LevelFilter,
    sink: Sink,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let _errno = ErrnoGuard::new();
        if BUSY.replace(true) {
            return;
        }
        let mut line = Line::new();
        let pid = rustix::process::getpid().as_raw_nonzero();
        let metadata = event.metadata();
        // An error means that the line is full, which its end shows.
        let _ = write!(
            line,
            "netacc[{pid}] {} {}:",
            metadata.level(),
            metadata.target()
        );
        event.record(&mut Message(&mut line));
        event.record(&mut Fields(&mut line));
        self.sink.write(line.finish());
        BUSY.set(false);
    }

    // Spans are not used.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
