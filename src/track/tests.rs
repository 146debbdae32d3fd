//! Tracks against a model of a sink: whatever it refuses, and how often.

use super::*;
use crate::part::tests::body_of;
use crate::verdict::{Answer, Verdict, judge};

const STREAMS: usize = 4;

fn labels(stream: usize) -> String {
    format!("{{s=\"{stream}\"}}")
}

/// A sink with rules, and what it stored.
#[derive(Default)]
struct Sink {
    /// Lines that it refuses.
    bad: HashSet<String>,
    /// Lines on which it fails like an overload.
    poison: HashSet<String>,
    limited: HashSet<String>,
    bytes_max: Option<usize>,
    stored: HashMap<String, Vec<(i64, String)>>,
    pushes: usize,
}

impl Sink {
    fn push(&mut self, job: &Job) -> Answer {
        self.pushes += 1;
        let status =
            |code, text: &str| Answer::Status { code, retry_after: None, text: text.into() };
        let parts: Vec<Part> = job.pieces.iter().map(Piece::part).collect();
        let entries: Vec<_> = parts
            .iter()
            .flat_map(Part::entries)
            .map(|e| {
                (e.labels.to_owned(), e.stamp_ns, String::from_utf8_lossy(e.line).into_owned())
            })
            .collect();
        if self.bytes_max.is_some_and(|max| job.raw_bytes() > max) {
            return status(429, "ingestion rate limit exceeded");
        }
        if entries.iter().any(|(.., line)| self.poison.contains(line)) {
            return status(500, "panic");
        }
        let mut refused = 200;
        for (labels, stamp_ns, line) in entries {
            if self.limited.contains(&labels) {
                refused = 429;
            } else if self.bad.contains(&line) {
                refused = refused.max(400);
            } else {
                let stored = self.stored.entry(labels).or_default();
                if !stored.contains(&(stamp_ns, line.clone())) {
                    stored.push((stamp_ns, line));
                }
            }
        }
        match refused {
            429 => status(429, "Per stream rate limit exceeded"),
            400 => status(400, "timestamp too old"),
            _ => status(204, ""),
        }
    }
}

/// Sends everything as [`crate::egress`] does, with a clock that jumps to what is due.
fn drain(track: &mut Track, sink: &mut Sink, terms: Terms) -> (Vec<Seq>, Vec<Rejected>) {
    let (mut seqs, mut rejected) = (Vec::new(), Vec::new());
    let (mut passes, mut terms) = (0, terms);
    for turn in 1..100_000_u64 {
        if turn.is_multiple_of(500) {
            // Other lines come and pass: only so does it show what is at fault.
            let at = i64::try_from(turn).unwrap() + 1_000_000;
            let line = (STREAMS, at, format!("later {turn}"));
            track.take_in(frame(1_000_000 + turn, &[line], None));
        }
        let job = track.next(terms);
        for ack in track.acks() {
            seqs.extend(ack.seqs);
            rejected.extend(ack.rejected);
        }
        let Some(job) = job else {
            if track.is_empty() {
                break;
            }
            let due = track.next_due().expect("something is due some time");
            terms.now = due;
            continue;
        };
        let answer = sink.push(&job);
        let because = |reason| Because { reason, status: None, text: "no".into() };
        let wait = terms.now + Duration::from_millis(100);
        terms.probe = false;
        match judge(&answer, &job.history(passes)) {
            Verdict::Accepted => {
                passes += 1;
                track.accepted(job, terms.now);
            }
            Verdict::Retry { scope: crate::verdict::Scope::Tenant, .. } | Verdict::Hold => {
                terms.probe = true;
                track.again(job, None, passes, terms.now);
            }
            Verdict::Retry { scope, .. } => {
                terms.probe = scope == crate::verdict::Scope::Unknown;
                track.set_aside(job, Some(wait), passes, terms.now);
            }
            Verdict::Split => track.halve(job, true),
            Verdict::Isolate => track.halve(job, false),
            Verdict::Reject(reason) => track.reject(job, &because(reason)),
            Verdict::RejectStream => track.reject(job, &because(Reason::Refused)),
        }
    }
    let left: Vec<_> = track
        .queues
        .iter()
        .map(|(key, q)| (key, q.pieces.len(), q.in_flight, q.not_before, &q.plan, q.failures))
        .collect();
    assert!(left.is_empty(), "{left:?} {}", sink.pushes);
    assert!(track.is_empty() && track.open.is_empty() && track.troubled.is_empty());
    (seqs, rejected)
}

fn terms() -> Terms {
    let now = Instant::now();
    let (behind_ns, forgotten_ns, stream_bytes_max) = (i64::MIN, i64::MIN, u64::MAX);
    let alone_bytes_max = usize::MAX;
    let probe = false;
    Terms {
        now,
        oldest_ns: 0,
        bytes_max: 2000,
        behind_ns,
        forgotten_ns,
        stream_bytes_max,
        alone_bytes_max,
        probe,
    }
}

fn frame(seq: u64, entries: &[(usize, i64, String)], stream: Option<usize>) -> Frame {
    let texts: Vec<(String, i64, &str)> =
        entries.iter().map(|(s, at, line)| (labels(*s), *at, line.as_str())).collect();
    let refs: Vec<(&str, i64, &str)> =
        texts.iter().map(|(s, at, line)| (s.as_str(), *at, *line)).collect();
    let body = body_of(&refs);
    Frame {
        seq: Seq(seq),
        stream: stream.map_or(0, |stream| stream_key(&labels(stream))),
        raw_len: u32::try_from(snap::raw::decompress_len(&body).unwrap()).unwrap(),
        entries: u32::try_from(entries.len()).unwrap(),
        oldest_stamp_ns: entries.iter().map(|(_, at, _)| *at).min().unwrap(),
        body: Arc::new(body),
        ..Frame::for_tests()
    }
}

/// Any mix of frames and faults: every line is stored once and in order, or rejected once; every
/// frame is acked once.
#[test]
fn whatever_a_sink_refuses_the_rest_is_stored_in_order() {
    for seed in 1..400_u64 {
        let mut state = seed;
        let mut random = |below: usize| {
            let below = u64::try_from(below).unwrap();
            usize::try_from(io::sim::random(&mut state) % below).unwrap()
        };
        let mut sink = Sink::default();
        if random(4) == 0 {
            sink.bytes_max = Some(300 + random(2000));
        }
        let (mut track, mut all, mut taken) = (Track::default(), Vec::new(), Vec::new());
        let mut bodies = HashMap::new();
        let mut at = 0;
        let frames = 1 + random(30);
        let mut apart = HashSet::new();
        // From where on frames are read back, and hold what travels alone elsewhere.
        let read_back_from = if random(2) == 0 { 0 } else { random(frames + 1) as u64 };
        let old_until = if random(3) == 0 { random(50) as i64 } else { 0 };
        for seq in 1..=frames as u64 {
            let alone = (random(4) == 0).then(|| random(STREAMS));
            let read_back = seq >= read_back_from;
            apart.extend(alone);
            let together: Vec<usize> =
                (0..STREAMS).filter(|s| read_back || !apart.contains(s)).collect();
            if alone.is_none() && together.is_empty() {
                continue;
            }
            let count = 1 + random(20);
            let mut entries = Vec::new();
            for _ in 0..count {
                at += 1;
                let line = format!("line {at}");
                match random(200) {
                    0..5 => sink.bad.insert(line.clone()),
                    5 => sink.poison.insert(line.clone()),
                    _ => false,
                };
                let stream = alone.unwrap_or_else(|| together[random(together.len())]);
                entries.push((stream, at, line));
            }
            if random(40) == 0 {
                sink.limited.insert(labels(random(STREAMS)));
            }
            let frame = Frame { read_back, ..frame(seq, &entries, alone) };
            bodies.insert(frame.seq, frame.body.clone());
            track.take_in(frame);
            taken.push(Seq(seq));
            all.extend(entries);
        }
        // Else nothing ever passes, and nothing may be given up.
        let others = format!("line {at}");
        sink.bad.remove(&others);
        sink.poison.remove(&others);
        let last = all.last().unwrap().0;
        sink.limited.remove(&labels(last));
        let mut terms = Terms { oldest_ns: old_until, ..terms() };
        if random(4) == 0 {
            terms.forgotten_ns = i64::MAX;
        }
        if random(3) == 0 {
            terms.behind_ns = i64::MAX;
            terms.stream_bytes_max = 100 + random(2000) as u64;
        }
        let (mut seqs, rejected) = drain(&mut track, &mut sink, terms);
        seqs.retain(|seq| seq.0 < 1_000_000);
        seqs.sort();
        assert_eq!(seqs, taken, "seed {seed}");
        // Whoever sent a frame knows its entries by their places.
        for (of, body) in rejected.iter().filter_map(|of| Some((of, bodies.get(&of.seq)?))) {
            let meant = Part::of(body).with(of.part.indices().to_vec());
            assert!(meant.entries().eq(of.part.entries()), "seed {seed}: {:?}", of.seq);
        }
        let mut gone: Vec<(String, String)> = rejected
            .iter()
            .flat_map(|r| r.part.entries())
            .map(|e| (e.labels.to_owned(), String::from_utf8_lossy(e.line).into_owned()))
            .collect();
        gone.sort();
        assert!(gone.windows(2).all(|pair| pair[0] != pair[1]), "seed {seed}: twice");
        for (stream, at, line) in &all {
            let labels = labels(*stream);
            let stored = sink
                .stored
                .get(&labels)
                .is_some_and(|of| of.iter().any(|(_, known)| known == line));
            let is_gone = gone.contains(&(labels.clone(), line.clone()));
            assert!(stored != is_gone, "seed {seed}: {line}: {stored} {is_gone}");
            let deserves = sink.bad.contains(line)
                || sink.poison.contains(line)
                || sink.limited.contains(&labels)
                || *at < old_until;
            assert!(deserves || !is_gone, "seed {seed}: {line} was given up");
        }
        for (labels, stored) in &sink.stored {
            assert!(stored.is_sorted(), "seed {seed}: {labels}: {stored:?}");
        }
    }
}

#[test]
fn one_bad_line_among_many_costs_few_pushes() {
    let mut sink = Sink::default();
    let mut track = Track::default();
    for seq in 1..=12 {
        let entries: Vec<_> = (0..1024)
            .map(|n| (n % STREAMS, seq * 10_000 + n as i64, format!("{seq} {n}")))
            .collect();
        track.take_in(frame(seq.cast_unsigned(), &entries, None));
    }
    sink.bad.insert("7 333".into());
    let terms = Terms { bytes_max: 10 << 20, ..terms() };
    let (_, rejected) = drain(&mut track, &mut sink, terms);
    assert_eq!(rejected.len(), 1);
    assert!(sink.pushes <= 60, "{}", sink.pushes);
    assert_eq!(sink.stored.values().map(Vec::len).sum::<usize>(), 12 * 1024 - 1);
}

#[test]
fn while_a_stream_is_looked_through_the_others_go_on() {
    let mut track = Track::default();
    let entries: Vec<_> = (0..64).map(|n| (n % 2, n as i64, format!("{n}"))).collect();
    track.take_in(frame(1, &entries, None));
    let terms = terms();
    let job = track.next(terms).unwrap();
    track.halve(job, false);
    let first = track.next(terms).unwrap();
    assert!(first.history(0).one_stream);
    track.halve(first, false);
    // Stream 0 is in trouble, and stream 1 not.
    let (one, other) = (track.next(terms).unwrap(), track.next(terms).unwrap());
    assert!(track.next(terms).is_none(), "one push of each is under way");
    let streams = [&one, &other].map(|job| job.pieces[0].part().stream().unwrap().to_owned());
    assert_eq!(HashSet::from(streams), HashSet::from([labels(0), labels(1)]));
    track.take_in(frame(2, &[(0, 100, "a".into()), (1, 101, "b".into())], None));
    let mixed = if one.queue == MIXED { one } else { other };
    track.accepted(mixed, terms.now);
    let next = track.next(terms).unwrap();
    assert_eq!(next.pieces[0].part().stream(), Some(labels(1).as_str()), "0 waits for its turn");
}

#[test]
fn a_stream_that_comes_to_travel_alone_waits_for_all_of_a_push_under_way() {
    let mut track = Track::default();
    for seq in 1..=3_i64 {
        let entries = [(0, seq, format!("a{seq}")), (1, seq, format!("b{seq}"))];
        track.take_in(frame(seq.cast_unsigned(), &entries, None));
    }
    let terms = terms();
    let job = track.next(terms).unwrap();
    assert_eq!(job.pieces.len(), 3);
    track.take_in(frame(4, &[(0, 4, "a4".into())], Some(0)));
    track.halve(job, true);
    let first = track.next(terms).unwrap();
    track.accepted(first, terms.now);
    let second = track.next(terms).unwrap();
    assert_eq!(second.pieces[0].seq(), Seq(3));
    assert!(track.next(terms).is_none(), "the stream has older lines in the other half");
    track.accepted(second, terms.now);
    assert_eq!(track.next(terms).unwrap().pieces[0].seq(), Seq(4));
}

#[test]
fn what_a_stream_in_trouble_has_in_the_company_of_others_keeps_its_place() {
    let (mut track, mut sink) = (Track::default(), Sink::default());
    let earlier = frame(1, &[(0, 1, "a".into())], Some(0));
    track.take_in(Frame { read_back: true, ..earlier });
    let mixed = frame(2, &[(0, 2, "b".into()), (1, 3, "c".into())], None);
    track.take_in(Frame { read_back: true, ..mixed });
    track.take_in(frame(3, &[(0, 4, "d".into())], Some(0)));
    drain(&mut track, &mut sink, terms());
    let stamps: Vec<i64> = sink.stored[&labels(0)].iter().map(|(at, _)| *at).collect();
    assert_eq!(stamps, [1, 2, 4]);
}

#[test]
fn an_entry_that_fails_in_a_frame_of_its_own_holds_up_nobody() {
    let (mut track, mut sink) = (Track::default(), Sink::default());
    sink.poison.insert("bad".into());
    track.take_in(frame(1, &[(0, 1, "bad".into())], None));
    for seq in 2..=20_i64 {
        track.take_in(frame(seq.cast_unsigned(), &[(1, seq, format!("{seq}"))], None));
    }
    let (_, rejected) = drain(&mut track, &mut sink, terms());
    let reasons: Vec<_> = rejected.iter().map(|of| (of.seq, of.reason)).collect();
    assert_eq!(reasons, [(Seq(1), Reason::Failing)]);
    assert_eq!(sink.stored[&labels(1)].len(), 19);
}

#[test]
fn what_passed_before_an_outage_says_nothing_of_what_fails_in_it() {
    let mut track = Track::default();
    track.take_in(frame(1, &[(0, 1, "a".into())], None));
    let terms = terms();
    let mut again = |passes, now_passes| {
        let job = track.next(terms).unwrap();
        let history = job.history(passes);
        track.again(job, None, now_passes, terms.now);
        (history.failures, history.others_pass)
    };
    assert_eq!(again(5, 5), (1, false));
    assert_eq!(again(6, 6), (2, true));
    assert_eq!(again(6, 6), (3, false));
}

#[test]
fn a_size_that_passes_is_learned() {
    let mut sink = Sink { bytes_max: Some(200 << 10), ..Sink::default() };
    let mut track = Track::default();
    let line = "x".repeat(1000);
    for seq in 1..=64_u64 {
        let at = i64::try_from(seq * 1000).unwrap();
        let entries: Vec<_> = (0..16).map(|n| (0, at + n, format!("{seq} {n} {line}"))).collect();
        track.take_in(frame(seq, &entries, None));
    }
    let terms = Terms { bytes_max: 1 << 20, ..terms() };
    let (seqs, rejected) = drain(&mut track, &mut sink, terms);
    assert_eq!((seqs.len(), rejected.len()), (64, 0));
    // 2 MiB in pushes of no more than 200 KiB, and what it took to find that out.
    assert!(sink.pushes <= 64, "{} pushes", sink.pushes);
    assert!(track.learned.is_some_and(|(bytes, _)| bytes <= 200 << 10));
}

/// What passes may be nearly as large as what does not.
#[test]
fn a_size_just_below_is_learned() {
    let line = "x".repeat(1000);
    let mut track = Track::default();
    let mut at = 0;
    for seq in 1..=200_u64 {
        // One piece of 96 KB passes by itself; with the one of 24 KB behind it, it is too much.
        let lines = if seq % 2 == 1 { 48 } else { 12 };
        let entries: Vec<_> = (0..lines).map(|n| (0, at + n, line.clone())).collect();
        at += lines;
        track.take_in(frame(seq, &entries, None));
    }
    let usual = Terms { bytes_max: 340 << 10, ..terms() };
    let (mut passes, mut failed, mut fails) = (0, 0, false);
    while let Some(job) = track.next(Terms { probe: fails, ..usual }) {
        fails = job.raw_bytes() > 100 << 10;
        if fails {
            failed += 1;
            track.again(job, None, passes, usual.now);
        } else {
            passes += 1;
            track.accepted(job, usual.now);
        }
    }
    assert!(failed <= 12, "{failed} failed, {passes} passed");
    assert!(track.learned.is_some_and(|(bytes, _)| (96_000..100 << 10).contains(&bytes)));
}

#[test]
fn streams_that_the_sink_may_have_forgotten_go_alone_once() {
    let mut track = Track::default();
    for seq in 1..=4_i64 {
        let entries = [(0, seq, format!("a{seq}")), (1, seq, format!("b{seq}"))];
        track.take_in(frame(seq.cast_unsigned(), &entries, None));
    }
    let terms = Terms { forgotten_ns: i64::MAX, ..terms() };
    let mut pushes = Vec::new();
    while let Some(job) = track.next(terms) {
        pushes.push(job.pieces.iter().flat_map(|piece| piece.part().streams()).count());
        track.accepted(job, terms.now);
    }
    track.acks();
    assert!(track.is_over(terms.now));
    assert_eq!(pushes[..2], [4, 4], "each by itself: {pushes:?}");
    track.take_in(frame(9, &[(0, 9, "a9".into()), (1, 9, "b9".into())], None));
    let job = track.next(terms).unwrap();
    assert_eq!(job.pieces[0].part().streams().len(), 2, "and then with others");
}
