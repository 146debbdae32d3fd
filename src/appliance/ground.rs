//! What the appliance stands on from its start to its end, whatever configuration is in force: a data_dir
//! of its own, its CPUs, its listeners.

use super::RunError;
use crate::alone::Heat;
use crate::state::State;
use crate::{options, place};
use config::Config;
use io::format::FormatVersion;
use shards::executor;
use shards::topology::Plan;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections that wait to be accepted; the kernel's net.core.somaxconn limits it further.
const LISTEN_BACKLOG: i32 = 4096;

/// How long an address may be taken, and how often it is tried meanwhile.
const BIND_TIME: Duration = Duration::from_secs(3);
const BIND_INTERVAL: Duration = Duration::from_millis(50);

pub struct Ground {
    pub plan: Plan,
    /// Those of the plan, and those that an earlier run had: their logs are sent all the same.
    pub shards: usize,
    /// The format in which data_dir is written.
    pub writes: FormatVersion,
    pub descriptors: u64,
    /// Of all shards, whatever configuration is in force.
    pub heat: Arc<Heat>,
    _lock: fs::File,
}

/// One for each shard of the plan, all of one address; and the one of `/metrics`.
pub struct Listeners {
    pub apis: Vec<TcpListener>,
    pub metrics: TcpListener,
}

impl Ground {
    pub fn take(config: &Config) -> Result<(Ground, Listeners), RunError> {
        let descriptors = raise_descriptors();
        executor::check_io_uring()?;
        let plan = Plan::of_this_machine(&options::topology(config))?;
        let lock = lock_data_dir(&config.data_dir)?;
        let writes = format(&config.data_dir)?;
        let apis = bind_shared(config.server.listen, plan.shards.len(), "server.listen")?;
        let metrics = bind(config.metrics.listen, "metrics.listen")?;
        let shards = plan.shards.len().max(shards_on_disk(&config.data_dir)?);
        let ground =
            Ground { plan, shards, writes, descriptors, heat: Arc::default(), _lock: lock };
        ground.check_quota(config)?;
        Ok((ground, Listeners { apis, metrics }))
    }

    pub fn check_quota(&self, config: &Config) -> Result<(), RunError> {
        options::check_shares(config, self.shards).map_err(RunError::Setup)
    }

    /// The CPU of a shard.
    pub fn cpu(&self, shard: usize) -> usize {
        self.plan.shards[shard % self.plan.shards.len()]
    }
}

/// Where a process that was killed had the address, the kernel takes a moment to give it back.
fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, RunError> {
    let start = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && start.elapsed() < BIND_TIME => {
                std::thread::sleep(BIND_INTERVAL);
            }
            bound => return bound.map_err(|error| cannot_listen(address, key, &error)),
        }
    }
}

fn cannot_listen(address: SocketAddr, key: &str, error: &std::io::Error) -> RunError {
    RunError::Setup(format!(
        "{key}: cannot listen on {address}: {error}; is another instance running? choose \
         another address or stop it"
    ))
}

/// As many listeners on one address: the kernel spreads connections over them.
fn bind_shared(address: SocketAddr, count: usize, key: &str) -> Result<Vec<TcpListener>, RunError> {
    // Sharing is for this process alone: another that listens already is not to be joined.
    drop(bind(address, key)?);
    let mut address = address;
    let mut listeners = Vec::new();
    for _ in 0..count {
        let listener =
            shared_listener(address).map_err(|error| cannot_listen(address, key, &error))?;
        address = listener.local_addr().map_err(|error| cannot_listen(address, key, &error))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn shared_listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    use rustix::net::{self, AddressFamily, SocketType, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = net::SocketFlags::CLOEXEC;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// How many descriptors this process may have: as many as it is allowed to, and not the few that shells
/// and service managers give by default for the sake of old programs.
fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit).is_ok();
    (if raised { limit.maximum } else { before }).unwrap_or(u64::MAX)
}

/// Makes `data_dir` where it is missing, and keeps everyone else out while this process runs.
fn lock_data_dir(data_dir: &Path) -> Result<fs::File, RunError> {
    let setup = |what: String| RunError::Setup(what);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(|error| {
        setup(format!("data_dir {}: cannot be made: {error}", data_dir.display()))
    })?;
    let meta = fs::metadata(data_dir)
        .map_err(|error| setup(format!("data_dir {}: {error}", data_dir.display())))?;
    place::check_mode(data_dir, meta.mode()).map_err(setup)?;
    let path = data_dir.join("lock");
    let file = fs::File::create(&path).map_err(|error| {
        setup(format!("{}: {error}; data_dir has to be writable", path.display()))
    })?;
    file.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => setup(format!(
            "data_dir {} is in use by another log-capturer; stop it, or give this one a data_dir \
             of its own",
            data_dir.display()
        )),
        fs::TryLockError::Error(error) => setup(format!("{}: {error}", path.display())),
    })?;
    Ok(file)
}

/// Before any shard starts and changes its own log: all of them are of a format that this program reads.
/// Which one is written.
fn format(data_dir: &Path) -> Result<FormatVersion, RunError> {
    let state = State::read(data_dir)?;
    state.check()?;
    let writes = state.settle(data_dir);
    if writes < FormatVersion::NEWEST {
        tracing::info!(
            format = writes.number(),
            newest = FormatVersion::NEWEST.number(),
            "an older format is written, so that the version before this one can be started again; once it \
             is not to be, stop this one and run: log-capturer state finalize --data-dir {}",
            data_dir.display()
        );
    }
    Ok(writes)
}

/// Those of earlier runs.
fn shards_on_disk(data_dir: &Path) -> Result<usize, RunError> {
    place::shards_before(data_dir)
        .map_err(|error| RunError::Setup(format!("data_dir {}: {error}", data_dir.display())))
}
