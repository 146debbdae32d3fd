//! The HTTP endpoints: `/ready` on `server.listen`, `/metrics` on `metrics.listen`.

use glommio::net::TcpListener;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use io::http::{self, Full};
use perf::metrics::Metrics;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the endpoints tell of.
pub struct Status {
    pub ready: AtomicBool,
    pub metrics: Metrics,
}

const OPTIONS: http::Options = http::Options {
    connections_max: 64,
    connection_time_max: Duration::from_secs(60),
    head_bytes_max: 16 << 10,
};

/// Serves both listeners on the executor that calls it, until that ends.
pub fn start(api: std::net::TcpListener, metrics: std::net::TcpListener, status: &Arc<Status>) {
    let of_api = status.clone();
    let of_metrics = status.clone();
    let api = http::serve(listener(api), OPTIONS, move |request| answer_api(&of_api, &request));
    let metrics = http::serve(listener(metrics), OPTIONS, move |request| {
        answer_metrics(&of_metrics, &request)
    });
    glommio::spawn_local(api).detach();
    glommio::spawn_local(metrics).detach();
}

fn listener(bound: std::net::TcpListener) -> TcpListener {
    // SAFETY: the descriptor is a listening socket, and its only owner gives it away here.
    unsafe { TcpListener::from_raw_fd(bound.into_raw_fd()) }
}

fn answer_api(status: &Status, request: &Request<Incoming>) -> Response<Full> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/ready") if status.ready.load(Ordering::Acquire) => {
            text(StatusCode::OK, "ready\n")
        }
        (&Method::GET, "/ready") => {
            text(StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or stopping\n")
        }
        (_, "/ready") => text(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n"),
        _ => text(StatusCode::NOT_FOUND, "not found; there is GET /ready\n"),
    }
}

fn answer_metrics(status: &Status, request: &Request<Incoming>) -> Response<Full> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => Response::builder()
            .header(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")
            .body(Full::new(status.metrics.text()))
            .expect("a valid response"),
        (_, "/metrics") => text(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n"),
        _ => text(StatusCode::NOT_FOUND, "not found; there is GET /metrics\n"),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(Full::new(body))
        .expect("a valid response")
}
