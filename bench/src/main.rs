//! The measurements' command line.

use bench::commands::ALL;
use bench::product;
use bench::record::Record;
use clap::{Parser, Subcommand};
use std::path::Path;
use std::process::ExitCode;

/// Measures the built product; build it first: cargo build --release.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The measurements there are.
    List,
    /// Runs one measurement, or `all`.
    #[command(external_subcommand)]
    Run(Vec<String>),
}

/// Of one measurement.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct RunArgs {
    /// A name that `list` shows, or `all`.
    name: String,
    /// JSON in place of a table.
    #[arg(long)]
    json: bool,
    /// Keep the figures in bench/record/.
    #[arg(long)]
    record: bool,
}

fn main() -> ExitCode {
    let args = match Cli::parse().command {
        Command::List => {
            for bench in &ALL {
                println!("{:<10} {}", bench.name, bench.about);
            }
            return ExitCode::SUCCESS;
        }
        Command::Run(args) => RunArgs::parse_from(args),
    };
    let chosen: Vec<_> =
        ALL.iter().filter(|bench| args.name == "all" || args.name == bench.name).collect();
    if chosen.is_empty() {
        eprintln!("expected a measurement, found {:?}; `list` shows them", args.name);
        return ExitCode::from(2);
    }
    for bench in chosen {
        if let Err(error) = run(bench, &args) {
            eprintln!("{}: {error}", bench.name);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(bench: &bench::commands::Bench, args: &RunArgs) -> Result<(), bench::commands::Error> {
    let binary = product::find()?;
    let record = Record::new(bench.name, (bench.run)(&binary)?);
    if args.json {
        print!("{}", record.json());
    } else {
        println!("{}: {}\n{}", bench.name, bench.about, record.table());
    }
    if args.record {
        let path = record.save(Path::new("bench/record"), bench.name)?;
        eprintln!("kept in {}", path.display());
    }
    Ok(())
}
