//! The program: what each command of [`log_capturer::cli`] does, and its exit code.

use clap::Parser;
use log_capturer::appliance;
use log_capturer::baseline;
use log_capturer::cli::{Cli, Command};
use log_capturer::dlq::command as dlq;
use log_capturer::guard::token;
use log_capturer::inspect as wal;
use log_capturer::own_log;
use log_capturer::positions;
use log_capturer::preflight;
use log_capturer::settings::{Settings, command as settings};
use log_capturer::state::command as state;
use log_capturer::top;
use log_capturer::verify;
use perf::errors::ErrorKey;
use std::ffi::OsStr;
use std::fmt::Display;
use std::process::ExitCode;

/// What a shell sees of a wrong configuration: sysexits' EX_CONFIG.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        // What these commands are given wrongly is one kind of mistake, wherever it is noticed.
        if error.use_stderr() && std::env::args_os().nth(1).is_some_and(|first| is_tool(&first)) {
            let _ = error.print();
            std::process::exit(EXIT_CONFIG.into());
        }
        error.exit()
    });
    match cli.command {
        Command::Run { config: Some(file), .. } => with(Settings::of_file(&file), run),
        Command::Run { loki, data_dir, paths, .. } => {
            let url = loki.expect("clap requires it where there is no file");
            let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
            with(config::quick(&url, &paths, &data_dir).map(Settings::fixed), run)
        }
        Command::Check { config } => with(config::load(&config), |config| {
            config.renamed.iter().for_each(|key| eprintln!("log-capturer check: warning: {key}"));
            print!("{}", config.to_yaml());
            ExitCode::SUCCESS
        }),
        Command::Config(command) => {
            ended("config", settings::run(&command), settings::CommandError::exit_code)
        }
        Command::Preflight(preflight) => ExitCode::from(preflight::run(&preflight)),
        Command::Dlq(command) => ended("dlq", dlq::run(&command), dlq::CommandError::exit_code),
        Command::Wal(command) => ended("wal", wal::run(&command), wal::CommandError::exit_code),
        Command::Positions(command) => {
            let ran = positions::run(&command);
            ended("positions", ran, positions::CommandError::exit_code)
        }
        Command::State(command) => {
            ended("state", state::run(&command), state::CommandError::exit_code)
        }
        Command::Token(command) => {
            ended("token", token::run(&command), token::CommandError::exit_code)
        }
        Command::Top(top) => ended("top", top::run(&top), top::Wrong::exit_code),
        Command::Baseline(command) => {
            ended("baseline", baseline::run(&command), baseline::CommandError::exit_code)
        }
        Command::Verify(options) => {
            ended("verify", verify::run(&options), verify::VerifyError::exit_code)
        }
        Command::Demo { seconds, rate, loki } => demo(seconds, rate, loki),
    }
}

fn ended<E: Display>(command: &str, ran: Result<(), E>, code: impl Fn(&E) -> u8) -> ExitCode {
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("log-capturer {command}: {error}");
            ExitCode::from(code(&error))
        }
    }
}

/// The commands for what is in a data_dir, runs, or is to run.
fn is_tool(command: &OsStr) -> bool {
    [
        "baseline",
        "config",
        "dlq",
        "positions",
        "preflight",
        "state",
        "token",
        "top",
        "verify",
        "wal",
    ]
    .iter()
    .any(|tool| command == *tool)
}

fn with<T>(config: Result<T, config::Errors>, act: impl FnOnce(T) -> ExitCode) -> ExitCode {
    match config {
        Ok(config) => act(config),
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn run(settings: Settings) -> ExitCode {
    own_log::start(settings.in_force().log);
    let ran = appliance::run(settings);
    if let Err(error) = &ran {
        own_log::last(ErrorKey::RunFailed, &error.to_string(), &[]);
    }
    own_log::finish();
    ran.map_or_else(|error| ExitCode::from(error.exit_code()), |()| ExitCode::SUCCESS)
}

fn demo(seconds: u64, rate: u64, loki: Option<String>) -> ExitCode {
    let ran = std::env::current_exe().map_err(|error| error.to_string()).and_then(|binary| {
        bench::demo::run(&binary, &bench::demo::DemoOptions { seconds, rate, loki })
            .map_err(|error| error.to_string())
    });
    match ran {
        Ok(verdict) if verdict.holds() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("log-capturer demo: {error}");
            ExitCode::FAILURE
        }
    }
}
