//! What `/openapi.json` says of an answer, held against the answer. Of JSON Schema, as much as the document
//! uses: a word that is not known here fails the test.

use serde_json::{Map, Value};
use std::sync::LazyLock;

pub const TEXT: &str = include_str!("../../src/panel/openapi.json");

pub struct Document(Value);

impl Document {
    pub fn served() -> &'static Document {
        static DOCUMENT: LazyLock<Document> =
            LazyLock::new(|| Document(serde_json::from_str(TEXT).unwrap()));
        &DOCUMENT
    }

    /// The paths that have this method.
    pub fn paths(&self, method: &str) -> Vec<&str> {
        let paths = self.0["paths"].as_object().unwrap();
        let of = paths.iter().filter(|(_, item)| item.get(method).is_some());
        of.map(|(path, _)| path.as_str()).collect()
    }

    pub fn check(&self, method: &str, path: &str, status: u16, kind: &str, value: &Value) {
        let place = format!("{method} {path} {status}");
        let answers = &self.0["paths"][path][method]["responses"];
        let answer = answers.get(status.to_string());
        let answer = self.at(answer.unwrap_or_else(|| panic!("not in the document: {place}")));
        let kind = kind.split(';').next().expect("a type");
        let schema = &answer["content"][kind]["schema"];
        assert!(!schema.is_null(), "{place}: {kind} is not in the document");
        self.hold(schema, value, &place).unwrap_or_else(|wrong| panic!("{wrong} in {value}"));
    }

    /// What is meant by a reference.
    fn at<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(to) => self.0.pointer(to.strip_prefix('#').unwrap()).expect("it is there"),
            None => schema,
        }
    }

    fn hold(&self, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{place}: {what}, found {value}"));
        let schema = self.at(schema);
        let none = Map::new();
        let members = value.as_object().unwrap_or(&none);
        let properties = schema["properties"].as_object().unwrap_or(&none);
        for (word, says) in schema.as_object().expect("a schema") {
            match word.as_str() {
                "description" | "default" | "examples" => {}
                "type" if !is(says, value) => return wrong(&format!("expected {says}")),
                "enum" if !says.as_array().unwrap().contains(value) => {
                    return wrong(&format!("expected one of {says}"));
                }
                "format" => {
                    assert_eq!(says, "date-time");
                    if value.as_str().is_none_or(|text| text.parse::<jiff::Timestamp>().is_err()) {
                        return wrong("expected RFC 3339");
                    }
                }
                "pattern" => {
                    assert_eq!(says, "^[0-9]+$");
                    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
                    if !value.as_str().is_some_and(digits) {
                        return wrong("expected digits");
                    }
                }
                "type" | "enum" => {}
                "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                    let (limit, Some(found)) = (says.as_f64().unwrap(), value.as_f64()) else {
                        continue;
                    };
                    let holds = match word.as_str() {
                        "minimum" => found >= limit,
                        "maximum" => found <= limit,
                        "exclusiveMinimum" => found > limit,
                        _ => found < limit,
                    };
                    if !holds {
                        return wrong(&format!("{word} {limit}"));
                    }
                }
                "required" => {
                    let names = says.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                    for name in names.filter(|_| value.is_object()) {
                        if !members.contains_key(name) {
                            return wrong(&format!("{name} is missing"));
                        }
                    }
                }
                "properties" => {
                    for (name, schema) in properties {
                        if let Some(member) = members.get(name) {
                            self.hold(schema, member, &format!("{place} .{name}"))?;
                        }
                    }
                }
                "additionalProperties" => {
                    for (name, member) in members {
                        let place = format!("{place} .{name}");
                        match (properties.contains_key(name), says) {
                            (true, _) => {}
                            (false, Value::Bool(false)) => return wrong(&format!("{name} is new")),
                            (false, schema) => self.hold(schema, member, &place)?,
                        }
                    }
                }
                "items" => {
                    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.hold(says, item, &format!("{place} [{at}]"))?;
                    }
                }
                "oneOf" => {
                    let all = says.as_array().unwrap().iter();
                    let held = all.map(|schema| self.hold(schema, value, place));
                    let (held, wrong): (Vec<_>, Vec<_>) = held.partition(Result::is_ok);
                    if held.len() != 1 {
                        return Err(format!("{place}: one of several: {wrong:?}"));
                    }
                }
                other => panic!("{place}: {other} is not known here"),
            }
        }
        Ok(())
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind {
        Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
        kind => match kind.as_str().expect("a name") {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "null" => value.is_null(),
            other => panic!("{other} is no type"),
        },
    }
}
