//! The stub's HTTP server: reads requests in full and has them answered.

use super::answer::{self, Body, Outcome, Pushed, text};
use super::wire::Wire;
use super::{Away, Link, Shared, query};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

const PUSH_PATH: &str = "/loki/api/v1/push";
const QUERY_PATH: &str = "/loki/api/v1/query_range";
const TENANT_HEADER: &str = "x-scope-orgid";
const BACKLOG: u32 = 1_024;
/// What hyper may hold of a request before the body is taken from it.
const READ_BUFFER_BYTES_MAX: usize = 1 << 20;
/// After a failed accept, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How often, and how many times, the port is asked for again after it was closed.
const REOPEN_STEP: Duration = Duration::from_millis(5);
const REOPEN_TRIES_MAX: u32 = 400;

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

/// One connection, until it ends, a fault closes it, or the receiver goes away.
async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let mut link = shared.link.subscribe();
    // The answers are small and whole.
    let _ = stream.set_nodelay(true);
    let (wire, mut wires) = mpsc::channel::<Wire>(1);
    let requests = AtomicU64::new(0);
    let mut stream = stream;
    loop {
        let service =
            service_fn(|request| handle(request, Arc::clone(&shared), &requests, wire.clone()));
        let mut served = http1::Builder::new()
            .max_buf_size(READ_BUFFER_BYTES_MAX)
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), service);
        let told = tokio::select! {
            // A client that breaks off is no news.
            _ = &mut served => return,
            told = wires.recv() => told.unwrap_or(Wire::Reset),
            _ = link.changed() => {
                shared.store().stats.faults.cut += 1;
                Wire::Reset
            }
        };
        let parts = served.into_parts();
        stream = parts.io.into_inner();
        let goes_on = tokio::select! {
            goes_on = told.play(&mut stream, &shared) => goes_on,
            _ = link.changed() => {
                shared.store().stats.faults.cut += 1;
                let _ = stream.set_zero_linger();
                false
            }
        };
        // What was read ahead of a request that is not answered yet is lost.
        if !goes_on || !parts.read_buf.is_empty() {
            return;
        }
    }
}

/// `requests`: those that came before on this connection.
async fn handle(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    requests: &AtomicU64,
    wire: mpsc::Sender<Wire>,
) -> Result<Response<Body>, hyper::Error> {
    let kept = requests.fetch_add(1, Ordering::Relaxed) > 0;
    let push = request.uri().path() == PUSH_PATH && request.method() == Method::POST;
    let tenant = tenant_of(request.headers()).to_owned();
    if push {
        shared.store().stats.arrived += 1;
        if kept && shared.closes_request(&tenant) {
            shared.store().stats.faults.closed_on_request += 1;
            return Wire::Close.send(&wire).await;
        }
    }
    let (head, body) = request.into_parts();
    let max = shared.store().limits.body_bytes_max;
    let body = match Limited::new(body, max).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) if !push => return Ok(text(400, "the body cannot be read\n").into_response()),
        Err(_) => {
            *shared.store().stats.answers.entry(413).or_default() += 1;
            let words = format!("request body too large: limit: {max} bytes\n");
            return Ok(text(413, &words).into_response());
        }
    };
    let received = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    if *shared.link.borrow() == Link::Away(Away::Silent) {
        shared.store().stats.faults.swallowed += 1;
        return std::future::pending().await;
    }
    if !push {
        return Ok(match (&head.method, head.uri.path()) {
            (&Method::GET, "/ready") => text(200, "ready\n"),
            (&Method::GET, QUERY_PATH) => {
                let parameters = head.uri.query().unwrap_or_default();
                match query::range(parameters, &tenant, &shared.store().kept) {
                    Ok(found) => text(200, &found),
                    Err(error) => text(400, &error),
                }
            }
            (_, PUSH_PATH) => text(405, "405 method not allowed\n"),
            _ => text(404, "404 page not found\n"),
        }
        .into_response());
    }
    {
        let mut store = shared.store();
        store.stats.pushes += 1;
        store.stats.wire_bytes += body.len() as u64;
        if store.tenants.get(&tenant).is_some() {
            store.stats.by_tenant.entry(tenant.clone()).or_default().pushes += 1;
        }
    }
    let faults = shared.next_fault().map_or_else(Vec::new, |fault| fault.of(&tenant));
    let pushed = Pushed { headers: &head.headers, tenant: &tenant, body: &body, received };
    match answer::answer(faults, &pushed, &shared).await {
        Outcome::Response(response) => Ok(response),
        Outcome::Wire(told) => told.send(&wire).await,
    }
}

fn tenant_of(headers: &HeaderMap) -> &str {
    headers.get(TENANT_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
