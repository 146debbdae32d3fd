//! What a figure was measured on.

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub kernel: String,
    pub memory_gib: u64,
    /// Where the temporary files are, and so the product's log: `ext4 on vda`.
    pub disk: String,
}

impl Machine {
    #[must_use]
    pub fn this() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name\t: "));
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = kib.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Machine {
            cpu: model.unwrap_or("unknown CPU").trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            memory_gib: kib.unwrap_or(0) >> 20,
            disk: disk(&std::env::temp_dir()).unwrap_or_else(|| "unknown".into()),
        }
    }

    /// As the name of a directory.
    #[must_use]
    pub fn name(&self) -> String {
        let words: String = format!("{}x {}", self.cpus, self.cpu)
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        words.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
    }
}

/// File system and device of a path: of the longest mount point that it is under.
fn disk(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, Path::new(words.next()?), words.next()?))
    });
    let (device, _, kind) = mounts
        .filter(|(_, point, _)| path.starts_with(point))
        .max_by_key(|(_, point, _)| point.as_os_str().len())?;
    Some(format!("{kind} on {}", device.trim_start_matches("/dev/")))
}
