//! Labels and tenants that nobody should send.

use super::client::{
    Answer, JSON, LOGS, MIB, PROTOBUF, PUSH, RAW, assert_serves, grown, lines_of, post,
    protobuf_of, push_of, text,
};
use crate::bed::{Bed, stop};
use bench::load::proto;
use bench::measure::now_ns;
use bench::product::Product;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;

#[test]
fn odd_label_values_arrive_whole_and_break_out_of_nothing() {
    let bed = Bed::new();
    let product = bed.start();
    let odd =
        ["a\",b=\"x", "}{", "two\nlines\r\n\ttab", "back\\slash\\\"", "a', `b`", "ü😀\u{1}\u{7f}"];
    for (at, value) in odd.iter().enumerate() {
        let line = |by: &str| format!("{by} {at}");
        let answer = post(&product, PUSH, JSON, push_of(&json!({"odd": value}), &line("push")));
        assert_eq!(answer.status, 204, "{answer:?}");
        let log = json!({"message": line("log"), "source_type": "t", "labels": {"odd": value}});
        assert_eq!(post(&product, LOGS, JSON, log.to_string()).status, 202);
        let bytes = value.bytes();
        let query: String = bytes.map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/loki/api/v1/raw?odd={query}");
        assert_eq!(post(&product, &path, "", line("raw")).status, 204);
        // As Loki writes it, and as another may.
        let escaped: String = value.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
        let answer = post(
            &product,
            PUSH,
            PROTOBUF,
            protobuf_of(&format!("{{ odd = \"{escaped}\" ,}}"), &line("proto")),
        );
        assert_eq!(answer.status, 204, "{answer:?}");
    }
    let entries = bed.entries(4 * odd.len());
    for entry in &entries {
        let labels = bench::stub::labels::parse(entry.labels.as_bytes()).unwrap();
        let (by, at) =
            text(entry).split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let value = odd[at.parse::<usize>().unwrap()].to_owned();
        let mut expected = vec![("odd".to_owned(), value)];
        if by == "log" {
            expected.push(("source_type".into(), "t".into()));
        }
        assert_eq!(labels.pairs, expected, "{by}");
    }
    assert_eq!(entries.len(), 4 * odd.len());
    stop(product);
}

#[test]
fn a_label_of_sixteen_megabytes_is_refused_in_bounded_memory() {
    let bed = Bed::new();
    let product = bed.start();
    assert_serves(&product);
    let before = product.usage().unwrap().rss_peak_bytes;
    let large = "x".repeat(16_000_000);
    let refused = |answer: Answer| {
        assert!(matches!(answer.status, 400 | 413 | 431), "{:?}", answer.status);
        assert!(answer.text.len() < 10_000, "{} bytes of an answer", answer.text.len());
    };
    refused(post(&product, PUSH, JSON, push_of(&json!({"large": large}), "x")));
    refused(post(&product, PUSH, JSON, push_of(&json!({large.as_str(): "value"}), "x")));
    refused(post(&product, PUSH, PROTOBUF, protobuf_of(&format!("{{large={large:?}}}"), "x")));
    refused(post(&product, LOGS, JSON, json!({"message": "x", "level": large}).to_string()));
    refused(post(&product, &format!("/loki/api/v1/raw?large={large}"), "", "x"));
    assert_serves(&product);
    let grown = grown(&product, before);
    println!("labels of 16 MB cost {} KiB", grown >> 10);
    assert!(grown < 128 * MIB, "{grown} bytes");
    stop(product);
}

#[test]
fn labels_that_loki_would_refuse_are_refused_with_the_reason() {
    let bed = Bed::new();
    let product = bed.start();
    let sixteen: BTreeMap<String, &str> = (0..16).map(|n| (format!("l{n:02}"), "x")).collect();
    let as_text: Vec<String> = sixteen.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
    let as_text = format!("{{{}}}", as_text.join(", "));
    let query: Vec<String> = sixteen.iter().map(|(n, v)| format!("{n}={v}")).collect();
    for (labels, said) in [
        (json!({"__x": "y"}), "reserved label name: '__x'"),
        (json!(sixteen), "has 16 label names; limit 15"),
        (json!({}), "at least one label pair is required"),
        (json!({"a-b": "y"}), "a-b"),
        (json!({"": "y"}), "label"),
        (json!({"a": "x".repeat(3000)}), "label value too long"),
        (json!({"a".repeat(2000): "y"}), "label name too long"),
    ] {
        let answer = post(&product, PUSH, JSON, push_of(&labels, "refused"));
        assert_eq!(answer.status, 400, "{labels} {answer:?}");
        assert!(answer.text.contains(said), "{labels} {answer:?}");
    }
    for (labels, said) in [
        ("{__x=\"y\"}", "reserved label name: '__x'"),
        (as_text.as_str(), "has 16 label names; limit 15"),
        ("{a=\"1\", b=\"2\", a=\"3\"}", "duplicate label name: 'a'"),
        ("{a=\"1\", a=\"1\"}", "duplicate label name: 'a'"),
        ("{}", "at least one label pair is required"),
        ("", "parse labels"),
        ("{", "parse labels"),
        ("{a=\"b\"", "parse labels"),
        ("a=\"b\"", "parse labels"),
        ("{a=b}", "parse labels"),
        ("{a=\"b\" c=\"d\"}", "parse labels"),
        ("{a=\"b}", "parse labels"),
        ("{a=\"\\q\"}", "parse labels"),
        ("{a=\"b\"} and more", "parse labels"),
        ("{a=\"two\nlines\"}", "parse labels"),
        ("{1a=\"b\"}", "parse labels"),
        ("{a!=\"b\"}", "parse labels"),
    ] {
        let answer = post(&product, PUSH, PROTOBUF, protobuf_of(labels, "refused"));
        assert_eq!(answer.status, 400, "{labels} {answer:?}");
        assert!(answer.text.contains(said), "{labels} {answer:?}");
    }
    for (query, said) in [
        ("__x=y", "reserved label name: '__x'".to_owned()),
        (query.join("&").as_str(), "has 16 label names; limit 15".into()),
        ("", "at least one label pair is required".into()),
        ("a=", "at least one label pair is required".into()),
    ] {
        let answer = post(&product, &format!("/loki/api/v1/raw?{query}"), "", "refused");
        assert_eq!(answer.status, 400, "{query} {answer:?}");
        assert!(answer.text.contains(&said), "{query} {answer:?}");
    }
    let log = json!({"message": "refused", "labels": {"__x": "y"}});
    let answer = post(&product, LOGS, JSON, log.to_string());
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.text.contains("reserved label name"), "{answer:?}");
    assert!(product.metric("log_capturer_lines_refused_total").unwrap() > 0.0);
    assert_serves(&product);
    assert_eq!(lines_of(&bed, &product), ["well-behaved"]);
    stop(product);
}

/// Loki answers 500 to such a push, whenever it is sent: no line behind it would arrive.
#[test]
fn metadata_without_a_name_is_refused_and_holds_up_nobody() {
    let bed = Bed::new();
    let product = bed.start();
    let values = |pairs| json!([[now_ns().to_string(), "x", pairs]]);
    let unnamed = json!({"streams": [{"stream": {"a": "b"}, "values": values(json!({"": "v"}))}]});
    let pairs = BTreeMap::from([(String::new(), "v".to_owned())]);
    let (mut entries, mut push) = (Vec::new(), Vec::new());
    proto::entry_with(now_ns().cast_unsigned(), b"x", &pairs, &mut entries);
    proto::stream("{a=\"b\"}", &entries, &mut push);
    let push = snap::raw::Encoder::new().compress_vec(&push).unwrap();
    for (kind, body) in [(JSON, unnamed.to_string().into_bytes()), (PROTOBUF, push)] {
        let answer = post(&product, PUSH, kind, body);
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    assert_serves(&product);
    assert_eq!(lines_of(&bed, &product), ["well-behaved"]);
    stop(product);
}

#[test]
fn streams_beyond_the_most_go_into_one_with_their_labels_and_no_line_is_lost() {
    const STREAMS: usize = 20_000;
    const STREAMS_MAX: usize = 100;
    let mut bed = Bed::new();
    bed.setup.server_keys = vec![format!("streams_max: {STREAMS_MAX}")];
    bed.setup.cores = "{ shards: 1 }".into();
    let product = bed.start();
    let before = product.usage().unwrap().rss_peak_bytes;
    for part in 0..4 {
        let numbers = (0..STREAMS / 4).map(|at| part * STREAMS / 4 + at);
        if part % 2 == 1 {
            let mut push = Vec::new();
            for number in numbers {
                let mut entries = Vec::new();
                let line = number.to_string();
                proto::entry(now_ns().cast_unsigned(), line.as_bytes(), &mut entries);
                proto::stream(&format!("{{id=\"{number}\"}}"), &entries, &mut push);
            }
            let push = snap::raw::Encoder::new().compress_vec(&push).unwrap();
            let answer = post(&product, PUSH, PROTOBUF, push);
            assert_eq!(answer.status, 204, "{answer:?}");
            continue;
        }
        let streams: Vec<_> = numbers
            .map(|number| {
                let stamp = now_ns().to_string();
                json!({"stream": {"id": number.to_string()}, "values": [[stamp, number.to_string()]]})
            })
            .collect();
        let answer = post(&product, PUSH, JSON, json!({"streams": streams}).to_string());
        assert_eq!(answer.status, 204, "{answer:?}");
    }
    let entries = bed.entries(STREAMS);
    let mut numbers = BTreeSet::new();
    for entry in &entries {
        let line = text(entry);
        let own = format!("{{id=\"{line}\"}}");
        if entry.labels != own {
            assert_eq!(entry.labels, "{log_capturer_overflow=\"true\"}");
            assert_eq!(entry.metadata, [("overflow_labels".to_owned(), own)]);
        }
        assert!(numbers.insert(line), "twice");
    }
    assert_eq!(numbers.len(), STREAMS);
    assert_eq!(bed.stub.streams().len(), STREAMS_MAX + 1);
    let grown = grown(&product, before);
    println!("{STREAMS} streams cost {} KiB", grown >> 10);
    assert!(grown < 64 * MIB, "{grown} bytes");
    stop(product);
}

fn as_tenant(product: &Product, tenant: &str, line: &str) -> Answer {
    post(product, RAW, &format!("x-scope-orgid: {tenant}\r\n"), line)
}

#[test]
fn a_tenant_is_named_by_the_client_only_where_it_may() {
    let bed = Bed::new();
    let product = bed.start();
    assert_eq!(as_tenant(&product, "intruder", "ignored").status, 204);
    assert_eq!(as_tenant(&product, "not/even valid", "ignored too").status, 204);
    let tenants: Vec<_> = bed.entries(2).into_iter().map(|entry| entry.tenant).collect();
    assert_eq!(tenants, ["", ""]);
    stop(product);

    let mut bed = Bed::new();
    bed.setup.server_keys = vec!["tenant_header: true".into()];
    bed.setup.sink_keys.push("tenant: own".into());
    let product = bed.start();
    // All in one commit, as many as may be.
    thread::scope(|scope| {
        for number in 0..20 {
            let (tenant, product) = (["one", "two"][number % 2], &product);
            scope.spawn(move || {
                let answer = as_tenant(product, tenant, &format!("of {tenant} {number}"));
                assert_eq!(answer.status, 204, "{answer:?}");
            });
        }
    });
    assert_eq!(post(&product, RAW, "", "of own").status, 204);
    let signs = "!-_.*'()aZ9";
    assert_eq!(as_tenant(&product, signs, &format!("of {signs}")).status, 204);
    for bad in ["", "a/b", "a b", "a|b", "ä", "..", ".", &"x".repeat(151)] {
        let answer = as_tenant(&product, bad, "of nobody");
        assert_eq!(answer.status, 400, "{bad:?}: {answer:?}");
        assert!(answer.text.to_lowercase().contains("x-scope-orgid"), "{bad:?}: {answer:?}");
    }
    let entries = bed.entries(22);
    assert_eq!(entries.len(), 22);
    for entry in entries {
        let line = text(&entry);
        assert_eq!(line.split(' ').nth(1), Some(entry.tenant.as_str()), "{line}");
    }
    stop(product);
}
