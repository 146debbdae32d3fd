//! Every short sequence of what a log does, cut at every step in every way.

use crate::world::{World, recover};
use io::sim::{Events, Fault, Outcome};
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Clone, Copy, Debug)]
enum Act {
    Append,
    AppendThree,
    Commit,
    Ack,
    Checkpoint,
    CommitBesideCheckpoint,
    Kill,
}

const ACTS: [Act; 7] = [
    Act::Append,
    Act::AppendThree,
    Act::Commit,
    Act::Ack,
    Act::Checkpoint,
    Act::CommitBesideCheckpoint,
    Act::Kill,
];
const LENGTH_MAX: usize = 4;
const OUTCOMES: [Outcome; 4] =
    [Outcome::Kept, Outcome::Dropped, Outcome::Mixed(1), Outcome::Mixed(2)];
/// Orders of the tasks where two go on at once.
const ORDERS: u64 = 3;

fn act(world: &mut World, act: Act) {
    match act {
        Act::Append => world.append_words(&[9]),
        Act::AppendThree => world.append_words(&[9, 700, 9]),
        Act::Commit => world.commit(&mut 1),
        Act::Ack => world.ack_all(),
        Act::Checkpoint => world.checkpoint(&mut 1),
        Act::CommitBesideCheckpoint => {
            world.commit(&mut 1);
            world.checkpoint(&mut 1);
        }
        Act::Kill => world.stop(1, false),
    }
}

/// The world after all but the last of these, and the last begun.
fn begun(acts: &[Act], order: u64) -> World {
    let mut world = World::small();
    let (last, before) = acts.split_last().expect("one at least");
    for of in before {
        act(&mut world, *of);
        world.settle(order);
    }
    act(&mut world, *last);
    world
}

/// Cuts the power at each step of the last act; the sequences that end before have cut the others. Gives
/// how many cuts there were.
fn cut(acts: &[Act]) -> usize {
    let mut cuts = 0;
    let orders =
        if acts.iter().any(|act| matches!(act, Act::CommitBesideCheckpoint)) { ORDERS } else { 1 };
    for order in 0..orders {
        let mut world = begun(acts, order);
        let mut seed = order;
        loop {
            for outcome in OUTCOMES {
                let (disk, mut model) = (world.disk.snapshot(), world.model.borrow().clone());
                disk.set_latency(0, &io::sim::Clock::default());
                disk.restart_with(outcome);
                recover(&disk, &world.options, &mut model, &Events::default());
                cuts += 1;
            }
            if world.tasks.is_idle() {
                break;
            }
            world.step(&mut seed);
        }
        // Now each step fails once instead, the log goes on, and then the power is cut.
        let steps = world.disk.operations();
        let from = begun(acts, order).disk.operations();
        for step in from..steps {
            for errno in [libc::EIO, libc::ENOSPC] {
                let mut world = begun(acts, order);
                world.disk.plant(step, Fault::Error(errno));
                world.settle(order);
                world.disk.restart_with(Outcome::Dropped);
                world.stop(0, true);
                cuts += 1;
            }
        }
    }
    cuts
}

#[test]
fn every_short_sequence_survives_a_cut_at_every_step() {
    let sequences: Vec<Vec<Act>> = (1..=LENGTH_MAX)
        .flat_map(|length| {
            (0..ACTS.len().pow(u32::try_from(length).unwrap())).map(move |mut code| {
                let mut next = || {
                    let act = ACTS[code % ACTS.len()];
                    code /= ACTS.len();
                    act
                };
                (0..length).map(|_| next()).collect()
            })
        })
        .collect();
    let (next, cuts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(acts) = sequences.get(next.fetch_add(1, Ordering::Relaxed)) {
            let cut = std::panic::catch_unwind(|| cut(acts));
            let cut = cut.unwrap_or_else(|_| panic!("the sequence {acts:?}"));
            cuts.fetch_add(cut, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    println!("{} sequences, {} cuts", sequences.len(), cuts.into_inner());
}
