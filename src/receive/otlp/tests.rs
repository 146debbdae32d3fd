//! Exports in both forms, from their bytes to what is stored.

use super::*;
use crate::alone;
use crate::batch::put_varint;
use crate::intake::Tenant;
use crate::receive::admit::{self, Refused};
use crate::receive::arrival::{Arrival, Stamps, Streams, Terms};
use crate::receive::wire::{Fields, Value as Wire};
use crate::receive::{body, push};
use io::format::Seq;
use io::http::BodyMemory;
use serde_json::{Value as Json, json};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const NOW: i64 = 1_700_000_000_000_000_000;
const LIMITS: Limits = Limits {
    size: Size { streams_max: 3, entries_max: 100 },
    made_bytes_max: 1 << 20,
    json_values_max: 100_000,
};

fn doors() -> admit::Limits {
    admit::Limits {
        line_bytes_max: 1000,
        label_names_max: 5,
        label_name_bytes_max: 100,
        label_value_bytes_max: 100,
        metadata_bytes_max: 400,
        metadata_pairs_max: 20,
        age_max: Duration::from_secs(3600),
        future_max: Duration::from_secs(3600),
    }
}

/// Labels, timestamp, line, metadata.
type Stored = (String, i64, String, Vec<(String, String)>);

fn stored(kind: Kind, body: &[u8]) -> Result<(Vec<Stored>, Refused), BadExport> {
    stored_within(kind, body, LIMITS)
}

fn stored_within(
    kind: Kind,
    body: &[u8],
    limits: Limits,
) -> Result<(Vec<Stored>, Refused), BadExport> {
    let door_limits = doors();
    let door = Door::new(&door_limits, NOW);
    let mut body = body.to_vec();
    let export = read(kind, &mut body, limits, &door)?;
    let mut streams = Streams::new(100);
    let mut tenant = Tenant::default();
    let last_ns = Cell::new(0);
    let stamps = Stamps::new(&last_ns, NOW, 0, 1);
    let alone = alone::Limits { stream_rate: 1 << 20, late_ns: i64::MAX, heat: Arc::default() };
    let terms = Terms { tenant: "", block_raw_bytes: 1 << 20, acked: Seq::NONE, alone: &alone };
    let mut arrival = Arrival::new(&door, &[], &mut streams, stamps, &mut tenant, terms);
    arrival.export(&export);
    let (lines, _, refused) = arrival.done();
    let mut found = Vec::new();
    let mut frames = Vec::new();
    tenant.seal("", 1 << 20, |frame| {
        frames.push(frame);
        Some(Seq(frames.len() as u64))
    });
    for frame in frames {
        let limits = body::Limits { decoded_bytes_max: 1 << 20, ratio_max: 1000 };
        let raw =
            body::unsnap(&frame.body, limits, &Rc::new(BodyMemory::new(1 << 20))).unwrap().bytes;
        let size = Size { streams_max: 100, entries_max: 100 };
        for stream in push::Push::read(&raw, size, &door).unwrap().streams {
            for (entry, measure) in stream.encoded() {
                assert!(door.entry(stream.labels, &measure).is_ok());
                let (line, metadata) = parts(entry.bytes);
                found.push((stream.labels.to_owned(), measure.stamp_ns, line, metadata));
            }
        }
    }
    assert_eq!(found.len() as u64, lines);
    // Of each stream in their order; the streams travel in any.
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok((found, refused))
}

fn parts(entry: &[u8]) -> (String, Vec<(String, String)>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (mut line, mut metadata) = (String::new(), Vec::new());
    for field in Fields::of(entry) {
        match field.unwrap() {
            (2, Wire::Bytes(bytes)) => line = text(bytes),
            (3, Wire::Bytes(pair)) => {
                let mut texts = Fields::of(pair).map(|field| match field.unwrap() {
                    (_, Wire::Bytes(bytes)) => text(bytes),
                    other => panic!("{other:?}"),
                });
                metadata.push((texts.next().unwrap(), texts.next().unwrap()));
            }
            _ => {}
        }
    }
    (line, metadata)
}

fn bytes_field(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, number << 3 | 2);
    put_varint(&mut out, bytes.len() as u64);
    [out, bytes.to_vec()].concat()
}

fn number_field(number: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, number << 3);
    put_varint(&mut out, value);
    out
}

fn fixed_field(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, number << 3 | if bytes.len() == 8 { 1 } else { 5 });
    [out, bytes.to_vec()].concat()
}

/// The same export in protobuf.
fn protobuf(message: &str, json: &Json) -> Vec<u8> {
    let Json::Object(fields) = json else { panic!("{message}: {json}") };
    let mut out = Vec::new();
    for (name, value) in fields {
        let inner = |number, inner: &'static str| match value {
            Json::Array(list) => {
                list.iter().flat_map(|one| bytes_field(number, &protobuf(inner, one))).collect()
            }
            one => bytes_field(number, &protobuf(inner, one)),
        };
        let integer = || match value {
            Json::String(text) => text.parse::<i128>().unwrap(),
            number => number.as_i64().unwrap().into(),
        };
        let text = || value.as_str().unwrap().as_bytes();
        let hex = || -> Vec<u8> {
            let pairs = text().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
            pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
        };
        let low = |number: i128| {
            let negative = || i64::try_from(number).unwrap().cast_unsigned();
            u64::try_from(number).unwrap_or_else(|_| negative())
        };
        out.extend(match (message, name.as_str()) {
            ("export", "resourceLogs") => inner(1, "resource_logs"),
            ("resource_logs", "resource") => inner(1, "resource"),
            ("resource_logs", "scopeLogs") => inner(2, "scope_logs"),
            ("resource_logs", "once") => inner(1000, "scope_logs"),
            ("resource", "attributes") => inner(1, "attribute"),
            ("scope_logs", "scope") => inner(1, "scope"),
            ("scope_logs", "logRecords") => inner(2, "record"),
            ("scope", "name") => bytes_field(1, text()),
            ("scope", "version") => bytes_field(2, text()),
            ("scope", "attributes") => inner(3, "attribute"),
            ("scope", "droppedAttributesCount") => number_field(4, low(integer())),
            ("record", "timeUnixNano") => fixed_field(1, &low(integer()).to_le_bytes()),
            ("record", "severityNumber") => number_field(2, low(integer())),
            ("record", "severityText") => bytes_field(3, text()),
            ("record", "body") => inner(5, "any"),
            ("record", "attributes") => inner(6, "attribute"),
            ("record", "droppedAttributesCount") => number_field(7, low(integer())),
            ("record", "flags") => fixed_field(8, &low(integer()).to_le_bytes()[..4]),
            ("record", "traceId") => bytes_field(9, &hex()),
            ("record", "spanId") => bytes_field(10, &hex()),
            ("record", "observedTimeUnixNano") => fixed_field(11, &low(integer()).to_le_bytes()),
            ("record", "eventName") => bytes_field(12, text()),
            ("attribute", "key") => bytes_field(1, text()),
            ("attribute", "value") => inner(2, "any"),
            ("any", "stringValue") => bytes_field(1, text()),
            ("any", "boolValue") => number_field(2, value.as_bool().unwrap().into()),
            ("any", "intValue") => number_field(3, low(integer())),
            ("any", "doubleValue") => {
                let number = match value {
                    Json::String(text) => text.parse().unwrap(),
                    number => number.as_f64().unwrap(),
                };
                fixed_field(4, &number.to_bits().to_le_bytes())
            }
            ("any", "arrayValue") => inner(5, "list"),
            ("any", "kvlistValue") => inner(6, "map"),
            ("any", "bytesValue") => {
                bytes_field(7, &value::from_base64(value.as_str().unwrap()).unwrap())
            }
            ("list", "values") => inner(1, "any"),
            ("map", "values") => inner(1, "attribute"),
            _ => bytes_field(99, b"not known"),
        });
    }
    out
}

/// Both forms of an export.
fn forms(json: &Json) -> [(Kind, Vec<u8>); 2] {
    [(Kind::Json, json.to_string().into_bytes()), (Kind::Protobuf, protobuf("export", json))]
}

/// What is stored of an export, in whichever form it comes.
fn both(json: &Json) -> (Vec<Stored>, Refused) {
    let [one, other] = forms(json).map(|(kind, body)| stored(kind, &body).unwrap());
    assert_eq!(one.0, other.0);
    assert_eq!(one.1.to_string(), other.1.to_string());
    one
}

fn bad(json: &Json) -> BadExport {
    let [one, other] = forms(json).map(|(kind, body)| stored(kind, &body).unwrap_err());
    assert_eq!(one, other);
    one
}

fn attribute(name: &str, value: Json) -> Json {
    json!({"key": name, "value": value})
}

fn text(text: &str) -> Json {
    json!({"stringValue": text})
}

fn export(resource: &[Json], records: &[Json]) -> Json {
    json!({"resourceLogs": [{
        "resource": {"attributes": resource},
        "scopeLogs": [{"logRecords": records}],
    }]})
}

/// With its first resource so many times.
fn repeated(times: usize, export: &Json) -> Json {
    json!({"resourceLogs": vec![export["resourceLogs"][0].clone(); times]})
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn an_export_is_stored_as_loki_stores_it() {
    let export = json!({
        "resourceLogs": [{
            "resource": {
                "attributes": [
                    attribute("service.name", text("shop")),
                    attribute("host.name", text("h1")),
                    attribute("k8s.pod.name", text("p\"1")),
                    attribute("deployment.environment", text("")),
                ],
                "droppedAttributesCount": 9,
            },
            "scopeLogs": [{
                "scope": {
                    "name": "lib", "version": "1.2", "droppedAttributesCount": 3,
                    "attributes": [attribute("a.b", json!({"boolValue": true}))],
                },
                "logRecords": [{
                    "timeUnixNano": "1700000000000000001",
                    "observedTimeUnixNano": "1700000000000000002",
                    "severityNumber": 17,
                    "severityText": "Error",
                    "body": text("it\nburns"),
                    "attributes": [
                        attribute("http.status", json!({"intValue": "500"})),
                        attribute("9", json!({"kvlistValue": {"values": [
                            attribute("x", text("1")),
                            attribute("y.z", json!({"kvlistValue": {"values": [
                                attribute("_", text("2")),
                            ]}})),
                        ]}})),
                        attribute("none", json!({})),
                    ],
                    "droppedAttributesCount": 2,
                    "flags": 1,
                    "traceId": "5B8EFFF798038103D269B633813FC60C",
                    "spanId": "eee19b7ec3c1b174",
                    "eventName": "burn",
                }],
                "schemaUrl": "x",
            }, {
                "scope": {}, "logRecords": [{"observedTimeUnixNano": "5", "body": text("old")}],
            }, {
                "logRecords": [],
            }],
        }, {
            "scopeLogs": [{"logRecords": [{"body": text("now")}, {
                "observedTimeUnixNano": "1700000000000000007",
                "traceId": "00000000000000000000000000000000", "spanId": "",
            }]}],
        }, {}],
        "else": 7,
    });
    let (found, refused) = both(&export);
    let labels = "{k8s_pod_name=\"p\\\"1\", service_name=\"shop\"}";
    let unknown = "{service_name=\"unknown_service\"}";
    let metadata = [
        ("http_status", "500"),
        ("key_9_x", "1"),
        ("key_9_y_z_", "2"),
        ("none", ""),
        ("observed_timestamp", "1700000000000000002"),
        ("severity_number", "17"),
        ("severity_text", "Error"),
        ("dropped_attributes_count", "2"),
        ("flags", "1"),
        ("trace_id", "5b8efff798038103d269b633813fc60c"),
        ("span_id", "eee19b7ec3c1b174"),
        ("event_name", "burn"),
        ("host_name", "h1"),
        ("a_b", "true"),
        ("scope_name", "lib"),
        ("scope_version", "1.2"),
        ("scope_dropped_attributes_count", "3"),
    ];
    assert_eq!(
        found,
        [
            (labels.into(), NOW + 1, "it\nburns".into(), pairs(&metadata)),
            (unknown.into(), NOW, "now".into(), vec![]),
            (unknown.into(), NOW + 7, String::new(), vec![]),
        ]
    );
    assert_eq!(refused.entries, 1, "the time observed counts where there is no other");
    assert!(refused.to_string().contains("timestamp too old: 1970-01-01T00:00:00Z"), "{refused}");
}

#[test]
fn a_body_of_any_type_is_a_line() {
    let map = json!({"kvlistValue": {"values": [
        attribute("b", json!({"arrayValue": {"values": [{"doubleValue": 0.5}, {}]}})),
        attribute("a", json!({"bytesValue": "_w"})),
        attribute("a", json!({"bytesValue": "/w=="})),
    ]}});
    for (body, expected) in [
        (json!({}), ""),
        (json!({"unknownValue": 1}), ""),
        (text("ü"), "ü"),
        (json!({"boolValue": false}), "false"),
        (json!({"intValue": "-9223372036854775808"}), "-9223372036854775808"),
        (json!({"intValue": 7}), "7"),
        (json!({"doubleValue": 3}), "3"),
        (json!({"doubleValue": 1e21}), "1e+21"),
        (json!({"doubleValue": "NaN"}), "NaN"),
        (json!({"doubleValue": "-Infinity"}), "-Infinity"),
        (json!({"bytesValue": "/w=="}), "/w=="),
        (json!({"arrayValue": {}}), "[]"),
        (json!({"kvlistValue": {}}), "{}"),
        (map, "{\"a\":\"/w==\",\"b\":[0.5,null]}"),
    ] {
        let record = json!({"body": body, "attributes": [attribute("a", body.clone())]});
        let found = both(&export(&[], &[record])).0;
        assert_eq!(found[0].2, expected, "{body}");
        if body.get("kvlistValue").is_none() {
            assert_eq!(found[0].3, pairs(&[("a", expected)]), "{body}");
        }
    }
}

#[test]
fn a_service_has_a_name() {
    for (attributes, expected) in [
        (vec![], "service_name=\"unknown_service\""),
        (vec![("service.name", "a")], "service_name=\"a\""),
        (vec![("service.name", "")], "service_name=\"unknown_service\""),
        (vec![("app", "a")], "service_name=\"unknown_service\""),
        (vec![("k8s.job.name", "j")], "k8s_job_name=\"j\", service_name=\"j\""),
        (
            vec![("k8s.job.name", "j"), ("k8s.container.name", "k"), ("container.name", "")],
            "k8s_container_name=\"k\", k8s_job_name=\"j\", service_name=\"k\"",
        ),
    ] {
        let resource: Vec<_> =
            attributes.iter().map(|(name, value)| attribute(name, text(value))).collect();
        let (found, _) = both(&export(&resource, &[json!({"body": text("x")})]));
        assert_eq!(found[0].0, format!("{{{expected}}}"));
    }
    let map = json!({"kvlistValue": {"values": [attribute("a", text("b"))]}});
    let (found, _) = both(&export(&[attribute("service.name", map)], &[json!({})]));
    assert_eq!(found[0].0, "{service_name_a=\"b\"}", "a map is several labels");
}

#[test]
fn the_field_is_the_name_of_the_event() {
    let attributes =
        json!([attribute("event_name", text("a")), attribute("event.name", text("b"))]);
    let record = |name| json!({"attributes": attributes, "eventName": name});
    let (found, _) = both(&export(&[], &[record("c"), record("")]));
    assert_eq!(found[0].3, pairs(&[("event_name", "b"), ("event_name", "c")]));
    assert_eq!(found[1].3, pairs(&[("event_name", "a"), ("event_name", "b")]));
}

#[test]
fn records_beyond_a_limit_are_refused_alone() {
    let record = |size: usize| json!({"body": text(&"x".repeat(size))});
    let with = |attributes: Vec<Json>| json!({"body": text("y"), "attributes": attributes});
    let many = (0..21).map(|at| attribute(&format!("a{at}"), text(""))).collect();
    let large = vec![attribute("a", text(&"x".repeat(400)))];
    let fits = vec![attribute("a", text(&"x".repeat(395)))];
    let resource = [attribute("host", text(""))];
    let records = [record(1001), record(1000), with(many), with(large), with(fits)];
    let (found, refused) = both(&export(&resource, &records));
    assert_eq!(found.iter().map(|stored| stored.2.len()).collect::<Vec<_>>(), [1000, 1]);
    assert_eq!(refused.entries, 3);
    let text = refused.to_string();
    for part in ["length '1001'", "'22', limit: '20'", "'405' bytes, limit: '400'"] {
        assert!(text.contains(part), "{text}");
    }
    let long = [attribute("service.name", json!({"stringValue": "x".repeat(101)}))];
    let (found, refused) = both(&export(&long, &[record(1), record(2)]));
    assert_eq!((found.len(), refused.entries), (0, 2));
    assert!(refused.to_string().contains("has label value too long"), "{refused}");
    let late = json!({"timeUnixNano": "18446744073709551615"});
    assert!(both(&export(&[], &[late])).1.to_string().contains("too old"));
}

#[test]
fn an_export_that_is_bad_is_bad_as_a_whole() {
    for name in ["", "...", "é"] {
        let records =
            [json!({"body": text("x")}), json!({"attributes": [attribute(name, text(""))]})];
        assert_eq!(bad(&export(&[], &records)), BadExport::Name(name.into()));
        let inner = json!({"kvlistValue": {"values": []}});
        assert_eq!(bad(&export(&[attribute(name, inner)], &[])), BadExport::Name(name.into()));
    }
    let many = vec![json!({}); 101];
    let too_many = |bad| match bad {
        BadExport::TooMany(BadPush::TooMany { found, max, .. }) => (found, max),
        other => panic!("{other}"),
    };
    assert_eq!(too_many(bad(&export(&[], &many))), (101, 100));
    let streams = repeated(4, &export(&[], &[json!({})]));
    assert_eq!(too_many(bad(&streams)), (4, 3));
    let large = attribute("k8s.pod.name", text(&"x".repeat(LABELS_BYTES_MAX)));
    assert_eq!(bad(&export(&[large], &[])), BadExport::Labels);
}

#[test]
fn nothing_to_store_is_stored() {
    for json in [json!({}), json!({"resourceLogs": [{}, {"scopeLogs": [{}]}]}), export(&[], &[])] {
        let (found, refused) = both(&json);
        assert!(found.is_empty() && refused.is_empty());
    }
    let many = repeated(50, &export(&[attribute("a", text("b"))], &[]));
    assert!(both(&many).0.is_empty(), "resources without records are no streams");
}

fn nested(levels: usize, list: bool) -> Json {
    (0..levels).fold(text("x"), |inner, _| {
        if list {
            json!({"arrayValue": {"values": [inner]}})
        } else {
            json!({"kvlistValue": {"values": [attribute("a", inner)]}})
        }
    })
}

#[test]
fn deep_nesting_is_refused() {
    for list in [false, true] {
        for place in ["body", "attributes"] {
            let at = |levels| {
                let value = nested(levels, list);
                let record = if place == "body" {
                    json!({"body": value})
                } else {
                    json!({"attributes": [attribute("a", value)]})
                };
                export(&[], &[record])
            };
            assert_eq!(both(&at(DEPTH_MAX)).0.len(), 1);
            let body = protobuf("export", &at(DEPTH_MAX + 1));
            assert_eq!(stored(Kind::Protobuf, &body).unwrap_err(), BadExport::Deep);
            let body = at(DEPTH_MAX + 1).to_string();
            let bad = stored(Kind::Json, body.as_bytes()).unwrap_err();
            let deep = matches!(bad, BadExport::Deep | BadExport::Json(BadJson::Deep { .. }));
            assert!(deep, "{bad}");
        }
    }
    let mut message = Vec::new();
    for _ in 0..10_000 {
        message = bytes_field(5, &bytes_field(1, &message));
    }
    let record = bytes_field(2, &bytes_field(2, &bytes_field(5, &message)));
    let body = bytes_field(1, &record);
    assert_eq!(stored(Kind::Protobuf, &body).unwrap_err(), BadExport::Deep);
    let body = "[".repeat(1 << 20);
    assert!(matches!(
        stored(Kind::Json, body.as_bytes()),
        Err(BadExport::Json(BadJson::Deep { .. }))
    ));
}

#[test]
fn a_broken_body_is_refused_wherever_it_ends() {
    let record = json!({
        "timeUnixNano": "1700000000000000001", "flags": 7, "severityText": "x",
        "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174",
        "body": {"doubleValue": 0.5},
        "attributes": [attribute("a", nested(3, true)), attribute("b", nested(3, false))],
    });
    let export = export(&[attribute("service.name", text("s"))], &[record]);
    for (kind, body) in forms(&export) {
        for len in 0..body.len() {
            let cut = stored(kind, &body[..len]);
            assert_eq!(cut.is_ok(), len == 0 && kind == Kind::Protobuf, "{kind:?} {len}");
            // Nothing but an answer is asked for.
            for change in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut changed = body.clone();
                changed[len] ^= change;
                let _ = stored(kind, &changed);
            }
        }
    }
    for body in [
        number_field(1, 7),
        bytes_field(1, &number_field(2, 7)),
        bytes_field(1, &bytes_field(2, &bytes_field(2, &number_field(1, 7)))),
        bytes_field(1, &bytes_field(2, &bytes_field(2, &bytes_field(9, b"short")))),
        b"\x0b\x0c".to_vec(),
    ] {
        assert!(stored(Kind::Protobuf, &body).is_err(), "{body:?}");
    }
    for body in [
        "",
        "7",
        "null",
        "[]",
        "{\"resourceLogs\": {}}",
        "{\"resourceLogs\": [7]}",
        "{\"resourceLogs\": [{\"scopeLogs\": [{\"logRecords\": [{\"traceId\": \"5b8e\"}]}]}]}",
        "{\"resourceLogs\": [{\"scopeLogs\": [{\"logRecords\": [{\"flags\": -1}]}]}]}",
        "{\"resourceLogs\": [{\"scopeLogs\": [{\"logRecords\": [{\"timeUnixNano\": 1.5}]}]}]}",
        "{\"resourceLogs\": [{\"scopeLogs\": [{\"logRecords\": [{\"severityNumber\": \"x\"}]}]}]}",
        "{\"resourceLogs\": [{\"scopeLogs\": [{\"logRecords\": [{\"body\": \"text\"}]}]}]}",
    ] {
        assert!(stored(Kind::Json, body.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn json_comes_in_several_spellings() {
    let body =
        br#"{"resource_logs": [{"resource": null, "scope_logs": [{"scope": null, "log_records": [
        {"time_unix_nano": 1700000000000000001, "severity_number": "SEVERITY_NUMBER_INFO2",
         "severity_text": null, "trace_id": null, "body": {"string_value": "a"},
         "attributes": [{"key": "b", "value": {"int_value": 7}}, {"key": "c", "value": null}]},
        null]}]}]}"#;
    let (found, _) = stored(Kind::Json, body).unwrap();
    assert_eq!((found.len(), found[0].1, &found[0].2[..]), (2, NOW + 1, "a"));
    assert_eq!(found[0].3, pairs(&[("b", "7"), ("c", ""), ("severity_number", "10")]));
}

#[test]
fn scopes_may_stand_where_they_once_stood() {
    let scopes = json!([{"scope": {"name": "a"}, "logRecords": [{"body": text("x")}]}]);
    let stored = |json: Json| stored(Kind::Protobuf, &protobuf("export", &json)).unwrap().0;
    let found = stored(json!({"resourceLogs": [{"once": scopes}]}));
    assert_eq!(found[0].3, pairs(&[("scope_name", "a")]));
    let found = stored(json!({"resourceLogs": [{"once": scopes, "scopeLogs": scopes}]}));
    assert_eq!(found.len(), 1);
}

#[test]
fn a_text_that_is_no_utf8_is_taken_all_the_same() {
    let any = bytes_field(1, b"a\xffb");
    let attribute = bytes_field(6, &[bytes_field(1, b"n\xff"), bytes_field(2, &any)].concat());
    let record = [bytes_field(5, &any), attribute].concat();
    let body = bytes_field(1, &bytes_field(2, &bytes_field(2, &record)));
    let limits = doors();
    let door = Door::new(&limits, NOW);
    let mut body_read = body.clone();
    let export = read(Kind::Protobuf, &mut body_read, LIMITS, &door).unwrap();
    let record = export.records(&export.streams[0]).next().unwrap();
    assert_eq!(record.line, b"a\xffb");
    let mut expected = Vec::new();
    crate::batch::put_metadata(&mut expected, "n_", "a\u{fffd}b");
    assert_eq!(record.metadata[0], expected);
}

#[test]
fn what_is_made_of_an_export_is_bounded() {
    // Attributes of a resource, many times as large with the records they belong to.
    let limits = |made_bytes_max| Limits {
        size: Size { streams_max: 3, entries_max: 500_000 },
        made_bytes_max,
        json_values_max: 5_000_000,
    };
    let resource = |pairs: usize, bytes: usize| -> Vec<u8> {
        let value = bytes_field(2, &bytes_field(1, &vec![b'x'; bytes]));
        let one = bytes_field(1, &[bytes_field(1, b"a"), value].concat());
        bytes_field(1, &one.repeat(pairs))
    };
    let records = bytes_field(2, &bytes_field(2, b"").repeat(100_000));
    let door_limits = doors();
    let door = Door::new(&door_limits, NOW);
    let try_read = |resource: Vec<u8>, made_bytes_max| {
        let mut body = bytes_field(1, &[resource, records.clone()].concat());
        let bytes = body.len();
        let export = read(Kind::Protobuf, &mut body, limits(made_bytes_max), &door)?;
        let stream = &export.streams[0];
        let made: usize = export.records(stream).map(|record| record.metadata.concat().len()).sum();
        assert_eq!(export.count(stream), 100_000);
        Ok::<_, BadExport>((bytes, made))
    };
    // 100,000 records of 300 bytes would be 30 MB of a body of 200 kB.
    let refused = try_read(resource(1, 300), 8 << 20).unwrap_err();
    assert_eq!(refused, BadExport::TooLarge { max: 8 << 20 });
    assert!(refused.is_size());
    // More than an entry may have is not made at all: each record is refused.
    let (_, made) = try_read(resource(100_000, 0), 8 << 20).unwrap();
    assert_eq!(made, 0);
    // Names within long names.
    let long = "n".repeat(10_000);
    let leaves: Vec<_> = (0..1000).map(|_| attribute("x", json!({}))).collect();
    let maps: Vec<_> = (0..1000).map(|_| attribute("x", json!({"kvlistValue": {}}))).collect();
    for inner in [leaves, maps] {
        let map = json!({"kvlistValue": {"values": inner}});
        let bad = bad(&export(&[], &[json!({"attributes": [attribute(&long, map)]})]));
        assert_eq!(bad, BadExport::TooLarge { max: LIMITS.made_bytes_max });
    }
    let nodes = format!("{{\"x\": [0{}]}}", ",0".repeat(100_000));
    let bad = stored(Kind::Json, nodes.as_bytes()).unwrap_err();
    assert!(matches!(bad, BadExport::Json(BadJson::Large { .. })), "{bad}");
    // Values of which each is two bytes.
    let values = bytes_field(6, b"").repeat(VALUES_MAX + 1);
    let body = bytes_field(1, &bytes_field(2, &bytes_field(2, &values)));
    let bad = stored_within(Kind::Protobuf, &body, limits(1 << 30)).unwrap_err();
    assert!(matches!(bad, BadExport::TooMany(_)), "{bad}");
}
