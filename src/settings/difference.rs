//! What is different between two configurations, key by key.

use crate::options;
use config::{Config, REDACTED};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Such as `sinks.loki.linger`.
    pub key: String,
    /// None: it was not there.
    pub from: Option<Value>,
    pub to: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| {
            value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string)
        };
        write!(f, "{}: {} -> {}", self.key, text(&self.from), text(&self.to))
    }
}

/// By key. Where nothing but secrets is different, that shows as a change of `secrets`.
#[must_use]
pub fn between(from: &Config, to: &Config) -> Vec<Change> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten(String::new(), &options::shown(from), &mut before);
    flatten(String::new(), &options::shown(to), &mut after);
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let changes = keys.into_iter().filter_map(|key| {
        let (from, to) = (before.get(key).cloned(), after.get(key).cloned());
        (from != to).then(|| Change { key: key.clone(), from, to })
    });
    let mut changes: Vec<Change> = changes.collect();
    if changes.is_empty() && from != to {
        let hidden = || Some(Value::from(REDACTED));
        changes.push(Change { key: "secrets".into(), from: hidden(), to: hidden() });
    }
    changes
}

/// Lists are values, but those of maps, which are named by their place.
fn flatten(key: String, value: &Value, into: &mut BTreeMap<String, Value>) {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match value {
        Value::Object(all) if !all.is_empty() => {
            all.iter().for_each(|(name, value)| flatten(below(name), value, into));
        }
        Value::Array(all) if all.iter().any(Value::is_object) => {
            let all = all.iter().enumerate();
            all.for_each(|(at, value)| flatten(format!("{key}[{at}]"), value, into));
        }
        value => {
            into.insert(key, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(more: &str, password: &str) -> Config {
        let text = format!(
            "version: 1\ndata_dir: /d\nsources: {{ files: [{{ include: [/x/*.log] }}] }}\n\
             sinks: {{ loki: {{ url: \"http://127.0.0.1:3100\", {more} auth: {{ basic: {{ username: u, \
             password: \"${{PASSWORD}}\" }} }} }} }}\n"
        );
        let variable = |name: &str| (name == "PASSWORD").then(|| password.to_owned());
        config::parse(&text, &Path::new("x").display().to_string(), &variable).unwrap()
    }

    #[test]
    fn keys_are_named_and_secrets_are_not_shown() {
        assert_eq!(between(&config("", "a"), &config("", "a")), []);
        let changes = between(&config("", "a"), &config("linger: 5ms, ", "a"));
        let texts: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [r#"sinks.loki.linger: "50ms" -> "5ms""#]);
        let changes = between(&config("", "swordfish"), &config("", "herring"));
        assert_eq!(changes.len(), 1);
        let text = changes[0].to_string();
        assert!(text.starts_with("secrets:") && !text.contains("fish"), "{text}");
    }
}
