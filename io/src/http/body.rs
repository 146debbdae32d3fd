//! Bodies: read within limits, in memory that is granted before it is taken.

use super::Connection;
use super::watch::Phase;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::cell::Cell;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

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

    /// What is not granted.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left.get()
    }

    /// Memory that is granted, until it is dropped.
    pub fn grant(self: &Rc<Self>, bytes: usize) -> Result<Grant, BodyError> {
        let mut grant = Grant { bytes: 0, memory: self.clone() };
        grant.more(bytes)?;
        Ok(grant)
    }
}

#[derive(Debug)]
pub struct Grant {
    bytes: usize,
    memory: Rc<BodyMemory>,
}

impl Grant {
    fn more(&mut self, bytes: usize) -> Result<(), BodyError> {
        let left = self.memory.left.get().checked_sub(bytes).ok_or(BodyError::Crowded)?;
        self.memory.left.set(left);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.memory.left.set(self.memory.left.get() + self.bytes);
    }
}

/// Bytes in memory that was granted.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    bytes_max: usize,
    grant: Grant,
}

/// What a buffer takes before anything came.
const START_BYTES_MAX: usize = 64 << 10;
/// The least that a buffer grows by.
const GROWTH_BYTES: usize = 4 << 10;

impl Buffer {
    /// Room for `bytes` that are expected, and for at most `bytes_max`.
    pub fn new(
        memory: &Rc<BodyMemory>,
        bytes: usize,
        bytes_max: usize,
    ) -> Result<Buffer, BodyError> {
        if bytes > bytes_max {
            return Err(BodyError::TooLarge { max: bytes_max });
        }
        // What is declared need not come: who sends nothing holds little.
        let start = bytes.min(START_BYTES_MAX);
        let grant = memory.grant(start)?;
        Ok(Buffer { bytes: Vec::with_capacity(start), bytes_max, grant })
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn put(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        let len = self.bytes.len() + bytes.len();
        if len > self.bytes_max {
            return Err(BodyError::TooLarge { max: self.bytes_max });
        }
        if len > self.grant.bytes {
            let wanted = len.max(2 * self.grant.bytes).max(GROWTH_BYTES).min(self.bytes_max);
            self.grant.more(wanted - self.grant.bytes)?;
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The bytes, and the memory that they were granted.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, Grant) {
        (self.bytes, self.grant)
    }
}

/// The length that a body declares, which is not more than `bytes_max`.
pub fn declared(body: &Incoming, bytes_max: usize) -> Result<Option<usize>, BodyError> {
    match body.size_hint().exact().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)) {
        Some(bytes) if bytes > bytes_max => Err(BodyError::TooLarge { max: bytes_max }),
        declared => Ok(declared),
    }
}

/// Reads a body to its end, and gives each piece away as it comes.
pub async fn read_body<E: From<BodyError>>(
    connection: &Connection,
    body: Incoming,
    bytes_max: usize,
    mut put: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let own = connection.is_shared().then(|| connection.wait.beside(Phase::Body));
    let wait = own.as_ref().unwrap_or(&connection.wait);
    wait.enter(Phase::Body);
    let mut body = pin!(body);
    let mut read = 0;
    loop {
        let frame = std::future::poll_fn(|context| {
            if wait.is_overdue() {
                return Poll::Ready(Some(Err(BodyError::Slow)));
            }
            wait.listen(context);
            let frame = body.as_mut().poll_frame(context);
            frame.map(|frame| frame.map(|f| f.map_err(|e| BodyError::Broken(e.to_string()))))
        });
        let Some(frame) = frame.await else { break };
        let Ok(data) = frame?.into_data() else { continue };
        wait.moved(data.len());
        read += data.len();
        if read > bytes_max {
            return Err(BodyError::TooLarge { max: bytes_max }.into());
        }
        put(&data)?;
    }
    wait.enter(Phase::Work);
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_granted_before_it_is_taken_and_given_back() {
        let memory = Rc::new(BodyMemory::new(10_000));
        let mut one = Buffer::new(&memory, 0, 8_000).unwrap();
        one.put(&[1; 5_000]).unwrap();
        let mut other = Buffer::new(&memory, 3_000, 8_000).unwrap();
        assert_eq!(Buffer::new(&memory, 3_000, 8_000).unwrap_err(), BodyError::Crowded);
        assert_eq!(other.put(&[2; 9_000]), Err(BodyError::TooLarge { max: 8_000 }));
        assert_eq!(other.put(&[2; 7_000]), Err(BodyError::Crowded));
        other.put(&[2; 3_000]).unwrap();
        let (bytes, grant) = one.into_parts();
        assert!(bytes == [1; 5_000] && bytes.capacity() <= grant.bytes);
        drop(grant);
        other.put(&[2; 4_000]).unwrap();
        drop(other);
        assert_eq!(memory.left.get(), 10_000);
    }
}
