//! What a push that was read is answered: as Loki does, or as a fault will have it.

use super::receive::{Answer, Refusal, Treatment};
use super::wire::Wire;
use super::{Fault, Shared, json};
use http_body_util::channel::Channel;
use http_body_util::{Either, Full};
use hyper::body::Bytes;
use hyper::header::{
    CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use hyper::{Response, StatusCode};
use std::borrow::Cow;
use std::io::{Read, Write};
use std::time::Duration;

/// How often a slow answer gives a byte.
const SLOW_STEP: Duration = Duration::from_millis(50);
/// Neither HTTP nor anything else.
const GARBAGE: &[u8] = b"\x16\x03\x01 garbage\r\n\r\n";

/// Whole, or slow.
pub type Body = Either<Full<Bytes>, Channel<Bytes>>;

/// A push that was read in full.
pub struct Pushed<'a> {
    pub headers: &'a HeaderMap,
    pub tenant: &'a str,
    pub body: &'a [u8],
    /// Since 1970.
    pub received: Duration,
}

pub enum Outcome {
    Response(Response<Body>),
    /// The connection's task does it.
    Wire(Wire),
}

/// An answer before it is hyper's, or bytes.
pub struct Reply {
    status: u16,
    text: Vec<u8>,
    headers: Vec<(HeaderName, String)>,
}

/// What changes an answer, whichever it is.
#[derive(Default)]
struct Changes {
    treatment: Treatment,
    gzip: bool,
    date: Option<String>,
    body_on_204: Option<String>,
    close: bool,
}

/// `faults`: what happens to this push.
pub async fn answer(faults: Vec<Fault>, push: &Pushed<'_>, shared: &Shared) -> Outcome {
    let (mut changes, mut instead) = (Changes::default(), None);
    for fault in faults {
        match fault {
            Fault::Delay(delay) => {
                shared.store().stats.faults.delayed += 1;
                tokio::time::sleep(delay).await;
            }
            Fault::Masked => changes.treatment.masked = true,
            Fault::Partial { one_of } => changes.treatment.partial = Some(one_of.max(1)),
            Fault::Refuse { needle, status, text, rest_stored } => {
                changes.treatment.refusals.push(Refusal { needle, status, text, rest_stored });
            }
            Fault::Gzip => changes.gzip = true,
            Fault::Date(date) => changes.date = Some(date),
            Fault::BodyOn204(text) => changes.body_on_204 = Some(text),
            Fault::CloseIdle => changes.close = true,
            // It happens before a push is read.
            Fault::CloseOnRequest { .. } => {}
            fault => {
                instead.get_or_insert(fault);
            }
        }
    }
    let Some(fault) = instead else {
        let answer = judge(push, shared, &changes.treatment);
        return changes.finish(answer.into(), shared);
    };
    match instead_of(fault, push, shared, &changes.treatment) {
        Instead::Reply(reply) => changes.finish(reply, shared),
        Instead::Slow(time) => Outcome::Response(slow(time)),
        Instead::Wire(wire) => Outcome::Wire(wire),
    }
}

enum Instead {
    Reply(Reply),
    Slow(Duration),
    Wire(Wire),
}

/// A fault that is an answer, or none at all.
fn instead_of(fault: Fault, push: &Pushed<'_>, shared: &Shared, treatment: &Treatment) -> Instead {
    let count = |add: fn(&mut super::FaultCounts)| add(&mut shared.store().stats.faults);
    match fault {
        Fault::Answer { status, text: words, retry_after } => {
            count(|faults| faults.answered += 1);
            let mut reply = text(status, &words);
            reply.headers.extend(retry_after.map(|value| (RETRY_AFTER, value)));
            Instead::Reply(reply)
        }
        Fault::StoredAnswer { status, text: words } => {
            judge(push, shared, treatment);
            count(|faults| faults.answered_stored += 1);
            Instead::Reply(text(status, &words))
        }
        Fault::Tenant { tenant, status } => {
            count(|faults| faults.tenant += 1);
            Instead::Reply(text(status, &format!("not for {tenant}\n")))
        }
        Fault::Redirect { status, location } => {
            count(|faults| faults.redirected += 1);
            let mut reply = text(status, "");
            reply.headers.push((LOCATION, location));
            Instead::Reply(reply)
        }
        Fault::SlowBody(time) => {
            count(|faults| faults.slow_bodies += 1);
            count_answer(500, shared);
            Instead::Slow(time)
        }
        Fault::Endless { status } => {
            count(|faults| faults.endless += 1);
            count_answer(status, shared);
            Instead::Wire(Wire::Endless { status })
        }
        Fault::Garbage => {
            count(|faults| faults.garbage += 1);
            Instead::Wire(Wire::Bytes { bytes: GARBAGE.to_vec(), close: true })
        }
        Fault::Reset => {
            count(|faults| faults.reset += 1);
            Instead::Wire(Wire::Reset)
        }
        Fault::LostAnswer => {
            judge(push, shared, treatment);
            count(|faults| faults.answers_lost += 1);
            Instead::Wire(Wire::Reset)
        }
        // The others change an answer, and were taken out before.
        _ => Instead::Reply(judge(push, shared, treatment).into()),
    }
}

impl Changes {
    fn finish(self, mut reply: Reply, shared: &Shared) -> Outcome {
        count_answer(reply.status, shared);
        let mut store = shared.store();
        let clock_ahead_ns = store.clock_ahead_ns;
        let faults = &mut store.stats.faults;
        let mut raw = self.close;
        if let Some(words) = self.body_on_204.filter(|_| reply.status == 204) {
            faults.bodies_on_204 += 1;
            reply.text = words.into_bytes();
            raw = true;
        }
        if self.gzip && !reply.text.is_empty() {
            faults.gzipped += 1;
            reply.text = gzip(&reply.text);
            reply.headers.push((CONTENT_ENCODING, "gzip".into()));
        }
        if let Some(date) = self.date {
            faults.dated += 1;
            reply.headers.push((DATE, date));
        } else if clock_ahead_ns != 0 || raw {
            // Else it is hyper's.
            let now_ns = crate::measure::now_ns().saturating_add(clock_ahead_ns);
            reply.headers.push((DATE, http_date(now_ns)));
        }
        faults.closed_idle += u64::from(self.close);
        if raw {
            Outcome::Wire(Wire::Bytes { bytes: reply.into_bytes(), close: self.close })
        } else {
            Outcome::Response(reply.into_response())
        }
    }
}

fn count_answer(status: u16, shared: &Shared) {
    *shared.store().stats.answers.entry(status).or_default() += 1;
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).and_then(|()| encoder.finish()).expect("a Vec takes all")
}

fn http_date(ns: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(ns))
        .expect("64 bits of nanoseconds are within the years that jiff knows");
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// A 500 whose text takes so long.
fn slow(time: Duration) -> Response<Body> {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        let until = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < until {
            tokio::time::sleep(SLOW_STEP).await;
            // The client has had enough.
            if sender.send_data(Bytes::from_static(b"x")).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Either::Right(body));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// What Loki would do and say.
fn judge(push: &Pushed<'_>, shared: &Shared, treatment: &Treatment) -> Answer {
    {
        let faults = &mut shared.store().stats.faults;
        faults.masked += u64::from(treatment.masked);
        faults.partial += u64::from(treatment.partial.is_some());
    }
    let value = |name: HeaderName| push.headers.get(name).and_then(|value| value.to_str().ok());
    let Pushed { tenant, body, received, .. } = *push;
    if shared.auth && tenant.is_empty() {
        return Answer::new(401, "no org id\n");
    }
    let Some(content_type) = value(CONTENT_TYPE).filter(|v| !v.is_empty()) else {
        return Answer::new(400, "mime: no media type\n");
    };
    let body = match value(CONTENT_ENCODING).unwrap_or("") {
        "" | "snappy" => Cow::Borrowed(body),
        "gzip" => match inflate(flate2::read::MultiGzDecoder::new(body), shared) {
            Ok(body) => Cow::Owned(body),
            Err(answer) => return answer,
        },
        "deflate" => match inflate(flate2::read::DeflateDecoder::new(body), shared) {
            Ok(body) => Cow::Owned(body),
            Err(answer) => return answer,
        },
        other => {
            return Answer::new(400, format!("Content-Encoding \"{other}\" not supported\n"));
        }
    };
    if content_type.split(';').next().is_none_or(|kind| kind.trim() != "application/json") {
        return shared.store().push(tenant, &body, received, treatment);
    }
    match json::to_protobuf(&body) {
        Ok(decoded) => shared.store().push_decoded(tenant, &decoded, received, treatment),
        Err(error) => Answer::new(400, format!("{error}\n")),
    }
}

fn inflate(reader: impl Read, shared: &Shared) -> Result<Vec<u8>, Answer> {
    let max = shared.store().limits.body_bytes_max;
    let mut body = Vec::new();
    match reader.take(max as u64 + 1).read_to_end(&mut body) {
        Err(error) => Err(Answer::new(400, format!("{error}\n"))),
        Ok(read) if read > max => {
            Err(Answer::new(413, format!("request body too large: limit: {max} bytes\n")))
        }
        Ok(_) => Ok(body),
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Reply {
        text(answer.status, &answer.text)
    }
}

pub fn text(status: u16, words: &str) -> Reply {
    let mut headers = Vec::new();
    if status != 204 {
        headers.push((CONTENT_TYPE, "text/plain; charset=utf-8".into()));
    }
    Reply { status, text: words.as_bytes().to_vec(), headers }
}

impl Reply {
    fn code(&self) -> StatusCode {
        StatusCode::from_u16(self.status)
            .unwrap_or_else(|_| panic!("a status has three digits, found {}", self.status))
    }

    pub fn into_response(self) -> Response<Body> {
        let code = self.code();
        let mut response = Response::new(Either::Left(Full::new(self.text.into())));
        *response.status_mut() = code;
        for (name, value) in self.headers {
            let value = HeaderValue::from_str(&value);
            response.headers_mut().insert(name, value.expect("a header's value is on one line"));
        }
        response
    }

    /// As hyper would write it, but with a body whatever the status is.
    fn into_bytes(self) -> Vec<u8> {
        let code = self.code();
        let mut head = format!("HTTP/1.1 {code}\r\n");
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.status != 204 || !self.text.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", self.text.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend(self.text);
        bytes
    }
}
