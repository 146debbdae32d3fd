//! The checked configuration, turned into the options of each component: the only place that knows
//! both.

use crate::{discover, egress, ingest, intake, park, push, receive, source};
use config::{Ack, Config, Egress, LongLines, Shards, SinkKind, StartAt};
use io::format::BLOCK_BYTES;
use io::{http, tail, wal};
use shards::topology;
use std::path::{Path, PathBuf};
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

/// The options of shard `number` of `count`.
#[must_use]
pub fn shard(config: &Config, number: usize, count: usize) -> ingest::Options {
    let sink = &config.sinks[0];
    let SinkKind::Loki(loki) = &sink.kind;
    let dir = shard_dir(&config.data_dir, number);
    let bytes_max = config.wal.bytes_max / count as u64;
    ingest::Options {
        number,
        dir: dir.join("wal"),
        quarantine: config.data_dir.join("quarantine"),
        wal: wal::Options {
            owner: u32::try_from(number).expect("a small number"),
            sink: sink.name.clone(),
            segment_bytes: segment_bytes(config.wal.segment_bytes, bytes_max),
            bytes_max,
            group_bytes_max: GROUP_BYTES_MAX,
        },
        commit_interval: config.wal.commit_interval,
        ring_bytes_max: config.wal.ring_bytes_max,
        linger: loki.linger,
        frame_raw_bytes: FRAME_RAW_BYTES.min(loki.push_bytes_max),
        tenant: loki.tenant.clone(),
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
        park: park::Options { dir: dir.join("parked"), bytes_max: bytes_max / 4 },
    }
}

#[must_use]
pub fn intake(config: &Config) -> intake::Options {
    let SinkKind::Loki(loki) = &config.sinks[0].kind;
    let frame_raw_bytes = FRAME_RAW_BYTES.min(loki.push_bytes_max);
    intake::Options {
        block_raw_bytes: frame_raw_bytes,
        frame_raw_bytes,
        bytes_max: INTAKE_BYTES_MAX,
    }
}

/// What shard `number` of `count` makes of requests.
#[must_use]
pub fn receive(config: &Config, number: usize, count: usize) -> receive::Options {
    let SinkKind::Loki(loki) = &config.sinks[0].kind;
    let (server, limits) = (&config.server, &config.server.limits);
    let small = |number: usize| u32::try_from(number).expect("a small number");
    receive::Options {
        labels: server.labels.clone().into_iter().collect(),
        tenant: loki.tenant.clone(),
        tenant_header: server.tenant_header,
        ack: match server.ack {
            Ack::Durable => receive::Ack::Durable,
            Ack::Memory => receive::Ack::Memory,
        },
        limits: receive::admit::Limits {
            line_bytes_max: loki.limits.line_bytes_max,
            label_names_max: loki.limits.label_names_max,
            label_name_bytes_max: loki.limits.label_name_bytes_max,
            label_value_bytes_max: loki.limits.label_value_bytes_max,
            metadata_bytes_max: loki.limits.metadata_bytes_max,
            metadata_pairs_max: loki.limits.metadata_pairs_max,
            age_max: loki.limits.age_max,
            future_max: loki.limits.future_max,
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
        push_bytes_max: loki.push_bytes_max,
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

#[must_use]
/// `descriptors` is what this process may have: connections leave enough of them for everything else.
pub fn doorman(config: &Config, descriptors: u64) -> http::Doorman {
    let limits = &config.server.limits;
    let others = config.sources.open_files_max as u64 + DESCRIPTORS_KEPT;
    let left = descriptors.saturating_sub(others).max(CONNECTIONS_MIN);
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    if left < limits.connections_max {
        tracing::warn!(
            descriptors,
            connections_max = left,
            "there are too few descriptors for server.limits.connections_max; raise LimitNOFILE"
        );
    }
    http::Doorman::new(limits.connections_max.min(left), limits.address_connections_max)
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
    let SinkKind::Loki(loki) = &config.sinks[0].kind;
    let files = &config.sources.files;
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
            event_interval: loki.linger.max(EVENT_INTERVAL_MIN),
            watches_max: WATCHES_MAX,
            files_max: FILES_MAX,
        },
        groups: files
            .iter()
            .map(|files| {
                let mut labels = loki.labels.clone();
                labels.extend(files.labels.clone());
                discover::Group { labels, from_end: files.start_at == StartAt::End }
            })
            .collect(),
    }
}

#[must_use]
pub fn client(config: &Config) -> push::Options {
    let SinkKind::Loki(loki) = &config.sinks[0].kind;
    push::Options { url: loki.url.clone(), timeout: loki.timeout, connections: loki.connections }
}

#[must_use]
pub fn egress(config: &Config) -> egress::Options {
    let SinkKind::Loki(loki) = &config.sinks[0].kind;
    egress::Options { push_bytes_max: loki.push_bytes_max }
}
