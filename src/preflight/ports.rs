//! Ports: whether they are free, or had by the instance that is to be replaced.

use super::finding::{Finding, Level};
use super::processes::{self, Holder, Lock};
use config::Config;
use serde_json::json;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

const NAME: &str = "ports";

#[must_use]
pub fn look(config: &Config) -> Vec<Finding> {
    let running = match processes::lock_of(&config.data_dir) {
        Ok(Lock::Held(holder)) => Some(holder),
        _ => None,
    };
    [("server.listen", config.server.listen), ("metrics.listen", config.metrics.listen)]
        .into_iter()
        .map(|(key, address)| one(key, address, running.as_ref()))
        .collect()
}

fn one(key: &'static str, address: SocketAddr, running: Option<&Holder>) -> Finding {
    // It is closed at once; nobody was told of it.
    let bound = TcpListener::bind(address).map(drop);
    let holders = match &bound {
        Err(error) if error.kind() == ErrorKind::AddrInUse => processes::listeners(address),
        _ => Vec::new(),
    };
    judge(key, address, bound, &holders, running)
}

fn judge(
    key: &'static str,
    address: SocketAddr,
    bound: std::io::Result<()>,
    holders: &[Holder],
    running: Option<&Holder>,
) -> Finding {
    let error = match bound {
        Ok(()) => return Finding::ok(NAME, format!("{address} is free")).of(key),
        Err(error) => error,
    };
    let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
    let figures = json!({ "address": address.to_string(), "holders": names });
    let (level, found, fix) = match error.kind() {
        ErrorKind::AddrInUse => match (holders.first(), running) {
            (Some(_), Some(running)) if holders.iter().all(|holder| holder == running) => (
                Level::Ok,
                format!("{running} has {address}, which runs on this data_dir"),
                String::new(),
            ),
            (Some(_), _) => {
                let names = names.join(", ");
                (
                    Level::NoGo,
                    format!("{names} has {address}"),
                    format!("stop it, or choose another {key}"),
                )
            }
            (None, Some(running)) => (
                Level::Warning,
                format!(
                    "{address} is in use, and by whom is not to be seen; {running} runs on this data_dir"
                ),
                format!(
                    "run this as root, or as the user of {running}; if it is another, choose another {key}"
                ),
            ),
            (None, None) => (
                Level::NoGo,
                format!("{address} is in use, and by whom is not to be seen"),
                format!("find out by ss -ltnp as root; stop it, or choose another {key}"),
            ),
        },
        ErrorKind::AddrNotAvailable => (
            Level::NoGo,
            format!("{} is no address of this host", address.ip()),
            format!("choose one of ip addr for {key}, or 0.0.0.0 for all"),
        ),
        ErrorKind::PermissionDenied => (
            Level::NoGo,
            format!("this user may not listen on port {}", address.port()),
            format!(
                "choose a port above 1023 for {key}, or give the unit AmbientCapabilities=CAP_NET_BIND_SERVICE"
            ),
        ),
        _ => (
            Level::NoGo,
            format!("cannot listen on {address}: {error}"),
            format!("choose another {key}"),
        ),
    };
    Finding::at(level, NAME, found, fix).of(key).figures(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_port_decides() {
        let address: SocketAddr = "127.0.0.1:84".parse().unwrap();
        let holder = |pid| Holder { pid, name: "x".into() };
        let (ours, other) = (holder(7), holder(8));
        let in_use = |holders: &[Holder], running| {
            let bound = Err(ErrorKind::AddrInUse.into());
            judge("server.listen", address, bound, holders, running).level
        };
        assert_eq!(judge("k", address, Ok(()), &[], None).level, Level::Ok);
        assert_eq!(in_use(std::slice::from_ref(&ours), Some(&ours)), Level::Ok);
        assert_eq!(in_use(std::slice::from_ref(&other), Some(&ours)), Level::NoGo);
        assert_eq!(in_use(&[other], None), Level::NoGo);
        assert_eq!(in_use(&[], Some(&ours)), Level::Warning);
        assert_eq!(in_use(&[], None), Level::NoGo);
        for kind in [ErrorKind::AddrNotAvailable, ErrorKind::PermissionDenied, ErrorKind::Other] {
            let found = judge("server.listen", address, Err(kind.into()), &[], None);
            assert_eq!(found.level, Level::NoGo);
            assert!(found.fix.unwrap().contains("server.listen"));
        }
    }
}
