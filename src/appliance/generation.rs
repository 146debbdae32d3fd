//! What there is of one configuration: links, senders, discovery, and what each shard does until the next
//! configuration takes over. Shards' threads and listeners outlive it.

use super::ground::Ground;
use super::{Report, RunError, pin, spawn};
use crate::desk::{Desk, Slot};
use crate::dlq::Reason;
use crate::egress::{self, Egress};
use crate::entrance::Entrance;
use crate::guard::Guard;
use crate::handoff::Lane;
use crate::ingest::{self, FileEvent, Links, SinkLinks};
use crate::intake::{self, Intake};
use crate::monitor::Board;
use crate::panel::{Control, Panel};
use crate::push::Client;
use crate::receive::{self, Receiver};
use crate::server::Status;
use crate::sightings::Sightings;
use crate::{canary, discover, options};
use config::Config;
use io::format::Cursor;
use perf::errors::ErrorKey;
use perf::metrics::{self, Metrics};
use perf::recorder::{Recorder, Times};
use shards::bell::Bell;
use shards::rate::Rates;
use shards::ring::Ring;
use shards::stop::Stop;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// From discovery to one shard; where it is full, discovery waits.
const EVENTS_MAX: usize = 4096;

pub struct Generation {
    pub number: u64,
    pub config: Arc<Config>,
    pub stop: Stop,
    pub status: Arc<Status>,
    pub desk: Arc<Desk>,
    pub egresses: Vec<Arc<Egress>>,
    links: Vec<Links>,
    /// What was in force before.
    before: Option<Arc<Config>>,
    discovery: Option<JoinHandle<()>>,
    /// Of the one before, which ends.
    discovery_before: Option<JoinHandle<()>>,
}

/// What can fail of a configuration that was checked: made before anything is changed for it.
pub struct Clients(Vec<Client>);

impl Clients {
    pub fn of(config: &Config) -> Result<Clients, RunError> {
        let clients = config.sinks.iter().map(|sink| Client::new(&options::client(sink)));
        clients.collect::<Result<_, _>>().map(Clients).map_err(RunError::Setup)
    }
}

/// What a shard does, until the next of these takes over.
pub struct Work {
    options: ingest::Options,
    links: Links,
    intake: intake::Options,
    /// Those that only send what an earlier run left have none.
    receive: Option<Receive>,
}

struct Receive {
    options: receive::Options,
    canary: Option<canary::Options>,
    rates: Arc<Rates>,
    requests: metrics::Receive,
}

impl Generation {
    /// `before`: the one whose place it takes.
    pub fn new(
        config: Arc<Config>,
        clients: Clients,
        ground: &Ground,
        mut before: Option<&mut Generation>,
    ) -> Generation {
        for key in &config.renamed {
            tracing::warn!(error_key = ErrorKey::ConfigRenamed.name(), "{key}");
        }
        let discovery_before = before.as_mut().and_then(|before| before.discovery.take());
        let before = before.as_deref();
        let sinks: Vec<String> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
        let status = status(&config, ground.shards, &sinks, before);
        let stop = Stop::default();
        let bells: Vec<Arc<Bell>> = sinks.iter().map(|_| Arc::new(Bell::default())).collect();
        bells.iter().for_each(|bell| stop.rings(bell.clone()));
        let links: Vec<Links> =
            (0..ground.shards).map(|shard| link(&sinks, &bells, &stop, &status, shard)).collect();
        let slots = links.iter().flat_map(|links| links.sinks.iter().map(|sink| sink.slot.clone()));
        let desk = Arc::new(Desk::new(slots.collect()));
        let clients = clients.0.into_iter().zip(bells).enumerate();
        let egresses = clients
            .map(|(sink, (client, bell))| {
                let options = options::egress(&config.sinks[sink], ground.shards, &ground.heat);
                Arc::new(egress(options, sink, client, &links, bell))
            })
            .collect();
        Generation {
            number: before.map_or(0, |before| before.number + 1),
            stop,
            status,
            desk,
            egresses,
            links,
            before: before.map(|before| before.config.clone()),
            discovery: None,
            discovery_before,
            config,
        }
    }

    /// It is in force.
    pub fn show_success(&self) {
        let metrics = &self.status.metrics;
        metrics.config_hash(&options::hash(&self.config));
        metrics.whole.reloads.inc();
        metrics.whole.reload_successful.set(1);
        let now = (perf::clock::unix_ns() / 1_000_000) as f64 / 1e3;
        metrics.whole.reload_success_time.set(now);
    }

    pub fn panel(&self, ground: &Ground, control: &Arc<Control>, guard: &Arc<Guard>) -> Panel {
        Panel {
            status: self.status.clone(),
            desk: self.desk.clone(),
            egresses: self.egresses.clone(),
            listing: Arc::default(),
            egress_cpu: ground.plan.egress,
            sightings: self.links.iter().map(|links| links.sightings.clone()).collect(),
            config: options::shown(&self.config),
            data_dir: self.config.data_dir.clone(),
            control: control.clone(),
            guard: guard.clone(),
        }
    }

    /// Never joined: a sender may be inside a push when the process leaves, and that push is sent again by
    /// the next run.
    pub fn start_senders(&self, ground: &Ground) {
        for (number, (egress, sink)) in self.egresses.iter().zip(&self.config.sinks).enumerate() {
            for sender in 0..options::client(sink).connections {
                let (egress, cpu) = (egress.clone(), ground.plan.egress);
                spawn(&format!("egress-{number}-{sender}"), move || {
                    pin(cpu);
                    egress.run();
                });
            }
        }
    }

    /// What each shard is to do.
    pub fn works(&self, ground: &Ground) -> Vec<Work> {
        let (config, count) = (&*self.config, ground.shards);
        let rates = Arc::new(options::rates(config));
        let work = |(number, links): (usize, &Links)| Work {
            options: options::shard(config, number, count, ground.writes, &ground.heat),
            links: links.clone(),
            intake: options::intake(config),
            receive: (number < ground.plan.shards.len()).then(|| Receive {
                options: options::receive(config, number, count, &ground.heat),
                canary: options::canary(config, number),
                rates: rates.clone(),
                requests: self.status.metrics.receive(),
            }),
        };
        self.links.iter().enumerate().map(work).collect()
    }

    /// Once all logs are recovered, with the cursors of all of them.
    pub fn start_discovery(
        &mut self,
        ground: &Ground,
        cursors: Vec<Cursor>,
        report: mpsc::Sender<Report>,
    ) -> Result<(), RunError> {
        let events: Vec<Arc<Ring<FileEvent>>> =
            self.links.iter().map(|links| links.events.clone()).collect();
        let (stop, status) = (self.stop.clone(), self.status.clone());
        let (cpu, number) = (ground.plan.egress, self.number);
        if let Some(before) = self.discovery_before.take() {
            // Both would need the watches of all directories.
            let _ = before.join();
        }
        let mut options = options::discovery(&self.config);
        if let Some(before) = &self.before {
            options.before = options::discovery(before).discovery.groups;
        }
        let shards = ground.plan.shards.len();
        let discovery = discover::Discovery::new(options, cursors, events, shards)
            .map_err(|error| RunError::Setup(error.to_string()))?;
        let handle = spawn("discover", move || {
            pin(cpu);
            let ready = report.clone();
            let ended = discovery.run(&stop, &status.metrics, move || {
                let _ = ready.send(Report::Discovered { generation: number });
            });
            if let Err(error) = ended {
                let error = error.to_string();
                let _ = report.send(Report::DiscoveryFailed { generation: number, error });
            }
        });
        self.discovery = Some(handle);
        Ok(())
    }
}

impl Work {
    /// From recovery to the end, on the shard's executor.
    pub async fn run(
        self,
        entrance: &Rc<Entrance>,
        times: &Rc<Recorder>,
        report: &mpsc::Sender<Report>,
    ) {
        let Work { options, links, intake, receive } = self;
        let shard = options.number;
        let intake = Rc::new(Intake::new(intake));
        let mut leads_to = None;
        if let Some(Receive { options, canary, rates, requests }) = receive {
            let counts = links.counts.clone();
            let (intake, times) = (intake.clone(), times.clone());
            let receiver =
                Rc::new(Receiver::new(options, intake, rates, counts.clone(), requests, times));
            if let Some(options) = canary {
                let canary = canary::run(options, receiver.clone(), counts, links.stop.clone());
                glommio::spawn_local(canary).detach();
            }
            if entrance.is_new() {
                // Whoever comes while the process starts is told so; where another one received before,
                // they wait.
                entrance.lead_to(receiver);
            } else {
                leads_to = Some((entrance.clone(), receiver));
            }
        }
        let recovered = report.clone();
        let result = ingest::run(options, links, intake, times.clone(), move |found| {
            // Nobody listens any more where the process is leaving.
            let _ = recovered.send(Report::Recovered { cursors: found.cursors });
            if let Some((entrance, receiver)) = leads_to {
                entrance.lead_to(receiver);
            }
        })
        .await;
        let _ = report.send(Report::Ended { shard, result });
    }

    /// Where the shard is to measure to.
    pub fn recorder(&self, before: Option<Rc<Recorder>>) -> Rc<Recorder> {
        let times = &self.links.times;
        before
            .filter(|before| before.is_for(times))
            .unwrap_or_else(|| Rc::new(Recorder::new(times.clone())))
    }
}

/// Counters go on where what is counted is the same.
fn status(
    config: &Config,
    shards: usize,
    sinks: &[String],
    before: Option<&Generation>,
) -> Arc<Status> {
    let same = |before: &&Generation| {
        let names = before.config.sinks.iter().map(|sink| &sink.name);
        names.eq(sinks)
            && before.config.slo == config.slo
            && before.config.metrics.latency == config.metrics.latency
    };
    let status = before.filter(same).map_or_else(
        || {
            Arc::new(Status {
                ready: AtomicBool::new(before.is_some_and(|before| before.status.is_ready())),
                stopping: AtomicBool::new(false),
                metrics: metrics(config, shards, sinks),
                board: Board::default(),
            })
        },
        |before| before.status.clone(),
    );
    if let Some(before) = before {
        let (now, before) = (&status.metrics.whole, &before.status.metrics.whole);
        for (now, before) in
            [(&now.reloads, &before.reloads), (&now.reloads_failed, &before.reloads_failed)]
        {
            now.inc_by(before.get() - now.get());
        }
    }
    status
}

fn metrics(config: &Config, shards: usize, sinks: &[String]) -> Metrics {
    let times = Times::new(shards, sinks.len(), config.slo.latency, config.metrics.latency);
    let reasons: Vec<&str> = Reason::names().chain(["other"]).collect();
    let metrics = Metrics::new(shards, sinks, &reasons, times);
    let version = crate::version();
    metrics.info("log_capturer_build_info", "Constant 1; what runs.", "version", version);
    // Each is there before it happens: else nobody would see the first.
    let receive = metrics.receive();
    receive::admit::REASONS.iter().for_each(|reason| receive.refused(reason, 0));
    metrics
}

fn link(
    sinks: &[String],
    egress_bells: &[Arc<Bell>],
    stop: &Stop,
    status: &Status,
    shard: usize,
) -> Links {
    let (source_bell, ack_bell) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    stop.rings(source_bell.clone());
    stop.rings(ack_bell.clone());
    let metrics = &status.metrics;
    Links {
        events: Arc::new(Ring::new(EVENTS_MAX, source_bell.clone())),
        sightings: Arc::new(Sightings::new(source_bell.clone())),
        source_bell,
        sinks: sinks
            .iter()
            .zip(egress_bells)
            .enumerate()
            .map(|(at, (sink, egress_bell))| {
                let lane = || Arc::new(Lane::new(egress_bell.clone(), ack_bell.clone()));
                SinkLinks {
                    lane: lane(),
                    replays: lane(),
                    slot: Arc::new(Slot::new(shard, sink, ack_bell.clone())),
                    counts: metrics.sinks[at].clone(),
                    dead: metrics.dlq[at].clone(),
                    route: metrics.routes[shard][at].clone(),
                    times: metrics.times.sink(at),
                }
            })
            .collect(),
        ack_bell,
        stop: stop.clone(),
        times: metrics.times.shard(shard),
        counts: metrics.shards[shard].clone(),
    }
}

fn egress(
    options: egress::Options,
    sink: usize,
    client: Client,
    links: &[Links],
    bell: Arc<Bell>,
) -> Egress {
    let stop = links.first().expect("there is a shard").stop.clone();
    let links = || links.iter().map(|links| &links.sinks[sink]);
    let first = links().next().expect("there is a shard");
    let (counts, times) = (first.counts.clone(), first.times.clone());
    let lanes = links().flat_map(|sink| [sink.lane.clone(), sink.replays.clone()]);
    Egress::new(lanes.collect(), client, options, bell, stop, counts, times)
}
