//! The command line.

use clap::{Parser, Subcommand};
use config::Config;
use log_capturer::appliance;
use log_capturer::dlq::command as dlq;
use log_capturer::inspect as wal;
use log_capturer::own_log;
use log_capturer::positions;
use log_capturer::preflight;
use log_capturer::state::command as state;
use log_capturer::top;
use perf::errors::ErrorKey;
use std::ffi::OsStr;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

/// Ships log files to Grafana Loki: durable before it is acknowledged, one thread per core.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT; a second one leaves at once.
    Run {
        /// The configuration file (YAML).
        #[arg(long, value_name = "FILE", required_unless_present = "loki")]
        config: Option<PathBuf>,
        /// Without a file: where Loki is, such as http://127.0.0.1:3100.
        #[arg(long, value_name = "URL", conflicts_with = "config", requires = "paths")]
        loki: Option<String>,
        /// Without a file: where the log is kept.
        #[arg(
            long,
            value_name = "DIR",
            default_value = "log-capturer-data",
            conflicts_with = "config"
        )]
        data_dir: PathBuf,
        /// Without a file: files, directories or globs to follow.
        #[arg(value_name = "PATH", conflicts_with = "config")]
        paths: Vec<String>,
    },
    /// Validate a configuration and print what it amounts to; exit 78 where it is wrong.
    Check {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    Preflight(preflight::Preflight),
    /// What Loki refused for good: look at it, send it again, remove it.
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// The write-ahead logs: look into them, verify them, export what is in them. Changes nothing.
    #[command(subcommand)]
    Wal(wal::Command),
    /// How far each source was read: list it, export it, import it.
    #[command(subcommand)]
    Positions(positions::Command),
    /// Which format is written in a data_dir: show it, and have the newest written.
    #[command(subcommand)]
    State(state::Command),
    Top(top::Top),
    /// See it work: live logs, rotations, a Loki-compatible receiver, and a verdict.
    Demo {
        /// How long lines are written.
        #[arg(long, default_value_t = 15)]
        seconds: u64,
        /// Lines per second.
        #[arg(long, default_value_t = 10_000)]
        rate: u64,
        /// A real Loki in place of the built-in receiver; verified by querying it.
        #[arg(long, value_name = "URL")]
        loki: Option<String>,
    },
}

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
        Command::Run { config: Some(file), .. } => with(config::load(&file), run),
        Command::Run { loki, data_dir, paths, .. } => {
            let url = loki.expect("clap requires it where there is no file");
            let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
            with(config::quick(&url, &paths, &data_dir), run)
        }
        Command::Check { config } => with(config::load(&config), |config| {
            print!("{}", config.to_yaml());
            ExitCode::SUCCESS
        }),
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
        Command::Top(top) => ended("top", top::run(&top), top::Wrong::exit_code),
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
    ["dlq", "wal", "positions", "state", "top", "preflight"].iter().any(|tool| command == *tool)
}

fn with(config: Result<Config, config::Errors>, act: impl FnOnce(&Config) -> ExitCode) -> ExitCode {
    match config {
        Ok(config) => act(&config),
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn run(config: &Config) -> ExitCode {
    own_log::start(config.log);
    let ran = appliance::run(config);
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
