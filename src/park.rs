//! Pushes that the sink refuses for good, kept whole in `shard-NN/parked/` with the reason.
//!
//! Each is two files: `SEQ.snappy`, a push body as it was sent, and `SEQ.json`, which says why. To
//! send one again, once what it was refused for is mended:
//!
//! ```text
//! curl -X POST -H 'Content-Type: application/x-protobuf' --data-binary @SEQ.snappy URL
//! ```

use crate::handoff::Frame;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct Options {
    pub dir: PathBuf,
    /// All parked files together; at the limit the lane waits, and nothing is dropped.
    pub bytes_max: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ParkError {
    #[error(
        "{dir} holds {bytes} bytes, the limit is {bytes_max}; nothing more is sent until some of \
         it was sent again or removed"
    )]
    Full { dir: PathBuf, bytes: u64, bytes_max: u64 },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// Writes a refused frame; when this returns it is durable. Parked again, it replaces itself.
pub fn park(options: &Options, frame: &Frame, reason: &str) -> Result<u64, ParkError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ParkError::Io { path, source }
    };
    fs::create_dir_all(&options.dir).map_err(io(&options.dir))?;
    let bytes = parked_bytes(options).map_err(io(&options.dir))?;
    if bytes + frame.bytes() > options.bytes_max {
        let Options { dir, bytes_max } = options.clone();
        return Err(ParkError::Full { dir, bytes, bytes_max });
    }
    let about = serde_json::json!({
        "seq": frame.seq.0,
        "tenant": frame.tenant,
        "entries": frame.entries,
        "raw_bytes": frame.raw_len,
        "oldest_arrival_unix_ns": frame.oldest_arrival_ns,
        "parked_unix_ns": perf::clock::unix_ns(),
        "reason": reason,
    });
    let path = |suffix| options.dir.join(format!("{:020}.{suffix}", frame.seq.0));
    for (path, content) in
        [(path("snappy"), &frame.body), (path("json"), &format!("{about:#}\n").into_bytes())]
    {
        write(&path, content).map_err(io(&path))?;
    }
    File::open(&options.dir).and_then(|dir| dir.sync_all()).map_err(io(&options.dir))?;
    Ok(bytes + frame.bytes())
}

pub fn parked_bytes(options: &Options) -> std::io::Result<u64> {
    if !options.dir.exists() {
        return Ok(0);
    }
    fs::read_dir(&options.dir)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file =
        fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parked_frame_stands_whole_with_its_reason_until_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { dir: dir.path().join("parked"), bytes_max: 2000 };
        assert_eq!(parked_bytes(&options).unwrap(), 0);
        let frame = Frame { body: vec![7; 1000], ..Frame::for_tests() };
        park(&options, &frame, "400: entry too far behind").unwrap();
        let body = fs::read(options.dir.join("00000000000000000001.snappy")).unwrap();
        assert_eq!(body, frame.body);
        let about = fs::read(options.dir.join("00000000000000000001.json")).unwrap();
        let about: serde_json::Value = serde_json::from_slice(&about).unwrap();
        assert_eq!(about["reason"], "400: entry too far behind");
        let error = park(&options, &frame, "again").unwrap_err().to_string();
        assert!(error.contains("the limit is 2000"), "{error}");
    }
}
