//! What an export becomes: streams, their lines, and the metadata of each in its stored form.

use super::names::{
    SERVICE_ATTRIBUTE, SERVICE_LABEL, SERVICE_LABELS, SERVICE_UNKNOWN, is_label, normalise,
};
use super::value::{Attribute, Value};
use super::{BadExport, Limits};
use crate::batch::put_metadata;
use crate::receive::admit::{Door, LABELS_BYTES_MAX, Measure};
use crate::receive::push::BadPush;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

/// An export that was read to its end.
#[derive(Debug, Default)]
pub struct Export<'a> {
    pub streams: Vec<Stream>,
    scopes: Vec<Scope>,
    entries: Vec<Entry<'a>>,
    /// All metadata, encoded.
    made: Vec<u8>,
}

/// A resource with its records.
#[derive(Debug)]
pub struct Stream {
    pub labels: BTreeMap<String, String>,
    metadata: Part,
    scopes: Range<usize>,
}

#[derive(Debug)]
struct Scope {
    metadata: Part,
    entries: Range<usize>,
}

#[derive(Debug)]
struct Entry<'a> {
    stamp_ns: Option<i64>,
    line: Cow<'a, [u8]>,
    metadata: Part,
}

/// Some metadata: its size as Loki counts it, and where it stands; nowhere if no entry may have so
/// much.
#[derive(Debug, Default)]
struct Part {
    bytes: usize,
    pairs: usize,
    made: Range<usize>,
}

/// An entry as it will be stored if the door lets it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'e> {
    /// None where the client gave none.
    pub stamp_ns: Option<i64>,
    pub line: &'e [u8],
    /// Its own, its resource's and its scope's.
    pub metadata: [&'e [u8]; 3],
    /// But for its timestamp.
    pub measure: Measure,
}

impl Export<'_> {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many records a stream has.
    #[must_use]
    pub fn count(&self, stream: &Stream) -> usize {
        self.scopes[stream.scopes.clone()].iter().map(|scope| scope.entries.len()).sum()
    }

    pub fn records<'e>(&'e self, stream: &'e Stream) -> impl Iterator<Item = Record<'e>> {
        let scopes = &self.scopes[stream.scopes.clone()];
        scopes.iter().flat_map(move |scope| {
            let parts = [&stream.metadata, &scope.metadata];
            self.entries[scope.entries.clone()].iter().map(move |entry| Record {
                stamp_ns: entry.stamp_ns,
                line: &entry.line,
                metadata: [&entry.metadata, parts[0], parts[1]]
                    .map(|part| &self.made[part.made.clone()]),
                measure: measure(&entry.line, [&entry.metadata, parts[0], parts[1]]),
            })
        })
    }
}

fn measure(line: &[u8], parts: [&Part; 3]) -> Measure {
    Measure {
        stamp_ns: 0,
        line_bytes: line.len(),
        metadata_bytes: parts.iter().map(|part| part.bytes).sum(),
        metadata_pairs: parts.iter().map(|part| part.pairs).sum(),
    }
}

/// What a scope has beside its records.
#[derive(Debug, Default)]
pub struct ScopeFacts<'a> {
    pub name: &'a [u8],
    pub version: &'a [u8],
    pub attributes: Vec<Attribute<'a>>,
    pub dropped_attributes: u32,
}

/// A log record as it came; what is missing is empty, or 0.
#[derive(Debug, Default)]
pub struct LogRecord<'a> {
    pub stamp_ns: u64,
    pub observed_ns: u64,
    pub severity_number: i32,
    pub severity_text: &'a [u8],
    pub body: Value<'a>,
    pub attributes: Vec<Attribute<'a>>,
    pub dropped_attributes: u32,
    pub flags: u32,
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub event_name: &'a [u8],
}

/// Takes a name and a value.
type Put<'p, Builder> = dyn FnMut(&mut Builder, String, &[u8]) -> Result<(), BadExport> + 'p;

const EVENT_NAME: &str = "event_name";
const HEX: &[u8; 16] = b"0123456789abcdef";
/// What of a name that is none is repeated.
const NAME_SHOWN_BYTES_MAX: usize = 100;

/// Takes in resources, their scopes and the scopes' records, in this order.
pub struct Builder<'a, 'd> {
    limits: Limits,
    door: &'d Door<'d>,
    export: Export<'a>,
    /// Of what was made.
    bytes: usize,
}

impl<'a, 'd> Builder<'a, 'd> {
    pub fn new(limits: Limits, door: &'d Door<'d>) -> Builder<'a, 'd> {
        Builder { limits, door, export: Export::default(), bytes: 0 }
    }

    pub fn done(mut self) -> Export<'a> {
        self.close_stream();
        self.export
    }

    /// Begins a stream.
    pub fn resource(&mut self, attributes: &[Attribute<'_>]) -> Result<(), BadExport> {
        self.close_stream();
        let (found, max) = (self.export.streams.len() + 1, self.limits.size.streams_max);
        if found > max {
            let what = "too many resources in one request";
            return Err(BadPush::TooMany { what, found, max }.into());
        }
        let mut labels = BTreeMap::new();
        let mut label_bytes = 0;
        let mut metadata = self.part();
        for attribute in attributes {
            if is_label(attribute.name) {
                self.flatten("", attribute, &mut |builder, name, value| {
                    let value = String::from_utf8_lossy(value);
                    builder.spend(name.len() + value.len())?;
                    label_bytes += name.len() + value.len();
                    if label_bytes > LABELS_BYTES_MAX {
                        return Err(BadExport::Labels);
                    }
                    labels.insert(name, value.into_owned());
                    Ok(())
                })?;
            } else {
                self.attribute(attribute, &mut metadata)?;
            }
        }
        let metadata = self.closed(metadata);
        let named = attributes
            .iter()
            .find(|attribute| attribute.name == SERVICE_ATTRIBUTE.as_bytes())
            .is_some_and(|attribute| !attribute.value.text().is_empty());
        if !named {
            let mut found = SERVICE_LABELS.iter().filter_map(|name| labels.get(*name));
            let service = found.find(|value| !value.is_empty());
            let service = service.map_or(SERVICE_UNKNOWN, String::as_str).to_owned();
            labels.insert(SERVICE_LABEL.to_owned(), service);
        }
        let at = self.export.scopes.len();
        self.export.streams.push(Stream { labels, metadata, scopes: at..at });
        Ok(())
    }

    /// Begins a scope of the stream.
    pub fn scope(&mut self, scope: &ScopeFacts<'_>) -> Result<(), BadExport> {
        self.close_scope();
        let mut metadata = self.part();
        for attribute in &scope.attributes {
            self.attribute(attribute, &mut metadata)?;
        }
        self.text("scope_name", scope.name, &mut metadata)?;
        self.text("scope_version", scope.version, &mut metadata)?;
        let dropped = scope.dropped_attributes;
        self.number("scope_dropped_attributes_count", dropped.into(), &mut metadata)?;
        let metadata = self.closed(metadata);
        let at = self.export.entries.len();
        self.export.scopes.push(Scope { metadata, entries: at..at });
        if let Some(stream) = self.export.streams.last_mut() {
            stream.scopes.end = self.export.scopes.len();
        }
        Ok(())
    }

    /// Whether one more record may come, which is asked before it is read.
    pub fn check_count(&self) -> Result<(), BadExport> {
        let max = self.limits.size.entries_max;
        if self.export.entries.len() < max {
            return Ok(());
        }
        let what = "too many log records in one request";
        Err(BadPush::TooMany { what, found: max + 1, max }.into())
    }

    /// Adds a record to the scope.
    pub fn record(&mut self, record: &LogRecord<'a>) -> Result<(), BadExport> {
        let mut own = self.part();
        for attribute in &record.attributes {
            // The field says it again, and more surely.
            let twice = attribute.name == EVENT_NAME.as_bytes() && !record.event_name.is_empty();
            if !twice {
                self.attribute(attribute, &mut own)?;
            }
        }
        // Both are unsigned on the wire, and signed to Loki.
        let [stamp_ns, observed_ns] = [record.stamp_ns, record.observed_ns].map(u64::cast_signed);
        if stamp_ns != 0 {
            self.number("observed_timestamp", observed_ns, &mut own)?;
        }
        self.number("severity_number", record.severity_number.into(), &mut own)?;
        self.text("severity_text", record.severity_text, &mut own)?;
        self.number("dropped_attributes_count", record.dropped_attributes.into(), &mut own)?;
        self.number("flags", record.flags.into(), &mut own)?;
        self.id("trace_id", &record.trace_id, &mut own)?;
        self.id("span_id", &record.span_id, &mut own)?;
        self.text(EVENT_NAME, record.event_name, &mut own)?;
        let metadata = self.closed(own);
        let line = record.body.text();
        self.spend(line.len())?;
        if let Some(scope) = self.export.scopes.last()
            && let Some(stream) = self.export.streams.last()
            && self.door.fits(&measure(&line, [&metadata, &stream.metadata, &scope.metadata]))
        {
            self.spend(stream.metadata.made.len() + scope.metadata.made.len())?;
        }
        let stamp_ns = [stamp_ns, observed_ns].into_iter().find(|ns| *ns != 0);
        self.export.entries.push(Entry { stamp_ns, line, metadata });
        if let Some(scope) = self.export.scopes.last_mut() {
            scope.entries.end = self.export.entries.len();
        }
        Ok(())
    }

    /// A scope without records is nothing.
    fn close_scope(&mut self) {
        let Some(stream) = self.export.streams.last_mut() else { return };
        if !stream.scopes.is_empty()
            && let Some(scope) = self.export.scopes.pop_if(|scope| scope.entries.is_empty())
        {
            stream.scopes.end -= 1;
            self.export.made.truncate(scope.metadata.made.start);
        }
    }

    /// Nor is a resource without.
    fn close_stream(&mut self) {
        self.close_scope();
        if let Some(stream) = self.export.streams.pop_if(|stream| stream.scopes.is_empty()) {
            self.export.made.truncate(stream.metadata.made.start);
        }
    }

    fn part(&self) -> Part {
        let at = self.export.made.len();
        Part { made: at..at, ..Part::default() }
    }

    fn closed(&mut self, mut part: Part) -> Part {
        if !self.fits(&part) {
            self.export.made.truncate(part.made.start);
        }
        part.made.end = self.export.made.len();
        part
    }

    fn fits(&self, part: &Part) -> bool {
        let (metadata_bytes, metadata_pairs) = (part.bytes, part.pairs);
        self.door.fits(&Measure { metadata_bytes, metadata_pairs, ..Measure::default() })
    }

    /// Counts what is made, also where it is not kept: it costs time all the same.
    fn spend(&mut self, bytes: usize) -> Result<(), BadExport> {
        self.bytes += bytes;
        let max = self.limits.made_bytes_max;
        if self.bytes > max { Err(BadExport::TooLarge { max }) } else { Ok(()) }
    }

    /// Adds a pair of metadata to a part.
    fn put(&mut self, name: &str, value: &[u8], part: &mut Part) -> Result<(), BadExport> {
        let value = String::from_utf8_lossy(value);
        self.spend(name.len() + value.len())?;
        part.bytes += name.len() + value.len();
        part.pairs += 1;
        if self.fits(part) {
            put_metadata(&mut self.export.made, name, &value);
        }
        Ok(())
    }

    fn text(&mut self, name: &str, text: &[u8], part: &mut Part) -> Result<(), BadExport> {
        if text.is_empty() { Ok(()) } else { self.put(name, text, part) }
    }

    fn number(&mut self, name: &str, number: i64, part: &mut Part) -> Result<(), BadExport> {
        if number == 0 { Ok(()) } else { self.put(name, number.to_string().as_bytes(), part) }
    }

    fn id(&mut self, name: &str, id: &[u8], part: &mut Part) -> Result<(), BadExport> {
        if id.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let mut hex = String::with_capacity(2 * id.len());
        for byte in id {
            hex.extend([byte >> 4, byte & 15].map(|digit| char::from(HEX[usize::from(digit)])));
        }
        self.put(name, hex.as_bytes(), part)
    }

    fn attribute(&mut self, attribute: &Attribute<'_>, part: &mut Part) -> Result<(), BadExport> {
        self.flatten("", attribute, &mut |builder, name, value| builder.put(&name, value, part))
    }

    /// Gives `put` an attribute under its name, and those of a map under its name and theirs.
    fn flatten(
        &mut self,
        prefix: &str,
        attribute: &Attribute<'_>,
        put: &mut Put<'_, Self>,
    ) -> Result<(), BadExport> {
        let full = if prefix.is_empty() {
            Cow::Borrowed(attribute.name)
        } else {
            Cow::Owned([prefix.as_bytes(), b"_", attribute.name].concat())
        };
        let name = normalise(&full).ok_or_else(|| {
            let shown = &full[..full.len().min(NAME_SHOWN_BYTES_MAX)];
            BadExport::Name(String::from_utf8_lossy(shown).into_owned())
        })?;
        match &attribute.value {
            Value::Map(map) => {
                self.spend(name.len())?;
                map.iter().try_for_each(|inner| self.flatten(&name, inner, put))
            }
            value => put(self, name, &value.text()),
        }
    }
}
