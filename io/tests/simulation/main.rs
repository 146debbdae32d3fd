//! The log under seeds: its tasks mixed at every step of a simulated disk, with crashes, faults and rot,
//! and the invariants looked at after every step.
//!
//! `SIM_SEEDS=1000000 cargo test -p log-capturer-io --test simulation` runs longer, `SIM_FIRST` from
//! another seed on, and `SIM_CASE='…'` runs the one case that a failure names.

mod model;
mod planted;
mod real;
mod walk;
mod world;

use io::sim::Events;
use io::sim::campaign::{Case, Simulation, campaign};
use std::path::Path;
use world::{KINDS, World};

pub struct Log;

impl Simulation for Log {
    const NAME: &str = "-p log-capturer-io --test simulation";
    const KINDS: &[&str] = KINDS;
    const EVENTS: &[&str] = &[
        "another format",
        "crash at directory sync",
        "crash at rename",
        "crash in birth",
        "crash in checkpoint",
        "crash in recovery",
        "crash in removal",
        "crash in write",
        "damaged slot",
        "disk full",
        "dropped rename",
        "dropped unlink",
        "failed sync",
        "failed write",
        "garbled block",
        "gap reported",
        "header rot over stale blocks",
        "kill",
        "log broken",
        "poisoned segment",
        "quota full",
        "read beside a removal",
        "rot",
        "rot taken for a torn tail",
        "stale frame",
        "survived without an ack",
        "tag behind",
        "tag behind, in a format without tags",
        "torn block",
        "torn group",
        "torn tail",
    ];

    fn weights(&self, options: u64) -> Vec<u64> {
        world::weights(options)
    }

    fn run(&self, case: &Case, events: &Events) {
        World::new(case.options, events.clone()).run(&case.ops);
    }
}

#[test]
fn whatever_happens_nothing_acknowledged_is_lost() {
    campaign(&Log, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulation/corpus"));
}

/// What is replayed is what happened.
#[test]
fn a_case_runs_alike_every_time() {
    for seed in 0..200 {
        let case = Case::generate(&Log, seed);
        let steps = || {
            let world = World::new(case.options, Events::default());
            let disk = world.disk.clone();
            disk.trace();
            world.run(&case.ops);
            disk.traced()
        };
        assert_eq!(steps(), steps(), "seed {seed}");
    }
}

#[test]
fn a_case_is_what_its_line_says() {
    for seed in 0..100 {
        let case = Case::generate(&Log, seed);
        assert_eq!(Case::parse::<Log>(&case.line::<Log>()), Some(case));
    }
}
