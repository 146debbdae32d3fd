//! The queue as it is used: put, read, settle, and what is due.

use super::body::{self, BodyError, Kind};
use super::filter::Filter;
use super::index::{FrameInfo, Stats};
use super::record::Record;
use super::state::State;
use super::{Backoff, Options};
use glommio::sync::{RwLock, RwLockWriteGuard};
use io::disk::{Disk, DiskError};
use io::format::{BODY_BYTES_MAX, FormatError, Seq};
use io::wal::{Gap, Sealed, WalError};
use perf::errors::ErrorKey;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The queue of a shard and a sink. Its operations may run at once on one executor: each waits for
/// the one before. One that is dropped half-way may have done its work or not, and the next reads
/// the log anew.
pub struct Dlq<D: Disk + Clone> {
    state: RwLock<State<D>>,
    stats: RefCell<Stats>,
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub struct Found {
    pub frames: u64,
    pub entries: u64,
    /// Frames that were durable once and cannot be read.
    pub gaps: Vec<Gap>,
    /// Checkpoints, segment headers that could not be used.
    pub damaged: Vec<(String, FormatError)>,
    /// Whole frames that mean nothing to this program; they are kept.
    pub undecodable: Vec<(Seq, BodyError)>,
    /// The log ended in a group that was never synced.
    pub torn: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum DlqError {
    #[error("dead-letter queue: {0}")]
    Wal(#[from] WalError),
    #[error("dead-letter queue: {0}")]
    Disk(#[from] DiskError),
    #[error(
        "the dead-letter queue holds {bytes} bytes of {bytes_max}, and even what is kept for \
         settling is used up; raise dlq.bytes_max of the sink"
    )]
    Full { bytes: u64, bytes_max: u64 },
    #[error("dead-letter queue, frame {seq}: {source}; it is kept")]
    Undecodable { seq: Seq, source: BodyError },
    #[error("dead-letter queue, frame {seq}: it is damaged; its segment was copied to quarantine")]
    Damaged { seq: Seq },
    #[error("dead-letter queue: there is no frame {seq}; it was settled")]
    Settled { seq: Seq },
}

impl DlqError {
    /// Space is what is missing.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            DlqError::Full { .. } => true,
            DlqError::Disk(error) | DlqError::Wal(WalError::Disk(error)) => error.is_full(),
            _ => false,
        }
    }
}

/// What became of records that were put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Entries that made room for them.
    pub dropped: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum PutError {
    #[error(
        "the dead-letter queue is full: {why}; entries wait until some of it is replayed or purged \
         (log-capturer dlq), or dlq.bytes_max of the sink is raised"
    )]
    Full {
        /// Which of the records are not stored: put these again, the others are durable.
        left: Vec<usize>,
        dropped: u64,
        why: String,
    },
    #[error("record {at} of those that were put is larger than {BODY_BYTES_MAX} bytes compressed")]
    TooLarge { at: usize },
    #[error("{error}")]
    Failed {
        /// As in `Full`, as far as is known: some of these may be stored, and show twice then.
        left: Vec<usize>,
        error: DlqError,
    },
}

/// A frame that is to be written, and what it is.
pub(super) struct Draft {
    pub sealed: Sealed,
    pub what: What,
}

pub(super) enum What {
    Records { info: FrameInfo, replaces: Option<Seq>, moves: bool },
    Settled(Vec<Seq>),
}

impl Draft {
    pub fn settled(seqs: &[Seq]) -> impl Iterator<Item = Draft> + '_ {
        seqs.chunks(body::SETTLED_MAX).map(|seqs| Draft {
            sealed: body::seal_settled(seqs),
            what: What::Settled(seqs.to_vec()),
        })
    }
}

/// Frames of records, and which records went into each. Tenants do not share a frame, nor do those that
/// can pass some day with those that cannot: frames are sent again as a whole.
pub(super) fn drafts(
    records: &[Record],
    raw_bytes_max: usize,
    replaces: Option<Seq>,
) -> Result<Vec<(Draft, Vec<usize>)>, usize> {
    let mut drafts = Vec::new();
    let mut open = BTreeMap::<(&str, bool), (Vec<u8>, Vec<usize>)>::new();
    let mut line = Vec::new();
    let mut close = |raw: &mut Vec<u8>, of: &mut Vec<usize>| {
        let of = std::mem::take(of);
        let records = || of.iter().map(|at| &records[*at]);
        let info = FrameInfo::of(records());
        let arrived_ns = records().map(|record| record.arrived_ns).min().unwrap_or_default();
        let kind = Kind::Records { replaces };
        let sealed = body::seal(kind, raw, info.entries, arrived_ns).ok_or(of[0])?;
        raw.clear();
        let what = What::Records { info, replaces, moves: false };
        drafts.push((Draft { sealed, what }, of));
        Ok::<_, usize>(())
    };
    for (at, record) in records.iter().enumerate() {
        line.clear();
        record.write_line(&mut line);
        let (raw, of) = open.entry((&record.tenant, record.reason.may_pass())).or_default();
        if !of.is_empty() && raw.len() + line.len() > raw_bytes_max {
            close(raw, of)?;
        }
        raw.extend_from_slice(&line);
        of.push(at);
    }
    for (raw, of) in open.values_mut() {
        close(raw, of)?;
    }
    Ok(drafts)
}

impl<D: Disk + Clone> Dlq<D> {
    /// Reads what an earlier run left and goes on behind it. Reports damage, never stops for it.
    pub async fn open(disk: D, options: Options) -> Result<(Dlq<D>, Found), DlqError> {
        let (mut state, found) = State::open(disk, options).await?;
        state.tidy().await;
        let stats = RefCell::new(state.stats());
        Ok((Dlq { state: RwLock::new(state), stats }, found))
    }

    /// The state, alone; where a failure left the log closed, it is opened again.
    async fn enter(&self) -> Result<RwLockWriteGuard<'_, State<D>>, DlqError> {
        let mut state = self.state.write().await.expect("the lock is never closed");
        state.ensure_open().await?;
        Ok(state)
    }

    fn leave(&self, state: RwLockWriteGuard<'_, State<D>>) {
        *self.stats.borrow_mut() = state.stats();
        drop(state);
    }

    /// Stores records: when this returns they are durable.
    pub async fn put(&self, records: &[Record]) -> Result<Stored, PutError> {
        if records.is_empty() {
            return Ok(Stored::default());
        }
        let failed = |error| PutError::Failed { left: (0..records.len()).collect(), error };
        let mut state = self.enter().await.map_err(failed)?;
        let stored = state.put(records).await;
        self.leave(state);
        stored
    }

    /// The records of a frame that waits.
    pub async fn read(&self, seq: Seq) -> Result<Vec<Record>, DlqError> {
        let mut state = self.enter().await?;
        let records = state.read(seq).await;
        self.leave(state);
        records
    }

    /// The frames `done` wait no more, and in their place `again` does. Of frames that do not wait
    /// any more, having been purged meanwhile, nothing comes back.
    pub async fn settle(&self, done: &[Seq], again: &[Record]) -> Result<(), DlqError> {
        let mut state = self.enter().await?;
        let settled = state.settle(done, again).await;
        self.leave(state);
        settled
    }

    /// Likewise, of one frame; what was not tried of it is asked for still, where it was.
    pub async fn settle_tried(
        &self,
        done: Seq,
        again: &[Record],
        untried: &[Record],
    ) -> Result<(), DlqError> {
        let mut state = self.enter().await?;
        let settled = state.settle_tried(done, again, untried).await;
        self.leave(state);
        settled
    }

    /// The next frame to send again: first those that were asked for, then those whose time has
    /// come, and none of tenants that are `held`. The same one until it is settled or postponed.
    pub async fn due(
        &self,
        now_ns: i64,
        backoff: &Backoff,
        held: impl Fn(&str) -> bool,
    ) -> Option<Seq> {
        match self.enter().await {
            Ok(state) => state.index.due(now_ns, backoff, held),
            Err(error) => {
                tracing::warn!(
                    error_key = ErrorKey::DlqUnreadable.name(),
                    %error,
                    "what is due cannot be known"
                );
                None
            }
        }
    }

    /// The frame could not be tried: it is not due before `until_ns`.
    pub async fn postpone(&self, seq: Seq, until_ns: i64) {
        let Ok(mut state) = self.enter().await else { return };
        if let Some(seq) = state.index.resolve(seq)
            && let Some(mut mark) = state.index.get_mut(seq)
        {
            mark.not_before(until_ns);
        }
    }

    /// By which order it was asked for that this frame is sent again; 0: by none.
    pub async fn requested(&self, id: Seq) -> u64 {
        let Ok(state) = self.enter().await else { return 0 };
        let info = state.index.resolve(id).and_then(|seq| state.index.get(seq));
        info.map_or(0, |info| info.requested)
    }

    /// The frames that wait, in their order.
    pub async fn frames(&self) -> Result<Vec<FrameInfo>, DlqError> {
        Ok(self.enter().await?.index.iter().cloned().collect())
    }

    /// Has what matches sent again now, whatever its age and attempts: such entries get frames of
    /// their own, which are due. `order`, which is not 0, tells them from those of other orders. How
    /// many entries.
    pub async fn request(&self, filter: &Filter, now_ns: i64, order: u64) -> Result<u64, DlqError> {
        let mut entries = 0;
        for FrameInfo { id: seq, .. } in self.frames().await? {
            let mut state = self.enter().await?;
            let requested = state.request(seq, filter, now_ns, order).await;
            self.leave(state);
            entries += requested?;
        }
        Ok(entries)
    }

    /// Settles what matches; what else is in their frames is kept. A filter without a condition
    /// takes what cannot be understood as well. How many entries.
    pub async fn purge(&self, filter: &Filter, now_ns: i64) -> Result<u64, DlqError> {
        let mut entries = 0;
        let mut whole = Vec::new();
        for FrameInfo { id: seq, .. } in self.frames().await? {
            let mut state = self.enter().await?;
            let purged = state.purge(seq, filter, now_ns).await;
            self.leave(state);
            let (count, all) = purged?;
            entries += count;
            whole.extend(all.then_some(seq));
        }
        self.settle(&whole, &[]).await?;
        Ok(entries)
    }

    /// As of the last operation that ended.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats.borrow().clone()
    }

    /// Closes its log; everything that was put stays where it is.
    pub async fn close(self) -> Result<(), DlqError> {
        let mut state = self.enter().await?;
        state.close().await
    }
}
