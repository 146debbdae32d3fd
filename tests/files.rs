//! Whatever happens to files and their names, every line arrives once.

use crate::bed::{Bed, eventually, stop};
use bench::load::{Rotation, Workload, Written};
use bench::product::Product;
use bench::stub::{Away, Fault};
use std::fs;
use std::time::Duration;

/// Appends marked lines to two files, and gives what was written with those before.
fn write(bed: &Bed, lines: u64) -> Written {
    bed.writer(50_000, lines, Rotation::Never).wait().unwrap()
}

#[test]
fn lines_of_plain_files_arrive_with_their_labels_and_in_order() {
    let mut bed = Bed::new();
    bed.setup.file_keys = vec!["labels: { job: test, zone: \"a\\\"b\" }".into()];
    bed.setup.sink_keys.push("labels: { host: here }".into());
    bed.append("before.log", "1\n2\n");
    let product = bed.start();
    bed.append("before.log", "3\n");
    bed.append("after.log", "4\n");
    let lines = bed.lines(4);
    let line = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_owned());
    assert_eq!(
        lines,
        [
            line("after.log", "4"),
            line("before.log", "1"),
            line("before.log", "2"),
            line("before.log", "3")
        ]
    );
    let mut labels: Vec<String> = bed.stub.streams();
    labels.sort();
    let path = bed.log("after.log");
    let expected = format!("{{filename={path:?}, host=\"here\", job=\"test\", zone=\"a\\\"b\"}}");
    assert_eq!(labels[0], expected);
    let written = write(&bed, 20_000);
    bed.assert_complete_with_unmarked(&written);
    stop(product);
}

impl Bed {
    /// As `assert_exactly_once`, where a test wrote other lines, too.
    fn assert_complete_with_unmarked(&self, written: &Written) {
        let mut verified = self.verify(written);
        verified.unmarked = 0;
        assert!(verified.exactly_once(), "{verified:#?}");
    }
}

#[test]
fn generations_renamed_under_load_are_read_to_their_ends() {
    let bed = Bed::new();
    let product = bed.start();
    let rotation = Rotation::Rename { lines: 1_000, keep: 3 };
    let written = bed.writer(20_000, 60_000, rotation).wait().unwrap();
    assert!(written.rotations >= 50, "{}", written.rotations);
    bed.assert_exactly_once(&written);
    assert!(product.metric("log_capturer_file_rotations_total").unwrap() >= 50.0);
    stop(product);
}

#[test]
fn generations_that_stay_in_the_glob_are_read_once() {
    let mut bed = Bed::new();
    bed.setup.include = vec![format!("{}/**/*.log*", bed.setup.logs().display())];
    let product = bed.start();
    let rotation = Rotation::Rename { lines: 1_000, keep: 4 };
    let written = bed.writer(20_000, 20_000, rotation).wait().unwrap();
    bed.assert_exactly_once(&written);
    stop(product);
}

#[test]
fn several_rotations_during_one_slow_push_lose_nothing() {
    let bed = Bed::new();
    bed.stub.script_fault(Fault::Delay(Duration::from_millis(1_500)), 2);
    let product = bed.start();
    let rotation = Rotation::Rename { lines: 500, keep: 20 };
    let written = bed.writer(10_000, 10_000, rotation).wait().unwrap();
    bed.assert_exactly_once(&written);
    assert!(bed.stub.stats().faults.delayed > 0);
    stop(product);
}

#[test]
fn generations_rotated_while_it_was_stopped_are_resumed_where_they_were() {
    let bed = Bed::new();
    // Appends to what is there, and goes on counting.
    let mut lines = bench::load::Lines::new(&Workload::service().text, 3, 0);
    let mut append = |name: &str, count: usize| {
        let mut text = Vec::new();
        (0..count).for_each(|_| lines.next(bench::measure::now_ns(), &mut text));
        bed.append(name, text);
        Written { lines: vec![lines.made()], ..Written::default() }
    };
    let product = bed.start();
    let written = append("app-0.log", 1_000);
    bed.assert_exactly_once(&written);
    stop(product);

    append("app-0.log", 500);
    fs::rename(bed.log("app-0.log"), bed.log("app-0.log.1")).unwrap();
    append("app-0.log", 300);
    fs::rename(bed.log("app-0.log.1"), bed.log("app-0.log.2")).unwrap();
    fs::rename(bed.log("app-0.log"), bed.log("app-0.log.1")).unwrap();
    append("app-0.log", 200);
    let product = bed.start();
    // The middle generation was never seen under a name that matches: it cannot be known that it
    // was a log once. What was being read, and what matches, is read.
    let expected = 1_000 + 500 + 200;
    assert!(bed.stub.wait_for_lines(expected, crate::bed::PATIENCE), "{}", product.log());
    fs::rename(bed.log("app-0.log.1"), bed.log("again.log")).unwrap();
    let written = Written { lines: vec![2_000], ..Written::default() };
    bed.verify(&written);
    assert_eq!(bed.stub.stats().repeated, 0);
    stop(product);
}

#[test]
fn copytruncate_loses_nothing_that_was_read_before() {
    let bed = Bed::new();
    let product = bed.start();
    let rotation = Rotation::CopyTruncate { lines: 2_000, pause: Duration::from_millis(1_500) };
    let written = bed.writer(20_000, 12_000, rotation).wait().unwrap();
    assert!(written.rotations >= 4);
    bed.assert_exactly_once(&written);
    assert!(product.metric("log_capturer_file_truncations_total").unwrap() >= 4.0);
    stop(product);
}

#[test]
fn what_a_truncation_took_away_is_counted() {
    let bed = Bed::new();
    bed.append("a.log", "first\n");
    let product = bed.start();
    bed.lines(1);
    // Half a line, seen and not taken, is gone with the truncation.
    bed.append("a.log", "0123456789");
    let lost = || product.metric("log_capturer_source_bytes_lost_total").unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(lost(), 0.0);
    fs::write(bed.log("a.log"), "new\n").unwrap();
    assert_eq!(bed.texts(2), ["first", "new"]);
    eventually("ten bytes are counted as lost", &product, || lost() == 10.0);
    stop(product);
}

#[test]
fn a_file_removed_while_it_is_read_is_read_to_its_end() {
    let bed = Bed::new();
    let product = bed.start();
    // Nothing can be sent, so that reading is far behind when the files go.
    bed.stub.go_away(Away::Refusing);
    bed.append("warm.log", "x\n");
    let corpus = bed.corpus(50_000, 2);
    let taken = "log_capturer_logs_processed_total";
    eventually("the files are opened", &product, || product.metric(taken).unwrap() > 2.0);
    corpus.files.iter().for_each(|path| fs::remove_file(path).unwrap());
    bed.stub.heal();
    bed.assert_complete_with_unmarked(&corpus.written);
    assert_eq!(product.metric("log_capturer_source_bytes_lost_total").unwrap(), 0.0);
    stop(product);
}

#[test]
fn files_that_begin_alike_are_told_apart() {
    let bed = Bed::new();
    let header = "# the same two kilobytes at the start of every file\n".repeat(40);
    for name in ["a.log", "b.log", "c.log"] {
        bed.append(name, &header);
        bed.append(name, format!("{name}\n"));
    }
    let product = bed.start();
    let lines = bed.lines(3 * 41);
    assert_eq!(lines.len(), 3 * 41);
    stop(product);
    // A new file in the place of an old one, with the same start.
    fs::remove_file(bed.log("b.log")).unwrap();
    bed.append("b.log", &header);
    bed.append("b.log", "another\n");
    let product = bed.start();
    assert_eq!(bed.lines(4 * 41).len(), 4 * 41);
    stop(product);
}

#[test]
fn only_new_lines_are_read_where_that_was_asked_for() {
    let mut bed = Bed::new();
    bed.setup.file_keys = vec!["start_at: end".into()];
    bed.append("a.log", "old\nhalf a line that began befo");
    let product = bed.start();
    bed.append("a.log", "re the start\nnew\n");
    bed.append("b.log", "a new file from its start\n");
    let mut lines = bed.texts(2);
    lines.sort();
    assert_eq!(lines, ["a new file from its start", "new"]);
    stop(product);
    bed.append("a.log", "written meanwhile\n");
    let product = bed.start();
    assert!(bed.texts(3).contains(&"written meanwhile".to_owned()));
    stop(product);
}

#[test]
fn what_is_no_regular_file_is_left_alone() {
    let bed = Bed::new();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, bed.log("fifo.log"), fifo, mode, 0).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", bed.log("link.log")).unwrap();
    fs::create_dir(bed.log("dir.log")).unwrap();
    bed.append("a.log", "a\n");
    let product = bed.start();
    assert_eq!(bed.texts(1), ["a"]);
    assert_eq!(product.metric("log_capturer_files_watched").unwrap(), 1.0);
    stop(product);
}

#[test]
fn links_are_followed_where_that_is_allowed() {
    let mut bed = Bed::new();
    bed.setup.file_keys = vec!["follow_symlinks: true".into()];
    let target = bed.setup.dir.join("target");
    fs::write(&target, "1\n").unwrap();
    std::os::unix::fs::symlink(&target, bed.log("link.log")).unwrap();
    let product = bed.start();
    assert_eq!(bed.texts(1), ["1"]);
    fs::write(&target, "1\n2\n").unwrap();
    assert_eq!(bed.texts(2), ["1", "2"]);
    stop(product);
}

#[test]
fn a_quiet_file_does_not_wait_for_a_hot_one() {
    let bed = Bed::new();
    let corpus = bed.corpus(400_000, 1);
    bed.append("quiet.log", "x\n");
    let product = bed.start();
    bed.lines(1);
    let hot = bed.stub.received_in_all();
    assert!(hot < 200_000, "{hot} lines of the hot file went first");
    bed.assert_complete_with_unmarked(&corpus.written);
    stop(product);
}

#[test]
fn descriptors_are_bounded_and_many_files_are_read_all_the_same() {
    const FILES: u32 = 300;
    let bed = Bed::new();
    let corpus = bed.corpus(30_000, FILES);
    let product = bed.start();
    bed.assert_exactly_once(&corpus.written);
    assert_eq!(product.metric("log_capturer_files_watched").unwrap(), f64::from(FILES));
    let open = || product.metric("log_capturer_files_open").unwrap();
    eventually("surplus files are closed", &product, || open() <= 128.0);
    assert!(product.usage().unwrap().descriptors < 200);
    stop(product);
}

/// A file and what it holds of memory and descriptors: with so many, what is bounded shows.
#[test]
fn twenty_thousand_files_are_followed_within_bounds() {
    const FILES: usize = 20_000;
    const DIRECTORIES: usize = 40;
    /// 128 sources, and a log, sockets, bells and rings beside them.
    const DESCRIPTORS_MAX: u64 = 128 + 72;
    /// Three times what it takes.
    const MEMORY_BYTES_MAX: u64 = 256 << 20;
    let mut bed = Bed::new();
    bed.setup.include = vec![format!("{}/**/*.log", bed.setup.logs().display())];
    bed.setup.file_keys = vec!["start_at: end".into()];
    for n in 0..DIRECTORIES {
        fs::create_dir(bed.log(&format!("dir-{n}"))).unwrap();
    }
    let name = |n: usize| format!("dir-{}/{n}.log", n % DIRECTORIES);
    (0..FILES).for_each(|n| fs::write(bed.log(&name(n)), "old\n").unwrap());
    // Scattered over all directories.
    let some = |first: usize| (first..FILES).step_by(61).map(name).collect::<Vec<_>>();
    let mut expected = Vec::new();
    for (run, names) in [some(0), some(30)].into_iter().enumerate() {
        let product = bed.start();
        let followed = || product.metric("log_capturer_files_watched").unwrap();
        eventually("all are followed", &product, || followed() == FILES as f64);
        let mut descriptors = 0;
        for name in names {
            bed.append(&name, format!("run {run}\n"));
            let (_, name) = name.split_once('/').unwrap();
            expected.push((name.to_owned(), format!("run {run}").into_bytes()));
            descriptors = descriptors.max(product.usage().unwrap().descriptors);
        }
        let mut lines = bed.lines(expected.len());
        lines.sort();
        expected.sort();
        assert!(lines == expected, "{} lines of {}", lines.len(), expected.len());
        let usage = product.usage().unwrap();
        descriptors = descriptors.max(usage.descriptors);
        assert!(descriptors <= DESCRIPTORS_MAX, "{descriptors} descriptors");
        assert!(usage.rss_peak_bytes < MEMORY_BYTES_MAX, "{} bytes", usage.rss_peak_bytes);
        println!("run {run}: {descriptors} descriptors, {} KiB", usage.rss_peak_bytes >> 10);
        stop(product);
    }
    assert_eq!(bed.stub.stats().unmarked_repeated, 0);
}

#[test]
fn four_shards_on_fewer_cores_share_the_files() {
    let mut bed = Bed::new();
    bed.setup.cores = "{ shards: 4 }".into();
    let corpus = bed.corpus(40_000, 16);
    let product = bed.start();
    bed.assert_exactly_once(&corpus.written);
    assert_eq!(busy_shards(&product), 4);
    stop(product);
    // Fewer shards than before: what the others left is not lost or read again.
    bed.setup.cores = "{ shards: 1 }".into();
    let product = bed.start();
    bed.append("new.log", "x\n");
    bed.lines(1);
    bed.assert_complete_with_unmarked(&corpus.written);
    assert_eq!(busy_shards(&product), 1);
    stop(product);
}

fn busy_shards(product: &Product) -> usize {
    let text = product.metrics_text().unwrap();
    let lines = text.lines().filter(|l| l.starts_with("log_capturer_logs_processed_total{"));
    lines.filter(|line| !line.ends_with(" 0")).count()
}

/// More events than the kernel keeps: what they told of is found all the same.
#[test]
fn an_overflow_of_events_loses_nothing() {
    let bed = Bed::new();
    let product = bed.start();
    let names: Vec<String> = (0..64).map(|n| format!("app-{n}.log")).collect();
    names.iter().for_each(|name| bed.append(name, "first\n"));
    bed.lines(names.len());
    let pid = rustix::process::Pid::from_raw(product.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let kept = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let rounds = kept.trim().parse::<usize>().unwrap() / names.len() + 2;
    // One after the other, so that no two events are one.
    for n in 0..rounds {
        names.iter().for_each(|name| bed.append(name, format!("line {n}\n")));
    }
    bed.append("new.log", "new\n");
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let lines = bed.lines(names.len() * (rounds + 1) + 1);
    assert_eq!(lines.len(), names.len() * (rounds + 1) + 1);
    assert!(product.metric("log_capturer_inotify_overflows_total").unwrap() > 0.0);
    stop(product);
}
