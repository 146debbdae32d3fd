//! One log as a command looks at it: a shard's own, or that of a dead-letter queue.

use crate::place;
use io::disk::{Disk, DiskError};
use io::format::{FormatError, FrameView, Seq};
use io::map::MapDisk;
use io::plain::run;
use io::wal::WalError;
use io::wal::recovery::{Standing, standing};
use io::wal::survey::{Frame, Reach, Survey, Surveyed, read_frame, survey};
use std::path::{Path, PathBuf};

/// Where a log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    pub shard: usize,
    /// The sink, of a dead-letter queue.
    pub queue: Option<String>,
    pub dir: PathBuf,
}

/// Names no sink where neither a configuration nor a checkpoint does: the frames count for all.
const ANY_SINK: &str = "any";

#[derive(Debug)]
pub struct Log {
    pub home: Home,
    /// In the order of [`Standing::sinks`].
    pub sinks: Vec<String>,
    pub survey: Survey,
    pub standing: Standing,
}

/// A log that cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", dir.display())]
pub struct LogError {
    dir: PathBuf,
    source: WalError,
}

impl LogError {
    /// A frame that was there a moment ago.
    #[must_use]
    pub fn of_frame(home: &Home, segment: &Surveyed, lost: Lost) -> LogError {
        let name = segment.name.clone();
        let source = match lost {
            Lost::Disk(error) => error.into(),
            Lost::Format(source) => WalError::Format { name, source },
        };
        LogError { dir: home.dir.clone(), source }
    }

    /// A later version wrote it.
    #[must_use]
    pub fn is_format(&self) -> bool {
        matches!(self.source, WalError::Format { source: FormatError::Version { .. }, .. })
    }
}

/// What a command does with a frame; false where it has enough.
pub type Take<'a> =
    &'a mut dyn FnMut(&Surveyed, &Frame, Result<FrameView<'_>, Lost>) -> std::io::Result<bool>;

/// A frame that was read, and cannot be read again.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("{0}")]
    Disk(#[from] DiskError),
    #[error("{0}")]
    Format(#[from] FormatError),
}

/// The logs under a data_dir, by shard; `dlq`: those of dead-letter queues as well.
pub fn homes(data_dir: &Path, dlq: bool) -> std::io::Result<Vec<Home>> {
    let mut homes = Vec::new();
    for (shard, path) in place::shards(data_dir)? {
        let (wal, queues) = (path.join("wal"), path.join("dlq"));
        if wal.is_dir() {
            homes.push(Home { shard, queue: None, dir: wal });
        }
        if dlq && queues.is_dir() {
            let queues = place::directories(&queues)?.into_iter();
            homes.extend(queues.map(|(sink, dir)| Home { shard, queue: Some(sink), dir }));
        }
    }
    Ok(homes)
}

impl std::fmt::Display for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shard {}", self.shard)?;
        match &self.queue {
            Some(sink) => write!(f, ", dead-letter queue of {sink}"),
            None => Ok(()),
        }
    }
}

impl Log {
    /// `sinks`: those that are configured; where that is not known, those of the checkpoint.
    pub fn read(home: &Home, sinks: &[String], reach: Reach) -> Result<Log, LogError> {
        let owner = u32::try_from(home.shard).unwrap_or(u32::MAX);
        let mut survey = run(survey(&MapDisk::new(&home.dir), owner, reach))
            .map_err(|source| LogError { dir: home.dir.clone(), source })?;
        survey.segments.retain(|segment| !segment.has_vanished());
        let sinks = match &home.queue {
            Some(sink) => vec![sink.clone()],
            None if sinks.is_empty() => sinks_of(&survey),
            None => sinks.to_vec(),
        };
        let standing = standing(&survey, &sinks);
        Ok(Log { home: home.clone(), sinks, survey, standing })
    }

    /// Reads the frames that count once more, with their bodies, and of them those that are wanted.
    pub fn each(&self, wanted: impl Fn(&Frame) -> bool, take: Take<'_>) -> std::io::Result<()> {
        let disk = MapDisk::new(&self.home.dir);
        for segment in self.survey.ours() {
            let mut file = None;
            for frame in segment.kept().filter(|frame| wanted(frame)) {
                if file.is_none() {
                    file = match run(disk.open(&segment.name)) {
                        Ok(file) => Some(file),
                        // It was done with.
                        Err(gone) if gone.source.kind() == std::io::ErrorKind::NotFound => break,
                        Err(error) => {
                            take(segment, frame, Err(error.into()))?;
                            break;
                        }
                    };
                }
                let file = file.as_ref().expect("just opened");
                let bytes = run(read_frame(&disk, file, frame));
                let view = match &bytes {
                    Ok(bytes) => FrameView::decode(bytes).map_err(Lost::from),
                    Err(_) => Err(bytes.expect_err("just seen").into()),
                };
                if !take(segment, frame, view)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The sinks that have not acknowledged this frame.
    pub fn waiting(&self, frame: &Frame) -> impl Iterator<Item = &str> {
        let tag = String::from_utf8_lossy(&frame.tag);
        let seq = frame.header.seq;
        let sinks = self.sinks.iter().zip(&self.standing.sinks);
        let waits: Vec<&str> = sinks
            .filter(|(_, acked)| acked.of(&tag) < seq)
            .map(|(sink, _)| sink.as_str())
            .collect();
        waits.into_iter()
    }

    /// The sinks that have acknowledged everything up to here.
    pub fn acked_by(&self, last: Seq) -> impl Iterator<Item = &str> {
        let sinks = self.sinks.iter().zip(&self.standing.sinks);
        sinks.filter(move |(_, acked)| acked.floor() >= last).map(|(sink, _)| sink.as_str())
    }
}

fn sinks_of(survey: &Survey) -> Vec<String> {
    let of_sink = survey.checkpoint.acked.iter().filter(|of| of.tag.is_none());
    let sinks: Vec<String> = of_sink.map(|of| of.sink.clone()).collect();
    if sinks.is_empty() { vec![ANY_SINK.into()] } else { sinks }
}
