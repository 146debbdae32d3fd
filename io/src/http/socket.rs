//! A glommio socket as hyper wants it.

use super::Connection;
use super::watch::Phase;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite};
use futures_rustls::server::TlsStream;
use glommio::net::TcpStream;
use hyper::body::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// So many bytes tell the protocol.
pub(super) const FIRST_BYTES: usize = 3;
/// What one read takes at most.
pub(super) const READ_BYTES_MAX: usize = 64 << 10;

/// Of a client that goes on sending, so much is thrown away before others have their turn.
const READS_AT_ONCE_MAX: usize = 4;

pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Calls the same of either.
macro_rules! either {
    ($stream:expr, $of:ident => $call:expr) => {
        match $stream {
            Stream::Plain($of) => $call,
            Stream::Tls($of) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        either!(&mut *self, of => Pin::new(of).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        either!(&mut *self, of => Pin::new(of).poll_write(context, bytes))
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        either!(&mut *self, of => Pin::new(of).poll_flush(context))
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        either!(&mut *self, of => Pin::new(of).poll_close(context))
    }
}

pub(super) struct Socket {
    stream: Stream,
    connection: Rc<Connection>,
    /// Read into first; all sockets of a shard share it.
    scratch: Rc<RefCell<Vec<u8>>>,
    /// What was read, and is to be read once more.
    back: Bytes,
    /// The client sends no more.
    ended: bool,
    closing: bool,
    /// This end is: the client knows.
    closed: bool,
}

impl Socket {
    pub fn new(
        stream: Stream,
        connection: Rc<Connection>,
        scratch: Rc<RefCell<Vec<u8>>>,
    ) -> Socket {
        Socket {
            stream,
            connection,
            scratch,
            back: Bytes::new(),
            ended: false,
            closing: false,
            closed: false,
        }
    }

    /// Waits for the first bytes of what comes. Whoever sends fewer at once than are needed to know the
    /// protocol begins with others.
    pub async fn first(&mut self) -> [u8; FIRST_BYTES] {
        let mut first = [0; FIRST_BYTES];
        // An error comes again with the next read.
        let read = self.stream.read(&mut first).await.unwrap_or(0);
        self.connection.wait.enter(Phase::Head);
        self.put_back(Bytes::copy_from_slice(&first[..read]));
        first
    }

    /// What will be read next.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.back = bytes;
    }
}

impl Read for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if !this.back.is_empty() {
            let taken = this.back.split_to(this.back.len().min(buffer.remaining()));
            buffer.put_slice(&taken);
            return Poll::Ready(Ok(()));
        }
        let mut scratch = this.scratch.borrow_mut();
        let wanted = scratch.len().min(buffer.remaining());
        let stream = Pin::new(&mut this.stream);
        let Poll::Ready(read) = stream.poll_read(context, &mut scratch[..wanted]) else {
            return Poll::Pending;
        };
        let read = read?;
        buffer.put_slice(&scratch[..read]);
        this.ended = read == 0 && wanted > 0;
        let wait = &this.connection.wait;
        if wait.phase() == Phase::Idle && read > 0 {
            wait.enter(Phase::Head);
        } else if wait.phase() == Phase::Shared {
            wait.moved(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(bytes)) = written {
            self.connection.wait.moved(bytes);
        }
        written
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() && self.connection.wait.phase() == Phase::Answer {
            self.connection.wait.enter(Phase::Idle);
        }
        flushed
    }

    /// Says that this end is done, and hears the client out, so that it gets to read the last answer.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if !this.closing {
            this.closing = true;
            this.connection.wait.enter(Phase::Close);
        }
        if !this.closed {
            std::task::ready!(Pin::new(&mut this.stream).poll_close(context))?;
            this.closed = true;
        }
        let mut scratch = this.scratch.borrow_mut();
        for _ in 0..READS_AT_ONCE_MAX {
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            let stream = Pin::new(&mut this.stream);
            let read = std::task::ready!(stream.poll_read(context, &mut scratch[..]));
            this.ended = !matches!(read, Ok(read) if read > 0);
        }
        // Others are served before more is heard.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
