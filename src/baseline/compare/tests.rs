use super::*;

fn error(standard: f64) -> Option<MeanError> {
    Some(MeanError { standard, freedom: 12.0 })
}

fn figures() -> Figures {
    let latency = |of: &str, p99: f64| Latency {
        of: of.into(),
        lines: 5_000.0,
        p50_seconds: Some(p99 / 4.0),
        p50_error: error(p99 / 400.0),
        p95_seconds: Some(p99 / 2.0),
        p95_error: error(p99 / 400.0),
        p99_seconds: Some(p99),
        p99_error: error(p99 / 200.0),
        ..Latency::default()
    };
    Figures {
        instance: "a".into(),
        seconds: 60.0,
        looks: 14,
        lines: 60_000.0,
        lines_per_second: 1_000.0,
        lines_per_second_error: error(5.0),
        bytes_per_second: 1e5,
        bytes_per_second_error: error(5e2),
        latency: vec![latency("read", 0.004), latency("source_to_ack", 0.1)],
        error_ratio: Some(0.0),
        cpu_cores: 0.1,
        cpu_cores_error: error(0.001),
        memory_bytes: 30e6,
        open_fds: 40.0,
        threads: 8.0,
        ..Figures::default()
    }
}

fn verdict(change: impl Fn(&mut Figures), name: &str, given: &[(Name, f64)]) -> Verdict {
    let (a, mut b) = (figures(), figures());
    change(&mut b);
    let rows = rows(&a, &b, &Tolerances::of(given), 1);
    let found = rows.iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {rows:#?}")).verdict
}

#[test]
fn what_is_worse_by_more_than_it_may_is_worse() {
    let rate = |rate: f64| move |of: &mut Figures| of.lines_per_second = rate;
    assert_eq!(verdict(rate(930.0), "lines/s", &[]), Verdict::Same);
    assert_eq!(verdict(rate(895.0), "lines/s", &[]), Verdict::NotEnough);
    assert_eq!(verdict(rate(850.0), "lines/s", &[]), Verdict::Worse);
    // Better, or the same: worse in no case.
    assert_eq!(verdict(rate(1_105.0), "lines/s", &[]), Verdict::Same);
    assert_eq!(verdict(rate(1_200.0), "lines/s", &[]), Verdict::Better);
    let wide = [(Name::LinesPerSecond, 0.2)];
    assert_eq!(verdict(rate(895.0), "lines/s", &wide), Verdict::Same);
    let p99 = |p99: f64| move |of: &mut Figures| of.latency[1].p99_seconds = Some(p99);
    assert_eq!(verdict(p99(0.12), "source_to_ack p99", &[]), Verdict::Same);
    assert_eq!(verdict(|of| of.bytes_lost = 1.0, "bytes lost", &[]), Verdict::Worse);
    assert_eq!(verdict(p99(0.2), "source_to_ack p99", &[]), Verdict::Worse);
    assert_eq!(verdict(p99(0.02), "source_to_ack p99", &[]), Verdict::Better);
    // Half as much again, and no time.
    let read = |of: &mut Figures| of.latency[0].p99_seconds = Some(0.0055);
    assert_eq!(verdict(read, "read p99", &[]), Verdict::Same);
    assert_eq!(verdict(|of| of.restarts = 1, "restarts", &[]), Verdict::Worse);
    assert_eq!(verdict(|of| of.dead_letters_more = 1.0, "dead letters", &[]), Verdict::Worse);
    assert_eq!(verdict(|of| of.error_ratio = Some(0.02), "errors", &[]), Verdict::Worse);
}

#[test]
fn what_moves_as_much_by_itself_is_not_known() {
    let slow = |p99: f64, error: f64| {
        move |of: &mut Figures| {
            of.latency[1].p99_seconds = Some(p99);
            of.latency[1].p99_error = self::error(error);
        }
    };
    let p99 = "source_to_ack p99";
    assert_eq!(verdict(slow(0.2, 0.01), p99, &[]), Verdict::Worse);
    assert_eq!(verdict(slow(0.2, 0.06), p99, &[]), Verdict::NotEnough);
    // Noise is no reason for the same, either.
    assert_eq!(verdict(slow(0.1, 0.06), p99, &[]), Verdict::NotEnough);
    assert_eq!(verdict(slow(0.1, 0.003), p99, &[]), Verdict::Same);
    let unsure = |of: &mut Figures| of.cpu_cores_error = None;
    assert_eq!(verdict(unsure, "CPU", &[]), Verdict::NotEnough);
}

/// A thousand pairs of windows of one nature: any figure of them that is called worse is wrong.
#[test]
fn where_nothing_changed_hardly_anything_is_worse() {
    use crate::window::tests::{Nature, Random};
    let none = NAMES.map(|(name, ..)| (name, 0.0));
    for (looks, alike) in [(13, 0.0), (13, 0.6), (31, 0.6)] {
        let (latency, latency_noise, errors) = (0.05, 0.3, 0.0);
        let of = Nature {
            looks,
            lines_per_second: 200.0,
            noise: 0.3,
            alike,
            latency,
            latency_noise,
            errors,
        };
        let mut random = Random::new(11);
        let mut window = || Figures::of(&of.window("a", &mut random, true));
        let worse = (0..1_000).filter(|_| {
            let rows = rows(&window(), &window(), &Tolerances::of(&none), 1);
            rows.iter().any(|row| row.verdict == Verdict::Worse)
        });
        let worse = worse.count();
        // Three standard deviations above ten, at CHANCE.
        assert!(worse <= 20, "{worse} of 1000: {of:?}");
    }
}

#[test]
fn what_was_measured_too_little_is_no_verdict() {
    let few = |of: &mut Figures| of.latency[1].lines = 999.0;
    assert_eq!(verdict(few, "source_to_ack p50", &[]), Verdict::NotEnough);
    assert_eq!(verdict(|of| of.error_ratio = None, "errors", &[]), Verdict::NotEnough);
    assert_eq!(verdict(|of| of.looks = 4, "lines/s", &[]), Verdict::NotEnough);
    assert_eq!(verdict(|_| (), "memory slope", &[]), Verdict::Shown);
}

#[test]
fn instances_are_paired_by_name_or_alone() {
    let of = |names: &[&str]| {
        let named = |name: &&str| Figures { instance: (*name).into(), ..figures() };
        Baseline::new(names.iter().map(named).collect())
    };
    assert_eq!(pairs(&of(&["a"]), &of(&["b"])).unwrap().pairs.len(), 1);
    let (before, after) = (of(&["http://a:1", "b:8401"]), of(&["b:8001", "a:1"]));
    let both = pairs(&before, &after).unwrap();
    let names: Vec<_> =
        both.pairs.iter().map(|(a, b)| (&a.instance[..], &b.instance[..])).collect();
    assert_eq!(names, [("http://a:1", "a:1"), ("b:8401", "b:8001")]);
    assert!(both.alone.is_empty());
    let (before, after) = (of(&["a", "b"]), of(&["c", "a"]));
    let some = pairs(&before, &after).unwrap();
    let alone: Vec<_> = some.alone.iter().map(|of| alone(of)).collect();
    assert_eq!((some.pairs.len(), alone.len()), (1, 2));
    assert!(alone.iter().all(|row| row.verdict == Verdict::NotEnough));
    assert_eq!((&alone[0].instance[..], &alone[1].instance[..]), ("b", "c"));
    for (a, b) in [(of(&["a", "b"]), of(&[])), (of(&[]), of(&[])), (of(&["a"]), of(&["c", "d"]))] {
        assert!(pairs(&a, &b).unwrap_err().contains("the same instances"));
    }
}

#[test]
fn a_tolerance_has_a_known_name_and_a_share() {
    assert_eq!(parse_tolerance("cpu=35%"), Ok((Name::Cpu, 0.35)));
    assert!(
        parse_tolerance("cpus=35%").unwrap_err().contains("lines_per_second, bytes_per_second")
    );
    for text in ["cpu", "cpu=", "cpu=3", "cpu=-1%"] {
        assert!(parse_tolerance(text).is_err(), "{text}");
    }
}
