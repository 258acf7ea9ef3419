//! `openexec serve`

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::{BAD_CONFIGURATION, fail};
use crate::app::{self, Parts, Running, StartError};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::config::env::ProcessEnvironment;
use crate::logging;
use crate::registry::Registry;
use crate::reload::Watch;

pub(super) fn run(path: Option<&Path>) -> ExitCode {
    let config = match Config::load(path, &ProcessEnvironment) {
        Ok(config) => config,
        Err(error) => return fail(error, BAD_CONFIGURATION),
    };
    logging::start(&ProcessEnvironment);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, 71),
    };
    let ended = runtime.block_on(serve(config, path));
    // A check of the ledger that still runs is not waited for: the next start makes it again.
    runtime.shutdown_background();
    if let Err(error) = &ended {
        tracing::error!("{error}");
    }
    logging::flush();
    ended.map_or_else(|error| ExitCode::from(error.exit_code()), |()| ExitCode::SUCCESS)
}

async fn serve(config: Config, path: Option<&Path>) -> Result<(), StartError> {
    // Before anything is claimed: a signal that comes while the ledger opens must not be lost.
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
    let mut watch = Watch::start(path, &ProcessEnvironment).expect("SIGHUP can be handled");
    let parts = Parts { config, registry: Registry::default(), clock: Arc::new(SystemClock) };
    let mut running = app::start(parts).await?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            error = running.failure() => return Err(error),
            () = watch.changed(&ProcessEnvironment) => reload(&mut running, path),
        }
    }
    running.stop().await;
    Ok(())
}

/// Checked first, applied as a whole; the one in use stays when anything is wrong with the new one.
fn reload(running: &mut Running, path: Option<&Path>) {
    let applied = match Config::load(path, &ProcessEnvironment) {
        Ok(config) => match running.reload(&config) {
            Ok(()) => Ok(config.warnings),
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(error.to_string()),
    };
    running.metrics().configured(applied.is_ok(), true);
    match applied {
        Ok(warnings) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            tracing::info!("the configuration was read again and is in use");
        }
        Err(error) => tracing::error!(%error, "the configuration was read again and stays as it was"),
    }
}
