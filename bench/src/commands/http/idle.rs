//! Many connections that have sent a line each, are kept, and say nothing more.

use super::super::{Bed, Error as RunError};
use super::{
    ANSWER_LIMIT, Cpus, LIMIT, Options, Posts, allow_descriptors, require_answered, setup, stop,
};
use crate::load::{self, Client, Workload};
use crate::measure::{mib, now_ns, own_cpu};
use crate::product::{self, Product};
use crate::report::{Figure, Report, Target};
use crate::stub::{Accounting, Stub};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const MEMORY_MAX_MIB: f64 = 100.0;
/// Who open the connections; each is a writer.
const OPENERS: u32 = 16;
/// For what has to be done with the last requests.
const SETTLE: Duration = Duration::from_secs(1);
/// Every so many connections, one is used again at the end.
const ASKED_AGAIN: usize = 100;
/// More than there are of a run's: looking costs one as well.
const CONNECTIONS_SPARE: u32 = 100;

/// One opener's connections.
struct Opened {
    clients: Vec<Client>,
    posts: Posts,
}

pub fn run(options: &Options, cpus: &Cpus, bed: &Bed, report: &mut Report) -> Result<(), RunError> {
    allow_descriptors(options.idle.into())?;
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(bed.stub_options(Accounting::PerLine))?;
    let mut setup = setup(bed, &dir, &stub, cpus);
    let most = options.idle + CONNECTIONS_SPARE;
    setup.server_keys.push(format!(
        "limits: {{ connections_max: {most}, address_connections_max: {most}, idle_timeout: 1h }}"
    ));
    let product = Product::start(&setup)?;
    let fresh = product.usage()?;
    let start = Instant::now();
    let mut opened = open(options.idle, product.api)?;
    let opening = start.elapsed();
    std::thread::sleep(SETTLE);
    let (before, own_before, start) = (product.usage()?, own_cpu(), Instant::now());
    std::thread::sleep(options.duration);
    let (after, own, elapsed) = (product.usage()?, own_cpu(), start.elapsed());
    let answer = still_answers(&product, &mut opened)?;
    let lines: Vec<u64> = opened.iter().map(|opener| opener.posts.made()).collect();
    let _ = stub.wait_for_lines(lines.iter().sum(), LIMIT);
    drop(opened);
    let log = stop(product)?;
    require_answered(&stub, lines, &log)?;

    let cores = |cpu: Duration| cpu.as_secs_f64() / elapsed.as_secs_f64() * 100.0;
    let each = after.rss_bytes.saturating_sub(fresh.rss_bytes) as f64 / f64::from(options.idle);
    report.add(
        &format!("{} idle connections", options.idle),
        [
            Figure::less("memory", mib(after.rss_bytes), "MiB")
                .target(Target::AtMost(MEMORY_MAX_MIB)),
            Figure::less("peak memory", mib(after.rss_peak_bytes), "MiB"),
            Figure::plain("memory before", mib(fresh.rss_bytes), "MiB"),
            Figure::less("memory of each", each / 1024.0, "KiB"),
            Figure::less("descriptors", after.descriptors as f64, "open"),
            Figure::less("CPU", cores(after.cpu.saturating_sub(before.cpu)), "% of a core"),
            Figure::less("slowest answer among them", answer.as_secs_f64() * 1e3, "ms"),
            Figure::plain("until all were open", opening.as_secs_f64(), "s"),
            Figure::plain("harness CPU", cores(own.saturating_sub(own_before)), "% of a core"),
        ],
    );
    Ok(())
}

fn open(connections: u32, addr: SocketAddr) -> Result<Vec<Opened>, RunError> {
    let workload = Workload::service();
    let workload = &workload;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..OPENERS)
            .map(|writer| {
                let share = connections / OPENERS + u32::from(writer < connections % OPENERS);
                scope.spawn(move || opener(share, writer, workload, addr))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Err(load::Error::Panicked.into())))
            .collect()
    })
}

fn opener(
    share: u32,
    writer: u32,
    workload: &Workload,
    addr: SocketAddr,
) -> Result<Opened, RunError> {
    let mut opened = Opened { clients: Vec::new(), posts: Posts::new(workload, writer) };
    for _ in 0..share {
        let mut client = Client::connect(addr, ANSWER_LIMIT).map_err(load::Error::client(addr))?;
        opened.posts.post(addr, &mut client, now_ns())?;
        opened.clients.push(client);
    }
    Ok(opened)
}

/// New connections are answered, and so are those that were idle; the longest that it took.
fn still_answers(product: &Product, opened: &mut [Opened]) -> Result<Duration, RunError> {
    let mut longest = Duration::ZERO;
    let url = format!("http://{}/health", product.api);
    let start = Instant::now();
    ureq::get(&url)
        .call()
        .map_err(|source| product::Error::Http { url, source: Box::new(source) })?;
    longest = longest.max(start.elapsed());
    for Opened { clients, posts } in opened {
        let addr = product.api;
        let mut fresh = Client::connect(addr, ANSWER_LIMIT).map_err(load::Error::client(addr))?;
        for client in std::iter::once(&mut fresh).chain(clients.iter_mut().step_by(ASKED_AGAIN)) {
            let start = Instant::now();
            posts.post(addr, client, now_ns())?;
            longest = longest.max(start.elapsed());
        }
    }
    Ok(longest)
}
