//! What is pushed to the product here, and what it is asked.

use crate::bed::{BINARY, Bed, agent, eventually};
use bench::measure::now_ns;
use bench::product::Product;
use bench::stub::Kept;
use log_capturer::dlq::Record;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};

pub const SECOND: i64 = 1_000_000_000;
pub const HOUR: i64 = 3600 * SECOND;

/// Lines of one stream, each with its time.
pub struct Pushed {
    pub labels: Value,
    pub lines: Vec<(i64, String)>,
}

impl Pushed {
    /// From now on, in their order.
    pub fn now(job: &str, lines: impl IntoIterator<Item = String>) -> Pushed {
        Pushed::at(job, now_ns(), lines)
    }

    pub fn at(job: &str, first_ns: i64, lines: impl IntoIterator<Item = String>) -> Pushed {
        Pushed { labels: json!({ "job": job }), lines: (first_ns..).zip(lines).collect() }
    }
}

/// Pushed as Loki's clients do, and taken in.
pub fn push(product: &Product, tenant: &str, streams: &[Pushed]) {
    let (status, text) = post(product, tenant, streams);
    assert_eq!(status, 204, "{text}");
}

/// Likewise; false where there is no room for it.
pub fn try_push(product: &Product, tenant: &str, streams: &[Pushed]) -> bool {
    let (status, text) = post(product, tenant, streams);
    assert!(matches!(status, 204 | 503), "{status}: {text}");
    status == 204
}

fn post(product: &Product, tenant: &str, streams: &[Pushed]) -> (u16, String) {
    let stream = |of: &Pushed| {
        let values: Vec<Value> =
            of.lines.iter().map(|(ns, line)| json!([ns.to_string(), line])).collect();
        json!({ "stream": of.labels, "values": values })
    };
    let body = json!({ "streams": streams.iter().map(stream).collect::<Vec<_>>() });
    let mut request = agent()
        .post(format!("http://{}/loki/api/v1/push", product.api))
        .content_type("application/json");
    if !tenant.is_empty() {
        request = request.header("x-scope-orgid", tenant);
    }
    let mut answer = request.send(body.to_string()).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), text)
}

/// Streams that Loki knows, so that they may travel with others.
pub fn make_known(bed: &Bed, product: &Product, jobs: &[&str]) {
    let before = bed.stub.entries().len();
    for job in jobs {
        push(product, "", &[Pushed::now(job, ["first".into()])]);
    }
    bed.entries(before + jobs.len());
    let unacked = "log_capturer_wal_unacked_frames";
    eventually("all is acked", product, || product.metric(unacked).unwrap() == 0.0);
}

/// `count` lines of a name, with their numbers.
pub fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{name} {n}")).collect()
}

pub fn get(product: &Product, path: &str) -> Value {
    let mut answer = agent().get(format!("http://{}{path}", product.api)).call().unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    assert_eq!(answer.status(), 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The status and the text.
pub fn order(product: &Product, path: &str, body: &str) -> (u16, Value) {
    let url = format!("http://{}{path}", product.api);
    let mut answer = agent().post(url).content_type("application/json").send(body).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
}

/// What `GET /sinks` says of each tenant of the sink.
pub fn breakers(product: &Product, sink: &str) -> BTreeMap<String, Value> {
    let sinks = get(product, "/sinks");
    let sinks = sinks["sinks"].as_array().unwrap();
    let sink = sinks.iter().find(|of| of["sink"] == sink).expect("it is configured");
    let tenants = sink["tenants"].as_array().unwrap();
    let named = |of: &Value| (of["tenant"].as_str().unwrap().to_owned(), of.clone());
    tenants.iter().map(named).collect()
}

/// How many entries the dead-letter queues hold.
pub fn letters(product: &Product) -> u64 {
    get(product, "/dlq/stats")["entries"].as_u64().unwrap()
}

/// Waits until the dead-letter queues hold so many, and gives them.
pub fn wait_for_letters(bed: &Bed, product: &Product, count: u64) -> Vec<Record> {
    let what = format!("{count} entries are in the dead-letter queue");
    eventually(&what, product, || letters(product) >= count);
    let records = exported(bed);
    let found = records.len();
    assert_eq!(found as u64, count, "{:?}", records.iter().map(text).collect::<Vec<_>>());
    records
}

/// What `dlq export` gives, while the process runs or not.
pub fn exported(bed: &Bed) -> Vec<Record> {
    let data_dir = bed.setup.data_dir().display().to_string();
    let output = command(&["export", "--data-dir", &data_dir]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// As an operator's configuration: it names the port that this process has.
pub fn config_of(bed: &Bed, product: &Product) -> String {
    let yaml = bed.setup.yaml();
    let listen = format!("server:\n  listen: \"{}\"", product.api);
    let named = yaml.replacen("server:\n  listen: \"127.0.0.1:0\"", &listen, 1);
    assert_ne!(named, yaml);
    let path = bed.setup.dir.join("operator.yaml");
    fs::write(&path, named).unwrap();
    path.display().to_string()
}

pub fn command(args: &[&str]) -> Output {
    Command::new(BINARY).arg("dlq").args(args).output().unwrap()
}

pub fn text(record: &Record) -> String {
    String::from_utf8_lossy(&record.line).into_owned()
}

pub fn line(entry: &Kept) -> String {
    String::from_utf8_lossy(&entry.line).into_owned()
}

/// The lines of one tenant that the stub stored, in the order they first came.
pub fn stored(bed: &Bed, tenant: &str) -> Vec<String> {
    bed.stub.entries().iter().filter(|entry| entry.tenant == tenant).map(line).collect()
}

/// Likewise, of one stream.
pub fn stored_of(bed: &Bed, job: &str) -> Vec<String> {
    let label = format!("job=\"{job}\"");
    bed.stub.entries().iter().filter(|e| e.labels.contains(&label)).map(line).collect()
}

pub fn taken_of(bed: &Bed, tenant: &str) -> u64 {
    bed.stub.stats().by_tenant.get(tenant).map_or(0, |of| of.entries)
}
