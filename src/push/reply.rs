//! What came back, read within limits.

use crate::verdict::Answer;
use flate2::read::MultiGzDecoder;
use std::io::Read;
use std::time::{Duration, SystemTime};
use ureq::http::{HeaderMap, Response};

/// Of an answer no more than this is read, and no more of it decoded: an error page may be endless.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// An answer, and when it was given by the sink's own clock, where that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub answer: Answer,
    pub date_unix_s: Option<i64>,
}

impl Reply {
    pub(super) fn broken(error: String) -> Reply {
        Reply { answer: Answer::Broken(error), date_unix_s: None }
    }

    pub(super) fn of(mut response: Response<ureq::Body>) -> Reply {
        let date = header(response.headers(), "date").and_then(|text| date(&text));
        let retry_after = header(response.headers(), "retry-after")
            .and_then(|text| retry_after(&text, date.unwrap_or_else(SystemTime::now)));
        let encoding = header(response.headers(), "content-encoding").unwrap_or_default();
        let mut body = Vec::new();
        // A status without its text is an answer all the same.
        let _ = response.body_mut().as_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut body);
        Reply {
            answer: Answer::Status {
                code: response.status().as_u16(),
                retry_after,
                text: text(&body, &encoding),
            },
            date_unix_s: date.and_then(unix_seconds),
        }
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_owned())
}

fn date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

fn unix_seconds(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// Seconds, or the time when `now` is the sink's: a time that is over means no wait.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(date(text)?.duration_since(now).unwrap_or_default()),
    }
}

/// The text of an answer. Gateways compress their error pages though nobody asked for that.
fn text(body: &[u8], encoding: &str) -> String {
    let encoding = encoding.to_ascii_lowercase();
    let mut decoded = Vec::new();
    let body = match encoding.as_str() {
        "" | "identity" => body,
        "gzip" | "x-gzip" => {
            // What comes before an error, as the end of the limit, is text all the same.
            let ended = MultiGzDecoder::new(body).take(ANSWER_BYTES_MAX).read_to_end(&mut decoded);
            if ended.is_err() && decoded.is_empty() && !body.is_empty() {
                return "(its text is said to be gzip, and is not)".into();
            }
            &decoded
        }
        _ if body.is_empty() => body,
        _ => return "(its text is compressed in a way that is not known here)".into(),
    };
    String::from_utf8_lossy(body).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use std::io::Write;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn texts_are_decoded_within_their_limit() {
        let page = gzip(b" <html>bad gateway</html>\n");
        assert_eq!(text(&page, "gzip"), "<html>bad gateway</html>");
        assert_eq!(text(&page, "X-GZIP"), "<html>bad gateway</html>");
        assert_eq!(text(&[page.clone(), page].concat(), "gzip").matches("bad").count(), 2);
        let bomb = gzip(&vec![b'x'; 100 << 20]);
        assert_eq!(text(&bomb[..64 << 10], "gzip").len(), 64 << 10, "cut, and a bomb");
        let noise: Vec<u8> = (0..40_000_u64).map(|n| (n * n % 251) as u8 & 0x3f | 0x40).collect();
        let cut = gzip(&noise);
        assert!(noise.starts_with(text(&cut[..cut.len() / 2], "gzip").as_bytes()));
        assert_eq!(text(b"<html>", "gzip"), "(its text is said to be gzip, and is not)");
        assert_eq!(text(b"", "gzip"), "");
        assert_eq!(text(b"", "br"), "");
        assert!(text(b"\x1b\x00", "br").contains("not known here"));
        assert_eq!(text(b"plain\xff", "identity"), "plain\u{fffd}");
    }

    #[test]
    fn times_are_read_in_all_their_forms() {
        let now = date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(unix_seconds(now), Some(784_111_777));
        for same in ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(date(same), Some(now), "{same}");
        }
        for wrong in ["", "yesterday", "784111777", "Sun, 06 Nov 1994 08:49:37 +0000 x"] {
            assert_eq!(date(wrong), None, "{wrong}");
        }
        let seconds = |text| retry_after(text, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("7"), Some(7));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0), "it is over");
        assert_eq!(seconds("-1"), None);
        assert_eq!(seconds("soon"), None);
    }
}
