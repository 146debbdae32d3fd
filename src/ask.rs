//! Asks others by HTTP, with manners: within a time, for no more than so many bytes, and only whom it was told to.

use serde::{Deserialize, Deserializer, de::Visitor};
use serde_json::Value;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;
use ureq::http::{StatusCode, Uri};

/// Of what others say in an error.
const WORDS_MAX: usize = 200;

/// What did not come of asking.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("no answer from {url}: {error}")]
    Unreached { url: Text, error: Text },
    #[error("{url}: {what}")]
    Unlike { url: Text, what: Text },
}

/// A server that is asked.
#[derive(Debug, Clone)]
pub struct Server {
    agent: ureq::Agent,
    url: String,
    /// The whole header, where it wants to know who asks.
    authorization: Option<String>,
}

impl Server {
    /// None where the url has no scheme and host, or more than a path behind them; a password in it would be
    /// shown wherever the server is named.
    #[must_use]
    pub fn new(url: &str) -> Option<Server> {
        let url = url.trim_end_matches('/');
        let parts = url.parse::<Uri>().ok();
        let scheme =
            parts.as_ref().and_then(|url| url.scheme_str().filter(|_| url.host().is_some()));
        if !matches!(scheme, Some("http" | "https")) || url.contains(['?', '#', '@']) {
            return None;
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // It is not far, and whoever names one means that one.
            .proxy(None)
            .max_redirects(0)
            .build();
        Some(Server { agent: agent.into(), url: url.to_owned(), authorization: None })
    }

    #[must_use]
    pub fn authorized(self, authorization: String) -> Server {
        Server { authorization: Some(authorization), ..self }
    }

    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// With the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> String {
        let parts = self.url.parse::<Uri>().expect("it was parsed before");
        parts.host().expect("it has one").to_owned()
    }

    /// Whatever its status is, it is an answer.
    pub fn get(
        &self,
        path: &str,
        limit: Duration,
        bytes_max: u64,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        let unreached = |error: ureq::Error| Failure::Unreached {
            url: Text::of(&self.url),
            error: Text::of(&error.to_string()),
        };
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.config().timeout_global(Some(limit)).build();
        let mut response = request.call().map_err(unreached)?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(bytes_max);
        Ok((status, body.read_to_vec().map_err(unreached)?))
    }

    /// The body of a success.
    pub fn success(&self, path: &str, limit: Duration, bytes_max: u64) -> Result<Vec<u8>, Failure> {
        let (status, body) = self.get(path, limit, bytes_max)?;
        if status.is_success() {
            return Ok(body);
        }
        // Its own words, where it has some.
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        let said = said.as_ref().and_then(|said| said["error"].as_str()).unwrap_or_default();
        let said = said.chars().take(WORDS_MAX).collect::<String>();
        Err(self.unlike(path, format!("{status} {said}").trim_end()))
    }

    /// A success, read as JSON.
    pub fn json<T: for<'de> Deserialize<'de>>(
        &self,
        path: &str,
        limit: Duration,
        bytes_max: u64,
    ) -> Result<T, Failure> {
        let body = self.success(path, limit, bytes_max)?;
        serde_json::from_slice(&body).map_err(|error| self.unlike(path, &error.to_string()))
    }

    /// It answered something else than was expected.
    #[must_use]
    pub fn unlike(&self, path: &str, what: &str) -> Failure {
        let path = path.split('?').next().unwrap_or_default();
        Failure::Unlike { url: Text::of(&format!("{}{path}", self.url)), what: Text::of(what) }
    }
}

/// Printable: control characters, and those that turn the direction of text, are written out.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(String);

impl Text {
    #[must_use]
    pub fn of(text: &str) -> Text {
        let write = |c: char| match c {
            c if c.is_control() || is_unseen(c) => c.escape_default().to_string(),
            c => c.into(),
        };
        Text(text.chars().map(write).collect())
    }
}

/// Changes how others look, and has no look of its own.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Text, D::Error> {
        struct Read;

        impl Visitor<'_> for Read {
            type Value = Text;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text::of(text))
            }
        }

        from.deserialize_str(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_no_command() {
        let text = "a\u{1b}]0;x\u{7}\u{9b}2J\r\n\t\u{202e}ü\u{feff}\u{7f}";
        let clean = Text::of(text);
        assert!(!clean.chars().any(|c| c.is_control() || is_unseen(c)), "{clean}");
        assert!(clean.contains('ü') && clean.contains("\\u{1b}"), "{clean}");
    }
}
