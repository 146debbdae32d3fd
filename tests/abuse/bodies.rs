//! Bodies and heads that lie, blow up or break.

use super::client::{
    Client, JSON, LOGS, MIB, PROTOBUF, PUSH, RAW, assert_serves, bomb, grown, lines_of, post,
    protobuf_of,
};
use crate::bed::{Bed, stop};
use bench::measure::now_ns;
use std::collections::BTreeSet;

#[test]
fn ten_gigabytes_in_a_bomb_cost_little_memory() {
    let bed = Bed::new();
    let product = bed.start();
    assert_serves(&product);
    let before = product.usage().unwrap().rss_peak_bytes;
    let gzip = bomb(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
    let zlib = bomb(&[0x78, 0xda]);
    for (encoding, body) in [("gzip", &gzip), ("deflate", &zlib), ("deflate", &zlib[2..].into())] {
        for (path, kind) in [(PUSH, JSON), (PUSH, PROTOBUF), (RAW, ""), (LOGS, JSON)] {
            let headers = format!("{kind}content-encoding: {encoding}\r\n");
            let answer = post(&product, path, &headers, body);
            assert!(matches!(answer.status, 400 | 413), "{path} {encoding}: {answer:?}");
        }
        assert_serves(&product);
    }
    let grown = grown(&product, before);
    println!("twelve bombs cost {} KiB", grown >> 10);
    assert!(grown < 32 * MIB, "{grown} bytes");
    stop(product);
}

#[test]
fn a_snappy_block_that_lies_about_its_length_costs_nothing() {
    let bed = Bed::new();
    let product = bed.start();
    assert_serves(&product);
    let before = product.usage().unwrap().rss_peak_bytes;
    // 4 GiB, all that an u64 holds, 30 MiB, and one byte more than there is.
    let short = protobuf_of("{job=\"a\"}", "x");
    let longer = [&[short[0] + 1], &short[1..]].concat();
    for lie in [
        &[0xff, 0xff, 0xff, 0xff, 0x0f, 0][..],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0],
        &[0x80, 0x80, 0x80, 0x0f, 0],
        &longer,
        &[],
    ] {
        let answer = post(&product, PUSH, PROTOBUF, lie);
        assert!(matches!(answer.status, 400 | 413), "{lie:?}: {answer:?}");
    }
    assert_serves(&product);
    let grown = grown(&product, before);
    assert!(grown < 8 * MIB, "{grown} bytes");
    stop(product);
}

/// What a parser makes of a few bytes may be large: as much as a bomb, where there are many.
#[test]
fn many_small_elements_cost_no_more_than_some_times_their_bytes() {
    const BYTES: usize = 4_000_000;
    const TIMES_MAX: u64 = 24;
    let bed = Bed::new();
    let now = now_ns();
    let many = |before: &str, element: &str, after: &str| {
        let elements = vec![element; BYTES / (element.len() + 1)].join(",");
        format!("{before}{elements}{after}")
    };
    let values = "{\"streams\":[{\"stream\":{\"a\":\"b\"},\"values\":[";
    let pairs = vec!["\"k\":\"\""; 100].join(",");
    let mut over = Vec::new();
    for (path, body) in [
        (LOGS, many("[", "{}", "]")),
        (LOGS, many("[", "[]", "]")),
        (LOGS, many("[", "{\"message\":\"a\"}", "]")),
        (LOGS, many("{\"message\":\"a\",\"labels\":{", "\"a\":\"\"", "}}")),
        (LOGS, many("{\"message\":\"a\",\"unknown\":[", "1", "]}")),
        (PUSH, many("{\"streams\":[", "{}", "]}")),
        (PUSH, many("{\"streams\":[{\"stream\":{", "\"a\":\"\"", "},\"values\":[]}]}")),
        (PUSH, many(values, &format!("[\"{now}\",\"\"]"), "]}]}")),
        (PUSH, many(values, &format!("[\"{now}\",\"\",{{\"k\":\"\"}}]"), "]}]}")),
        (PUSH, many(values, &format!("[\"{now}\",\"\",{{{pairs}}}]"), "]}]}")),
    ] {
        // The peak is of a process.
        let product = bed.start();
        assert_serves(&product);
        let before = product.usage().unwrap().rss_peak_bytes;
        let answer = post(&product, path, JSON, &body);
        let grown = grown(&product, before);
        let shown = &body[..100];
        println!("{} KiB for {} KiB: {} {shown}", grown >> 10, body.len() >> 10, answer.status);
        if grown > TIMES_MAX * body.len() as u64 {
            over.push(format!("{grown} bytes for {}: {} {shown}", body.len(), answer.status));
        }
        assert_serves(&product);
        product.kill();
    }
    assert!(over.is_empty(), "{over:#?}");
}

#[test]
fn a_length_that_lies_harms_nobody() {
    let bed = Bed::new();
    let product = bed.start();
    let head = |lengths: &str| format!("POST {RAW} HTTP/1.1\r\nhost: x\r\n{lengths}\r\n");

    // More is declared than comes.
    let mut client = Client::connect(product.api);
    client.send(head("content-length: 100\r\n") + "half a line");
    client.half_close();
    if let Some(answer) = client.answer() {
        assert_eq!(answer.status, 400, "{answer:?}");
    }

    // Less is declared: what is behind is no request.
    let mut client = Client::connect(product.api);
    client.send(head("content-length: 6\r\n") + "whole\nbehind it\r\n\r\n");
    client.expect(204);
    client.expect(400);
    client.expect_end();

    // Too much is refused before anything of it is there.
    for length in ["1000000000000000000", "16777217"] {
        let mut client = Client::connect(product.api);
        client.send(head(&format!("content-length: {length}\r\n")));
        assert!(client.expect(413).closes(), "what follows may be the body");
        client.expect_end();
    }

    // No number, and several.
    for lengths in [
        "content-length: 99999999999999999999999\r\n",
        "content-length: -6\r\n",
        "content-length: +6\r\n",
        "content-length: 6, 7\r\n",
        "content-length: 0x6\r\n",
        "content-length: 6\r\ncontent-length: 7\r\n",
        "content-length: 7\r\ncontent-length: 6\r\n",
    ] {
        let mut client = Client::connect(product.api);
        client.send(head(lengths) + "lying\nGET /ready HTTP/1.1\r\nhost: x\r\n\r\n");
        client.expect(400);
        client.expect_end();
    }
    assert_serves(&product);
    assert_eq!(lines_of(&bed, &product), ["whole", "well-behaved"]);
    stop(product);
}

#[test]
fn a_length_beside_chunks_counts_for_nothing_and_nothing_is_smuggled() {
    let bed = Bed::new();
    let product = bed.start();
    let smuggled = "GET /ready HTTP/1.1\r\nhost: x\r\n\r\n";
    for framing in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\ncontent-length: 6\r\n",
    ] {
        let mut client = Client::connect(product.api);
        client.send(format!("POST {RAW} HTTP/1.1\r\nhost: x\r\n{framing}\r\n0\r\n\r\n{smuggled}"));
        // RFC 9112, 6.1: refused, or read by its chunks; the connection ends in any case.
        let answer = client.expect(204);
        assert!(answer.closes(), "{framing}: {answer:?}");
        client.expect_end();
    }
    for framing in [
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: identity\r\ncontent-length: 0\r\n",
    ] {
        let mut client = Client::connect(product.api);
        client.send(format!("POST {RAW} HTTP/1.1\r\nhost: x\r\n{framing}\r\n0\r\n\r\n{smuggled}"));
        client.expect(400);
        client.expect_end();
    }
    let mut client = Client::connect(product.api);
    client.send(format!("POST {RAW} HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"));
    client.expect(400);
    client.expect_end();
    assert_serves(&product);
    assert_eq!(lines_of(&bed, &product), ["well-behaved"]);
    stop(product);
}

#[test]
fn broken_chunks_store_nothing() {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec!["limits: { body_bytes_max: 1MiB }".into()];
    let product = bed.start();
    let chunked = format!("POST {RAW} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    for chunks in [
        "zz\r\nab\r\n0\r\n\r\n".to_owned(),
        "-2\r\nab\r\n0\r\n\r\n".to_owned(),
        "fffffffffffffffff\r\nab".to_owned(),
        "2\r\nabcd\r\n0\r\n\r\n".to_owned(),
        "2\nab\n0\n\n".to_owned(),
        "\r\n\r\n".to_owned(),
        format!("2;{}\r\nab\r\n0\r\n\r\n", "x".repeat(100_000)),
        format!("2\r\nab\r\n0\r\nt: {}\r\n\r\n", "x".repeat(100_000)),
        // It ends in the middle.
        "10\r\nab".to_owned(),
        "2\r\nab\r\n".to_owned(),
    ] {
        let mut client = Client::connect(product.api);
        client.send(format!("{chunked}{chunks}"));
        client.half_close();
        let shown: String = chunks.chars().take(30).collect();
        if let Some(answer) = client.answer() {
            assert!(matches!(answer.status, 400 | 431), "{shown:?}: {answer:?}");
            assert!(answer.closes(), "{shown:?}: {answer:?}");
        }
        client.expect_end();
    }
    // Good ones, and too many of them.
    let mut client = Client::connect(product.api);
    client.send(format!("{chunked}3\r\nin \r\nA;ext=1\r\ntwo chunks\r\n0\r\ntrailer: x\r\n\r\n"));
    client.expect(204);
    client.send(&chunked);
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
    (0..17).for_each(|_| client.send(&chunk));
    assert!(client.expect(413).closes());
    assert_serves(&product);
    assert_eq!(lines_of(&bed, &product), ["in two chunks", "well-behaved"]);
    stop(product);
}

#[test]
fn heads_that_no_client_sends_are_refused() {
    let bed = Bed::new();
    let product = bed.start();
    assert_serves(&product);
    let before = product.usage().unwrap().rss_peak_bytes;
    let many: String = (0..1000).map(|n| format!("h{n}: x\r\n")).collect();
    let long = "x".repeat(1 << 20);
    for (head, statuses) in [
        (format!("GET /ready HTTP/1.1\r\nhost: x\r\nlong: {long}\r\n\r\n"), &[431, 400][..]),
        (format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"), &[414, 431, 400]),
        (format!("{long}\r\n\r\n"), &[431, 400]),
        (format!("GET /ready HTTP/1.1\r\nhost: x\r\n{many}\r\n"), &[431, 400]),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03 a TLS hello\r\n\r\n".into(), &[400]),
        ("\0\0\0\0\0\0\0\0\r\n\r\n".into(), &[400]),
        ("let me in\r\n\r\n".into(), &[400]),
        ("GET /ready\r\n\r\n".into(), &[400, 505]),
        ("GET /ready HTTP/0.9\r\n\r\n".into(), &[400, 505]),
        ("GET /ready HTTP/3.0\r\nhost: x\r\n\r\n".into(), &[400, 505]),
        ("GET /ready HTTP/1.1\r\nhost: x\r\na\0b: c\r\n\r\n".into(), &[400]),
        ("GET /ready HTTP/1.1\r\nhost: x\r\na: b\0c\r\n\r\n".into(), &[400]),
        ("GET /ready HTTP/1.1\r\nhost : x\r\n\r\n".into(), &[400]),
        ("GET /ready HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n".into(), &[400]),
    ] {
        let shown: String = head.chars().take(60).collect();
        let mut client = Client::connect(product.api);
        client.send(head);
        match client.answer() {
            Some(answer) => assert!(statuses.contains(&answer.status), "{shown:?}: {answer:?}"),
            None => assert!(statuses.is_empty(), "closed unanswered: {shown:?}"),
        }
        client.expect_end();
    }
    let mut client = Client::connect(product.api);
    client.send("GET /ready HTTP/1.1\r\n\r\n");
    let status = client.answer().expect("an answer").status;
    assert!(matches!(status, 200 | 400), "without a host: {status}");
    assert_serves(&product);
    let grown = grown(&product, before);
    assert!(grown < 8 * MIB, "{grown} bytes");
    stop(product);
}

#[test]
fn a_block_that_is_larger_than_what_it_holds_is_stored_as_it_should_be() {
    let bed = Bed::new();
    let product = bed.start();
    let expected: BTreeSet<_> = (10..24).map(|n| n.to_string().repeat(100_000)).collect();
    let raw_of = |line: &String| {
        let block = protobuf_of("{job=\"swollen\"}", line);
        snap::raw::Decoder::new().decompress_vec(&block).unwrap()
    };
    let raw: Vec<u8> = expected.iter().flat_map(raw_of).collect();
    // Every byte a literal of its own, in the longest form: three times its size.
    let length =
        [raw.len() & 0x7f | 0x80, raw.len() >> 7 & 0x7f | 0x80, raw.len() >> 14 & 0x7f | 0x80];
    let length = length.map(|byte| u8::try_from(byte).unwrap());
    let mut swollen = [&length[..], &[u8::try_from(raw.len() >> 21).unwrap()]].concat();
    raw.iter().for_each(|byte| swollen.extend([0xf0, 0, *byte]));
    assert_eq!(snap::raw::Decoder::new().decompress_vec(&swollen).unwrap(), raw);
    assert_eq!(post(&product, PUSH, PROTOBUF, &swollen).status, 204);
    let lines: BTreeSet<_> = lines_of(&bed, &product).into_iter().collect();
    assert!(lines == expected, "{} lines", lines.len());
    assert_serves(&product);
    stop(product);
}
