//! Wires the parts: ledger, gate, listeners, stop.

pub(crate) mod keys;
mod opening;

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use rustls::ServerConfig;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::admin::{Admin, PROBES_AT_ONCE, SEARCHES_AT_ONCE, Sessions, WAITING_AT_ONCE};
use crate::beside;
use crate::clock::Clock;
use crate::config::action::ActionConfig;
use crate::config::listener::Place;
use crate::config::upstream::UpstreamConfig;
use crate::config::{Config, Limits};
use crate::current::Current;
use crate::execute::dispatch::builtin;
use crate::execute::dispatch::upstream::Forwarded;
use crate::execute::front::Front;
use crate::execute::{Gate, Rules};
use crate::ledger;
use crate::listen::Permits;
use crate::listen::client::Listener;
use crate::listen::serve::{Shared, serve};
use crate::listen::socket::{Mark, Socket};
use crate::listen::threads::Threads;
use crate::metrics::{Bounded, Metrics};
use crate::registry::{Handler, Registry};
use crate::shutdown::Phase;
use crate::takeover::{self, NotTaken, Offer, Taken};
use crate::telemetry::{Exporter, Tracer};
use crate::upstream::Upstream;

/// The admin listener needs few, and must not be crowded out by clients.
const ADMIN_CONNECTIONS: usize = 128;
/// Bodies that operators send, all together.
const ADMIN_BUFFERED_BYTES: usize = 16 << 20;
/// Files, libraries, the ledger.
const RESERVED_DESCRIPTORS: usize = 64;
/// How each thread that serves is woken, and hears of its sockets.
const DESCRIPTORS_OF_A_THREAD: usize = 4;
/// For what runs, when there is no more time.
const HURRY: Duration = Duration::from_secs(1);
/// Requests that had come on connections from before are being answered by then, and are counted.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the end of what runs is looked for.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// What a server is made of.
pub struct Parts {
    /// Checked.
    pub config: Config,
    /// What can be executed beside the actions of the configuration.
    pub registry: Registry,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The sockets of a process that runs already.
    pub taken: Option<Taken>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] ledger::OpenError),
    /// Demo mode that nobody asked for, on a ledger that matters.
    #[error(
        "this ledger has served ClawShield mode, and demo mode approves everything: set OPENEXEC_MODE=clawshield, \
         or OPENEXEC_MODE=demo if that is what you want"
    )]
    AccidentalDemo,
    /// An address is taken, or not ours.
    #[error(
        "{0} cannot be listened on: {1}. Addresses are OPENEXEC_LISTEN and OPENEXEC_ADMIN_LISTEN, or `listen` and \
         `admin.listen` in the configuration file"
    )]
    Bind(Place, io::Error),
    /// There are more listeners than another process could take.
    #[error("{0} sockets are too many")]
    TooMany(usize),
    /// A process that runs does not give its sockets.
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    /// The system gives none.
    #[error("the threads that serve cannot be started: {0}")]
    Threads(io::Error),
}

impl StartError {
    /// The exit code, as sysexits.h has them.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Bind(..) | StartError::NotTaken(_) => 69,
            StartError::Threads(_) => 71,
            StartError::TooMany(_) => 78,
            StartError::AccidentalDemo => 78,
            StartError::Ledger(error) => error.exit_code(),
        }
    }
}

/// A configuration that cannot take the place of the one in use.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot change while the server runs: restart it", .0.join(", "))]
pub struct NeedsRestart(pub Vec<&'static str>);

/// Why a server ends by itself.
pub enum Ending {
    /// The ledger could not be taken into use after all.
    Failed(StartError),
    /// Another process has the sockets now.
    TakenOver,
}

/// A server that serves.
pub struct Running {
    /// Where it listens.
    pub listen: Vec<Place>,
    /// Where its admin listener is.
    pub admin_listen: Place,
    /// Of its Unix sockets.
    files: Vec<Mark>,
    /// Where another process may take the sockets.
    offer: Option<Offer>,
    gate: Arc<Gate>,
    phase: Arc<Phase>,
    close_listeners: watch::Sender<bool>,
    services: Vec<JoinHandle<()>>,
    /// Clients' connections are served there.
    threads: Arc<Threads>,
    /// Recovery, retention, and the look for ways past the gate.
    looking_after: [JoinHandle<()>; 3],
    /// Of traces, if anybody asked for them.
    exporter: Option<Exporter>,
    serving: Arc<Permits>,
    /// `None`: it can fail no more.
    ledger_failed: Option<oneshot::Receiver<StartError>>,
    shutdown: crate::config::Shutdown,
    replaceable: Replaceable,
}

/// What a reload replaces, and what it needs for that.
struct Replaceable {
    fixed: [(&'static str, String); 6],
    registry: Registry,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    limits: Arc<Current<Limits>>,
    config: Arc<Current<Config>>,
    connections: Arc<Permits>,
    memory: Arc<Permits>,
    /// In the order of the listeners.
    tls: Vec<Option<Arc<Current<Arc<ServerConfig>>>>>,
}

/// Starts everything that can be started at once. A ledger that was not closed cleanly is checked in the background,
/// with the sockets bound and "not ready", or a startup probe would kill the check again and again.
///
/// # Errors
/// See [`StartError`]: each says what to do.
pub async fn start(parts: Parts) -> Result<Running, StartError> {
    let Parts { config, registry, clock, mut taken } = parts;
    // Raises the limit on descriptors, before there are many.
    let most_connections = connections(&config);
    let metrics = Arc::new(Metrics::new());
    let phase = Arc::new(Phase::default());
    let opening = match &taken {
        None => Some(opening::open(&config)?),
        // The old process has the ledger until it was told to end, which it must not be for one that is of no use here.
        Some(_) => opening::preview(&config).map(|()| None)?,
    };
    let hold_until = taken.is_some().then(|| Instant::now() + config.startup.wait);
    let rules = rules(&config, &registry, &clock, None, &metrics);
    let memory = Permits::new(config.limits.buffered_bytes);
    let (tracer, exporter) = config.traces.clone().map(|traces| Tracer::start(traces, &metrics)).unzip();
    let gate = Gate::new(rules, memory.clone(), clock.clone(), metrics.clone(), tracer, phase.clone(), hold_until);
    let sockets =
        config.listen.iter().map(|listener| bind(&listener.place, &mut taken)).collect::<Result<Vec<_>, _>>()?;
    let admin_socket = bind(&Place::Tcp(config.admin_listen), &mut taken)?;
    if sockets.len() + 1 > takeover::MOST {
        return Err(StartError::TooMany(sockets.len() + 1));
    }
    let listen: Vec<_> = sockets.iter().map(|socket| socket.place.clone()).collect();
    let files = listen.iter().filter_map(Mark::of).collect();
    let admin_listen = admin_socket.place.clone();
    let listeners = sockets.into_iter().map(listen_on).collect::<Result<Vec<_>, _>>()?;
    let admin_listener = listen_on(admin_socket)?;
    let threads = Arc::new(Threads::start(serving_threads()).map_err(StartError::Threads)?);
    beside::start(Handle::current().metrics().num_workers()).map_err(StartError::Threads)?;
    // Before the old one is told: whatever can fail here must not end it. And last of all, since its own offer ends with
    // this one.
    let offer = offer(&config, listeners.iter().chain([&admin_listener]))?;
    if taken.is_some_and(|taken| taken.go().is_err()) {
        tracing::warn!("the process that gave its sockets has ended already");
    }
    let ledger_failed = match opening {
        Some(opening) => opening::start(opening, &config, &gate, &metrics)?,
        None => opening::start_later(&config, hold_until, &gate, &metrics),
    };
    let (close_listeners, _) = watch::channel(false);
    let replaceable = Replaceable {
        fixed: config.fixed(),
        limits: Current::new(config.limits),
        config: Current::new(config.clone()),
        connections: Permits::new(most_connections),
        tls: config.listen.iter().map(|listener| listener.tls.clone().map(Current::new)).collect(),
        memory,
        registry,
        clock,
        metrics: metrics.clone(),
    };
    let admin = Admin {
        gate: gate.clone(),
        metrics: metrics.clone(),
        bounded: Bounded {
            connections: replaceable.connections.clone(),
            in_flight: gate.in_flight().clone(),
            buffered_bytes: replaceable.memory.clone(),
        },
        config: replaceable.config.clone(),
        sessions: Sessions::default(),
        started_at: Utc::now(),
        memory: Permits::new(ADMIN_BUFFERED_BYTES),
        probing: Permits::new(PROBES_AT_ONCE),
        waiting: Permits::new(WAITING_AT_ONCE),
        searching: Permits::new(SEARCHES_AT_ONCE),
    };
    let serving = Permits::new(usize::MAX);
    let shared = |permits, tls, bypass| Shared {
        bypass,
        tls,
        limits: replaceable.limits.clone(),
        permits,
        serving: serving.clone(),
        metrics: metrics.clone(),
    };
    let admin_shared = shared(Permits::new(ADMIN_CONNECTIONS), None, None);
    let mut services = vec![serve(admin_listener, admin, admin_shared, None, &close_listeners)];
    for (listener, tls) in listeners.into_iter().zip(&replaceable.tls) {
        let front = Front::new(gate.clone());
        let shared = shared(replaceable.connections.clone(), tls.clone(), Some(gate.bypass().clone()));
        services.push(serve(listener, front, shared, Some(threads.clone()), &close_listeners));
    }
    metrics.configured(true, false);
    metrics.certificates(&config.certificates);
    metrics.keys(keys::all(&config));
    let places = listen.iter().map(Place::to_string).collect::<Vec<_>>().join(", ");
    tracing::info!(listen = places, %admin_listen, mode = config.mode.as_str(), version = crate::VERSION, "serving");
    keys::announce(&config);
    if let Some(missing) = gate.not_configured() {
        tracing::error!("ClawShield mode without {missing}: every request is refused until it is set");
    }
    metrics.ledger_local(config.ledger.is_local());
    let looking_after = [
        tokio::spawn(gate.clone().recover()),
        tokio::spawn(gate.clone().retain()),
        tokio::spawn(gate.bypass().clone().watch(metrics)),
    ];
    Ok(Running {
        looking_after,
        exporter,
        listen,
        admin_listen,
        files,
        offer,
        gate,
        phase,
        close_listeners,
        services,
        threads,
        serving,
        ledger_failed: Some(ledger_failed),
        shutdown: config.shutdown,
        replaceable,
    })
}

/// What requests are judged by, with upstreams of its own: what a file holds may have changed as well as what is typed.
fn rules(
    config: &Config,
    registry: &Registry,
    clock: &Arc<dyn Clock>,
    previous: Option<&Rules>,
    metrics: &Arc<Metrics>,
) -> Rules {
    let upstreams = start_upstreams(config, metrics);
    Rules::new(config, register(registry.clone(), config, &upstreams, clock), &upstreams, previous, metrics)
}

fn start_upstreams(config: &Config, metrics: &Metrics) -> HashMap<String, Arc<Upstream>> {
    let start = |upstream: &UpstreamConfig| (upstream.name.clone(), Upstream::start(upstream.clone(), metrics));
    config.upstreams.iter().map(start).collect()
}

fn register(
    registry: Registry,
    config: &Config,
    upstreams: &HashMap<String, Arc<Upstream>>,
    clock: &Arc<dyn Clock>,
) -> Registry {
    config.actions.iter().fold(registry, |registry, (name, action)| {
        let handler = match action {
            ActionConfig::Builtin(builtin) => builtin::ALL
                .iter()
                .find(|(known, _)| known == builtin)
                .map(|(_, pure)| Handler::Pure(*pure))
                .expect("the configuration names built-in actions that there are"),
            ActionConfig::Forward(forward) => {
                let upstream = upstreams.get(&forward.upstream).expect("the configuration names upstreams that it has");
                let (config, upstream) = (forward.clone(), upstream.clone());
                Handler::Effect(Arc::new(Forwarded { config, upstream, clock: clock.clone() }))
            }
        };
        registry.with(name, handler)
    })
}

/// The socket of the process that runs, or a new one.
fn bind(place: &Place, taken: &mut Option<Taken>) -> Result<Socket, StartError> {
    let socket = match taken.as_mut().and_then(|taken| taken.take(&place.to_string())) {
        Some(fd) => Socket::inherited(place, fd),
        None => Socket::bind(place),
    };
    socket.map_err(|error| StartError::Bind(place.clone(), error))
}

fn listen_on(socket: Socket) -> Result<Listener, StartError> {
    let place = socket.place.clone();
    Listener::new(socket).map_err(|error| StartError::Bind(place, error))
}

/// One more than this runtime has, which has one a core, or as many as TOKIO_WORKER_THREADS says. Connections are never
/// spread quite evenly: the one more has something to do when another has nothing.
fn serving_threads() -> usize {
    Handle::current().metrics().num_workers() + 1
}

fn offer<'l>(config: &Config, listeners: impl Iterator<Item = &'l Listener>) -> Result<Option<Offer>, StartError> {
    let Some(path) = &config.startup.takeover_socket else { return Ok(None) };
    let sockets = listeners.map(|of| Ok((of.place.to_string(), of.as_fd().try_clone_to_owned()?)));
    let offered = sockets.collect::<io::Result<Vec<_>>>().and_then(|sockets| Offer::new(path, sockets));
    let place = Place::Unix { path: path.clone(), mode: 0o600 };
    offered.map(Some).map_err(|error| StartError::Bind(place, error))
}

/// Clients' connections at once.
fn connections(config: &Config) -> usize {
    config.limits.connections.min(affordable_connections(config))
}

/// Raises the limit on file descriptors as far as it goes, and leaves some for everything else.
fn affordable_connections(config: &Config) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let descriptors = if raised.is_ok() { limit.maximum } else { limit.current };
    let descriptors = descriptors.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let reserved = ADMIN_CONNECTIONS + RESERVED_DESCRIPTORS + DESCRIPTORS_OF_A_THREAD * serving_threads();
    let left = descriptors.saturating_sub(reserved);
    // Each connection of a client's may need one to a service.
    if config.upstreams.is_empty() { left.max(1) } else { (left / 2).max(1) }
}

impl Running {
    /// Waits for the end of its service that nobody here asked for. May be dropped and asked again.
    pub async fn ending(&mut self) -> Ending {
        let failure = async {
            if let Some(failed) = &mut self.ledger_failed {
                if let Ok(error) = failed.await {
                    return error;
                }
                self.ledger_failed = None;
            }
            std::future::pending().await
        };
        let taken = async {
            match &mut self.offer {
                Some(offer) => offer.taken().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = failure => Ending::Failed(error),
            () = taken => Ending::TakenOver,
        }
    }

    /// Puts another configuration in the place of the one in use: all of it, or nothing. Requests that run keep to the
    /// one that they began with.
    ///
    /// # Errors
    /// What it changes can only be changed by a restart.
    pub fn reload(&mut self, config: &Config) -> Result<(), NeedsRestart> {
        let of = &self.replaceable;
        let changed = of.fixed.iter().zip(config.fixed()).filter(|(old, new)| *old != new);
        let changed: Vec<_> = changed.map(|((member, _), _)| *member).collect();
        if !changed.is_empty() {
            return Err(NeedsRestart(changed));
        }
        let previous = self.gate.rules();
        self.gate.set_rules(rules(config, &of.registry, &of.clock, Some(&previous), &of.metrics));
        of.limits.set(config.limits);
        for (current, listener) in of.tls.iter().zip(&config.listen) {
            if let (Some(current), Some(tls)) = (current, &listener.tls) {
                current.set(tls.clone());
            }
        }
        of.config.set(config.clone());
        if let (Some(exporter), Some(traces)) = (&self.exporter, &config.traces) {
            exporter.set_headers(traces.headers.clone());
        }
        of.connections.resize(connections(config));
        of.memory.resize(config.limits.buffered_bytes);
        self.shutdown = config.shutdown;
        of.metrics.certificates(&config.certificates);
        of.metrics.keys(keys::all(config));
        keys::announce(config);
        Ok(())
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.replaceable.metrics
    }

    /// Stops so that nothing that was claimed is lost: see [`crate::shutdown`]. When `hurry` ends, what runs gets
    /// [`HURRY`] and no more.
    pub async fn stop(self, hurry: impl Future<Output = ()>) {
        tracing::info!("stopping");
        self.phase.stop();
        let mut hurry = std::pin::pin!(hurry.fuse());
        tokio::select! {
            () = tokio::time::sleep(self.shutdown.delay) => {}
            () = &mut hurry => {}
        }
        self.phase.drain();
        self.end(hurry).await;
    }

    /// Ends after another process has taken the sockets: whoever is still connected here is served once more.
    pub async fn hand_over(mut self, hurry: impl Future<Output = ()>) {
        tracing::info!("another process has the sockets: ending");
        self.files.clear();
        self.phase.stop();
        self.end(std::pin::pin!(hurry.fuse())).await;
    }

    async fn end(mut self, mut hurry: Pin<&mut impl FusedFuture<Output = ()>>) {
        // They listen as long as anybody has them.
        self.offer = None;
        // What it was about to find out stays unknown until the next start.
        self.looking_after.iter().for_each(JoinHandle::abort);
        let _ = self.close_listeners.send(true);
        // At once. Every connection that was accepted is counted then.
        for service in self.services {
            let _ = service.await;
        }
        let timeout = self.shutdown.timeout;
        let settled = Instant::now() + SETTLE;
        let mut deadline = Instant::now() + if hurry.is_terminated() { timeout.min(HURRY) } else { timeout };
        while Instant::now() < deadline {
            if self.gate.in_flight().taken() + self.serving.taken() == 0 && Instant::now() >= settled {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(DRAIN_POLL) => {}
                () = &mut hurry, if !hurry.is_terminated() => deadline = deadline.min(Instant::now() + HURRY),
            }
        }
        self.phase.drain();
        if self.gate.in_flight().taken() > 0 {
            tracing::warn!(
                executions = self.gate.in_flight().taken(),
                "still running at the deadline: their outcome is unknown"
            );
        }
        self.files.iter().for_each(Mark::remove);
        if let Some(ledger) = self.gate.ledger() {
            ledger.close().await;
        }
        // After the ledger, for which another process may wait.
        if let Some(exporter) = self.exporter {
            exporter.stop().await;
        }
        // Whoever is still connected waits for a request, or did not get ready in time.
        drop(self.threads);
        tracing::info!("stopped");
    }
}
