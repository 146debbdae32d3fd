//! The stub's HTTP server: reads requests in full, applies the scripted fault, answers.

use super::json;
use super::receive::{Answer, Treatment};
use super::{Away, Fault, Link, Shared};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::borrow::Cow;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

const TENANT_HEADER: &str = "x-scope-orgid";
const BACKLOG: u32 = 1_024;
/// What hyper may hold of a request before the body is taken from it.
const READ_BUFFER_BYTES_MAX: usize = 1 << 20;
/// After a failed accept, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How often a slow answer gives a byte.
const SLOW_STEP: Duration = Duration::from_millis(50);
/// How often, and how many times, the port is asked for again after it was closed.
const REOPEN_STEP: Duration = Duration::from_millis(5);
const REOPEN_TRIES_MAX: u32 = 400;

/// Whole, or slow.
type Body = Either<Full<Bytes>, Channel<Bytes>>;

/// Binds at once, so that the port is known and an owned one is an error at the start.
pub fn listen(addr: SocketAddr) -> io::Result<(std::net::TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}

/// Serves until the link is stopped.
pub async fn serve(listener: std::net::TcpListener, addr: SocketAddr, shared: Arc<Shared>) {
    let mut link = shared.link.subscribe();
    let mut listener = Some(TcpListener::from_std(listener).expect("the runtime has its reactor"));
    let mut connections = JoinSet::new();
    loop {
        let now = *link.borrow_and_update();
        match now {
            Link::Stopped => return,
            Link::Away(Away::Refusing) => {
                listener = None;
                shared.store().stats.faults.refusals += 1;
                // Bound and not listening, it refuses; unbound, the client's own socket might get
                // this port and be connected to itself.
                let _reserved = reserve(addr).await;
                if link.wait_for(|l| *l != Link::Away(Away::Refusing)).await.is_err() {
                    return;
                }
            }
            Link::Up | Link::Away(Away::Silent) => {
                let listening = match listener.take() {
                    Some(listening) => listening,
                    None => reserve(addr)
                        .await
                        .listen(BACKLOG)
                        .unwrap_or_else(|e| panic!("the stub cannot listen on {addr} again: {e}")),
                };
                accept(&listening, &mut link, &mut connections, &shared).await;
                listener = Some(listening);
            }
        }
    }
}

async fn reserve(addr: SocketAddr) -> TcpSocket {
    let mut tries = 0;
    loop {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let bound = socket.and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            Ok(socket)
        });
        match bound {
            Ok(socket) => return socket,
            Err(e) if tries == REOPEN_TRIES_MAX => {
                panic!("the stub cannot have its port {addr} back: {e}")
            }
            Err(_) => tokio::time::sleep(REOPEN_STEP).await,
        }
        tries += 1;
    }
}

/// Accepts until the link changes.
async fn accept(
    listener: &TcpListener,
    link: &mut watch::Receiver<Link>,
    connections: &mut JoinSet<()>,
    shared: &Arc<Shared>,
) {
    loop {
        while connections.try_join_next().is_some() {}
        let room = connections.len() < shared.connections_max;
        tokio::select! {
            _ = link.changed() => return,
            _ = connections.join_next(), if !room => {}
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(shared)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// One connection, until it ends, a fault resets it, or the receiver goes away.
async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let mut link = shared.link.subscribe();
    // The answers are small and whole.
    let _ = stream.set_nodelay(true);
    let (reset, mut resets) = mpsc::channel::<()>(1);
    let service = service_fn(|request| handle(request, Arc::clone(&shared), reset.clone()));
    let mut served = http1::Builder::new()
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A client that breaks off is no news.
        _ = &mut served => return,
        _ = resets.recv() => {}
        _ = link.changed() => shared.store().stats.faults.cut += 1,
    }
    // With no time to linger, closing sends a reset.
    let _ = served.into_parts().io.into_inner().set_zero_linger();
}

async fn handle(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    reset: mpsc::Sender<()>,
) -> Result<Response<Body>, hyper::Error> {
    let push = request.uri().path() == "/loki/api/v1/push";
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, shared.body_bytes_max).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) if !push => return Ok(text(StatusCode::BAD_REQUEST, "the body cannot be read\n")),
        Err(_) => {
            let max = shared.body_bytes_max;
            let words = format!("request body too large: limit: {max} bytes\n");
            return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, words));
        }
    };
    let received = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    if *shared.link.borrow() == Link::Away(Away::Silent) {
        shared.store().stats.faults.swallowed += 1;
        return std::future::pending().await;
    }
    if !push {
        return Ok(match (&head.method, head.uri.path()) {
            (&Method::GET, "/ready") => text(StatusCode::OK, "ready\n"),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        });
    }
    if head.method != Method::POST {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n"));
    }
    {
        let mut store = shared.store();
        store.stats.pushes += 1;
        store.stats.wire_bytes += body.len() as u64;
    }
    let answer = match shared.next_fault() {
        Some(fault) => faulty(fault, &head.headers, &body, received, &shared, &reset).await,
        None => judge(&head.headers, &body, received, &shared, Treatment::AsLoki).into_response(),
    };
    *shared.store().stats.answers.entry(answer.status().as_u16()).or_default() += 1;
    Ok(answer)
}

async fn faulty(
    fault: Fault,
    headers: &HeaderMap,
    body: &[u8],
    received: Duration,
    shared: &Shared,
    reset: &mpsc::Sender<()>,
) -> Response<Body> {
    match fault {
        Fault::Answer { status, text: words, retry_after } => {
            shared.store().stats.faults.answered += 1;
            let mut response = Answer::new(status, words).into_response();
            if let Some(value) = retry_after.and_then(|v| HeaderValue::from_str(&v).ok()) {
                response.headers_mut().insert(RETRY_AFTER, value);
            }
            response
        }
        Fault::Tenant { tenant, status } => {
            if headers.get(TENANT_HEADER).is_none_or(|found| found.as_bytes() != tenant.as_bytes())
            {
                return judge(headers, body, received, shared, Treatment::AsLoki).into_response();
            }
            shared.store().stats.faults.answered += 1;
            Answer::new(status, format!("not for {tenant}\n")).into_response()
        }
        Fault::Delay(delay) => {
            shared.store().stats.faults.delayed += 1;
            tokio::time::sleep(delay).await;
            judge(headers, body, received, shared, Treatment::AsLoki).into_response()
        }
        Fault::Masked => {
            shared.store().stats.faults.masked += 1;
            judge(headers, body, received, shared, Treatment::Masked).into_response()
        }
        Fault::Partial { one_of } => {
            shared.store().stats.faults.partial += 1;
            judge(headers, body, received, shared, Treatment::Partial { one_of }).into_response()
        }
        Fault::SlowBody(time) => {
            shared.store().stats.faults.slow_bodies += 1;
            slow(time)
        }
        Fault::Reset => {
            shared.store().stats.faults.reset += 1;
            cut(reset).await
        }
        Fault::LostAnswer => {
            judge(headers, body, received, shared, Treatment::AsLoki);
            shared.store().stats.faults.answers_lost += 1;
            cut(reset).await
        }
    }
}

/// Has the connection's task reset it; never comes back.
async fn cut(reset: &mpsc::Sender<()>) -> Response<Body> {
    // The connection's task holds the other end for as long as this runs.
    let _ = reset.send(()).await;
    std::future::pending().await
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
fn judge(
    headers: &HeaderMap,
    body: &[u8],
    received: Duration,
    shared: &Shared,
    treatment: Treatment,
) -> Answer {
    let value = |name: &str| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let tenant = value(TENANT_HEADER).unwrap_or_default();
    if shared.auth && tenant.is_empty() {
        return Answer::new(401, "no org id\n");
    }
    let Some(content_type) = value(CONTENT_TYPE.as_str()).filter(|v| !v.is_empty()) else {
        return Answer::new(400, "mime: no media type\n");
    };
    let body = match value(CONTENT_ENCODING.as_str()).unwrap_or("") {
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
    let max = shared.body_bytes_max;
    let mut body = Vec::new();
    match reader.take(max as u64 + 1).read_to_end(&mut body) {
        Err(error) => Err(Answer::new(400, format!("{error}\n"))),
        Ok(read) if read > max => {
            Err(Answer::new(413, format!("request body too large: limit: {max} bytes\n")))
        }
        Ok(_) => Ok(body),
    }
}

impl Answer {
    fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.status)
            .unwrap_or_else(|_| panic!("a status has three digits, found {}", self.status));
        text(status, self.text)
    }
}

fn text(status: StatusCode, words: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(words.into())));
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}
