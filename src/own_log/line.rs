//! An event as a line: logfmt, JSON or text. Whatever stands in a value, it is one line, and what was
//! written can be read back.

use serde_json::Value;
use std::fmt::{Debug, Write};
use tracing::Level;
use tracing::field::{Field, Visit};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Logfmt,
    Json,
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub form: Form,
    pub colored: bool,
    /// The journal has a time of its own, and takes the level from a prefix (sd-daemon(3)).
    pub journal: bool,
}

/// What an event says beside its level and time.
pub struct Fields {
    form: Form,
    message: String,
    /// In the form, each behind a separator.
    rest: String,
}

impl Fields {
    pub fn new(style: Style) -> Fields {
        Fields { form: style.form, message: String::new(), rest: String::new() }
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn add_message(&mut self, message: &str) {
        self.message.push_str(message);
    }

    pub fn add_text(&mut self, name: &str, text: &str) {
        self.begin(name);
        value(&mut self.rest, self.form, text);
    }

    pub fn add_number(&mut self, name: &str, number: impl Into<Value>) {
        self.add_value(name, &number.into());
    }

    /// A number or a truth: the same in each form.
    fn add_value(&mut self, name: &str, value: &Value) {
        self.begin(name);
        push(&mut self.rest, value);
    }

    fn begin(&mut self, name: &str) {
        match self.form {
            Form::Json => {
                self.rest.push(',');
                push(&mut self.rest, Value::from(name));
                self.rest.push(':');
            }
            Form::Logfmt | Form::Text => {
                self.rest.push(' ');
                self.rest.push_str(name);
                self.rest.push('=');
            }
        }
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, number: i64) {
        self.add_number(field.name(), number);
    }

    fn record_u64(&mut self, field: &Field, number: u64) {
        self.add_number(field.name(), number);
    }

    fn record_f64(&mut self, field: &Field, number: f64) {
        match serde_json::Number::from_f64(number) {
            Some(number) => self.add_number(field.name(), number),
            None => self.add_text(field.name(), &number.to_string()),
        }
    }

    fn record_bool(&mut self, field: &Field, truth: bool) {
        self.add_value(field.name(), &truth.into());
    }

    fn record_str(&mut self, field: &Field, text: &str) {
        match field.name() {
            "message" => self.add_message(text),
            name => self.add_text(name, text),
        }
    }

    fn record_debug(&mut self, field: &Field, shown: &dyn Debug) {
        self.record_str(field, &format!("{shown:?}"));
    }
}

/// With its end.
pub fn whole(style: Style, level: Level, fields: &Fields) -> String {
    let mut line = String::with_capacity(96 + fields.message.len() + fields.rest.len());
    if style.journal {
        push(&mut line, format_args!("<{}>", priority(level)));
    }
    let time = (!style.journal).then(jiff::Timestamp::now);
    let name = level_name(level);
    match style.form {
        Form::Logfmt => {
            if let Some(time) = time {
                push(&mut line, format_args!("ts={time:.6} "));
            }
            push(&mut line, format_args!("level={name} msg="));
            value(&mut line, style.form, &fields.message);
            line.push_str(&fields.rest);
        }
        Form::Json => {
            line.push('{');
            if let Some(time) = time {
                push(&mut line, format_args!("\"ts\":\"{time:.6}\","));
            }
            push(&mut line, format_args!("\"level\":\"{name}\",\"msg\":"));
            value(&mut line, style.form, &fields.message);
            line.push_str(&fields.rest);
            line.push('}');
        }
        Form::Text => {
            let (dim, color, plain) =
                if style.colored { ("\x1b[2m", color(level), "\x1b[0m") } else { ("", "", "") };
            if let Some(time) = time {
                push(&mut line, format_args!("{dim}{time:.6}{plain} "));
            }
            push(&mut line, format_args!("{color}{:>5}{plain} ", level.as_str()));
            escape(&mut line, &fields.message, "");
            line.push_str(&fields.rest);
        }
    }
    line.push('\n');
    line
}

fn value(line: &mut String, form: Form, text: &str) {
    if form == Form::Json {
        return push(line, Value::from(text));
    }
    let bare = |c: char| !(c.is_whitespace() || c.is_control() || matches!(c, '"' | '='));
    // A backslash begins an escape for some readers.
    if !text.is_empty() && text.chars().all(|c| bare(c) && c != '\\') {
        return line.push_str(text);
    }
    line.push('"');
    escape(line, text, "\"\\");
    line.push('"');
}

/// As JSON does it, which is how readers of logfmt take it back.
fn escape(line: &mut String, text: &str, also: &str) {
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            // Line ends to some.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                push(line, format_args!("\\u{:04x}", u32::from(c)));
            }
            c => {
                if also.contains(c) {
                    line.push('\\');
                }
                line.push(c);
            }
        }
    }
}

fn push(line: &mut String, what: impl std::fmt::Display) {
    write!(line, "{what}").expect("writing to memory does not fail");
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn color(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NASTY: &str = "a \"b\" = c\\d\n\r\t\0\x1b[31m\x7f\u{85}\u{2028}é";

    fn said(form: Form, journal: bool, message: &str, texts: &[(&str, &str)]) -> String {
        let style = Style { form, colored: false, journal };
        let mut fields = Fields::new(style);
        texts.iter().for_each(|(name, text)| fields.add_text(name, text));
        // In whichever order they come.
        fields.add_message(message);
        fields.add_number("count", 7);
        whole(style, Level::WARN, &fields)
    }

    #[test]
    fn values_are_quoted_where_they_have_to_be() {
        let texts = [
            ("a", "plain"),
            ("b", "127.0.0.1:8401"),
            ("c", ""),
            ("d", "x=y"),
            ("e", r"\"),
            ("f", "é"),
            ("g", "\""),
        ];
        assert_eq!(
            said(Form::Logfmt, true, "two words", &texts),
            "<4>level=warn msg=\"two words\" a=plain b=127.0.0.1:8401 c=\"\" d=\"x=y\" e=\"\\\\\" f=é \
             g=\"\\\"\" count=7\n"
        );
        assert_eq!(
            said(Form::Text, true, "two words", &[("a", "b c")]),
            "<4> WARN two words a=\"b c\" count=7\n"
        );
    }

    #[test]
    fn whatever_stands_in_it_it_is_one_line_that_reads_as_the_same() {
        for form in [Form::Logfmt, Form::Text, Form::Json] {
            let line = said(form, false, NASTY, &[("error", NASTY)]);
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            assert!(line.ends_with('\n'));
        }
        for form in [Form::Logfmt, Form::Text] {
            let line = said(form, false, NASTY, &[("error", NASTY)]);
            assert!(!line.trim_end_matches('\n').contains(|c: char| c.is_control()), "{line:?}");
        }
        let line = said(Form::Json, false, NASTY, &[("error", NASTY)]);
        let json: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((json["msg"].as_str(), json["error"].as_str()), (Some(NASTY), Some(NASTY)));
        assert_eq!((&json["level"], &json["count"]), (&"warn".into(), &7.into()));
        // A quoted value is a text of JSON.
        let line = said(Form::Logfmt, true, NASTY, &[]);
        let quoted = line.strip_prefix("<4>level=warn msg=").unwrap();
        let quoted = quoted.strip_suffix(" count=7\n").unwrap();
        assert_eq!(serde_json::from_str::<String>(quoted).unwrap(), NASTY);
    }

    #[test]
    fn the_time_is_to_the_microsecond_and_not_for_the_journal() {
        for form in [Form::Logfmt, Form::Json, Form::Text] {
            let line = said(form, false, "x", &[]);
            let at = line.find("20").expect("a year");
            let time = line[at..].split([' ', '"']).next().unwrap();
            assert_eq!(time.len(), "2026-01-01T00:00:00.000000Z".len(), "{line}");
            time.parse::<jiff::Timestamp>().unwrap();
            assert!(!said(form, true, "x", &[]).contains("20"));
        }
    }
}
