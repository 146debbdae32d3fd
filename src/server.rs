//! The HTTP endpoints: lines, the [`crate::panel`], `/health` and `/ready` on `server.listen`, `/metrics` on
//! `metrics.listen`.

use crate::panel::Panel;
use crate::receive::{self, Endpoint, Receiver};
use glommio::net::TcpListener;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use io::http::{self, Connection, Doorman, Full};
use perf::metrics::Metrics;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the endpoints tell of.
pub struct Status {
    pub ready: AtomicBool,
    pub metrics: Metrics,
}

/// Nobody sends a body to `/metrics`, and few ask.
const METRICS_OPTIONS: http::Options = http::Options {
    head_bytes_max: 16 << 10,
    headers_max: 64,
    head_time_max: Duration::from_secs(10),
    idle_time_max: Duration::from_secs(120),
    body_time_max: Duration::from_secs(10),
    body_rate_min: 1,
    answer_time_max: Duration::from_secs(30),
};
const METRICS_CONNECTIONS_MAX: usize = 64;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EXPOSITION: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Serves `server.listen` on the executor that calls it, until that ends.
pub fn serve_api(
    bound: std::net::TcpListener,
    options: http::Options,
    doorman: Arc<Doorman>,
    panel: Arc<Panel>,
    receiver: Receiver,
) {
    let receiver = Rc::new(receiver);
    let answer = move |request: Request<Incoming>, connection: Rc<Connection>| {
        let (receiver, panel) = (receiver.clone(), panel.clone());
        async move {
            match Endpoint::of(request.uri().path()) {
                Some(endpoint) => receiver.answer(endpoint, request, &connection).await,
                None if Panel::has(request.uri().path()) => {
                    panel.answer(request, &connection).await
                }
                None => answer_api(&panel.status, &request),
            }
        }
    };
    glommio::spawn_local(http::serve(listener(bound), options, doorman, answer)).detach();
}

/// Serves `metrics.listen` likewise.
pub fn serve_metrics(bound: std::net::TcpListener, status: Arc<Status>) {
    let doorman = Doorman::new(METRICS_CONNECTIONS_MAX, METRICS_CONNECTIONS_MAX);
    let answer = move |request: Request<Incoming>, _| {
        let status = status.clone();
        async move { answer_metrics(&status, &request) }
    };
    let listener = listener(bound);
    let served = http::serve(listener, METRICS_OPTIONS, Arc::new(doorman), answer);
    glommio::spawn_local(served).detach();
}

fn listener(bound: std::net::TcpListener) -> TcpListener {
    // SAFETY: the descriptor is a listening socket, and its only owner gives it away here.
    unsafe { TcpListener::from_raw_fd(bound.into_raw_fd()) }
}

fn answer_api(status: &Status, request: &Request<Incoming>) -> Response<Full> {
    let ready = status.ready.load(Ordering::Acquire);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/ready") => {
            let text = if ready { "ready\n" } else { "not ready: starting or stopping\n" };
            receive::respond(code, TEXT, text)
        }
        (&Method::GET | &Method::HEAD, "/health") => {
            let state = if ready { "healthy" } else { "critical" };
            let version = env!("CARGO_PKG_VERSION");
            let body = format!("{{\"status\":\"{state}\",\"version\":\"{version}\"}}\n");
            receive::respond(code, JSON, body)
        }
        (_, "/ready" | "/health") => {
            receive::respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "expected GET\n")
        }
        _ => receive::no_endpoint(),
    }
}

fn answer_metrics(status: &Status, request: &Request<Incoming>) -> Response<Full> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            receive::respond(StatusCode::OK, EXPOSITION, status.metrics.text())
        }
        (_, "/metrics") => receive::respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "expected GET\n"),
        _ => receive::respond(StatusCode::NOT_FOUND, TEXT, "not found; there is GET /metrics\n"),
    }
}
