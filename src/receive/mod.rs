//! Lines that are pushed: from a request to durable and answered, all on the shard that accepted it.
//!
//! A request's way: its body is read within limits ([`io::http`]) and decoded ([`body`]), read as what
//! its endpoint takes ([`push`], [`json`], [`lines`]), checked as Loki would check it ([`admit`]), put
//! where the next commit takes it from ([`crate::intake`]), and answered when it stands on the disk.

pub mod admit;
pub mod body;
pub mod json;
pub mod lines;
pub mod logs;
pub mod otlp;
pub mod push;
pub mod wire;

mod arrival;

use crate::block::Block;
use crate::intake::{Intake, NotStored, Ticket};
use admit::{Door, Refused};
use arrival::Arrival;
use body::{BadBody, Encoding};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use io::http::{self, BodyError, BodyMemory, Connection, Full};
use json::BadJson;
use logs::BadLog;
use perf::metrics;
use push::BadPush;
use shards::rate::Rates;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub struct Options {
    /// Added to every stream, in place of a client's of the same name.
    pub labels: Vec<(String, String)>,
    /// Of requests that name none.
    pub tenant: String,
    /// Whether a request may name its tenant.
    pub tenant_header: bool,
    /// Whether an answer waits for the disk.
    pub ack: Ack,
    pub limits: admit::Limits,
    pub size: push::Size,
    pub body: body::Limits,
    /// As it comes.
    pub body_bytes_max: usize,
    /// Of all that are being read.
    pub bodies_bytes_max: usize,
    pub json_depth_max: usize,
    /// Different streams in an hour; those beyond go into one.
    pub streams_max: usize,
    /// A larger push is cut into several.
    pub push_bytes_max: usize,
    /// How long the disk is waited for.
    pub answer_time_max: Duration,
    /// Which shard of how many: no two give the same timestamp.
    pub shard: u32,
    pub shards: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// When the lines stand on the disk.
    Durable,
    /// When they were read: a crash loses them.
    Memory,
}

/// Loki's limit, which its clients know.
const TENANT_BYTES_MAX: usize = 150;
const TENANT_SIGNS: &[u8] = b"!-_.*'()";
/// After which a client may try again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What one shard makes of requests.
pub struct Receiver {
    options: Options,
    intake: Rc<Intake>,
    rates: Arc<Rates>,
    memory: Rc<BodyMemory>,
    streams: RefCell<arrival::Streams>,
    /// The timestamp given last.
    last_ns: Cell<i64>,
    counts: metrics::Shard,
    requests: metrics::Receive,
}

/// Why a request is not answered with success.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Read(#[from] BodyError),
    #[error("{0}")]
    Body(#[from] BadBody),
    #[error("{0}")]
    Push(#[from] BadPush),
    #[error("{0}")]
    Json(#[from] BadJson),
    #[error("{0}")]
    Log(#[from] BadLog),
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
    #[error("not found; there is POST {}", ENDPOINTS.join(", POST "))]
    NoEndpoint,
    #[error("expected POST")]
    Method,
    #[error("too many connections; try again later")]
    Crowded,
    #[error("ingestion rate limit exceeded; try again after {0:.1?}")]
    Rate(Duration),
}

const PUSH: &str = "/loki/api/v1/push";
const RAW: &str = "/loki/api/v1/raw";
const LOGS: &str = "/api/v1/logs";
/// Where lines may be sent.
pub const ENDPOINTS: [&str; 3] = [PUSH, RAW, LOGS];

impl Error {
    fn status(&self) -> StatusCode {
        match self {
            Error::Read(BodyError::TooLarge { .. })
            | Error::Body(BadBody::TooLarge { .. } | BadBody::Ratio { .. }) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Error::Read(BodyError::Slow) => StatusCode::REQUEST_TIMEOUT,
            Error::Read(BodyError::Crowded) | Error::NotStored(_) | Error::Crowded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Rate(_) => StatusCode::TOO_MANY_REQUESTS,
            Error::NoStreams => StatusCode::UNPROCESSABLE_ENTITY,
            Error::NoEndpoint => StatusCode::NOT_FOUND,
            Error::Method => StatusCode::METHOD_NOT_ALLOWED,
            Error::Read(BodyError::Broken(_))
            | Error::Body(_)
            | Error::Push(_)
            | Error::Json(_)
            | Error::Log(_)
            | Error::Query(_)
            | Error::Refused(_)
            | Error::Tenant(_)
            | Error::NoContentType => StatusCode::BAD_REQUEST,
        }
    }

    /// Whether the rest of the request is still on its way.
    fn is_half_read(&self) -> bool {
        matches!(self, Error::Read(_))
    }
}

/// What a request brought, all of it taken in.
struct Taken {
    lines: u64,
    bytes: u64,
    refused: Refused,
    /// None where nothing was left to store.
    ticket: Option<Ticket>,
}

impl Receiver {
    #[must_use]
    pub fn new(
        options: Options,
        intake: Rc<Intake>,
        rates: Arc<Rates>,
        counts: metrics::Shard,
        requests: metrics::Receive,
    ) -> Receiver {
        Receiver {
            memory: Rc::new(BodyMemory::new(options.bodies_bytes_max)),
            streams: RefCell::new(arrival::Streams::new(options.streams_max)),
            last_ns: Cell::new(0),
            options,
            intake,
            rates,
            counts,
            requests,
        }
    }

    /// Whether a path is for lines.
    #[must_use]
    pub fn knows(path: &str) -> bool {
        ENDPOINTS.contains(&path)
    }

    /// Answers a request for one of [`ENDPOINTS`].
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<Full> {
        let path = match request.uri().path() {
            PUSH => PUSH,
            RAW => RAW,
            _ => LOGS,
        };
        let outcome = self.receive(path, request, connection).await;
        let response = match outcome {
            Ok(lines) if path == LOGS => {
                let text = format!(
                    "{{\"status\":\"accepted\",\"message\":\"{lines} {}\"}}\n",
                    if lines == 1 { "log entry" } else { "log entries" }
                );
                respond(StatusCode::ACCEPTED, JSON, text)
            }
            Ok(_) => {
                let mut response = Response::new(Full::new(""));
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
            Err(error) => {
                let status = error.status();
                let mut response = if path == LOGS {
                    let time = jiff::Timestamp::now();
                    let body = serde_json::json!({
                        "error": error.to_string(),
                        "code": status.as_u16(),
                        "timestamp": time.to_string(),
                    });
                    respond(status, JSON, format!("{body}\n"))
                } else {
                    respond(status, TEXT, format!("{error}\n"))
                };
                let after = match error {
                    Error::Rate(wait) => Some(HeaderValue::from(wait.as_secs() + 1)),
                    _ => (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER),
                };
                if let Some(after) = after {
                    response.headers_mut().insert(header::RETRY_AFTER, after);
                }
                if error.is_half_read() {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                response
            }
        };
        self.requests.request(path, response.status().as_u16());
        response
    }

    async fn receive(
        &self,
        path: &'static str,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Result<u64, Error> {
        if connection.crowded {
            return Err(Error::Crowded);
        }
        if request.method() != Method::POST {
            return Err(Error::Method);
        }
        self.intake.check()?;
        let deadline = Instant::now() + self.options.answer_time_max;
        let (head, incoming) = request.into_parts();
        let tenant = self.tenant(&head.headers)?;
        let query = lines::Query::read(head.uri.query().unwrap_or_default(), path == RAW)?;
        let encoding = Encoding::of(text_of(&head.headers, header::CONTENT_ENCODING))?;
        let kind = text_of(&head.headers, header::CONTENT_TYPE)
            .map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
        let mut granted =
            http::read_body(connection, incoming, self.options.body_bytes_max, &self.memory)
                .await?;
        let body = granted.take();
        self.rates.take(&connection.peer, body.len() as u64).map_err(Error::Rate)?;
        self.intake.room(deadline).await?;
        let taken = match path {
            PUSH => {
                let kind = kind.filter(|kind| !kind.is_empty()).ok_or(Error::NoContentType)?;
                match kind.as_str() {
                    "application/json" => self.take_json(&tenant, encoding, body)?,
                    _ => self.take_push(&tenant, encoding, body)?,
                }
            }
            RAW => self.take_lines(&tenant, encoding, body, &query)?,
            _ => {
                let many = matches!(
                    kind.as_deref(),
                    Some("application/x-ndjson" | "application/ndjson" | "application/jsonl")
                );
                self.take_logs(&tenant, encoding, body, many)?
            }
        };
        drop(granted);
        self.counts.lines.inc_by(taken.lines);
        self.counts.bytes.inc_by(taken.bytes);
        for (reason, entries) in &taken.refused.reasons {
            self.requests.refused(reason, *entries);
        }
        let ack = query.ack.unwrap_or(self.options.ack);
        if let (Some(ticket), Ack::Durable) = (&taken.ticket, ack) {
            self.intake.durable(ticket, deadline).await?;
        }
        if taken.refused.is_empty() { Ok(taken.lines) } else { Err(Error::Refused(taken.refused)) }
    }

    fn tenant(&self, headers: &HeaderMap) -> Result<String, Error> {
        let Some(named) = headers.get("x-scope-orgid").filter(|_| self.options.tenant_header)
        else {
            return Ok(self.options.tenant.clone());
        };
        let is_sign = |byte: &u8| byte.is_ascii_alphanumeric() || TENANT_SIGNS.contains(byte);
        let bytes = named.as_bytes();
        if bytes.is_empty() || bytes.len() > TENANT_BYTES_MAX || !bytes.iter().all(is_sign) {
            return Err(Error::Tenant(format!(
                "X-Scope-OrgID: expected 1 to {TENANT_BYTES_MAX} letters, digits and {}",
                String::from_utf8_lossy(TENANT_SIGNS)
            )));
        }
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn door(&self) -> Door<'_> {
        Door::new(&self.options.limits, perf::clock::unix_ns())
    }

    /// Loki's own push: kept as it came where nothing has to be changed.
    fn take_push(&self, tenant: &str, encoding: Encoding, body: Vec<u8>) -> Result<Taken, Error> {
        // Whatever it was wrapped in, it is a snappy block.
        let body = match encoding {
            Encoding::Identity | Encoding::Snappy => body,
            other => body::decode(other, body, self.options.body)?,
        };
        let raw = body::unsnap(&body, self.options.body)?;
        let door = self.door();
        let push = push::Push::read(&raw, self.options.size, &door)?;
        if push.streams.is_empty() {
            return Err(Error::NoStreams);
        }
        let passes = push.plain
            && push.entries > 0
            && self.options.labels.is_empty()
            && raw.len() <= self.options.push_bytes_max
            && push.streams.iter().all(|stream| {
                stream.passes
                    && door.labels(stream.labels, &stream.pairs).is_ok()
                    && self.streams.borrow_mut().admit(&stream.pairs)
            });
        if !passes {
            return Ok(self.arrive(tenant, &door, |arrival| {
                for stream in &push.streams {
                    arrival.encoded_stream(stream);
                }
            }));
        }
        let block = Block {
            raw_len: u32::try_from(raw.len()).expect("checked against a limit"),
            entries: u32::try_from(push.entries).expect("likewise"),
            body,
        };
        let (lines, bytes) = (push.entries as u64, push.line_bytes as u64);
        let now_ns = perf::clock::unix_ns();
        let ((), ticket) = self.intake.take(tenant, |pending| pending.add(block, now_ns));
        Ok(Taken { lines, bytes, refused: Refused::default(), ticket: Some(ticket) })
    }

    fn take_json(&self, tenant: &str, encoding: Encoding, body: Vec<u8>) -> Result<Taken, Error> {
        let mut body = body::decode(encoding, body, self.options.body)?;
        let push: json::Push<'_> = json::read(&mut body, self.options.json_depth_max)?;
        push.check(self.options.size)?;
        if push.streams.is_empty() {
            return Err(Error::NoStreams);
        }
        Ok(self.arrive(tenant, &self.door(), |arrival| {
            for stream in &push.streams {
                arrival.json_stream(stream);
            }
        }))
    }

    fn take_lines(
        &self,
        tenant: &str,
        encoding: Encoding,
        body: Vec<u8>,
        query: &lines::Query,
    ) -> Result<Taken, Error> {
        let body = body::decode(encoding, body, self.options.body)?;
        self.check_lines(&body)?;
        Ok(self.arrive(tenant, &self.door(), |arrival| {
            let pairs = query.labels.iter().map(|(n, v)| (n.as_str(), v.as_str().into()));
            arrival.lines(pairs.collect(), &body);
        }))
    }

    /// No more lines than a request may have: before anything is made of each.
    fn check_lines(&self, body: &[u8]) -> Result<(), BadPush> {
        let (found, max) = (lines::count(body), self.options.size.entries_max);
        if found > max {
            return Err(BadPush::TooMany { what: "too many lines in one request", found, max });
        }
        Ok(())
    }

    fn take_logs(
        &self,
        tenant: &str,
        encoding: Encoding,
        body: Vec<u8>,
        many: bool,
    ) -> Result<Taken, Error> {
        let mut body = body::decode(encoding, body, self.options.body)?;
        let depth_max = self.options.json_depth_max;
        let parsed = if many {
            self.check_lines(&body)?;
            lines::of_mut(&mut body)
                .map(|line| json::read::<json::Log<'_>>(line, depth_max))
                .collect::<Result<Vec<_>, _>>()
                .map(json::Logs::Many)?
        } else {
            json::read(&mut body, depth_max)?
        };
        let size = self.options.size;
        let entries = logs::read(&parsed, size.entries_max)?;
        Ok(self.arrive(tenant, &self.door(), |arrival| {
            for entry in &entries {
                arrival.log(entry);
            }
        }))
    }

    /// Takes in what `put` has, entry by entry.
    fn arrive(&self, tenant: &str, door: &Door<'_>, put: impl FnOnce(&mut Arrival<'_>)) -> Taken {
        let now_ns = perf::clock::unix_ns();
        let mut streams = self.streams.borrow_mut();
        let stamps =
            arrival::Stamps::new(&self.last_ns, now_ns, self.options.shard, self.options.shards);
        let block_raw_bytes = self.intake.options().block_raw_bytes;
        let ((lines, bytes, refused), ticket) = self.intake.take(tenant, |pending| {
            let mut arrival = Arrival::new(
                door,
                &self.options.labels,
                &mut streams,
                stamps,
                pending,
                block_raw_bytes,
            );
            put(&mut arrival);
            arrival.done()
        });
        let ticket = (lines > 0).then_some(ticket);
        Taken { lines, bytes, refused, ticket }
    }
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
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

/// What the endpoints for lines answer where there is none.
#[must_use]
pub fn no_endpoint() -> Response<Full> {
    respond(StatusCode::NOT_FOUND, TEXT, format!("{}\n", Error::NoEndpoint))
}
