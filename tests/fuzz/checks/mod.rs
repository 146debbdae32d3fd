//! What holds of every body that the HTTP ingest is given and of everything that stands on the disk,
//! whatever is in it. A fuzzer tries it on bodies that it makes, a test of the product on those that are
//! kept in the corpora.

mod bed;
mod encodings;
mod forms;
mod json;
mod labels;
mod loki;
mod seeds;
mod storage;

pub use encodings::encodings;
pub use forms::{lines, logs, ndjson, otlp_json, otlp_protobuf, push_json, push_protobuf};
pub use labels::labels;
pub use storage::{checkpoint, frame, letters, log};

/// A target, its name, and valid input for it.
pub struct Target {
    pub name: &'static str,
    pub check: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 13] = [
    Target { name: "checkpoint", check: checkpoint, seeds: storage::checkpoint_seeds },
    Target { name: "encodings", check: encodings, seeds: seeds::encodings },
    Target { name: "frame", check: frame, seeds: storage::frame_seeds },
    Target { name: "labels", check: labels, seeds: seeds::labels },
    Target { name: "letters", check: letters, seeds: storage::letters_seeds },
    Target { name: "lines", check: lines, seeds: seeds::lines },
    Target { name: "log", check: log, seeds: storage::log_seeds },
    Target { name: "logs", check: logs, seeds: seeds::logs },
    Target { name: "ndjson", check: ndjson, seeds: seeds::ndjson },
    Target { name: "otlp_json", check: otlp_json, seeds: seeds::otlp_json },
    Target { name: "otlp_protobuf", check: otlp_protobuf, seeds: seeds::otlp_protobuf },
    Target { name: "push_json", check: push_json, seeds: seeds::push_json },
    Target { name: "push_protobuf", check: push_protobuf, seeds: seeds::push_protobuf },
];
