//! The checked configuration, turned into the options of each component: the only place that knows
//! both.

use crate::alone::Heat;
use crate::guard::{self, keys, token};
use crate::{
    alone, canary, discover, dlq, egress, ingest, intake, letters, monitor, own_log, push, receive,
    source,
};
use config::{
    Ack, Auth, Config, Egress, ListenTls, Loki, LokiLimits, LongLines, Proxy, Role, Secret, Shards,
    Sink, SinkKind, StartAt, Token, WhenFull,
};
use io::format::{BLOCK_BYTES, FormatVersion};
use io::{http, tail, wal};
use perf::errors::ErrorKey;
use shards::topology;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What one write of the log takes at most.
const GROUP_BYTES_MAX: usize = 1 << 20;
/// A frame before compression: large enough to compress well, small enough to stay in the cache.
const FRAME_RAW_BYTES: usize = 256 << 10;
/// With no linger at all, a busy file is looked at this often: each look costs several wake-ups all the
/// way to Loki, whatever it finds.
const EVENT_INTERVAL_MIN: Duration = Duration::from_millis(12);
/// What pushed lines may hold before they are appended: more wait.
const INTAKE_BYTES_MAX: usize = 4 << 20;
/// How long a client may take to read an answer.
const ANSWER_READ_TIME_MAX: Duration = Duration::from_secs(30);
/// For the log, discovery, egress and executors.
const DESCRIPTORS_KEPT: u64 = 512;
/// However few descriptors there are.
const CONNECTIONS_MIN: u64 = 64;
/// How long a removed file is watched for late lines.
const ROTATED_WAIT: Duration = Duration::from_secs(60);
const OPEN_IDLE_MAX: Duration = Duration::from_secs(60);
/// Directories and files that discovery keeps an eye on.
const WATCHES_MAX: usize = 100_000;
const FILES_MAX: usize = 1_000_000;

/// A shard's share of the quota that holds several of the largest frames.
pub const SHARE_BYTES_MIN: u64 = 8 << 20;

/// Of a dead-letter queue: a frame of several entries before compression, and its segments.
const DLQ_FRAME_RAW_BYTES_MAX: u64 = 1 << 20;
const DLQ_SEGMENT_BYTES_MAX: u64 = 16 << 20;
const DLQ_SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// A part of the quota is kept for settling, by segments: so they are small beside it.
const DLQ_SEGMENTS: u64 = 32;
/// Room on the disk that the write-ahead log leaves to each dead-letter queue, in segments of that.
const DLQ_SEGMENTS_KEPT: u64 = 2;

#[must_use]
pub fn topology(config: &Config) -> topology::Options {
    topology::Options {
        shards: match &config.cores.shards {
            Shards::Auto => topology::Shards::Auto,
            Shards::Count(count) => topology::Shards::Count(*count),
            Shards::Cpus(cpus) => topology::Shards::Cpus(cpus.clone()),
        },
        egress: match config.cores.egress {
            Egress::Auto => None,
            Egress::Cpu(cpu) => Some(cpu),
        },
    }
}

#[must_use]
pub fn shard_dir(data_dir: &Path, number: usize) -> PathBuf {
    data_dir.join(format!("shard-{number:02}"))
}

fn lokis(config: &Config) -> impl Iterator<Item = &Loki> + Clone {
    config.sinks.iter().map(|sink| {
        let SinkKind::Loki(loki) = &sink.kind;
        loki
    })
}

/// The least of what the sinks allow: a line is stored once for all of them.
fn least<T: Ord>(config: &Config, of: impl Fn(&Loki) -> T) -> T {
    lokis(config).map(of).min().expect("there is a sink")
}

fn least_limit<T: Ord>(config: &Config, of: impl Fn(&LokiLimits) -> T) -> T {
    least(config, |loki| of(&loki.limits))
}

/// A frame, before compression, of which several fit the smallest push.
fn frame_raw_bytes(config: &Config) -> usize {
    FRAME_RAW_BYTES.min(least(config, |loki| loki.push_bytes_max))
}

fn alone(config: &Config, heat: &Arc<Heat>) -> alone::Limits {
    let behind = least_limit(config, |limits| limits.behind_max);
    alone::Limits {
        stream_rate: least_limit(config, |limits| limits.stream_rate),
        late_ns: i64::try_from((behind / 2).as_nanos()).unwrap_or(i64::MAX),
        heat: heat.clone(),
    }
}

/// A stream that is pushed may come to every one of `count` shards.
fn alone_pushed(config: &Config, count: usize, heat: &Arc<Heat>) -> alone::Limits {
    let limits = alone(config, heat);
    alone::Limits { stream_rate: limits.stream_rate / count as u64, ..limits }
}

/// Refuses a quota that is too small for so many shards.
pub fn check_shares(config: &Config, count: usize) -> Result<(), String> {
    if config.wal.bytes_max / (count as u64) >= SHARE_BYTES_MIN {
        return Ok(());
    }
    Err(format!(
        "wal.bytes_max: expected at least {} MiB, 8 MiB for each of {count} shards (those that an \
         earlier run left under data_dir count); raise it, or set fewer cores.shards",
        (SHARE_BYTES_MIN >> 20) * count as u64
    ))
}

/// The options of shard `number` of `count`.
#[must_use]
pub fn shard(
    config: &Config,
    number: usize,
    count: usize,
    writes: FormatVersion,
    heat: &Arc<Heat>,
) -> ingest::Options {
    let dir = shard_dir(&config.data_dir, number);
    let bytes_max = config.wal.bytes_max / count as u64;
    let routes: Vec<ingest::RouteOptions> = lokis(config)
        .enumerate()
        .map(|(sink, loki)| ingest::RouteOptions {
            linger: loki.linger,
            letters: letters::Options {
                dlq: dlq(config, sink, number, count, writes),
                tenant: loki.tenant.clone(),
            },
        })
        .collect();
    let letters: u64 = routes.iter().map(|route| route.letters.dlq.segment_bytes).sum();
    ingest::Options {
        number,
        dir: dir.join("wal"),
        quarantine: config.data_dir.join("quarantine"),
        wal: wal::Options {
            owner: u32::try_from(number).expect("a small number"),
            sinks: config.sinks.iter().map(|sink| sink.name.clone()).collect(),
            segment_bytes: segment_bytes(config.wal.segment_bytes, bytes_max),
            bytes_max,
            group_bytes_max: GROUP_BYTES_MAX,
            writes,
        },
        kept_bytes: DLQ_SEGMENTS_KEPT * letters * count as u64,
        commit_interval: config.wal.commit_interval,
        ring_bytes_max: config.wal.ring_bytes_max,
        frame_raw_bytes: frame_raw_bytes(config),
        alone: alone(config, heat),
        sources: source::Options {
            open_files_max: config.sources.open_files_max.div_ceil(count),
            open_idle_max: OPEN_IDLE_MAX,
            rotated_wait: ROTATED_WAIT,
        },
        policies: config
            .sources
            .files
            .iter()
            .map(|files| source::LinePolicy {
                line_bytes_max: files.line_bytes_max,
                long_lines: match files.long_lines {
                    LongLines::Split => source::LongLines::Split,
                    LongLines::Truncate => source::LongLines::Truncate,
                },
                partial_line_timeout: files.partial_line_timeout,
                follow_symlinks: files.follow_symlinks,
            })
            .collect(),
        routes,
    }
}

#[must_use]
pub fn intake(config: &Config) -> intake::Options {
    let frame_raw_bytes = frame_raw_bytes(config);
    intake::Options {
        block_raw_bytes: frame_raw_bytes,
        frame_raw_bytes,
        bytes_max: INTAKE_BYTES_MAX,
    }
}

/// What shard `number` of `count` makes of requests.
#[must_use]
pub fn receive(config: &Config, number: usize, count: usize, heat: &Arc<Heat>) -> receive::Options {
    let (server, limits) = (&config.server, &config.server.limits);
    let loki = |of: fn(&LokiLimits) -> usize| least_limit(config, of);
    let small = |number: usize| u32::try_from(number).expect("a small number");
    receive::Options {
        labels: server.labels.clone().into_iter().collect(),
        tenant_header: server.tenant_header,
        ack: match server.ack {
            Ack::Durable => receive::Ack::Durable,
            Ack::Memory => receive::Ack::Memory,
        },
        limits: receive::admit::Limits {
            line_bytes_max: loki(|limits| limits.line_bytes_max),
            label_names_max: loki(|limits| limits.label_names_max),
            label_name_bytes_max: loki(|limits| limits.label_name_bytes_max),
            label_value_bytes_max: loki(|limits| limits.label_value_bytes_max),
            metadata_bytes_max: loki(|limits| limits.metadata_bytes_max),
            metadata_pairs_max: loki(|limits| limits.metadata_pairs_max),
            age_max: least_limit(config, |limits| limits.age_max),
            future_max: least_limit(config, |limits| limits.future_max),
        },
        size: receive::push::Size {
            streams_max: limits.request_streams_max,
            entries_max: limits.request_lines_max,
        },
        body: receive::body::Limits {
            decoded_bytes_max: limits.decoded_bytes_max,
            ratio_max: limits.decoded_ratio_max,
        },
        body_bytes_max: limits.body_bytes_max,
        bodies_bytes_max: limits.bodies_bytes_max,
        json: receive::json::Limits {
            depth_max: limits.json_depth_max,
            values_max: limits.json_values_max,
        },
        streams_max: server.streams_max,
        push_bytes_max: least(config, |loki| loki.push_bytes_max),
        alone: alone_pushed(config, count, heat),
        kept_bytes_max: kept_bytes_max(config.wal.bytes_max / count as u64),
        answer_time_max: limits.answer_timeout,
        shard: small(number),
        shards: small(count),
    }
}

#[must_use]
pub fn http(config: &Config) -> http::Options {
    let limits = &config.server.limits;
    http::Options {
        head_bytes_max: limits.head_bytes_max,
        headers_max: limits.headers_max,
        head_time_max: limits.head_timeout,
        idle_time_max: limits.idle_timeout,
        body_time_max: limits.body_timeout,
        body_rate_min: limits.body_rate_min,
        answer_time_max: ANSWER_READ_TIME_MAX,
    }
}

/// What a run takes, with the least of connections that there are, and with all that are allowed.
#[must_use]
pub fn descriptors(config: &Config) -> RangeInclusive<u64> {
    let others = config.sources.open_files_max as u64 + DESCRIPTORS_KEPT;
    others + CONNECTIONS_MIN..=others + config.server.limits.connections_max as u64
}

#[must_use]
/// `descriptors` is what this process may have: connections leave enough of them for everything else.
pub fn doorman(config: &Config, descriptors: u64) -> http::Doorman {
    let limits = &config.server.limits;
    let others = self::descriptors(config).start() - CONNECTIONS_MIN;
    let left = descriptors.saturating_sub(others).max(CONNECTIONS_MIN);
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    if left < limits.connections_max {
        tracing::warn!(
            error_key = ErrorKey::DescriptorsFew.name(),
            descriptors,
            connections_max = left,
            "there are too few descriptors for server.limits.connections_max; raise LimitNOFILE"
        );
    }
    http::Doorman::new(limits.connections_max.min(left), limits.address_connections_max)
}

/// Who may come in.
#[must_use]
pub fn guard(config: &Config) -> guard::Options {
    let (server, metrics) = (&config.server, &config.metrics);
    let tls = |tls: &Option<ListenTls>| {
        tls.as_ref().map(|tls| keys::Options {
            cert_file: tls.cert_file.clone(),
            key_file: tls.key_file.clone(),
            client_ca_file: tls.client_ca_file.clone(),
        })
    };
    let token = |token: &Token| guard::Token {
        name: token.name.as_str().into(),
        sha256: token::hash_of_hex(token.sha256.reveal()).expect("it was checked"),
        roles: roles(&token.roles),
        requests_per_second: (token.requests_per_second > 0)
            .then_some(token.requests_per_second as u64),
    };
    guard::Options {
        tokens: server.auth.tokens.iter().map(token).collect(),
        client_roles: roles(&server.auth.client_roles),
        asks: [server.asks(), metrics.asks(server)],
        tls: [tls(&server.tls), tls(&metrics.tls)],
    }
}

fn roles(roles: &[Role]) -> guard::Roles {
    roles.iter().fold(guard::Roles::default(), |all, role| {
        all.with(match role {
            Role::Ingest => guard::Role::Ingest,
            Role::Read => guard::Role::Read,
            Role::Operate => guard::Role::Operate,
        })
    })
}

#[must_use]
pub fn rates(config: &Config) -> shards::rate::Rates {
    let some = |rate: u64| (rate > 0).then_some(rate);
    shards::rate::Rates::new(some(config.server.rate_max), some(config.server.client_rate_max))
}

/// A frame fits a shard's share of the quota several times.
fn kept_bytes_max(share: u64) -> usize {
    usize::try_from(share / 8).unwrap_or(usize::MAX).min(io::format::BODY_BYTES_MAX)
}

/// A shard's share of the quota holds at least four segments, however many shards there are.
fn segment_bytes(wanted: u64, bytes_max: u64) -> u64 {
    let block = BLOCK_BYTES as u64;
    (wanted.min(bytes_max / 4) / block * block).max(4 * block)
}

#[must_use]
pub fn discovery(config: &Config) -> discover::Options {
    let files = &config.sources.files;
    // They are checked to be the same for all.
    let labels = lokis(config).next().map(|loki| loki.labels.clone()).unwrap_or_default();
    discover::Options {
        discovery: tail::Options {
            groups: files
                .iter()
                .map(|files| tail::Group {
                    include: files.include.clone(),
                    exclude: files.exclude.clone(),
                    follow_symlinks: files.follow_symlinks,
                })
                .collect(),
            reconcile_interval: config.sources.reconcile_interval,
            event_interval: least(config, |loki| loki.linger).max(EVENT_INTERVAL_MIN),
            watches_max: WATCHES_MAX,
            files_max: FILES_MAX,
            left_out: own_log::files(),
        },
        before: Vec::new(),
        groups: files
            .iter()
            .map(|files| {
                let mut labels = labels.clone();
                labels.extend(files.labels.clone());
                discover::Group { labels, from_end: files.start_at == StartAt::End }
            })
            .collect(),
    }
}

/// Where there is to be one.
#[must_use]
pub fn canary(config: &Config, shard: usize) -> Option<canary::Options> {
    let mut labels = lokis(config).next().map(|loki| loki.labels.clone()).unwrap_or_default();
    labels.extend(config.canary.labels.clone());
    labels.insert("shard".to_owned(), shard.to_string());
    config.canary.enabled.then(|| canary::Options {
        shard,
        interval: config.canary.interval,
        labels: labels.into_iter().collect(),
    })
}

#[must_use]
pub fn monitor(config: &Config, cpus: Vec<usize>) -> monitor::Options {
    monitor::Options {
        data_dir: config.data_dir.clone(),
        objective: perf::slo::Objective {
            latency: config.slo.latency,
            ratio: config.slo.ratio,
            lines_per_second: config.slo.lines_per_second as f64,
        },
        sinks: config.sinks.iter().map(|sink| sink.name.clone()).collect(),
        dropping: config
            .sinks
            .iter()
            .filter(|Sink { kind: SinkKind::Loki(loki), .. }| {
                loki.dlq.when_full == WhenFull::DropOldest
            })
            .map(|sink| sink.name.clone())
            .collect(),
        cpus,
    }
}

/// What `GET /config` shows: all of it but its secrets.
#[must_use]
pub fn shown(config: &Config) -> serde_json::Value {
    serde_json::to_value(config).expect("a checked configuration can be printed")
}

/// Tells configurations apart, but not by their secrets.
#[must_use]
pub fn hash(config: &Config) -> String {
    format!("{:016x}", discover::hash(config.to_yaml().as_bytes()))
}

#[must_use]
pub fn client(sink: &Sink) -> push::Options {
    let SinkKind::Loki(loki) = &sink.kind;
    let headers = loki.headers.iter();
    push::Options {
        key: format!("sinks.{}", sink.name),
        url: loki.url.clone(),
        timeout: loki.timeout,
        connections: loki.connections,
        tls: push::tls::Options {
            ca_file: loki.tls.ca_file.clone(),
            cert_file: loki.tls.cert_file.clone(),
            key_file: loki.tls.key_file.clone(),
            server_name: loki.tls.server_name.clone(),
        },
        auth: loki.auth.as_ref().map(auth),
        proxy: match &loki.proxy {
            Proxy::None => push::proxy::Choice::None,
            Proxy::Environment => push::proxy::Choice::Environment,
            Proxy::At(url) => push::proxy::Choice::At(url.reveal().to_owned()),
        },
        headers: headers.map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect(),
    }
}

fn auth(auth: &Auth) -> push::auth::Options {
    let source = |secret: &Option<Secret>, file: &Option<PathBuf>| match (secret, file) {
        (_, Some(file)) => push::auth::Source::File(file.clone()),
        (secret, None) => {
            let text = secret.as_ref().map(|secret| secret.reveal().to_owned());
            push::auth::Source::Text(text.unwrap_or_default())
        }
    };
    match auth {
        Auth::Basic(basic) => push::auth::Options::Basic {
            username: basic.username.clone(),
            password: source(&basic.password, &basic.password_file),
        },
        Auth::Bearer(bearer) => {
            push::auth::Options::Bearer { token: source(&bearer.token, &bearer.token_file) }
        }
    }
}

#[must_use]
pub fn egress(sink: &Sink, shards: usize, heat: &Arc<Heat>) -> egress::Options {
    let SinkKind::Loki(loki) = &sink.kind;
    egress::Options {
        sink: sink.name.clone(),
        tenant: loki.tenant.as_str().into(),
        push_bytes_max: loki.push_bytes_max,
        age_max: loki.age_max,
        stream_rate: loki.limits.stream_rate,
        shards,
        heat: heat.clone(),
    }
}

/// Where the dead-letter queue of a shard and a sink is.
#[must_use]
pub fn dlq_dir(data_dir: &Path, number: usize, sink: &str) -> PathBuf {
    shard_dir(data_dir, number).join("dlq").join(sink)
}

/// The dead-letter queue of sink `sink` (by its place in the configuration) and shard `number` of
/// `count`.
#[must_use]
pub fn dlq(
    config: &Config,
    sink: usize,
    number: usize,
    count: usize,
    writes: FormatVersion,
) -> dlq::Options {
    let Sink { name, kind: SinkKind::Loki(loki) } = &config.sinks[sink];
    let reprocess = &loki.dlq.reprocess;
    dlq::Options {
        when_full: match loki.dlq.when_full {
            WhenFull::Wait => dlq::WhenFull::Keep,
            WhenFull::DropOldest => dlq::WhenFull::DropOldest,
        },
        backoff: dlq::Backoff {
            interval: reprocess.interval,
            age_min: reprocess.age_min,
            attempts_max: u32::try_from(reprocess.attempts_max).expect("limited to less"),
            backoff_max: reprocess.backoff_max,
        },
        ..dlq_of(&config.data_dir, name, number, loki.dlq.bytes_max / count as u64, writes)
    }
}

/// Likewise, of `bytes_max`, without a configuration: nothing is dropped or sent by itself.
#[must_use]
pub fn dlq_of(
    data_dir: &Path,
    sink: &str,
    number: usize,
    bytes_max: u64,
    writes: FormatVersion,
) -> dlq::Options {
    let block = BLOCK_BYTES as u64;
    let segment_bytes = (bytes_max / DLQ_SEGMENTS / block * block)
        .clamp(DLQ_SEGMENT_BYTES_MIN, DLQ_SEGMENT_BYTES_MAX);
    let frame_raw_bytes = (segment_bytes / 4).min(DLQ_FRAME_RAW_BYTES_MAX);
    let name = format!("shard-{number:02}-dlq-{sink}");
    dlq::Options {
        dir: dlq_dir(data_dir, number, sink),
        // A directory of its own: segments of all queues have the same names.
        quarantine: data_dir.join("quarantine").join(name),
        owner: u32::try_from(number).expect("a small number"),
        sink: sink.to_owned(),
        bytes_max: bytes_max.max(DLQ_SEGMENTS * segment_bytes),
        segment_bytes,
        frame_raw_bytes: usize::try_from(frame_raw_bytes).expect("small"),
        when_full: dlq::WhenFull::Keep,
        backoff: dlq::Backoff {
            interval: Duration::MAX,
            age_min: Duration::MAX,
            attempts_max: u32::MAX,
            backoff_max: Duration::MAX,
        },
        writes,
    }
}
