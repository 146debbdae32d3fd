//! Whether the instances are watched: what their Prometheus and their Grafana say.

use super::judge::{Judged, Verdict};
use crate::ask::{Failure, Server, Text};
use crate::window::{Window, names};
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

/// Of the instances that are looked at. What it says of others is told, and counts for nothing.
#[must_use]
pub fn prometheus(server: &Server, windows: &[Window]) -> Vec<Judged> {
    let ask = |what: &str| -> Result<Value, Failure> {
        let path = format!("/api/v1/{what}");
        let ask = || server.json(&path, ANSWER_TIME_MAX, ANSWER_BYTES_MAX);
        let mut answer: Value = ask().or_else(|_| ask())?;
        match answer["data"].take() {
            // Such as that of something else that answers JSON.
            Value::Object(data) => Ok(Value::Object(data)),
            _ => Err(server.unlike(&path, "expected data in it, found none")),
        }
    };
    let judged = |rule, judged: Result<(Verdict, String), Failure>| {
        // That it does not answer says nothing of the instances.
        let (verdict, why) =
            judged.unwrap_or_else(|error| (Verdict::NotEnoughData, error.to_string()));
        Judged::new(rule, verdict, Text::of(&why).to_string())
    };
    let scraped = ask("targets?state=active").map(|data| Scraped::of(&data, windows));
    let alerts = ask("alerts").map(|data| alerts(&data, &scraped, windows));
    vec![
        judged("prometheus_targets", scraped.map(|scraped| targets(&scraped, windows))),
        judged("prometheus_rules", ask("rules").map(|data| rules(&data))),
        judged("prometheus_alerts", alerts),
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

/// A target of the job.
#[derive(Debug, Default)]
struct Scrape {
    /// Its label, by which alerts name it.
    instance: String,
    url: String,
    /// None where it is up.
    down: Option<String>,
}

/// What Prometheus scrapes: for each instance its place in the list, and others.
#[derive(Debug, Default)]
struct Scraped {
    all: Vec<Scrape>,
    of: Vec<Option<usize>>,
}

impl Scraped {
    fn of(data: &Value, windows: &[Window]) -> Scraped {
        let of_job =
            list(&data["activeTargets"]).iter().filter(|target| target["labels"]["job"] == JOB);
        let scrape = |target: &Value| Scrape {
            instance: text(&target["labels"]["instance"]).to_owned(),
            url: text(&target["scrapeUrl"]).to_owned(),
            down: (target["health"] != "up").then(|| text(&target["lastError"]).to_owned()),
        };
        let all: Vec<Scrape> = of_job.map(scrape).collect();
        // Where its label is another name, it is known by what is scraped.
        let by = |name: fn(&Scrape) -> &str| {
            let theirs: Vec<&str> = all.iter().map(name).collect();
            names::counterparts(&addresses(windows), &theirs)
        };
        let (urls, labels) = (by(|of| &of.url), by(|of| &of.instance));
        let mut of: Vec<Option<usize>> = urls;
        for (of, label) in of.iter_mut().zip(labels) {
            *of = of.or(label);
        }
        Scraped { all, of }
    }

    /// Those that are none of the instances.
    fn others(&self) -> impl Iterator<Item = &Scrape> {
        let others = self.all.iter().enumerate().filter(|(at, _)| !self.of.contains(&Some(*at)));
        others.map(|(_, scrape)| scrape)
    }
}

fn addresses(windows: &[Window]) -> Vec<&[String]> {
    windows.iter().map(|window| &window.addresses[..]).collect()
}

fn targets(scraped: &Scraped, windows: &[Window]) -> (Verdict, String) {
    let ours = || scraped.of.iter().flatten().map(|at| &scraped.all[*at]);
    let down = |of: &Scrape| of.down.as_ref().map(|error| format!("{} ({error})", of.instance));
    let others = named(scraped.others().filter_map(down));
    let others = if others.is_empty() { others } else { format!("; of others, not up: {others}") };
    let is_down: Vec<String> = ours().filter_map(down).collect();
    if !is_down.is_empty() {
        return (Verdict::NoGo, format!("not up: {}{others}", named(is_down)));
    }
    let missing = windows.iter().zip(&scraped.of).filter(|(_, of)| of.is_none());
    let missing = named(missing.map(|(window, _)| window.instance.clone()));
    if missing.is_empty() {
        let found = format!("{} targets of job {JOB} are up{others}", windows.len());
        return (Verdict::Go, found);
    }
    let unknown = named(scraped.others().map(|of| of.instance.clone()));
    if unknown.is_empty() {
        let found = format!("not scraped: {missing}; see config/prometheus/scrape.yaml");
        return (Verdict::NoGo, found);
    }
    // It may be one of those, under another name.
    let found = format!("no target of job {JOB} is called as {missing}, among {unknown}{others}");
    (Verdict::NotEnoughData, found)
}

fn rules(data: &Value) -> (Verdict, String) {
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
        let found = format!("not loaded: {names}; copy config/prometheus/rules, and reload it");
        return (Verdict::NoGo, found);
    }
    let ours = |name: &str| shipped.contains(name) || name.contains("log_capturer");
    let broken: Vec<String> = known
        .iter()
        .filter(|(name, broken)| *broken && ours(name))
        .map(|(name, _)| (*name).to_owned())
        .collect();
    match broken.is_empty() {
        true => (Verdict::Go, format!("{} alerts are loaded", shipped.len())),
        false => (Verdict::NoGo, format!("cannot be evaluated: {}", named(broken))),
    }
}

/// An alert without an instance is about all of them.
fn alerts(
    data: &Value,
    scraped: &Result<Scraped, Failure>,
    windows: &[Window],
) -> (Verdict, String) {
    let shipped = shipped();
    let firing = list(&data["alerts"]).iter().filter(|alert| {
        alert["state"] == "firing" && shipped.contains(text(&alert["labels"]["alertname"]))
    });
    let labels: Vec<&str> = scraped
        .iter()
        .flat_map(|scraped| {
            scraped.of.iter().flatten().map(|at| scraped.all[*at].instance.as_str())
        })
        .collect();
    let is_ours = |alert: &&Value| {
        let of = text(&alert["labels"]["instance"]);
        let known = || names::counterparts(&addresses(windows), &[of]).iter().any(Option::is_some);
        of.is_empty() || labels.contains(&of) || scraped.is_err() && known()
    };
    let name = |alert: &Value| {
        let labels = &alert["labels"];
        match text(&labels["instance"]) {
            "" => text(&labels["alertname"]).to_owned(),
            of => format!("{} on {of}", text(&labels["alertname"])),
        }
    };
    let (ours, others): (Vec<&Value>, Vec<&Value>) = firing.partition(is_ours);
    let others = named(others.into_iter().map(name));
    let others = if others.is_empty() { others } else { format!("; on others: {others}") };
    // Those of an instance that it does not know may be among them.
    let is_known = scraped.as_ref().is_ok_and(|scraped| scraped.of.iter().all(Option::is_some));
    match ours.is_empty() {
        true if !is_known && !others.is_empty() => {
            (Verdict::NotEnoughData, format!("which are of these instances is not known{others}"))
        }
        true => (Verdict::Go, format!("none fires{others}")),
        false => {
            let ours = named(ours.into_iter().map(name));
            (Verdict::NoGo, format!("firing: {ours}; see config/RUNBOOKS.md{others}"))
        }
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

    fn windows(names: &[&str]) -> Vec<Window> {
        names.iter().map(|name| Window::new((*name).into(), 60.0)).collect()
    }

    /// Of its label, the port that is scraped, and what is wrong with it.
    fn scraped(of: &[(&str, u16, Option<&str>)], windows: &[Window]) -> Scraped {
        let target = |(label, port, error): &(&str, u16, Option<&str>)| {
            json!({
                "labels": { "job": JOB, "instance": label }, "scrapeUrl": format!("http://h:{port}/metrics"),
                "health": if error.is_some() { "down" } else { "up" }, "lastError": error,
            })
        };
        let all: Vec<Value> = of.iter().map(target).collect();
        Scraped::of(&json!({ "activeTargets": all }), windows)
    }

    #[test]
    fn targets_of_the_instances_are_up_and_others_are_a_note() {
        let ours = windows(&["http://h:1", "http://h:2"]);
        let judged = |of: &[(&str, u16, Option<&str>)]| targets(&scraped(of, &ours), &ours);
        let (verdict, why) = judged(&[("a", 1, None), ("b", 2, None), ("c", 3, Some("refused"))]);
        assert_eq!(verdict, Verdict::Go);
        assert!(
            why.contains("2 targets of job log_capturer are up; of others, not up: c (refused)"),
            "{why}"
        );
        let (verdict, why) = judged(&[("a", 1, None), ("b", 2, Some("refused"))]);
        assert!(verdict == Verdict::NoGo && why.contains("not up: b (refused)"), "{why}");
        let (verdict, why) = judged(&[("a", 1, None)]);
        assert!(verdict == Verdict::NoGo && why.contains("not scraped: http://h:2"), "{why}");
        assert_eq!(judged(&[]).0, Verdict::NoGo);
        // It may be the one with the other name.
        let (verdict, why) = judged(&[("a", 1, None), ("web2", 7, None)]);
        assert!(verdict == Verdict::NotEnoughData && why.contains("among web2"), "{why}");
        assert_eq!(Scraped::of(&json!(7), &ours).of, [None, None]);
    }

    #[test]
    fn rules_are_all_there_and_can_be_evaluated() {
        let of = |left_out: &str, broken: &str| {
            let names = shipped().into_iter().filter(|name| *name != left_out);
            let rule = |name: &str| json!({ "name": name, "health": if name == broken { "err" } else { "ok" } });
            json!({ "groups": [{ "rules": names.map(rule).collect::<Vec<_>>() }] })
        };
        assert_eq!(rules(&of("", "")).0, Verdict::Go);
        assert!(rules(&of("LogCapturerDown", "")).1.contains("not loaded: LogCapturerDown"));
        assert!(
            rules(&of("", "LogCapturerDown")).1.contains("cannot be evaluated: LogCapturerDown")
        );
    }

    #[test]
    fn alerts_of_others_are_none_of_its_business() {
        let ours = windows(&["http://h:1"]);
        let known = || Ok(scraped(&[("a", 1, None), ("b", 2, None)], &ours));
        let of = |name: &str, instance: &str, state: &str| {
            let labels = json!({ "alertname": name, "instance": instance });
            json!({ "alerts": [{ "labels": labels, "state": state }] })
        };
        let judged = |data: &Value| alerts(data, &known(), &ours);
        assert_eq!(judged(&of("LogCapturerDown", "a", "pending")).0, Verdict::Go);
        assert_eq!(judged(&of("Other", "a", "firing")).0, Verdict::Go);
        let (verdict, why) = judged(&of("LogCapturerDown", "a", "firing"));
        assert!(verdict == Verdict::NoGo && why.contains("LogCapturerDown on a"), "{why}");
        let (verdict, why) = judged(&of("LogCapturerDown", "b", "firing"));
        assert!(
            verdict == Verdict::Go && why == "none fires; on others: LogCapturerDown on b",
            "{why}"
        );
        assert_eq!(judged(&of("LogCapturerDown", "", "firing")).0, Verdict::NoGo);
        // Where it does not scrape them, they may be any.
        let unknown = Ok(scraped(&[], &ours));
        let (verdict, _) = alerts(&of("LogCapturerDown", "b", "firing"), &unknown, &ours);
        assert_eq!(verdict, Verdict::NotEnoughData);
    }
}
