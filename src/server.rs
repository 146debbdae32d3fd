//! The HTTP endpoints: lines and the [`crate::panel`] on `server.listen`, `/metrics` on `metrics.listen`.

use crate::entrance::Entrance;
use crate::guard::{Post, Role};
use crate::monitor::Board;
use crate::panel::{self, Caller, Panels};
use crate::receive::{self, Endpoint};
use glommio::net::TcpListener;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use io::http::{self, Connection, Doorman, Full};
use perf::exposition::Format;
use perf::metrics::Metrics;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the endpoints tell of.
pub struct Status {
    pub ready: AtomicBool,
    pub stopping: AtomicBool,
    pub metrics: Metrics,
    /// What the [`crate::monitor`] saw last.
    pub board: Board,
}

impl Status {
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
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
const METRICS_ADDRESS_CONNECTIONS_MAX: usize = 16;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Serves `server.listen` on the executor that calls it, until that ends.
pub fn serve_api(
    bound: std::net::TcpListener,
    options: http::Options,
    doorman: Arc<Doorman>,
    panels: Arc<Panels>,
    entrance: Rc<Entrance>,
    post: Rc<Post>,
) {
    let keyring = post.keyring();
    let answer = move |request: Request<Incoming>, connection: Rc<Connection>| {
        let (entrance, panels) = (entrance.clone(), panels.clone());
        let endpoint = Endpoint::of(request.uri().path());
        let needed = match endpoint {
            Some(_) => Some(Role::Ingest),
            None => panel::needed(request.uri().path()),
        };
        let admitted = post.admit(needed, request.headers(), &connection);
        let post = post.clone();
        async move {
            match endpoint {
                Some(endpoint) => {
                    let denied = admitted.err();
                    let receiver = entrance.receiver().await;
                    receiver.answer(endpoint, request, &connection, denied).await
                }
                None => {
                    let caller = Caller { connection, post };
                    panels.current().answer(request, caller, admitted).await
                }
            }
        }
    };
    let served = http::serve(listener(bound), options, doorman, keyring, answer);
    glommio::spawn_local(served).detach();
}

/// Serves `metrics.listen` likewise.
pub fn serve_metrics(bound: std::net::TcpListener, panels: Arc<Panels>, post: Rc<Post>) {
    let keyring = post.keyring();
    let doorman = Doorman::new(METRICS_CONNECTIONS_MAX, METRICS_ADDRESS_CONNECTIONS_MAX);
    let answer = move |request: Request<Incoming>, connection: Rc<Connection>| {
        let admitted = post.admit(Some(Role::Read), request.headers(), &connection);
        let status = panels.current().status.clone();
        async move {
            match admitted {
                Ok(_) => answer_metrics(&status, &request),
                Err(denied) => {
                    let text = format!("{denied}\n");
                    let mut response = receive::respond(denied.status(), TEXT, text);
                    denied.mark(&mut response);
                    response
                }
            }
        }
    };
    let listener = listener(bound);
    let served = http::serve(listener, METRICS_OPTIONS, Arc::new(doorman), keyring, answer);
    glommio::spawn_local(served).detach();
}

fn listener(bound: std::net::TcpListener) -> TcpListener {
    // SAFETY: the descriptor is a listening socket, and its only owner gives it away here.
    unsafe { TcpListener::from_raw_fd(bound.into_raw_fd()) }
}

fn answer_metrics(status: &Status, request: &Request<Incoming>) -> Response<Full> {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
            let format = Format::accepted(accept.unwrap_or_default());
            let kind = HeaderValue::from_static(format.content_type());
            receive::respond(StatusCode::OK, kind, status.metrics.encode(format))
        }
        (_, "/metrics") => {
            let code = StatusCode::METHOD_NOT_ALLOWED;
            let mut response = receive::respond(code, TEXT, "expected GET\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        _ => receive::respond(StatusCode::NOT_FOUND, TEXT, "not found; there is GET /metrics\n"),
    }
}
