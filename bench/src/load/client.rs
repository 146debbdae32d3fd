//! An HTTP client that costs next to nothing: a connection, requests made before, answers read by hand.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const READ_BYTES: usize = 4096;
/// An answer that is larger is none of the product's.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// One connection that is kept; one request at a time.
pub struct Client {
    stream: TcpStream,
    /// The last answer, and where its text begins.
    answer: Vec<u8>,
    text: usize,
}

/// Appends a POST, whole; `headers` each end in a line break as HTTP has it.
pub fn post(path: &str, headers: &str, body: &[u8], out: &mut Vec<u8>) {
    let len = body.len();
    let head = format_args!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\n{headers}Content-Length: {len}\r\n\r\n"
    );
    out.write_fmt(head).expect("a Vec takes everything");
    out.extend_from_slice(body);
}

impl Client {
    /// Nothing may take longer than `limit`.
    pub fn connect(addr: SocketAddr, limit: Duration) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&addr, limit)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Client { stream, answer: Vec::new(), text: 0 })
    }

    /// Sends a request and gives the answer's status.
    pub fn send(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request)?;
        self.answer()
    }

    /// Likewise, of a request that may be answered before all of it was sent: whoever answers so
    /// need not take the rest.
    pub fn send_unwanted(&mut self, request: &[u8]) -> io::Result<u16> {
        let mut stream = self.stream.try_clone()?;
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || stream.write_all(request));
            let status = self.answer();
            // Wakes a writer that nobody reads from any more; its error is no news then.
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
            let _ = writer.join();
            status
        })
    }

    /// The last answer's text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.answer[self.text..]).into_owned()
    }

    fn answer(&mut self) -> io::Result<u16> {
        self.answer.clear();
        self.text = 0;
        let end = loop {
            match memchr::memmem::find(&self.answer, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.read()?,
            }
        };
        let Some((status, text_bytes)) = head(&self.answer[..end]) else {
            let head = String::from_utf8_lossy(&self.answer[..end]);
            return Err(io::Error::other(format!("an answer that cannot be read: {head:?}")));
        };
        while self.answer.len() < end + text_bytes {
            self.read()?;
        }
        if self.answer.len() > end + text_bytes {
            return Err(io::Error::other("more was answered than was asked"));
        }
        self.text = end;
        Ok(status)
    }

    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; READ_BYTES];
        let read = self.stream.read(&mut bytes)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.answer.len() + read > ANSWER_BYTES_MAX {
            return Err(io::Error::other("the answer has no end"));
        }
        self.answer.extend_from_slice(&bytes[..read]);
        Ok(())
    }
}

/// Status and length; a length must be said, but for what has no text.
fn head(bytes: &[u8]) -> Option<(u16, usize)> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Some((status, if status == 204 { 0 } else { length? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// Answers each request on one connection by the next of these. The connection stays open as
    /// long as the handle is held: closing one with unread bytes resets it, and the reset may
    /// overtake the answer.
    fn server(answers: &'static [&'static str]) -> (SocketAddr, JoinHandle<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let held = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut byte = [0; READ_BYTES];
                let _ = stream.read(&mut byte);
                for part in answer.as_bytes().chunks(7) {
                    stream.write_all(part).unwrap();
                }
            }
            stream
        });
        (addr, held)
    }

    #[test]
    fn answers_are_read_whole_on_one_connection() {
        let (addr, _held) = server(&[
            "HTTP/1.1 202 Accepted\r\ncontent-length: 3\r\n\r\nyes",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
        ]);
        let mut client = Client::connect(addr, Duration::from_secs(5)).unwrap();
        let mut request = Vec::new();
        post("/x", "", b"body", &mut request);
        assert!(request.ends_with(b"Content-Length: 4\r\n\r\nbody"));
        assert_eq!((client.send(&request).unwrap(), client.text()), (202, "yes".into()));
        assert_eq!((client.send(&request).unwrap(), client.text()), (204, String::new()));
        assert_eq!(client.send(&request).unwrap(), 413);
        assert!(client.send(&request).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn an_early_answer_is_read_though_nobody_takes_the_rest() {
        let (addr, _held) =
            server(&["HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n"]);
        let mut client = Client::connect(addr, Duration::from_secs(5)).unwrap();
        assert_eq!(client.send_unwanted(&vec![b'x'; 32 << 20]).unwrap(), 413);
    }
}
