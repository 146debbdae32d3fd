//! What the tests stand on: a directory, a receiver, and the product between them.

use bench::load::{self, Corpus, Rotation, Workload, Writer, Written, corpus};
use bench::product::{Product, Setup};
use bench::stub::{Accounting, Kept, Options, Stub, Verified};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long something that must happen is waited for. No test asserts a time.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const BINARY: &str = env!("CARGO_BIN_EXE_log-capturer");

pub struct Bed {
    pub stub: Stub,
    pub setup: Setup,
    // Removed last.
    _dir: TempDir,
}

impl Bed {
    pub fn new() -> Bed {
        Bed::with(Options { keep_entries: 100_000, ..Options::new(Accounting::PerLine) })
    }

    pub fn with(options: Options) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let stub = Stub::start(options).unwrap();
        let mut setup = Setup::new(Path::new(BINARY), dir.path(), &stub.url());
        setup.sink_keys = vec!["linger: 5ms".into()];
        fs::create_dir(setup.logs()).unwrap();
        Bed { stub, setup, _dir: dir }
    }

    pub fn start(&self) -> Product {
        Product::start(&self.setup).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.setup.logs().join(name)
    }

    pub fn append(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.log(name)).unwrap();
        file.write_all(bytes.as_ref()).unwrap();
    }

    /// A writer of marked lines into two files, at `rate` lines a second.
    pub fn writer(&self, rate: u64, lines: u64, rotation: Rotation) -> Writer {
        Writer::start(load::Options {
            dir: self.setup.logs(),
            text: Workload::service().text,
            files: 2,
            rate,
            lines,
            seed: 7,
            first_sequence: 0,
            lines_per_write: 1,
            rotation,
        })
        .unwrap()
    }

    /// A backlog of marked lines, before the product is started.
    pub fn corpus(&self, lines: u64, files: u32) -> Corpus {
        let workload = Workload { lines, files, ..Workload::service() };
        corpus::prepare(&self.setup.logs(), &workload).unwrap()
    }

    /// Waits until all that was written is there, then looks at everything that is.
    pub fn verify(&self, written: &Written) -> Verified {
        let arrived = self.stub.wait_for_lines(written.lines_in_all(), PATIENCE);
        let verified = self.stub.verify(written);
        assert!(arrived, "lines are missing: {verified:#?}\n{}", self.product_log());
        verified
    }

    pub fn assert_exactly_once(&self, written: &Written) {
        let verified = self.verify(written);
        assert!(verified.exactly_once(), "{verified:#?}\n{}", self.product_log());
    }

    /// Every line, in order; lines that were sent twice show once in a query.
    pub fn assert_complete(&self, written: &Written) -> Verified {
        let verified = self.verify(written);
        assert!(verified.complete(), "{verified:#?}\n{}", self.product_log());
        verified
    }

    /// Waits for so many unmarked lines, and gives all there are, by file, in their order.
    pub fn lines(&self, count: usize) -> Vec<(String, Vec<u8>)> {
        let here =
            |stats: &bench::stub::Stats| stats.unmarked - stats.unmarked_repeated >= count as u64;
        let arrived = self.stub.wait_until(PATIENCE, here);
        let mut entries = self.stub.entries();
        entries.sort_by(|a, b| (&a.labels, a.timestamp_ns).cmp(&(&b.labels, b.timestamp_ns)));
        let lines: Vec<_> =
            entries.into_iter().map(|entry| (file_name(&entry.labels), entry.line)).collect();
        assert!(arrived, "expected {count} lines, found {lines:?}\n{}", self.product_log());
        lines
    }

    /// As [`Bed::lines`], of one file and as text.
    pub fn texts(&self, count: usize) -> Vec<String> {
        let text = |(_, line): (String, Vec<u8>)| String::from_utf8_lossy(&line).into_owned();
        self.lines(count).into_iter().map(text).collect()
    }

    /// As [`Bed::texts`], of what was pushed.
    pub fn texts_of_pushes(&self, count: usize) -> Vec<String> {
        let entries = self.entries(count).into_iter();
        let pushed = entries.filter(|entry| !entry.labels.contains("filename="));
        pushed.map(|entry| String::from_utf8_lossy(&entry.line).into_owned()).collect()
    }

    /// Waits for so many different unmarked entries, and gives all there are, as they came.
    pub fn entries(&self, count: usize) -> Vec<Kept> {
        let here =
            |stats: &bench::stub::Stats| stats.unmarked - stats.unmarked_repeated >= count as u64;
        let arrived = self.stub.wait_until(PATIENCE, here);
        let entries = self.stub.entries();
        let found = entries.len();
        assert!(arrived, "expected {count} entries, found {found}\n{}", self.product_log());
        entries
    }

    pub fn product_log(&self) -> String {
        fs::read_to_string(self.setup.dir.join("product.log")).unwrap_or_default()
    }
}

/// The `filename` label, without its directory.
fn file_name(labels: &str) -> String {
    let value = labels.split_once("filename=\"").expect("every file has it").1;
    let path = value.split_once('"').expect("it ends").0;
    Path::new(path).file_name().expect("a file").to_str().expect("text").to_owned()
}

/// Asks the product or the stub: any status is an answer, and none is waited for without end.
pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

/// Waits until something holds that the product will bring about.
pub fn eventually(what: &str, product: &Product, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}\n{}", product.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn stop(product: Product) {
    let log = product.log();
    let status = product.stop(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
    assert!(status.success(), "{status}\n{log}");
}
