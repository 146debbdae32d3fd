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

mod answer;
mod arrival;
mod endpoint;

pub use answer::{Error, respond};
pub use endpoint::{Endpoint, Form};

use crate::alone;
use crate::block::Block;
use crate::guard::Denied;
use crate::intake::{Intake, NotStored, Ticket};
use admit::{Door, Refused};
use arrival::{Arrival, Terms};
use body::{BadBody, Body, Decoder, Encoding};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use io::http::{self, BodyError, BodyMemory, Connection, Full};
use perf::metrics;
use perf::recorder::Recorder;
use perf::stage::ShardTime;
use push::BadPush;
use shards::rate::Rates;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub struct Options {
    /// Added to every stream, in place of a client's of the same name.
    pub labels: Vec<(String, String)>,
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
    pub json: json::Limits,
    /// Different streams in an hour; those beyond go into one.
    pub streams_max: usize,
    /// A larger push is cut into several.
    pub push_bytes_max: usize,
    /// A larger one, as it came, is not kept so: it would not fit the log.
    pub kept_bytes_max: usize,
    /// How long the disk is waited for.
    pub answer_time_max: Duration,
    pub alone: alone::Limits,
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

/// A smaller push of a stream that travels alone is put together with others of it.
const ALONE_KEPT_BYTES_MIN: usize = 64 << 10;
/// Loki's limit, which its clients know.
const TENANT_BYTES_MAX: usize = 150;
/// What an export may become, as a multiple of what its body may be.
const EXPORT_GROWTH_MAX: usize = 4;
const TENANT_SIGNS: &[u8] = b"!-_.*'()";
/// What is read of a request that is refused by its head.
const DRAINED_BYTES_MAX: usize = 1 << 20;

/// What one shard makes of requests.
pub struct Receiver {
    options: Options,
    intake: Rc<Intake>,
    rates: Arc<Rates>,
    memory: Rc<BodyMemory>,
    parser: RefCell<json::Parser>,
    streams: RefCell<arrival::Streams>,
    /// The timestamp given last.
    last_ns: Cell<i64>,
    counts: metrics::Shard,
    requests: metrics::Receive,
    times: Rc<Recorder>,
}

/// What a request brought, all of it taken in.
pub struct Taken {
    pub lines: u64,
    /// Of the lines.
    pub bytes: u64,
    pub refused: Refused,
    /// None where nothing was left to store.
    pub ticket: Option<Ticket>,
}

impl Receiver {
    #[must_use]
    pub fn new(
        options: Options,
        intake: Rc<Intake>,
        rates: Arc<Rates>,
        counts: metrics::Shard,
        requests: metrics::Receive,
        times: Rc<Recorder>,
    ) -> Receiver {
        Receiver {
            memory: Rc::new(BodyMemory::new(options.bodies_bytes_max)),
            parser: RefCell::new(json::Parser::new(options.json)),
            streams: RefCell::new(arrival::Streams::new(options.streams_max)),
            last_ns: Cell::new(0),
            options,
            intake,
            rates,
            counts,
            requests,
            times,
        }
    }

    /// Requests that come now are for another receiver.
    #[must_use]
    pub fn is_yielding(&self) -> bool {
        self.intake.is_yielding()
    }

    /// Answers a request for lines.
    pub async fn answer(
        &self,
        endpoint: Endpoint,
        request: Request<Incoming>,
        connection: &Connection,
        denied: Option<Denied>,
    ) -> Response<Full> {
        let started = self.times.start();
        // Whoever is refused holds up no change of the configuration, however slowly the body comes.
        let guest = denied.is_none().then(|| self.intake.enter());
        let is_closed = denied.as_ref().is_some_and(Denied::closes);
        // Of a type that OTLP has not, what a person can read.
        let form = Form::of(endpoint, text_of(request.headers(), header::CONTENT_TYPE).as_deref());
        let kind = if let Ok(Form::Otlp(kind)) = form { kind } else { otlp::Kind::Json };
        let (head, incoming) = request.into_parts();
        let mut incoming = Some(incoming);
        let outcome = match denied {
            Some(denied) => Err(Error::Denied(denied)),
            None => self.receive(endpoint, form, &head, &mut incoming, connection).await,
        };
        let mut response = match outcome {
            Ok(lines) => answer::accepted(endpoint, kind, lines),
            // What was refused is not to be sent again: that is a success, in part.
            Err(Error::Refused(refused)) if endpoint == Endpoint::Otlp => {
                let text = refused.to_string();
                let body = otlp::answer::partial_success(kind, refused.entries, &text);
                respond(StatusCode::OK, kind.media_type(), body)
            }
            Err(error) => answer::refused(endpoint, kind, &error),
        };
        drop(guest);
        if let Some(rest) = incoming
            && (is_closed || !drained(&head.headers, rest, connection).await)
        {
            response.headers_mut().insert(header::CONNECTION, answer::CLOSE);
        }
        if head.version == Version::HTTP_2 {
            // Its other requests go on.
            response.headers_mut().remove(header::CONNECTION);
        }
        self.requests.request(endpoint.path(), response.status().as_u16());
        self.times.passed(ShardTime::Answer, started, 1);
        response
    }

    async fn receive(
        &self,
        endpoint: Endpoint,
        form: Result<Form, Error>,
        head: &Parts,
        incoming: &mut Option<Incoming>,
        connection: &Connection,
    ) -> Result<u64, Error> {
        if connection.crowded {
            return Err(Error::Crowded);
        }
        if head.method != Method::POST {
            return Err(Error::Method);
        }
        self.intake.check()?;
        let started = self.times.start();
        let deadline = Instant::now() + self.options.answer_time_max;
        let tenant = self.tenant(&head.headers)?;
        let with_labels = endpoint == Endpoint::Raw;
        let query = lines::Query::read(head.uri.query().unwrap_or_default(), with_labels)?;
        let encoding = Encoding::of(text_of(&head.headers, header::CONTENT_ENCODING).as_deref())?;
        let form = form?;
        let incoming = incoming.take().expect("it is read once");
        let body = self.read(connection, incoming, encoding, form).await?;
        self.intake.room(deadline).await?;
        let read = self.times.start();
        let taken = self.take(form, &tenant, body, &query)?;
        self.times.took(ShardTime::Read, started, read, taken.lines);
        self.times.passed(ShardTime::Pipeline, read, taken.lines);
        self.counts.lines.inc_by(taken.lines);
        self.counts.bytes.inc_by(taken.bytes);
        for (reason, entries) in &taken.refused.reasons {
            self.requests.refused(reason, *entries);
        }
        if let Some(ticket) = &taken.ticket {
            match query.ack.unwrap_or(self.options.ack) {
                Ack::Durable => self.intake.durable(ticket, deadline).await?,
                Ack::Memory => ticket.leave(taken.lines),
            }
            io::failpoint::passed("answer");
        }
        if taken.refused.is_empty() { Ok(taken.lines) } else { Err(Error::Refused(taken.refused)) }
    }

    /// Reads a body, and decodes it while it comes.
    async fn read(
        &self,
        connection: &Connection,
        incoming: Incoming,
        encoding: Encoding,
        form: Form,
    ) -> Result<Body, Error> {
        let bytes_max = self.options.body_bytes_max;
        let declared = http::declared(&incoming, bytes_max).map_err(BadBody::from)?;
        let limits = self.options.body;
        let mut decoder = Decoder::new(encoding, declared, limits, &self.memory)?;
        let mut bytes = 0;
        http::read_body(connection, incoming, bytes_max, |piece| {
            bytes += piece.len() as u64;
            decoder.put(piece)
        })
        .await?;
        self.rates.take(&connection.peer, bytes).map_err(Error::Rate)?;
        let body = decoder.finish()?;
        // A push in protobuf is a snappy block whatever the headers say.
        if encoding == Encoding::Snappy && form != Form::Protobuf {
            return Ok(body::unsnap(&body.bytes, limits, &self.memory)?);
        }
        Ok(body)
    }

    /// Takes in what a body holds, which was read and decoded.
    pub fn take(
        &self,
        form: Form,
        tenant: &str,
        mut body: Body,
        query: &lines::Query,
    ) -> Result<Taken, Error> {
        match form {
            Form::Protobuf => self.take_push(tenant, &mut body),
            Form::Json => self.take_json(tenant, &mut body.bytes),
            Form::Lines => self.take_lines(tenant, &body.bytes, query),
            Form::Log => self.take_logs(tenant, &mut body.bytes),
            Form::LogLines => {
                self.check_lines(&body.bytes)?;
                self.take_logs(tenant, &mut lines::joined(&body.bytes))
            }
            Form::Otlp(kind) => self.take_export(tenant, &mut body.bytes, kind),
        }
    }

    /// Takes in a line of the product's own, with these labels and no others.
    pub fn take_own(&self, labels: &[(String, String)], line: &[u8]) -> Result<(), NotStored> {
        self.intake.check()?;
        if self.intake.is_crowded() {
            return Err(NotStored::Full);
        }
        let pairs = labels.iter().map(|(n, v)| (n.as_str(), v.as_str().into())).collect();
        self.arrive_with(&[], "", &self.door(), |arrival| arrival.lines(pairs, line));
        Ok(())
    }

    /// What bodies are read into.
    #[must_use]
    pub fn memory(&self) -> &Rc<BodyMemory> {
        &self.memory
    }

    fn tenant(&self, headers: &HeaderMap) -> Result<String, Error> {
        let Some(named) = headers.get("x-scope-orgid").filter(|_| self.options.tenant_header)
        else {
            // That of each sink.
            return Ok(String::new());
        };
        let is_sign = |byte: &u8| byte.is_ascii_alphanumeric() || TENANT_SIGNS.contains(byte);
        let bytes = named.as_bytes();
        let is_path = matches!(bytes, b"." | b"..");
        let fits = (1..=TENANT_BYTES_MAX).contains(&bytes.len()) && !is_path;
        if !fits || !bytes.iter().all(is_sign) {
            return Err(Error::Tenant(format!(
                "X-Scope-OrgID: expected 1 to {TENANT_BYTES_MAX} letters, digits and {}, not . or ..",
                String::from_utf8_lossy(TENANT_SIGNS)
            )));
        }
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn door(&self) -> Door<'_> {
        Door::new(&self.options.limits, perf::clock::unix_ns())
    }

    /// Loki's own push: kept as it came where nothing has to be changed.
    fn take_push(&self, tenant: &str, body: &mut Body) -> Result<Taken, Error> {
        let unsnapped = body::unsnap(&body.bytes, self.options.body, &self.memory)?;
        let raw = &unsnapped.bytes;
        let door = self.door();
        let push = push::Push::read(raw, self.options.size, &door)?;
        if push.streams.is_empty() {
            return Err(Error::NoStreams);
        }
        let (now_ns, limits) = (perf::clock::unix_ns(), &self.options.alone);
        let mut standings = Vec::new();
        let passes = push.plain
            && push.entries > 0
            && self.options.labels.is_empty()
            && raw.len() <= self.options.push_bytes_max
            && body.bytes.len() <= self.options.kept_bytes_max
            // What is larger than it need be was not made to be stored.
            && body.bytes.len() <= snap::raw::max_compress_len(raw.len())
            && push.streams.iter().all(|stream| {
                stream.passes
                    && door.labels(stream.labels, &stream.pairs).is_ok()
                    && self.streams.borrow_mut().admit(tenant, &stream.pairs, stream.labels).is_some_and(
                        |standing| {
                            let bytes = stream.line_bytes as u64;
                            standing.is_at(stream.oldest_ns, limits);
                            standing.brings(bytes, now_ns, limits);
                            standings.push(standing);
                            true
                        },
                    )
            });
        // Of several streams, none may have to travel alone.
        let acked = self.intake.acked(tenant);
        let alone = standings
            .iter()
            .find(|standing| standing.travels_alone(acked, now_ns, limits))
            .cloned();
        let small = raw.len() < ALONE_KEPT_BYTES_MIN;
        if !passes || (alone.is_some() && (push.streams.len() > 1 || small)) {
            return Ok(self.arrive(tenant, &door, |arrival| {
                for stream in &push.streams {
                    arrival.encoded_stream(stream);
                }
            }));
        }
        let block = Block {
            raw_len: u32::try_from(raw.len()).expect("checked against a limit"),
            entries: u32::try_from(push.entries).expect("likewise"),
            oldest_stamp_ns: push.streams.iter().map(|s| s.oldest_ns).fold(now_ns, i64::min),
            body: std::mem::take(&mut body.bytes),
        };
        let (lines, bytes) = (push.entries as u64, push.line_bytes as u64);
        for (stream, standing) in push.streams.iter().zip(&standings) {
            let stamps = (stream.oldest_ns, stream.newest_ns);
            standing.came(stream.line_bytes as u64, stamps, now_ns, limits);
        }
        let ((), ticket) = self.intake.take(tenant, |tenant| {
            tenant.put(alone.as_ref(), |pending| pending.add(block, now_ns));
        });
        Ok(Taken { lines, bytes, refused: Refused::default(), ticket: Some(ticket) })
    }

    fn take_json(&self, tenant: &str, body: &mut [u8]) -> Result<Taken, Error> {
        self.parser.borrow_mut().parse(body, |value| {
            let push = json::Push::read(value, self.options.size)?;
            if push.is_empty() {
                return Err(Error::NoStreams);
            }
            Ok(self.arrive(tenant, &self.door(), |arrival| {
                push.streams().for_each(|stream| arrival.json_stream(&stream));
            }))
        })
    }

    fn take_lines(&self, tenant: &str, body: &[u8], query: &lines::Query) -> Result<Taken, Error> {
        self.check_lines(body)?;
        Ok(self.arrive(tenant, &self.door(), |arrival| {
            let pairs = query.labels.iter().map(|(n, v)| (n.as_str(), v.as_str().into()));
            arrival.lines(pairs.collect(), body);
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

    fn take_logs(&self, tenant: &str, body: &mut [u8]) -> Result<Taken, Error> {
        self.parser.borrow_mut().parse(body, |value| {
            let logs = logs::Logs::read(value, self.options.size.entries_max)?;
            Ok(self.arrive(tenant, &self.door(), |arrival| {
                logs.entries().for_each(|entry| arrival.log(entry));
            }))
        })
    }

    fn take_export(&self, tenant: &str, body: &mut [u8], kind: otlp::Kind) -> Result<Taken, Error> {
        let limits = otlp::Limits {
            size: self.options.size,
            made_bytes_max: EXPORT_GROWTH_MAX * self.options.body.decoded_bytes_max,
            json_values_max: self.options.json.values_max,
        };
        let door = self.door();
        let export = otlp::read(kind, body, limits, &door)?;
        Ok(self.arrive(tenant, &door, |arrival| arrival.export(&export)))
    }

    /// Takes in what `put` has, entry by entry.
    fn arrive(&self, tenant: &str, door: &Door<'_>, put: impl FnOnce(&mut Arrival<'_>)) -> Taken {
        self.arrive_with(&self.options.labels, tenant, door, put)
    }

    fn arrive_with(
        &self,
        labels: &[(String, String)],
        tenant: &str,
        door: &Door<'_>,
        put: impl FnOnce(&mut Arrival<'_>),
    ) -> Taken {
        let now_ns = perf::clock::unix_ns();
        let mut streams = self.streams.borrow_mut();
        let stamps =
            arrival::Stamps::new(&self.last_ns, now_ns, self.options.shard, self.options.shards);
        let terms = Terms {
            tenant,
            block_raw_bytes: self.intake.options().block_raw_bytes,
            acked: self.intake.acked(tenant),
            alone: &self.options.alone,
        };
        let ((lines, bytes, refused), ticket) = self.intake.take(tenant, |tenant| {
            let mut arrival = Arrival::new(door, labels, &mut streams, stamps, tenant, terms);
            put(&mut arrival);
            arrival.done()
        });
        let ticket = (lines > 0).then_some(ticket);
        Taken { lines, bytes, refused, ticket }
    }
}

/// Reads what is left of a request that is refused, so that others may follow on its connection; not
/// where that is much, or where it only comes if it is asked for.
pub async fn drained(headers: &HeaderMap, rest: Incoming, connection: &Connection) -> bool {
    if rest.is_end_stream() {
        return true;
    }
    let fits = http::declared(&rest, DRAINED_BYTES_MAX).is_ok_and(|bytes| bytes.is_some());
    if !fits || connection.crowded || headers.contains_key(header::EXPECT) {
        return false;
    }
    let read = http::read_body(connection, rest, DRAINED_BYTES_MAX, |_| Ok::<_, BodyError>(()));
    read.await.is_ok()
}

/// What is no text is another one than those that are known, and not none.
fn text_of(headers: &HeaderMap, name: header::HeaderName) -> Option<Cow<'_, str>> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()))
}
