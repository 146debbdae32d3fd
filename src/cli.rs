//! The command line: what `--help`, the man pages and the completions of shells are made of.

use crate::baseline;
use crate::dlq::command as dlq;
use crate::guard::token;
use crate::inspect as wal;
use crate::positions;
use crate::preflight;
use crate::settings::command as settings;
use crate::state::command as state;
use crate::top;
use crate::verify;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Ships log files to Grafana Loki: durable before it is acknowledged, one thread per core.
#[derive(Debug, Parser)]
#[command(version = crate::version(), about)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
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
    /// Configurations that were in force, what is different, and the way back to one.
    #[command(subcommand)]
    Config(settings::Command),
    /// What Loki refused for good: look at it, send it again, remove it.
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// The write-ahead logs: look into them, verify them, export what is in them. Changes nothing.
    #[command(subcommand)]
    Wal(wal::Command),
    /// How far each source was read: list it, export it, import it.
    #[command(subcommand)]
    Positions(positions::Command),
    /// Which format is written in a data_dir: show it, have the newest written, and who reads it.
    #[command(subcommand)]
    State(state::Command),
    Top(top::Top),
    /// Tokens for those who may come in: server.auth.tokens.
    #[command(subcommand)]
    Token(token::Command),
    /// What instances do in a window: keep it, and hold it against another.
    #[command(subcommand)]
    Baseline(baseline::Command),
    Verify(verify::Verify),
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
