//! The YAML as a tree that knows its lines, and nothing of what the values mean: `1.10` stays
//! `1.10`, whether it is a number, a version or a label.

use crate::error::Problem;
use saphyr::{MarkedYaml, ScalarStyle, ScanError, YamlData, YamlLoader};
use saphyr_parser::Parser;

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// From 1; 0 where it came from no file.
    pub line: usize,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Scalar(String),
    List(Vec<Node>),
    /// Keys with their lines, in their order.
    Map(Vec<(String, usize, Node)>),
}

impl Node {
    pub fn parse(text: &str) -> Result<Node, Problem> {
        let mut loader = YamlLoader::<MarkedYaml<'_>>::default();
        loader.early_parse(false);
        Parser::new_from_str(text).load(&mut loader, true).map_err(|error| of_yaml(&error))?;
        if let Some(error) = loader.error() {
            return Err(of_yaml(error));
        }
        match loader.into_documents().as_slice() {
            [] => Ok(Node { line: 1, value: Value::Map(Vec::new()) }),
            [document] => Node::of(document),
            [_, second, ..] => {
                let text = "expected one YAML document, found another one";
                Err(Problem::new(second.span.start.line(), "", text).hint("remove the ---"))
            }
        }
    }

    fn of(yaml: &MarkedYaml<'_>) -> Result<Node, Problem> {
        let line = yaml.span.start.line();
        let unusable = |what: &str| {
            Err(Problem::new(line, "", format!("expected a value, found {what}"))
                .hint("write the value out"))
        };
        let value = match &yaml.data {
            YamlData::Representation(text, ScalarStyle::Plain, None)
                if matches!(&**text, "" | "~" | "null") =>
            {
                Value::Null
            }
            YamlData::Representation(text, _, None) => Value::Scalar(text.to_string()),
            YamlData::Sequence(list) => {
                Value::List(list.iter().map(Node::of).collect::<Result<_, _>>()?)
            }
            YamlData::Mapping(map) => {
                let mut entries = Vec::new();
                for (key, value) in map {
                    let YamlData::Representation(name, ..) = &key.data else {
                        return unusable("a key that is no text");
                    };
                    entries.push((name.to_string(), key.span.start.line(), Node::of(value)?));
                }
                Value::Map(entries)
            }
            YamlData::Representation(..) | YamlData::Tagged(..) => return unusable("a tag"),
            YamlData::Value(_) | YamlData::Alias(_) | YamlData::BadValue => {
                return unusable("something else");
            }
        };
        Ok(Node { line, value })
    }

    pub fn scalar(text: impl Into<String>) -> Node {
        Node { line: 0, value: Value::Scalar(text.into()) }
    }

    pub fn list(items: Vec<Node>) -> Node {
        Node { line: 0, value: Value::List(items) }
    }

    pub fn map(entries: Vec<(&str, Node)>) -> Node {
        let entries = entries.into_iter().map(|(key, node)| (key.to_owned(), 0, node)).collect();
        Node { line: 0, value: Value::Map(entries) }
    }

    /// What it is, for an error.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".into(),
            Value::Scalar(text) => format!("{text:?}"),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
        }
    }
}

fn of_yaml(error: &ScanError) -> Problem {
    Problem::new(error.marker().line(), "", format!("this is not YAML: {}", error.info()))
        .hint("mind the indentation, and quote values that begin with * & ! { [ or %")
}
