//! What Loki stores of a push of which it refuses some, and what it says.

use super::*;
use crate::stub::{Reason, Travels};

fn limited(limits: Limits) -> Stub {
    let options = Options { keep_entries: 100, limits, ..Options::new(Accounting::PerLine) };
    Stub::start(options).unwrap()
}

fn rate(bytes_per_second: u64, burst_bytes: u64) -> Option<Rate> {
    Some(Rate { bytes_per_second, burst_bytes })
}

#[test]
fn each_tenant_has_its_own_rate_and_its_own_streams() {
    let stub = limited(Limits { tenant_rate: rate(1, 100), streams_max: 2, ..Limits::loki() });
    for tenant in ["one", "two"] {
        assert_eq!(post_for(&stub, tenant, &[one(LABELS, &[b'x'; 90])]).0, 204);
        let (status, text) = post_for(&stub, tenant, &[one(LABELS, &[b'x'; 90])]);
        assert_eq!(status, 429);
        assert!(text.contains(&format!("rate limit exceeded for user {tenant} ")), "{text}");
    }
    stub.set_limits(Limits { tenant_rate: None, ..stub.limits() });
    for tenant in ["one", "two"] {
        assert_eq!(post_for(&stub, tenant, &[one(r#"{job="b"}"#, b"x")]).0, 204);
        let (status, text) = post_for(&stub, tenant, &[one(r#"{job="c"}"#, b"x")]);
        assert_eq!(status, 429);
        assert!(text.contains(&format!("increased, user: '{tenant}'")), "{text}");
        assert_eq!(post_for(&stub, tenant, &[one(LABELS, b"y")]).0, 204, "it exists");
    }
    let stats = stub.stats();
    assert_eq!(stats.refused[&Reason::StreamLimit], 2);
    let of = &stats.by_tenant["two"];
    assert_eq!((of.pushes, of.pushes_stored, of.entries), (5, 3, 3));
    let refused = [(Reason::StreamLimit, 1), (Reason::TenantRate, 1)];
    assert_eq!(of.refused.clone().into_iter().collect::<Vec<_>>(), refused);
}

#[test]
fn what_an_operator_mends_passes() {
    let stub = limited(Limits {
        streams_max: 1,
        stream_rate: rate(1, 10),
        line_bytes_max: 20,
        body_bytes_max: 1_000,
        ..Limits::loki()
    });
    let hot = [one(LABELS, &[b'x'; 15])];
    let body = compressed(&one(LABELS, &(0..=255).cycle().take(3_000).collect::<Vec<u8>>()));
    assert_eq!(post_streams(&stub, &[one(LABELS, b"x")]).0, 204);
    assert_eq!(post_streams(&stub, &hot).0, 429, "for ever: it is more than the burst");
    assert_eq!(post_streams(&stub, &[one(r#"{job="b"}"#, b"x")]).0, 429);
    assert_eq!(post_streams(&stub, &[one(LABELS, &[b'x'; 30])]).0, 400);
    assert_eq!(post(&stub, &body).unwrap().0, 413);
    stub.set_limits(Limits::loki());
    assert_eq!(post_streams(&stub, &hot).0, 204);
    assert_eq!(post_streams(&stub, &[one(r#"{job="b"}"#, b"x")]).0, 204);
    assert_eq!(post_streams(&stub, &[one(LABELS, &[b'x'; 30])]).0, 204);
    assert_eq!(post(&stub, &body).unwrap().0, 204);
    assert_eq!(stub.stats().answers[&413], 1);
}

#[test]
fn too_much_at_once_is_refused_whole_and_for_ever() {
    let stub = limited(Limits { tenant_rate: rate(1_000_000, 5 << 20), ..Limits::loki() });
    let many = |bytes: usize| -> Vec<u8> {
        stream(
            LABELS,
            &(0..bytes / 200_000)
                .map(|n| entry(now_ns() + n as i64, &[b'x'; 200_000]))
                .collect::<Vec<_>>(),
        )
    };
    for _ in 0..2 {
        let (status, text) = post_streams(&stub, &[many(6 << 20)]);
        assert!(status == 429 && text.contains("ingestion rate limit exceeded"), "{text}");
    }
    stub.set_limits(Limits::loki());
    for _ in 0..2 {
        let (status, text) = post_streams(&stub, &[many(5 << 20)]);
        assert!(status == 500 && text.contains("larger than max"), "{text}");
    }
    let stats = stub.stats();
    assert_eq!(stats.entries, 0);
    assert_eq!((stats.refused[&Reason::TenantRate], stats.refused[&Reason::TooLarge]), (62, 52));
    // What the distributor finds comes before.
    let (status, text) = post_streams(&stub, &[many(5 << 20), one("{job=", b"x")]);
    assert!(status == 400 && text.contains("parse error"), "{text}");
}

#[test]
fn what_the_ingester_says_is_heard_of_the_last_stream_only() {
    let stub = limited(Limits { stream_rate: rate(1, 50), streams_max: 2, ..Limits::loki() });
    let (hot, well) = (one(LABELS, &[b'x'; 60]), one(r#"{job="well"}"#, b"x"));
    let new = one(r#"{job="new"}"#, b"x");
    let old = stream(r#"{job="well"}"#, &[entry(0, b"old")]);
    assert_eq!(post_streams(&stub, &[one(LABELS, b"x"), well.clone()]).0, 204);
    let (status, text) = post_streams(&stub, &[well.clone(), hot.clone()]);
    assert_eq!(status, 429);
    let wanted = ["entry with timestamp", "Per stream rate limit", "total ignored: 1 out of 1 for"];
    assert!(wanted.iter().all(|wanted| text.contains(wanted)), "{text}");
    assert_eq!(stub.stats().entries_hidden, 0);
    assert_eq!(post_streams(&stub, &[hot.clone(), well.clone()]).0, 204, "hidden");
    assert_eq!(post_streams(&stub, &[new.clone(), well.clone()]).0, 204, "hidden");
    assert_eq!(stub.stats().entries_hidden, 2);
    let (status, text) = post_streams(&stub, &[hot.clone(), new]);
    assert!(status == 429 && text.contains("Maximum active stream limit"), "{text}");
    assert_eq!(stub.stats().entries_hidden, 3, "the first of the two");
    // Of a stream without entries the ingester is not asked, and so it hides nothing.
    assert_eq!(post_streams(&stub, &[hot.clone(), old.clone()]).0, 429);
    // The ingester's error hides what the distributor found.
    let (status, text) = post_streams(&stub, &[old.clone(), hot]);
    assert!(status == 429 && !text.contains("too old"), "{text}");
    let (status, text) = post_streams(&stub, &[old, well]);
    assert!(status == 400 && text.contains("too old"), "{text}");
    let refused = stub.stats().refused;
    let expected = [(Reason::TooOld, 3), (Reason::StreamRate, 5), (Reason::StreamLimit, 2)];
    assert_eq!(refused.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_stream_of_which_nothing_is_valid_is_not_created() {
    let stub = limited(Limits { streams_max: 1, ..Limits::loki() });
    assert_eq!(post_streams(&stub, &[stream(LABELS, &[entry(0, b"old")])]).0, 400);
    assert!(stub.streams().is_empty());
    assert_eq!(post_streams(&stub, &[one(r#"{job="b"}"#, b"x")]).0, 204);
}

#[test]
fn how_streams_travelled_is_known() {
    let stub = limited(Limits { streams_max: 2, ..Limits::loki() });
    let (a, b, c) = (one(LABELS, b"x"), one(r#"{job="b"}"#, b"x"), one(r#"{job="c"}"#, b"x"));
    post_streams(&stub, std::slice::from_ref(&a));
    // The same stream, in two pieces and otherwise written.
    post_streams(&stub, &[a.clone(), one(r#"{ job="a", }"#, b"y")]);
    post_streams(&stub, &[a.clone(), b]);
    post_streams(&stub, &[a]);
    post_streams(&stub, &[c]);
    let travels = Travels { alone: 3, together: 1, alone_first: 2, created_alone: Some(true) };
    assert_eq!(stub.travels("", LABELS), travels);
    let travels = Travels { together: 1, created_alone: Some(false), ..Travels::default() };
    assert_eq!(stub.travels("", r#"{job="b"}"#), travels);
    let refused = Travels { alone: 1, alone_first: 1, ..Travels::default() };
    assert_eq!(stub.travels("", r#"{job="c"}"#), refused);
    assert_eq!(stub.travels("other", LABELS), Travels::default());
    assert_eq!((stub.all_travels().len(), stub.stats().push_streams_max), (3, 2));
}

#[test]
fn an_entry_is_the_same_only_with_its_metadata() {
    let stub = stub();
    let kind = ("content-type", "application/json");
    let stamp = now_ns();
    for value in ["v", "w", "v"] {
        let json = format!(
            r#"{{"streams":[{{"stream":{{"job":"a"}},"values":[["{stamp}","x",{{"k":"{value}"}}]]}}]}}"#,
        );
        assert_eq!(post_as(&stub, &[kind], json.as_bytes()).0, 204);
    }
    assert_eq!((stub.entries().len(), stub.stats().unmarked_repeated), (2, 1));
}

#[test]
fn its_clock_may_be_wrong() {
    let stub = stub();
    stub.set_clock_ahead(8 * 24 * 3_600);
    let (status, text) = post_streams(&stub, &[one(LABELS, b"x")]);
    assert!(status == 400 && text.contains("timestamp too old"), "{text}");
    stub.set_clock_ahead(-3_600);
    let (status, text) = post_streams(&stub, &[one(LABELS, b"x")]);
    assert!(status == 400 && text.contains("timestamp too new"), "{text}");
    stub.set_clock_ahead(60);
    assert_eq!(post_streams(&stub, &[one(LABELS, b"x")]).0, 204);
    let refused: Vec<_> = stub.stats().refused.into_iter().collect();
    assert_eq!(refused, [(Reason::TooOld, 1), (Reason::TooNew, 1)]);
}
