//! Faults that are in force at once, and those that look into pushes.

use super::*;
use crate::stub::Reason;

fn refuse(rest_stored: bool) -> Fault {
    let text = "entry for stream '{labels}' is not liked\n".into();
    Fault::Refuse { needle: "bad".into(), status: 400, text, rest_stored }
}

#[test]
fn a_push_with_a_needle_is_refused_and_the_rest_is_stored_or_not() {
    let stub = stub();
    let now = now_ns();
    let streams = [
        one(r#"{job="b"}"#, b"good"),
        stream(LABELS, &[entry(now, b"good"), entry(now + 1, b"a bad one"), entry(now, b"bad")]),
        one(r#"{job="c"}"#, b"bad too"),
    ];
    let said = (400, format!("entry for stream '{LABELS}' is not liked\n"));
    stub.set_fault(refuse(false));
    assert_eq!(post_streams(&stub, &streams), said);
    assert_eq!((stub.stats().entries, stub.stats().pushes_stored), (0, 0));
    stub.set_fault(refuse(true));
    assert_eq!(post_streams(&stub, &streams), said);
    let mut streams_stored = stub.streams();
    streams_stored.sort();
    assert_eq!(streams_stored, [LABELS, r#"{job="b"}"#]);
    assert_eq!(post_streams(&stub, &streams[..1]).0, 204, "without the needle all is well");
    let stats = stub.stats();
    assert_eq!((stats.entries, stats.faults.refused), (3, 2));
    assert_eq!(stats.refused[&Reason::Told], 5 + 3);
    let broken = [one("{job=", b"x"), one(LABELS, b"bad")];
    assert!(post_streams(&stub, &broken).1.contains("parse error"), "that comes first");
}

#[test]
fn tenants_have_their_own_troubles_at_once() {
    let stub = stub();
    let tenant = |name: &str, status| Fault::Tenant { tenant: name.into(), status };
    let slow = Fault::Answer { status: 429, text: "slow\n".into(), retry_after: Some("1".into()) };
    stub.set_faults(vec![
        tenant("limited", 429),
        tenant("forbidden", 403),
        Fault::OfTenant { tenant: "slow".into(), fault: Box::new(slow) },
        refuse(true),
    ]);
    for _ in 0..2 {
        let answers = ["limited", "forbidden", "slow", "well"]
            .map(|tenant| post_for(&stub, tenant, &[one(LABELS, b"x")]));
        assert_eq!(answers.each_ref().map(|(status, _)| *status), [429, 403, 429, 204]);
        assert_eq!(answers[2].1, "slow\n");
    }
    assert_eq!(post_for(&stub, "well", &[one(LABELS, b"bad")]).0, 400);
    let stats = stub.stats();
    assert_eq!((stats.faults.tenant, stats.faults.answered, stats.faults.refused), (4, 2, 1));
    let of = |tenant: &str| (stats.by_tenant[tenant].pushes, stats.by_tenant[tenant].entries);
    assert_eq!([of("limited"), of("forbidden"), of("well")], [(2, 0), (2, 0), (3, 2)]);
    assert_eq!((stats.arrived, stats.pushes), (9, 9));
    stub.heal();
    assert_eq!(post_for(&stub, "forbidden", &[one(LABELS, b"x")]).0, 204);
}

#[test]
fn an_overload_may_have_stored_all_or_some() {
    let stub = stub();
    let streams = [one(LABELS, b"x"), one(r#"{job="b"}"#, b"y")];
    let overload = Fault::StoredAnswer { status: 504, text: String::new() };
    stub.script_fault(Fault::Many(vec![overload.clone(), Fault::Masked]), 1);
    stub.script_fault(overload, 1);
    assert_eq!(post_streams(&stub, &streams), (504, String::new()));
    assert_eq!(stub.streams(), [r#"{job="b"}"#]);
    assert_eq!(post_streams(&stub, &streams).0, 504);
    let stats = stub.stats();
    assert_eq!((stats.entries, stats.unmarked_repeated, stats.entries_hidden), (3, 1, 1));
    assert_eq!((stats.faults.answered_stored, stats.faults.masked), (2, 1));
}

#[test]
fn a_change_of_the_answer_applies_to_whatever_is_answered() {
    let stub = stub();
    stub.set_faults(vec![Fault::Gzip, Fault::Delay(Duration::from_millis(1)), refuse(true)]);
    let body = compressed(&one(LABELS, b"bad"));
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = agent.post(format!("{}/loki/api/v1/push", stub.url()));
    let mut response = request.content_type("application/x-protobuf").send(&body[..]).unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let text = response.body_mut().read_to_vec().unwrap();
    let mut words = String::new();
    let reader = flate2::read::GzDecoder::new(&text[..]);
    std::io::Read::read_to_string(&mut { reader }, &mut words).unwrap();
    assert_eq!(words, format!("entry for stream '{LABELS}' is not liked\n"));
    let faults = stub.stats().faults;
    assert_eq!((faults.gzipped, faults.delayed, faults.refused), (1, 1, 1));
}
