//! Where lines may be sent, and what their bodies are there.

use super::answer::Error;
use super::otlp;

/// Where lines may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Loki's own.
    Push,
    /// Plain lines, with their labels in the query.
    Raw,
    /// The predecessor's log entries.
    Logs,
    /// OpenTelemetry's.
    Otlp,
}

impl Endpoint {
    pub const ALL: [Endpoint; 4] = [Endpoint::Push, Endpoint::Raw, Endpoint::Logs, Endpoint::Otlp];

    #[must_use]
    pub fn of(path: &str) -> Option<Endpoint> {
        Endpoint::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }

    pub const fn path(self) -> &'static str {
        match self {
            Endpoint::Push => "/loki/api/v1/push",
            Endpoint::Raw => "/loki/api/v1/raw",
            Endpoint::Logs => "/api/v1/logs",
            Endpoint::Otlp => "/otlp/v1/logs",
        }
    }
}

/// What a body is, once it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Loki's push, a snappy block.
    Protobuf,
    Json,
    Lines,
    /// A log entry, or an array of such.
    Log,
    /// Log entries, one on each line.
    LogLines,
    Otlp(otlp::Kind),
}

impl Form {
    pub fn of(endpoint: Endpoint, content_type: Option<&str>) -> Result<Form, Error> {
        let kind = content_type.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        let is = |expected: &str| kind.eq_ignore_ascii_case(expected);
        match endpoint {
            // As Loki has it: what is not said to be JSON is protobuf.
            Endpoint::Push if kind.is_empty() => Err(Error::NoContentType),
            Endpoint::Push if is("application/json") => Ok(Form::Json),
            Endpoint::Push => Ok(Form::Protobuf),
            Endpoint::Raw => Ok(Form::Lines),
            Endpoint::Logs
                if is("application/x-ndjson")
                    || is("application/ndjson")
                    || is("application/jsonl") =>
            {
                Ok(Form::LogLines)
            }
            Endpoint::Logs => Ok(Form::Log),
            Endpoint::Otlp if is("application/x-protobuf") => Ok(Form::Otlp(otlp::Kind::Protobuf)),
            Endpoint::Otlp if is("application/json") => Ok(Form::Otlp(otlp::Kind::Json)),
            Endpoint::Otlp => Err(Error::MediaType),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_what_its_endpoint_and_its_type_say() {
        for (endpoint, kind, expected) in [
            (Endpoint::Push, Some("application/json; charset=utf-8"), Some(Form::Json)),
            (Endpoint::Push, Some("application/x-protobuf"), Some(Form::Protobuf)),
            (Endpoint::Push, Some("text/plain"), Some(Form::Protobuf)),
            (Endpoint::Push, None, None),
            (Endpoint::Raw, None, Some(Form::Lines)),
            (Endpoint::Logs, None, Some(Form::Log)),
            (Endpoint::Logs, Some("Application/X-NDJSON"), Some(Form::LogLines)),
            (Endpoint::Otlp, Some("application/json"), Some(Form::Otlp(otlp::Kind::Json))),
            (Endpoint::Otlp, Some("text/plain"), None),
        ] {
            assert_eq!(Form::of(endpoint, kind).ok(), expected, "{endpoint:?} {kind:?}");
        }
        for endpoint in Endpoint::ALL {
            assert_eq!(Endpoint::of(endpoint.path()), Some(endpoint));
        }
    }
}
