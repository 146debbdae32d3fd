//! Every endpoint with every token, and what is no token.

use super::client::{Answer, Keys};
use super::{Ground, bearer, http2, metric, sha256, start, token, tokens};
use crate::api::document::Document;
use crate::bed::{BINARY, Bed, PATIENCE, eventually, stop};
use crate::clients::{has, runs};
use crate::gateway::front::write;
use bench::product::Product;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

const RAW: &str = "/loki/api/v1/raw?job=raw";
/// Paths and methods, and the role that each needs; none: anyone may.
const ENDPOINTS: [(&str, &str, Option<&str>); 21] = [
    ("GET", "/health", None),
    ("GET", "/ready", None),
    ("GET", "/version", None),
    ("GET", "/stats", Some("read")),
    ("GET", "/slo/status", Some("read")),
    ("GET", "/shards", Some("read")),
    ("GET", "/sinks", Some("read")),
    ("GET", "/positions", Some("read")),
    ("GET", "/config", Some("read")),
    ("GET", "/config/history", Some("read")),
    ("GET", "/openapi.json", Some("read")),
    ("GET", "/dlq/stats", Some("read")),
    ("GET", "/security/audit", Some("operate")),
    ("POST", "/config/reload", Some("operate")),
    ("POST", "/config/rollback", Some("operate")),
    ("POST", "/dlq/reprocess", Some("operate")),
    ("POST", "/dlq/purge", Some("operate")),
    ("POST", RAW, Some("ingest")),
    ("POST", "/loki/api/v1/push", Some("ingest")),
    ("POST", "/api/v1/logs", Some("ingest")),
    ("POST", "/otlp/v1/logs", Some("ingest")),
];

fn guarded() -> Bed {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec![format!("auth: {{ tokens: [{}] }}", tokens())];
    bed
}

/// Whoever is refused is so as the document says.
fn ask(product: &Product, method: &str, path: &str, headers: &[&str]) -> Answer {
    let answer = Keys::none().ask(product.api, method, path, headers, "").unwrap();
    let path = path.split('?').next().expect("a path");
    if [401, 403, 429].contains(&answer.status)
        && ENDPOINTS.iter().any(|(_, of, _)| of.starts_with(path))
    {
        let kind = answer.header("content-type").expect("a type");
        let value = match kind {
            "application/json" => answer.json(),
            _ => Value::String(answer.text.clone()),
        };
        let method = method.to_lowercase();
        Document::served().check(&method, path, answer.status, kind, &value);
    }
    answer
}

/// Waits while there were too many failures.
fn ask_patiently(product: &Product, method: &str, path: &str, headers: &[&str]) -> Answer {
    loop {
        let answer = ask(product, method, path, headers);
        if answer.status != 429 {
            return answer;
        }
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn every_endpoint_is_for_its_role_alone() {
    let bed = guarded();
    let product = start(&bed, &Keys::none());
    let documented: Value = serde_json::from_str(crate::api::document::TEXT).unwrap();
    for path in documented["paths"].as_object().unwrap().keys() {
        assert!(ENDPOINTS.iter().any(|(_, of, _)| of.split('?').next() == Some(path)), "{path}");
    }
    for (method, path, needed) in ENDPOINTS {
        for name in ["ingest", "read", "operate"] {
            let status = ask(&product, method, path, &[&bearer(name)]).status;
            let may = needed.is_none()
                || needed == Some(name)
                || (name, needed) == ("operate", Some("read"));
            assert_eq!(status == 403, !may, "{name} {method} {path}: {status}");
            assert!(![401, 429].contains(&status), "{name} {method} {path}: {status}");
        }
        for wrong in [
            &[][..],
            &["authorization: Bearer planted-token-wrong"],
            &["authorization: Basic YTpi"],
        ] {
            let answer = ask_patiently(&product, method, path, wrong);
            // Also with a token of yesterday: those who probe are to learn how it goes.
            if needed.is_none() {
                assert_eq!(answer.status, 200, "{path}: {answer:?}");
                continue;
            }
            assert_eq!(answer.status, 401, "{path} {wrong:?}");
            assert!(
                answer.header("www-authenticate").is_some_and(|of| of.starts_with("bearer")),
                "{answer:?}"
            );
        }
    }
    // What is not there is not told to anyone.
    assert_eq!(ask_patiently(&product, "GET", "/nothing", &[]).status, 401);
    assert_eq!(ask(&product, "GET", "/nothing", &[&bearer("read")]).status, 404);
    assert_eq!(ask(&product, "GET", "/version", &[&bearer("ingest")]).json(), json!({}));
    assert!(ask(&product, "GET", "/version", &[&bearer("read")]).json()["version"].is_string());
    let health = ask(&product, "GET", "/health", &[]).json();
    assert_eq!(health.as_object().unwrap().len(), 2, "{health}");
    assert!(ask(&product, "GET", "/health", &[&bearer("read")]).json()["checks"].is_object());
    for (headers, expected) in
        [(vec![], 401), (vec![bearer("ingest")], 403), (vec![bearer("read")], 200)]
    {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        for path in ["/metrics", "/metrics?token=planted-token-read"] {
            let answer = Keys::none().ask(product.metrics, "GET", path, &headers, "").unwrap();
            assert!(
                answer.status == expected || (expected, answer.status) == (401, 429),
                "{answer:?}"
            );
        }
    }
    stop(product);
}

#[test]
fn what_is_no_token_is_none() {
    let bed = guarded();
    let product = start(&bed, &Keys::none());
    let right = bearer("read");
    let long = format!("authorization: Bearer {}", "x".repeat(8_000));
    for (path, headers) in [
        ("/stats?token=planted-token-read", vec![]),
        (
            "/stats?access_token=planted-token-read&authorization=Bearer%20planted-token-read",
            vec![],
        ),
        ("/stats", vec!["x-authorization: Bearer planted-token-read"]),
        ("/stats", vec!["cookie: authorization=planted-token-read"]),
        ("/stats", vec!["authorization: planted-token-read"]),
        ("/stats", vec!["authorization: Bearer"]),
        ("/stats", vec!["authorization: Bearer "]),
        ("/stats", vec!["authorization: Bearer planted-token-rea"]),
        ("/stats", vec!["authorization: Bearer planted-token-read2"]),
        ("/stats", vec!["authorization: Bearer PLANTED-TOKEN-READ"]),
        ("/stats", vec!["authorization: Bearer planted-token-read, Bearer planted-token-read"]),
        ("/stats", vec!["authorization: \u{ff}\u{fe}"]),
        ("/stats", vec![long.as_str()]),
        ("/stats", vec![right.as_str(), right.as_str()]),
        // The hash is not the token.
        (
            "/stats",
            vec![
                "authorization: Bearer b0ed4f1e6350a7517395feeb2cce0fd35aa5ad23138943dac0390656298c0a8e",
            ],
        ),
    ] {
        let answer = ask_patiently(&product, "GET", path, &headers);
        assert_eq!(answer.status, 401, "{path} {headers:?}");
        assert!(!answer.text.to_lowercase().contains("planted"), "it is not repeated: {answer:?}");
    }
    let huge = format!("authorization: Bearer {}", "x".repeat(100_000));
    let refused = Keys::none().ask(product.api, "GET", "/stats", &[&huge], "");
    assert!(refused.is_ok_and(|answer| answer.status == 431));
    assert_eq!(
        ask(&product, "GET", "/stats", &["authorization: bearer  planted-token-read"]).status,
        200
    );
    stop(product);
}

#[test]
fn nothing_of_a_body_is_read_before_it_is_known_who_sends_it() {
    let bed = guarded();
    let product = start(&bed, &Keys::none());
    let mut stream = TcpStream::connect(product.api).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST {RAW} HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 64];
    let read = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    stop(product);
}

#[test]
fn too_many_failures_are_answered_so_and_the_right_token_passes_all_the_same() {
    let bed = guarded();
    let product = start(&bed, &Keys::none());
    let mut many = 0;
    for _ in 0..200 {
        let wrong = ask(&product, "GET", "/stats", &["authorization: Bearer guess"]);
        many += usize::from(wrong.status == 429);
        assert!([401, 429].contains(&wrong.status), "{wrong:?}");
        assert_eq!(wrong.header("connection") == Some("close"), wrong.status == 429, "{wrong:?}");
        assert_eq!(ask(&product, "GET", "/stats", &[&bearer("read")]).status, 200);
    }
    assert!(many > 50, "{many}");
    // With HTTP/2 the connection ends, too.
    let mut stream = TcpStream::connect(product.api).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&http2::start()).unwrap();
    for number in (1..100).step_by(2) {
        stream.write_all(&http2::post(number, "/dlq/purge", "Bearer guess")).unwrap();
    }
    http2::expect_goaway(stream);
    let refused = |reason: &str| {
        let name = format!("log_capturer_auth_refused_total{{reason=\"{reason}\"}}");
        let name = name.trim_end_matches('}').replace("{", "{listener=\"server\",") + "}";
        metric(&product, &Keys::none(), &[&bearer("read")], &name)
    };
    assert!(refused("failures") >= 50.0 && refused("credentials") >= 1.0);
    eventually("it is said, in a sum", &product, || product.log().contains("requests_refused"));
    assert!(product.log().matches("requests_refused").count() < 20);
    stop(product);
}

#[test]
fn a_token_with_a_rate_has_no_more() {
    let mut bed = Bed::new();
    let limited = token("read", ", requests_per_second: 5");
    bed.setup.server_keys =
        vec![format!("auth: {{ tokens: [{limited}, {}] }}", token("ingest", ""))];
    let product = start(&bed, &Keys::none());
    let answers: Vec<Answer> =
        (0..40).map(|_| ask(&product, "GET", "/stats", &[&bearer("read")])).collect();
    assert_eq!(ask(&product, "GET", "/ready", &[&bearer("read")]).status, 200, "it is open");
    let refused = answers.iter().filter(|answer| answer.status == 429).collect::<Vec<_>>();
    assert!(refused.len() > 10 && refused.len() < 40, "{}", refused.len());
    assert!(refused.iter().all(|answer| answer.header("retry-after").is_some()));
    let pushed = Keys::none().ask(product.api, "POST", RAW, &[&bearer("ingest")], "a\n").unwrap();
    assert_eq!(pushed.status, 204, "another token");
    stop(product);
}

#[test]
fn a_token_is_revoked_without_a_restart() {
    let mut bed = guarded();
    let product = start(&bed, &Keys::none());
    let mut kept = Keys::none().connect(product.api).unwrap();
    assert_eq!(kept.ask("POST", RAW, &[&bearer("ingest")], "before\n").unwrap().status, 204);
    let left = [token("read", ""), token("operate", "")].join(", ");
    bed.setup.server_keys = vec![format!("auth: {{ tokens: [{left}] }}")];
    fs::write(bed.setup.dir.join("config.yaml"), bed.setup.yaml()).unwrap();
    let answer = ask(&product, "POST", "/config/reload", &[&bearer("operate")]);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.text.contains(&sha256("ingest")), "{answer:?}");
    assert_eq!(kept.ask("POST", RAW, &[&bearer("ingest")], "after\n").unwrap().status, 401);
    assert_eq!(bed.texts_of_pushes(1), ["before"]);
    stop(product);
}

#[test]
fn a_revoked_token_changes_nothing_with_a_body_that_comes_late() {
    let mut bed = guarded();
    let product = start(&bed, &Keys::none());
    let mut late = TcpStream::connect(product.api).unwrap();
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /config/rollback HTTP/1.1\r\nhost: x\r\n{}\r\ncontent-length: 2\r\n\r\n{{",
        bearer("operate")
    );
    late.write_all(head.as_bytes()).unwrap();
    // It was admitted when its connection is served: the next question is behind it on the same shard.
    for _ in 0..20 {
        assert_eq!(ask(&product, "GET", "/ready", &[]).status, 200);
    }
    let other = token("other", "").replace("[other]", "[operate]");
    bed.setup.server_keys = vec![format!("auth: {{ tokens: [{other}] }}")];
    fs::write(bed.setup.dir.join("config.yaml"), bed.setup.yaml()).unwrap();
    assert_eq!(ask(&product, "POST", "/config/reload", &[&bearer("operate")]).status, 200);
    late.write_all(b"}").unwrap();
    let mut answer = [0; 64];
    let read = late.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert_eq!(ask(&product, "GET", "/stats", &[&bearer("other")]).status, 200, "it is in force");
    stop(product);
}

#[test]
fn without_anything_only_loopback_and_by_request_everybody() {
    let mut bed = Bed::new();
    bed.setup.server_listen = "0.0.0.0:0".into();
    let Err(error) = Product::spawn(&bed.setup) else { panic!("it started") };
    let text = error.to_string();
    assert!(text.contains("exit status: 78") && text.contains("server.listen"), "{text}");
    assert!(text.contains("allow_unauthenticated: true") && text.contains("token new"), "{text}");
    bed.setup.server_keys = vec!["auth: { allow_unauthenticated: true }".into()];
    let product = start(&bed, &Keys::none());
    assert_eq!(ask(&product, "GET", "/stats", &["authorization: Bearer whatever"]).status, 200);
    assert_eq!(ask(&product, "POST", "/dlq/purge", &[]).status, 200, "from this host");
    stop(product);
    // Tokens do for both; TLS alone does not.
    bed.setup.server_keys = vec![format!("auth: {{ tokens: [{}] }}", tokens())];
    bed.setup.metrics_listen = "0.0.0.0:0".into();
    stop(start(&bed, &Keys::none()));
}

#[test]
fn metrics_may_be_open_where_tokens_are_asked_for_elsewhere() {
    let mut bed = guarded();
    bed.setup.metrics_keys = vec!["auth: { allow_unauthenticated: true }".into()];
    let product = start(&bed, &Keys::none());
    assert_eq!(Keys::none().ask(product.metrics, "GET", "/metrics", &[], "").unwrap().status, 200);
    assert_eq!(ask(&product, "GET", "/stats", &[]).status, 401);
    stop(product);
}

#[test]
fn nothing_shows_a_token_or_its_hash() {
    let ground = Ground::new();
    let mut bed = guarded();
    bed.setup.more.push("log: { level: debug }".into());
    bed.setup.server_keys.push(ground.tls(&bed.setup.dir, None));
    let keys = ground.keys();
    let product = start(&bed, &keys);
    let mut places = Vec::new();
    for (method, path, _) in ENDPOINTS {
        for name in ["ingest", "read", "operate", "wrong"] {
            let answer = keys.ask(product.api, method, path, &[&bearer(name)], "").unwrap();
            places.push((format!("{method} {path}"), answer.head + &answer.text));
        }
    }
    let text =
        Keys::none().ask(product.metrics, "GET", "/metrics", &[&bearer("read")], "").unwrap().text;
    places.push(("/metrics".into(), text));
    let config = bed.setup.dir.join("config.yaml");
    let check = Command::new(BINARY).args(["check", "--config"]).arg(&config).output().unwrap();
    assert!(check.status.success());
    places.push(("check".into(), String::from_utf8(check.stdout).unwrap()));
    for name in ["audit.jsonl", "audit-refused.jsonl"] {
        places.push((name.into(), fs::read_to_string(bed.setup.data_dir().join(name)).unwrap()));
    }
    stop(product);
    places.push(("the log".into(), bed.product_log()));
    for (place, text) in places {
        let text = text.to_lowercase();
        assert!(!text.contains("planted-token"), "a token is in {place}: {text}");
        for name in ["ingest", "read", "operate"] {
            assert!(!text.contains(&sha256(name)), "a hash is in {place}: {text}");
        }
        assert!(!text.contains("private key"), "a key is in {place}: {text}");
    }
}

#[test]
fn each_request_of_a_connection_is_judged_by_itself_with_http_2_as_well() {
    let ground = Ground::new();
    let mut bed = guarded();
    bed.setup.server_keys.push(ground.tls(&bed.setup.dir, None));
    let product = start(&bed, &ground.keys());
    if !has("curl", runs("curl", &["--version"]), "apt-get install curl") {
        return;
    }
    let url = format!("https://{}", product.api);
    let ca = write(&bed.setup.dir, "ca.pem", ground.authority.pem()).display().to_string();
    let codes = |path: &str, headers: &[String]| {
        // One connection, one request behind the other.
        let mut command = Command::new("curl");
        for header in headers {
            let of_one = [
                "-sS",
                "--http2",
                "--cacert",
                &ca,
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}/%{http_version} ",
            ];
            command.args(of_one).args([
                "-H",
                header,
                "--data",
                "a",
                &format!("{url}{path}"),
                "--next",
            ]);
        }
        let end = ["-sS", "--http2", "--cacert", &ca, "-o", "/dev/null", "-w", "%{num_connects}"];
        let output =
            command.args(end).args(["--data", "a", &format!("{url}{path}")]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let headers =
        [bearer("ingest"), bearer("read"), "authorization: Bearer x".into(), bearer("ingest")];
    assert_eq!(codes(RAW, &headers), "204/2 403/2 401/2 204/2 0");
    assert_eq!(codes("/otlp/v1/logs", &headers), "415/2 403/2 401/2 415/2 0");
    stop(product);
}
