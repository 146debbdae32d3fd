//! HTTP/1.1 on the executor that calls it: hyper over glommio's sockets.

use glommio::net::{TcpListener, TcpStream};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper::{Request, Response};
use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Options {
    pub connections_max: usize,
    /// How long a connection may live, idle or not: none is held by a slow client.
    pub connection_time_max: Duration,
    pub head_bytes_max: usize,
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

/// Answers requests until the executor ends. Connections past the limit are closed unanswered.
pub async fn serve(
    listener: TcpListener,
    options: Options,
    answer: impl Fn(Request<Incoming>) -> Response<Full> + 'static,
) {
    let answer = Rc::new(answer);
    let open = Rc::new(Cell::new(0_usize));
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: accepting at once again would spin.
                tracing::warn!(%error, "a connection could not be accepted");
                glommio::timer::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if open.get() >= options.connections_max {
            continue;
        }
        open.set(open.get() + 1);
        let (answer, open, options) = (answer.clone(), open.clone(), options.clone());
        glommio::spawn_local(async move {
            let service = service_fn(move |request| {
                let response = answer(request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .max_buf_size(options.head_bytes_max)
                .serve_connection(Socket(stream), service);
            // A client that breaks off, or that is too slow, is its own affair.
            let _ = glommio::timer::timeout(options.connection_time_max, async {
                let _ = connection.await;
                Ok::<(), glommio::GlommioError<()>>(())
            })
            .await;
            open.set(open.get() - 1);
        })
        .detach();
    }
}

struct Socket(TcpStream);

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut bytes = [0; 8192];
        let wanted = bytes.len().min(buffer.remaining());
        let stream = Pin::new(&mut self.0);
        match futures_lite::AsyncRead::poll_read(stream, context, &mut bytes[..wanted]) {
            Poll::Ready(Ok(read)) => {
                buffer.put_slice(&bytes[..read]);
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
        futures_lite::AsyncWrite::poll_write(Pin::new(&mut self.0), context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        futures_lite::AsyncWrite::poll_flush(Pin::new(&mut self.0), context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        futures_lite::AsyncWrite::poll_close(Pin::new(&mut self.0), context)
    }
}
