//! Killed at any moment.

use super::load::Load;
use bench::product::Product;
use bench::stub::{Away, Fault};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// Kills after 50 to 500 ms, for a minute, while files and requests come, and while the sink comes and
/// goes: also in the middle of recovery.
#[test]
fn killed_at_any_moment_for_a_minute_nothing_is_lost() {
    let mut load = Load::new();
    // What was refused and not settled at a kill is refused, and kept, once more.
    load.bed.setup.sink_keys = vec!["linger: 1ms".into(), "dlq: { bytes_max: 4GiB }".into()];
    let (mut dice, mut kills, start) = (7, 0_u64, Instant::now());
    while start.elapsed() < MINUTE {
        match kills % 4 {
            1 => load.bed.stub.go_away(Away::Refusing),
            2 => load.bed.stub.set_fault(Fault::answer(503, "not now\n")),
            _ => load.heal(),
        }
        let product = Product::spawn(&load.bed.setup).unwrap_or_else(|error| panic!("{error}"));
        let moment = Duration::from_millis(50 + io::sim::random(&mut dice) % 450);
        let started = Instant::now();
        while started.elapsed() < moment {
            load.step(&product);
            // It is about the moments, and not about how much comes.
            std::thread::sleep(Duration::from_millis(20));
        }
        product.kill();
        kills += 1;
    }
    load.heal();
    assert!(kills > 60, "{kills}");
    println!("{} lines acknowledged over {kills} kills", load.acknowledged.len());
    load.assert_nothing_is_lost("kills");
}
