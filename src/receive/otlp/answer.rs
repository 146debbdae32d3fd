//! What an export is answered with, in the form in which it came.

use crate::batch::put_varint;
use hyper::StatusCode;
use hyper::header::HeaderValue;

/// The two forms of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Protobuf,
    Json,
}

impl Kind {
    #[must_use]
    pub fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Kind::Protobuf => "application/x-protobuf",
            Kind::Json => "application/json",
        })
    }
}

const TAG_NUMBER: u8 = 0x08;
const TAG_TEXT: u8 = 0x12;
const TAG_PARTIAL_SUCCESS: u8 = 0x0a;

/// Everything was stored.
#[must_use]
pub fn success(kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Protobuf => Vec::new(),
        Kind::Json => b"{}".to_vec(),
    }
}

/// All but `rejected` records was stored; they are not to be sent again.
#[must_use]
pub fn partial_success(kind: Kind, rejected: u64, message: &str) -> Vec<u8> {
    match kind {
        Kind::Protobuf => {
            let partial = number_and_text(rejected, message);
            let mut out = vec![TAG_PARTIAL_SUCCESS];
            put_varint(&mut out, partial.len() as u64);
            out.extend_from_slice(&partial);
            out
        }
        Kind::Json => {
            // A number of 64 bits is a text in JSON.
            let partial = serde_json::json!({
                "rejectedLogRecords": rejected.to_string(),
                "errorMessage": message,
            });
            serde_json::json!({ "partialSuccess": partial }).to_string().into_bytes()
        }
    }
}

/// Nothing was stored: a `google.rpc.Status`, with the code of gRPC that is next to that of HTTP.
#[must_use]
pub fn failure(kind: Kind, status: StatusCode, message: &str) -> Vec<u8> {
    let code = code_of(status);
    match kind {
        Kind::Protobuf => number_and_text(code, message),
        Kind::Json => {
            serde_json::json!({ "code": code, "message": message }).to_string().into_bytes()
        }
    }
}

fn code_of(status: StatusCode) -> u64 {
    match status {
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => 12,
        StatusCode::REQUEST_TIMEOUT => 4,
        StatusCode::TOO_MANY_REQUESTS => 8,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14,
        status if status.is_client_error() => 3,
        _ => 13,
    }
}

fn number_and_text(number: u64, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if number != 0 {
        out.push(TAG_NUMBER);
        put_varint(&mut out, number);
    }
    if !text.is_empty() {
        out.push(TAG_TEXT);
        put_varint(&mut out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_encoded_in_both_forms() {
        assert_eq!(success(Kind::Protobuf), b"");
        assert_eq!(success(Kind::Json), b"{}");
        assert_eq!(
            partial_success(Kind::Protobuf, 300, "too \"old\""),
            b"\x0a\x0e\x08\xac\x02\x12\x09too \"old\""
        );
        let json = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
        assert_eq!(
            json(partial_success(Kind::Json, 300, "too \"old\"")),
            serde_json::json!({
                "partialSuccess": {"rejectedLogRecords": "300", "errorMessage": "too \"old\""}
            })
        );
        assert_eq!(failure(Kind::Protobuf, StatusCode::BAD_REQUEST, "no"), b"\x08\x03\x12\x02no");
        assert_eq!(
            json(failure(Kind::Json, StatusCode::SERVICE_UNAVAILABLE, "later")),
            serde_json::json!({"code": 14, "message": "later"})
        );
    }
}
