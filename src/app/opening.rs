//! The ledger's way into the gate: at once, after a check, or when another process has let go of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::StartError;
use crate::config::ledger::PostgresConfig;
use crate::config::{Config, Mode};
use crate::execute::Gate;
use crate::ledger::{self, OpenError, Opening, Reached};
use crate::metrics::Metrics;

/// How often a ledger is asked for that another process has.
const POLL: Duration = Duration::from_millis(10);

/// Takes the ledger.
pub(super) fn open(config: &Config) -> Result<Opening, StartError> {
    let opening = ledger::open(&config.ledger)?;
    may_serve(config, opening.served_clawshield()?)?;
    Ok(opening)
}

/// Whether [`open`] would work, as far as that can be told while another process has the ledger.
pub(super) fn preview(config: &Config) -> Result<(), StartError> {
    may_serve(config, ledger::preview(&config.ledger)?)
}

fn may_serve(config: &Config, served_clawshield: bool) -> Result<(), StartError> {
    let accidental = matches!(config.mode, Mode::Demo { by_name: false }) && served_clawshield;
    if accidental { Err(StartError::AccidentalDemo) } else { Ok(()) }
}

/// Opens the gate now, or after the check, or when the database is there; the channel tells when that failed.
pub(super) fn start(
    opening: Opening,
    config: &Config,
    gate: &Arc<Gate>,
    metrics: &Arc<Metrics>,
) -> Result<oneshot::Receiver<StartError>, StartError> {
    let (failed, ledger_failed) = oneshot::channel();
    let (config, gate, metrics) = (config.clone(), gate.clone(), metrics.clone());
    match opening {
        Opening::Postgres(database) => {
            tokio::spawn(enter_database(database, config, gate, metrics, failed));
        }
        opening if opening.needs_check() => {
            tracing::warn!("the ledger was not closed cleanly: it is checked before anything is executed");
            tokio::task::spawn_blocking(move || match enter(opening, &config, &gate, metrics) {
                Ok(()) => tracing::info!("the ledger is good"),
                Err(error) => drop(failed.send(error)),
            });
        }
        opening => enter(opening, &config, &gate, metrics)?,
    }
    Ok(ledger_failed)
}

/// Opens the gate when the process that has the ledger now has let go of it; the channel tells when that failed. It waits
/// on after `hold_until`, when requests are refused: nothing would serve otherwise.
pub(super) fn start_later(
    config: &Config,
    hold_until: Option<Instant>,
    gate: &Arc<Gate>,
    metrics: &Arc<Metrics>,
) -> oneshot::Receiver<StartError> {
    let (failed, ledger_failed) = oneshot::channel();
    let (config, gate, metrics) = (config.clone(), gate.clone(), metrics.clone());
    tokio::task::spawn_blocking(move || {
        let opened = match await_lock(&config, hold_until) {
            Ok(Opening::Postgres(database)) => {
                tokio::spawn(enter_database(database, config, gate, metrics, failed));
                return;
            }
            opened => opened.and_then(|opening| enter(opening, &config, &gate, metrics)),
        };
        match opened {
            Ok(()) => tracing::info!("the process before this one has let go of the ledger"),
            Err(error) => drop(failed.send(error)),
        }
    });
    ledger_failed
}

fn await_lock(config: &Config, hold_until: Option<Instant>) -> Result<Opening, StartError> {
    let mut late = false;
    loop {
        match open(config) {
            Err(StartError::Ledger(error @ OpenError::InUse { .. })) => {
                if !late && hold_until.is_some_and(|until| Instant::now() >= until) {
                    late = true;
                    tracing::error!(%error, "startup.wait is over: requests are refused until the ledger is free");
                }
                std::thread::sleep(POLL);
            }
            opened => return opened,
        }
    }
}

fn enter(opening: Opening, config: &Config, gate: &Gate, metrics: Arc<Metrics>) -> Result<(), StartError> {
    may_serve(config, opening.served_clawshield()?)?;
    gate.set_ledger(opening.start(is_clawshield(config), config.clock_skew, metrics, Arc::new(die))?);
    Ok(())
}

/// In a task, which ends with the runtime: in a thread the wait would go on while that shuts down, and panic.
async fn enter_database(
    database: Box<PostgresConfig>,
    config: Config,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    failed: oneshot::Sender<StartError>,
) {
    let reached = match Reached::wait(&database).await {
        Ok(reached) => may_serve(&config, reached.served_clawshield()).map(|()| reached),
        Err(error) => Err(error.into()),
    };
    match reached {
        Ok(reached) => gate.set_ledger(reached.start(is_clawshield(&config), config.clock_skew, metrics).await),
        Err(error) => drop(failed.send(error)),
    }
}

fn is_clawshield(config: &Config) -> bool {
    matches!(config.mode, Mode::ClawShield { .. })
}

/// After a failed sync or corruption nobody knows what the file holds. Only a new start, which reads it, does.
fn die(error: &dyn std::fmt::Display) {
    tracing::error!(%error, "the ledger's file can no longer be trusted: this process ends");
    crate::logging::flush();
    std::process::exit(74);
}
