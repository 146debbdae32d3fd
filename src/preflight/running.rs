//! The instance that runs on this `data_dir`: found by its lock, and known by what its API says.

use super::finding::Finding;
use super::processes::{self, Holder, Lock};
use crate::ask::{Access, Text, reachable, urls};
use crate::top::fetch;
use config::Config;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const NAME: &str = "data_dir_in_use";

/// One that answers with this data_dir.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Running {
    url: String,
    version: String,
}

/// An upgrade finds the instance that it is to replace; who else has the lock is in its way.
#[must_use]
pub fn look(config: &Config, access: &Access) -> Finding {
    let dir = &config.data_dir;
    let lock = processes::lock_of(dir);
    let running = match &lock {
        Ok(Lock::Held(holder)) => find(config, Some(holder), access),
        Ok(Lock::HeldElsewhere) => find(config, None, access),
        _ => None,
    };
    judge(dir, lock, running)
}

/// Where it is to listen from now on, and wherever it listens now.
fn find(config: &Config, holder: Option<&Holder>, access: &Access) -> Option<Running> {
    let listens = holder.map(|holder| processes::addresses_of(holder.pid)).unwrap_or_default();
    let mut addresses = vec![config.server.listen];
    addresses.extend(listens.into_iter().filter(|address| *address != config.server.listen));
    addresses.retain(|address| address.port() != 0);
    addresses.into_iter().find_map(|address| {
        let access = access.for_host_of(reachable(address));
        urls(config, address).into_iter().find_map(|url| ask(url, &config.data_dir, &access))
    })
}

fn ask(url: String, data_dir: &Path, access: &Access) -> Option<Running> {
    let client = fetch::Client::new(&url, access).ok()?;
    let said: Value = client.config().ok()?;
    let theirs = said["data_dir"].as_str()?;
    let same = |one: &Path, other: &Path| match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    };
    let version = client.stats().ok()?.version;
    same(Path::new(theirs), data_dir).then(|| Running { url, version: version.to_string() })
}

fn judge(dir: &Path, lock: std::io::Result<Lock>, running: Option<Running>) -> Finding {
    let of = dir.display();
    match (lock, running) {
        (Ok(Lock::Free), _) => Finding::ok(NAME, "by no process"),
        (Ok(lock), Some(Running { url, version })) => {
            let by = match &lock {
                Lock::Held(holder) => holder.to_string(),
                _ => "a log-capturer".into(),
            };
            let found = format!("by {by}, version {}, at {url}: to be replaced", Text::of(&version));
            Finding::ok(NAME, found).figures(json!({ "pid": pid(&lock), "version": version, "url": url }))
        }
        (Ok(Lock::Held(holder)), None) if holder.is_log_capturer() => Finding::warning(
            NAME,
            format!("by {holder}, which does not answer as the instance of {of}"),
            "see whether it is the instance that is to be replaced (its server.listen, its log; --token-file or --ca-file where \
             it asks who one is), and stop it before the new one is started: two are never allowed on one data_dir",
        )
        .figures(json!({ "pid": holder.pid })),
        (Ok(Lock::Held(holder)), None) => Finding::no_go(
            NAME,
            format!("{holder} has the lock of {of}"),
            "stop it, or choose another data_dir",
        )
        .figures(json!({ "pid": holder.pid })),
        (Ok(Lock::HeldElsewhere), None) => Finding::no_go(
            NAME,
            format!("the lock of {of} is held by a process that is not to be seen from here"),
            "look on other hosts and in other containers that have this file system; stop it, or choose another data_dir",
        ),
        (Err(error), _) => Finding::no_go(
            NAME,
            format!("{}: {error}", dir.join("lock").display()),
            "run this as the user of log-capturer",
        ),
    }
}

fn pid(lock: &Lock) -> Option<i32> {
    match lock {
        Lock::Held(holder) => Some(holder.pid),
        Lock::Free | Lock::HeldElsewhere => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn who_answers_is_to_be_replaced_and_who_does_not_is_in_the_way() {
        let holder = |name: &str| Lock::Held(Holder { pid: 7, name: name.into() });
        let running = Running { url: "http://h:1".into(), version: "0.9".into() };
        let judged = |lock: Lock, running: Option<&Running>| {
            judge(Path::new("/d"), Ok(lock), running.cloned())
        };
        let level = |lock, running| judged(lock, running).level;
        assert_eq!(level(Lock::Free, None), Level::Ok);
        let found = judged(holder("log-capturer"), Some(&running));
        assert_eq!(found.level, Level::Ok);
        assert_eq!(
            found.found,
            "by log-capturer (pid 7), version 0.9, at http://h:1: to be replaced"
        );
        assert_eq!(level(Lock::HeldElsewhere, Some(&running)), Level::Ok);
        assert_eq!(level(holder("log-capturer"), None), Level::Warning);
        assert_eq!(level(holder("flock"), None), Level::NoGo);
        assert_eq!(level(Lock::HeldElsewhere, None), Level::NoGo);
    }
}
