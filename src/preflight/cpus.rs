//! CPUs: whether those of the configuration may be used, and what they share.

use super::finding::{Finding, Level};
use crate::options;
use config::{Config, Egress, Shards};
use serde_json::json;
use shards::topology::{Plan, TopologyError};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const SYSFS: &str = "/sys/devices/system";

/// Which CPU is for what.
pub fn plan(config: &Config) -> Result<Plan, TopologyError> {
    Plan::of_this_machine(&options::topology(config))
}

#[must_use]
pub fn look(plan: &Result<Plan, TopologyError>, config: Option<&Config>) -> Vec<Finding> {
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return vec![Finding::of_message(Level::NoGo, "cpus", &error.to_string())],
    };
    let Plan { shards, egress } = plan;
    let found = format!("{} shards on CPUs {shards:?}, egress on CPU {egress}", shards.len());
    let figures = json!({ "shards": shards, "egress": egress });
    let chosen = config.is_some_and(|config| {
        matches!(config.cores.shards, Shards::Cpus(_)) || config.cores.egress != Egress::Auto
    });
    let layout = Layout::read(Path::new(SYSFS), plan);
    let mut all = vec![Finding::ok("cpus", found).figures(figures)];
    all.extend([siblings(plan, &layout, chosen), nodes(plan, &layout, chosen)]);
    all
}

/// What sysfs says of the CPUs of a plan; nothing of those that it says nothing of.
#[derive(Debug, Default)]
struct Layout {
    /// The CPUs of the same core, this one included, as sysfs lists them.
    cores: BTreeMap<usize, String>,
    nodes: BTreeMap<usize, usize>,
}

impl Layout {
    fn read(sysfs: &Path, plan: &Plan) -> Layout {
        let mut layout = Layout::default();
        for cpu in plan.shards.iter().chain([&plan.egress]) {
            let file = sysfs.join(format!("cpu/cpu{cpu}/topology/thread_siblings_list"));
            if let Ok(list) = fs::read_to_string(file) {
                layout.cores.insert(*cpu, list.trim().to_owned());
            }
            // There is a link to each node that it is of.
            let Ok(entries) = fs::read_dir(sysfs.join(format!("cpu/cpu{cpu}"))) else { continue };
            let node = entries
                .flatten()
                .find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok());
            layout.nodes.extend(node.map(|node| (*cpu, node)));
        }
        layout
    }
}

/// Who runs on which CPU.
fn roles(plan: &Plan) -> BTreeMap<usize, Vec<String>> {
    let mut roles: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (shard, cpu) in plan.shards.iter().enumerate() {
        roles.entry(*cpu).or_default().push(format!("shard {shard}"));
    }
    roles.entry(plan.egress).or_default().push("egress".into());
    roles
}

/// Which of them are on one core. A hint where the CPUs were not chosen: there may be no others.
fn siblings(plan: &Plan, layout: &Layout, chosen: bool) -> Finding {
    let mut cores: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    for (cpu, roles) in roles(plan) {
        if let Some(core) = layout.cores.get(&cpu) {
            cores.entry(core).or_default().push(format!("{} (CPU {cpu})", roles.join(" and ")));
        }
    }
    let shared: Vec<String> =
        cores.values().filter(|roles| roles.len() > 1).map(|roles| roles.join(", ")).collect();
    let found = match (shared.is_empty(), layout.cores.is_empty()) {
        (_, true) => "sysfs does not say which CPUs share a core".to_owned(),
        (true, _) => "each CPU is of a core of its own".to_owned(),
        (false, _) => format!("these share a core, and its speed: {}", shared.join("; ")),
    };
    let level = if chosen && !shared.is_empty() { Level::Warning } else { Level::Ok };
    let fix = "name one CPU of each core under cores.shards and cores.egress (lscpu -e shows which they are)";
    Finding::at(level, "cpu_siblings", found, fix).figures(json!({ "shared": shared }))
}

fn nodes(plan: &Plan, layout: &Layout, chosen: bool) -> Finding {
    let mut nodes: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (cpu, roles) in roles(plan) {
        if let Some(node) = layout.nodes.get(&cpu) {
            nodes.entry(*node).or_default().extend(roles);
        }
    }
    let several = nodes.len() > 1;
    let text = |(node, roles): (&usize, &Vec<String>)| format!("node {node}: {}", roles.join(", "));
    let found = match (several, nodes.is_empty()) {
        (_, true) => "sysfs names no NUMA nodes".to_owned(),
        (false, _) => "all CPUs are of one NUMA node".to_owned(),
        (true, _) => {
            let nodes: Vec<String> = nodes.iter().map(text).collect();
            format!("frames go from one NUMA node to another: {}", nodes.join("; "))
        }
    };
    let level = if chosen && several { Level::Warning } else { Level::Ok };
    let fix = "name CPUs of one node under cores (lscpu -e shows which they are)";
    Finding::at(level, "numa", found, fix).figures(json!({ "nodes": nodes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(cores: &[(usize, &str)], nodes: &[(usize, usize)]) -> Layout {
        Layout {
            cores: cores.iter().map(|(cpu, list)| (*cpu, (*list).to_owned())).collect(),
            nodes: nodes.iter().copied().collect(),
        }
    }

    #[test]
    fn what_shares_a_core_is_named() {
        let plan = Plan { shards: vec![0, 1], egress: 2 };
        let apart = layout(&[(0, "0,8"), (1, "1,9"), (2, "2,10")], &[]);
        assert_eq!(siblings(&plan, &apart, true).level, Level::Ok);
        let close = layout(&[(0, "0-1"), (1, "0-1"), (2, "2-3")], &[]);
        let found = siblings(&plan, &close, true);
        assert_eq!(found.level, Level::Warning);
        assert!(found.found.ends_with("shard 0 (CPU 0), shard 1 (CPU 1)"), "{found:?}");
        assert_eq!(siblings(&plan, &close, false).level, Level::Ok, "there may be no others");
        assert_eq!(siblings(&plan, &Layout::default(), true).level, Level::Ok);
    }

    #[test]
    fn what_is_of_another_node_is_named() {
        let plan = Plan { shards: vec![0, 1], egress: 4 };
        let one = layout(&[], &[(0, 0), (1, 0), (4, 0)]);
        assert_eq!(nodes(&plan, &one, true).level, Level::Ok);
        let two = layout(&[], &[(0, 0), (1, 0), (4, 1)]);
        let found = nodes(&plan, &two, true);
        assert_eq!(found.level, Level::Warning);
        assert!(found.found.ends_with("node 0: shard 0, shard 1; node 1: egress"), "{found:?}");
        assert_eq!(nodes(&plan, &two, false).level, Level::Ok);
    }

    #[test]
    fn sysfs_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for (cpu, node) in [(0, 0), (1, 3)] {
            let of = dir.path().join(format!("cpu/cpu{cpu}"));
            fs::create_dir_all(of.join("topology")).unwrap();
            fs::create_dir(of.join(format!("node{node}"))).unwrap();
            fs::write(of.join("topology/thread_siblings_list"), "0-1\n").unwrap();
        }
        let read = Layout::read(dir.path(), &Plan { shards: vec![0, 1], egress: 7 });
        assert_eq!(read.nodes, BTreeMap::from([(0, 0), (1, 3)]));
        assert_eq!(read.cores, BTreeMap::from([(0, "0-1".to_owned()), (1, "0-1".to_owned())]));
    }
}
