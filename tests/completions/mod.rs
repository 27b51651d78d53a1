//! The shells' completions in packaging/completions are those of the programs' options.
//!
//! Each program includes this in its own tests, where its options are known.

use std::path::PathBuf;

use clap::Command;
use clap_complete::{Generator, Shell, generate};

/// What a shell reads for `name`, and the name of its file.
fn file_of(shell: Shell, name: &str) -> String {
    match shell {
        // As bash-completion, zsh and fish look for them, but for bash's: a file without an ending tells nobody anything.
        Shell::Bash => format!("{name}.bash"),
        _ => shell.file_name(name),
    }
}

/// What clap makes of `command`, and for bash what completes the command that `wraps` says it ends with.
fn completions(shell: Shell, command: &mut Command, wraps: bool) -> String {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    generate(shell, command, &name, &mut text);
    let mut text = String::from_utf8(text).expect("completions in UTF-8");
    if wraps && shell == Shell::Bash {
        text += &wrapper(&name, &options_with_a_value(command));
    }
    text
}

/// The options after which a word is their value, and not the command.
fn options_with_a_value(command: &Command) -> Vec<String> {
    let options = command
        .get_arguments()
        .filter(|argument| !argument.is_positional());
    let options = options.filter(|option| option.get_action().takes_values());
    options
        .flat_map(|option| {
            let short = option.get_short().map(|short| format!("-{short}"));
            let long = option.get_long().map(|long| format!("--{long}"));
            [short, long].into_iter().flatten()
        })
        .collect()
}

/// Completes the command that follows the options as if it stood alone. clap's completions for bash know nothing of that.
fn wrapper(name: &str, with_value: &[String]) -> String {
    let with_value = with_value.join("|");
    format!(
        r#"
# After the options comes a command of its own: complete that as if it stood alone (bash-completion does it).
_{name}_or_command() {{
    local at=1
    while [[ $at -lt $COMP_CWORD ]]; do
        case "${{COMP_WORDS[at]}}" in
            --) at=$((at + 1)); break ;;
            {with_value}) at=$((at + 2)) ;;
            -*) at=$((at + 1)) ;;
            *) break ;;
        esac
    done
    if [[ $at -le $COMP_CWORD && "${{COMP_WORDS[at]}}" != -* ]] && declare -F _command_offset >/dev/null; then
        _command_offset $at
    else
        _{name} "$@"
    fi
}}
complete -F _{name}_or_command -o bashdefault -o default {name}
"#
    )
}

/// For the program `name`, compares the files of all shells with what they should be, or writes them when asked to.
pub fn assert_fresh(command: Command, name: &'static str, wraps: bool) {
    let mut command = command.name(name);
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("packaging/completions");
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let path = folder.join(file_of(shell, name));
        let expected = completions(shell, &mut command, wraps);
        if std::env::var_os("NETACC_UPDATE").is_some() {
            std::fs::write(&path, &expected).expect("a file that can be written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == expected,
            "{} is stale; write it anew with: make completions",
            path.display()
        );
    }
}
