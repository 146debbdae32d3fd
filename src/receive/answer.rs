//! What requests are answered with: each endpoint in the form that its clients know.

use super::admit::Refused;
use super::body::BadBody;
use super::endpoint::Endpoint;
use super::json::BadJson;
use super::lines;
use super::logs::BadLog;
use super::otlp::{self, BadExport};
use super::push::BadPush;
use crate::guard::Denied;
use crate::intake::NotStored;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use io::http::{BodyError, Full};
use std::time::Duration;

/// After which a client may try again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Of an answer after which nothing follows on its connection.
pub const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Why a request is not answered with success.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Body(#[from] BadBody),
    #[error("{0}")]
    Push(#[from] BadPush),
    #[error("{0}")]
    Json(#[from] BadJson),
    #[error("{0}")]
    Log(#[from] BadLog),
    #[error("{0}")]
    Export(#[from] BadExport),
    #[error("expected Content-Type application/x-protobuf or application/json")]
    MediaType,
    #[error("{0}")]
    Query(#[from] lines::BadQuery),
    #[error("error at least one valid stream is required for ingestion")]
    NoStreams,
    /// The others were stored.
    #[error("{0}")]
    Refused(Refused),
    #[error("{0}")]
    NotStored(#[from] NotStored),
    #[error("{0}")]
    Tenant(String),
    #[error("mime: no media type")]
    NoContentType,
    #[error("not found; there is POST {}", Endpoint::ALL.map(Endpoint::path).join(", POST "))]
    NoEndpoint,
    #[error("expected POST")]
    Method,
    #[error("{0}")]
    Denied(#[from] Denied),
    #[error("too many connections; try again later")]
    Crowded,
    #[error("ingestion rate limit exceeded; try again after {0:.1?}")]
    Rate(Duration),
}

impl Error {
    pub fn status(&self) -> StatusCode {
        match self {
            Error::Body(
                BadBody::TooLarge { .. }
                | BadBody::Ratio { .. }
                | BadBody::Read(BodyError::TooLarge { .. }),
            )
            | Error::Json(BadJson::Large { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Export(bad) if bad.is_size() => StatusCode::PAYLOAD_TOO_LARGE,
            Error::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Error::Body(BadBody::Read(BodyError::Slow)) => StatusCode::REQUEST_TIMEOUT,
            Error::Body(BadBody::Read(BodyError::Crowded))
            | Error::NotStored(_)
            | Error::Crowded => StatusCode::SERVICE_UNAVAILABLE,
            Error::Denied(denied) => denied.status(),
            Error::Rate(_) => StatusCode::TOO_MANY_REQUESTS,
            Error::NoStreams => StatusCode::UNPROCESSABLE_ENTITY,
            Error::NoEndpoint => StatusCode::NOT_FOUND,
            Error::Method => StatusCode::METHOD_NOT_ALLOWED,
            Error::Body(_)
            | Error::Push(_)
            | Error::Json(_)
            | Error::Log(_)
            | Error::Export(_)
            | Error::Query(_)
            | Error::Refused(_)
            | Error::Tenant(_)
            | Error::NoContentType => StatusCode::BAD_REQUEST,
        }
    }

    /// Whether the rest of the request may still be on its way: what follows is no request.
    fn is_half_read(&self) -> bool {
        matches!(self, Error::Body(bad) if !matches!(bad, BadBody::Encoding(_)))
    }
}

/// Everything was stored.
pub fn accepted(endpoint: Endpoint, kind: otlp::Kind, lines: u64) -> Response<Full> {
    match endpoint {
        Endpoint::Otlp => respond(StatusCode::OK, kind.media_type(), otlp::answer::success(kind)),
        Endpoint::Push | Endpoint::Raw => {
            let mut response = Response::new(Full::new(""));
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Endpoint::Logs => {
            let what = if lines == 1 { "log entry" } else { "log entries" };
            let text = format!("{{\"status\":\"accepted\",\"message\":\"{lines} {what}\"}}\n");
            respond(StatusCode::ACCEPTED, JSON, text)
        }
    }
}

/// Nothing was stored, or not everything.
pub fn refused(endpoint: Endpoint, kind: otlp::Kind, error: &Error) -> Response<Full> {
    let status = match error.status() {
        // Its clients try again for this one only.
        StatusCode::REQUEST_TIMEOUT if endpoint == Endpoint::Otlp => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        status => status,
    };
    let mut response = match endpoint {
        Endpoint::Otlp => {
            let body = otlp::answer::failure(kind, status, &error.to_string());
            respond(status, kind.media_type(), body)
        }
        Endpoint::Push | Endpoint::Raw => respond(status, TEXT, format!("{error}\n")),
        Endpoint::Logs => {
            let body = serde_json::json!({
                "error": error.to_string(),
                "code": status.as_u16(),
                "timestamp": jiff::Timestamp::now().to_string(),
            });
            respond(status, JSON, format!("{body}\n"))
        }
    };
    let after = match error {
        Error::Rate(wait) => Some(HeaderValue::from(wait.as_secs() + 1)),
        _ => (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER),
    };
    if let Error::Denied(denied) = error {
        denied.mark(&mut response);
    }
    if let Some(after) = after {
        response.headers_mut().insert(header::RETRY_AFTER, after);
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    if error.is_half_read() {
        response.headers_mut().insert(header::CONNECTION, CLOSE);
    }
    response
}

pub fn respond(
    status: StatusCode,
    kind: HeaderValue,
    body: impl Into<hyper::body::Bytes>,
) -> Response<Full> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
