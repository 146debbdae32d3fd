//! A window out of what a Prometheus has kept: the scrapes themselves, each of which is a look.

use super::Window;
use super::exposition::Sample;
use super::look::{self, Look};
use crate::ask::{Failure, Server, Text};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Of one question: what is answered stays small.
const SLICE_SECONDS: f64 = 600.0;

/// What its API answers.
#[derive(Debug, Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    result: Vec<Series>,
}

#[derive(Debug, Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

/// Of each instance that the selector (`job="log_capturer"`) finds, the time that just passed.
pub fn windows(server: &Server, selector: &str, over: Duration) -> Result<Vec<Window>, Failure> {
    let now = perf::clock::unix_ns() as f64 / 1e9;
    let seconds = over.as_secs_f64().ceil();
    let names = instances(server, selector, now, seconds)?;
    names.into_iter().map(|name| window(server, selector, &name, now, seconds)).collect()
}

fn instances(
    server: &Server,
    selector: &str,
    now: f64,
    seconds: f64,
) -> Result<Vec<String>, Failure> {
    let of = look::STARTED;
    let query = format!("count by (instance) (last_over_time({of}{{{selector}}}[{seconds:.0}s]))");
    let found = ask(server, &query, now)?;
    let name = |mut series: Series| series.metric.remove("instance");
    Ok(found.into_iter().filter_map(name).collect())
}

fn window(
    server: &Server,
    selector: &str,
    instance: &str,
    now: f64,
    seconds: f64,
) -> Result<Window, Failure> {
    let mut window = Window::new(Text::of(instance).to_string(), seconds);
    let quoted = instance.replace('\\', "\\\\").replace('"', "\\\"");
    let names = look::NAMES.join("|");
    let comma = if selector.trim().is_empty() { "" } else { "," };
    let mut passed = 0.0;
    let mut last = f64::NEG_INFINITY;
    while passed < seconds {
        let slice = SLICE_SECONDS.min(seconds - passed);
        passed += slice;
        let query = format!(
            "{{__name__=~\"{names}|{}\",instance=\"{quoted}\"{comma}{selector}}}[{slice:.0}s]",
            look::STARTED
        );
        for (at, samples) in scrapes(ask(server, &query, now - seconds + passed)?) {
            // What stands on the edge of two slices is in both. A scrape without these is a failed one.
            if let (true, Ok(look)) = (at > last, Look::of(at, &samples)) {
                window.take_look(look);
                last = at;
            }
        }
    }
    Ok(window)
}

/// All samples of a scrape have its time.
fn scrapes(series: Vec<Series>) -> Vec<(f64, Vec<Sample>)> {
    let mut scrapes: BTreeMap<i64, (f64, Vec<Sample>)> = BTreeMap::new();
    for Series { mut metric, values } in series {
        let name = metric.remove("__name__").unwrap_or_default();
        for (at, value) in values {
            let Ok(value) = value.parse() else { continue };
            // Milliseconds are what it keeps.
            #[expect(clippy::cast_possible_truncation)]
            let key = (at * 1e3).round() as i64;
            let (_, samples) = scrapes.entry(key).or_insert_with(|| (at, Vec::new()));
            samples.push(Sample { name: name.clone(), labels: metric.clone(), value });
        }
    }
    scrapes.into_values().collect()
}

fn ask(server: &Server, query: &str, at: f64) -> Result<Vec<Series>, Failure> {
    let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
    let path = format!("/api/v1/query?query={query}&time={at:.3}");
    let answer: Answer = server.json(&path, ANSWER_TIME_MAX, ANSWER_BYTES_MAX)?;
    Ok(answer.data.result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_time_are_one_scrape() {
        let text = r#"{"data":{"result":[
            {"metric":{"__name__":"a","x":"1"},"values":[[10.5,"1"],[20.5,"2"]]},
            {"metric":{"__name__":"b"},"values":[[10.5,"NaN"],[20.5,"+Inf"]]},
            {"metric":{"instance":"i"},"value":[10,"1"]}]}}"#;
        let answer: Answer = serde_json::from_str(text).unwrap();
        let scrapes = scrapes(answer.data.result);
        assert_eq!(scrapes.len(), 2);
        assert_eq!(scrapes[1].0, 20.5);
        let found: Vec<_> = scrapes[1].1.iter().map(|s| (s.name.as_str(), s.value)).collect();
        assert_eq!(found, [("a", 2.0), ("b", f64::INFINITY)]);
    }
}
