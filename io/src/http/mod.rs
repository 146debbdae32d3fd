//! HTTP/1.1 and HTTP/2 on the executor that calls it: hyper over glommio's sockets, with a limit to
//! everything a client may make it hold or wait for.

mod doorman;

mod socket;
mod tls;
mod watch;

mod body;

pub use body::{BodyError, BodyMemory, Buffer, Full, Grant, declared, read_body};
pub use doorman::Doorman;
pub use tls::{Client, Failure, Keyring, Keys, Verified};

use glommio::net::{TcpListener, TcpStream};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1::Parts;
use hyper::service::{HttpService, service_fn};
use hyper::{Request, Response, Version};
use perf::errors::ErrorKey;
use socket::{Socket, Stream};
use std::cell::{Cell, OnceCell, RefCell};
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use watch::{Phase, Watch, Watched};

#[derive(Debug, Clone)]
pub struct Options {
    /// Of a request's line and headers.
    pub head_bytes_max: usize,
    pub headers_max: usize,
    /// From the first byte of a request to the end of its headers.
    pub head_time_max: Duration,
    /// Between two requests, and before the first.
    pub idle_time_max: Duration,
    pub body_time_max: Duration,
    /// A body slower than this, in bytes per second, is given up.
    pub body_rate_min: u64,
    /// Until the client has taken an answer.
    pub answer_time_max: Duration,
}

/// With HTTP/2: requests at once on one connection.
const REQUESTS_AT_ONCE_MAX: u32 = 64;
/// With HTTP/2: what a client may send of one body, and of all, before it is read.
const BODY_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// With HTTP/2: what is kept of answers that the client does not take.
const ANSWERS_BYTES_MAX: usize = 64 << 10;
/// What only a client that speaks HTTP/2 begins with, the first three bytes.
const HTTP2_PREFACE: [u8; socket::FIRST_BYTES] = *b"PRI";
/// With more connections on a shard than this, each gives its buffers back after every answer, and not
/// only after a second's rest.
const RESTLESS_MAX: usize = 256;

/// What a request handler may know of its connection.
#[derive(Debug)]
pub struct Connection {
    pub peer: IpAddr,
    /// There are too many connections: only questions are answered, and this one ends after it.
    pub crowded: bool,
    /// Who it is, where it was asked for a certificate.
    client: OnceCell<Client>,
    secured: Cell<bool>,
    /// Nothing follows the requests that are under way.
    ending: Cell<bool>,
    /// Many requests may be under way at once.
    shared: Cell<bool>,
    wait: Watched,
}

impl Connection {
    #[must_use]
    pub fn client(&self) -> Option<&Client> {
        self.client.get()
    }

    /// Whether it is one of TLS.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        self.secured.get()
    }

    /// Closes it after the next answer; with HTTP/2, after those that are under way.
    pub fn end(&self) {
        self.ending.set(true);
    }

    fn is_shared(&self) -> bool {
        self.shared.get()
    }

    fn enter(&self, phase: Phase) {
        if !self.is_shared() {
            self.wait.enter(phase);
        }
    }

    /// A body that is given up is answered; whatever else takes too long is cut.
    fn is_cut(&self) -> bool {
        self.wait.is_overdue() && !matches!(self.wait.phase(), Phase::Body | Phase::Work)
    }
}

/// What all connections of one listener share.
struct Server<A> {
    options: Options,
    doorman: Arc<Doorman>,
    keyring: Arc<dyn Keyring>,
    answer: A,
    watch: Rc<Watch>,
    scratch: Rc<RefCell<Vec<u8>>>,
}

/// Answers requests until the executor ends.
pub async fn serve<A, F>(
    listener: TcpListener,
    options: Options,
    doorman: Arc<Doorman>,
    keyring: Arc<dyn Keyring>,
    answer: A,
) where
    A: Fn(Request<Incoming>, Rc<Connection>) -> F + 'static,
    F: Future<Output = Response<Full>> + 'static,
{
    let watch = Rc::new(Watch::new(options.clone()));
    glommio::spawn_local(watch.clone().look_regularly()).detach();
    let scratch = Rc::new(RefCell::new(vec![0; socket::READ_BYTES_MAX]));
    let server = Rc::new(Server { options, doorman, keyring, answer, watch, scratch });
    server.accept(&listener).await;
}

impl<A, F> Server<A>
where
    A: Fn(Request<Incoming>, Rc<Connection>) -> F + 'static,
    F: Future<Output = Response<Full>> + 'static,
{
    async fn accept(self: Rc<Self>, listener: &TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: accepting at once again would spin.
                    tracing::warn!(
                        error_key = ErrorKey::AcceptFailed.name(),
                        %error,
                        "a connection could not be accepted"
                    );
                    glommio::timer::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(peer) = stream.peer_addr() else { continue };
            // Closed unanswered, where even the crowd is too large.
            let Some(crowded) = self.doorman.enter(peer.ip()) else { continue };
            let _ = stream.set_nodelay(true);
            let connection = Rc::new(Connection {
                peer: peer.ip(),
                crowded,
                client: OnceCell::new(),
                secured: Cell::new(false),
                ending: Cell::new(false),
                shared: Cell::new(false),
                wait: self.watch.add(Phase::Idle, crowded),
            });
            let server = self.clone();
            glommio::spawn_local(async move {
                server.converse(stream, connection.clone()).await;
                server.doorman.leave(connection.peer);
            })
            .detach();
        }
    }

    /// One connection, to its end. A client that breaks off is its own affair.
    async fn converse(self: &Rc<Self>, stream: TcpStream, connection: Rc<Connection>) {
        let mut talk = pin!(self.talk(stream, connection.clone()));
        std::future::poll_fn(|context| {
            connection.wait.listen(context);
            if talk.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            if !connection.is_cut() {
                return Poll::Pending;
            }
            if connection.wait.phase() == Phase::Handshake {
                self.keyring.failed(Failure::Slow);
            }
            Poll::Ready(())
        })
        .await;
    }

    async fn talk(self: &Rc<Self>, stream: TcpStream, connection: Rc<Connection>) {
        let service = {
            let (server, connection) = (self.clone(), connection.clone());
            service_fn(move |request: Request<Incoming>| {
                connection.enter(Phase::Work);
                let version = request.version();
                let answer = (server.answer)(request, connection.clone());
                let connection = connection.clone();
                async move {
                    let working = connection.wait.work();
                    let mut response = answer.await;
                    drop(working);
                    if connection.ending.get() && version != Version::HTTP_2 {
                        let close = HeaderValue::from_static("close");
                        response.headers_mut().insert(CONNECTION, close);
                    }
                    connection.enter(Phase::Answer);
                    Ok::<_, Infallible>(response)
                }
            })
        };
        let stream = match self.keyring.keys() {
            None => Stream::Plain(stream),
            Some(keys) => {
                // Not a part of connections that need none.
                let accepted = tls::accept(stream, keys, &*self.keyring, &connection);
                let Some(stream) = Box::pin(accepted).await else { return };
                connection.secured.set(true);
                Stream::Tls(stream)
            }
        };
        let mut socket = Socket::new(stream, connection.clone(), self.scratch.clone());
        match socket.first().await {
            HTTP2_PREFACE => self.talk_http2(socket, &connection, service).await,
            _ => self.talk_http1(socket, &connection, service).await,
        }
    }

    /// Requests one by one. Between two of them a connection that rests holds no buffers.
    async fn talk_http1<S>(&self, mut socket: Socket, connection: &Connection, mut service: S)
    where
        S: HttpService<Incoming, ResBody = Full, Error = Infallible> + Unpin,
    {
        loop {
            let mut http1 = hyper::server::conn::http1::Builder::new()
                .keep_alive(!connection.crowded)
                .half_close(true)
                .max_buf_size(self.options.head_bytes_max)
                .max_headers(self.options.headers_max)
                .serve_connection(socket, service);
            let wait = &connection.wait;
            let rests = std::future::poll_fn(|context| {
                let was_idle = wait.phase() == Phase::Idle;
                if Pin::new(&mut http1).poll(context).is_ready() {
                    return Poll::Ready(false);
                }
                let many = self.watch.len() > RESTLESS_MAX;
                if wait.phase() != Phase::Idle || !(wait.is_long() || many) {
                    return Poll::Pending;
                }
                // Only with the next poll does hyper see to what it was sent behind its last answer: a
                // body that nobody read is no request.
                if !was_idle {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(true)
            });
            if !rests.await {
                return;
            }
            let read;
            Parts { io: socket, read_buf: read, service, .. } = http1.into_parts();
            if read.is_empty() {
                // Empty, it still holds the buffer.
                drop(read);
                socket.first().await;
            } else {
                socket.put_back(read);
                connection.wait.enter(Phase::Head);
            }
        }
    }

    /// Many requests at once.
    async fn talk_http2<S>(&self, socket: Socket, connection: &Connection, service: S)
    where
        S: HttpService<Incoming, ResBody = Full, Error = Infallible>,
        S::Future: 'static,
    {
        connection.shared.set(true);
        connection.wait.enter(Phase::Shared);
        let requests_max = if connection.crowded { 1 } else { REQUESTS_AT_ONCE_MAX };
        let head_bytes_max = u32::try_from(self.options.head_bytes_max).unwrap_or(u32::MAX);
        let http2 = hyper::server::conn::http2::Builder::new(Local)
            .max_concurrent_streams(requests_max)
            .max_header_list_size(head_bytes_max)
            .initial_stream_window_size(BODY_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(ANSWERS_BYTES_MAX)
            .serve_connection(socket, service);
        // Not a part of every connection, most of which speak HTTP/1.
        let mut http2 = Box::pin(http2);
        let mut told = false;
        let ended = std::future::poll_fn(|context| {
            let polled = http2.as_mut().poll(context);
            if polled.is_ready() || told || !connection.ending.get() {
                return polled;
            }
            told = true;
            http2.as_mut().graceful_shutdown();
            http2.as_mut().poll(context)
        });
        let _ = ended.await;
    }
}

/// Runs the requests of an HTTP/2 connection on this executor.
#[derive(Debug, Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, request: F) {
        glommio::spawn_local(request).detach();
    }
}
