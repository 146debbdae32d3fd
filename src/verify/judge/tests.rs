use super::super::triggers::pulled;
use super::*;
use crate::window::figures::Figures;
use crate::window::look::Look;
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
    judged(&judge(&rules(), &[plan.window("a", change)], None), rule).verdict
}

const RULES: [&str; 12] = [
    "reached",
    "healthy",
    "p99",
    "error_rate",
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
    let baseline = Baseline::new(vec![Figures::of(&plan.window("a", none))]);
    let windows = [plan.window("a", none), plan.window("b", none)];
    let all = judge(&rules(), &windows, Some(&baseline));
    for rule in RULES {
        assert_eq!(judged(&all, rule).verdict, Verdict::Go, "{:#?}", judged(&all, rule));
    }
    assert_eq!((all.len(), Verdict::of(&all)), (22, Verdict::Go));
    assert_eq!(pulled(&rules(), &windows), None);
}

#[test]
fn what_is_not_held_against_anything_is_skipped() {
    let all = judge(&rules(), &[Plan::well().window("a", none)], None);
    for rule in ["throughput", "spread_rate", "spread_p99"] {
        assert_eq!(judged(&all, rule).verdict, Verdict::Skipped);
    }
    assert_eq!(Verdict::of(&all), Verdict::Go);
    let off = rollout::parse(
        "rules: { p99_max: off, error_ratio_max: off, memory_max: off, memory_slope_max: off, dead_letters_max: off, \
         breakers_closed: false, no_restart: false }",
        "off",
    );
    let all = judge(&off.unwrap(), &[Plan::well().window("a", none)], None);
    assert_eq!(all.iter().filter(|judged| judged.verdict == Verdict::Skipped).count(), 10);
}

#[test]
fn each_rule_fails_by_itself() {
    let plan = Plan::well();
    let slow = Plan { seconds: 0.5, ..Plan::well() };
    let no_go = |rule: &str, plan: &Plan, change: &dyn Fn(usize, &mut Look)| {
        let all = judge(&rules(), &[plan.window("a", change)], None);
        for judged in &all {
            let expected = judged.rule == rule;
            assert_eq!(judged.verdict == Verdict::NoGo, expected, "{rule}: {judged:#?}");
        }
    };
    assert_eq!(verdict("p99", &slow, none), Verdict::Go);
    no_go("p99", &Plan { seconds: 1.0, ..Plan::well() }, &none);
    no_go("error_rate", &plan, &|at, look| {
        look.counts.errors.insert("refused: too_old".into(), 10.0 * at as f64);
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
fn throughput_is_held_against_its_own_baseline_or_the_mean() {
    let of = |instance: &str, rate: f64| Figures {
        instance: instance.into(),
        lines_per_second: rate,
        ..Figures::default()
    };
    let baseline = Baseline::new(vec![of("a", 1_100.0), of("c", 1_300.0)]);
    let judged_of = |name: &str| {
        let all = judge(&rules(), &[Plan::well().window(name, none)], Some(&baseline));
        judged(&all, "throughput").clone()
    };
    assert_eq!((judged_of("a").verdict, judged_of("a").limit), (Verdict::Go, Some(990.0)));
    assert_eq!((judged_of("b").verdict, judged_of("b").limit), (Verdict::NoGo, Some(1_080.0)));
}

#[test]
fn too_little_is_no_verdict() {
    let few = Plan { lines_per_second: 16.0, ..Plan::well() };
    for rule in ["p99", "error_rate"] {
        assert_eq!(verdict(rule, &few, none), Verdict::NotEnoughData);
    }
    // Not even where it looks bad.
    let bad = |at: usize, look: &mut Look| {
        look.counts.errors.insert("refused".into(), 10.0 * at as f64);
    };
    assert_eq!(verdict("error_rate", &few, bad), Verdict::NotEnoughData);
    let short = Plan { seconds_total: 5, ..Plan::well() };
    for rule in ["healthy", "memory", "memory_slope", "dead_letters", "breakers", "restarts"] {
        assert_eq!(verdict(rule, &short, none), Verdict::NotEnoughData, "{rule}");
    }
    // What was seen was seen.
    assert_eq!(verdict("memory", &short, |_, look| look.memory_bytes = 3e8), Verdict::NoGo);
    let all = judge(&rules(), &[short.window("a", none)], None);
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
    let all = judge(&rollout::defaults(), &[plan.window("a", steep)], None);
    let slope = judged(&all, "memory_slope");
    assert_eq!(slope.verdict, Verdict::NotEnoughData, "{slope:#?}");
    assert!(slope.why.contains("of at least 600 s"), "{}", slope.why);
}

#[test]
fn lines_that_wait_for_their_ack_are_in_no_p99() {
    let waiting = |_: usize, look: &mut Look| {
        look.lag_seconds = 30.0;
        look.unacked_lines = 5_000.0;
    };
    assert_eq!(verdict("p99", &Plan::well(), waiting), Verdict::NotEnoughData);
}

#[test]
fn instances_that_differ_are_no_go() {
    let windows = |rate: f64, seconds: f64| {
        let other = Plan { lines_per_second: rate, seconds, ..Plan::well() };
        [Plan::well().window("a", none), other.window("b", none)]
    };
    let verdicts = |windows: &[Window]| {
        let all = judge(&rules(), windows, None);
        ["spread_rate", "spread_p99"].map(|rule| judged(&all, rule).verdict)
    };
    assert_eq!(verdicts(&windows(920.0, 0.05)), [Verdict::Go, Verdict::Go]);
    assert_eq!(verdicts(&windows(880.0, 0.05)), [Verdict::NoGo, Verdict::Go]);
    assert_eq!(verdicts(&windows(1_000.0, 0.25)), [Verdict::Go, Verdict::NoGo]);
    assert_eq!(verdicts(&windows(3.0, 0.05)), [Verdict::NoGo, Verdict::NotEnoughData]);
}

fn trigger(window: Window) -> Option<String> {
    pulled(&rules(), &[Plan::well().window("well", none), window]).map(|judged| {
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
    assert_eq!(judged(&judge(&rules(), &[sick], None), "healthy").verdict, Verdict::NoGo);
    let mut open = plan.window("a", none);
    open.take(seen(61, Level::Degraded, true));
    assert!(trigger(open.clone()).unwrap().contains("every breaker is open"));
    assert_eq!(judged(&judge(&rules(), &[open], None), "healthy").verdict, Verdict::NoGo);
}

#[test]
fn at_the_end_it_has_to_answer() {
    let mut window = Plan::well().window("a", none);
    window.take(Err("refused".into()));
    let of = |window: &Window| {
        judged(&judge(&rules(), std::slice::from_ref(window), None), "reached").verdict
    };
    assert_eq!(of(&window), Verdict::NotEnoughData);
    window.take(Err("refused".into()));
    window.take(Err("refused".into()));
    assert_eq!(of(&window), Verdict::NoGo);
}
