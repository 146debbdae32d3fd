//! What is done with a connection beside an answer that hyper writes.

use super::Shared;
use super::answer::Body;
use hyper::Response;
use std::io;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// What an endless answer says its length is.
const ENDLESS_BYTES: u64 = 10_000_000_000;
const ENDLESS_STEP: usize = 64 << 10;

/// Instead of an answer of hyper's.
#[derive(Debug)]
pub enum Wire {
    Reset,
    /// As a server does whose idle time is over.
    Close,
    /// These bytes, and then the connection goes on or is closed.
    Bytes {
        bytes: Vec<u8>,
        close: bool,
    },
    /// An error with a text that goes on while somebody reads it.
    Endless {
        status: u16,
    },
}

impl Wire {
    /// Has the connection's task play it; never comes back.
    pub async fn send(self, to: &mpsc::Sender<Wire>) -> Result<Response<Body>, hyper::Error> {
        // The connection's task holds the other end for as long as this runs.
        let _ = to.send(self).await;
        std::future::pending().await
    }

    /// Whether the connection goes on.
    pub async fn play(self, stream: &mut TcpStream, shared: &Shared) -> bool {
        match self {
            // With no time to linger, closing sends a reset.
            Wire::Reset => {
                let _ = stream.set_zero_linger();
                false
            }
            Wire::Close => false,
            Wire::Bytes { bytes, close } => {
                let written = stream.write_all(&bytes).await.is_ok();
                if close {
                    let _ = stream.shutdown().await;
                }
                written && !close
            }
            // It always ends in an error: the client's patience.
            Wire::Endless { status } => endless(status, stream, shared).await.is_ok(),
        }
    }
}

async fn endless(status: u16, stream: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} Oh\r\nContent-Length: {ENDLESS_BYTES}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let text = vec![b'x'; ENDLESS_STEP];
    let mut left = ENDLESS_BYTES;
    while left > 0 {
        let step = left.min(ENDLESS_STEP as u64);
        let written = stream.write(&text[..usize::try_from(step).expect("a step")]).await? as u64;
        left -= written;
        shared.store().stats.faults.endless_bytes += written;
    }
    Ok(())
}
