//! The API that operators ask: each answer is as its document says, and has the right figures.
//!
//! - [`document`]: the document, and what is held against it;
//! - [`answers`]: every endpoint, right and wrong requests;
//! - [`health`]: what turns it, and that it turns back;
//! - [`objective`]: lines that are late, and how long each stage takes;
//! - [`secrets`]: none is ever shown;
//! - [`generated`]: requests that schemathesis makes of the document.

mod answers;
pub mod document;
mod generated;
mod health;
mod objective;
mod secrets;

use crate::bed::agent;
use bench::product::Product;
use document::Document;
use serde_json::Value;
use std::net::SocketAddr;

/// Asks, holds the answer against the document, and gives its status and what it says.
fn ask(product: &Product, path: &str) -> (u16, Value) {
    let (status, kind, text) = get(product.api, path, &[]);
    let value = match kind.as_str() {
        "application/json" => serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")),
        _ => Value::String(text),
    };
    let asked = path.split('?').next().expect("a path");
    Document::served().check("get", asked, status, &kind, &value);
    (status, value)
}

/// Likewise, where success is expected.
fn show(product: &Product, path: &str) -> Value {
    let (status, value) = ask(product, path);
    assert_eq!(status, 200, "{path}: {value}\n{}", product.log());
    value
}

/// The status, the type and the text.
fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let mut request = agent().get(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = request.call().unwrap();
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), kind.unwrap_or_default(), text)
}

/// Every error of the API is an object of these three.
fn assert_error(status: u16, error: &Value, says: &str) {
    assert_eq!(error["code"], status, "{error}");
    assert!(error["error"].as_str().unwrap().contains(says), "{says}: {error}");
    let stamp = error["timestamp"].as_str().unwrap();
    let stamp: jiff::Timestamp = stamp.parse().unwrap_or_else(|_| panic!("no RFC 3339: {error}"));
    let age = jiff::Timestamp::now().duration_since(stamp).as_secs();
    assert!((-1..60).contains(&age), "{error}");
    assert_eq!(error.as_object().unwrap().len(), 3, "{error}");
}

/// The status of a check in what `/health` answers.
fn level<'a>(health: &'a Value, check: &str) -> &'a str {
    health["checks"][check]["status"].as_str().unwrap_or_else(|| panic!("{check}: {health}"))
}
