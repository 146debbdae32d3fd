//! Cases made by seeds, run by the thousand, shrunk where they fail, and replayed from one line.
//!
//! A case is a list of operations, each with a seed of its own: whatever an operation decides by chance
//! does not depend on where it stands, so one that is left out changes no other. It is written as
//! `OPTIONS:KIND.SEED,KIND.SEED`, with the numbers in hexadecimal.

use super::{Events, below, random};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Something that runs cases. A case fails by a panic.
pub trait Simulation: Sync {
    /// Of the test that replays a case.
    const NAME: &str;
    /// The operations, by their names.
    const KINDS: &[&str];
    /// What has to happen some time in a campaign.
    const EVENTS: &[&str];

    /// How likely each kind is under these options; a swarm leaves some out.
    fn weights(&self, options: u64) -> Vec<u64>;

    fn run(&self, case: &Case, events: &Events);
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub options: u64,
    pub ops: Vec<Op>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    pub kind: usize,
    pub seed: u32,
}

const OPS_MAX: usize = 48;
const SEEDS: u64 = 20_000;

impl Case {
    #[must_use]
    pub fn generate<S: Simulation>(simulation: &S, mut seed: u64) -> Case {
        let options = random(&mut seed) & 0xffff_ffff;
        let weights = simulation.weights(options);
        let all = usize::try_from(weights.iter().sum::<u64>()).expect("weights are small");
        let count = 1 + below(&mut seed, OPS_MAX);
        let mut op = || {
            let mut left = below(&mut seed, all) as u64;
            let kind = weights.iter().position(|weight| {
                let here = left < *weight;
                left = left.saturating_sub(*weight);
                here
            });
            let seed = (random(&mut seed) & 0xffff_ffff) as u32;
            Op { kind: kind.expect("below the sum"), seed }
        };
        let ops = std::iter::repeat_with(&mut op).take(count).collect();
        Case { options, ops }
    }

    #[must_use]
    pub fn line<S: Simulation>(&self) -> String {
        let op = |op: &Op| format!("{}.{:x}", S::KINDS[op.kind], op.seed);
        let ops: Vec<String> = self.ops.iter().map(op).collect();
        format!("{:x}:{}", self.options, ops.join(","))
    }

    #[must_use]
    pub fn parse<S: Simulation>(line: &str) -> Option<Case> {
        let (options, ops) = line.trim().split_once(':')?;
        let op = |text: &str| {
            let (kind, seed) = text.split_once('.')?;
            let kind = S::KINDS.iter().position(|known| *known == kind)?;
            Some(Op { kind, seed: u32::from_str_radix(seed, 16).ok()? })
        };
        let ops: Option<Vec<Op>> = ops.split(',').filter(|op| !op.is_empty()).map(op).collect();
        Some(Case { options: u64::from_str_radix(options, 16).ok()?, ops: ops? })
    }
}

/// The names of operations that stand with their weights.
#[must_use]
pub const fn names<const N: usize>(weights: &[(&'static str, u64); N]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut at = 0;
    while at < N {
        names[at] = weights[at].0;
        at += 1;
    }
    names
}

/// A swarm: under each options some kinds are left out, and of others there is much. No run does
/// without the first `always`.
#[must_use]
pub fn swarm(weights: &[(&'static str, u64)], always: usize, options: u64) -> Vec<u64> {
    let mut seed = options ^ 0x5eed;
    let mut weight = |(at, (_, usual)): (usize, &(&str, u64))| match below(&mut seed, 4) {
        0 if at >= always => 0,
        1 => usual * 3,
        _ => *usual,
    };
    weights.iter().enumerate().map(&mut weight).collect()
}

thread_local! {
    /// What this thread panicked with, while it runs cases.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static QUIET: RefCell<bool> = const { RefCell::new(false) };
}

/// Panics of threads that run cases are kept for the report, and not printed.
fn keep_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.with_borrow(|quiet| *quiet) {
                PANIC.set(Some(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
}

/// Runs a case; how it failed.
pub fn attempt<S: Simulation>(simulation: &S, case: &Case, events: &Events) -> Result<(), String> {
    keep_panics();
    QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| simulation.run(case, events)));
    QUIET.set(false);
    outcome.map_err(|_| PANIC.take().unwrap_or_default())
}

/// Leaves out operations for as long as the case fails (ddmin).
#[must_use]
pub fn shrink<S: Simulation>(simulation: &S, case: &Case) -> Case {
    let mut case = case.clone();
    let mut parts = 2;
    while case.ops.len() > 1 {
        let size = case.ops.len().div_ceil(parts);
        let smaller = (0..case.ops.len()).step_by(size).find_map(|from| {
            let mut ops = case.ops.clone();
            ops.drain(from..(from + size).min(ops.len()));
            let smaller = Case { ops, ..case.clone() };
            attempt(simulation, &smaller, &Events::default()).is_err().then_some(smaller)
        });
        match smaller {
            Some(smaller) => {
                case = smaller;
                parts = parts.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(case.ops.len()),
        }
    }
    case
}

/// A case that failed, as small as it gets.
#[derive(Debug)]
pub struct Failure {
    pub line: String,
    pub why: String,
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}", self.line, self.why)
    }
}

/// The first of these seeds that fails, shrunk.
#[must_use]
pub fn hunt<S: Simulation>(simulation: &S, seeds: std::ops::Range<u64>) -> Option<(u64, Failure)> {
    seeds.into_iter().find_map(|seed| {
        let case = Case::generate(simulation, seed);
        let failed = attempt(simulation, &case, &Events::default()).is_err();
        failed.then(|| (seed, failure(simulation, &case)))
    })
}

fn failure<S: Simulation>(simulation: &S, case: &Case) -> Failure {
    let case = shrink(simulation, case);
    let why = attempt(simulation, &case, &Events::default());
    Failure { line: case.line::<S>(), why: why.err().unwrap_or_else(|| "not again".into()) }
}

/// Replays the corpus, then runs `SIM_SEEDS` random seeds from `SIM_FIRST` on, on all CPUs; or just the
/// one case of `SIM_CASE`. Panics with what failed, and where an event never happened.
pub fn campaign<S: Simulation>(simulation: &S, corpus: &Path) {
    if let Ok(line) = std::env::var("SIM_CASE") {
        match Case::parse::<S>(&line) {
            // Of another simulation.
            None => return println!("{}: not a case of this one", S::NAME),
            Some(case) => return simulation.run(&case, &Events::default()),
        }
    }
    replay(simulation, corpus);
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let (first, count) = (number("SIM_FIRST").unwrap_or(0), number("SIM_SEEDS").unwrap_or(SEEDS));
    let next = AtomicU64::new(first);
    let failed: Mutex<Option<(u64, Case)>> = Mutex::new(None);
    let counts: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let started = std::time::Instant::now();
    let work = || {
        let events = Events::default();
        while failed.lock().expect("no panic under it").is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                break;
            }
            let case = Case::generate(simulation, seed);
            let of_case = Events::default();
            let outcome = attempt(simulation, &case, &of_case);
            events.add(&of_case);
            if outcome.is_err() {
                failed.lock().expect("likewise").get_or_insert((seed, case));
            }
        }
        let mut counts = counts.lock().expect("likewise");
        for (event, count) in events.counts() {
            *counts.entry(event).or_default() += count;
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    if let Some((seed, case)) = failed.into_inner().expect("likewise") {
        let failure = failure(simulation, &case);
        let file = keep(corpus, &failure.line);
        panic!(
            "seed {seed}: {}\nkept in {}; to see it again: SIM_CASE='{}' cargo test {}",
            failure.why,
            file.display(),
            failure.line,
            S::NAME
        );
    }
    let counts = counts.into_inner().expect("likewise");
    let rate = count as f64 / started.elapsed().as_secs_f64();
    println!("{}: {count} seeds, {rate:.0}/s, {counts:?}", S::NAME);
    // A few seeds are for looking at something, and not for finding everything.
    if count >= SEEDS {
        let never: Vec<_> = S::EVENTS.iter().filter(|event| !counts.contains_key(*event)).collect();
        assert!(never.is_empty(), "{}: never happened: {never:?}", S::NAME);
    }
}

/// What failed before has to pass.
fn replay<S: Simulation>(simulation: &S, corpus: &Path) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(corpus)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a case can be read");
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let case = Case::parse::<S>(line);
            let case = case.unwrap_or_else(|| panic!("{}: {line}: not a case", file.display()));
            if let Err(why) = attempt(simulation, &case, &Events::default()) {
                panic!("{}: {why}\nSIM_CASE='{line}' cargo test {}", file.display(), S::NAME);
            }
        }
    }
}

fn keep(corpus: &Path, line: &str) -> PathBuf {
    let file = corpus.join(format!("{:08x}.case", crc32c::crc32c(line.as_bytes())));
    std::fs::create_dir_all(corpus)
        .and_then(|()| std::fs::write(&file, format!("{line}\n")))
        .unwrap_or_else(|error| println!("{} cannot be kept: {error}", file.display()));
    file
}
