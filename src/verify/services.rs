//! Whether the instances are watched: what their Prometheus and their Grafana say.

use super::judge::{Judged, Verdict};
use crate::ask::{Failure, Server, Text};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Of many, so many are named.
const NAMED_MAX: usize = 5;

/// The job that the shipped rules count on.
const JOB: &str = "log_capturer";
const ALERTS: &str = include_str!("../../config/prometheus/rules/alerts.yaml");
/// The dashboards of config/grafana, by uid.
const DASHBOARDS: [&str; 2] = ["log-capturer-critical", "log-capturer-shards"];

/// The shipped alerts.
fn shipped() -> BTreeSet<&'static str> {
    ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

/// `instances`: how many it is to scrape.
#[must_use]
pub fn prometheus(server: &Server, instances: usize) -> Vec<Judged> {
    let ask = |what: &str| -> Result<Value, Failure> {
        let path = format!("/api/v1/{what}");
        let ask = || server.json(&path, ANSWER_TIME_MAX, ANSWER_BYTES_MAX);
        let mut answer: Value = ask().or_else(|_| ask())?;
        Ok(answer["data"].take())
    };
    let judged =
        |rule, answer: Result<Value, Failure>, judge: &dyn Fn(&Value) -> (bool, String)| {
            let (verdict, why) = match answer.map(|data| judge(&data)) {
                Ok((true, why)) => (Verdict::Go, why),
                Ok((false, why)) => (Verdict::NoGo, why),
                // That it does not answer says nothing of the instances.
                Err(error) => (Verdict::NotEnoughData, error.to_string()),
            };
            Judged::new(rule, verdict, Text::of(&why).to_string())
        };
    vec![
        judged("prometheus_targets", ask("targets?state=active"), &|data| targets(data, instances)),
        judged("prometheus_rules", ask("rules"), &rules),
        judged("prometheus_alerts", ask("alerts"), &alerts),
    ]
}

fn list(of: &Value) -> &[Value] {
    of.as_array().map_or(&[], Vec::as_slice)
}

fn text(of: &Value) -> &str {
    of.as_str().unwrap_or_default()
}

fn named(names: impl IntoIterator<Item = String>) -> String {
    let names: BTreeSet<String> = names.into_iter().collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    let shown: Vec<String> = names.into_iter().take(NAMED_MAX).collect();
    let shown = shown.join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn targets(data: &Value, instances: usize) -> (bool, String) {
    let of_job =
        list(&data["activeTargets"]).iter().filter(|target| target["labels"]["job"] == JOB);
    let (up, down): (Vec<&Value>, Vec<&Value>) =
        of_job.partition(|target| target["health"] == "up");
    if !down.is_empty() {
        let name = |target: &&Value| {
            format!("{} ({})", text(&target["labels"]["instance"]), text(&target["lastError"]))
        };
        return (false, format!("not up: {}", named(down.iter().map(name))));
    }
    let found = format!("{} targets of job {JOB} are up, of {instances} instances", up.len());
    (up.len() >= instances, found)
}

fn rules(data: &Value) -> (bool, String) {
    let all = list(&data["groups"]).iter().flat_map(|group| list(&group["rules"]));
    let known: Vec<(&str, bool)> =
        all.map(|rule| (text(&rule["name"]), rule["health"] == "err")).collect();
    let shipped = shipped();
    let missing: Vec<&str> = shipped
        .iter()
        .copied()
        .filter(|name| !known.iter().any(|(known, _)| known == name))
        .collect();
    if !missing.is_empty() {
        let names = named(missing.into_iter().map(str::to_owned));
        return (
            false,
            format!("not loaded: {names}; copy config/prometheus/rules, and reload it"),
        );
    }
    let ours = |name: &str| shipped.contains(name) || name.contains("log_capturer");
    let broken: Vec<String> = known
        .iter()
        .filter(|(name, broken)| *broken && ours(name))
        .map(|(name, _)| (*name).to_owned())
        .collect();
    match broken.is_empty() {
        true => (true, format!("{} alerts are loaded", shipped.len())),
        false => (false, format!("cannot be evaluated: {}", named(broken))),
    }
}

fn alerts(data: &Value) -> (bool, String) {
    let shipped = shipped();
    let firing = list(&data["alerts"]).iter().filter(|alert| {
        alert["state"] == "firing" && shipped.contains(text(&alert["labels"]["alertname"]))
    });
    let name = |alert: &Value| {
        let labels = &alert["labels"];
        format!("{} on {}", text(&labels["alertname"]), text(&labels["instance"]))
    };
    let firing: Vec<String> = firing.map(name).collect();
    match firing.is_empty() {
        true => (true, "none fires".into()),
        false => (false, format!("firing: {}; see config/RUNBOOKS.md", named(firing))),
    }
}

#[must_use]
pub fn grafana(server: &Server) -> Vec<Judged> {
    let dashboard = |uid: &&'static str| {
        let path = format!("/api/dashboards/uid/{uid}");
        let ask = || server.get(&path, ANSWER_TIME_MAX, ANSWER_BYTES_MAX);
        let (verdict, why) = match ask().or_else(|_| ask()) {
            Err(error) => (Verdict::NotEnoughData, error.to_string()),
            Ok((status, body)) => match is_dashboard(uid, status.as_u16(), &body) {
                (true, why) => (Verdict::Go, why),
                (false, why) => (Verdict::NoGo, why),
            },
        };
        Judged::new("grafana_dashboard", verdict, Text::of(&why).to_string())
    };
    DASHBOARDS.iter().map(dashboard).collect()
}

fn is_dashboard(uid: &str, status: u16, body: &[u8]) -> (bool, String) {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    match status {
        200 if said["dashboard"]["uid"] == uid => (true, format!("{uid} is there")),
        401 | 403 => {
            (false, format!("{uid}: status {status}; give a token with --grafana-token-file"))
        }
        404 => (false, format!("{uid} is not there; see config/grafana/provisioning")),
        _ => (false, format!("{uid}: status {status}, and no dashboard")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_dashboards_are_those_that_are_shipped() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/config/grafana");
        let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
        let boards = files.filter(|path| path.extension().is_some_and(|kind| kind == "json"));
        let uids: BTreeSet<String> = boards
            .map(|path| {
                let board: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
                board["uid"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(uids, DASHBOARDS.map(String::from).into());
        assert!(shipped().len() > 30 && shipped().contains("LogCapturerDown"), "{:?}", shipped());
    }

    #[test]
    fn targets_are_up_and_as_many_as_instances() {
        let of = |health: &[&str]| {
            let target = |health: &&str| json!({ "labels": { "job": JOB, "instance": "a" }, "health": health, "lastError": "refused" });
            let all: Vec<Value> = health.iter().map(target).collect();
            json!({ "activeTargets": all })
        };
        assert!(targets(&of(&["up", "up"]), 2).0);
        assert!(!targets(&of(&["up"]), 2).0);
        let (holds, why) = targets(&of(&["up", "down"]), 1);
        assert!(!holds && why.contains("a (refused)"), "{why}");
        assert!(!targets(&json!({}), 1).0);
    }

    #[test]
    fn rules_are_all_there_and_can_be_evaluated() {
        let of = |left_out: &str, broken: &str| {
            let names = shipped().into_iter().filter(|name| *name != left_out);
            let rule = |name: &str| json!({ "name": name, "health": if name == broken { "err" } else { "ok" } });
            json!({ "groups": [{ "rules": names.map(rule).collect::<Vec<_>>() }] })
        };
        assert!(rules(&of("", "")).0);
        assert!(rules(&of("LogCapturerDown", "")).1.contains("not loaded: LogCapturerDown"));
        assert!(
            rules(&of("", "LogCapturerDown")).1.contains("cannot be evaluated: LogCapturerDown")
        );
    }

    #[test]
    fn alerts_of_others_are_none_of_its_business() {
        let of = |name: &str, state: &str| json!({ "alerts": [{ "labels": { "alertname": name, "instance": "a" }, "state": state }] });
        assert!(alerts(&of("LogCapturerDown", "pending")).0);
        assert!(alerts(&of("Other", "firing")).0);
        assert!(alerts(&of("LogCapturerDown", "firing")).1.contains("LogCapturerDown on a"));
    }
}
