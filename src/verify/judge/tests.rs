use super::super::triggers::pulled;
use super::*;
use crate::window::figures::{Figures, MeanError};
use crate::window::look::{Buckets, Look, TO_ACK, Waiting, Way};
use crate::window::target::{Health, Seen};
use crate::window::tests::Plan;
use config::rollout;
use std::time::Duration;

fn none(_: usize, _: &mut Look) {}

/// Minutes are enough.
fn rules() -> Rollout {
    let mut rollout = rollout::defaults();
    rollout.data.slope_time_min = Duration::from_secs(30);
    rollout
}

fn judged<'a>(all: &'a [Judged], rule: &str) -> &'a Judged {
    all.iter().find(|judged| judged.rule == rule).unwrap_or_else(|| panic!("no {rule}: {all:#?}"))
}

/// The verdict of a rule, on one instance.
fn verdict(rule: &str, plan: &Plan, change: impl Fn(usize, &mut Look)) -> Verdict {
    judged(&judge(&rules(), &[plan.window("a", change)], None, Sure::ONCE), rule).verdict
}

const RULES: [&str; 13] = [
    "reached",
    "healthy",
    "p99",
    "error_rate",
    "bytes_lost",
    "memory",
    "memory_slope",
    "throughput",
    "dead_letters",
    "breakers",
    "restarts",
    "spread_rate",
    "spread_p99",
];

#[test]
fn what_is_well_is_go() {
    let plan = Plan::well();
    let windows = [plan.window("a", none), plan.window("b", none)];
    let baseline = Baseline::new(windows.iter().map(Figures::of).collect());
    let all = judge(&rules(), &windows, Some(&baseline), Sure::ONCE);
    for rule in RULES {
        assert_eq!(judged(&all, rule).verdict, Verdict::Go, "{:#?}", judged(&all, rule));
    }
    assert_eq!((all.len(), Verdict::of(&all)), (24, Verdict::Go));
    assert_eq!(pulled(&rules(), &windows, Sure::ONCE), None);
}

#[test]
fn what_is_not_held_against_anything_is_skipped() {
    let all = judge(&rules(), &[Plan::well().window("a", none)], None, Sure::ONCE);
    for rule in ["throughput", "spread_rate", "spread_p99"] {
        assert_eq!(judged(&all, rule).verdict, Verdict::Skipped);
    }
    assert_eq!(Verdict::of(&all), Verdict::Go);
    let off = rollout::parse(
        "rules: { p99_max: off, error_ratio_max: off, bytes_lost_max: off, memory_max: off, memory_slope_max: off, dead_letters_max: off, \
         breakers_closed: false, no_restart: false }",
        "off",
    );
    let all = judge(&off.unwrap(), &[Plan::well().window("a", none)], None, Sure::ONCE);
    assert_eq!(all.iter().filter(|judged| judged.verdict == Verdict::Skipped).count(), 11);
}

#[test]
fn each_rule_fails_by_itself() {
    let plan = Plan::well();
    let slow = Plan { seconds: 0.5, ..Plan::well() };
    let no_go = |rule: &str, plan: &Plan, change: &dyn Fn(usize, &mut Look)| {
        let all = judge(&rules(), &[plan.window("a", change)], None, Sure::ONCE);
        for judged in &all {
            let expected = judged.rule == rule;
            assert_eq!(judged.verdict == Verdict::NoGo, expected, "{rule}: {judged:#?}");
        }
    };
    assert_eq!(verdict("p99", &slow, none), Verdict::Go);
    no_go("p99", &Plan { seconds: 1.0, ..Plan::well() }, &none);
    no_go("error_rate", &plan, &|at, look| {
        look.counts.errors.insert("refused: too_old".into(), 12.0 * at as f64);
    });
    no_go("bytes_lost", &plan, &|at, look| {
        look.counts.bytes_lost = 10.0 * f64::from(u8::from(at > 50));
    });
    no_go("memory", &plan, &|_, look| look.memory_bytes = 200e6);
    no_go("memory_slope", &plan, &|at, look| look.memory_bytes += at as f64 * 11e6 / 3600.0);
    no_go("dead_letters", &plan, &|at, look| look.dead_letters = 2.0 * at as f64);
    no_go("breakers", &plan, &|at, look| {
        look.breakers_open.insert("loki".into(), f64::from(u8::from(at == 30)));
    });
    no_go("restarts", &plan, &|at, look| look.started += 0.25 * f64::from(u8::from(at > 59)));
    assert_eq!(
        verdict("dead_letters", &plan, |at, look| look.dead_letters = at as f64),
        Verdict::Go
    );
}

#[test]
fn throughput_is_held_against_its_own_baseline() {
    let of = |instance: &str, rate: f64| Figures {
        instance: instance.into(),
        lines_per_second: rate,
        lines_per_second_error: Some(MeanError { standard: 5.0, freedom: 11.0 }),
        ..Figures::default()
    };
    let judged_of = |name: &str, instances: Vec<Figures>| {
        let windows = [Plan::well().window(name, none), Plan::well().window("x", none)];
        let all = judge(&rules(), &windows, Some(&Baseline::new(instances)), Sure::ONCE);
        judged(&all, "throughput").clone()
    };
    let both = || vec![of("a", 1_080.0), of("http://c:1", 1_300.0)];
    let known = judged_of("a", both());
    assert_eq!((known.verdict, known.limit), (Verdict::Go, Some(972.0)));
    assert_eq!(judged_of("c:1", both()).verdict, Verdict::NoGo);
    // It is 10 lines/s above the limit, or none.
    let near = judged_of("a", vec![of("a", 1_100.0), of("c", 1_300.0)]);
    assert_eq!(near.verdict, Verdict::NotEnoughData, "{near:?}");
    assert!(near.why.contains("baseline of a 1100.0; +10.0 from the limit, ± "), "{}", near.why);
    // A new one is as many others; two are not many.
    let new = judged_of("b", both());
    assert_eq!(new.verdict, Verdict::NotEnoughData);
    assert!(new.why.contains("no counterpart in the baseline"), "{}", new.why);
    let many =
        |rate: f64| (0..9u32).map(|at| of(&format!("c{at}"), rate + f64::from(at))).collect();
    assert_eq!(judged_of("b", many(1_000.0)).verdict, Verdict::Go);
    assert_eq!(judged_of("b", many(1_200.0)).verdict, Verdict::NoGo);
    let old = Figures { lines_per_second_error: None, ..of("a", 1_000.0) };
    assert!(judged_of("a", vec![old, of("c", 1.0)]).why.contains("take it anew"));
}

#[test]
fn instances_of_the_baseline_that_are_not_looked_at_are_named() {
    let named = |name: &str| Figures { instance: name.into(), ..Figures::default() };
    let windows = ["a", "b"].map(|name| Plan::well().window(name, none));
    let left = |names: &[&str]| {
        let baseline = Baseline::new(names.iter().map(|name| named(name)).collect());
        throughput::left_out(&windows, &baseline)
    };
    assert_eq!(left(&["b", "a"]), None);
    let found = left(&["c", "b", "d"]).unwrap();
    assert_eq!(
        (found.verdict, found.why.as_str()),
        (Verdict::Skipped, "in the baseline, and not looked at: c, d")
    );
}

#[test]
fn too_little_is_no_verdict() {
    let few = Plan { lines_per_second: 16.0, ..Plan::well() };
    assert_eq!(verdict("p99", &few, none), Verdict::NotEnoughData);
    // Of a few lines, the share of errors is between 0 and much.
    let fewer = Plan { lines_per_second: 5.0, ..Plan::well() };
    assert_eq!(verdict("error_rate", &fewer, none), Verdict::NotEnoughData);
    assert_eq!(verdict("error_rate", &few, none), Verdict::Go);
    let bad = |share: f64| {
        move |at: usize, look: &mut Look| {
            look.counts.errors.insert("refused".into(), share * 5.0 * at as f64);
        }
    };
    assert_eq!(verdict("error_rate", &fewer, bad(0.02)), Verdict::NotEnoughData);
    assert_eq!(verdict("error_rate", &fewer, bad(0.1)), Verdict::NoGo);
    let short = Plan { seconds_total: 5, ..Plan::well() };
    for rule in ["healthy", "memory", "memory_slope", "dead_letters", "breakers", "restarts"] {
        assert_eq!(verdict(rule, &short, none), Verdict::NotEnoughData, "{rule}");
    }
    // What was seen was seen.
    assert_eq!(verdict("memory", &short, |_, look| look.memory_bytes = 3e8), Verdict::NoGo);
    let all = judge(&rules(), &[short.window("a", none)], None, Sure::ONCE);
    assert_eq!(Verdict::of(&all), Verdict::NotEnoughData);
}

#[test]
fn a_slope_is_judged_only_where_it_is_certain() {
    let shaken = |at: usize| if at % 7 < 3 { 1.0 } else { -1.0 };
    let plan = Plan::well();
    // It may be anything.
    let wide = |at: usize, look: &mut Look| look.memory_bytes += 1e6 * shaken(at);
    assert_eq!(verdict("memory_slope", &plan, wide), Verdict::NotEnoughData);
    // Near the limit, on both sides of it.
    let near = |at: usize, look: &mut Look| {
        look.memory_bytes += at as f64 * 10e6 / 3600.0 + 1e3 * shaken(at);
    };
    assert_eq!(verdict("memory_slope", &plan, near), Verdict::NotEnoughData);
    let steep =
        |at: usize, look: &mut Look| look.memory_bytes += at as f64 * 1e6 + 1e6 * shaken(at);
    assert_eq!(verdict("memory_slope", &plan, steep), Verdict::NoGo);
    let all = judge(&rollout::defaults(), &[plan.window("a", steep)], None, Sure::ONCE);
    let slope = judged(&all, "memory_slope");
    assert_eq!(slope.verdict, Verdict::NotEnoughData, "{slope:#?}");
    assert!(slope.why.contains("of at least 600 s"), "{}", slope.why);
}

#[test]
fn lines_that_wait_for_their_ack_are_in_no_p99() {
    let waiting = |_: usize, look: &mut Look| {
        look.waiting.insert("loki".into(), Waiting { seconds: 30.0, lines: 5_000.0 });
    };
    assert_eq!(verdict("p99", &Plan::well(), waiting), Verdict::NotEnoughData);
}

#[test]
fn every_sink_is_judged_by_itself() {
    // `slow` is in the bucket up to so many seconds, and has so many lines.
    let windows = |edge: f64, share: f64| {
        let two = move |_: usize, look: &mut Look| {
            let (loki, lines) =
                (look.counts.times.keys().next().unwrap().clone(), look.counts.lines);
            let slow = Way { sink: Some("slow".into()), ..loki };
            assert_eq!(slow.of, TO_ACK);
            let lines = (lines * share).floor();
            let edges = [0.01, 0.05, 0.25, 1.0, 2.5, f64::INFINITY];
            let counts = edges.map(|at| (at, if at >= edge { lines } else { 0.0 }));
            look.counts.times.insert(slow, Buckets::of(&counts));
        };
        [Plan::well().window("a", two), Plan::well().window("b", none)]
    };
    let of = |windows: &[Window], rule: &str| {
        let all = judge(&rules(), windows, None, Sure::ONCE);
        let of = all.iter().filter(|judged| judged.rule == rule);
        of.map(|judged| (judged.sink.clone().unwrap(), judged.verdict)).collect::<Vec<_>>()
    };
    let expected = |verdict| vec![("loki".to_owned(), Verdict::Go), ("slow".to_owned(), verdict)];
    assert_eq!(of(&windows(0.25, 1.0)[..1], "p99"), expected(Verdict::Go));
    assert_eq!(of(&windows(2.5, 1.0)[..1], "p99"), expected(Verdict::NoGo));
    // In the bucket of the limit.
    assert_eq!(of(&windows(1.0, 1.0)[..1], "p99"), expected(Verdict::NotEnoughData));
    assert_eq!(of(&windows(2.5, 0.01)[..1], "p99"), expected(Verdict::NotEnoughData));
    assert_eq!(of(&windows(2.5, 1.0), "spread_p99"), expected(Verdict::Skipped));
    let twice = || [windows(2.5, 1.0)[0].clone(), windows(0.05, 1.0)[0].clone()];
    assert_eq!(of(&twice(), "spread_p99"), expected(Verdict::NoGo));
    assert!(trigger(windows(2.5, 1.0)[0].clone()).unwrap().contains("sink slow"));
    // One that takes nothing in is in no histogram.
    let stuck = Plan::well().window("a", |_, look| {
        look.waiting.insert("stuck".into(), Waiting { seconds: 30.0, lines: 5_000.0 });
    });
    let stuck = of(&[stuck], "p99");
    assert_eq!(stuck[1], ("stuck".to_owned(), Verdict::NotEnoughData));
}

#[test]
fn instances_that_differ_are_no_go() {
    let windows = |rate: f64, seconds: f64| {
        let other = Plan { lines_per_second: rate, seconds, ..Plan::well() };
        [Plan::well().window("a", none), other.window("b", none)]
    };
    let verdicts = |windows: &[Window]| {
        let all = judge(&rules(), windows, None, Sure::ONCE);
        ["spread_rate", "spread_p99"].map(|rule| judged(&all, rule).verdict)
    };
    assert_eq!(verdicts(&windows(920.0, 0.05)), [Verdict::Go, Verdict::Go]);
    assert_eq!(verdicts(&windows(880.0, 0.05)), [Verdict::NoGo, Verdict::Go]);
    // In buckets beside each other, where both may be at the edge between them.
    assert_eq!(verdicts(&windows(1_000.0, 0.25)), [Verdict::Go, Verdict::NotEnoughData]);
    assert_eq!(verdicts(&windows(1_000.0, 0.5)), [Verdict::Go, Verdict::NoGo]);
    // What is no part of the p99 that is allowed is none of a difference, either.
    assert_eq!(verdicts(&windows(1_000.0, 0.01)), [Verdict::Go, Verdict::Go]);
    assert_eq!(verdicts(&windows(3.0, 0.05)), [Verdict::NoGo, Verdict::NotEnoughData]);
}

fn trigger(window: Window) -> Option<String> {
    // As many looks as two hours have.
    let looks = Sure { times: 1_441.0 };
    pulled(&rules(), &[Plan::well().window("well", none), window], looks).map(|judged| {
        assert_eq!((judged.verdict, judged.instance.as_deref()), (Verdict::NoGo, Some("a")));
        judged.why
    })
}

#[test]
fn triggers_end_it() {
    let plan = Plan::well();
    let errors = |share: f64| {
        move |at: usize, look: &mut Look| {
            look.counts.errors.insert("refused".into(), share * 1e3 * at as f64);
        }
    };
    assert_eq!(trigger(plan.window("a", errors(0.05))), None);
    assert!(trigger(plan.window("a", errors(0.06))).unwrap().contains("error rate 6.000 %"));
    // Only what came last counts.
    let once = |at: usize, look: &mut Look| {
        look.counts.errors.insert("refused".into(), if at > 10 { 40e3 } else { 0.0 });
    };
    assert_eq!(trigger(Plan { seconds_total: 200, ..Plan::well() }.window("a", once)), None);
    assert_eq!(trigger(Plan { seconds: 1.0, ..Plan::well() }.window("a", none)), None);
    assert!(
        trigger(Plan { seconds: 2.5, ..Plan::well() }.window("a", none)).unwrap().contains("p99")
    );
    let few = Plan { seconds: 2.5, lines_per_second: 10.0, ..Plan::well() };
    assert_eq!(trigger(few.window("a", none)), None);
    // Of few lines, many have to be errors.
    let few = |lines: f64, share: f64| {
        let plan = Plan { lines_per_second: lines / 60.0, ..Plan::well() };
        trigger(plan.window("a", move |at, look| {
            look.counts.errors.insert("refused".into(), (share * lines / 60.0 * at as f64).round());
        }))
    };
    assert_eq!(few(60.0, 0.1), None);
    assert!(
        few(60.0, 0.3).unwrap().contains("error rate 30.000 %, of at most 5.000 % (of 60 lines)")
    );
    assert_eq!(few(4.0, 1.0), None);
    assert!(few(5.0, 1.0).is_some());
    let grows = |rate: f64| {
        move |at: usize, look: &mut Look| look.memory_bytes += at as f64 * rate / 3600.0
    };
    assert_eq!(trigger(plan.window("a", grows(19e6))), None);
    assert!(
        trigger(plan.window("a", grows(21e6)))
            .unwrap()
            .contains("memory grows by at least 21.0 MB/h")
    );
}

#[test]
fn what_does_not_answer_or_is_critical_ends_it_in_a_row() {
    let plan = Plan::well();
    let mut gone = plan.window("a", none);
    for expected in [false, false, true] {
        gone.take(Err("refused".into()));
        assert_eq!(trigger(gone.clone()).is_some(), expected);
    }
    assert!(trigger(gone).unwrap().contains("not reached 3 times in a row: refused"));
    let seen = |at: usize, status, breakers_all_open| {
        let health = Health { status, unwell: "queue: full".into(), breakers_all_open };
        Ok(Seen { look: plan.look(at), health: Some(health) })
    };
    let mut sick = plan.window("a", none);
    sick.take(seen(61, Level::Critical, false));
    sick.take(seen(62, Level::Critical, false));
    sick.take(seen(63, Level::Healthy, false));
    sick.take(seen(64, Level::Critical, false));
    assert_eq!(trigger(sick.clone()), None);
    sick.take(seen(65, Level::Critical, false));
    sick.take(seen(66, Level::Critical, false));
    assert!(trigger(sick.clone()).unwrap().contains("critical 3 times in a row: queue: full"));
    assert_eq!(
        judged(&judge(&rules(), &[sick], None, Sure::ONCE), "healthy").verdict,
        Verdict::NoGo
    );
    let mut open = plan.window("a", none);
    open.take(seen(61, Level::Degraded, true));
    assert!(trigger(open.clone()).unwrap().contains("every breaker is open"));
    assert_eq!(
        judged(&judge(&rules(), &[open], None, Sure::ONCE), "healthy").verdict,
        Verdict::NoGo
    );
}

#[test]
fn at_the_end_it_has_to_answer() {
    let mut window = Plan::well().window("a", none);
    window.take(Err("refused".into()));
    let of = |window: &Window| {
        judged(&judge(&rules(), std::slice::from_ref(window), None, Sure::ONCE), "reached").verdict
    };
    assert_eq!(of(&window), Verdict::NotEnoughData);
    window.take(Err("refused".into()));
    window.take(Err("refused".into()));
    assert_eq!(of(&window), Verdict::NoGo);
}
