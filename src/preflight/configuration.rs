//! The configuration: what is wrong with it, and what it changes.

use super::finding::Finding;
use crate::ask::Access;
use crate::options;
use crate::top::{Wrong, fetch};
use config::{Config, Problem};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const NAME: &str = "config";
const CHANGE: &str = "config_change";
/// More changes are counted in the text, and stand in the figures.
const SHOWN_MAX: usize = 20;

#[must_use]
pub fn problems(problems: &[Problem]) -> Vec<Finding> {
    if problems.is_empty() {
        return vec![Finding::ok(NAME, "valid")];
    }
    let finding = |Problem { line, key, text, hint }: &Problem| {
        let at = if *line > 0 { format!("line {line}: ") } else { String::new() };
        let key_text = if key.is_empty() { String::new() } else { format!("{key}: ") };
        let fix = hint.clone().unwrap_or_else(|| "write what is expected there".into());
        Finding::no_go(NAME, format!("{at}{key_text}{text}"), fix)
            .figures(json!({ "line": line, "key": key }))
    };
    problems.iter().map(finding).collect()
}

/// Keys by the names that they had before: they are read still.
#[must_use]
pub fn renamed(config: &Config) -> Vec<Finding> {
    let finding = |key: &String| {
        Finding::warning("config_renamed", key.clone(), "write the name that it has now")
    };
    config.renamed.iter().map(finding).collect()
}

/// Against another file, or against the instance that runs, where one answers.
#[must_use]
pub fn changes(config: &Config, against: Option<&Path>, access: &Access) -> Vec<Finding> {
    let (of, before) = match against {
        Some(file) => (file.display().to_string(), of_file(file)),
        None => match of_instance(config, access) {
            Ok((url, before)) => (url, before),
            Err(reason) => return vec![Finding::ok(CHANGE, reason)],
        },
    };
    let found = match before {
        Ok(before) => judge(&before, &options::shown(config)),
        Err(error) => {
            vec![Finding::warning(
                CHANGE,
                format!("cannot be compared: {error}"),
                "compare with a configuration that this version reads, by --against FILE",
            )]
        }
    };
    found.into_iter().map(|finding| finding.of(of.clone())).collect()
}

fn of_file(file: &Path) -> Result<Value, String> {
    config::load(file).map(|config| options::shown(&config)).map_err(|error| error.to_string())
}

/// The error is that there is nobody to compare with.
fn of_instance(
    config: &Config,
    access: &Access,
) -> Result<(String, Result<Value, String>), String> {
    let Some(client) = fetch::Client::of_instance(config, access) else {
        let found = "not compared: server.listen is any free port; --against FILE compares";
        return Err(found.into());
    };
    let (url, asked) = (client.url().to_owned(), client.config());
    match asked {
        Ok(before) if before["data_dir"].is_string() => Ok((url, Ok(before))),
        Ok(_) => Ok((url, Err("it does not answer as log-capturer does".into()))),
        Err(Wrong::Unreached { .. }) => {
            Err(format!("no instance answers at {url}; --against FILE compares"))
        }
        Err(error) => Ok((url, Err(error.to_string()))),
    }
}

/// A key's value before and from now on; none where the key is not there.
#[derive(Debug, PartialEq)]
struct Change {
    key: String,
    before: Option<Value>,
    now: Option<Value>,
}

fn judge(before: &Value, now: &Value) -> Vec<Finding> {
    let changes = differences(before, now);
    let list =
        |change: &Change| json!({ "key": change.key, "old": change.before, "new": change.now });
    let figures = json!({ "changes": changes.iter().map(list).collect::<Vec<_>>() });
    let mut found = vec![Finding::ok(CHANGE, summary(&changes)).figures(figures)];
    if before["data_dir"] != now["data_dir"] {
        found.push(Finding::warning(
            CHANGE,
            format!("data_dir changes from {} to {}", before["data_dir"], now["data_dir"]),
            "have the log under the old one drain first (SIGTERM; log-capturer wal export shows what is \
             unsent), and move the positions: log-capturer positions export, then import",
        ));
    }
    let sinks = |of: &Value| of["sinks"].as_object().cloned().unwrap_or_default();
    let names = sinks(now);
    for gone in sinks(before).keys().filter(|name| !names.contains_key(*name)) {
        found.push(Finding::warning(
            CHANGE,
            format!("sink {gone} is gone: what it has not acknowledged is not sent to it any more"),
            format!(
                "if that is not meant, keep its name; what waits for it shows log-capturer wal export --sink {gone}"
            ),
        ));
    }
    found
}

fn summary(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "nothing changes (secrets that are texts are not compared)".into();
    }
    let text = |value: &Option<Value>| match value {
        Some(value) => value.to_string(),
        None => "nothing".into(),
    };
    let one = |change: &Change| {
        format!("{}: {} -> {}", change.key, text(&change.before), text(&change.now))
    };
    let mut shown: Vec<String> = changes.iter().take(SHOWN_MAX).map(one).collect();
    if changes.len() > SHOWN_MAX {
        shown.push(format!("and {} more (--json has all)", changes.len() - SHOWN_MAX));
    }
    format!("{} keys change: {}", changes.len(), shown.join("; "))
}

fn differences(before: &Value, now: &Value) -> Vec<Change> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    flatten("", before, &mut old);
    flatten("", now, &mut new);
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    let change = |key: &String| {
        let (before, now) = (old.get(key).cloned(), new.get(key).cloned());
        (before != now).then(|| Change { key: key.clone(), before, now })
    };
    keys.into_iter().filter_map(change).collect()
}

/// Each value by its key; lists of plain values are one.
fn flatten(key: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(&key, value, into);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (at, value) in list.iter().enumerate() {
                flatten(&format!("{key}[{at}]"), value, into);
            }
        }
        value => {
            into.insert(key.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Level, worst};
    use super::*;

    #[test]
    fn every_changed_key_is_told_with_both_values() {
        let before = json!({
            "data_dir": "/a", "cores": { "shards": [0, 1] }, "sinks": { "loki": { "url": "u" }, "old": {} },
            "sources": { "files": [{ "include": ["/l"] }, { "include": ["/m"] }] },
        });
        assert!(differences(&before, &before).is_empty());
        assert_eq!(worst(&judge(&before, &before)), Level::Ok);
        let now = json!({
            "data_dir": "/a", "cores": { "shards": [0] }, "sinks": { "loki": { "url": "u" } },
            "sources": { "files": [{ "include": ["/l", "/k"] }] }, "log": { "level": "info" },
        });
        let keys: Vec<String> = differences(&before, &now).into_iter().map(|of| of.key).collect();
        assert_eq!(
            keys,
            [
                "cores.shards",
                "log.level",
                "sinks.old",
                "sources.files[0].include",
                "sources.files[1].include"
            ]
        );
        let found = judge(&before, &now);
        assert!(
            found[0].found.starts_with("5 keys change: cores.shards: [0,1] -> [0]; "),
            "{found:?}"
        );
        assert!(found[0].found.contains("log.level: nothing -> \"info\""), "{found:?}");
        assert_eq!(
            found[0].figures["changes"][0],
            json!({ "key": "cores.shards", "old": [0, 1], "new": [0] })
        );
        assert_eq!(found.len(), 2);
        assert!(found[1].found.contains("sink old is gone"), "{found:?}");
        let moved = judge(&before, &json!({ "data_dir": "/b", "sinks": before["sinks"] }));
        assert!(moved[1].found.contains("from \"/a\" to \"/b\""), "{moved:?}");
    }
}
