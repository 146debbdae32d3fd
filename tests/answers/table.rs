//! Every answer there is, and whatever comes in place of one: each happens to a tenant of its own, all at
//! once, while another tenant's lines go on arriving.

use super::ask::{Pushed, letters, numbered, push, stored, taken_of, text, wait_for_letters};
use crate::bed::{Bed, PATIENCE, eventually, stop};
use bench::product::Product;
use bench::stub::{Fault, FaultCounts, Limits};
use log_capturer::dlq::Reason;
use std::collections::BTreeMap;
use std::time::Duration;

const WELL: &str = "well";
const LINES: usize = 50;

/// One that happens to the tenant of this name.
type Row = (&'static str, Fault);

fn bed() -> Bed {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec!["tenant_header: true".into()];
    bed.setup.sink_keys.push("timeout: 500ms".into());
    bed
}

fn set(bed: &Bed, rows: &[Row]) {
    let of = |(tenant, fault): &Row| Fault::OfTenant {
        tenant: (*tenant).into(),
        fault: Box::new(fault.clone()),
    };
    bed.stub.set_faults(rows.iter().map(of).collect());
}

/// Lines of the tenant that is well arrive, one after the other, and the product stays ready.
fn others_go_on(bed: &Bed, product: &Product, done: impl Fn() -> bool) -> usize {
    let mut passed = 0;
    eventually("it happens to everybody", product, || {
        push(product, WELL, &[Pushed::now("a", [format!("passes {passed}")])]);
        passed += 1;
        let expected = passed as u64;
        eventually("others go on", product, || taken_of(bed, WELL) >= expected);
        assert!(product.is_ready());
        std::thread::sleep(Duration::from_millis(20));
        done()
    });
    passed
}

/// `tries` of each tenant were answered so, or not at all.
fn tried(bed: &Bed, rows: &[Row], tries: u64) -> bool {
    let stats = bed.stub.stats();
    rows.iter().all(|(name, _)| stats.by_tenant.get(*name).is_some_and(|of| of.pushes >= tries))
}

/// While it lasts nothing of theirs arrives; then all of it, once and in order.
fn assert_waits_and_loses_nothing(rows: &[Row], happened: impl Fn(&FaultCounts) -> bool) {
    let bed = bed();
    set(&bed, rows);
    let product = bed.start();
    for (tenant, _) in rows {
        push(&product, tenant, &[Pushed::now("a", numbered(tenant, LINES))]);
        push(&product, tenant, &[Pushed::now("b", numbered(tenant, LINES))]);
    }
    others_go_on(&bed, &product, || tried(&bed, rows, 2));
    let faults = bed.stub.stats().faults;
    assert!(happened(&faults), "{faults:?}");
    for (tenant, _) in rows {
        assert_eq!(taken_of(&bed, tenant), 0, "{tenant}");
    }
    bed.stub.heal();
    for (tenant, _) in rows {
        let expected = 2 * LINES as u64;
        eventually(tenant, &product, || taken_of(&bed, tenant) >= expected);
        let mut both = stored(&bed, tenant);
        both.sort();
        let mut lines = [numbered(tenant, LINES), numbered(tenant, LINES)].concat();
        lines.sort();
        assert_eq!(both, lines, "{tenant}");
        for job in ["{job=\"a\"}", "{job=\"b\"}"] {
            let entries = bed.stub.entries();
            let of = entries.iter().filter(|e| e.tenant == *tenant && e.labels == job);
            assert!(of.map(|e| e.timestamp_ns).is_sorted(), "{tenant} {job}");
        }
        assert_eq!(taken_of(&bed, tenant), expected, "{tenant}: once");
    }
    assert_eq!(letters(&product), 0);
    assert!(product.usage().unwrap().rss_peak_bytes < 100 << 20);
    stop(product);
}

#[test]
fn answers_that_refuse_service_make_their_tenant_wait_and_nobody_else() {
    let answer = |status| Fault::answer(status, "not now\n");
    let redirect = |status| Fault::Redirect { status, location: "/elsewhere".into() };
    let rows = [
        ("t201", answer(201)),
        ("t202", answer(202)),
        ("t260", answer(260)),
        ("t301", redirect(301)),
        ("t302", redirect(302)),
        ("t307", redirect(307)),
        ("t401", answer(401)),
        ("t403", answer(403)),
        ("t404", answer(404)),
        ("t405", answer(405)),
        ("t451", answer(451)),
    ];
    assert_waits_and_loses_nothing(&rows, |faults| faults.answered >= 16 && faults.redirected >= 6);
}

#[test]
fn answers_of_an_overload_make_their_tenant_wait_and_nobody_else() {
    let answer = |status| Fault::answer(status, "overloaded\n");
    let wait = Some("1".to_owned());
    let rows = [
        ("t408", answer(408)),
        ("t429", answer(429)),
        ("t500", answer(500)),
        ("t501", answer(501)),
        ("t502", Fault::gzipped(502, "<html>bad gateway</html>\n")),
        ("t503", Fault::Answer { status: 503, text: "later\n".into(), retry_after: wait }),
        ("t504", answer(504)),
    ];
    assert_waits_and_loses_nothing(&rows, |faults| faults.answered >= 14 && faults.gzipped >= 2);
}

#[test]
fn what_is_no_answer_makes_its_tenant_wait_and_nobody_else() {
    let rows = [
        ("reset", Fault::Reset),
        ("garbage", Fault::Garbage),
        ("slow", Fault::SlowBody(Duration::from_secs(30))),
        ("endless", Fault::Endless { status: 500 }),
        // Longer than it is waited for.
        ("silent", Fault::Delay(Duration::from_secs(30))),
    ];
    let happened = |faults: &FaultCounts| {
        let FaultCounts { reset, garbage, slow_bodies, endless, delayed, .. } = *faults;
        [reset, garbage, slow_bodies, endless, delayed].iter().all(|count| *count >= 2)
            // Of ten gigabytes each.
            && faults.endless_bytes < endless * (64 << 20)
    };
    assert_waits_and_loses_nothing(&rows, happened);
}

/// Stored all the same: it is sent again, and a query shows it once.
#[test]
fn what_is_stored_and_not_said_so_shows_once() {
    let bed = bed();
    let stored_answer = |status| Fault::StoredAnswer { status, text: "too late\n".into() };
    let rows = [
        ("t429", stored_answer(429)),
        ("t500", stored_answer(500)),
        ("t503", stored_answer(503)),
        ("t504", stored_answer(504)),
        ("lost", Fault::LostAnswer),
    ];
    set(&bed, &rows);
    let product = bed.start();
    for (tenant, _) in &rows {
        push(&product, tenant, &[Pushed::now("a", numbered(tenant, LINES))]);
    }
    others_go_on(&bed, &product, || tried(&bed, &rows, 2));
    let faults = bed.stub.stats().faults;
    assert!(faults.answered_stored >= 8 && faults.answers_lost >= 2, "{faults:?}");
    bed.stub.heal();
    let unacked = "log_capturer_wal_unacked_frames";
    eventually("all is acked", &product, || product.metric(unacked).unwrap() == 0.0);
    for (tenant, _) in &rows {
        assert_eq!(stored(&bed, tenant), numbered(tenant, LINES), "{tenant}");
        let taken = taken_of(&bed, tenant);
        println!("{tenant}: {} entries were sent again", taken - LINES as u64);
    }
    assert!(taken_of(&bed, "t504") > LINES as u64, "it was sent again");
    assert_eq!(letters(&product), 0);
    stop(product);
}

#[test]
fn oddities_of_good_answers_and_of_connections_repeat_nothing() {
    let bed = bed();
    let rows = [
        ("body", Fault::BodyOn204("ok\n".into())),
        ("gzip", Fault::Many(vec![Fault::Gzip, Fault::BodyOn204("ok\n".into())])),
        ("idle", Fault::CloseIdle),
        ("late", Fault::Delay(Duration::from_millis(100))),
        ("date", Fault::Date("Sun, 06 Nov 1994 08:49:37 GMT".into())),
        ("no-date", Fault::Date("yesterday".into())),
    ];
    set(&bed, &rows);
    let product = bed.start();
    for round in 0..20 {
        for (tenant, _) in &rows {
            let lines = numbered(&format!("{tenant} {round}"), 5);
            push(&product, tenant, &[Pushed::now("a", lines)]);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    others_go_on(&bed, &product, || rows.iter().all(|(name, _)| taken_of(&bed, name) >= 100));
    let stats = bed.stub.stats();
    for (tenant, _) in &rows {
        assert_eq!(taken_of(&bed, tenant), 100, "{tenant}: once");
        let expected: Vec<String> =
            (0..20).flat_map(|round| numbered(&format!("{tenant} {round}"), 5)).collect();
        assert_eq!(stored(&bed, tenant), expected, "{tenant}");
    }
    assert_eq!(stats.arrived, stats.pushes_stored, "no push was in vain");
    let faults = &stats.faults;
    assert!(faults.bodies_on_204 > 0 && faults.closed_idle > 0, "{faults:?}");
    assert!(faults.delayed > 0 && faults.dated > 0 && faults.gzipped > 0, "{faults:?}");
    stop(product);
}

#[test]
fn connections_that_are_closed_when_a_push_comes_cost_no_line() {
    let bed = bed();
    bed.stub.set_fault(Fault::CloseOnRequest { one_of: 3 });
    let product = bed.start();
    for round in 0..60 {
        push(&product, "a", &[Pushed::now("a", numbered(&format!("round {round}"), 5))]);
        std::thread::sleep(Duration::from_millis(10));
    }
    eventually("all arrive", &product, || taken_of(&bed, "a") >= 300);
    assert_eq!(taken_of(&bed, "a"), 300, "once");
    assert!(bed.stub.stats().faults.closed_on_request > 0);
    stop(product);
}

/// What Loki refuses of an entry: it alone goes to the dead-letter queue, with Loki's words.
#[test]
fn answers_that_refuse_an_entry_keep_it_and_it_alone() {
    let bed = bed();
    let refuse = |status, text: &str, rest_stored| Fault::Refuse {
        needle: "bad".into(),
        status,
        text: text.into(),
        rest_stored,
    };
    let too_large = "rpc error: code = ResourceExhausted desc = grpc: received message larger than \
                     max (5 vs. 4)\n";
    let size = "Max entry size '9' bytes exceeded for stream '{labels}' while adding an entry with \
                length '10' bytes\n";
    let rows = [
        ("t400", refuse(400, "snappy: corrupt input\n", false)),
        ("t400-rest", refuse(400, "stream '{labels}' is bad\n", true)),
        ("t400-size", refuse(400, size, true)),
        ("t413", refuse(413, "request body too large\n", false)),
        ("t422", refuse(422, "error at least one valid stream is required\n", false)),
        ("t500", refuse(500, too_large, false)),
    ];
    set(&bed, &rows);
    let product = bed.start();
    for (tenant, _) in &rows {
        let mut lines = numbered(tenant, LINES);
        lines.insert(LINES / 2, "bad".into());
        push(&product, tenant, &[Pushed::now("a", lines)]);
        push(&product, tenant, &[Pushed::now("b", numbered(tenant, LINES))]);
    }
    others_go_on(&bed, &product, || letters(&product) >= rows.len() as u64);
    let records = wait_for_letters(&bed, &product, rows.len() as u64);
    assert!(records.iter().all(|record| text(record) == "bad"));
    let by_tenant: BTreeMap<&str, _> = records.iter().map(|of| (of.tenant.as_str(), of)).collect();
    let said = |tenant: &str| {
        let record = by_tenant[tenant];
        (record.status, record.reason.clone(), record.text.as_str())
    };
    let refused = Reason::Refused;
    let expected = (Some(400), refused.clone(), "snappy: corrupt input");
    assert_eq!(said("t400"), expected);
    assert_eq!(said("t400-rest"), (Some(400), refused.clone(), "stream '{job=\"a\"}' is bad"));
    let size = size.replace("{labels}", "{job=\"a\"}");
    assert_eq!(said("t400-size"), (Some(400), Reason::TooLarge, size.trim_end()));
    assert_eq!(said("t413"), (Some(413), Reason::TooLarge, "request body too large"));
    assert_eq!(said("t422").0, Some(422));
    assert_eq!((said("t500").0, said("t500").2), (Some(500), too_large.trim_end()));
    for (tenant, _) in &rows {
        eventually(tenant, &product, || stored(&bed, tenant).len() >= 2 * LINES);
        let mut both = stored(&bed, tenant);
        both.sort();
        let mut lines = [numbered(tenant, LINES), numbered(tenant, LINES)].concat();
        lines.sort();
        assert_eq!(both, lines, "{tenant}");
    }
    assert!(bed.stub.stats().faults.refused >= 2 * rows.len() as u64);
    stop(product);
}

/// Labels that Loki refuses: all of their stream is kept, in few pushes.
#[test]
fn labels_that_loki_refuses_are_kept_as_a_stream() {
    let bed = bed();
    // Less than the product knows of.
    bed.stub.set_limits(Limits { label_value_bytes_max: 100, ..Limits::loki() });
    let product = bed.start();
    let long = "x".repeat(200);
    push(
        &product,
        "a",
        &[Pushed::now(&long, numbered("bad", 500)), Pushed::now("good", numbered("good", 500))],
    );
    let records = wait_for_letters(&bed, &product, 500);
    assert!(records.iter().all(|record| record.text.contains("label value too long")));
    eventually("the others arrive", &product, || stored(&bed, "a").len() >= 500);
    assert_eq!(stored(&bed, "a"), numbered("good", 500));
    let stats = bed.stub.stats();
    assert!(stats.arrived - stats.pushes_stored <= 6, "{stats:?}");
    let again = bed.stub.wait_until(PATIENCE, |stats| stats.entries == 500);
    assert!(again);
    stop(product);
}
