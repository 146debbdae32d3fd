//! The measurements' command line.

use bench::commands::{Bed, Error, Measurement, compare};
use bench::load::Workload;
use bench::product;
use bench::report::{self, Report};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measures the built product from outside; build it first: cargo build --release.
///
/// Exit codes: 0 measured, and every target met; 1 a target missed, a figure worse than allowed, or a run
/// that is void; 2 wrong usage.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Output {
    /// Print JSON in place of a table.
    #[arg(long, global = true)]
    json: bool,
    /// Keep JSON, HTML and .hgrm under DIR/MACHINE/DATE-COMMAND.*
    #[arg(long, global = true, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = "bench/record")]
    record: Option<PathBuf>,
    /// Write an HTML page with plots.
    #[arg(long, global = true, value_name = "FILE")]
    html: Option<PathBuf>,
    /// The product; else LOG_CAPTURER_BIN, beside this program, or target/release.
    #[arg(long, global = true, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Where the Loki stub listens; any free port of this host where it is not given.
    #[arg(long, global = true, value_name = "ADDR:PORT")]
    stub_listen: Option<SocketAddr>,
}

#[derive(Subcommand)]
enum Command {
    /// The commands and the workloads that there are.
    List,
    #[command(flatten)]
    Measure(Measurement),
    /// What has become worse from one record to another; exit 1 where something has.
    Compare(compare::Options),
    /// A record as an HTML page, to --html.
    Report { record: PathBuf },
}

fn main() -> ExitCode {
    let Cli { output, command } = Cli::parse();
    let done = match command {
        Command::List => {
            list();
            return ExitCode::SUCCESS;
        }
        Command::Measure(measurement) => measure(&measurement, &output),
        Command::Compare(options) => {
            compare::run(&options).map_err(Error::from).map(|(table, outcome)| {
                println!("{table}");
                outcome == compare::Outcome::Kept
            })
        }
        Command::Report { record } => Report::read(&record)
            .and_then(|report| {
                write_html(
                    &report,
                    output.html.as_deref().unwrap_or(&record.with_extension("html")),
                )
            })
            .map(|()| true)
            .map_err(Error::from),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every target was met.
fn measure(measurement: &Measurement, output: &Output) -> Result<bool, Error> {
    let binary = match &output.binary {
        Some(path) => path.clone(),
        None => product::find()?,
    };
    let progress = !output.json && std::io::stderr().is_terminal();
    let report = measurement.run(&Bed { binary, stub_listen: output.stub_listen, progress })?;
    if output.json {
        print!("{}", report.json());
    } else {
        println!("{}: {}\n{}", report.name, report.command, report.table());
    }
    if let Some(path) = &output.html {
        write_html(&report, path)?;
    }
    if let Some(root) = &output.record {
        let path = report.save(root)?;
        eprintln!("kept in {}", path.display());
    }
    Ok(report.holds())
}

fn write_html(report: &Report, path: &Path) -> Result<(), report::Error> {
    report::write(path, &report.html()?)?;
    eprintln!("written to {}", path.display());
    Ok(())
}

fn list() {
    for command in Cli::command().get_subcommands() {
        println!("{:<10} {}", command.get_name(), command.get_about().cloned().unwrap_or_default());
    }
    println!("\nworkloads:");
    for workload in Workload::all() {
        println!("{:<10} {}", workload.name, workload.about);
    }
}
