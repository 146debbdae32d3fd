//! An export in JSON, with the names and forms that OTLP has for it.
//!
//! It is not read into types of its own but looked at node by node: a record with many attributes
//! would be many times as large in memory as it came.

use super::export::{Builder, LogRecord, ScopeFacts};
use super::value::{Attribute, Value, from_base64};
use super::{BadExport, DEPTH_MAX, Limits, Room};
use crate::receive::json;
use simd_json::prelude::*;
use simd_json::tape::Value as Node;

/// A value in a list or a map, and the attribute around it, is up to four levels of JSON; ten stand
/// around the value of a record's attribute.
const JSON_DEPTH_MAX: usize = 10 + 4 * DEPTH_MAX;

pub fn read<'a>(
    body: &'a mut [u8],
    limits: Limits,
    builder: &mut Builder<'a, '_>,
) -> Result<(), BadExport> {
    let limits = json::Limits { depth_max: JSON_DEPTH_MAX, values_max: limits.json_values_max };
    let tape = json::nodes(body, limits)?;
    let root = tape.as_value();
    if root.as_object().is_none() {
        return Err(BadExport::Expected("an object"));
    }
    for (name, value) in fields(root)? {
        if matches!(name, "resourceLogs" | "resource_logs") {
            for item in items(value)? {
                resource_logs(item, builder)?;
            }
        }
    }
    Ok(())
}

fn resource_logs<'a>(node: Node<'_, 'a>, builder: &mut Builder<'a, '_>) -> Result<(), BadExport> {
    let mut attributes = Vec::new();
    let mut room = Room::new();
    for (_, resource) in fields(node)?.filter(|(name, _)| *name == "resource") {
        for (_, list) in fields(resource)?.filter(|(name, _)| *name == "attributes") {
            put_attributes(list, 0, &mut room, &mut attributes)?;
        }
    }
    builder.resource(&attributes)?;
    for (name, value) in fields(node)? {
        if matches!(name, "scopeLogs" | "scope_logs") {
            for item in items(value)? {
                scope_logs(item, builder)?;
            }
        }
    }
    Ok(())
}

fn scope_logs<'a>(node: Node<'_, 'a>, builder: &mut Builder<'a, '_>) -> Result<(), BadExport> {
    let mut facts = ScopeFacts::default();
    let mut room = Room::new();
    for (_, scope) in fields(node)?.filter(|(name, _)| *name == "scope") {
        for (name, value) in fields(scope)? {
            match name {
                "name" => facts.name = text(value)?,
                "version" => facts.version = text(value)?,
                "attributes" => put_attributes(value, 0, &mut room, &mut facts.attributes)?,
                "droppedAttributesCount" | "dropped_attributes_count" => {
                    facts.dropped_attributes = integer(value)?;
                }
                _ => {}
            }
        }
    }
    builder.scope(&facts)?;
    for (name, value) in fields(node)? {
        if matches!(name, "logRecords" | "log_records") {
            for item in items(value)? {
                builder.check_count()?;
                builder.record(&log_record(item)?)?;
            }
        }
    }
    Ok(())
}

fn log_record<'a>(node: Node<'_, 'a>) -> Result<LogRecord<'a>, BadExport> {
    let mut record = LogRecord::default();
    let mut room = Room::new();
    for (name, value) in fields(node)? {
        match name {
            "timeUnixNano" | "time_unix_nano" => record.stamp_ns = integer(value)?,
            "observedTimeUnixNano" | "observed_time_unix_nano" => {
                record.observed_ns = integer(value)?;
            }
            "severityNumber" | "severity_number" => record.severity_number = severity(value)?,
            "severityText" | "severity_text" => record.severity_text = text(value)?,
            "body" => any(value, 0, &mut room, &mut record.body)?,
            "attributes" => put_attributes(value, 0, &mut room, &mut record.attributes)?,
            "droppedAttributesCount" | "dropped_attributes_count" => {
                record.dropped_attributes = integer(value)?;
            }
            "flags" => record.flags = integer(value)?,
            "traceId" | "trace_id" => {
                record.trace_id = identity(text(value)?, "a traceId of 32 hex digits")?;
            }
            "spanId" | "span_id" => {
                record.span_id = identity(text(value)?, "a spanId of 16 hex digits")?;
            }
            "eventName" | "event_name" => record.event_name = text(value)?,
            _ => {}
        }
    }
    Ok(record)
}

/// The fields of an object; null is one without any, and so is a field that is null.
fn fields<'t, 'a>(
    node: Node<'t, 'a>,
) -> Result<impl Iterator<Item = (&'a str, Node<'t, 'a>)> + use<'t, 'a>, BadExport> {
    let object = match node.as_object() {
        None if !node.is_null() => return Err(BadExport::Expected("an object")),
        object => object,
    };
    let all = object.into_iter().flat_map(|object| object.iter());
    Ok(all.filter(|(_, value)| !value.is_null()))
}

fn items<'t, 'a>(
    node: Node<'t, 'a>,
) -> Result<impl Iterator<Item = Node<'t, 'a>> + use<'t, 'a>, BadExport> {
    Ok(node.as_array().ok_or(BadExport::Expected("an array"))?.iter())
}

fn text<'a>(node: Node<'_, 'a>) -> Result<&'a [u8], BadExport> {
    Ok(node.into_string().ok_or(BadExport::Expected("a text"))?.as_bytes())
}

/// A number, or a text that is one: no reader of JavaScript loses its last digits.
fn integer<T: TryFrom<i128>>(node: Node<'_, '_>) -> Result<T, BadExport> {
    let number = match (node.as_i64(), node.as_u64(), node.into_string()) {
        (Some(number), ..) => Some(i128::from(number)),
        (_, Some(number), _) => Some(i128::from(number)),
        (.., text) => text.and_then(|text| text.parse().ok()),
    };
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or(BadExport::Expected("an integer that its field has room for"))
}

/// OTLP wants a number; Loki takes a name as well.
fn severity(node: Node<'_, '_>) -> Result<i32, BadExport> {
    const NAMES: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
    let Some(text) = node.into_string() else { return integer(node) };
    let name = text.strip_prefix("SEVERITY_NUMBER_").unwrap_or_default();
    if name == "UNSPECIFIED" {
        return Ok(0);
    }
    for (level, first) in NAMES.iter().zip((1..).step_by(4)) {
        match name.strip_prefix(level) {
            Some("") => return Ok(first),
            Some("2") => return Ok(first + 1),
            Some("3") => return Ok(first + 2),
            Some("4") => return Ok(first + 3),
            _ => {}
        }
    }
    Err(BadExport::Expected("a severity's number"))
}

fn identity<const N: usize>(text: &[u8], expected: &'static str) -> Result<[u8; N], BadExport> {
    let mut id = [0; N];
    if text.is_empty() {
        return Ok(id);
    }
    let digit = |sign: u8| char::from(sign).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return Err(BadExport::Expected(expected));
    }
    for (byte, [high, low]) in id.iter_mut().zip(pairs) {
        let digits = digit(*high).zip(digit(*low));
        let (high, low) = digits.ok_or(BadExport::Expected(expected))?;
        *byte = high << 4 | low;
    }
    Ok(id)
}

fn put_attributes<'a>(
    node: Node<'_, 'a>,
    depth: usize,
    room: &mut Room,
    attributes: &mut Vec<Attribute<'a>>,
) -> Result<(), BadExport> {
    for item in items(node)? {
        room.take()?;
        let mut attribute = Attribute::default();
        for (name, value) in fields(item)? {
            match name {
                "key" => attribute.name = text(value)?,
                "value" => any(value, depth, room, &mut attribute.value)?,
                _ => {}
            }
        }
        attributes.push(attribute);
    }
    Ok(())
}

/// Reads a value that stands in `depth` others.
fn any<'a>(
    node: Node<'_, 'a>,
    depth: usize,
    room: &mut Room,
    found: &mut Value<'a>,
) -> Result<(), BadExport> {
    for (name, value) in fields(node)? {
        *found = match name {
            "stringValue" | "string_value" => Value::Text(text(value)?),
            "boolValue" | "bool_value" => {
                Value::Truth(value.as_bool().ok_or(BadExport::Expected("true or false"))?)
            }
            "intValue" | "int_value" => Value::Integer(integer(value)?),
            "doubleValue" | "double_value" => Value::Float(float(value)?),
            "arrayValue" | "array_value" => Value::List(list(value, depth + 1, room)?),
            "kvlistValue" | "kvlist_value" => Value::Map(map(value, depth + 1, room)?),
            "bytesValue" | "bytes_value" => {
                let bytes = value.into_string().and_then(from_base64);
                Value::Bytes(bytes.ok_or(BadExport::Expected("bytes in base64"))?.into())
            }
            _ => continue,
        };
    }
    Ok(())
}

fn float(node: Node<'_, '_>) -> Result<f64, BadExport> {
    let text = || node.into_string()?.parse().ok();
    node.cast_f64().or_else(text).ok_or(BadExport::Expected("a number"))
}

fn list<'a>(
    node: Node<'_, 'a>,
    depth: usize,
    room: &mut Room,
) -> Result<Vec<Value<'a>>, BadExport> {
    if depth > DEPTH_MAX {
        return Err(BadExport::Deep);
    }
    let mut values = Vec::new();
    for (_, list) in fields(node)?.filter(|(name, _)| *name == "values") {
        for item in items(list)? {
            room.take()?;
            let mut value = Value::Empty;
            any(item, depth, room, &mut value)?;
            values.push(value);
        }
    }
    Ok(values)
}

fn map<'a>(
    node: Node<'_, 'a>,
    depth: usize,
    room: &mut Room,
) -> Result<Vec<Attribute<'a>>, BadExport> {
    if depth > DEPTH_MAX {
        return Err(BadExport::Deep);
    }
    let mut attributes = Vec::new();
    for (_, list) in fields(node)?.filter(|(name, _)| *name == "values") {
        put_attributes(list, depth, room, &mut attributes)?;
    }
    Ok(attributes)
}
