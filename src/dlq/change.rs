//! What changes queues: here, where no process runs, and else by asking the one that does.
//!
//! A running process keeps a lock on its `data_dir`. It is asked at `server.listen`:
//! `POST /dlq/reprocess` and `POST /dlq/purge` with
//! `{"filter": ["reason=too_old"], "labels": {"a": "b"}, "restamp": true}`.

use super::command::{CommandError, queues};
use super::filter::Filter;
use super::offline::Queue;
use super::record::Record;
use super::replay::{self, Outcome, Refused, Stamps};
use super::store::{Dlq, DlqError};
use crate::ask::{AccessArgs, Server, Text, hint};
use crate::handoff::Frame;
use crate::options;
use crate::place::Place;
use crate::push::{Client, Push};
use crate::state;
use crate::track::Piece;
use config::Config;
use io::format::{FormatVersion, Seq};
use io::plain::{PlainDisk, run};
use perf::clock::unix_ns;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

/// How long a running process may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(600);
/// How large segments are that are written here. More is taken where the queue is larger.
const QUEUE_BYTES_MAX: u64 = 1 << 30;

type Queues = Dlq<PlainDisk>;

pub fn purge(
    place: &Place,
    access: &AccessArgs,
    filter: &Filter,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let Some(_lock) = place.lock()? else {
        let body = json!({ "filter": filter.texts() });
        return ask(place, access, "/dlq/purge", &body, out);
    };
    let writes = state::writes(&place.data_dir)?;
    let now_ns = unix_ns();
    let mut count = 0;
    for queue in queues(place)? {
        if filter.sink().is_none_or(|sink| sink == queue.sink) {
            let dlq = open(place, &queue, writes)?;
            count += run(dlq.purge(filter, now_ns))?;
            run(dlq.close())?;
        }
    }
    writeln!(out, "{count} entries were removed").map_err(CommandError::Output)
}

pub fn replay(
    place: &Place,
    access: &AccessArgs,
    filter: &Filter,
    labels: &BTreeMap<String, String>,
    restamp: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let Some(config) = &place.config else {
        let text = "replay: expected --config FILE, which says where the sink is";
        return Err(CommandError::Wrong(text.into()));
    };
    let Some(_lock) = place.lock()? else {
        let body = json!({ "filter": filter.texts(), "labels": labels, "restamp": restamp });
        return ask(place, access, "/dlq/reprocess", &body, out);
    };
    let writes = state::writes(&place.data_dir)?;
    let mut stamps = restamp.then(|| Stamps::new(unix_ns()));
    let mut sums = Sums::default();
    for queue in queues(place)? {
        if filter.sink().is_some_and(|sink| sink != queue.sink) {
            continue;
        }
        let Some(client) = client(config, &queue.sink)? else {
            let Queue { shard, sink, .. } = &queue;
            eprintln!("shard {shard}, sink {sink}: no such sink is configured; its queue is kept");
            sums.kept_queues += 1;
            continue;
        };
        let dlq = open(place, &queue, writes)?;
        let replayed = replay_queue(&dlq, &client, filter, labels, &mut stamps, &mut sums);
        run(dlq.close())?;
        replayed?;
        if sums.stopped.is_some() {
            break;
        }
    }
    let Sums { accepted, refused, left, .. } = sums;
    writeln!(out, "{accepted} entries were accepted, {refused} refused again, {left} not tried")
        .map_err(CommandError::Output)?;
    match sums.stopped {
        Some(why) => {
            Err(CommandError::Failed(format!("the sink takes no more: {why}; the rest is kept")))
        }
        None if refused > 0 => {
            Err(CommandError::Failed("some entries were refused again: see dlq show".into()))
        }
        None if sums.kept_queues > 0 => {
            Err(CommandError::Failed("some queues were not replayed".into()))
        }
        None => Ok(()),
    }
}

/// The sink of that name. The only place that knows how a sink's client is made.
fn client(config: &Config, sink: &str) -> Result<Option<Client>, CommandError> {
    let known = config.sinks.iter().find(|configured| configured.name == sink);
    known.map(|sink| Client::new(&options::client(sink))).transpose().map_err(CommandError::Wrong)
}

#[derive(Debug, Default)]
struct Sums {
    accepted: u64,
    refused: u64,
    /// Of the frame at which it stopped.
    left: u64,
    stopped: Option<String>,
    kept_queues: u64,
}

fn replay_queue(
    dlq: &Queues,
    client: &Client,
    filter: &Filter,
    labels: &BTreeMap<String, String>,
    stamps: &mut Option<Stamps>,
    sums: &mut Sums,
) -> Result<(), CommandError> {
    let now_ns = unix_ns();
    for info in run(dlq.frames())? {
        if info.undecodable || !filter.may_match(info.reasons.iter().map(|(reason, _)| reason)) {
            continue;
        }
        let records = match run(dlq.read(info.id)) {
            Ok(records) => records,
            Err(error @ (DlqError::Damaged { .. } | DlqError::Undecodable { .. })) => {
                eprintln!("{error}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let (matching, others): (Vec<Record>, Vec<Record>) =
            records.into_iter().partition(|record| filter.matches(record, now_ns));
        if matching.is_empty() {
            continue;
        }
        let parts = replay::frames(&matching, labels, stamps.as_mut());
        let mut post = |frame: Frame| {
            client.post(&Push::new(frame.tenant.clone(), &[Piece::of(frame)])).answer
        };
        let outcome = replay::send(parts, &mut post, &mut std::thread::sleep);
        let left = matching.len() - outcome.accepted.len() - outcome.refused.len();
        sums.accepted += outcome.accepted.len() as u64;
        sums.refused += outcome.refused.len() as u64;
        sums.left += left as u64;
        sums.stopped.clone_from(&outcome.stopped);
        settle(dlq, info.id, matching, others, outcome)?;
        if sums.stopped.is_some() {
            break;
        }
    }
    Ok(())
}

/// What was accepted leaves the frame; the others stay, those that were refused with the new
/// reason.
fn settle(
    dlq: &Queues,
    frame: Seq,
    mut matching: Vec<Record>,
    others: Vec<Record>,
    outcome: Outcome,
) -> Result<(), DlqError> {
    let Outcome { accepted, refused, stopped: _ } = outcome;
    if accepted.is_empty() && refused.is_empty() {
        return Ok(());
    }
    let now_ns = unix_ns();
    for Refused { at, reason, status, text } in refused {
        matching[at].rejected_again(Some(reason), Some(status), &text, now_ns);
    }
    let accepted: std::collections::HashSet<usize> = accepted.into_iter().collect();
    let kept = matching.into_iter().enumerate().filter(|(at, _)| !accepted.contains(at));
    let again: Vec<Record> = kept.map(|(_, record)| record).chain(others).collect();
    run(dlq.settle(&[frame], &again))
}

/// Nothing is put: so no quota matters.
fn open(place: &Place, queue: &Queue, writes: FormatVersion) -> Result<Queues, CommandError> {
    let Queue { shard, sink, .. } = queue;
    let options = options::dlq_of(&place.data_dir, sink, *shard, QUEUE_BYTES_MAX, writes);
    let disk = PlainDisk::open(&options.dir, &options.quarantine)?;
    let (dlq, found) = run(Dlq::open(disk, options))?;
    for gap in &found.gaps {
        eprintln!(
            "shard {shard}, sink {sink}: frames {} of {} are damaged",
            gap.frames, gap.segment
        );
    }
    for (name, error) in &found.damaged {
        eprintln!("shard {shard}, sink {sink}: {name}: {error}");
    }
    for (seq, error) in &found.undecodable {
        eprintln!("shard {shard}, sink {sink}: frame {seq}: {error}; it is kept");
    }
    Ok(dlq)
}

/// Has the running process do it.
fn ask(
    place: &Place,
    access: &AccessArgs,
    path: &str,
    body: &Value,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let failed = |what: &dyn Display| {
        let data_dir = place.data_dir.display();
        CommandError::Failed(format!(
            "data_dir {data_dir} is in use by a log-capturer that runs{what}"
        ))
    };
    let Some(config) = &place.config else {
        return Err(failed(&": give --config FILE, so that it can be asked, or stop it"));
    };
    let access = access.open().map_err(|error| CommandError::Wrong(error.to_string()))?;
    let Some(server) = Server::of_instance(config, &access) else {
        return Err(failed(&", and server.listen does not say on which port; stop it"));
    };
    let answered = server.post(path, &body.to_string(), ANSWER_TIME_MAX);
    let (status, said) =
        answered.map_err(|error| failed(&format!(", which was asked: {error}")))?;
    let said = Text::of(String::from_utf8_lossy(&said).trim());
    if !status.is_success() {
        let (url, hint) = (server.url(), hint(status));
        return Err(CommandError::Failed(format!("{url}{path}: {status}: {said}{hint}")));
    }
    writeln!(out, "{said}").map_err(CommandError::Output)
}
