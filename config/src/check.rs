//! The keys, their defaults and their limits.

use crate::client;
use crate::error::Problem;
use crate::guard;
use crate::read::{Reader, Section, Text};
use crate::tree::{Node, Value};
use crate::{
    Ack, Canary, Config, Cores, Egress, FileSource, Loki, LokiLimits, LongLines, Metrics, Reload,
    Server, ServerLimits, Shards, Sink, SinkKind, Slo, Sources, StartAt, Wal,
};
use serde::ser::{SerializeMap, Serializer};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Each costs every shard a ring and a queue.
const SINKS_MAX: usize = 8;
/// What clocks may differ by, and a push may take, before Loki's age_max.
const AGE_MARGIN: Duration = HOUR;

const CPUS_MAX: usize = 1024;
/// Loki's defaults: max_label_names_per_series, max_label_name_length, max_label_value_length.
const LABELS_MAX: usize = 15;
const LABEL_NAME_BYTES_MAX: usize = 1024;
const LABEL_VALUE_BYTES_MAX: usize = 2048;
/// What Loki takes as a tenant's name.
const TENANT_BYTES_MAX: usize = 150;
const TENANT_SIGNS: &str = "!-_.*'()";
const PUSH_PATH: &str = "/loki/api/v1/push";

/// As far as it can be read; it is checked where there is no problem.
pub fn config(tree: Node, variable: &dyn Fn(&str) -> Option<String>) -> (Config, Vec<Problem>) {
    let mut reader = Reader::new(variable);
    let r = &mut reader;
    let mut root = r.root(tree);
    let version = version(r, &mut root);
    let mut config = Config {
        renamed: Vec::new(),
        version,
        data_dir: data_dir(r, &mut root),
        drain_timeout: r.duration(&mut root, "drain_timeout", 10 * SECOND, SECOND..=HOUR),
        cores: cores(r, &mut root),
        sources: sources(r, &mut root),
        sinks: sinks(r, &mut root),
        wal: wal(r, &mut root),
        server: server(r, &mut root),
        metrics: metrics(r, &mut root),
        slo: slo(r, &mut root),
        canary: canary(r, &mut root),
        log: crate::log::log(r, &mut root),
        reload: reload(r, &mut root),
    };
    r.finish(root);
    check_together(r, &config);
    config.renamed = r.take_renamed();
    (config, reader.into_problems())
}

fn version(r: &mut Reader<'_>, root: &mut Section) -> u32 {
    let hint = "this program reads version 1";
    match r.required(root, "version", "the version of this format, 1") {
        Some(text) if text.text != "1" => r.problem(text.problem("1").hint(hint)),
        _ => {}
    }
    1
}

fn data_dir(r: &mut Reader<'_>, root: &mut Section) -> PathBuf {
    let text = r.required(root, "data_dir", "an absolute path");
    let Some(text) = text else { return PathBuf::new() };
    if !text.text.starts_with('/') {
        r.problem(text.problem("an absolute path").hint("such as /var/lib/log-capturer"));
    }
    text.text.into()
}

fn cores(r: &mut Reader<'_>, root: &mut Section) -> Cores {
    let mut section = r.section(root, "cores");
    let shards = match r.any(&mut section, "shards") {
        None => Shards::Auto,
        Some(node) => shards(r, &section.key("shards"), &node),
    };
    let egress = match r.any(&mut section, "egress") {
        None => Egress::Auto,
        Some(node) if is_auto(&node) => Egress::Auto,
        Some(node) => {
            let cpu = r.integer_of(&section.key("egress"), &node, "auto, or the id of a CPU");
            Egress::Cpu(cpu.unwrap_or_default())
        }
    };
    r.finish(section);
    Cores { shards, egress }
}

fn shards(r: &mut Reader<'_>, key: &str, node: &Node) -> Shards {
    if is_auto(node) {
        return Shards::Auto;
    }
    if let Value::List(cpus) = &node.value {
        let cpu = |node| r.integer_of(key, node, "the id of a CPU");
        let cpus: Vec<usize> = cpus.iter().filter_map(cpu).collect();
        let unique: std::collections::BTreeSet<_> = cpus.iter().collect();
        if cpus.is_empty() || unique.len() < cpus.len() {
            let text = format!("expected the ids of different CPUs, found {cpus:?}");
            r.problem(Problem::new(node.line, key, text));
        }
        return Shards::Cpus(cpus);
    }
    let expected = format!("auto, a count from 1 to {CPUS_MAX}, or a list of CPU ids");
    let count = r.integer_of(key, node, &expected);
    if let Some(count) = count.filter(|count| !(1..=CPUS_MAX).contains(count)) {
        r.problem(Problem::new(node.line, key, format!("expected {expected}, found {count}")));
    }
    Shards::Count(count.unwrap_or(1))
}

fn is_auto(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(text) if text == "auto")
}

fn sources(r: &mut Reader<'_>, root: &mut Section) -> Sources {
    let given = root.has("sources");
    let mut section = r.section(root, "sources");
    let files = r.section_list(&mut section, "files");
    // Without the whole section, lines come by HTTP alone.
    if files.is_empty() && given {
        let text = "expected at least one entry, found none";
        let problem = Problem::new(section.line, section.key("files"), text);
        r.problem(problem.hint("such as: - include: [\"/var/log/*.log\"]"));
    }
    let sources = Sources {
        files: files.into_iter().map(|section| file_source(r, section)).collect(),
        reconcile_interval: r.duration(
            &mut section,
            "reconcile_interval",
            30 * SECOND,
            SECOND..=HOUR,
        ),
        open_files_max: r.integer(&mut section, "open_files_max", 128, 8..=100_000),
    };
    r.finish(section);
    sources
}

fn file_source(r: &mut Reader<'_>, mut section: Section) -> FileSource {
    let include = r.texts(&mut section, "include");
    if include.is_empty() {
        let text = "expected a list of patterns, found none";
        let problem = Problem::new(section.line, section.key("include"), text);
        r.problem(problem.hint("such as [\"/var/log/*.log\"]"));
    }
    for text in &include {
        if !text.text.starts_with('/') {
            r.problem(text.problem("an absolute path").hint("begin it with /"));
        }
    }
    let exclude = r.texts(&mut section, "exclude");
    for text in &exclude {
        if text.text.contains('/') && !text.text.starts_with('/') {
            let hint = "begin it with / or **/, or leave out the directories";
            r.problem(text.problem("a file name or an absolute path").hint(hint));
        }
    }
    include.iter().chain(&exclude).for_each(|text| check_pattern(r, text));
    let texts = |texts: Vec<Text>| texts.into_iter().map(|text| text.text).collect();
    let source = FileSource {
        include: texts(include),
        exclude: texts(exclude),
        labels: labels(r, &mut section),
        start_at: r.choice(
            &mut section,
            "start_at",
            StartAt::Beginning,
            &[("beginning", StartAt::Beginning), ("end", StartAt::End)],
        ),
        follow_symlinks: r.boolean(&mut section, "follow_symlinks", false),
        line_bytes_max: as_usize(r.bytes(&mut section, "line_bytes_max", 256 * KIB, KIB..=MIB)),
        long_lines: r.choice(
            &mut section,
            "long_lines",
            LongLines::Split,
            &[("split", LongLines::Split), ("truncate", LongLines::Truncate)],
        ),
        partial_line_timeout: r.duration(
            &mut section,
            "partial_line_timeout",
            60 * SECOND,
            SECOND..=24 * HOUR,
        ),
    };
    r.finish(section);
    source
}

/// A pattern is matched part by part.
fn check_pattern(r: &mut Reader<'_>, text: &Text) {
    let broken = text.text.split('/').find_map(|part| globset::Glob::new(part).err());
    if let Some(error) = broken {
        let hint = format!("{}; {{ }} and [ ] stay within one name", error.kind());
        r.problem(text.problem("a pattern").hint(hint));
    }
}

fn labels(r: &mut Reader<'_>, section: &mut Section) -> BTreeMap<String, String> {
    let texts = r.text_map(section, "labels");
    let mut labels = BTreeMap::new();
    for (name, text) in texts {
        let wrong = |expected: &str, found: &str| {
            Problem::new(text.line, &text.key, format!("expected {expected}, found {found}"))
        };
        if name == "filename" {
            let problem = wrong("another name", "filename");
            r.problem(problem.hint("every file's path is its filename label already"));
        } else if !is_label_name(&name) {
            let problem = wrong("a label name", &format!("{name:?}"));
            let hint = "letters, digits and _ only, no digit first, not __ first";
            r.problem(problem.hint(hint));
        } else if text.text.is_empty() {
            let problem = wrong("a value", "an empty one");
            r.problem(problem.hint("Loki ignores such labels: remove it"));
        } else if text.text.len() > LABEL_VALUE_BYTES_MAX {
            let expected = format!("at most {LABEL_VALUE_BYTES_MAX} bytes");
            r.problem(wrong(&expected, &text.text.len().to_string()));
        }
        labels.insert(name, text.text);
    }
    labels
}

fn is_label_name(name: &str) -> bool {
    name.len() <= LABEL_NAME_BYTES_MAX
        && !name.starts_with("__")
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn sinks(r: &mut Reader<'_>, root: &mut Section) -> Vec<Sink> {
    let sections = r.sections(root, "sinks");
    if !(1..=SINKS_MAX).contains(&sections.len()) {
        let text = format!("expected 1 to {SINKS_MAX} sinks, found {}", sections.len());
        let hint = "such as loki: { url: \"http://127.0.0.1:3100\" }";
        r.problem(Problem::new(root.line, root.key("sinks"), text).hint(hint));
    }
    sections.into_iter().filter_map(|(name, section)| sink(r, name, section)).collect()
}

fn sink(r: &mut Reader<'_>, name: String, mut section: Section) -> Option<Sink> {
    let type_text = r.text(&mut section, "type", "loki");
    let kind = type_text.as_ref().map_or(name.as_str(), |text| text.text.as_str());
    if kind != "loki" {
        let text = format!("expected a sink of type loki, found {kind:?}");
        let problem = Problem::new(section.line, section.key("type"), text);
        r.problem(problem.hint("a sink's type is its name where it is not given: type: loki"));
        return None;
    }
    if name.len() > 64 || !is_label_name(&name.replace('-', "_")) {
        let text = format!("expected a short name of letters, digits, _ and -, found {name:?}");
        r.problem(Problem::new(section.line, section.key(""), text));
    }
    let limits = loki_limits(r, &mut section);
    let age_default = limits.age_max - AGE_MARGIN.min(limits.age_max / 2);
    let url = url(r, &mut section);
    let loki = Loki {
        tls: client::tls(r, &mut section, &url),
        auth: client::auth(r, &mut section),
        proxy: client::proxy(r, &mut section),
        headers: client::headers(r, &mut section),
        url,
        tenant: tenant(r, &mut section),
        labels: labels(r, &mut section),
        push_bytes_max: as_usize(r.bytes(
            &mut section,
            "push_bytes_max",
            3 * MIB,
            64 * KIB..=16 * MIB,
        )),
        linger: r.duration(&mut section, "linger", 50 * MS, Duration::ZERO..=10 * SECOND),
        connections: r.integer(&mut section, "connections", 4, 1..=64),
        timeout: r.duration(&mut section, "timeout", 10 * SECOND, 100 * MS..=600 * SECOND),
        age_max: r.duration(&mut section, "age_max", age_default, 60 * SECOND..=limits.age_max),
        limits,
        dlq: crate::dlq::dlq(r, &mut section),
    };
    r.finish(section);
    Some(Sink { name, kind: SinkKind::Loki(loki) })
}

fn url(r: &mut Reader<'_>, section: &mut Section) -> String {
    let expected = "where Loki is, such as http://127.0.0.1:3100";
    let Some(text) = r.required(section, "url", expected) else { return String::new() };
    // With a password in it, it may be no url either.
    let behind = text.text.split_once("://").map_or(&*text.text, |(_, behind)| behind);
    let authority = behind.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') || behind.contains('@') && text.text.parse::<http::Uri>().is_err() {
        // The text is not repeated: it holds a password.
        let problem = Problem::new(text.line, &text.key, "expected no user and password");
        r.problem(problem.hint(format!(
            "put them in {}: username, and password or password_file",
            section.key("auth.basic")
        )));
        return String::new();
    }
    let uri = text.text.parse::<http::Uri>().ok();
    let Some(uri) = uri.filter(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|h| !h.is_empty())
    }) else {
        r.problem(text.problem(expected));
        return String::new();
    };
    if uri.query().is_some() {
        r.problem(text.problem("no ? in the url"));
    }
    let base = text.text.trim_end_matches('/');
    if base.ends_with(PUSH_PATH) { base.to_owned() } else { format!("{base}{PUSH_PATH}") }
}

fn tenant(r: &mut Reader<'_>, section: &mut Section) -> String {
    let Some(text) = r.text(section, "tenant", "a tenant's name") else { return String::new() };
    let is_sign = |c: char| c.is_ascii_alphanumeric() || TENANT_SIGNS.contains(c);
    if text.text.len() > TENANT_BYTES_MAX || !text.text.chars().all(is_sign) {
        let expected =
            format!("at most {TENANT_BYTES_MAX} letters, digits and {TENANT_SIGNS}, as Loki does");
        r.problem(text.problem(&expected));
    }
    text.text
}

fn wal(r: &mut Reader<'_>, root: &mut Section) -> Wal {
    let mut section = r.section(root, "wal");
    let s = &mut section;
    let wal = Wal {
        bytes_max: r.bytes(s, "bytes_max", 8 * GIB, 16 * MIB..=1024 * GIB),
        segment_bytes: r.bytes(s, "segment_bytes", 64 * MIB, MIB..=GIB),
        commit_interval: r.duration(s, "commit_interval", 2 * MS, Duration::ZERO..=SECOND),
        ring_bytes_max: r.bytes(s, "ring_bytes_max", 8 * MIB, MIB..=GIB),
    };
    r.finish(section);
    wal
}

fn loki_limits(r: &mut Reader<'_>, sink: &mut Section) -> LokiLimits {
    let mut section = r.section(sink, "limits");
    let s = &mut section;
    let bytes = |r: &mut Reader<'_>, s: &mut Section, key, default, range| {
        as_usize(r.bytes(s, key, default, range))
    };
    let limits = LokiLimits {
        line_bytes_max: bytes(r, s, "line_bytes_max", 256 * KIB, KIB..=MIB),
        label_names_max: r.integer(s, "label_names_max", LABELS_MAX, 1..=100),
        label_name_bytes_max: bytes(r, s, "label_name_bytes_max", KIB, 16..=16 * KIB),
        label_value_bytes_max: bytes(r, s, "label_value_bytes_max", 2 * KIB, 16..=64 * KIB),
        metadata_bytes_max: bytes(r, s, "metadata_bytes_max", 64 * KIB, 0..=MIB),
        metadata_pairs_max: r.integer(s, "metadata_pairs_max", 128, 0..=10_000),
        age_max: r.duration(s, "age_max", 7 * 24 * HOUR, HOUR..=10 * 365 * 24 * HOUR),
        future_max: r.duration(s, "future_max", 600 * SECOND, 60 * SECOND..=365 * 24 * HOUR),
        behind_max: r.duration(s, "behind_max", HOUR, 60 * SECOND..=365 * 24 * HOUR),
        stream_rate: r.bytes(s, "stream_rate", 3 * MIB, 64 * KIB..=GIB),
    };
    r.finish(section);
    limits
}

fn server(r: &mut Reader<'_>, root: &mut Section) -> Server {
    let mut section = r.section(root, "server");
    let s = &mut section;
    let server = Server {
        listen: listen(r, s, 8401),
        tls: guard::tls(r, s),
        auth: guard::server(r, s),
        ack: r.choice(
            s,
            "ack",
            Ack::Durable,
            &[("durable", Ack::Durable), ("memory", Ack::Memory)],
        ),
        labels: labels(r, s),
        tenant_header: r.boolean(s, "tenant_header", false),
        streams_max: r.integer(s, "streams_max", 5000, 1..=1_000_000),
        rate_max: r.bytes(s, "rate_max", 0, 0..=100 * GIB),
        client_rate_max: r.bytes(s, "client_rate_max", 0, 0..=100 * GIB),
        limits: server_limits(r, s),
    };
    r.finish(section);
    server
}

fn server_limits(r: &mut Reader<'_>, server: &mut Section) -> ServerLimits {
    let mut section = r.section(server, "limits");
    let s = &mut section;
    let bytes = |r: &mut Reader<'_>, s: &mut Section, key, default, range| {
        as_usize(r.bytes(s, key, default, range))
    };
    let limits = ServerLimits {
        connections_max: r.integer(s, "connections_max", 10_240, 1..=1_000_000),
        address_connections_max: r.integer(s, "address_connections_max", 1024, 1..=1_000_000),
        // The parser's buffer is no smaller.
        head_bytes_max: bytes(r, s, "head_bytes_max", 16 * KIB, 8 * KIB..=MIB),
        headers_max: r.integer(s, "headers_max", 64, 1..=1000),
        head_timeout: r.duration(s, "head_timeout", 10 * SECOND, SECOND..=HOUR),
        idle_timeout: r.duration(s, "idle_timeout", 120 * SECOND, SECOND..=24 * HOUR),
        body_bytes_max: bytes(r, s, "body_bytes_max", 16 * MIB, KIB..=256 * MIB),
        bodies_bytes_max: bytes(r, s, "bodies_bytes_max", 64 * MIB, KIB..=64 * GIB),
        body_timeout: r.duration(s, "body_timeout", 60 * SECOND, SECOND..=HOUR),
        body_rate_min: r.bytes(s, "body_rate_min", KIB, 0..=GIB),
        decoded_bytes_max: bytes(r, s, "decoded_bytes_max", 32 * MIB, KIB..=GIB),
        decoded_ratio_max: r.integer(s, "decoded_ratio_max", 100, 1..=2000),
        json_depth_max: r.integer(s, "json_depth_max", 16, 5..=100),
        json_values_max: r.integer(s, "json_values_max", 1_000_000, 1..=100_000_000),
        request_streams_max: r.integer(s, "request_streams_max", 10_000, 1..=1_000_000),
        request_lines_max: r.integer(s, "request_lines_max", 500_000, 1..=10_000_000),
        answer_timeout: r.duration(s, "answer_timeout", 10 * SECOND, SECOND..=HOUR),
    };
    r.finish(section);
    limits
}

fn metrics(r: &mut Reader<'_>, root: &mut Section) -> Metrics {
    let mut section = r.section(root, "metrics");
    let metrics = Metrics {
        listen: listen(r, &mut section, 8001),
        tls: guard::tls(r, &mut section),
        auth: guard::metrics(r, &mut section),
        latency: r.boolean(&mut section, "latency", true),
    };
    r.finish(section);
    metrics
}

fn slo(r: &mut Reader<'_>, root: &mut Section) -> Slo {
    let mut section = r.section(root, "slo");
    let slo = Slo {
        lines_per_second: r.integer(&mut section, "lines_per_second", 10_000, 1..=100_000_000),
        latency: r.duration(&mut section, "latency", 500 * MS, MS..=600 * SECOND),
        ratio: r.number(&mut section, "ratio", 0.99, 0.5..=0.99999),
    };
    r.finish(section);
    slo
}

fn canary(r: &mut Reader<'_>, root: &mut Section) -> Canary {
    let mut section = r.section(root, "canary");
    let mut canary = Canary {
        enabled: r.boolean(&mut section, "enabled", false),
        interval: r.duration(&mut section, "interval", SECOND, 100 * MS..=HOUR),
        labels: labels(r, &mut section),
    };
    if canary.labels.is_empty() {
        canary.labels.insert("job".into(), "log_capturer_canary".into());
    }
    r.finish(section);
    canary
}

fn reload(r: &mut Reader<'_>, root: &mut Section) -> Reload {
    let mut section = r.section(root, "reload");
    let reload = Reload { watch: r.boolean(&mut section, "watch", false) };
    r.finish(section);
    reload
}

fn listen(r: &mut Reader<'_>, section: &mut Section, port: u16) -> SocketAddr {
    let default = SocketAddr::from(([127, 0, 0, 1], port));
    match r.text(section, "listen", "an address") {
        None => default,
        Some(text) => text.text.parse().unwrap_or_else(|_| {
            let problem = text.problem("an IP address and a port");
            r.problem(problem.hint(format!("such as {default}, 0.0.0.0:{port} or [::]:{port}")));
            default
        }),
    }
}

/// What no key can be checked for alone.
fn check_together(r: &mut Reader<'_>, config: &Config) {
    for (at, files) in config.sources.files.iter().enumerate() {
        for Sink { name, kind: SinkKind::Loki(loki) } in &config.sinks {
            let mut labels = loki.labels.clone();
            labels.extend(files.labels.clone());
            let count = labels.len() + 1;
            if count > LABELS_MAX {
                let text = format!(
                    "expected at most {LABELS_MAX} labels with those of sinks.{name} and filename, \
                     found {count}"
                );
                r.problem(Problem::new(0, format!("sources.files[{at}].labels"), text));
            }
        }
    }
    check_sinks(r, &config.sinks);
    guard::check(r, &config.server, &config.metrics);
    if config.server.listen == config.metrics.listen && config.server.listen.port() != 0 {
        let text = format!("expected another address than server.listen, found {}", {
            config.metrics.listen
        });
        r.problem(Problem::new(0, "metrics.listen", text));
    }
}

/// A line is stored once, as it is sent: what stands in it is the same for all sinks.
fn check_sinks(r: &mut Reader<'_>, sinks: &[Sink]) {
    let Some((Sink { name: first, kind: SinkKind::Loki(of_first) }, others)) = sinks.split_first()
    else {
        return;
    };
    for Sink { name, kind: SinkKind::Loki(loki) } in others {
        if loki.labels != of_first.labels {
            let text = format!("expected the labels of sinks.{first}, found others");
            let problem = Problem::new(0, format!("sinks.{name}.labels"), text);
            let hint = "a line is stored once for all sinks, with its labels: give each the same, or \
                        run an instance for each";
            r.problem(problem.hint(hint));
        }
    }
}

/// The tree of a run without a file.
pub fn quick_tree(loki_url: &str, paths: &[String], data_dir: &Path) -> Node {
    let patterns = paths.iter().map(|path| Node::scalar(quick_pattern(path))).collect();
    let texts = |entries: &[(&'static str, &str)]| {
        Node::map(entries.iter().map(|(key, text)| (*key, Node::scalar(*text))).collect())
    };
    let files = Node::map(vec![
        ("include", Node::list(patterns)),
        ("labels", texts(&[("job", "log-capturer")])),
    ]);
    let loki = Node::map(vec![
        ("url", Node::scalar(escape(loki_url))),
        ("labels", texts(&[("host", "${HOSTNAME}")])),
    ]);
    Node::map(vec![
        ("version", Node::scalar("1")),
        ("data_dir", Node::scalar(escape(&data_dir.to_string_lossy()))),
        ("sources", Node::map(vec![("files", Node::list(vec![files]))])),
        ("sinks", Node::map(vec![("loki", loki)])),
    ])
}

/// A path of the command line as a pattern: a file that is there is no pattern, and of a directory
/// all logs are meant.
fn quick_pattern(path: &str) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let text = absolute.to_string_lossy();
    let literal = || globset::escape(&text);
    escape(&match std::fs::metadata(&absolute) {
        Ok(meta) if meta.is_dir() => format!("{}/**/*.log", literal()),
        Ok(_) => literal(),
        Err(_) => text.into_owned(),
    })
}

/// A text in which no variable is meant.
fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

pub fn print_auto<S: Serializer>(to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str("auto")
}

pub fn print_sinks<S: Serializer>(sinks: &[Sink], to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(sinks.len()))?;
    for Sink { name, kind } in sinks {
        map.serialize_entry(name, kind)?;
    }
    map.end()
}

fn as_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("limited to less")
}
