//! The keys of a sink that say how it is reached: TLS, who asks, by which way, and what goes along.

use crate::error::Problem;
use crate::expand::is_one_variable;
use crate::read::{Reader, Section};
use crate::secret::{REDACTED, Secret};
use crate::{Auth, Basic, Bearer, Proxy, Tls};
use serde::Serializer;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// Headers that are set by other keys.
const HEADERS_BY_KEY: [(&str, &str); 3] =
    [("authorization", "auth"), ("proxy-authorization", "proxy"), ("x-scope-orgid", "tenant")];
/// Headers that every push has for itself, or that belong to the connection.
const HEADERS_TAKEN: [&str; 13] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
const HEADERS_MAX: usize = 32;

pub fn tls(r: &mut Reader<'_>, sink: &mut Section, url: &str) -> Tls {
    let path = sink.key("tls");
    let mut section = r.section(sink, "tls");
    let s = &mut section;
    let (cert, key) = (s.has("cert_file"), s.has("key_file"));
    let tls = Tls {
        ca_file: file(r, s, "ca_file"),
        cert_file: file(r, s, "cert_file"),
        key_file: file(r, s, "key_file"),
        server_name: server_name(r, s),
    };
    if cert != key {
        let (given, missing) =
            if cert { ("cert_file", "key_file") } else { ("key_file", "cert_file") };
        let text = format!("expected a path along with {given}, found nothing");
        let problem = Problem::new(s.line, s.key(missing), text);
        r.problem(problem.hint("a client certificate needs both"));
    }
    if tls != Tls::default() && url.starts_with("http:") {
        let text = "expected a url that begins with https:// along with it, found http://";
        let problem = Problem::new(s.line, path, text);
        r.problem(problem.hint("change the url, or remove tls"));
    }
    r.finish(section);
    tls
}

pub fn file(r: &mut Reader<'_>, section: &mut Section, key: &'static str) -> Option<PathBuf> {
    let text = r.text(section, key, "an absolute path")?;
    if !text.text.starts_with('/') {
        let problem = text.problem("an absolute path");
        r.problem(problem.hint("begin it with /, such as /etc/log-capturer/file"));
    }
    Some(text.text.into())
}

fn server_name(r: &mut Reader<'_>, section: &mut Section) -> Option<String> {
    let text = r.text(section, "server_name", "the name in the sink's certificate")?;
    let name = &text.text;
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let is_name = name.len() <= 253 && name.split('.').all(is_label);
    if !is_name && name.parse::<IpAddr>().is_err() {
        let problem = text.problem("the name in the sink's certificate");
        r.problem(problem.hint("a host name or an IP address, without a port"));
    }
    Some(text.text)
}

pub fn auth(r: &mut Reader<'_>, sink: &mut Section) -> Option<Auth> {
    let key = sink.key("auth");
    let mut section = r.section(sink, "auth");
    let s = &mut section;
    let line = s.line;
    let basic = r.section_if_given(s, "basic").map(|section| Auth::Basic(basic(r, section)));
    let bearer = r.section_if_given(s, "bearer").map(|section| Auth::Bearer(bearer(r, section)));
    r.finish(section);
    match (basic, bearer) {
        (Some(_), Some(_)) => {
            let problem = Problem::new(line, key, "expected basic or bearer, found both");
            r.problem(problem.hint("remove the one that the sink does not ask for"));
            None
        }
        (basic, bearer) => basic.or(bearer),
    }
}

fn basic(r: &mut Reader<'_>, mut section: Section) -> Basic {
    let s = &mut section;
    let username = r.required(s, "username", "a user's name");
    if let Some(text) = &username
        && (text.text.is_empty() || text.text.contains(|c: char| c == ':' || c.is_control()))
    {
        r.problem(text.problem("a user's name without a colon"));
    }
    let (password, password_file) = secret_or_file(r, s, "password", "password_file");
    r.finish(section);
    Basic { username: username.map(|text| text.text).unwrap_or_default(), password, password_file }
}

fn bearer(r: &mut Reader<'_>, mut section: Section) -> Bearer {
    let (token, token_file) = secret_or_file(r, &mut section, "token", "token_file");
    if let Some(token) = &token
        && !token.reveal().chars().all(|c| c.is_ascii_graphic())
    {
        let text = "expected a token of visible ASCII signs, found another sign in it";
        let problem = Problem::new(section.line, section.key("token"), text);
        r.problem(problem.hint("the value is a secret and not shown; mind spaces and line ends"));
    }
    r.finish(section);
    Bearer { token, token_file }
}

/// A secret as a text or in a file: one of both.
fn secret_or_file(
    r: &mut Reader<'_>,
    section: &mut Section,
    key: &'static str,
    file_key: &'static str,
) -> (Option<Secret>, Option<PathBuf>) {
    let given = (section.has(key), section.has(file_key));
    let (line, path) = (section.line, section.key(key));
    let secret = r.secret(section, key, &format!("a {key}"));
    let file = file(r, section, file_key);
    if given == (true, true) {
        let text = format!("expected {key} or {file_key}, found both");
        r.problem(Problem::new(line, path, text).hint("remove one of them"));
    } else if given == (false, false) {
        let text = format!("expected {key} or {file_key}, found nothing");
        let hint = format!("such as {file_key}: /etc/log-capturer/{key}");
        r.problem(Problem::new(line, path, text).hint(hint));
    } else if given.0 && secret.as_ref().is_some_and(|secret| secret.reveal().is_empty()) {
        r.problem(Problem::new(line, path, format!("expected a {key}, found an empty one")));
    }
    (secret, file)
}

pub fn proxy(r: &mut Reader<'_>, sink: &mut Section) -> Proxy {
    let expected = "none, environment, or http://HOST:PORT";
    let line = sink.line_of("proxy").unwrap_or(sink.line);
    let key = sink.key("proxy");
    let Some((text, raw)) = r.hidden(sink, "proxy", expected) else { return Proxy::None };
    match text.as_str() {
        "none" => return Proxy::None,
        "environment" => return Proxy::Environment,
        _ => {}
    }
    let uri = text.parse::<http::Uri>().ok().filter(|uri| {
        uri.scheme_str() == Some("http")
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.port_u16().is_some_and(|port| port > 0)
            && uri.path_and_query().is_none_or(|path| path == "/")
    });
    if uri.is_none() {
        // The text is not repeated: it may hold a password.
        let problem = Problem::new(line, key, format!("expected {expected}, found something else"));
        r.problem(problem.hint(
            "such as http://10.0.0.1:3128 or http://user:${PROXY_PASSWORD}@10.0.0.1:3128; signs \
             other than letters and digits of a password are written as %40",
        ));
    }
    let shown = shown_proxy(&text, &raw);
    Proxy::At(Secret::new(text, shown))
}

/// The proxy's address without its password, unless that came from a variable.
fn shown_proxy(text: &str, raw: &str) -> String {
    let split = |text: &str| -> Option<(String, String)> {
        let (start, rest) = text.split_once("://")?;
        let (user, host) = rest.rsplit_once('@')?;
        Some((user.to_owned(), format!("{start}://{REDACTED}@{host}")))
    };
    let Some((_, redacted)) = split(text) else { return text.to_owned() };
    let password = split(raw).map(|(user, _)| {
        user.split_once(':').map_or(user.clone(), |(_, password)| password.to_owned())
    });
    if is_one_variable(raw) || password.is_some_and(|password| is_one_variable(&password)) {
        raw.to_owned()
    } else {
        redacted
    }
}

pub fn headers(r: &mut Reader<'_>, sink: &mut Section) -> BTreeMap<String, Secret> {
    let given = r.secret_map(sink, "headers");
    let mut headers = BTreeMap::new();
    if given.len() > HEADERS_MAX {
        let text = format!("expected at most {HEADERS_MAX} headers, found {}", given.len());
        r.problem(Problem::new(sink.line, sink.key("headers"), text));
    }
    for (name, line, value) in given {
        let key = sink.key(&format!("headers.{name}"));
        let lower = name.to_ascii_lowercase();
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let text = format!("expected the name of a header, found {name:?}");
            r.problem(Problem::new(line, key, text).hint("letters, digits and - only"));
        } else if let Some((_, by)) = HEADERS_BY_KEY.iter().find(|(taken, _)| *taken == lower) {
            let text = format!("expected another header, found {name}");
            r.problem(Problem::new(line, key, text).hint(format!("the key {by} sets it")));
        } else if HEADERS_TAKEN.contains(&lower.as_str()) {
            let text = format!("expected another header, found {name}");
            r.problem(Problem::new(line, key, text).hint("every push has it already: remove it"));
        } else if http::HeaderValue::from_str(value.reveal()).is_err()
            || !value.reveal().is_ascii()
            || value.reveal().trim() != value.reveal()
        {
            let text = "expected a value of visible ASCII signs, found another sign in it";
            let hint = "the value is not shown; mind line ends, and spaces around it";
            r.problem(Problem::new(line, key, text).hint(hint));
        } else if headers.insert(lower, value).is_some() {
            let text = format!("expected each header once, found {name} again");
            r.problem(Problem::new(line, key, text).hint("capitals make no difference"));
        }
    }
    headers
}

pub fn print_none<S: Serializer>(to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str("none")
}

pub fn print_environment<S: Serializer>(to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str("environment")
}
