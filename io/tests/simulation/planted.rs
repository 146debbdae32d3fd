//! What the simulation is worth: mistakes planted into the log are found, within so many seeds.

use crate::Log;
use io::sim::campaign::hunt;
use io::sim::planted::{Bug, plant};

const SEEDS: u64 = 20_000;

#[test]
fn every_planted_mistake_is_found() {
    for (bug, why) in [
        (Bug::AckBeforeSync, ""),
        (Bug::CursorBeforeData, ""),
        (Bug::UnlinkBeforeCheckpoint, ""),
        (Bug::AppendAfterFailedSync, ""),
        (Bug::RemoveEmptySegment, ""),
        (Bug::NoDirectorySync, ""),
        (Bug::SaltIgnored, ""),
    ] {
        let planted = plant(bug);
        let found = hunt(&Log, 0..SEEDS);
        drop(planted);
        let Some((seed, failure)) = found else { panic!("{bug:?} is not found in {SEEDS} seeds") };
        println!("{bug:?}: seed {seed}: {failure}");
        assert!(failure.why.contains(why), "{bug:?} is found by {failure}");
    }
}
