//! The command line. The options that set keys come from the table of keys.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};
use netacc::config::Flag;
use netacc::config::keys::{Choice, KEYS};

/// What was said on the command line.
pub struct Arguments {
    settings: Vec<Setting>,
    /// `-f`.
    pub config: Option<PathBuf>,
    /// `--check`.
    pub check: bool,
    /// `--print-config`.
    pub print_config: bool,
    /// The program and its arguments; may be empty with one of these two.
    pub command: Vec<OsString>,
}

/// A key that an option sets.
struct Setting {
    key: &'static str,
    spelling: String,
    value: String,
}

const USAGE: &str = "netacc_run [OPTIONS] [--] CMD [ARGS]...";
const CONFIG: &str = "config";
const CHECK: &str = "check";
const PRINT: &str = "print-config";
const COMMAND: &str = "command";

/// The command line that is understood.
pub fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    Command::new("netacc_run")
        .about("Run CMD with its TCP connections accelerated by NetACC")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(true)
        // Whoever wraps a command line adds to it what is to count.
        .args_override_self(true)
        .override_usage(USAGE)
        .after_help(
            "Settings come from /etc/netacc.conf, then the environment, then the options; see netacc.conf(5).\n\
             Exit status: CMD's own; 2 a bad option, configuration or installation; 126 CMD cannot be run; \
             127 no such CMD.",
        )
        .args(KEYS.iter().filter_map(|key| {
            let option = key.option.as_ref()?;
            let help = format!("{} ({})", option.help, key.name);
            Some(argument(key.name, option).help(help))
        }))
        .arg(
            Arg::new(CONFIG)
                .short('f')
                .value_name("CONFIG")
                .value_parser(value_parser!(PathBuf))
                .value_hint(ValueHint::FilePath)
                .help("Configuration file instead of /etc/netacc.conf (NACC_CONF)"),
        )
        .arg(flag(CHECK, "Check configuration, installation and system, and stop"))
        .arg(flag(PRINT, "Print each setting and where it comes from, and stop"))
        .arg(
            Arg::new("version")
                .short('v')
                .long("version")
                .action(ArgAction::Version)
                .help("Print version"),
        )
        .arg(
            Arg::new(COMMAND)
                .value_name("CMD")
                .num_args(1..)
                .trailing_var_arg(true)
                .value_hint(ValueHint::CommandWithArguments)
                .value_parser(value_parser!(OsString))
                .required_unless_present_any([CHECK, PRINT])
                .help("The program and its arguments"),
        )
}

fn argument(key: &'static str, option: &Choice) -> Arg {
    let argument = Arg::new(key).short(option.letter);
    match option.takes.value_name() {
        Some(name) => argument
            .value_name(name)
            .value_hint(ValueHint::Other)
            .allow_hyphen_values(true),
        None => argument.action(ArgAction::SetTrue),
    }
}

impl Arguments {
    /// Reads the command line of this process; `-h` and `-v` end it.
    ///
    /// # Errors
    /// What is wrong with an option.
    pub fn read() -> Result<Arguments, String> {
        match command().try_get_matches() {
            Ok(matches) => Self::of(&matches),
            Err(error) if error.use_stderr() => Err(complaint(&error)),
            Err(help) => help.exit(),
        }
    }

    fn of(matches: &ArgMatches) -> Result<Arguments, String> {
        let mut settings = Vec::new();
        for key in KEYS {
            let Some(option) = &key.option else { continue };
            let given = match option.takes.value_name() {
                Some(_) => matches.get_one::<String>(key.name).map(String::as_str),
                None => matches.get_flag(key.name).then_some(""),
            };
            if let Some(given) = given {
                let spelling = format!("-{}", option.letter);
                let value = option.takes.value(given);
                let value = value.map_err(|wrong| format!("option {spelling} {wrong}."))?;
                settings.push(Setting {
                    key: key.name,
                    spelling,
                    value,
                });
            }
        }
        let command = matches.get_many::<OsString>(COMMAND);
        Ok(Arguments {
            settings,
            config: matches.get_one(CONFIG).cloned(),
            check: matches.get_flag(CHECK),
            print_config: matches.get_flag(PRINT),
            command: command.map_or_else(Vec::new, |words| words.cloned().collect()),
        })
    }

    /// The keys that options set.
    pub fn flags(&self) -> Vec<Flag<'_>> {
        let flags = self.settings.iter().map(|setting| Flag {
            key: setting.key,
            spelling: &setting.spelling,
            value: &setting.value,
        });
        flags.collect()
    }
}

/// What is wrong with the command line. clap's own advice takes what it does not know for an argument, which here is the
/// name of a program.
fn complaint(error: &clap::Error) -> String {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let option = word(ContextKind::InvalidArg).unwrap_or_default();
            let meant = word(ContextKind::SuggestedArg)
                .map(|known| format!(" Did you mean {known}?"))
                .unwrap_or_default();
            format!(
                "option {option} is none of netacc_run's.{meant} Options of the program stand behind its name; netacc_run -h lists \
                 those that stand before it."
            )
        }
        ErrorKind::MissingRequiredArgument => format!(
            "no program is named. Write {USAGE}, or netacc_run --check to look whether all is well."
        ),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            let line = line.strip_prefix("error: ").unwrap_or(line);
            format!("{line}. netacc_run -h lists the options.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn what_follows_the_command_belongs_to_it() {
        let line = [
            "netacc_run",
            "-t",
            "2",
            "-T",
            "redis-server",
            "-t",
            "--check",
            "-P",
        ];
        let arguments = Arguments::of(&command().get_matches_from(line)).unwrap();
        assert_eq!(arguments.command, ["redis-server", "-t", "--check", "-P"]);
        assert!(!arguments.check);
        let flags = arguments.flags();
        let set: Vec<_> = flags.iter().map(|flag| (flag.key, flag.value)).collect();
        assert_eq!(set, [("NACC_SOR_IO_THREADS", "2"), ("NACC_TCP_FIRST", "1")]);
    }

    #[test]
    fn of_an_option_that_stands_twice_the_last_counts() {
        let line = "netacc_run -t 2 -T -d -t 3 -f a -T -f b true -t 4".split(' ');
        let arguments = Arguments::of(&command().get_matches_from(line)).unwrap();
        let flags = arguments.flags();
        let threads = flags
            .iter()
            .filter(|flag| flag.key == "NACC_SOR_IO_THREADS");
        assert_eq!(threads.map(|flag| flag.value).collect::<Vec<_>>(), ["3"]);
        assert_eq!(flags.len(), 3);
        assert_eq!(arguments.config.as_deref(), Some(std::path::Path::new("b")));
        assert_eq!(arguments.command, ["true", "-t", "4"]);
    }
}
