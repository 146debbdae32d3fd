//! How often the rules are wrong, on instances of which is known what they do: a thousand runs of each kind, always the
//! same ones.

use super::*;
use crate::verify::triggers::pulled;
use crate::window::figures::Figures;
use crate::window::tests::{Nature, Random};
use config::rollout;
use std::collections::{BTreeMap, BTreeSet};

const RUNS: usize = 1_000;
/// Of a thousand at [`CHANCE`], no more than this: three standard deviations above ten.
const WRONG_MAX: usize = 20;

fn nature(looks: usize, noise: f64, alike: f64) -> Nature {
    let (lines_per_second, latency, latency_noise, errors) = (200.0, 0.02, 0.1, 0.0);
    Nature { looks, lines_per_second, noise, alike, latency, latency_noise, errors }
}

/// What moves little, and by more than its own size; each by itself, and for a while.
fn natures() -> Vec<Nature> {
    let mut all = Vec::new();
    for looks in [12, 61] {
        for (noise, alike) in [(0.05, 0.0), (0.5, 0.0), (0.05, 0.6), (0.5, 0.6)] {
            all.push(nature(looks, noise, alike));
        }
    }
    all
}

/// Three instances of a nature, the second of which has so much of its rate.
fn three(of: Nature, factor: f64, random: &mut Random, with_latency: bool) -> [Window; 3] {
    [("a", 1.0), ("b", factor), ("c", 1.0)].map(|(name, factor)| {
        let of = Nature { lines_per_second: of.lines_per_second * factor, ..of };
        of.window(name, random, with_latency)
    })
}

fn rules(text: &str) -> Rollout {
    rollout::parse(text, "rules").unwrap()
}

/// How often each rule says no-go, and go, of all that it is about.
#[derive(Debug, Default)]
struct Said(BTreeMap<&'static str, (usize, usize)>);

impl Said {
    fn in_runs(mut judged: impl FnMut() -> Vec<Judged>) -> Said {
        let mut said = Said::default();
        for _ in 0..RUNS {
            let all = judged();
            let rules: BTreeSet<&'static str> = all.iter().map(|judged| judged.rule).collect();
            for rule in rules {
                let of = || all.iter().filter(|judged| judged.rule == rule);
                let (no_go, go) = said.0.entry(rule).or_default();
                *no_go += usize::from(of().any(|judged| judged.verdict == Verdict::NoGo));
                *go += usize::from(of().all(|judged| judged.verdict == Verdict::Go));
            }
        }
        said
    }
}

/// Against a baseline of as long, the instance `b` having so much of its rate.
fn rates(of: Nature, factor: f64, rollout: &Rollout) -> Said {
    let mut random = Random::new(7);
    Said::in_runs(|| {
        let before = three(of, 1.0, &mut random, false);
        let baseline = Baseline::new(before.iter().map(Figures::of).collect());
        judge(rollout, &three(of, factor, &mut random, false), Some(&baseline), Sure::ONCE)
    })
}

#[test]
fn where_nothing_changed_throughput_and_rates_are_hardly_ever_no_go() {
    // Without any tolerance, every difference that chance makes is one.
    let none = rules("rules: { throughput_drop_max: 0%, spread_max: 0% }");
    for of in natures() {
        let said = rates(of, 1.0, &none);
        for rule in ["throughput", "spread_rate"] {
            eprintln!("none {rule} {of:?}: {:?}", said.0[rule]);
        }
    }
}

#[test]
fn what_is_beyond_the_limit_is_hardly_ever_go() {
    // At the limit itself, more is none.
    for of in natures() {
        let said = rates(of, 0.9, &rollout::defaults());
        for rule in ["throughput", "spread_rate"] {
            eprintln!("at the limit {rule} {of:?}: {:?}", said.0[rule]);
        }
    }
}
