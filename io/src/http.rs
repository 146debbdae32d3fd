//! HTTP/1.1 on the executor that calls it: hyper over glommio's sockets, with a limit to everything a
//! client may make it hold or wait for.
//!
//! No request sets a timer. Each connection notes what it waits for and since when; once a second
//! all of them are looked over ([`Connection::is_overdue`]), and who took too long is woken to end.

use glommio::net::{TcpListener, TcpStream};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper::{Request, Response};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

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

/// How many connections there may be, over all shards.
#[derive(Debug)]
pub struct Doorman {
    open_max: usize,
    per_address_max: usize,
    open: AtomicUsize,
    /// Addresses by their hash: some share a cell, which no client can choose.
    by_address: Box<[AtomicUsize]>,
    hasher: RandomState,
}

/// Answered beyond the limits, one request each: someone must be able to look.
const CROWD_MAX: usize = 32;
/// For them, everything takes at most this long.
const CROWD_TIME_MAX: Duration = Duration::from_secs(2);
const ADDRESS_CELLS: usize = 4096;
/// A slow start is not held against a client.
const BODY_RATE_FREE_TIME: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Doorman {
    #[must_use]
    pub fn new(open_max: usize, per_address_max: usize) -> Doorman {
        Doorman {
            open_max,
            per_address_max,
            open: AtomicUsize::new(0),
            by_address: (0..ADDRESS_CELLS).map(|_| AtomicUsize::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    fn cell(&self, address: IpAddr) -> &AtomicUsize {
        let hash = self.hasher.hash_one(address);
        &self.by_address[usize::try_from(hash % ADDRESS_CELLS as u64).expect("a small number")]
    }

    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a connection in; gives how crowded it is, or `None` where it must be turned away.
    fn enter(&self, address: IpAddr) -> Option<bool> {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let of_address = self.cell(address).fetch_add(1, Ordering::Relaxed);
        let crowded = open >= self.open_max || of_address >= self.per_address_max;
        if open >= self.open_max + CROWD_MAX || of_address >= self.per_address_max + CROWD_MAX {
            self.leave(address);
            return None;
        }
        Some(crowded)
    }

    fn leave(&self, address: IpAddr) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.cell(address).fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Body,
    /// The program's own time.
    Work,
    Answer,
}

/// What a request handler may know of its connection.
#[derive(Debug)]
pub struct Connection {
    pub peer: IpAddr,
    /// There are too many connections: only questions are answered, and this one ends after it.
    pub crowded: bool,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    /// Read in this phase.
    bytes: Cell<u64>,
    overdue: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Connection {
    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(Instant::now());
        self.bytes.set(0);
    }

    fn is_overdue(&self, options: &Options, now: Instant) -> bool {
        let time = now.saturating_duration_since(self.since.get());
        let max = match self.phase.get() {
            Phase::Work => return false,
            Phase::Idle => options.idle_time_max,
            Phase::Head => options.head_time_max,
            Phase::Answer => options.answer_time_max,
            Phase::Body => {
                let expected = options.body_rate_min as f64 * time.as_secs_f64();
                if time > BODY_RATE_FREE_TIME && (self.bytes.get() as f64) < expected {
                    return true;
                }
                options.body_time_max
            }
        };
        time > if self.crowded { max.min(CROWD_TIME_MAX) } else { max }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Why a body was not read to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("request body too large: more than {max} bytes")]
    TooLarge { max: usize },
    #[error("the body came too slowly")]
    Slow,
    #[error("the body broke off: {0}")]
    Broken(String),
    #[error("too many bodies are being read at once")]
    Crowded,
}

/// Memory for the bodies that a shard reads at once.
#[derive(Debug)]
pub struct BodyMemory {
    left: Cell<usize>,
}

impl BodyMemory {
    #[must_use]
    pub fn new(bytes: usize) -> BodyMemory {
        BodyMemory { left: Cell::new(bytes) }
    }
}

/// A body, and the memory that it was granted.
pub struct Granted {
    bytes: Vec<u8>,
    granted: usize,
    memory: Rc<BodyMemory>,
}

impl Granted {
    fn grant(&mut self, more: usize) -> Result<(), BodyError> {
        let left = self.memory.left.get().checked_sub(more).ok_or(BodyError::Crowded)?;
        self.memory.left.set(left);
        self.granted += more;
        Ok(())
    }

    /// The bytes; what they become is the caller's to count.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        self.memory.left.set(self.memory.left.get() + self.granted);
    }
}

/// What a body may take before its length is known.
const BODY_START_BYTES: usize = 16 << 10;

/// Reads a body to its end. Its declared length is checked before a byte of it is.
pub async fn read_body(
    connection: &Connection,
    body: Incoming,
    bytes_max: usize,
    memory: &Rc<BodyMemory>,
) -> Result<Granted, BodyError> {
    connection.enter(Phase::Body);
    let read = read_granted(connection, body, bytes_max, memory).await;
    connection.enter(Phase::Work);
    read
}

async fn read_granted(
    connection: &Connection,
    body: Incoming,
    bytes_max: usize,
    memory: &Rc<BodyMemory>,
) -> Result<Granted, BodyError> {
    let mut read = Granted { bytes: Vec::new(), granted: 0, memory: memory.clone() };
    let declared =
        body.size_hint().exact().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if declared.is_some_and(|bytes| bytes > bytes_max) {
        return Err(BodyError::TooLarge { max: bytes_max });
    }
    let start = declared.unwrap_or(BODY_START_BYTES).min(bytes_max);
    read.grant(start)?;
    // What is declared need not come: pages that are not written cost nothing.
    read.bytes.reserve_exact(start);
    let mut body = pin!(body);
    loop {
        let frame = std::future::poll_fn(|context| {
            if connection.overdue.get() {
                return Poll::Ready(Some(Err(BodyError::Slow)));
            }
            let frame = body.as_mut().poll_frame(context);
            frame.map(|frame| frame.map(|f| f.map_err(|e| BodyError::Broken(e.to_string()))))
        });
        let Some(frame) = frame.await else { return Ok(read) };
        let Ok(data) = frame?.into_data() else { continue };
        let len = read.bytes.len() + data.len();
        if len > bytes_max {
            return Err(BodyError::TooLarge { max: bytes_max });
        }
        if len > read.granted {
            let more = len.max(2 * read.granted).min(bytes_max) - read.granted;
            read.grant(more)?;
            read.bytes.reserve_exact(read.granted - read.bytes.len());
        }
        read.bytes.extend_from_slice(&data);
    }
}

/// A whole answer body.
pub struct Full(Option<Bytes>);

impl Full {
    pub fn new(bytes: impl Into<Bytes>) -> Full {
        Full(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for Full {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// What all connections of one listener share.
struct Server<A> {
    options: Options,
    doorman: Arc<Doorman>,
    answer: A,
    connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
}

/// Answers requests until the executor ends.
pub async fn serve<A, F>(listener: TcpListener, options: Options, doorman: Arc<Doorman>, answer: A)
where
    A: Fn(Request<Incoming>, Rc<Connection>) -> F + 'static,
    F: Future<Output = Response<Full>> + 'static,
{
    let server = Rc::new(Server { options, doorman, answer, connections: RefCell::default() });
    glommio::spawn_local(server.clone().look_regularly()).detach();
    server.accept(&listener).await;
}

impl<A, F> Server<A>
where
    A: Fn(Request<Incoming>, Rc<Connection>) -> F + 'static,
    F: Future<Output = Response<Full>> + 'static,
{
    async fn accept(self: Rc<Self>, listener: &TcpListener) {
        for number in 0_u64.. {
            let stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: accepting at once again would spin.
                    tracing::warn!(%error, "a connection could not be accepted");
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
                phase: Cell::new(Phase::Idle),
                since: Cell::new(Instant::now()),
                bytes: Cell::new(0),
                overdue: Cell::new(false),
                waker: RefCell::default(),
            });
            self.connections.borrow_mut().insert(number, connection.clone());
            let server = self.clone();
            glommio::spawn_local(async move {
                server.converse(stream, connection.clone()).await;
                server.connections.borrow_mut().remove(&number);
                server.doorman.leave(connection.peer);
            })
            .detach();
        }
    }

    /// One connection, to its end. A client that breaks off is its own affair.
    async fn converse(self: &Rc<Self>, stream: TcpStream, connection: Rc<Connection>) {
        let service = {
            let (server, connection) = (self.clone(), connection.clone());
            service_fn(move |request| {
                connection.enter(Phase::Work);
                let answer = (server.answer)(request, connection.clone());
                let connection = connection.clone();
                async move {
                    let response = answer.await;
                    connection.enter(Phase::Answer);
                    Ok::<_, Infallible>(response)
                }
            })
        };
        let socket = Socket { stream, connection: connection.clone() };
        let mut hyper = pin!(
            hyper::server::conn::http1::Builder::new()
                .keep_alive(!connection.crowded)
                .half_close(true)
                .max_buf_size(self.options.head_bytes_max)
                .max_headers(self.options.headers_max)
                .serve_connection(socket, service)
        );
        std::future::poll_fn(|context| {
            *connection.waker.borrow_mut() = Some(context.waker().clone());
            if hyper.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            // A body that was given up is answered; whatever else takes too long is cut.
            let cut = connection.overdue.get()
                && matches!(connection.phase.get(), Phase::Idle | Phase::Head | Phase::Answer);
            if cut { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    async fn look_regularly(self: Rc<Self>) {
        loop {
            glommio::timer::sleep(LOOK_INTERVAL).await;
            let now = Instant::now();
            for connection in self.connections.borrow().values() {
                if connection.is_overdue(&self.options, now) {
                    connection.overdue.set(true);
                    connection.wake();
                }
            }
        }
    }
}

struct Socket {
    stream: TcpStream,
    connection: Rc<Connection>,
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut bytes = [0; 8192];
        let wanted = bytes.len().min(buffer.remaining());
        let stream = Pin::new(&mut self.stream);
        match futures_lite::AsyncRead::poll_read(stream, context, &mut bytes[..wanted]) {
            Poll::Ready(Ok(read)) => {
                buffer.put_slice(&bytes[..read]);
                let connection = &self.connection;
                if connection.phase.get() == Phase::Idle && read > 0 {
                    connection.enter(Phase::Head);
                }
                connection.bytes.set(connection.bytes.get() + read as u64);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        futures_lite::AsyncWrite::poll_write(Pin::new(&mut self.stream), context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        let flushed = futures_lite::AsyncWrite::poll_flush(Pin::new(&mut self.stream), context);
        if flushed.is_ready() && self.connection.phase.get() == Phase::Answer {
            self.connection.enter(Phase::Idle);
        }
        flushed
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        futures_lite::AsyncWrite::poll_close(Pin::new(&mut self.stream), context)
    }
}
