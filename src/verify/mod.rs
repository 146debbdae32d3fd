//! `log-capturer verify`: go or no-go of a rollout.
//!
//! Instances are looked at for a while; [`judge`] and [`spread`] hold what was seen against the rules, [`triggers`] end
//! it at once where going on would only do harm, [`services`] are asked whether somebody watches, and [`report`] keeps
//! what came of it. The judges are pure: windows and limits go in, verdicts come out.

pub mod judge;
pub mod report;
pub mod services;
pub mod spread;
pub mod triggers;

use crate::ask::{Server, Text, token_of};
use crate::baseline::file::{self, Baseline, FileError};
use crate::window::Window;
use crate::window::target::{self, Target, TargetArgs, TargetError, window_time};
use clap::Args;
use config::rollout::{self, Rollout};
use judge::{Judged, Sure, Verdict};
use report::Report;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const CODES: &str = "\
JSON: {version, written_by, verdict (go, no_go, not_enough_data), started, ended, for_seconds, seconds, ended_early, \
rules: [{rule, instance, sink, figure, limit, unit, verdict, why}], instances: [as baseline save has them]}.

Exit code: 0 go; 2 no-go; 3 not enough data; 1 a report could not be written; 78 wrong arguments or files.";

/// Whether what was rolled out is good: go or no-go, from what instances do while it runs.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct Verify {
    #[command(flatten)]
    targets: TargetArgs,
    /// How long they are looked at, from 1s to 168h.
    #[arg(long = "for", value_name = "TIME", default_value = "2h", value_parser = window_time)]
    over: Duration,
    /// What baseline save kept: throughput is held against it.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// The rules (YAML); config/examples/rollout.yaml has all of them with their defaults.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Where the verdict goes as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where it goes as a sheet with plots.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A Prometheus that has to scrape them, with the shipped rules, none of which fires.
    #[arg(long, value_name = "URL")]
    prometheus: Option<String>,
    /// A Grafana that has to have the shipped dashboards.
    #[arg(long, value_name = "URL")]
    grafana: Option<String>,
    /// A file with a token of a service account of that Grafana.
    #[arg(long, value_name = "FILE", requires = "grafana")]
    grafana_token_file: Option<PathBuf>,
    /// End at the first rule that does not hold, and not only at a trigger.
    #[arg(long)]
    fail_fast: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error(
        "--targets: expected the address of at least one instance, such as http://127.0.0.1:8401"
    )]
    NoTarget,
    #[error("{0}")]
    Rules(#[from] config::Errors),
    #[error("{0}")]
    Baseline(FileError),
    #[error("--{flag} {url}: expected an address such as {example}")]
    Url { flag: &'static str, url: Text, example: &'static str },
    #[error("--grafana-token-file {}: {what}", path.display())]
    Token { path: PathBuf, what: String },
    #[error("signals: {0}")]
    Signals(std::io::Error),
    #[error("{0}")]
    Write(FileError),
    #[error("the sheet: {0}")]
    Sheet(#[from] bench::report::Error),
    #[error("standard output: {0}")]
    Output(std::io::Error),
    #[error("no-go")]
    NoGo,
    #[error("not enough data for a verdict; look at them for longer (--for), or under more load")]
    NotEnoughData,
}

impl VerifyError {
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            VerifyError::NoGo => 2,
            VerifyError::NotEnoughData => 3,
            VerifyError::Signals(_)
            | VerifyError::Write(_)
            | VerifyError::Sheet(_)
            | VerifyError::Output(_) => 1,
            _ => 78,
        }
    }
}

/// What was checked before anything was asked.
struct Plan {
    targets: Vec<Target>,
    rollout: Rollout,
    baseline: Option<Baseline>,
    prometheus: Option<Server>,
    grafana: Option<Server>,
}

pub fn run(options: &Verify) -> Result<(), VerifyError> {
    let mut plan = options.plan()?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).map_err(VerifyError::Signals)?;
    }
    let (started, start) = (report::now(), Instant::now());
    let (windows, early) = options.watch(&mut plan, start, &stop);
    let took = start.elapsed();
    // With --fail-fast, any of the looks might have ended it.
    let sure = if options.fail_fast { options.sure() } else { Sure::ONCE };
    let mut rules = judge::judge(&plan.rollout, &windows, plan.baseline.as_ref(), sure);
    rules.extend(
        plan.baseline.as_ref().and_then(|baseline| judge::throughput::left_out(&windows, baseline)),
    );
    if let Some(server) = &plan.prometheus {
        rules.extend(services::prometheus(server, &windows));
    }
    if let Some(server) = &plan.grafana {
        rules.extend(services::grafana(server));
    }
    let ended_early = early.as_ref().map(|early| match &early.instance {
        Some(instance) => format!("{instance}: {}", early.why),
        None => early.why.clone(),
    });
    rules.extend(early);
    options.tell(&Report::new(rules, &windows, started, (options.over, took), ended_early))
}

impl Verify {
    fn plan(&self) -> Result<Plan, VerifyError> {
        let targets = self.targets.open()?;
        if targets.is_empty() {
            return Err(VerifyError::NoTarget);
        }
        let server = |flag, url: &Option<String>, example| {
            let wrong = |url: &String| VerifyError::Url { flag, url: Text::of(url), example };
            url.as_ref().map(|url| Server::new(url).ok_or_else(|| wrong(url))).transpose()
        };
        let grafana = server("grafana", &self.grafana, "http://127.0.0.1:3000")?;
        let grafana = match (grafana, self.token()?) {
            (Some(server), Some(token)) => Some(server.authorized(format!("Bearer {token}"))),
            (server, _) => server,
        };
        Ok(Plan {
            targets,
            rollout: match &self.rules {
                Some(file) => rollout::load(file)?,
                None => rollout::defaults(),
            },
            baseline: self
                .baseline
                .as_ref()
                .map(|file| Baseline::read(file))
                .transpose()
                .map_err(VerifyError::Baseline)?,
            prometheus: server("prometheus", &self.prometheus, "http://127.0.0.1:9090")?,
            grafana,
        })
    }

    fn token(&self) -> Result<Option<String>, VerifyError> {
        let Some(path) = &self.grafana_token_file else { return Ok(None) };
        let wrong = |what| VerifyError::Token { path: path.clone(), what };
        token_of(path).map(Some).map_err(wrong)
    }

    /// Until it is over, or ends early.
    fn watch(
        &self,
        plan: &mut Plan,
        start: Instant,
        stop: &AtomicBool,
    ) -> (Vec<Window>, Option<Judged>) {
        let recent = plan.rollout.triggers.over.as_secs_f64();
        let named = |target: &Target| Window::new(target.name(), recent);
        let mut windows: Vec<Window> = plan.targets.iter().map(named).collect();
        let mut announced = false;
        loop {
            let began = start.elapsed();
            let seen = target::look_at(&mut plan.targets, start, true);
            for ((window, seen), target) in windows.iter_mut().zip(seen).zip(&plan.targets) {
                window.addresses = target.addresses();
                window.take(seen);
            }
            if !announced {
                self.announce();
                announced = true;
            }
            if let Some(early) = self.early(plan, &windows) {
                return (windows, Some(early));
            }
            if began >= self.over {
                return (windows, None);
            }
            let next = (began + self.targets.interval).min(self.over);
            if !rest(start, next, stop) {
                let why = "ended by a signal, before its time";
                return (windows, Some(Judged::new("time", Verdict::NotEnoughData, why)));
            }
        }
    }

    /// Whoever waits for hours is told what for.
    fn announce(&self) {
        let [over, interval] = [self.over, self.targets.interval].map(config::duration_text);
        let count = self.targets.targets.len();
        eprintln!("looked at {count} instances once; now for {over}, every {interval}");
    }

    /// Of all its looks.
    fn sure(&self) -> Sure {
        Sure { times: (self.over.as_secs_f64() / self.targets.interval.as_secs_f64()).ceil() + 1.0 }
    }

    fn early(&self, plan: &Plan, windows: &[Window]) -> Option<Judged> {
        let sure = self.sure();
        triggers::pulled(&plan.rollout, windows, sure).or_else(|| {
            let judged = || judge::judge(&plan.rollout, windows, plan.baseline.as_ref(), sure);
            let first = self.fail_fast.then(judged)?;
            let failed = first.into_iter().find(|judged| judged.verdict == Verdict::NoGo)?;
            let why = format!("--fail-fast: {} does not hold: {}", failed.rule, failed.why);
            let (rule, instance) = ("fail_fast", failed.instance);
            Some(Judged { instance, ..Judged::new(rule, Verdict::NoGo, why) })
        })
    }

    fn tell(&self, report: &Report) -> Result<(), VerifyError> {
        let out = &mut BufWriter::new(std::io::stdout().lock());
        let printed = report.print(out).and_then(|()| out.flush());
        // Whoever reads it may have gone; the files are for others.
        let write =
            |path: &PathBuf, text: &str| file::write(path, text).map_err(VerifyError::Write);
        let json = self.json.as_ref().map_or(Ok(()), |path| write(path, &report.json()));
        let html = self.html.as_ref().map_or(Ok(()), |path| write(path, &report.html()?));
        let told = json.and(html).and(printed.map_err(VerifyError::Output));
        match report.verdict {
            // Whatever else went wrong, this counts.
            Verdict::NoGo => {
                told.unwrap_or_else(|error| eprintln!("log-capturer verify: {error}"));
                Err(VerifyError::NoGo)
            }
            Verdict::NotEnoughData => told.and(Err(VerifyError::NotEnoughData)),
            Verdict::Go | Verdict::Skipped => told,
        }
    }
}

/// How often it is looked whether it is to end.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// False where it was told to end.
fn rest(start: Instant, until: Duration, stop: &AtomicBool) -> bool {
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let left = until.saturating_sub(start.elapsed());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(STOP_INTERVAL));
    }
}
