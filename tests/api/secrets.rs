//! Secrets of every kind, and places where they might be seen: none is.

use super::document::Document;
use super::{get, show};
use crate::answers::ask::{Pushed, numbered, push};
use crate::bed::{Bed, eventually};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bench::stub::Fault;
use serde_json::Value;
use std::fs;

#[test]
fn no_secret_is_in_any_answer_or_in_the_log() {
    let mut bed = Bed::new();
    let file = bed.setup.dir.join("password");
    fs::write(&file, "planted-in-file\n").unwrap();
    let url = bed.stub.url();
    bed.setup.env = vec![
        ("API_KEY".into(), "planted-in-variable".into()),
        ("LOG_CAPTURER_LOG".into(), "debug".into()),
    ];
    bed.setup.sink_keys.extend([
        "auth: { basic: { username: shipper, password: planted-in-basic } }".into(),
        "headers: { X-Api-Key: \"${API_KEY}\", X-Other: planted-in-header }".into(),
    ]);
    // Nobody listens there: what becomes of them is said in many places.
    bed.setup.more_sinks = vec![
        "bearer: { type: loki, url: \"http://127.0.0.1:1\", auth: { bearer: { token: planted-in-bearer } } }".into(),
        "proxied: { type: loki, url: \"http://loki.invalid\", proxy: \"http://user:planted-in-proxy@127.0.0.1:1\" }"
            .into(),
        format!(
            "filed: {{ type: loki, url: {url:?}, auth: {{ basic: {{ username: shipper, password_file: {file:?} }} }} }}"
        ),
    ];
    bed.stub.script_fault(Fault::answer(401, "who are you?\n"), 2);
    let product = bed.start();
    push(&product, "", &[Pushed::now("a", numbered("line", 10))]);
    let sinks = || show(&product, "/sinks")["sinks"].as_array().unwrap().clone();
    eventually("some fail, and say why", &product, || {
        let failed = |sink: &Value| {
            let tenants = sink["tenants"].as_array().unwrap().iter();
            tenants.map(|of| of["reason"].as_str().unwrap()).any(|reason| !reason.is_empty())
        };
        sinks().iter().filter(|sink| failed(sink)).count() >= 3
    });

    let config = show(&product, "/config");
    let sinks = &config["sinks"];
    for (shown, expected) in [
        (&sinks["loki"]["auth"]["basic"]["password"], "<redacted>"),
        (&sinks["loki"]["headers"]["x-api-key"], "${API_KEY}"),
        (&sinks["loki"]["headers"]["x-other"], "<redacted>"),
        (&sinks["bearer"]["auth"]["bearer"]["token"], "<redacted>"),
        (&sinks["proxied"]["proxy"], "http://<redacted>@127.0.0.1:1"),
        (&sinks["filed"]["auth"]["basic"]["password_file"], file.to_str().unwrap()),
    ] {
        assert_eq!(shown, expected, "{config}");
    }

    let credentials =
        ["shipper:planted-in-basic", "shipper:planted-in-file", "user:planted-in-proxy"];
    let mut secrets = vec!["planted-in-".to_owned()];
    secrets.extend(credentials.map(|text| STANDARD.encode(text)));
    let mut places: Vec<(String, String)> = Document::served()
        .paths("get")
        .into_iter()
        .map(|path| (path.to_owned(), get(product.api, path, &[]).2))
        .collect();
    for accept in ["text/plain", "application/openmetrics-text"] {
        let (_, _, text) = get(product.metrics, "/metrics", &[("accept", accept)]);
        places.push((format!("/metrics as {accept}"), text));
    }
    let log = product.log();
    assert!(log.contains("level=debug"), "{log}");
    places.push(("the log".into(), log));
    for (place, text) in places {
        assert!(!text.is_empty(), "{place}");
        for secret in &secrets {
            assert!(!text.contains(secret), "{secret} is in {place}: {text}");
        }
    }
    product.kill();
    let after = bed.product_log();
    assert!(secrets.iter().all(|secret| !after.contains(secret)), "{after}");
}
