//! How often the rules are wrong, on instances of which is known what they do: a thousand runs of each kind, always the
//! same ones.

use super::*;
use crate::verify::triggers::pulled;
use crate::window::figures::Figures;
use crate::window::look::Look;
use crate::window::tests::{Nature, Random, well};
use config::rollout;
use std::collections::{BTreeMap, BTreeSet};

const RUNS: usize = 1_000;
/// Of a thousand at [`CHANCE`], no more than this: three standard deviations above ten.
const WRONG_MAX: usize = 20;
/// Where each takes long, and how many of those.
const RUNS_FEW: usize = 200;
const WRONG_FEW_MAX: usize = 6;

fn nature(looks: usize, noise: f64, alike: f64) -> Nature {
    let (lines_per_second, latency, latency_noise, errors) = (200.0, 0.02, 0.1, 0.0);
    Nature { looks, lines_per_second, noise, alike, latency, latency_noise, errors }
}

/// What moves little, and by more than its own size; each by itself, and for a while.
fn natures() -> Vec<Nature> {
    let mut all = Vec::new();
    for looks in [12, 31] {
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
        let windows = three(of, factor, &mut random, false);
        let mut all = throughput::judge(rollout, &windows, Some(&baseline), Sure::ONCE);
        all.extend(crate::verify::spread::judge(rollout, &windows, Sure::ONCE));
        all
    })
}

impl Said {
    fn no_go(&self, rule: &str) -> usize {
        self.0[rule].0
    }

    fn go(&self, rule: &str) -> usize {
        self.0[rule].1
    }

    fn assert_rare(&self, rule: &str, of: impl Fn(&Said, &str) -> usize, nature: &Nature) {
        let wrong = of(self, rule);
        assert!(wrong <= WRONG_MAX, "{rule}: {wrong} of {RUNS} are wrong: {nature:?}");
    }
}

#[test]
fn where_nothing_changed_throughput_and_rates_are_hardly_ever_no_go() {
    // Without any tolerance, every difference that chance makes is one.
    let none = rules("rules: { throughput_drop_max: 0%, spread_max: 0% }");
    for of in natures() {
        let said = rates(of, 1.0, &none);
        for rule in ["throughput", "spread_rate"] {
            said.assert_rare(rule, Said::no_go, &of);
        }
    }
}

#[test]
fn what_is_at_the_limit_is_hardly_ever_go_nor_no_go() {
    for of in natures() {
        let said = rates(of, 0.9, &rollout::defaults());
        for rule in ["throughput", "spread_rate"] {
            said.assert_rare(rule, Said::go, &of);
            said.assert_rare(rule, Said::no_go, &of);
        }
    }
}

#[test]
fn what_is_plain_is_said() {
    let quiet = nature(61, 0.05, 0.0);
    let same = rates(quiet, 1.0, &rollout::defaults());
    let slower = rates(quiet, 0.7, &rollout::defaults());
    for rule in ["throughput", "spread_rate"] {
        assert!(same.go(rule) > 850 && slower.no_go(rule) > 850, "{same:?} {slower:?}");
    }
}

#[test]
fn a_spread_of_p99_that_is_none_is_hardly_ever_no_go() {
    // Beside an edge of the buckets and between two, with what is no part of p99_max and without.
    for p99_max in ["500ms", "off"] {
        let rollout = rules(&format!("rules: {{ p99_max: {p99_max}, spread_max: 10% }}"));
        for p99 in [0.05, 0.08] {
            for latency_noise in [0.1, 1.0] {
                let of = Nature { latency: p99 / 4.6, latency_noise, ..nature(21, 0.3, 0.3) };
                let mut random = Random::new(3);
                let said = Said::in_runs(|| {
                    let windows = three(of, 1.0, &mut random, true);
                    crate::verify::spread::judge(&rollout, &windows, Sure::ONCE)
                });
                said.assert_rare("spread_p99", Said::no_go, &of);
            }
        }
    }
}

#[test]
fn errors_at_the_limit_are_hardly_ever_no_go_nor_go_and_end_nothing() {
    // Of a few lines and of some more, once, and at each look of five minutes.
    let looks = Sure { times: 61.0 };
    for lines_per_second in [0.2, 2.0] {
        let of = Nature { lines_per_second, errors: 0.01, ..nature(61, 0.3, 0.3) };
        let mut random = Random::new(5);
        let said = Said::in_runs(|| {
            judge(&rollout::defaults(), &[of.window("a", &mut random, false)], None, Sure::ONCE)
        });
        said.assert_rare("error_rate", Said::no_go, &of);
        said.assert_rare("error_rate", Said::go, &of);
        let of = Nature { errors: 0.05, ..of };
        let mut ended = 0;
        for _ in 0..RUNS_FEW {
            let mut any = false;
            of.watch("a", &mut random, false, |window| {
                any |= pulled(&rollout::defaults(), std::slice::from_ref(window), looks).is_some();
            });
            ended += usize::from(any);
        }
        assert!(ended <= WRONG_FEW_MAX, "{ended} of {RUNS_FEW} were ended: {of:?}");
    }
}

/// Memory that moves, and grows by nothing: looks at it are alike. It is judged at each of them.
#[test]
fn memory_that_moves_and_does_not_grow_ends_nothing() {
    let looks = Sure { times: 121.0 };
    let rollout = rules("data: { slope_time_min: 5m }");
    for (noise, alike) in [(1e6, 0.0), (5e6, 0.5), (5e6, 0.9)] {
        let (mut ended, mut no_go, mut random) = (0, 0, Random::new(9));
        for _ in 0..RUNS_FEW {
            let mut window = Window::new("a".into(), 60.0);
            let (mut moved, mut any) = (random.normal(), false);
            for at_look in 0..121 {
                moved = alike * moved + (1.0 - alike * alike).sqrt() * random.normal();
                let (at, memory_bytes) = (f64::from(at_look) * 5.0, 80e6 + noise * moved);
                window.take_look(Look { at, started: 5.0, memory_bytes, ..Look::default() });
                window.health = Some(well());
                // It has moved little since the look before.
                any |= at_look % 4 == 0
                    && pulled(&rollout, std::slice::from_ref(&window), looks).is_some();
            }
            ended += usize::from(any);
            let all = judge(&rollout, &[window], None, Sure::ONCE);
            let of = |judged: &&Judged| judged.rule == "memory_slope";
            no_go += usize::from(all.iter().find(of).unwrap().verdict == Verdict::NoGo);
        }
        assert!(ended.max(no_go) <= WRONG_FEW_MAX, "{ended} {no_go}: {noise} {alike}");
    }
}
