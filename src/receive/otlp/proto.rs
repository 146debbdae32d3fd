//! An export in protobuf: `opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest`.

use super::export::{Builder, LogRecord, ScopeFacts};
use super::value::{Attribute, Value as Any};
use super::{BadExport, DEPTH_MAX, Room};
use crate::receive::wire::{Fields, Value};

/// Where the scopes of a resource stood before OTLP 0.15.
const FIELD_SCOPE_LOGS_ONCE: u64 = 1000;

pub fn read<'a>(body: &'a [u8], builder: &mut Builder<'a, '_>) -> Result<(), BadExport> {
    for field in Fields::of(body) {
        match field? {
            (1, Value::Bytes(message)) => resource_logs(message, builder)?,
            (1, _) => return Err(BadExport::Expected("a resource and its scopes")),
            _ => {}
        }
    }
    Ok(())
}

fn resource_logs<'a>(message: &'a [u8], builder: &mut Builder<'a, '_>) -> Result<(), BadExport> {
    let mut attributes = Vec::new();
    let mut room = Room::new();
    let mut scopes_at = FIELD_SCOPE_LOGS_ONCE;
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(message)) => resource(message, &mut room, &mut attributes)?,
            (2, Value::Bytes(_)) => scopes_at = 2,
            (FIELD_SCOPE_LOGS_ONCE, Value::Bytes(_)) => {}
            (1 | 2 | FIELD_SCOPE_LOGS_ONCE, _) => {
                return Err(BadExport::Expected("a resource and its scopes"));
            }
            _ => {}
        }
    }
    builder.resource(&attributes)?;
    for field in Fields::of(message) {
        match field? {
            (number, Value::Bytes(message)) if number == scopes_at => {
                scope_logs(message, builder)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn resource<'a>(
    message: &'a [u8],
    room: &mut Room,
    attributes: &mut Vec<Attribute<'a>>,
) -> Result<(), BadExport> {
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(message)) => attributes.push(attribute(message, 0, room)?),
            (1, _) => return Err(BadExport::Expected("a resource's attributes")),
            _ => {}
        }
    }
    Ok(())
}

fn scope_logs<'a>(message: &'a [u8], builder: &mut Builder<'a, '_>) -> Result<(), BadExport> {
    let mut facts = ScopeFacts::default();
    let mut room = Room::new();
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(message)) => scope(message, &mut room, &mut facts)?,
            (2, Value::Bytes(_)) => {}
            (1 | 2, _) => return Err(BadExport::Expected("a scope and its records")),
            _ => {}
        }
    }
    builder.scope(&facts)?;
    for field in Fields::of(message) {
        if let (2, Value::Bytes(message)) = field? {
            builder.check_count()?;
            builder.record(&log_record(message)?)?;
        }
    }
    Ok(())
}

fn scope<'a>(
    message: &'a [u8],
    room: &mut Room,
    facts: &mut ScopeFacts<'a>,
) -> Result<(), BadExport> {
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(name)) => facts.name = name,
            (2, Value::Bytes(version)) => facts.version = version,
            (3, Value::Bytes(message)) => {
                facts.attributes.push(attribute(message, 0, room)?);
            }
            (4, Value::Number(count)) => facts.dropped_attributes = low(count),
            (1..=4, _) => return Err(BadExport::Expected("a scope's facts")),
            _ => {}
        }
    }
    Ok(())
}

fn log_record(message: &[u8]) -> Result<LogRecord<'_>, BadExport> {
    let mut record = LogRecord::default();
    let mut room = Room::new();
    for field in Fields::of(message) {
        match field? {
            (1, Value::Fixed64(ns)) => record.stamp_ns = ns,
            (2, Value::Number(number)) => record.severity_number = low(number).cast_signed(),
            (3, Value::Bytes(text)) => record.severity_text = text,
            (5, Value::Bytes(message)) => any(message, 0, &mut room, &mut record.body)?,
            (6, Value::Bytes(message)) => {
                record.attributes.push(attribute(message, 0, &mut room)?);
            }
            (7, Value::Number(count)) => record.dropped_attributes = low(count),
            (8, Value::Fixed32(flags)) => record.flags = flags,
            (9, Value::Bytes(id)) => record.trace_id = identity(id, "a trace id of 16 bytes")?,
            (10, Value::Bytes(id)) => record.span_id = identity(id, "a span id of 8 bytes")?,
            (11, Value::Fixed64(ns)) => record.observed_ns = ns,
            (12, Value::Bytes(name)) => record.event_name = name,
            (1..=3 | 5..=12, _) => return Err(BadExport::Expected("a log record's fields")),
            _ => {}
        }
    }
    Ok(record)
}

/// Of a number of 32 bits that came with more, only those count.
#[expect(clippy::cast_possible_truncation, reason = "that is how protobuf reads them")]
fn low(number: u64) -> u32 {
    number as u32
}

fn identity<const N: usize>(id: &[u8], expected: &'static str) -> Result<[u8; N], BadExport> {
    if id.is_empty() {
        Ok([0; N])
    } else {
        id.try_into().map_err(|_| BadExport::Expected(expected))
    }
}

fn attribute<'a>(
    message: &'a [u8],
    depth: usize,
    room: &mut Room,
) -> Result<Attribute<'a>, BadExport> {
    room.take()?;
    let mut attribute = Attribute::default();
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(name)) => attribute.name = name,
            (2, Value::Bytes(message)) => any(message, depth, room, &mut attribute.value)?,
            (1 | 2, _) => return Err(BadExport::Expected("an attribute's name and value")),
            _ => {}
        }
    }
    Ok(attribute)
}

/// Reads a value that stands in `depth` others; of several, the last counts.
fn any<'a>(
    message: &'a [u8],
    depth: usize,
    room: &mut Room,
    value: &mut Any<'a>,
) -> Result<(), BadExport> {
    for field in Fields::of(message) {
        *value = match field? {
            (1, Value::Bytes(text)) => Any::Text(text),
            (2, Value::Number(number)) => Any::Truth(number != 0),
            (3, Value::Number(number)) => Any::Integer(number.cast_signed()),
            (4, Value::Fixed64(bits)) => Any::Float(f64::from_bits(bits)),
            (5, Value::Bytes(message)) => Any::List(list(message, depth + 1, room)?),
            (6, Value::Bytes(message)) => Any::Map(map(message, depth + 1, room)?),
            (7, Value::Bytes(bytes)) => Any::Bytes(bytes.into()),
            (1..=7, _) => return Err(BadExport::Expected("a value of its type")),
            _ => continue,
        };
    }
    Ok(())
}

fn list<'a>(message: &'a [u8], depth: usize, room: &mut Room) -> Result<Vec<Any<'a>>, BadExport> {
    if depth > DEPTH_MAX {
        return Err(BadExport::Deep);
    }
    let mut values = Vec::new();
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(message)) => {
                room.take()?;
                let mut value = Any::Empty;
                any(message, depth, room, &mut value)?;
                values.push(value);
            }
            (1, _) => return Err(BadExport::Expected("a list's values")),
            _ => {}
        }
    }
    Ok(values)
}

fn map<'a>(
    message: &'a [u8],
    depth: usize,
    room: &mut Room,
) -> Result<Vec<Attribute<'a>>, BadExport> {
    if depth > DEPTH_MAX {
        return Err(BadExport::Deep);
    }
    let mut attributes = Vec::new();
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(message)) => attributes.push(attribute(message, depth, room)?),
            (1, _) => return Err(BadExport::Expected("a map's attributes")),
            _ => {}
        }
    }
    Ok(attributes)
}
