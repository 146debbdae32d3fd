//! What operators ask of a running process, on `server.listen`; [`crate::receive`] has the endpoints for
//! lines.
//!
//! - `GET /health`, `/ready`: for those who watch, and for load balancers.
//! - `GET /stats`, `/slo/status`, `/shards`, `/sinks`, `/positions`, `/dlq/stats`: how it goes.
//! - `GET /config`, `/config/history`, `/version`, `/openapi.json`: what it is.
//! - `POST /config/reload`, `/config/rollback` (with `{"version": 3}`): another configuration.
//! - `POST /dlq/reprocess`, `/dlq/purge`: with `{"filter": […], "labels": {…}, "restamp": false}`;
//!   answered with the number of entries once every queue has done so.
//!
//! - `GET /security/audit`: who changed something, or was to.
//!
//! What changes anything needs the role operate, which is had by this host alone where nobody is asked who they are
//! ([`crate::guard`]), and is not for pages in a browser.
//!
//! What is not answered with success is `{"error", "code", "timestamp"}`.

mod audit;
mod dlq;
mod positions;
mod settings;

pub use positions::Listing;
pub use settings::{Control, shown as shown_version, status as status_of};

use crate::desk::Desk;
use crate::egress::Egress;
use crate::guard::audit::Entry;
use crate::guard::{Denied, Guard, Pass, Post, Role, Who};
use crate::health::Level;
use crate::lock;
use crate::receive::{drained, respond};
use crate::server::Status;
use crate::sightings::Sightings;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, HeaderMap, HeaderValue, ORIGIN};
use hyper::{Method, Request, Response, StatusCode, Version};
use io::http::{self, BodyError, Connection, Full};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// What the API shares with the shards and the senders.
pub struct Panel {
    pub status: Arc<Status>,
    pub desk: Arc<Desk>,
    pub egresses: Vec<Arc<Egress>>,
    /// Of each shard.
    pub sightings: Vec<Arc<Sightings>>,
    pub listing: Arc<Listing>,
    /// Where what is not for a shard's CPU is done.
    pub egress_cpu: usize,
    /// In force, without its secrets.
    pub config: Value,
    pub data_dir: PathBuf,
    pub control: Arc<Control>,
    pub guard: Arc<Guard>,
}

/// The panel of the configuration that is in force.
pub struct Panels(Mutex<Arc<Panel>>);

impl Panels {
    #[must_use]
    pub fn new(panel: Panel) -> Panels {
        Panels(Mutex::new(Arc::new(panel)))
    }

    #[must_use]
    pub fn current(&self) -> Arc<Panel> {
        lock(&self.0).clone()
    }

    pub fn replace(&self, panel: Panel) {
        *lock(&self.0) = Arc::new(panel);
    }
}

/// Where a request comes from, and who judges it.
pub struct Caller {
    pub connection: Rc<Connection>,
    pub post: Rc<Post>,
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Why something is not answered with success.
pub(crate) type Wrong = (StatusCode, String);

const OPENAPI: &str = include_str!("openapi.json");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Health,
    Ready,
    Version,
    Stats,
    Slo,
    Shards,
    Sinks,
    Positions,
    Config,
    ConfigHistory,
    ConfigReload,
    ConfigRollback,
    OpenApi,
    DlqStats,
    DlqReprocess,
    DlqPurge,
    Audit,
}

const ENDPOINTS: [(&str, Endpoint); 17] = [
    ("/health", Endpoint::Health),
    ("/ready", Endpoint::Ready),
    ("/version", Endpoint::Version),
    ("/stats", Endpoint::Stats),
    ("/slo/status", Endpoint::Slo),
    ("/shards", Endpoint::Shards),
    ("/sinks", Endpoint::Sinks),
    ("/positions", Endpoint::Positions),
    ("/config", Endpoint::Config),
    ("/config/history", Endpoint::ConfigHistory),
    ("/config/reload", Endpoint::ConfigReload),
    ("/config/rollback", Endpoint::ConfigRollback),
    ("/openapi.json", Endpoint::OpenApi),
    ("/dlq/stats", Endpoint::DlqStats),
    ("/dlq/reprocess", Endpoint::DlqReprocess),
    ("/dlq/purge", Endpoint::DlqPurge),
    ("/security/audit", Endpoint::Audit),
];

fn known(path: &str) -> Option<(&'static str, Endpoint)> {
    ENDPOINTS.iter().find(|(known, _)| *known == path).copied()
}

/// What a request for this path needs; what is not there tells nothing to those who may not ask.
#[must_use]
pub fn needed(path: &str) -> Option<Role> {
    match known(path) {
        // Load balancers and orchestrators probe these, and have no tokens.
        Some((_, Endpoint::Health | Endpoint::Ready | Endpoint::Version)) => None,
        Some((_, Endpoint::Audit)) => Some(Role::Operate),
        Some((_, endpoint)) if endpoint.changes() => Some(Role::Operate),
        Some(_) | None => Some(Role::Read),
    }
}

impl Endpoint {
    fn changes(self) -> bool {
        use Endpoint::{ConfigReload, ConfigRollback, DlqPurge, DlqReprocess};
        matches!(self, ConfigReload | ConfigRollback | DlqReprocess | DlqPurge)
    }

    /// Of what it is asked with.
    fn order_bytes_max(self) -> usize {
        match self {
            Endpoint::DlqReprocess | Endpoint::DlqPurge => dlq::ORDER_BYTES_MAX,
            _ => settings::ORDER_BYTES_MAX,
        }
    }
}

impl Panel {
    /// Answers, and keeps what changed something, or was to.
    pub async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        caller: Caller,
        admitted: Result<Pass, Denied>,
    ) -> Response<Full> {
        let changes = known(request.uri().path()).filter(|(_, endpoint)| endpoint.changes());
        let changes = changes.filter(|_| request.method() == Method::POST);
        match (admitted, changes) {
            (Ok(pass), None) => self.answer_admitted(&request, &pass).await,
            (Ok(pass), Some(of)) => self.answer_change(of, request, caller, pass).await,
            (Err(denied), changes) => {
                if let Some((path, _)) = changes.filter(|_| !denied.closes()) {
                    let who = denied.who().map_or_else(|| "unknown".to_owned(), Who::to_string);
                    self.guard.audit.record(entry(&who, path, &caller, denied.status()));
                }
                refused_to(&denied, request, &caller.connection).await
            }
        }
    }

    /// What is begun goes on to its end and is kept, also where whoever asked does not wait for it: hyper drops what
    /// answers a request of HTTP/2 that is broken off.
    async fn answer_change(
        self: Arc<Self>,
        (path, endpoint): (&'static str, Endpoint),
        request: Request<Incoming>,
        caller: Caller,
        pass: Pass,
    ) -> Response<Full> {
        let (head, incoming) = request.into_parts();
        let bytes_max = endpoint.order_bytes_max();
        let body = body(&head.headers, incoming, &caller.connection, bytes_max).await;
        let done = async move {
            // The body may have taken its time: what counts are the rules in force now.
            let still = caller.post.admit_again(Role::Operate, &head.headers, &caller.connection);
            let response = match (body, still) {
                (Err(wrong), _) => refused(wrong),
                (Ok(_), Err(denied)) => refusal(&denied),
                (Ok(body), Ok(())) => answered(self.change(path, endpoint, &body).await),
            };
            let kept = entry(&pass.who.to_string(), path, &caller, response.status());
            self.guard.audit.keep(kept).await;
            response
        };
        let stopping = || refused((StatusCode::SERVICE_UNAVAILABLE, "stopping".into()));
        glommio::spawn_local(done).detach().await.unwrap_or_else(stopping)
    }

    async fn change(&self, path: &str, endpoint: Endpoint, body: &[u8]) -> Result<Value, Wrong> {
        match endpoint {
            Endpoint::ConfigReload => self.reload().await,
            Endpoint::ConfigRollback => self.rollback(body).await,
            _ => self.order(path, body).await,
        }
    }

    async fn answer_admitted(&self, request: &Request<Incoming>, pass: &Pass) -> Response<Full> {
        let Some((_, endpoint)) = known(request.uri().path()) else {
            let known = ENDPOINTS.map(|(path, _)| path).join(", ");
            let lines = crate::receive::Endpoint::ALL.map(crate::receive::Endpoint::path);
            let text = format!("not found; there is {known}; for lines {}", lines.join(", "));
            return refused((StatusCode::NOT_FOUND, text));
        };
        let reads = matches!(request.method(), &Method::GET | &Method::HEAD);
        if endpoint.changes() || !reads {
            let (expected, allow) =
                if endpoint.changes() { ("POST", "POST") } else { ("GET", "GET, HEAD") };
            let text = format!("expected {expected}");
            let mut response = refused((StatusCode::METHOD_NOT_ALLOWED, text));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            return response;
        }
        let report = self.status.board.last();
        let answer = match endpoint {
            Endpoint::Health => {
                let fails = report.health.status == Level::Critical || !self.status.is_ready();
                let code = if fails { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
                let mut health = self.health();
                if !pass.may(Role::Read) {
                    // To those who may not ask, no more than a probe needs.
                    health = json!({ "status": health["status"], "ready": health["ready"] });
                }
                return respond(code, JSON, format!("{health}\n"));
            }
            Endpoint::Ready if self.status.is_ready() => {
                return respond(StatusCode::OK, TEXT, "ready\n");
            }
            Endpoint::Ready => {
                let text = "not ready: starting or stopping";
                Err((StatusCode::SERVICE_UNAVAILABLE, text.to_owned()))
            }
            Endpoint::OpenApi => return respond(StatusCode::OK, JSON, OPENAPI),
            Endpoint::Version if pass.may(Role::Read) => Ok(json!({ "version": crate::version() })),
            // As a probe, it needs no more than an answer.
            Endpoint::Version => Ok(json!({})),
            Endpoint::Stats => Ok(report.stats.clone()),
            Endpoint::Slo => Ok(report.slo.clone()),
            Endpoint::Shards => Ok(json!({ "shards": report.stats["shards"] })),
            Endpoint::Sinks => Ok(self.sinks()),
            Endpoint::Positions => {
                let query = request.uri().query().unwrap_or_default().to_owned();
                self.positions(&query).await
            }
            Endpoint::Config => Ok(self.config.clone()),
            Endpoint::ConfigHistory => self.history(),
            Endpoint::DlqStats => Ok(self.dlq_stats()),
            Endpoint::Audit => self.audit(request.uri().query().unwrap_or_default()),
            Endpoint::ConfigReload
            | Endpoint::ConfigRollback
            | Endpoint::DlqReprocess
            | Endpoint::DlqPurge => unreachable!("refused by its method"),
        };
        answered(answer)
    }

    fn health(&self) -> Value {
        let report = self.status.board.last();
        let ready = self.status.is_ready();
        // The report is up to a second old, and this is known now.
        let status = if ready { report.health.status } else { Level::Critical };
        json!({
            "status": status,
            "ready": ready,
            "version": crate::version(),
            "timestamp": jiff::Timestamp::now().to_string(),
            "uptime_seconds": report.stats["uptime_seconds"],
            "services": report.health.services,
            "checks": report.health.checks,
        })
    }

    fn sinks(&self) -> Value {
        let sinks = self
            .egresses
            .iter()
            .map(|egress| json!({ "sink": egress.sink(), "tenants": egress.seen() }));
        json!({ "sinks": sinks.collect::<Vec<_>>() })
    }
}

/// The body of a request that changes something: not from a page in a browser.
async fn body(
    headers: &HeaderMap,
    incoming: Incoming,
    connection: &Connection,
    bytes_max: usize,
) -> Result<Vec<u8>, Wrong> {
    if headers.contains_key(ORIGIN) {
        // A browser on this host sends what any page has it send.
        let text = "expected a request without Origin: this is not for pages in a browser";
        return Err((StatusCode::FORBIDDEN, text.into()));
    }
    let mut body = Vec::new();
    let read = http::read_body(connection, incoming, bytes_max, |piece| {
        body.extend_from_slice(piece);
        Ok::<_, BodyError>(())
    });
    read.await.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(body)
}

/// What a body asks for; nothing where it is empty.
fn object<T: Default + DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let body = body.trim_ascii();
    match body.first() {
        None => Ok(T::default()),
        Some(b'{') => serde_json::from_slice(body).map_err(|error| error.to_string()),
        // Of an array, serde would take its values for the fields: `[]` for an order without a filter.
        Some(_) => Err("it is no object".to_owned()),
    }
}

/// To those who may not ask. What is left of the request is read away, as far as it is little.
async fn refused_to(
    denied: &Denied,
    request: Request<Incoming>,
    connection: &Connection,
) -> Response<Full> {
    let mut response = refusal(denied);
    let (head, rest) = request.into_parts();
    let follows = !denied.closes() && drained(&head.headers, rest, connection).await;
    if !follows && head.version != Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn refusal(denied: &Denied) -> Response<Full> {
    let mut response = refused((denied.status(), denied.to_string()));
    denied.mark(&mut response);
    response
}

fn entry(who: &str, path: &str, caller: &Caller, status: StatusCode) -> Entry {
    let peer = caller.connection.peer.to_canonical();
    Entry::now(who, Some(peer), "POST", path, status.as_u16())
}

fn answered(answer: Result<Value, Wrong>) -> Response<Full> {
    match answer {
        Ok(value) => respond(StatusCode::OK, JSON, format!("{value}\n")),
        Err(wrong) => refused(wrong),
    }
}

fn refused((code, error): Wrong) -> Response<Full> {
    let body = json!({
        "error": error,
        "code": code.as_u16(),
        "timestamp": jiff::Timestamp::now().to_string(),
    });
    respond(code, JSON, format!("{body}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn document() -> Value {
        serde_json::from_str(OPENAPI).expect("JSON")
    }

    #[test]
    fn the_document_has_exactly_the_endpoints_and_their_methods() {
        let document = document();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let paths = document["paths"].as_object().unwrap();
        let described: BTreeSet<(&str, &str)> = paths
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().keys();
                methods.map(move |method| (path.as_str(), method.as_str()))
            })
            .collect();
        let panel = ENDPOINTS
            .map(|(path, endpoint)| (path, if endpoint.changes() { "post" } else { "get" }));
        let lines = crate::receive::Endpoint::ALL.map(|endpoint| (endpoint.path(), "post"));
        assert_eq!(described, panel.into_iter().chain(lines).collect());
    }

    #[test]
    fn whatever_the_document_refers_to_is_there_and_used() {
        fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
            match value {
                Value::Object(object) => {
                    if let Some(Value::String(to)) = object.get("$ref") {
                        found.insert(to.strip_prefix('#').expect("within the document"));
                    }
                    object.values().for_each(|value| references(value, found));
                }
                Value::Array(array) => array.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for to in &found {
            assert!(document.pointer(to).is_some(), "{to}");
        }
        let ways = document["security"].as_array().unwrap();
        for (kind, all) in document["components"].as_object().unwrap() {
            for name in all.as_object().unwrap().keys() {
                let to = format!("/components/{kind}/{name}");
                let is_way =
                    kind == "securitySchemes" && ways.iter().any(|way| !way[name].is_null());
                assert!(is_way || found.contains(to.as_str()), "{to} is not used");
            }
        }
    }
}
