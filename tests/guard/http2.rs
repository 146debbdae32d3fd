//! HTTP/2 frame by frame, for what no client does.

use std::io::Read;

/// Of a frame, before what it holds.
const HEAD_BYTES: usize = 9;
const GOAWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short one");
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// What a client begins with.
pub fn start() -> Vec<u8> {
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat()
}

/// A request without a body.
pub fn post(stream: u8, path: &str, authorization: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    // POST, http; path, authority and authorization as literals.
    let headers = [
        vec![0x83, 0x86, 0x04],
        text(path),
        vec![0x01],
        text("x"),
        vec![0x0f, 0x08],
        text(authorization),
    ];
    frame(1, 5, stream, &headers.concat())
}

/// The client does not wait for the answer.
pub fn cancel(stream: u8) -> Vec<u8> {
    frame(3, 0, stream, &[0, 0, 0, 8])
}

/// Reads until the server says that the connection ends.
pub fn expect_goaway(mut from: impl Read) {
    loop {
        let mut head = [0; HEAD_BYTES];
        from.read_exact(&mut head).expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        from.read_exact(&mut vec![0; length as usize]).expect("all of it");
        if head[3] == GOAWAY {
            return;
        }
    }
}
