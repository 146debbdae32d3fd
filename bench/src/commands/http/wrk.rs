//! wrk: a load that waits for each answer before the next request of a connection.

use super::super::on_path;
use super::{Cpus, Error};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = "wrk";

/// Figures on a line of their own: wrk's table is rounded.
const DONE: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("figures %.0f %.0f %.0f %.0f %.0f %.0f\n", summary.duration, summary.requests,
    e.status, e.connect + e.read + e.write + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"#;

/// What each request is.
#[derive(Debug, Clone)]
pub enum Body {
    /// The same each time.
    Fixed(String),
    /// Nanoseconds since 1970 stand between the two.
    Stamped(String, String),
}

pub struct Wrk {
    program: PathBuf,
    script: PathBuf,
    threads: usize,
    cpus: String,
    connections: u32,
    seconds: u64,
}

/// What came of a load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    pub elapsed: Duration,
    /// Answered, whatever the answer.
    pub answered: u64,
    /// Of them, those that were refused.
    pub refused: u64,
    /// Connections that failed or waited too long.
    pub broken: u64,
    pub p50: Duration,
    pub p99: Duration,
    /// Of wrk itself.
    pub cpu: Duration,
}

impl Wrk {
    /// Its script is written under `dir`.
    pub fn new(
        dir: &Path,
        body: &Body,
        cpus: &Cpus,
        connections: u32,
        duration: Duration,
    ) -> Result<Wrk, Error> {
        let program = on_path(PROGRAM).ok_or(Error::Missing { program: PROGRAM })?;
        let script = dir.join("wrk.lua");
        fs::write(&script, lua(body)).map_err(|source| Error::File {
            action: "write",
            path: script.clone(),
            source,
        })?;
        Ok(Wrk {
            program,
            script,
            threads: cpus.others.len().min(connections as usize),
            cpus: Cpus::list(&cpus.others),
            connections,
            // It knows no parts of a second.
            seconds: duration.as_secs() + u64::from(duration.subsec_nanos() > 0),
        })
    }

    pub fn run(&self, addr: SocketAddr, path: &str) -> Result<Load, Error> {
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { action, path, source }
        };
        let cpu_before = children_cpu();
        let output = Command::new("taskset")
            .args(["-c", &self.cpus])
            .arg(&self.program)
            .args(["-t", &self.threads.to_string(), "-c", &self.connections.to_string()])
            .args(["-d", &format!("{}s", self.seconds), "--timeout", "10s", "-s"])
            .arg(&self.script)
            .arg(format!("http://{addr}{path}"))
            .stdin(Stdio::null())
            .output()
            .map_err(file("run", &self.program))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            let text = text(&output.stderr) + &text(&output.stdout);
            return Err(Error::Ended { program: PROGRAM, status: output.status, text });
        }
        let text = text(&output.stdout);
        let load = read(&text).ok_or(Error::Wrk { text })?;
        Ok(Load { cpu: children_cpu().saturating_sub(cpu_before), ..load })
    }
}

fn lua(body: &Body) -> String {
    let head = "wrk.method = \"POST\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\n";
    let request = match body {
        Body::Fixed(body) => format!("wrk.body = [==[{body}]==]\n"),
        // The request is made once and cut where the time stands: formatting costs more.
        Body::Stamped(before, after) => format!(
            r#"
local before, after, second, at = [==[{before}]==], [==[{after}]==], os.time(), 0
local head, tail
init = function()
  local mark = "1000000000000000000"
  local whole = wrk.format(nil, nil, nil, before .. mark .. after)
  local from, to = whole:find(mark, 1, true)
  head, tail = whole:sub(1, from - 1) .. second, whole:sub(to + 1)
end
request = function()
  at = at + 1
  return head .. string.format("%09d", at) .. tail
end
"#
        ),
    };
    [head, &request, DONE].concat()
}

fn read(text: &str) -> Option<Load> {
    let figures = text.lines().find_map(|line| line.strip_prefix("figures "))?;
    let figures: Vec<u64> = figures.split(' ').map_while(|figure| figure.parse().ok()).collect();
    let [elapsed_us, answered, refused, broken, p50_us, p99_us] = figures[..] else { return None };
    Some(Load {
        elapsed: Duration::from_micros(elapsed_us),
        answered,
        refused,
        broken,
        p50: Duration::from_micros(p50_us),
        p99: Duration::from_micros(p99_us),
        cpu: Duration::ZERO,
    })
}

/// CPU time of all processes that this one has started and waited for, in clock ticks.
fn children_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name; cutime and cstime are the 14th and 15th from there.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split(' ').skip(13).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_among_what_wrk_says() {
        let text =
            "Running 1s test @ http://127.0.0.1:1/\n  1 threads\nfigures 1001000 52 2 1 900 4100\n";
        let load = read(text).unwrap();
        assert_eq!((load.answered, load.refused, load.broken), (52, 2, 1));
        assert_eq!(load.elapsed, Duration::from_micros(1_001_000));
        assert_eq!((load.p50.as_micros(), load.p99.as_micros()), (900, 4_100));
        assert!(read("figures 1 2 3\n").is_none() && read("unable to connect\n").is_none());
    }
}
