//! Valid bodies, and some at the edge, to start from.

use log_capturer::batch::put_varint;
use std::io::Write;

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn bytes_field(number: u64, parts: &[&[u8]]) -> Vec<u8> {
    let bytes = parts.concat();
    let mut out = Vec::new();
    put_varint(&mut out, number << 3 | 2);
    put_varint(&mut out, bytes.len() as u64);
    out.extend(bytes);
    out
}

fn number_field(number: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, number << 3);
    put_varint(&mut out, value);
    out
}

fn fixed_field(number: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, number << 3 | 1);
    out.extend(value.to_le_bytes());
    out
}

fn stamp(seconds: u64, nanos: u64) -> Vec<u8> {
    bytes_field(1, &[&number_field(1, seconds), &number_field(2, nanos)])
}

fn pair(number: u64, name: &str, value: &str) -> Vec<u8> {
    let name = bytes_field(1, &[name.as_bytes()]);
    bytes_field(number, &[&name, &bytes_field(2, &[value.as_bytes()])])
}

fn push_stream(labels: &str, rest: &[&[u8]]) -> Vec<u8> {
    let labels = bytes_field(1, &[labels.as_bytes()]);
    bytes_field(1, &[&labels, &rest.concat()])
}

fn entry(line: &[u8], rest: &[&[u8]]) -> Vec<u8> {
    bytes_field(2, &[&stamp(1_700_000_000, 7), &bytes_field(2, &[line]), &rest.concat()])
}

pub fn push_protobuf() -> Vec<Vec<u8>> {
    let plain = entry(b"a line", &[]);
    let far = {
        let mut tag = Vec::new();
        put_varint(&mut tag, (1_u64 << 32 | 2) << 3 | 2);
        [&tag[..], b"\x03far"].concat()
    };
    let many = pair(3, "name", &"v".repeat(100));
    vec![
        Vec::new(),
        push_stream("{a=\"1\"}", &[&plain]),
        [
            push_stream("{a=\"1\", b=\"2\"}", &[&plain, &entry(b"", &[]), &plain]),
            push_stream("{b='x', c=`y`,}", &[&entry(b"\xff\0", &[&pair(3, "trace", "1")])]),
        ]
        .concat(),
        push_stream("{a=\"\", b=\"2\"}", &[&plain]),
        push_stream("{a=\"\"}", &[&plain]),
        push_stream("{\u{c}a=\"1\"}", &[&plain]),
        push_stream("{a=\"\u{fffd}\", b=\"\\ufffd\"}", &[&plain]),
        push_stream("{a=\"1\", a=\"2\"}", &[&plain]),
        push_stream("{__a=\"1\"}", &[&plain]),
        push_stream("{a=\"1\"}", &[&plain, &number_field(3, u64::MAX)]),
        push_stream("{a=\"1\"}", &[&plain, &bytes_field(3, &[b"no number"])]),
        push_stream("{a=\"1\"}", &[&plain, &bytes_field(1, &[b"{b=\"2\"}"])]),
        push_stream("{a=\"1\"}", &[&entry(b"parsed", &[&pair(4, "a", "b")])]),
        push_stream("{a=\"1\"}", &[&entry(b"parsed", &[&number_field(4, 1)])]),
        push_stream("{a=\"1\"}", &[&entry(b"twice", &[&stamp(5, 6), &bytes_field(2, &[b"2"])])]),
        push_stream("{a=\"1\"}", &[&entry(b"far", &[&far])]),
        push_stream("{a=\"1\"}", &[&entry(b"pair", &[&bytes_field(3, &[&number_field(1, 2)])])]),
        push_stream("{a=\"1\"}", &[&entry(b"pair", &[&bytes_field(3, &[&number_field(9, 2)])])]),
        push_stream("{a=\"1\"}", &[&entry(b"many", &[&many, &many])]),
        [
            push_stream("{a=\"1\"}", &[&plain]),
            push_stream("{b=\"2\"}", &[&entry(b"nearly", &[&many, &many])]),
        ]
        .concat(),
        push_stream("{a=\"1\"}", &[&bytes_field(2, &[&stamp(1 << 40, 0)])]),
        push_stream("{a=\"1\"}", &[&bytes_field(2, &[&stamp(1 << 63, 0)])]),
        push_stream("{a=\"1\"}", &[&bytes_field(2, &[&stamp(0, 1_000_000_000)])]),
        push_stream("{a=\"1\"}", &[&entry(&[b'x'; 201], &[]), &plain]),
        push_stream("{a=\"1\"}", &[&plain.repeat(12)]),
        push_stream("{a=\"1\"}", &[&plain.repeat(13)]),
        push_stream("{a=\"1\"}", &[&plain]).repeat(5),
    ]
}

pub fn push_json() -> Vec<Vec<u8>> {
    let deep = format!("{{\"x\": {}{}}}", "[".repeat(12), "]".repeat(12));
    let mut seeds = texts(&[
        r#"{"streams": [{"stream": {"a": "1"}, "values": [["1700000000000000000", "line"]]}]}"#,
        r#"{"streams": [{"stream": {"b": "ü\n", "a": "x\"y"}, "values": [
            ["1700000000000000001", "line\t1"], ["2", "", {"trace": "1", "é": "\u00e9"}]]},
            {"stream": {"a": "\ud83d\ude00"}, "values": null, "more": [1, {}]}], "else": 1}"#,
        r#"{"streams":[{"stream":{"a":"","b":"2"},"values":[["0","x"],["-1","old"]]},
            {"stream":{"b":"3"},"values":[["9223372036854775807","y",{"a":"b","a":"c"}]]}]}"#,
        r#"{"streams":[{"stream":{"a.b":"1"},"values":[["1","x"]]}]}"#,
        r#"{"streams":[{"stream":{},"values":[["1","x"]]}]}"#,
        r#"{"streams":[{"stream":{"a":"�"},"values":[["1","\ufffd\u0000"]]}]}"#,
        r#"{"streams":[{"stream":{"a":"1"},"values":[["1",""],["1",""]]},{},{},{},{}]}"#,
        r#"{"streams":[],"streams":[{"stream":{"a":"1"},"values":[["1","x"]]}]}"#,
        "{}",
        "[1.5e3, -0, true, null, \"\\u0000\"]",
    ]);
    seeds.push(deep.into_bytes());
    seeds
}

const LOGS: [&str; 9] = [
    r#"{"message": "it\nburns", "level": "error", "source_id": "7", "labels": {"n": 1, "n": 2, "f": 0.5, "b": true, "e": ""}, "timestamp": "2023-11-14T22:13:20.000000001Z"}"#,
    r#"{"message": "a"}"#,
    r#"{"message": "b", "labels": null, "timestamp": ""}"#,
    r#"{"message": "c", "timestamp": 1700000000123}"#,
    r#"{"message": "d", "timestamp": "1700000000123456789"}"#,
    r#"{"message": "e", "timestamp": 1700000000.25}"#,
    r#"{"message": "f", "timestamp": 99999999999.5}"#,
    r#"{"message": "g", "timestamp": 9200000000000000000.0}"#,
    r#"{"message": "h", "timestamp": 1, "labels": {"level": 18446744073709551615}}"#,
];

pub fn logs() -> Vec<Vec<u8>> {
    let mut seeds = texts(&LOGS);
    seeds.push(format!("[{}]", LOGS[1..6].join(", ")).into_bytes());
    seeds.extend(texts(&["[]", "{}", r#"[{"message": "a"}, 7]"#, "{\"message\": \"a\nb\"}"]));
    seeds
}

pub fn ndjson() -> Vec<Vec<u8>> {
    let mut seeds = texts(&[
        "{\"message\": \"a\"}\r\n\n{\"message\": \"b\", \"level\": \"info\"}\n \n",
        "{\"message\": \"a\"}, {\"message\": \"b\"}\n{\"message\": \"c\"}",
        "{\"message\": \"a\nb\"}",
        "{\"message\": \"a\"\n\"level\": \"b\"}",
        "[{\"message\": \"a\"}\n{\"message\": \"b\"}]",
        "",
    ]);
    seeds.push(LOGS[1..6].join("\n").into_bytes());
    seeds.push("\n".repeat(12).into_bytes());
    seeds
}

pub fn lines() -> Vec<Vec<u8>> {
    let mut seeds = texts(&[
        "job=a%20b&ack=memory&host=x%22y&empty=\nfirst\r\n\nsecond\n",
        "a=1\nline",
        "a=1&b=2&c=3&d=4&service_name=5\nline",
        "a=%EF%BF%BD%ff\nx",
        "a.b=1\nline",
        "ack=durable\nline",
        "\nline",
        "a=1\n",
    ]);
    seeds.push(b"a=1\n\xff\0\n\r\n".to_vec());
    seeds.push(["a=1\n", &"x".repeat(200), "\n", &"x".repeat(201)].concat().into_bytes());
    seeds
}

fn any(number: u64, value: &[u8]) -> Vec<u8> {
    bytes_field(number, &[value])
}

fn attribute(number: u64, name: &str, value: &[u8]) -> Vec<u8> {
    bytes_field(number, &[&bytes_field(1, &[name.as_bytes()]), &any(2, value)])
}

fn text(text: &str) -> Vec<u8> {
    bytes_field(1, &[text.as_bytes()])
}

pub fn otlp_protobuf() -> Vec<Vec<u8>> {
    let export = |resource: &[&[u8]], scope: &[&[u8]], records: &[&[u8]]| {
        let records: Vec<_> = records.iter().map(|record| bytes_field(2, &[record])).collect();
        let scope = bytes_field(2, &[&bytes_field(1, scope), &records.concat()]);
        bytes_field(1, &[&bytes_field(1, resource), &scope])
    };
    let time = fixed_field(1, 1_700_000_000_000_000_001);
    let simple = [&time[..], &any(5, &text("it burns"))].concat();
    let full = [
        simple.clone(),
        fixed_field(11, 1_700_000_000_000_000_002),
        number_field(2, 17),
        bytes_field(3, &[b"Error"]),
        attribute(6, "http.status", &number_field(3, u64::MAX)),
        number_field(7, 2),
        b"\x45\x01\x00\x00\x00".to_vec(),
        bytes_field(9, &[&[7; 16]]),
        bytes_field(10, &[&[8; 8]]),
        bytes_field(12, &[b"burn"]),
    ]
    .concat();
    let map = bytes_field(6, &[&attribute(1, "x", &text("1")), &attribute(1, "9", &[])]);
    let list =
        bytes_field(5, &[&any(1, &text("a")), &any(1, &fixed_field(4, 1 << 62)), &any(1, b"")]);
    let mut deep = text("deep");
    for _ in 0..16 {
        deep = bytes_field(5, &[&any(1, &deep)]);
    }
    let deeper = bytes_field(5, &[&any(1, &deep)]);
    let typed = |value: &[u8]| [any(5, value), attribute(6, "a", value)].concat();
    let service = attribute(1, "service.name", &text("shop"));
    let host = attribute(1, "host.name", &text("h1"));
    let once = bytes_field(1, &[&bytes_field(1000, &[&bytes_field(2, &[&simple])])]);
    vec![
        Vec::new(),
        export(&[&service, &host], &[&bytes_field(1, &[b"lib"])], &[&full]),
        export(&[&service], &[&attribute(3, "a.b", &number_field(2, 1))], &[&simple, &simple]),
        export(&[], &[], &[&typed(&map), &typed(&list), &typed(&bytes_field(7, &[b"\xff"]))]),
        export(&[], &[], &[&typed(&deep)]),
        export(&[], &[], &[&typed(&deeper)]),
        export(&[&attribute(1, "service.name", &map)], &[], &[&simple]),
        export(&[&attribute(1, "k8s.pod.name", b"\x0a\x02\xff\xfe")], &[], &[&simple]),
        export(&[&attribute(1, "_", &text("no name"))], &[], &[&simple]),
        export(&[], &[], &[&attribute(6, "event_name", &text("x")), &fixed_field(1, u64::MAX)]),
        export(&[], &[], &[&fixed_field(11, 5), b""]),
        [export(&[&service], &[], &[&simple]), export(&[], &[], &[&full])].concat(),
        export(&[], &[], &[]),
        once,
        [export(&[&service], &[], &[]), export(&[], &[], &[&simple])].concat(),
    ]
}

pub fn otlp_json() -> Vec<Vec<u8>> {
    let nested = |depth: usize| {
        let (open, close) = (r#"{"arrayValue":{"values":["#, "]}}");
        format!(
            r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{}{{}}{}}}]}}]}}]}}"#,
            open.repeat(depth),
            close.repeat(depth)
        )
    };
    let mut seeds = texts(&[
        "{}",
        r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}},{"key":"host.name","value":{"stringValue":"h1"}}]},"scopeLogs":[{"scope":{"name":"lib","version":"1","attributes":[{"key":"a.b","value":{"boolValue":true}}]},"logRecords":[{"timeUnixNano":"1700000000000000001","observedTimeUnixNano":"2","severityNumber":17,"severityText":"Error","body":{"stringValue":"it\nburns"},"attributes":[{"key":"n","value":{"intValue":"500"}}],"droppedAttributesCount":2,"flags":1,"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174","eventName":"burn"}]}]}]}"#,
        r#"{"resource_logs":[{"scope_logs":[null,{"log_records":[{"body":{"kvlistValue":{"values":[{"key":"b","value":{"bytesValue":"_w"}},{"key":"a","value":{"doubleValue":"NaN"}}]}},"severity_number":"SEVERITY_NUMBER_INFO2"},null]}]}]}"#,
        r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"k8s.pod.name","value":{"stringValue":"�"}},{"key":"container.name","value":{"kvlistValue":{"values":[{"key":"9","value":{"intValue":-1}}]}}}]},"scopeLogs":[{"logRecords":[{"observedTimeUnixNano":5,"body":{"doubleValue":1e21}},{}]}]},{}]}"#,
        r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":18446744073709551615},{"attributes":[{"key":"_","value":null}]}]}]}]}"#,
    ]);
    seeds.extend([nested(3), nested(16), nested(17)].map(String::into_bytes));
    seeds
}

pub fn labels() -> Vec<Vec<u8>> {
    texts(&[
        "{}",
        r#"{filename="/var/log/a.log", job="varlogs"}"#,
        " { b = 'x\\'\"' , _a1=`\\n`,c=\"\\x41\\101\\u00fc\\U0001F600\", } ",
        "{a=\"\\a\\b\\f\\n\\r\\t\\v\\\\\\\"\"}",
        "{\u{c}a=\"1\"}",
        "{a=\"\u{fffd}\"}",
        "{a=\"\u{1}\u{7f}\u{85}\u{200b}\u{10ffff}\"}",
        "{a=\"1\", a=\"2\", b=\"\"}",
        "{a=`\n\\`}",
        "{a=\"\\ud800\"}",
        "{a=\"\\xff\"}",
        "{a=\"b\"",
    ])
}

pub fn encodings() -> Vec<Vec<u8>> {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    let text = b"one line and one line and one line\n";
    let zeros = vec![0; 300 << 10];
    let mut seeds = vec![vec![0, 0], [b"\0\x05", &text[..]].concat()];
    for text in [&text[..], b"", &zeros] {
        let level = Compression::best();
        let mut gzip = GzEncoder::new(Vec::new(), level);
        let mut zlib = ZlibEncoder::new(Vec::new(), level);
        let mut bare = DeflateEncoder::new(Vec::new(), level);
        let all: [&mut dyn Write; 3] = [&mut gzip, &mut zlib, &mut bare];
        all.into_iter().for_each(|one| one.write_all(text).expect("in memory"));
        let gzip = gzip.finish().expect("in memory");
        for (which, body) in [
            (1, gzip.clone()),
            (1, [&gzip[..], &gzip].concat()),
            (1, [&gzip[..], b"behind"].concat()),
            (2, zlib.finish().expect("in memory")),
            (3, bare.finish().expect("in memory")),
        ] {
            seeds.push([&[which, 3], &body[..]].concat());
            seeds.push([&[which, 1], &body[..body.len() - 1]].concat());
        }
    }
    let snap = snap::raw::Encoder::new().compress_vec(text).expect("a short text");
    seeds.push([b"\x04\x02", &snap[..]].concat());
    seeds.push(b"\x04\x02\xff\xff\xff\xff\x0f\0".to_vec());
    seeds
}
