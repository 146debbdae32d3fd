//! What is different between two configurations, key by key.

use crate::options;
use config::{Auth, Config, Proxy, REDACTED, Secret, SinkKind};
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

/// By key. A secret that is another one is named, and neither shown.
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
    let hidden = |key: String| {
        let value = Some(Value::from(REDACTED));
        Change { key, from: value.clone(), to: value }
    };
    let (old, new) = (secrets(from), secrets(to));
    for (key, secret) in old {
        let is_other = new.get(&key).is_some_and(|new| *new != secret);
        if is_other && changes.iter().all(|change| change.key != key) {
            changes.push(hidden(key));
        }
    }
    if changes.is_empty() && from != to {
        changes.push(hidden("secrets".into()));
    }
    changes.sort_by(|one, other| one.key.cmp(&other.key));
    changes
}

/// By the keys that [`flatten`] gives them.
fn secrets<'a>(config: &'a Config) -> BTreeMap<String, &'a str> {
    let mut found = BTreeMap::new();
    for (at, token) in config.server.auth.tokens.iter().enumerate() {
        found.insert(format!("server.auth.tokens[{at}].sha256"), token.sha256.reveal());
    }
    for sink in &config.sinks {
        let SinkKind::Loki(loki) = &sink.kind;
        let mut take = |name: &str, secret: &'a Secret| {
            found.insert(format!("sinks.{}.{name}", sink.name), secret.reveal());
        };
        let (basic, bearer) = match &loki.auth {
            Some(Auth::Basic(basic)) => (basic.password.as_ref(), None),
            Some(Auth::Bearer(bearer)) => (None, bearer.token.as_ref()),
            None => (None, None),
        };
        basic.iter().for_each(|secret| take("auth.basic.password", secret));
        bearer.iter().for_each(|secret| take("auth.bearer.token", secret));
        if let Proxy::At(secret) = &loki.proxy {
            take("proxy", secret);
        }
        loki.headers.iter().for_each(|(name, secret)| take(&format!("headers.{name}"), secret));
    }
    found
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
        let texts: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let password = r#"sinks.loki.auth.basic.password: "<redacted>" -> "<redacted>""#;
        assert_eq!(texts, [password]);
        // Also where something else is different.
        let changes = between(&config("", "swordfish"), &config("linger: 5ms, ", "herring"));
        let texts: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [password, r#"sinks.loki.linger: "50ms" -> "5ms""#]);
    }
}
