//! A shard and its sink under seeds: from the bytes of files to what Loki holds, with power losses,
//! faults of disks and of Loki, and clocks that jump. What the shard does by itself ([`crate::ingest`])
//! is done here step by step with the same parts.
//!
//! As in `io/tests/simulation`: `SIM_SEEDS`, `SIM_FIRST` and `SIM_CASE` choose what runs.

mod files;
mod loki;
mod shard;
mod world;
mod writers;

use io::sim::Events;
use io::sim::campaign::{Case, Simulation, campaign, hunt};
use io::sim::planted::{Bug, plant};
use std::path::Path;
use world::{KINDS, World};

struct Pipeline;

impl Simulation for Pipeline {
    const NAME: &str = "-p log-capturer --lib simulation::every_line";
    const KINDS: &[&str] = KINDS;
    const EVENTS: &[&str] = &[
        "burst in parts",
        "clock back",
        "clock forward",
        "copytruncate",
        "crash in birth",
        "crash in write",
        "dead letter",
        "failed write",
        "file removed",
        "gap read back",
        "gap recovered",
        "half a line",
        "held letter",
        "inode reused",
        "kill",
        "lost answer",
        "masked error",
        "no more streams",
        "one tenant refused",
        "outage",
        "power loss",
        "push refused",
        "push too large",
        "push without room",
        "quota full",
        "read back",
        "rename",
        "rot",
        "siege of a sink",
        "siege of a tenant",
        "stream limited",
        "stream too fast",
        "streams rest",
        "too old",
        "torn block",
        "unauthorized",
        "who is poison",
    ];

    fn weights(&self, options: u64) -> Vec<u64> {
        world::weights(options)
    }

    fn run(&self, case: &Case, events: &Events) {
        World::new(case.options, events.clone()).run(&case.ops);
    }
}

#[test]
fn every_line_comes_once_and_in_order_or_is_a_dead_letter() {
    campaign(&Pipeline, &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/simulation/corpus"));
}

/// What is replayed is what happened.
#[test]
fn a_case_runs_alike_every_time() {
    for seed in 0..100 {
        let case = Case::generate(&Pipeline, seed);
        let counts = || {
            let events = Events::default();
            Pipeline.run(&case, &events);
            events.counts()
        };
        assert_eq!(counts(), counts(), "seed {seed}");
    }
}

#[test]
fn every_planted_mistake_is_found() {
    const SEEDS: u64 = 20_000;
    let bugs =
        [Bug::RingReordering, Bug::NeverAlone, Bug::AckBeforeSync, Bug::UnlinkBeforeCheckpoint];
    for bug in bugs {
        let planted = plant(bug);
        let found = hunt(&Pipeline, 0..SEEDS);
        drop(planted);
        let Some((seed, failure)) = found else { panic!("{bug:?} is not found in {SEEDS} seeds") };
        println!("{bug:?}: seed {seed}: {failure}");
    }
}
