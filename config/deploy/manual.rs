//! Writes the man pages and the completions of shells, made from the command line's own types:
//! `cargo run --example manual -- DIR`. An example, so that the program does not hold what makes
//! them.

use clap::{Command, CommandFactory};
use clap_complete::{Generator, Shell};
use clap_mangen::Man;
use log_capturer::cli::Cli;
use std::fs;
use std::io::{self, Error};
use std::path::Path;
use std::process::ExitCode;

const PROGRAM: &str = "log-capturer";
const SECTION: &str = "1";
const SOURCE: &str = concat!("log-capturer ", env!("CARGO_PKG_VERSION"));
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), None) = (args.next(), args.next()) else {
        eprintln!(
            "manual: expected one argument, the directory to write to, such as target/manual"
        );
        return ExitCode::from(78);
    };
    match write(Path::new(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `DIR/man/*.1` and `DIR/completions/*`, in place of what is there.
fn write(dir: &Path) -> io::Result<()> {
    let (pages, completions) = (dir.join("man"), dir.join("completions"));
    for dir in [&pages, &completions] {
        if dir.exists() {
            fs::remove_dir_all(dir).map_err(|error| at(dir, &error))?;
        }
        fs::create_dir_all(dir).map_err(|error| at(dir, &error))?;
    }
    for page in commands() {
        let file = pages.join(format!("{}.{SECTION}", page_name(&page)));
        fs::write(&file, text(page)?).map_err(|error| at(&file, &error))?;
    }
    for shell in SHELLS {
        let file = completions.join(shell.file_name(PROGRAM));
        fs::write(&file, completion(shell)).map_err(|error| at(&file, &error))?;
    }
    Ok(())
}

/// The program's own page also says what a service needs.
fn text(page: Command) -> io::Result<Vec<u8>> {
    let is_program = page_name(&page) == PROGRAM;
    let mut text = Vec::new();
    Man::new(page).section(SECTION).source(SOURCE).manual(PROGRAM).render(&mut text)?;
    if is_program {
        text.extend_from_slice(include_bytes!("manual.roff"));
    }
    Ok(text)
}

fn completion(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command(), PROGRAM, &mut text);
    if shell != Shell::Bash {
        return text;
    }
    // clap_complete 4.6 spells a hyphen in the program's name in two ways, and then knows none of its
    // commands.
    String::from_utf8_lossy(&text).replace("log__subcmd__capturer", "log__capturer").into_bytes()
}

fn at(path: &Path, error: &Error) -> Error {
    Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The program, all of its commands knowing their full names. `help` has no page of its own: man is
/// one.
fn command() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

/// The program and each of its commands, at any depth.
fn commands() -> Vec<Command> {
    let mut all = vec![command()];
    let mut next = 0;
    while let Some(of) = all.get(next) {
        let below: Vec<Command> =
            of.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
        all.extend(below);
        next += 1;
    }
    all
}

fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn every_command_has_a_page_with_all_it_takes() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let commands = commands();
        let mut expected: Vec<String> =
            commands.iter().map(|command| format!("{}.1", page_name(command))).collect();
        expected.sort();
        assert_eq!(names(&dir.path().join("man")), expected);
        for needed in ["log-capturer.1", "log-capturer-run.1", "log-capturer-dlq-replay.1"] {
            assert!(expected.iter().any(|name| name == needed), "{needed}: {expected:?}");
        }
        for command in commands {
            let page = dir.path().join("man").join(format!("{}.1", page_name(&command)));
            let text = fs::read_to_string(page).unwrap();
            assert!(command.get_about().is_some(), "{}: says nothing", page_name(&command));
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let shown = match argument.get_long() {
                    Some(long) => format!("\\-\\-{}", long.replace('-', "\\-")),
                    None => argument.get_value_names().unwrap()[0].to_string(),
                };
                assert!(text.contains(&shown), "{}: without {shown}", page_name(&command));
            }
        }
    }

    #[test]
    fn each_shell_has_completions_of_every_command() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let completions = dir.path().join("completions");
        let files = names(&completions);
        assert_eq!(files, ["_log-capturer", "log-capturer.bash", "log-capturer.fish"]);
        for file in files {
            let text = fs::read_to_string(completions.join(&file)).unwrap();
            for command in commands() {
                assert!(text.contains(command.get_name()), "{file}: no {}", page_name(&command));
            }
        }
    }

    #[test]
    fn what_an_earlier_version_wrote_does_not_stay() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let gone = dir.path().join("man/log-capturer-gone.1");
        fs::write(&gone, "").unwrap();
        write(dir.path()).unwrap();
        assert!(!gone.exists());
    }
}
