//! The corpora of the fuzz targets: what holds of any body holds of each that is kept, and of the
//! seeds.

#[path = "fuzz/checks/mod.rs"]
mod checks;

use checks::TARGETS;
use std::path::PathBuf;

const FILES_MAX: usize = 150;
const BYTES_MAX: u64 = 200 << 10;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

#[test]
fn what_is_kept_is_taken_as_it_should_be() {
    let mut bad = Vec::new();
    for target in TARGETS {
        let mut files: Vec<_> = std::fs::read_dir(corpus(target.name))
            .unwrap_or_else(|error| panic!("{}: {error}", target.name))
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        let kept: Vec<_> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
        let bytes = kept.iter().map(|body| body.len() as u64).sum::<u64>();
        let count = files.len();
        assert!((1..FILES_MAX).contains(&count) && bytes < BYTES_MAX, "{}: {count}", target.name);
        let seeds = (target.seeds)();
        let names = files.iter().map(|path| path.display().to_string());
        let names = names.chain((0..).map(|at| format!("{}, seed {at}", target.name)));
        for (body, name) in kept.iter().chain(&seeds).zip(names) {
            if std::panic::catch_unwind(|| (target.check)(body)).is_err() {
                bad.push(name);
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
#[ignore = "it writes into the corpora"]
fn write_seeds() {
    for target in TARGETS {
        std::fs::create_dir_all(corpus(target.name)).unwrap();
        for (at, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(corpus(target.name).join(format!("seed-{at:02}")), seed).unwrap();
        }
    }
}
