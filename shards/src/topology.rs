//! Which CPU runs which shard, and which one egress.

use std::collections::BTreeSet;

/// What the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub shards: Shards,
    /// The CPU of egress; `None`: the last allowed one.
    pub egress: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shards {
    /// One on every allowed CPU but that of egress; where there is only one CPU, on that.
    Auto,
    /// So many, over the same CPUs in turn: more shards than CPUs are allowed.
    Count(usize),
    Cpus(Vec<usize>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The CPU of each shard.
    pub shards: Vec<usize>,
    pub egress: usize,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TopologyError {
    #[error(
        "{role} is to run on CPU {cpu}, but this process may use {allowed:?} only; name one of \
         these under cores, or widen the cpuset"
    )]
    NotAllowed { role: &'static str, cpu: usize, allowed: Vec<usize> },
    #[error("the allowed CPUs cannot be read: {0}")]
    Unreadable(String),
}

impl Plan {
    pub fn of_this_machine(options: &Options) -> Result<Plan, TopologyError> {
        Plan::new(options, &allowed_cpus()?)
    }

    pub fn new(options: &Options, allowed: &BTreeSet<usize>) -> Result<Plan, TopologyError> {
        let check = |role, cpu| {
            if allowed.contains(&cpu) {
                return Ok(cpu);
            }
            Err(TopologyError::NotAllowed { role, cpu, allowed: allowed.iter().copied().collect() })
        };
        let last = *allowed.last().expect("a process has at least one CPU");
        let egress = check("egress", options.egress.unwrap_or(last))?;
        let mut others: Vec<usize> = allowed.iter().copied().filter(|cpu| *cpu != egress).collect();
        if others.is_empty() {
            others.push(egress);
        }
        let shards = match &options.shards {
            Shards::Auto => others,
            Shards::Count(count) => others.into_iter().cycle().take(*count).collect(),
            Shards::Cpus(cpus) => {
                cpus.iter().map(|cpu| check("a shard", *cpu)).collect::<Result<_, _>>()?
            }
        };
        assert!(!shards.is_empty());
        Ok(Plan { shards, egress })
    }
}

/// The CPUs that this thread may run on: what taskset, a cpuset or a container left of them.
pub fn allowed_cpus() -> Result<BTreeSet<usize>, TopologyError> {
    let set = rustix::thread::sched_getaffinity(None)
        .map_err(|e| TopologyError::Unreadable(e.to_string()))?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Keeps the calling thread on one CPU.
pub fn pin(cpu: usize) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(shards: Shards, egress: Option<usize>, allowed: &[usize]) -> Result<Plan, String> {
        Plan::new(&Options { shards, egress }, &allowed.iter().copied().collect())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn shards_take_every_cpu_but_that_of_egress() {
        let auto = |allowed| plan(Shards::Auto, None, allowed).unwrap();
        assert_eq!(auto(&[0, 1, 2, 3]), Plan { shards: vec![0, 1, 2], egress: 3 });
        assert_eq!(auto(&[4, 7]), Plan { shards: vec![4], egress: 7 });
        let first = plan(Shards::Auto, Some(0), &[0, 1, 2]).unwrap();
        assert_eq!(first, Plan { shards: vec![1, 2], egress: 0 });
    }

    #[test]
    fn one_cpu_does_everything() {
        assert_eq!(plan(Shards::Auto, None, &[5]), Ok(Plan { shards: vec![5], egress: 5 }));
        let four = plan(Shards::Count(4), None, &[5]).unwrap();
        assert_eq!(four, Plan { shards: vec![5; 4], egress: 5 });
    }

    #[test]
    fn more_shards_than_cpus_share_them() {
        let four = plan(Shards::Count(4), None, &[0, 1]).unwrap();
        assert_eq!(four, Plan { shards: vec![0; 4], egress: 1 });
        let three = plan(Shards::Cpus(vec![0, 0, 1]), Some(1), &[0, 1]).unwrap();
        assert_eq!(three, Plan { shards: vec![0, 0, 1], egress: 1 });
    }

    #[test]
    fn a_cpu_outside_the_cpuset_is_refused_with_the_fix() {
        let error = plan(Shards::Cpus(vec![9]), None, &[0, 1]).unwrap_err();
        assert!(error.contains("CPU 9") && error.contains("[0, 1]"), "{error}");
        assert!(plan(Shards::Auto, Some(9), &[0, 1]).is_err());
    }
}
